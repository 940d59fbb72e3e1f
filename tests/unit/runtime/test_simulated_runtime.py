"""The simulated runtime, on a real loop with short times."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from secret_tasks import content, needs, secret, task_with

from swarmpy.errors import RuntimeUnavailable, TaskFailed, TaskRejected
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, PortConfig, TaskSpec
from swarmpy.ports import Runtime, TaskExit
from swarmpy.runtime.simulated import Behaviour, SimulatedRuntime

MS = 1_000_000


def make_task(image: str, name: str = "t", ports: tuple[PortConfig, ...] = ()) -> Task:
    container = ContainerSpec(image=image, stop_grace_period_ns=30 * MS)
    return Task(id=TaskId(name), spec=TaskSpec(container=container), service_id=ServiceId("s"), slot=1, ports=ports)


def make_runtime(**options: Any) -> SimulatedRuntime:
    return SimulatedRuntime(
        node_id=NodeId("n"), node_address="10.0.0.1", hostname="h", random=random.Random(5), **options
    )


async def test_a_task_runs_until_it_is_stopped() -> None:
    """An ordinary image runs, is listed, and ends when it is asked to."""
    runtime: Runtime = make_runtime()
    task = make_task("nginx:1", ports=(PortConfig(target_port=80, published_port=8080),))
    await runtime.open()
    await runtime.prepare(task)
    assert await runtime.list_tasks() == {task.id: None}
    running = await runtime.start(task)
    assert (running.ports[0].host_address, running.ports[0].published_port) == ("10.0.0.1", 8080)
    assert await runtime.start(task) == running
    assert await runtime.list_tasks() == {task.id: running}
    waiting = asyncio.create_task(runtime.wait(task))
    await runtime.stop(task)
    assert await waiting == TaskExit(exit_code=143)
    assert await runtime.list_tasks() == {task.id: None}
    await runtime.remove(task.id)
    assert await runtime.list_tasks() == {}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("exit-after:10ms", TaskExit(exit_code=0)),
        ("crash-after:0.01s", TaskExit(exit_code=1)),
        ("unhealthy-after:10ms", TaskExit(exit_code=143, error="unhealthy container")),
    ],
)
async def test_images_that_end(image: str, expected: TaskExit) -> None:
    """The image says when and how a task ends, also if nobody waits for it."""
    runtime = make_runtime()
    task = make_task(image)
    await runtime.start(task)
    assert runtime.running_tasks() == (task.id,)
    assert await asyncio.wait_for(runtime.wait(task), 5) == expected
    assert runtime.running_tasks() == ()


async def test_images_that_do_not_start() -> None:
    """The image says where a task fails."""
    runtime = make_runtime()
    with pytest.raises(TaskRejected, match="fail-to-prepare"):
        await runtime.prepare(make_task("fail-to-prepare"))
    with pytest.raises(TaskFailed):
        await runtime.start(make_task("fail-to-start"))
    with pytest.raises(TaskFailed, match="unhealthy container"):
        await runtime.start(make_task("never-healthy:1ms"))


async def test_chance_decides_by_probability() -> None:
    """With probability one everything fails."""
    with pytest.raises(TaskRejected):
        await make_runtime(behaviour=Behaviour(prepare_failure=1)).prepare(make_task("a"))
    with pytest.raises(TaskFailed):
        await make_runtime(behaviour=Behaviour(start_failure=1)).start(make_task("a"))
    runtime = make_runtime(behaviour=Behaviour(crash=1, crash_seconds=(0, 0.01)))
    task = make_task("a")
    await runtime.start(task)
    assert (await asyncio.wait_for(runtime.wait(task), 5)).exit_code == 1


async def test_a_stubborn_task_is_killed_after_its_grace_period() -> None:
    """ignores-stop lives for its whole grace period and then reports 137."""
    runtime = make_runtime()
    task = make_task("ignores-stop")
    await runtime.start(task)
    started = asyncio.get_running_loop().time()
    await runtime.stop(task)
    assert asyncio.get_running_loop().time() - started >= 0.029
    assert await runtime.wait(task) == TaskExit(exit_code=137)


async def test_an_engine_that_is_away_answers_nothing_but_its_tasks_run_on() -> None:
    """Calls raise RuntimeUnavailable; afterwards the tasks are still there to be adopted."""
    runtime = make_runtime()
    task = make_task("a")
    running = await runtime.start(task)
    waiting = asyncio.create_task(runtime.wait(task))
    runtime.set_away(True)
    for call in (runtime.open(), runtime.list_tasks(), runtime.stop(task), runtime.remove(task.id)):
        with pytest.raises(RuntimeUnavailable):
            await call
    runtime.set_away(False)
    assert await runtime.list_tasks() == {task.id: running}
    runtime.power_off()
    assert await waiting == TaskExit(exit_code=137)


async def test_what_has_ended_stays_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a clock that is behind again, as a simulated one may be after a restart."""
    runtime = make_runtime()
    task = make_task("exit-after:10ms")
    await runtime.start(task)
    assert await runtime.wait(task) == TaskExit(exit_code=0)
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patched:
        now = loop.time()
        patched.setattr(loop, "time", lambda: now - 60)
        still_running = runtime.running_tasks()
    assert still_running == ()


# -- secrets ----------------------------------------------------------------------------------------------------------

GIVEN = needs({"s": content("{{.Task.Slot}}", "golang")})


def with_secret(image: str = "nginx") -> Task:
    return task_with(secret("s"), image=image, stop_grace_period_ns=30 * MS)


async def test_files_are_there_while_their_task_is() -> None:
    """Expanded as on a real machine; gone when the task is stopped, removed, or was waited for."""
    runtime, task = make_runtime(), with_secret()
    for end in ("stop", "remove", "wait"):
        await runtime.prepare(task, GIVEN)
        await runtime.start(task)
        assert [file.data for file in runtime.files()[task.id]] == [b"3"]
        if end == "stop":
            await runtime.stop(task)
        elif end == "wait":
            runtime.crash(task.id)
            await runtime.wait(task)
        else:
            await runtime.remove(task.id)
        assert runtime.files() == {}
        await runtime.remove(task.id)


async def test_without_its_secrets_nothing_is_prepared() -> None:
    """They come from a manager."""
    with pytest.raises(TaskRejected, match="secret s: its data is not at hand"):
        await make_runtime().prepare(with_secret())


async def test_files_survive_a_daemon_but_not_the_machine() -> None:
    """What ended while no daemon was there is cleared away by the next one."""
    runtime, task = make_runtime(), with_secret()
    await runtime.prepare(task, GIVEN)
    await runtime.start(task)
    await runtime.open()
    assert set(runtime.files()) == {task.id}
    runtime.crash(task.id)
    await runtime.open()
    assert runtime.files() == {}
    await runtime.remove(task.id)
    await runtime.prepare(task, GIVEN)
    runtime.power_off()
    assert runtime.files() == {}
    with pytest.raises(TaskRejected, match="not at hand"):
        await runtime.start(task)
    await runtime.prepare(task, GIVEN)
    assert set(runtime.files()) == {task.id}
