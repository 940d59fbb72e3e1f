"""How long changes of a service take: with swarmpy, with Docker Swarm, and the least that the engine itself takes.

Docker Swarm has an engine of its own, of the same version. What counts is when the engine has started, killed or
removed the last container, as its events say.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from swarmpy.cli.local_cluster import LocalCluster
from tests.bench.engines import Api, Engine, Json, running_engine
from tests.bench.figures import emit

IMAGE = "swarmpy-test:latest"
SECOND = 1_000_000_000
DEAF = ["sleep", "100000"]
"""As the first process of a container it ignores TERM."""
POLITE = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
TO_REMOVE = ((DEAF, 1), (POLITE, 10))
MEASURED = ("deploy", "update", "remove", "remove_polite")
"""``update``: two at a time, stop-first. ``remove``: of one task that ignores TERM for a second; polite: that ends."""
Series = dict[str, list[float]]
AT_ONCE = 8
"""Containers that are made side by side where the engine itself is asked."""


class Server:
    """One that takes services, and the engine that it uses."""

    def __init__(self, api: Api, engine: Engine) -> None:
        self.api = api
        self.engine = engine

    async def deploy(
        self, command: list[str], replicas: int, grace_s: float, parallelism: int = 0
    ) -> tuple[str, float]:
        """A service, and the seconds until its last container has started."""
        body = {
            "Name": "beside",
            "TaskTemplate": {"ContainerSpec": container(command, grace_s)},
            "Mode": {"Replicated": {"Replicas": replicas}},
            "UpdateConfig": {"Parallelism": parallelism, "Order": "stop-first", "Monitor": SECOND // 10},
        }
        began = time.time()
        created = await self.api.ask("POST", "services/create", body)
        return created["ID"], await self.engine.until(replicas, "start", began) - began

    async def update(self, service: str, replicas: int) -> float:
        """Replace every task; the seconds until the last old one is gone and the last new one has started."""
        while not await self._runs(service, replicas):
            await asyncio.sleep(0.05)
        current = await self.api.ask("GET", f"services/{service}")
        spec = current["Spec"]
        spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1
        began = time.time()
        await self.api.ask("POST", f"services/{service}/update", spec, version=str(current["Version"]["Index"]))
        ends = await asyncio.gather(
            self.engine.until(replicas, "die", began), self.engine.until(replicas, "start", began)
        )
        return max(ends) - began

    async def _runs(self, service: str, replicas: int) -> bool:
        query = {"filters": json.dumps({"service": [service], "desired-state": ["running"]})}
        tasks = await self.api.ask("GET", "tasks", **query)
        return sum(task["Status"]["State"] == "running" for task in tasks) == replicas

    async def remove(self, service: str, replicas: int) -> float:
        """The seconds until the engine has removed the last container."""
        began = time.time()
        await self.api.ask("DELETE", f"services/{service}")
        took = await self.engine.until(replicas, "destroy", began) - began
        await self.engine.empty()
        while await self.api.ask("GET", "tasks"):
            await asyncio.sleep(0.05)
        return took


def container(command: list[str], grace_s: float) -> Json:
    """As a service's specification has it."""
    return {"Image": IMAGE, "Command": command, "StopGracePeriod": int(grace_s * SECOND)}


