"""What a manager hears of a task that is being prepared: on a virtual clock, with the simulated runtime."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import attrs
from agent_world import make_task
from clock import SimClock
from loop import SimLoop, run

from swarmpy.agent import task_fsm as fsm
from swarmpy.agent.backoff import Backoff
from swarmpy.agent.dependencies import DependencyKeeper
from swarmpy.agent.task_manager import PROGRESS_PERIOD_S, TaskManager
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.specs import ContainerSpec, TaskSpec
from swarmpy.model.states import TaskState
from swarmpy.ports import Progress
from swarmpy.runtime.simulated import SimulatedRuntime

S = TaskState
Scenario = Callable[[TaskManager, list[tuple[float, TaskStatus]]], Awaitable[None]]


def played(image: str, scenario: Scenario) -> list[tuple[float, TaskStatus]]:
    """What was observed of a task with that image, and when."""
    observed: list[tuple[float, TaskStatus]] = []

    async def main(loop: SimLoop) -> None:
        runtime = SimulatedRuntime(node_id=NodeId("n"), node_address="10.0.0.1", hostname="h", random=random.Random(1))
        await runtime.open()
        dependencies = DependencyKeeper()
        manager = TaskManager(
            attrs.evolve(make_task("t"), spec=TaskSpec(container=ContainerSpec(image=image))),
            runtime=runtime,
            clock=SimClock(loop),
            backoff=Backoff(random.Random(1), first=0.25, most=10.0),
            prepares=asyncio.Semaphore(8),
            dependencies=dependencies,
            observed=lambda manager: observed.append((loop.now, manager.status)),
        )
        running = asyncio.create_task(manager.run(fsm.Missing()))
        try:
            await scenario(manager, observed)
        finally:
            running.cancel()
            await asyncio.wait({running})

    run(1, main)
    return observed


async def until_it_runs(manager: TaskManager, _: list[tuple[float, TaskStatus]]) -> None:
    """Wait until the task runs."""
    while manager.status.state is not S.RUNNING:
        await asyncio.sleep(0.5)


def test_a_long_pull_is_told_now_and_then() -> None:
    """Every five seconds, though there is news each second; the state stays, and so does the time of its beginning."""
    told = [(at, status) for at, status in played("slow-pull:23s", until_it_runs) if status.state is S.PREPARING]
    assert [status.message.split(": ")[-1] for _, status in told] == [
        "preparing",
        *(f"{n} of 23 MB" for n in (5, 10, 15, 20)),
    ]
    assert len({status.timestamp_ns for _, status in told}) == 1


def test_a_short_pull_is_not_told() -> None:
    """A quiet cluster is quiet."""
    told = played("slow-pull:4s", until_it_runs)
    assert {status.message for _, status in told if status.state is S.PREPARING} == {"preparing"}


def test_trouble_is_told_at_once_and_once() -> None:
    """Also that it is over; what was told of a pull is not the last word on a task that could not be prepared."""

    async def scenario(manager: TaskManager, observed: list[tuple[float, TaskStatus]]) -> None:
        await asyncio.sleep(1.5)
        before = len(observed)
        trouble = Progress(message="preparing", err="the registry does not answer")
        for progress in (trouble, trouble, Progress(message="pulling"), Progress(message="pulling: 1 MB")):
            manager._progressed(progress)
        assert [(status.message, status.err) for _, status in observed[before:]] == [
            ("preparing", trouble.err),
            ("pulling", ""),
        ]
        await asyncio.sleep(PROGRESS_PERIOD_S)

    played("slow-pull:30s", scenario)
    failed = fsm.advance(
        S.RUNNING, TaskStatus(state=S.PREPARING, message="pulling: 1 of 2 MB"), fsm.Errored(err="No such image"), 7
    ).status
    assert (failed.state, failed.message, failed.err) == (S.REJECTED, "preparing", "No such image")


def test_only_what_is_prepared_makes_progress() -> None:
    """A word that comes late, when the task runs already, changes nothing."""
    status = TaskStatus(state=S.RUNNING, message="started")
    assert fsm.progressed(status, Progress(message="pulling")) == status
