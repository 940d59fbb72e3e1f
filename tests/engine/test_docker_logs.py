"""The logs of containers, from a real engine."""

from __future__ import annotations

import asyncio

import attrs
from test_docker_runtime import make_task

from swarmpy.model.logs import STDERR, STDOUT, LogOptions
from swarmpy.model.specs import LogDriver
from swarmpy.runtime.docker import DockerRuntime


async def test_a_container_is_read_to_its_end(docker_runtime: DockerRuntime) -> None:
    """Followed while it runs; then by stream, by number and by time."""
    task = make_task("sh", "-c", "echo one; sleep 1; echo two >&2; echo three")
    await docker_runtime.prepare(task)
    await docker_runtime.start(task)
    async with asyncio.timeout(60):
        lines = [line async for line in docker_runtime.logs(task, LogOptions(follow=True))]
    assert sorted((line.stream, line.data) for line in lines) == [
        (STDOUT, b"one\n"),
        (STDOUT, b"three\n"),
        (STDERR, b"two\n"),
    ]
    assert {line.details for line in lines} == {b""}
    first = next(line for line in lines if line.data == b"one\n")
    errors = [line.data async for line in docker_runtime.logs(task, LogOptions(stdout=False))]
    assert errors == [b"two\n"]
    last = [line async for line in docker_runtime.logs(task, LogOptions(tail=1))]
    assert last == lines[-1:]
    later = [line async for line in docker_runtime.logs(task, LogOptions(after_ns=first.timestamp_ns))]
    assert sorted(line.data for line in later) == [b"three\n", b"two\n"]


async def test_what_the_log_driver_adds_comes_with_each_line(docker_runtime: DockerRuntime) -> None:
    """Picked of labels and environment; only for those who ask."""
    task = make_task("echo", "hi", env=("A=1 2",), labels={"x": "q,z"})
    driver = LogDriver(name="json-file", options={"labels": "x", "env": "A"})
    task = attrs.evolve(task, spec=attrs.evolve(task.spec, log_driver=driver))
    await docker_runtime.prepare(task)
    await docker_runtime.start(task)
    async with asyncio.timeout(60):
        asked = LogOptions(follow=True, details=True)
        assert [(line.data, line.details) async for line in docker_runtime.logs(task, asked)] == [
            (b"hi\n", b"A=1+2,x=q%2Cz")
        ]
        plain = [(line.data, line.details) async for line in docker_runtime.logs(task, LogOptions())]
    assert plain == [(b"hi\n", b"")]
