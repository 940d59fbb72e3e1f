"""Clusters of hosted daemons."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import attrs

from swarmpy.cli.local_cluster import STATUS_PORT, LocalCluster, LocalNode

WORKLOAD_TIMEOUT_S = 600.0


@attrs.define(kw_only=True)
class HostedNode(LocalNode):
    """A daemon that can be told to do a workload."""

    def command(self) -> list[str]:
        """See :meth:`LocalNode.command`."""
        arguments = [str(self.data_dir), "--hostname", self.name, "--status-addr", f"{self.address}:{STATUS_PORT}"]
        return [sys.executable, "-m", "tests.bench.hosted", *arguments]

    async def do(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Do a workload there, and wait for what it found."""
        async with asyncio.timeout(WORKLOAD_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(self.data_dir / "bench.sock", limit=1 << 24)
            writer.write(json.dumps({"do": name, **arguments}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await reader.readline())
            writer.close()
            await writer.wait_closed()
        if "error" in answer:
            raise SystemExit(f"{self.name}: {name}: {answer['error']}")
        return answer


def hosted(cluster: LocalCluster) -> LocalCluster:
    """The same cluster, of hosted daemons."""
    cluster.nodes = [HostedNode(**attrs.asdict(node, recurse=False)) for node in cluster.nodes]
    return cluster