async def beside(options: argparse.Namespace) -> None:
    """Everything once for warmth, and then ``runs`` times; the ratios are those of the medians.

    The engine alone and swarmpy take turns on one engine: the machine's speed may change meanwhile.
    """
    if shutil.which("dockerd") is None:
        print("bench: no dockerd on this machine: nothing to compare with", file=sys.stderr)
        return
    floor, ours, theirs = _series(), _series(), _series()
    async with running_engine() as engine, _swarmpy(engine) as server:
        for run in range(options.runs + 1):
            _note(floor, await _floor(engine, options), is_warm=run > 0)
            _note(ours, await _measure(server, options), is_warm=run > 0)
    async with running_engine() as engine:
        await engine.api.ask("POST", "swarm/init", {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"})
        for run in range(options.runs + 1):
            _note(theirs, await _measure(Server(engine.api, engine), options), is_warm=run > 0)
    medians = {name: _tell(name, took) for name, took in (("engine", floor), ("swarmpy", ours), ("swarm", theirs))}
    for what in MEASURED:
        engine_s, swarmpy_s, swarm_s = (medians[name][what] for name in ("engine", "swarmpy", "swarm"))
        emit(
            bench="swarm",
            what=what,
            swarmpy_to_swarm=round(swarmpy_s / swarm_s, 2),
            swarmpy_to_engine=round(swarmpy_s / engine_s, 2),
            swarm_to_engine=round(swarm_s / engine_s, 2),
        )


@contextlib.asynccontextmanager
async def _swarmpy(engine: Engine) -> AsyncIterator[Server]:
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-bench-"))
    cluster = LocalCluster(directory, managers=1, workers=0, runtime="docker")
    cluster.nodes[0].environment = {"DOCKER_HOST": f"unix://{engine.socket}"}
    try:
        await cluster.start_daemons()
        await cluster.form()
        api = Api(cluster.nodes[0].data_dir / "swarmpy.sock")
        try:
            yield Server(api, engine)
        finally:
            await api.close()
    finally:
        await cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def _measure(server: Server, options: argparse.Namespace) -> list[float]:
    service, deployed = await server.deploy(DEAF, options.replicas, options.grace_s, parallelism=2)
    updated = await server.update(service, options.replicas)
    await server.remove(service, options.replicas)
    removed = []
    for command, grace_s in TO_REMOVE:
        service, _ = await server.deploy(command, 1, grace_s)
        removed.append(await server.remove(service, 1))
    return [deployed, updated, *removed]


async def _floor(engine: Engine, options: argparse.Namespace) -> list[float]:
    """The same containers, made, replaced and removed by the engine itself, with nobody to decide anything."""
    began = time.time()
    made = await _make(engine, DEAF, options.replicas, options.grace_s)
    deployed = await engine.until(options.replicas, "start", began) - began
    began = time.time()
    for start in range(0, len(made), 2):
        pair = made[start : start + 2]
        new, _ = await asyncio.gather(
            asyncio.gather(*(_create(engine, DEAF, options.grace_s) for _ in pair)),
            asyncio.gather(*(_stop(engine, old, options.grace_s) for old in pair)),
        )
        await asyncio.gather(*(engine.api.ask("POST", f"containers/{each}/start") for each in new))
    updated = time.time() - began
    await engine.clear()
    await engine.empty()
    removed = []
    for command, grace_s in TO_REMOVE:
        (one,) = await _make(engine, command, 1, grace_s)
        began = time.time()
        await _stop(engine, one, grace_s)
        await engine.api.ask("DELETE", f"containers/{one}")
        removed.append(time.time() - began)
        await engine.empty()
    return [deployed, updated, *removed]


def _series() -> Series:
    return {what: [] for what in MEASURED}


def _note(took: Series, seconds: list[float], *, is_warm: bool) -> None:
    if is_warm:
        for what, each in zip(MEASURED, seconds, strict=True):
            took[what].append(each)


async def _make(engine: Engine, command: list[str], count: int, grace_s: float) -> list[str]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> str:
        async with room:
            made = await _create(engine, command, grace_s)
            await engine.api.ask("POST", f"containers/{made}/start")
            return made

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _create(engine: Engine, command: list[str], grace_s: float) -> str:
    body = {"Image": IMAGE, "Entrypoint": command, "StopTimeout": int(grace_s)}
    return str((await engine.api.ask("POST", "containers/create", body))["Id"])


async def _stop(engine: Engine, container_id: str, grace_s: float) -> None:
    await engine.api.ask("POST", f"containers/{container_id}/stop", t=str(int(grace_s)))


def _tell(name: str, took: Series) -> dict[str, float]:
    medians = {what: statistics.median(seconds) for what, seconds in took.items()}
    for what, seconds in took.items():
        emit(
            bench="swarm",
            server=name,
            what=what,
            runs=len(seconds),
            median_s=round(medians[what], 3),
            min_s=round(min(seconds), 3),
            max_s=round(max(seconds), 3),
        )
    return medians
