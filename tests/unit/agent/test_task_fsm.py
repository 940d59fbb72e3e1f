"""The state machine of one task on its node."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.agent.task_fsm import (
    Action,
    EngineAway,
    Errored,
    Exited,
    Found,
    Interrupted,
    Missing,
    Outcome,
    Prepared,
    Started,
    Step,
    Stopped,
    advance,
)
from swarmpy.model.objects import ContainerStatus, PortStatus, TaskStatus
from swarmpy.model.states import Actor, TaskState, may_advance
from swarmpy.ports import RunningTask, TaskExit

S = TaskState
RUNNING = RunningTask(
    container=ContainerStatus(container_id="c", pid=3),
    ports=(PortStatus(target_port=80, host_address="10.0.0.1", host_port=30000),),
)
NOW = 42


def step(desired: TaskState, state: TaskState, outcome: Outcome | None = None, err: str = "") -> Step:
    """One step of a task in ``state``."""
    container = RUNNING.container if state is S.RUNNING else None
    return advance(desired, TaskStatus(state=state, err=err, message="before", container=container), outcome, NOW)


@pytest.mark.parametrize(
    ("desired", "state", "outcome", "new_state", "action"),
    [
        # on the way up
        (S.RUNNING, S.NEW, None, S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.PENDING, None, S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.ASSIGNED, None, S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.ACCEPTED, None, S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.PREPARING, Prepared(), S.STARTING, Action.START),
        (S.RUNNING, S.READY, None, S.STARTING, Action.START),
        (S.RUNNING, S.STARTING, Started(running=RUNNING), S.RUNNING, Action.WAIT),
        (S.COMPLETE, S.READY, None, S.STARTING, Action.START),
        # where it pauses
        (S.READY, S.ASSIGNED, None, S.PREPARING, Action.PREPARE),
        (S.READY, S.PREPARING, Prepared(), S.READY, None),
        (S.READY, S.READY, None, S.READY, None),
        (S.ACCEPTED, S.ASSIGNED, None, S.ACCEPTED, None),
        (S.ASSIGNED, S.ASSIGNED, None, S.ASSIGNED, None),
        # what is under way is not stopped by a lower wish
        (S.READY, S.STARTING, None, S.STARTING, Action.START),
        (S.READY, S.RUNNING, None, S.RUNNING, Action.WAIT),
        # how it ends
        (S.RUNNING, S.RUNNING, Exited(exit=TaskExit(exit_code=0)), S.COMPLETE, None),
        (S.RUNNING, S.RUNNING, Exited(exit=TaskExit(exit_code=3)), S.FAILED, None),
        (S.RUNNING, S.RUNNING, Exited(exit=TaskExit(exit_code=0, error="unhealthy")), S.FAILED, None),
        (S.SHUTDOWN, S.RUNNING, None, S.RUNNING, Action.STOP),
        (S.SHUTDOWN, S.RUNNING, Interrupted(), S.RUNNING, Action.STOP),
        (S.SHUTDOWN, S.RUNNING, Stopped(), S.SHUTDOWN, None),
        (S.REMOVE, S.ASSIGNED, None, S.ASSIGNED, Action.STOP),
        (S.REMOVE, S.ASSIGNED, Stopped(), S.SHUTDOWN, None),
        (S.SHUTDOWN, S.RUNNING, Exited(exit=TaskExit(exit_code=0)), S.COMPLETE, None),
        (S.SHUTDOWN, S.PREPARING, Prepared(), S.READY, Action.STOP),
        # errors: this node's before STARTING, the task's own from there on
        (S.RUNNING, S.PREPARING, Errored(err="no image"), S.REJECTED, Action.STOP),
        (S.RUNNING, S.STARTING, Errored(err="no command"), S.FAILED, Action.STOP),
        (S.RUNNING, S.RUNNING, Errored(err="lost"), S.FAILED, Action.STOP),
        # an engine that is away changes nothing
        (S.RUNNING, S.PREPARING, EngineAway(action=Action.PREPARE, err="away"), S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.STARTING, EngineAway(action=Action.START, err="away"), S.STARTING, Action.START),
        (S.RUNNING, S.RUNNING, EngineAway(action=Action.WAIT, err="away"), S.RUNNING, Action.WAIT),
        (S.SHUTDOWN, S.RUNNING, EngineAway(action=Action.STOP, err="away"), S.RUNNING, Action.STOP),
        (S.RUNNING, S.FAILED, EngineAway(action=Action.STOP, err="away"), S.FAILED, Action.STOP),
        # a new life of the agent
        (S.RUNNING, S.ASSIGNED, Missing(), S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.PREPARING, Missing(), S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.READY, Missing(), S.FAILED, None),
        (S.RUNNING, S.STARTING, Missing(), S.FAILED, None),
        (S.RUNNING, S.RUNNING, Missing(), S.FAILED, None),
        (S.RUNNING, S.RUNNING, Found(running=RUNNING), S.RUNNING, Action.WAIT),
        (S.RUNNING, S.RUNNING, Found(running=None), S.RUNNING, Action.WAIT),
        (S.RUNNING, S.STARTING, Found(running=RUNNING), S.STARTING, Action.START),
        (S.RUNNING, S.PREPARING, Found(running=None), S.PREPARING, Action.PREPARE),
        (S.RUNNING, S.REJECTED, Found(running=RUNNING), S.REJECTED, Action.STOP),
        (S.RUNNING, S.COMPLETE, Found(running=None), S.COMPLETE, None),
        (S.REMOVE, S.FAILED, None, S.FAILED, None),
    ],
)
def test_table_of_steps(
    desired: TaskState, state: TaskState, outcome: Outcome | None, new_state: TaskState, action: Action | None
) -> None:
    """Each case leads to its state and asks for its action."""
    taken = step(desired, state, outcome)
    assert (taken.status.state, taken.action) == (new_state, action)


def test_running_has_container_and_ports() -> None:
    """A task that runs shows its container and where its ports are."""
    status = step(S.RUNNING, S.STARTING, Started(running=RUNNING)).status
    assert (status.container, status.ports, status.message) == (RUNNING.container, RUNNING.ports, "started")


def test_what_a_runtime_does_not_do_is_said() -> None:
    """In the message, where clients see it."""
    running = attrs.evolve(RUNNING, not_done=("Mounts", "ReadOnly"))
    status = step(S.RUNNING, S.STARTING, Started(running=running)).status
    assert status.message == "started; not done by this runtime: Mounts, ReadOnly"


def test_exit_code_is_told() -> None:
    """A failed task says its exit code, in words and in its container's status, and has no ports any more."""
    status = step(S.RUNNING, S.RUNNING, Exited(exit=TaskExit(exit_code=3))).status
    assert status.err == "task: non-zero exit (3)"
    assert status.container is not None
    assert status.container.exit_code == 3
    assert status.ports == ()


