"""The leader is killed, stopped or cut off: seconds until a survivor has taken a write, and what happens meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from swarmpy.errors import SwarmpyError
from tests.bench.clusters import SLEEPER, leading, quorum_whole, running
from tests.bench.figures import emit, summary

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "soak"))

from namespaces import Namespaces, possible
from network import around

FAULTS = ("kill", "stop", "cut")
WRITE_TIMEOUT_S = 15.0
HEAL_PAUSE_S = 1.0
READS = 20
READ_PAUSE_S = 0.05


async def failover(options: argparse.Namespace) -> None:
    """Again and again: the fault, a write through another manager at once, and everything back to normal.

    At the same moment a write goes to the leader itself, and a read after an election timeout.
    """
    reason = possible() if options.fault == "cut" else ""
    if reason:
        raise SystemExit(f"the leader cannot be cut off here: {reason}")
    taken, clear, names = [], [], set[str]()
    place = _apart if options.fault == "cut" else _together
    async with place(options.managers) as (cluster, network):
        await _set_timing(cluster, options.heartbeat_ms, options.election_ms)
        for number in range(options.runs):
            leader = await leading(cluster)
            other = next(node for node in cluster.managers if node is not leader)
            began = time.monotonic()
            await _strike(options.fault, leader, cluster, network)
            at_leader = asyncio.create_task(_write(leader, f"late-{number}"))
            done = asyncio.Event()
            stale = asyncio.create_task(_read(leader, f"write-{number}", done)) if options.fault == "cut" else None
            outcome, _ = await _write(other, f"write-{number}")
            seconds = time.monotonic() - began
            done.set()
            assert outcome == "done", f"a survivor refused the write: {outcome}"
            names.add(f"write-{number}")
            taken.append(seconds)
            emit(bench="failover", fault=options.fault, run=number + 1, seconds=round(seconds, 3))
            found = {}
            if options.fault != "stop":
                said, took = await at_leader
                clear.append(took)
                names.update({f"late-{number}"} if said == "done" else ())
                found = {"write_at_the_old_leader": said, "after_s": round(took, 3)}
            if stale is not None:
                found["read_at_the_old_leader"] = await stale
            await _heal(options.fault, leader, network)
            if options.fault == "stop":
                await at_leader
            emit(bench="failover", fault=options.fault, run=number + 1, **found)
            await quorum_whole(cluster)
            await asyncio.sleep(HEAL_PAUSE_S)
        there = [s["Spec"]["Name"] for s in await (await leading(cluster)).client.services()]
    assert len(there) == len(set(there)), "a write was applied twice"
    assert names <= set(there), f"lost: {sorted(names - set(there))}"
    more: dict[str, float] = {"heartbeat_ms": options.heartbeat_ms, "election_ms": options.election_ms}
    if clear:
        more["old_leader_answers_within_s"] = round(max(clear), 3)
    summary("failover", taken, fault=options.fault, **more)


async def _set_timing(cluster: LocalCluster, heartbeat_ms: int, election_ms: int) -> None:
    client = (await leading(cluster)).client
    swarm = await client.get("/swarm")
    ticks = {"TickInterval": heartbeat_ms * 1_000_000, "HeartbeatTick": 1, "ElectionTick": election_ms // heartbeat_ms}
    spec = {**swarm["Spec"], "Raft": {**swarm["Spec"]["Raft"], **ticks}}
    await client.post("/swarm/update", spec, query={"version": str(swarm["Version"]["Index"])})


async def _strike(fault: str, leader: LocalNode, cluster: LocalCluster, network: Namespaces | None) -> None:
    if fault == "kill":
        await leader.kill()
    elif fault == "stop":
        leader.send(signal.SIGSTOP)
    else:
        assert network is not None
        network.block(around({leader.name}, [node.name for node in cluster.managers]))


async def _heal(fault: str, leader: LocalNode, network: Namespaces | None) -> None:
    if fault == "kill":
        await leader.start()
    elif fault == "stop":
        leader.send(signal.SIGCONT)
    else:
        assert network is not None
        network.block(set())


async def _write(node: LocalNode, name: str) -> tuple[str, float]:
    """Create a service; what came of it, and after how many seconds."""
    body = {**SLEEPER, "Name": name, "Mode": {"Replicated": {"Replicas": 0}}}
    began = time.monotonic()
    try:
        await node.client.post("/services/create", body, timeout=WRITE_TIMEOUT_S)
    except SwarmpyError as error:
        return f"{error.code}: {error}"[:120], time.monotonic() - began
    return "done", time.monotonic() - began


async def _read(node: LocalNode, written: str, done: asyncio.Event) -> dict[str, int]:
    """List the services on the old leader, again and again for a while: how often it said what.

    Once the write is ``done`` elsewhere, a list without it would be a lie.
    """
    said: Counter[str] = Counter()
    for _ in range(READS):
        is_done = done.is_set()
        try:
            names = {service["Spec"]["Name"] for service in await node.client.services()}
            assert written in names or not is_done, f"{node.name} does not know of {written}, which was acknowledged"
            said["answered"] += 1
        except SwarmpyError as error:
            said[error.code] += 1
        await asyncio.sleep(READ_PAUSE_S)
    return dict(said)


@contextlib.asynccontextmanager
async def _together(managers: int) -> AsyncIterator[tuple[LocalCluster, None]]:
    async with running(managers) as cluster:
        yield cluster, None


@attrs.define(kw_only=True)
class _ApartNode(LocalNode):
    """A daemon in a network namespace."""

    network: Any

    def command(self) -> list[str]:
        """See :meth:`LocalNode.command`."""
        own = super().command()
        own[own.index("--status-addr") + 1] = self.network.addresses(self.name).status
        return list(self.network.command(self.name, own))


@contextlib.asynccontextmanager
async def _apart(managers: int) -> AsyncIterator[tuple[LocalCluster, Namespaces]]:
    """The same, each manager on a host of its own."""
    names = [f"node-{number}" for number in range(1, managers + 1)]
    network = Namespaces(names)
    try:
        await network.open()
        async with running(managers, make=lambda node: _on(network, node)) as cluster:
            yield cluster, network
    finally:
        await network.close()


def _on(network: Namespaces, node: LocalNode) -> LocalNode:
    address = network.addresses(node.name).advertise.rsplit(":", 1)[0]
    return _ApartNode(**{**attrs.asdict(node, recurse=False), "address": address}, network=network)
