"""Writes and reads a second: many clients, three managers, TLS between them, every write on their disks."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.bench.clusters import HostedNode, follower_of, leader_of, running
from tests.bench.figures import distribution, emit
from tests.bench.http_load import creations

WARM_UP_S = 1.0


async def writes(options: argparse.Namespace) -> None:
    """The leader's store: one client, 32, 128; and 32 that may not share a commit."""
    async with running(options.managers) as cluster:
        leader = await leader_of(cluster)
        await leader.do("updates", clients=32, seconds=WARM_UP_S)
        rates = {}
        for clients, is_alone in ((1, False), (32, True), (32, False), (128, False)):
            found = await leader.do("updates", clients=clients, seconds=options.seconds, is_alone=is_alone)
            rates[clients, is_alone] = found["per_s"]
            emit(bench="writes", one_at_a_time=is_alone, **found)
        emit(bench="writes", group_commit_gain=round(rates[32, False] / rates[32, True], 1))


async def api(options: argparse.Namespace) -> None:
    """``POST /services/create`` with no replicas."""
    async with running(options.managers) as cluster:
        leader, follower = await leader_of(cluster), await follower_of(cluster)
        nodes = [node for node in cluster.managers if isinstance(node, HostedNode)]
        await creations(leader.data_dir / "swarmpy.sock", clients=32, seconds=WARM_UP_S, prefix="warm")
        for clients, node, through in ((1, leader, "leader"), (32, leader, "leader"), (32, follower, "follower")):
            before = [other.cpu_s for other in nodes]
            found, took = await creations(
                _socket(node), clients=clients, seconds=options.seconds, prefix=f"{through}-{clients}"
            )
            used = {
                ("leader" if other is leader else "asked" if other is node else "other"): other.cpu_s - was
                for other, was in zip(nodes, before, strict=True)
            }
            emit(
                bench="api",
                clients=clients,
                through=through,
                per_s=round(len(found) / took),
                **distribution(found),
                cpu_us={role: round(seconds / len(found) * 1e6) for role, seconds in used.items()},
            )


async def reads(options: argparse.Namespace) -> None:
    """Read-index on a follower, then a look at its store."""
    async with running(options.managers) as cluster:
        follower = await follower_of(cluster)
        for clients in (1, 32, 256):
            emit(bench="reads", **await follower.do("reads", clients=clients, seconds=options.seconds))


def _socket(node: HostedNode) -> Path:
    return node.data_dir / "swarmpy.sock"