def test_reason_beside_the_exit_code_is_told() -> None:
    """What the runtime knows beside the exit code is part of the error."""
    ended = Exited(exit=TaskExit(exit_code=137, error="unhealthy container"))
    assert step(S.RUNNING, S.RUNNING, ended).status.err == "task: non-zero exit (137): unhealthy container"
    ended = Exited(exit=TaskExit(exit_code=0, error="unhealthy container"))
    assert step(S.RUNNING, S.RUNNING, ended).status.err == "task: unhealthy container"


def test_an_error_keeps_what_was_going_on() -> None:
    """The message of a failed task says what was going on, its error why it ended; of a pull no more than that."""
    status = step(S.RUNNING, S.STARTING, Errored(err="port taken")).status
    assert (status.message, status.err, status.timestamp_ns) == ("before", "port taken", NOW)
    status = step(S.RUNNING, S.PREPARING, Errored(err="no such image")).status
    assert (status.message, status.err, status.timestamp_ns) == ("preparing", "no such image", NOW)


def test_engine_away_is_told_once_and_then_forgotten() -> None:
    """A task that waits for the engine says so; the same reason again is no news; progress clears it."""
    away = EngineAway(action=Action.PREPARE, err="away")
    waiting = step(S.RUNNING, S.PREPARING, away).status
    assert waiting.err == "away"
    assert advance(S.RUNNING, waiting, away, NOW + 1).status is waiting
    assert advance(S.RUNNING, waiting, Prepared(), NOW + 2).status.err == ""


OUTCOMES = st.one_of(
    st.none(),
    st.just(Prepared()),
    st.just(Started(running=RUNNING)),
    st.builds(Exited, exit=st.builds(TaskExit, exit_code=st.integers(0, 2), error=st.sampled_from(["", "unhealthy"]))),
    st.just(Stopped()),
    st.just(Interrupted()),
    st.just(Errored(err="broken")),
    st.builds(EngineAway, action=st.sampled_from(Action), err=st.sampled_from(["away", "gone"])),
    st.just(Found(running=RUNNING)),
    st.just(Found(running=None)),
    st.just(Missing()),
)


@given(events=st.lists(st.tuples(st.sampled_from(S), OUTCOMES), max_size=30), start=st.sampled_from(S))
def test_a_state_only_rises_by_steps_of_an_agent(
    events: list[tuple[TaskState, Outcome | None]], start: TaskState
) -> None:
    """Whatever happens in whatever order, the state rises only along an agent's transitions and ends stay ends."""
    status = TaskStatus(state=start)
    for desired, outcome in events:
        before = status
        status = advance(desired, status, outcome, NOW).status
        if status.state != before.state:
            assert status.state > before.state
            assert before.state < S.ASSIGNED or may_advance(Actor.AGENT, before.state, status.state)
        if before.state.is_terminal:
            assert status is before


def _answer(action: Action, exit_code: int) -> Outcome:
    match action:
        case Action.PREPARE:
            return Prepared()
        case Action.START:
            return Started(running=RUNNING)
        case Action.WAIT:
            return Exited(exit=TaskExit(exit_code=exit_code))
        case Action.STOP:
            return Stopped()


@given(
    noise=st.lists(st.tuples(st.sampled_from([S.READY, S.RUNNING, S.COMPLETE]), OUTCOMES), max_size=10),
    last=st.sampled_from([S.READY, S.RUNNING, S.COMPLETE, S.SHUTDOWN, S.REMOVE]),
    exit_code=st.integers(0, 1),
)
def test_it_ends_where_it_should(
    noise: list[tuple[TaskState, Outcome | None]], last: TaskState, exit_code: int
) -> None:
    """Once the wish stays and the engine does as asked, a task pauses at READY or ends, in a few steps."""
    status = TaskStatus(state=S.ASSIGNED)
    for desired, outcome in noise:
        status = advance(desired, status, outcome, NOW).status
    begun = status.state
    taken = advance(last, status, None, NOW)
    for _ in range(4):
        if taken.action is None:
            break
        taken = advance(last, taken.status, _answer(taken.action, exit_code), NOW)
    assert taken.action is None
    if begun.is_terminal:
        assert taken.status.state is begun
    elif last >= S.SHUTDOWN:
        assert taken.status.state is S.SHUTDOWN
    elif last is S.READY and begun <= S.READY:
        assert taken.status.state is S.READY
    else:
        assert taken.status.state is (S.FAILED if exit_code else S.COMPLETE)
