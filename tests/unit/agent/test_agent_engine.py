"""What an agent makes of an engine that goes away and comes back."""

from __future__ import annotations

import re

import pytest
from agent_world import Container, Engine, Host, Manager, eventually, make_task, whole

from swarmpy.agent import engine_watch
from swarmpy.model.assignments import AssignmentUpdate, SessionMessage
from swarmpy.model.ids import TaskId
from swarmpy.model.states import TaskState

A, B, STRANGER = TaskId("a"), TaskId("b"), TaskId("stranger")


@pytest.fixture(autouse=True)
def _short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RETRY_FIRST_S", 0.01), ("RETRY_MOST_S", 0.02), ("DESCRIBE_PERIOD_S", 0.01)):
        monkeypatch.setattr(engine_watch, name, seconds)


def state_at(manager: Manager, name: str) -> TaskState | None:
    """The state of a task as the manager knows it."""
    status = manager.states.get(name)
    return status.state if status else None


def host_of(*names: str) -> tuple[Host, Manager, Engine]:
    """A host whose manager assigns tasks of these names."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(*map(make_task, names)))
    host = Host(manager)
    assert isinstance(host.engine, Engine)
    return host, manager, host.engine


async def test_it_is_told_since_when() -> None:
    """In the node's problems, for as long as it lasts; the time is that of the first question without an answer."""
    host, manager, engine = host_of("a")
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "a") is TaskState.RUNNING)
        engine.away = True
        await eventually(agent.problems)
        (said,) = agent.problems()
        assert re.fullmatch(r"the simulated engine does not answer since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ: .*away", said)
        await eventually(lambda: any(said in beat.problems for beat in manager.beats))
        assert agent.problems() == (said,)
        assert state_at(manager, "a") is TaskState.RUNNING
        engine.away = False
        await eventually(lambda: not agent.problems())


async def test_what_it_did_late_is_undone() -> None:
    """An engine that was away has started what has ended meanwhile, and made what is of no task: neither stays."""
    host, manager, engine = host_of("a", "b")
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "b") is TaskState.RUNNING)
        engine.end("a", 1)
        await eventually(lambda: state_at(manager, "a") is TaskState.FAILED)
        engine.away = True
        await eventually(agent.problems)
        engine.containers[A] = Container(running=True)
        engine.containers[STRANGER] = Container(running=True)
        engine.away = False
        await eventually(lambda: not engine.containers[A].running)
        await eventually(lambda: STRANGER not in engine.containers)
        assert engine.containers[B].running
        assert state_at(manager, "a") is TaskState.FAILED
        # It goes as any other.
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, removed=(A,)))
        await eventually(lambda: A not in engine.containers)


async def test_it_is_looked_at_for_a_while() -> None:
    """What it was asked before may take it some time."""
    host, manager, engine = host_of("a")
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "a") is TaskState.RUNNING)
        engine.away = True
        await eventually(agent.problems)
        engine.away = False
        await eventually(lambda: not agent.problems())
        engine.containers[STRANGER] = Container()
        await eventually(lambda: STRANGER not in engine.containers)


async def test_an_engine_that_was_never_away_is_not_suspected() -> None:
    """Only a manager's word on all tasks is a reason to remove a container otherwise."""
    host, manager, engine = host_of("a")
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is TaskState.RUNNING)
        engine.containers[STRANGER] = Container()
        beats = len(manager.beats)
        await eventually(lambda: len(manager.beats) >= beats + 3)
        assert STRANGER in engine.containers


async def test_a_hint_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That an engine has died is known before it would be asked next."""
    monkeypatch.setattr(engine_watch, "DESCRIBE_PERIOD_S", 60.0)
    host, manager, engine = host_of("a")
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "a") is TaskState.RUNNING)
        engine.away = True
        engine.disturbed.set()
        await eventually(agent.problems)
