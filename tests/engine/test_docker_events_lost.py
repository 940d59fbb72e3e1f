"""An event stream that breaks, or falls silent without breaking: what happens to containers is noticed all the same."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from docker_clusters import until
from engine_proxy import EngineProxy
from images import PRIVATE_TAG

from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, Healthcheck, TaskSpec
from swarmpy.runtime import docker_events
from swarmpy.runtime.docker import DockerRuntime

SECOND = 1_000_000_000


def make_task(script: str = "sleep 600", **fields: Any) -> Task:
    """A task that runs a script."""
    container = ContainerSpec(
        image=PRIVATE_TAG, args=("sh", "-c", script), stop_grace_period_ns=SECOND // 100, **fields
    )
    return Task(
        id=TaskId(os.urandom(13).hex()[:25]),
        spec=TaskSpec(container=container),
        service_id=ServiceId("s" * 25),
        service_name="web",
        slot=1,
    )


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[EngineProxy]:
    """Between the runtime and its engine."""
    proxy = EngineProxy(tmp_path / "proxy.sock")
    await proxy.open()
    yield proxy
    await proxy.cut()


@pytest.fixture
async def far_runtime(
    docker_runtime: DockerRuntime, proxy: EngineProxy, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DockerRuntime]:
    """The same node's runtime, by way of the proxy; it checks a silent stream soon."""
    monkeypatch.setattr(docker_events, "SILENCE_SECONDS", 0.3)
    runtime = DockerRuntime(
        node_id=docker_runtime._node.id, node_address="127.0.0.1", hostname="host1", url=f"unix://{proxy.path}"
    )
    await runtime.open()
    await until(lambda: _has(proxy, 1), "the stream is open")
    yield runtime
    await runtime.close()


async def _has(proxy: EngineProxy, streams: int) -> bool:
    return proxy.streams >= streams


async def killed(engine: aiohttp.ClientSession, task: Task) -> None:
    """End a container behind the runtime's back."""
    async with engine.post(f"containers/{task.name}/kill") as response:
        assert response.status == 204


async def test_a_stream_that_is_closed_is_opened_again(
    far_runtime: DockerRuntime, proxy: EngineProxy, engine_api: aiohttp.ClientSession
) -> None:
    """What ended in the gap is noticed, and what ends after it."""
    tasks = [make_task(), make_task()]
    for task in tasks:
        await far_runtime.prepare(task)
        await far_runtime.start(task)
    waits = [asyncio.create_task(far_runtime.wait(task)) for task in tasks]
    proxy.cut_events()
    await killed(engine_api, tasks[0])
    assert (await asyncio.wait_for(waits[0], 20)).exit_code == 137
    await until(lambda: _has(proxy, 2), "the stream is open again")
    await killed(engine_api, tasks[1])
    assert (await asyncio.wait_for(waits[1], 20)).exit_code == 137


async def test_a_stream_that_carries_nothing_any_more_is_not_trusted(
    far_runtime: DockerRuntime, proxy: EngineProxy, engine_api: aiohttp.ClientSession
) -> None:
    """Ends and health are seen in lists; then the stream is opened anew. One that is silent for good reason is kept."""
    quiet, dies = make_task(), make_task()
    check = Healthcheck(test=("CMD-SHELL", "test -e /go"), interval_ns=SECOND // 5, retries=100)
    heals = make_task("sleep 1; touch /go; sleep 600", healthcheck=check)
    for task in (quiet, dies, heals):
        await far_runtime.prepare(task)
    await far_runtime.start(quiet)
    await far_runtime.start(dies)
    waits = [asyncio.create_task(far_runtime.wait(task)) for task in (quiet, dies)]
    proxy.mute_events()
    await asyncio.wait_for(far_runtime.start(heals), 20)
    await until(lambda: _has(proxy, 2), "another stream is open")
    proxy.mute_events()
    await killed(engine_api, dies)
    assert (await asyncio.wait_for(waits[1], 20)).exit_code == 137
    await until(lambda: _has(proxy, 3), "a third stream is open")
    assert not waits[0].done()
    await killed(engine_api, quiet)
    assert (await asyncio.wait_for(waits[0], 20)).exit_code == 137
