"""Clients that ask through all nodes of a cluster on a real engine while everything changes: how many are not answered.

And a machine that dies: from when on new connections through the other nodes are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from tests.bench.figures import emit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "load"))

from docker_clusters import OWNER, ClusterMaker, making_clusters
from images import PRIVATE_TAG, SOCKET, ensure_images
from load_clients import Broken, Connection, Load
from load_course import Course, in_container, leader_of, service

PORT = 18495
REPLICAS = 6
PROBES_S = 6.0
"""How long a machine is watched that has died: until it is taken for dead, and some more."""
PROBE_EVERY_S = 0.02
PROBE_TIMEOUT_S = 10.0


async def load(options: argparse.Namespace) -> None:
    """Change after change until there were as many requests, with a line for each; then a machine dies."""
    await ensure_images()
    connector = aiohttp.UnixConnector(SOCKET)
    async with aiohttp.ClientSession("http://docker/v1.41/", connector=connector) as engine, _clusters(engine) as make:
        cluster = (await make(3, 2, ports=(PORT,), heartbeat_s=1)).local
        seen = Load([node.address for node in cluster.nodes], PORT)
        course = Course(cluster, seen)
        await course.begin(service(in_container(PRIVATE_TAG), REPLICAS, PORT))
        async with seen.clients(options.clients):
            for change in itertools.cycle(_CHANGES):
                before, forgiven = seen.answered.total(), seen.forgiven.copy()
                leader = await leader_of(cluster)
                follower, course.operator = (manager for manager in cluster.managers if manager is not leader)
                await change(course, cluster, leader, follower)
                what, seconds = list(course.seconds.items())[-1]
                course.seconds.clear()
                emit(
                    bench="load",
                    what=what,
                    seconds=seconds,
                    answered=seen.answered.total() - before,
                    worst_ms=round(seen.worst_s.pop(what, 0.0) * 1e3),
                    forgiven=dict(seen.forgiven - forgiven),
                    failed=len(seen.failures),
                )
                if seen.answered.total() >= options.requests:
                    break
        emit(bench="load", **{**seen.summary(), "failures": seen.failures[:20]})
        course.operator = cluster.managers[0]
        await _machine_dies(course, cluster.workers[0], cluster, engine)


@asynccontextmanager
async def _clusters(engine: aiohttp.ClientSession) -> AsyncIterator[ClusterMaker]:
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-bench-"))
    try:
        async with making_clusters(directory, engine) as make:
            yield make
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _start_first(course: Course, *_: Any) -> None:
    await course.update("start-first")


async def _stop_first(course: Course, *_: Any) -> None:
    await course.update("stop-first")


async def _up(course: Course, *_: Any) -> None:
    await course.scale(REPLICAS + 4)


async def _down(course: Course, *_: Any) -> None:
    await course.scale(REPLICAS)


async def _drain(course: Course, cluster: LocalCluster, *_: Any) -> None:
    await course.drain(cluster.workers[0])


async def _restart(course: Course, _: LocalCluster, __: LocalNode, follower: LocalNode) -> None:
    await course.restart(follower)


async def _restart_leader(course: Course, _: LocalCluster, leader: LocalNode, __: LocalNode) -> None:
    await course.restart(leader)


async def _kill_leader(course: Course, _: LocalCluster, leader: LocalNode, __: LocalNode) -> None:
    await course.kill(leader)


async def _kill_leader_in_update(course: Course, _: LocalCluster, leader: LocalNode, __: LocalNode) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(course.update("start-first"))
        group.create_task(course.kill(leader))


_CHANGES = (
    _start_first,
    _stop_first,
    _up,
    _down,
    _drain,
    _restart,
    _kill_leader,
    _restart_leader,
    _kill_leader_in_update,
)


async def _machine_dies(
    course: Course, victim: LocalNode, cluster: LocalCluster, engine: aiohttp.ClientSession
) -> None:
    """New connections only, through the nodes that live; from the moment on when its death begins."""

    async def kill_containers(node_id: str) -> None:
        filters = json.dumps({"label": [f"{OWNER}={node_id}"]})
        async with engine.get("containers/json", params={"filters": filters}) as response:
            found = await response.json()
        await asyncio.gather(*(kill(container["Id"]) for container in found))

    async def kill(container: str) -> None:
        async with engine.post(f"containers/{container}/kill"):
            pass

    others = [node.address for node in cluster.nodes if node is not victim]
    failed: list[tuple[float, str]] = []
    took: list[float] = []

    async def probe(address: str) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                connection = await Connection.to(address, PORT)
                await connection.ask(0, keep=False)
                await connection.close()
        except (Broken, TimeoutError) as error:
            failed.append((began, str(error)))
        else:
            took.append(time.monotonic() - began)

    dead_at = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(course.die(victim, kill_containers))
        while time.monotonic() < dead_at + PROBES_S:
            for address in others:
                group.create_task(probe(address))
            await asyncio.sleep(PROBE_EVERY_S)
    emit(
        bench="load",
        what="a machine dies",
        new_connections=len(took) + len(failed),
        failed=len(failed),
        all_answered_after_s=round(max((at - dead_at for at, _ in failed), default=0.0), 3),
        worst_ms=round(max(took) * 1e3),
        reasons=sorted({reason for _, reason in failed}),
    )
