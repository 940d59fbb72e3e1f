"""What one committed write costs, layer by layer, on the leader and on a follower."""

from __future__ import annotations

import argparse
import asyncio

from tests.bench.clusters import HostedNode, follower_of, leader_of, running
from tests.bench.figures import emit
from tests.bench.http_load import creations

CLIENTS = 32
MARGIN_S = 1.0


async def cost(options: argparse.Namespace) -> None:
    """Microseconds of processor time for each write: at the store, then through the HTTP API."""
    async with running(options.managers) as cluster:
        leader, follower = await leader_of(cluster), await follower_of(cluster)
        for what in ("store", "api"):
            load = asyncio.create_task(_load(what, leader, options.seconds + 2 * MARGIN_S))
            await asyncio.sleep(MARGIN_S)
            first = (await leader.client.raft_status())["commit"]
            at_leader, at_follower = await asyncio.gather(
                leader.do("attributed", seconds=options.seconds), follower.do("attributed", seconds=options.seconds)
            )
            # A machine that stood still for so short a time has written nothing.
            writes = max(1, (await leader.client.raft_status())["commit"] - first)
            await load
            for role, found in (("leader", at_leader), ("follower", at_follower)):
                costs = {layer: round(seconds / writes * 1e6, 1) for layer, seconds in found.items()}
                emit(bench="cost", what=what, role=role, us_per_write=costs, total_us=round(sum(costs.values())))


async def _load(what: str, leader: HostedNode, seconds: float) -> None:
    if what == "store":
        await leader.do("updates", clients=CLIENTS, seconds=seconds)
    else:
        await creations(leader.data_dir / "swarmpy.sock", clients=CLIENTS, seconds=seconds, prefix="cost")
