"""A worker killed with -9: seconds until its tasks run elsewhere."""

from __future__ import annotations

import argparse
import functools
import json
import time

from swarmpy.cli.local_cluster import LocalNode
from tests.bench.clusters import SLEEPER, running, until
from tests.bench.figures import emit, summary


async def worker(options: argparse.Namespace) -> None:
    """Kill a worker that runs tasks; wait until as many run elsewhere; bring it back; again with a new service."""
    async with running(options.managers, options.workers or 2) as cluster:
        manager = cluster.managers[0]
        replicas = 2 * len(cluster.nodes)
        seconds = []
        for number in range(options.runs):
            name = f"sleeper-{number}"
            body = {**SLEEPER, "Name": name, "Mode": {"Replicated": {"Replicas": replicas}}}
            await manager.client.post("/services/create", body)
            await until(functools.partial(_all_run, manager, name, replicas), 60)
            victim = cluster.workers[number % len(cluster.workers)]
            victim_id = (await victim.client.info())["Swarm"]["NodeID"]
            lost = [t for t, n in (await _running_on(manager, name)).items() if n == victim_id]
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


async def _running_on(node: LocalNode, service: str) -> dict[str, str]:
    """Task id -> node id of the service's running tasks that are meant to run."""
    query = {"filters": json.dumps({"service": [service], "desired-state": ["running"]})}
    tasks = await node.client.get("/tasks", query=query)
    return {t["ID"]: t["NodeID"] for t in tasks if t["Status"]["State"] == "running"}


async def _state_ready(manager: LocalNode, node_id: str) -> bool:
    return bool((await manager.client.node(node_id))["Status"]["State"] == "ready")


async def _all_elsewhere(manager: LocalNode, service: str, victim_id: str, replicas: int) -> bool:
    tasks = await _running_on(manager, service)
    return sum(1 for n in tasks.values() if n != victim_id) >= replicas


async def _all_run(manager: LocalNode, service: str, replicas: int) -> bool:
    return len(await _running_on(manager, service)) == replicas


async def _no_tasks(manager: LocalNode) -> bool:
    return not await manager.client.tasks()
