"""Secrets and configs of plain processes, with real ones."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from secret_tasks import PLANTED, config, content, needs, secret, task_with
from structlog.testing import capture_logs

from swarmpy.errors import TaskRejected
from swarmpy.model.dependencies import Dependencies
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.runtime.memory_files import SHARED_MEMORY, Base, MemoryFiles
from swarmpy.runtime.process import ProcessRuntime

LOOK = (
    'cd "$SWARMPY_SECRETS_DIR" && cat s sub/t && stat -c "%a %n" . s sub/t; cd "$SWARMPY_CONFIGS_DIR" && cat app.conf'
)
GIVEN = needs(
    {"s": content(f"{PLANTED}\n"), "t": content("slot {{.Task.Slot}} on {{.Node.Hostname}}\n", "golang")},
    {"c": content("x={{env `X`}}\n", "golang")},
)


class Machine:
    """What outlives a runtime: the disk, and the memory."""

    def __init__(self, directory: Path) -> None:
        self.disk = directory
        self.memory = Base(path=SHARED_MEMORY / f"swarmpy-test-{uuid.uuid4().hex}")

    def runtime(self) -> ProcessRuntime:
        """A new one, as of a daemon that starts."""
        return ProcessRuntime(
            node_id=NodeId("node1"),
            node_address="127.0.0.1",
            hostname="host1",
            directory=self.disk / "tasks",
            files=MemoryFiles(NodeId("node1"), [self.memory]),
        )

    def files(self) -> list[str]:
        """All files in memory."""
        return sorted(str(path.relative_to(self.memory.path)) for path in self.memory.path.rglob("*") if path.is_file())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    subprocess.run(["rm", "-rf", "--", machine.memory.path], check=True)


@pytest.fixture
async def runtime(machine: Machine) -> AsyncIterator[ProcessRuntime]:
    runtime = machine.runtime()
    await runtime.open()
    yield runtime
    await runtime.close()
    assert not machine.memory.path.exists()


def shell(script: str, *, task_id: str = "task1") -> Task:
    """A task that has a secret, a templated one and a config."""
    return task_with(
        secret("s", mode=0o400),
        secret("t", "sub/t"),
        config("c", "/etc/app/app.conf"),
        task_id=task_id,
        command=("/bin/sh", "-c", script),
        env=("X=y",),
    )


async def test_a_process_finds_its_files(runtime: ProcessRuntime, machine: Machine) -> None:
    """By two variables; each with its mode, expanded for this task; gone when it has ended."""
    task = shell(LOOK)
    await runtime.prepare(task, GIVEN)
    root = f"node1/{task.id}"
    assert machine.files() == [f"{root}/configs/app.conf", f"{root}/secrets/s", f"{root}/secrets/sub/t"]
    await runtime.start(task)
    assert (await runtime.wait(task)).exit_code == 0
    lines = runtime.log_path(task.id).read_text().splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == [
        PLANTED,
        "slot 3 on host1",
        "700 .",
        "400 s",
        "444 sub/t",
        "x=y",
    ]
    assert machine.files() == []


async def test_who_has_none_has_no_variable_for_them(runtime: ProcessRuntime) -> None:
    """Nothing is made for most tasks."""
    task = task_with(command=("/bin/sh", "-c", "env"))
    await runtime.start(task)
    await runtime.wait(task)
    assert "SWARMPY_SECRETS_DIR" not in runtime.log_path(task.id).read_text()


async def test_a_task_that_is_stopped_keeps_nothing(runtime: ProcessRuntime, machine: Machine) -> None:
    """Whether it runs, was only prepared, or crashed."""
    running, prepared = shell("exec sleep 600"), shell("exec sleep 600", task_id="task2")
    for task in (running, prepared):
        await runtime.prepare(task, GIVEN)
    await runtime.start(running)
    await runtime.stop(running)
    assert {name.split("/")[1] for name in machine.files()} == {"task2"}
    await runtime.stop(prepared)
    assert machine.files() == []


async def test_a_task_that_is_removed_keeps_nothing(runtime: ProcessRuntime, machine: Machine) -> None:
    """Though nobody has stopped it."""
    task = shell("exec sleep 600")
    await runtime.prepare(task, GIVEN)
    await runtime.start(task)
    await runtime.remove(task.id)
    assert machine.files() == []


async def test_the_end_of_the_runtime_is_the_end_of_them(machine: Machine) -> None:
    """Its tasks end with it."""
    runtime = machine.runtime()
    await runtime.open()
    task = shell("exec sleep 600")
    await runtime.prepare(task, GIVEN)
    await runtime.start(task)
    await runtime.close()
    assert not machine.memory.path.exists()


async def test_what_an_earlier_life_left_is_swept_away(machine: Machine, runtime: ProcessRuntime) -> None:
    """After a kill -9 the tasks are gone, and nothing of theirs may stay."""
    await runtime.prepare(shell("exec sleep 600"), GIVEN)
    assert machine.files()
    again = machine.runtime()
    await again.open()
    assert machine.files() == []
    await again.close()


@pytest.mark.parametrize("given", [Dependencies(), needs({"s": content("{{.Nope}}" + PLANTED, "golang")})])
async def test_a_task_that_cannot_be_given_them_is_rejected(
    runtime: ProcessRuntime, machine: Machine, given: Dependencies
) -> None:
    """Before anything is started, with a reason that tells nothing of the data."""
    task = task_with(secret("s"), command=("/bin/true",))
    with pytest.raises(TaskRejected, match="secret s: ") as caught:
        await runtime.prepare(task, given)
    assert PLANTED not in str(caught.value)
    assert not machine.memory.path.exists() or machine.files() == []


async def test_large_templates_hold_nobody_up(runtime: ProcessRuntime) -> None:
    """A node that expands megabytes of them still says that it lives."""
    names = [f"c{number}" for number in range(5)]
    task = task_with(*(config(name) for name in names), command=("/bin/true",))
    template = content("{{.Task.ID}}" * 80_000, "golang")
    preparing = asyncio.create_task(runtime.prepare(task, needs({}, dict.fromkeys(names, template))))
    loop, gaps, last = asyncio.get_running_loop(), [0.0], asyncio.get_running_loop().time()
    while not preparing.done():
        await asyncio.sleep(0.01)
        gaps.append(loop.time() - last)
        last = loop.time()
    await preparing
    assert len(gaps) > 20
    assert max(gaps) < 1


async def test_the_word_is_nowhere_else(runtime: ProcessRuntime, machine: Machine, tmp_path: Path) -> None:
    """Not in the task's environment or arguments, on the disk, nor in a line of the log."""
    task = shell("exec sleep 600")
    with capture_logs() as logs:
        await runtime.prepare(task, GIVEN)
        running = await runtime.start(task)
        process = Path(f"/proc/{running.container.pid}")
        async with asyncio.timeout(10):
            while b"SWARMPY_SECRETS_DIR=" not in (told := (process / "environ").read_bytes()):
                await asyncio.sleep(0.01)  # it is being made
        told += (process / "cmdline").read_bytes()
        assert PLANTED.encode() not in told
        found = await asyncio.to_thread(
            subprocess.run, ["grep", "-rl", PLANTED, str(tmp_path)], capture_output=True, check=False
        )
        assert found.stdout == b""
        await runtime.stop(task)
    assert PLANTED not in str(logs)
    assert PLANTED not in repr((running, task, GIVEN))
