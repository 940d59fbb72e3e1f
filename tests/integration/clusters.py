"""Looking into a cluster of real daemons from a test."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from swarmpy.errors import SwarmpyError
from swarmpy.model.ids import NodeId
from swarmpy.runtime.memory_files import MemoryFiles

ClusterMaker = Callable[..., Awaitable[LocalCluster]]
SLEEP = {"Image": "none:latest", "Args": ["sleep", "100000"], "StopGracePeriod": 1_000_000_000}


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout: float = 30) -> None:
    """Wait for a condition of the cluster, which has no event for an outsider. Errors of the API are 'not yet'."""
    deadline = time.monotonic() + timeout
    last: Any = None
    while True:
        try:
            if await condition():
                return
        except SwarmpyError as error:
            last = error
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what} ({last})"
        await asyncio.sleep(0.05)


def service_body(name: str, replicas: int, **more: Any) -> dict[str, Any]:
    """A service of processes that sleep."""
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": SLEEP, **more},
        "Mode": {"Replicated": {"Replicas": replicas}},
    }


async def running_tasks(node: LocalNode, service: str) -> list[dict[str, Any]]:
    """Tasks of the service that run and are meant to run."""
    query = {"filters": json.dumps({"service": [service], "desired-state": ["running"]})}
    return [t for t in await node.client.get("/tasks", query=query) if t["Status"]["State"] == "running"]


async def runs(node: LocalNode, service: str, replicas: int) -> bool:
    """True when exactly that many tasks run."""
    return len(await running_tasks(node, service)) == replicas


async def leader_of(cluster: LocalCluster) -> LocalNode:
    """The leader's process."""
    found: list[LocalNode] = []

    async def known() -> bool:
        for node in cluster.managers:
            if node.is_running and (leader := (await node.client.status()).get("leader")):
                found[:] = [m for m in cluster.managers if m.cluster_address == leader["address"] and m.is_running]
                return bool(found)
        return False

    await until(known, "a leader")
    return found[0]


async def forget_files(directory: Path) -> None:
    """Clear away what nodes below ``directory`` have in memory: those that were killed leave it to their next start."""
    for node in _nodes_below(directory):
        await MemoryFiles(node).sweep(())


def _nodes_below(directory: Path) -> list[NodeId]:
    return [NodeId(json.loads(file.read_text())["node_id"]) for file in directory.rglob("node.json")]


async def node_id(node: LocalNode) -> str:
    """The id of a node in its cluster."""
    return str((await node.client.info())["Swarm"]["NodeID"])
