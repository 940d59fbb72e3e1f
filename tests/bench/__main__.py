"""``python -m tests.bench NAME``: measurements of real processes on this machine, one JSON object a line.

failover     leader killed with -9: seconds until a write through another manager succeeds
worker       worker killed with -9: seconds until its tasks run elsewhere
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from swarmpy.errors import SwarmpyError

SLEEPER = {
    "TaskTemplate": {
        "ContainerSpec": {"Image": "none:latest", "Args": ["sleep", "100000"], "StopGracePeriod": 1_000_000_000}
    }
}


def emit(**values: Any) -> None:
    """One result."""
    print(json.dumps(values), flush=True)


def summary(name: str, seconds: list[float], **more: Any) -> None:
    """Median, least and most of a series."""
    emit(
        bench=name,
        runs=len(seconds),
        median_s=round(statistics.median(seconds), 3),
        min_s=round(min(seconds), 3),
        max_s=round(max(seconds), 3),
        **more,
    )


async def leader_of(cluster: LocalCluster) -> LocalNode:
    """The node that leads, as a living manager says, once there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for node in cluster.managers:
            if not node.is_running:
                continue
            status = await node.client.status()
            leader = status.get("leader")
            if leader:
                for candidate in cluster.managers:
                    if candidate.cluster_address == leader["address"] and candidate.is_running:
                        return candidate
        await asyncio.sleep(0.05)
    raise SystemExit("no leader within 30 s")


async def quorum_whole(cluster: LocalCluster) -> None:
    """Wait until every manager is reachable again."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            quorum = (await (await leader_of(cluster)).client.status())["quorum"]
            if quorum and quorum["reachable"] == len(cluster.managers):
                return
        except SwarmpyError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the managers did not come back within 60 s")


async def failover(cluster: LocalCluster, runs: int) -> None:
    """Kill the leader; at once write through another manager; bring the killed one back; again."""
    seconds = []
    for number in range(runs):
        leader = await leader_of(cluster)
        other = next(node for node in cluster.managers if node is not leader)
        body = {**SLEEPER, "Name": f"write-{number}", "Mode": {"Replicated": {"Replicas": 0}}}
        began = time.monotonic()
        await leader.kill()
        await other.client.post("/services/create", body, timeout=15)
        seconds.append(time.monotonic() - began)
        emit(bench="failover", run=number + 1, seconds=round(seconds[-1], 3))
        await leader.start()
        await quorum_whole(cluster)
    summary("failover", seconds)


async def running_on(node: LocalNode, service: str) -> dict[str, str]:
    """Task id -> node id of the service's running tasks that are meant to run."""
    query = {"filters": json.dumps({"service": [service], "desired-state": ["running"]})}
    tasks = await node.client.get("/tasks", query=query)
    return {t["ID"]: t["NodeID"] for t in tasks if t["Status"]["State"] == "running"}


async def worker(cluster: LocalCluster, runs: int) -> None:
    """Kill a worker that runs tasks; wait until as many run elsewhere; bring it back; again with a new service."""
    manager = cluster.managers[0]
    replicas = 2 * len(cluster.nodes)
    seconds = []
    for number in range(runs):
        name = f"sleeper-{number}"
        body = {**SLEEPER, "Name": name, "Mode": {"Replicated": {"Replicas": replicas}}}
        await manager.client.post("/services/create", body)
        await until(functools.partial(_all_run, manager, name, replicas), 60)
        victim = cluster.workers[number % len(cluster.workers)]
        victim_id = (await victim.client.info())["Swarm"]["NodeID"]
        lost = [t for t, n in (await running_on(manager, name)).items() if n == victim_id]
        began = time.monotonic()
        await victim.kill()
        await until(functools.partial(_all_elsewhere, manager, name, victim_id, replicas), 60)
        seconds.append(time.monotonic() - began)
        emit(bench="worker", run=number + 1, tasks_lost=len(lost), seconds=round(seconds[-1], 3))
        await victim.start()
        await until(functools.partial(_state_ready, manager, victim_id), 30)
        await manager.client.remove_service(name)
        await until(functools.partial(_no_tasks, manager), 60)
    summary("worker", seconds)


async def _state_ready(manager: LocalNode, node_id: str) -> bool:
    return (await manager.client.node(node_id))["Status"]["State"] == "ready"


async def _all_elsewhere(manager: LocalNode, service: str, victim_id: str, replicas: int) -> bool:
    tasks = await running_on(manager, service)
    return sum(1 for n in tasks.values() if n != victim_id) >= replicas


async def _all_run(manager: LocalNode, service: str, replicas: int) -> bool:
    return len(await running_on(manager, service)) == replicas


async def _no_tasks(manager: LocalNode) -> bool:
    return not await manager.client.tasks()


async def until(condition: Callable[[], Awaitable[bool]], timeout: float) -> None:
    """Poll a condition of the cluster, which has no event for an outsider."""
    deadline = time.monotonic() + timeout
    while not await condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{condition} did not come true within {timeout:g} s")
        await asyncio.sleep(0.02)


BENCHES = {"failover": failover, "worker": worker}


async def run(name: str, runs: int, managers: int, workers: int) -> None:
    """One bench on a cluster of its own."""
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-bench-"))
    cluster = LocalCluster(directory, managers=managers, workers=workers, runtime="process")
    try:
        await cluster.start_daemons()
        await cluster.form()
        await BENCHES[name](cluster, runs)
    finally:
        await cluster.dissolve()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHES))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--managers", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    try:
        asyncio.run(run(options.name, options.runs, options.managers, options.workers))
    except SwarmpyError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
