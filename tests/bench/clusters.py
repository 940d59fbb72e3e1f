"""Clusters of real daemons that are measured, and what is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs

from swarmpy.cli.local_cluster import STATUS_PORT, LocalCluster, LocalNode
from swarmpy.errors import SwarmpyError

WORKLOAD_TIMEOUT_S = 600.0
POLL_S = 0.02
SLEEPER = {
    "TaskTemplate": {
        "ContainerSpec": {"Image": "none:latest", "Args": ["sleep", "100000"], "StopGracePeriod": 1_000_000_000}
    }
}


@attrs.define(kw_only=True)
class HostedNode(LocalNode):
    """A daemon that can be told to do a workload in its own event loop."""

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

    @property
    def cpu_s(self) -> float:
        """Processor seconds that its process has used."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Memory of its process."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def hosted(node: LocalNode) -> LocalNode:
    """The same node, to be told to do workloads."""
    return HostedNode(**attrs.asdict(node, recurse=False))


@contextlib.asynccontextmanager
async def running(
    managers: int, workers: int = 0, *, make: Callable[[LocalNode], LocalNode] = hosted
) -> AsyncIterator[LocalCluster]:
    """A cluster of real daemons, each with TLS and a log on this machine's disk; gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-bench-"))
    cluster = LocalCluster(directory, managers=managers, workers=workers, runtime="process")
    cluster.nodes = [make(node) for node in cluster.nodes]
    try:
        await cluster.start_daemons()
        await cluster.form()
        await quorum_whole(cluster)
        yield cluster
    finally:
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        await cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def leading(cluster: LocalCluster) -> LocalNode:
    """The node that leads, as a living manager says, once there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for node in cluster.managers:
            with contextlib.suppress(SwarmpyError):
                leader = (await node.client.status()).get("leader") if node.is_running else None
                for candidate in cluster.managers if leader else ():
                    if candidate.cluster_address == leader["address"] and candidate.is_running:
                        return candidate
        await asyncio.sleep(POLL_S)
    raise SystemExit("no leader within 30 s")


async def leader_of(cluster: LocalCluster) -> HostedNode:
    """The same, of hosted daemons."""
    leader = await leading(cluster)
    assert isinstance(leader, HostedNode)
    return leader


async def follower_of(cluster: LocalCluster) -> HostedNode:
    """A manager that does not lead."""
    leader = await leader_of(cluster)
    other = next(node for node in cluster.managers if node is not leader)
    assert isinstance(other, HostedNode)
    return other


async def quorum_whole(cluster: LocalCluster) -> None:
    """Wait until every manager has a vote and is reachable."""

    async def is_whole() -> bool:
        with contextlib.suppress(SwarmpyError):
            quorum = (await (await leading(cluster)).client.status())["quorum"]
            return bool(quorum) and quorum["reachable"] == len(cluster.managers)
        return False

    await until(is_whole, 60)


async def until(condition: Callable[[], Awaitable[bool]], timeout: float) -> None:
    """Poll a condition of the cluster, which has no event for an outsider."""
    deadline = time.monotonic() + timeout
    while not await condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{condition} did not come true within {timeout:g} s")
        await asyncio.sleep(POLL_S)
