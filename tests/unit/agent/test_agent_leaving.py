"""When a node that leaves may go, and what it says of it."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from agent_world import Host, Manager, eventually, make_task, whole

from swarmpy.agent.leaving import MOVE_S, NO_MANAGER_S, Leaving, Verdict, default_timeout, what_is_lost
from swarmpy.model.assignments import AssignmentUpdate, Departure, ServiceLeft, SessionMessage
from swarmpy.model.states import TaskState

EMPTY = Departure(begun=True)
HELD = Departure(begun=True, left=2, services=(ServiceLeft(service="web", left=2),))


def verdict(at: float, *told: Departure | None, in_session: bool = True, running: int = 0) -> Verdict:
    """Of a node that began at 0 with a session, and may wait for ten seconds."""
    leaving = Leaving(0.0, 10.0)
    for departure in told:
        leaving.heard(departure)
    return leaving.verdict(at, in_session=in_session, running=running)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (verdict(0), Verdict.WAIT),
        (verdict(1, EMPTY), Verdict.EMPTY),
        # What it has stopped the leader may not know yet, and the other way round.
        (verdict(1, EMPTY, running=1), Verdict.WAIT),
        (verdict(1, HELD), Verdict.WAIT),
        # Before it is written down, it may be given another one.
        (verdict(1, attrs.evolve(EMPTY, begun=False)), Verdict.WAIT),
        (verdict(10, HELD, running=2), Verdict.LATE),
        (verdict(10, EMPTY), Verdict.EMPTY),
        # Leaders of a version that says nothing, the last one counts.
        (verdict(1, None, running=1), Verdict.NOT_UNDERSTOOD),
        (verdict(1, None), Verdict.EMPTY),
        (verdict(1, None, HELD, running=2), Verdict.WAIT),
        (verdict(NO_MANAGER_S - 0.1, HELD, in_session=False, running=1), Verdict.WAIT),
        (verdict(NO_MANAGER_S, HELD, in_session=False, running=1), Verdict.NO_MANAGER),
        (verdict(0, in_session=False), Verdict.EMPTY),
    ],
)
def test_verdict(found: Verdict, expected: Verdict) -> None:
    """It waits while there is something to wait for."""
    assert found is expected


def test_a_leader_that_is_elected_meanwhile_is_waited_for() -> None:
    """Seconds without a session count from the last one on. Who hurries waits for nothing."""
    leaving = Leaving(0.0, 100.0)
    assert leaving.verdict(20.0, in_session=True, running=1) is Verdict.WAIT
    assert leaving.verdict(20.0 + NO_MANAGER_S - 0.1, in_session=False, running=1) is Verdict.WAIT
    assert leaving.verdict(20.0 + NO_MANAGER_S, in_session=False, running=1) is Verdict.NO_MANAGER
    leaving.hurried = True
    assert leaving.verdict(20.0, in_session=True, running=1) is Verdict.HURRIED


def test_default_timeout_is_by_the_longest_grace_period() -> None:
    """Of the tasks that have not ended."""
    task = make_task("a", state=TaskState.RUNNING)
    container = attrs.evolve(task.spec.container, stop_grace_period_ns=60 * 10**9)
    patient = attrs.evolve(task, spec=attrs.evolve(task.spec, container=container))
    ended = attrs.evolve(patient, status=attrs.evolve(patient.status, state=TaskState.SHUTDOWN))
    assert default_timeout(()) == MOVE_S
    assert default_timeout((task, ended)) == MOVE_S + 10
    assert default_timeout((task, patient)) == MOVE_S + 60


def test_what_is_lost() -> None:
    """Nothing, where all has moved; else why it goes, and what the services miss."""
    assert what_is_lost(Verdict.EMPTY, EMPTY, 0) == ()
    assert what_is_lost(Verdict.EMPTY, None, 0) == ()
    no_place = ServiceLeft(service="db", missing=1, reasons=("pending: no suitable node (1 node drained)",))
    assert what_is_lost(Verdict.EMPTY, Departure(begun=True, services=(no_place,)), 0) == (
        "db: 1 not running elsewhere: pending: no suitable node (1 node drained)",
    )
    bounded = ServiceLeft(service="web", left=2, missing=1, reasons=("waits: web may miss at most 1 task",))
    assert what_is_lost(Verdict.LATE, Departure(begun=True, left=2, services=(bounded,)), 2) == (
        "2 tasks are stopped where requests may still be on their way: its tasks have had their time to move",
        "web: 2 still on this node, 1 not running elsewhere: waits: web may miss at most 1 task",
    )


async def test_an_agent_says_that_it_leaves_until_it_stays() -> None:
    """The leader hears it in the next heartbeat; when the tasks have stopped the agent is told to go."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(make_task("a")))
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: "a" in manager.states and manager.states["a"].state is TaskState.RUNNING)
        manager.departure = attrs.evolve(HELD, left=1)
        leaving = asyncio.create_task(agent.move_away())
        await eventually(lambda: manager.beats and manager.beats[-1].leaving)
        await eventually(lambda: agent.leaving is not None and agent.leaving.departure == manager.departure)
        assert not leaving.done()
        stopped = make_task("a", desired=TaskState.SHUTDOWN)
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, tasks=(stopped,)))
        await eventually(lambda: manager.states["a"].state is TaskState.SHUTDOWN)
        assert not leaving.done(), "the leader has something of it yet"
        manager.departure = EMPTY
        assert await leaving is Verdict.EMPTY
        agent.stay()
        await eventually(lambda: not manager.beats[-1].leaving)


async def test_a_node_that_is_to_stay_is_waited_for_no_more() -> None:
    """Also while somebody waits for its tasks."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(make_task("a")))
    manager.departure = attrs.evolve(HELD, left=1)
    async with Host(manager).run() as agent:
        await eventually(lambda: "a" in manager.states and manager.states["a"].state is TaskState.RUNNING)
        leaving = asyncio.create_task(agent.move_away())
        await eventually(lambda: manager.beats and manager.beats[-1].leaving)
        agent.stay()
        assert await leaving is Verdict.RECALLED
        await eventually(lambda: not manager.beats[-1].leaving)


async def test_a_leader_of_a_version_before_is_not_waited_for() -> None:
    """Its answers to heartbeats say nothing of leaving."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(make_task("a")))
    async with Host(manager).run() as agent:
        await eventually(lambda: "a" in manager.states and manager.states["a"].state is TaskState.RUNNING)
        assert await agent.move_away() is Verdict.NOT_UNDERSTOOD
