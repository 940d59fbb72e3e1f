"""What a quiet cluster uses: processor, memory, and whether anything is written."""

from __future__ import annotations

import argparse
import asyncio
import time

from tests.bench.clusters import HostedNode, leader_of, running
from tests.bench.figures import emit

SETTLE_S = 8.0
"""Until what the joining of the nodes brought about is done with."""


async def idle(options: argparse.Namespace) -> None:
    """Three managers and five workers with nothing to do."""
    async with running(options.managers, options.workers or 5) as cluster:
        await asyncio.sleep(SETTLE_S)
        leader = await leader_of(cluster)
        nodes = [node for node in cluster.nodes if isinstance(node, HostedNode)]
        index = (await leader.client.raft_status())["last_index"]
        began, before = time.monotonic(), [node.cpu_s for node in nodes]
        await asyncio.sleep(options.seconds)
        after, took = [node.cpu_s for node in nodes], time.monotonic() - began
        written = (await leader.client.raft_status())["last_index"] - index
        for node, was, now in zip(nodes, before, after, strict=True):
            role = "leader" if node is leader else "follower" if node.is_manager else "worker"
            emit(
                bench="idle",
                node=node.name,
                role=role,
                cpu_percent=round(100 * (now - was) / took, 2),
                resident_mb=round(node.resident_bytes / 1e6, 1),
            )
        emit(bench="idle", seconds=round(took, 1), log_entries_written=written)
