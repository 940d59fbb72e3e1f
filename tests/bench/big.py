"""A state with many tasks: is the leader's loop held while it snapshots and while a manager catches up?"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator

from swarmpy.cli.local_cluster import LocalCluster
from tests.bench.clusters import HostedNode, follower_of, leader_of, quorum_whole, running, until
from tests.bench.figures import emit

LISTEN_S = 5.0
CATCH_UP_TIMEOUT_S = 120.0
PER_SERVICE = 100
DUE_ENTRIES = 100
"""After so many entries the snapshot is due that is measured."""


async def big(options: argparse.Namespace) -> None:
    """Fill the store, then: nothing, a snapshot, a manager that lost its log, a manager that restarts."""
    async with running(options.managers) as cluster:
        leader, follower = await leader_of(cluster), await follower_of(cluster)
        await _set_snapshot_interval(leader, 1_000_000)
        filled = await leader.do("fill", services=options.tasks // PER_SERVICE, tasks=PER_SERVICE)
        emit(bench="big", tasks=options.tasks, **filled, leader_resident_mb=round(leader.resident_bytes / 1e6))
        term = await _term(leader)

        emit(bench="big", while_="nothing happens", **await leader.do("listen", seconds=LISTEN_S))
        await _snapshot(leader)
        await _catch_up(cluster, leader, follower)
        await quorum_whole(cluster)
        await _restart(leader, follower)
        emit(bench="big", elections=await _term(leader) - term, leads_still=(await leader_of(cluster)) is leader)


@contextlib.asynccontextmanager
async def _listening(leader: HostedNode, what: str) -> AsyncIterator[dict[str, object]]:
    """Tell how late the leader's loop was while the block ran, and what it puts into the dictionary."""
    began = time.monotonic()
    task = asyncio.create_task(leader.do("listen"))
    found: dict[str, object] = {}
    try:
        yield found
    except BaseException:
        task.cancel()
        await asyncio.wait([task])
        raise
    await leader.do("enough")
    emit(bench="big", while_=what, seconds=round(time.monotonic() - began, 2), **await task, **found)


async def _snapshot(leader: HostedNode) -> None:
    """Have it take one, by writing until it is due."""
    before = await leader.client.raft_status()
    await _set_snapshot_interval(leader, DUE_ENTRIES)

    async def is_due() -> bool:
        # On a busy machine a second is not enough for so many.
        await leader.do("updates", clients=1, seconds=1.0)
        return bool((await leader.client.raft_status())["commit"] > before["commit"] + DUE_ENTRIES)

    async def is_taken() -> bool:
        return bool((await leader.client.raft_status())["snapshot"]["index"] > before["snapshot"]["index"])

    async with _listening(leader, "the leader takes a snapshot"):
        await until(is_due, CATCH_UP_TIMEOUT_S)
        await until(is_taken, CATCH_UP_TIMEOUT_S)
    await _set_snapshot_interval(leader, 1_000_000)


async def _catch_up(cluster: LocalCluster, leader: HostedNode, follower: HostedNode) -> None:
    await follower.kill()
    shutil.rmtree(follower.data_dir / "raft")
    (follower.data_dir / "raft.mark").unlink()
    old = {member["raft_id"] for member in (await leader.client.raft_status())["members"]}

    async def is_there() -> bool:
        members = (await leader.client.raft_status())["members"]
        return len(members) == len(cluster.managers) and any(
            member["raft_id"] not in old and member["role"] == "voter" for member in members
        )

    async with _listening(leader, "a follower catches up from a snapshot"):
        await follower.start()
        await until(is_there, CATCH_UP_TIMEOUT_S)


async def _restart(leader: HostedNode, follower: HostedNode) -> None:
    await follower.kill()
    target = (await leader.client.raft_status())["commit"]

    async def has_all() -> bool:
        status = (await follower.client.status())["raft"]
        return bool(status and status["applied"] >= target)

    async with _listening(leader, "a follower restarts") as found:
        await follower.start()
        await until(has_all, CATCH_UP_TIMEOUT_S)
        found["follower_resident_mb"] = round(follower.resident_bytes / 1e6)


async def _term(leader: HostedNode) -> int:
    return int((await leader.client.raft_status())["term"])


async def _set_snapshot_interval(node: HostedNode, entries: int) -> None:
    swarm = await node.client.get("/swarm")
    spec = swarm["Spec"]
    spec["Raft"]["SnapshotInterval"] = entries
    await node.client.post("/swarm/update", spec, query={"version": str(swarm["Version"]["Index"])})
