"""The output of plain processes: kept with times and streams, bounded, and read as it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from test_process_runtime import make_runtime, make_task

from swarmpy.model.logs import STDERR, STDOUT, LogLine, LogOptions
from swarmpy.model.objects import Task
from swarmpy.runtime.process import ProcessRuntime
from swarmpy.runtime.warden import PART_BYTES, Log


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ProcessRuntime]:
    runtime = make_runtime(tmp_path)
    await runtime.open()
    yield runtime
    await runtime.close()


async def run(runtime: ProcessRuntime, name: str, script: str) -> Task:
    """A Python program, run to its end."""
    task = make_task(name, sys.executable, "-S", "-c", script)
    await runtime.start(task)
    await runtime.wait(task)
    return task


async def read(runtime: ProcessRuntime, task: Task, options: LogOptions = LogOptions()) -> list[LogLine]:  # noqa: B008
    async with asyncio.timeout(20):
        return [line async for line in runtime.logs(task, options)]


async def test_lines_have_a_stream_and_a_time(runtime: ProcessRuntime) -> None:
    """Each its own time, between start and end; what has no newline at the end gets one."""
    before = time.time_ns()
    task = await run(
        runtime,
        "both",
        "import os; os.write(1, b'one\\ntwo\\n'); os.write(2, b'three')",
    )
    lines = await read(runtime, task)
    assert sorted((line.stream, line.data) for line in lines) == [
        (STDOUT, b"one\n"),
        (STDOUT, b"two\n"),
        (STDERR, b"three\n"),
    ]
    times = [line.timestamp_ns for line in lines]
    assert times == sorted(set(times))
    assert before <= times[0]
    assert times[-1] <= time.time_ns()
    only = await read(runtime, task, LogOptions(stdout=False))
    assert [line.data for line in only] == [b"three\n"]


async def test_any_bytes_and_any_length(runtime: ProcessRuntime) -> None:
    """Nothing is lost or changed: neither NUL and broken UTF-8 nor a line of 3 MB, which comes in parts."""
    script = "import os; w = os.fdopen(1, 'wb'); w.write(bytes(range(256)) + b'\\n' + b'x' * 3_000_000 + b'\\n')"
    task = await run(runtime, "bytes", script)
    lines = await read(runtime, task)
    assert b"".join(line.data for line in lines) == bytes(range(256)) + b"\n" + b"x" * 3_000_000 + b"\n"
    assert max(len(line.data) for line in lines) <= PART_BYTES + 1


async def test_tail_and_since(runtime: ProcessRuntime) -> None:
    """The last lines; those from a time on; those after one."""
    task = await run(runtime, "hundred", "for i in range(100): print(i)")
    lines = await read(runtime, task)
    assert [int(line.data) for line in lines] == list(range(100))
    assert await read(runtime, task, LogOptions(tail=3)) == lines[-3:]
    assert await read(runtime, task, LogOptions(tail=0)) == []
    assert await read(runtime, task, LogOptions(tail=1000)) == lines
    assert await read(runtime, task, LogOptions(since_ns=lines[90].timestamp_ns)) == lines[90:]
    assert await read(runtime, task, LogOptions(after_ns=lines[90].timestamp_ns, tail=2)) == lines[91:]


async def test_who_follows_sees_all_to_the_end(runtime: ProcessRuntime) -> None:
    """Lines come while the task runs, and the reader ends with it."""
    script = "import time\nfor i in range(5): print(i, flush=True); time.sleep(0.1)"
    task = make_task("counts", sys.executable, "-S", "-c", script)
    await runtime.start(task)
    seen = []
    async with asyncio.timeout(20), contextlib.aclosing(runtime.logs(task, LogOptions(follow=True))) as lines:
        async for line in lines:
            seen.append(int(line.data))
            if seen == [0]:
                assert (await runtime.list_tasks())[task.id] is not None
    assert seen == [0, 1, 2, 3, 4]


def test_a_reader_goes_on_over_rotations(tmp_path: Path) -> None:
    """Whatever the moment of a rotation: what is still there is read once, in order."""
    path = tmp_path / "output.log"
    log = Log(str(path), 2000)

    async def work() -> list[int]:
        from swarmpy.runtime.process_log import read_log

        over = False
        seen: list[int] = []
        written = 0
        async with contextlib.aclosing(read_log(path, LogOptions(follow=True), lambda: over)) as lines:
            log.take("stdout", b"0\n")
            async for line in lines:
                seen.append(int(line.data))
                for _ in range(7):
                    if written < 700:
                        written += 1
                        log.take("stdout", b"%d\n" % written)
                over = written >= 700
        return seen

    seen = asyncio.run(work())
    assert seen == sorted(set(seen))
    assert seen[-1] == 700
    assert path.stat().st_size <= 2000
    assert Path(f"{path}.1").stat().st_size <= 2000
    log.end()
