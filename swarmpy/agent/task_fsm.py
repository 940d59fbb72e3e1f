"""How one task advances on its node: from what is wanted and what happened to what is observed and what to do next.

Pure: no clock, no runtime, no loop. :func:`advance` is called again and again with what the last action did::

    ASSIGNED -> ACCEPTED -> PREPARING -> READY -> STARTING -> RUNNING -> COMPLETE | FAILED | SHUTDOWN
                            [prepare]             [start]     [wait]     [stop]

- The observed state only ever rises.
- ASSIGNED, ACCEPTED and READY are left only while more is desired: a replacement waits in READY for its restart delay.
- Desired SHUTDOWN or more: stop whatever there is, then SHUTDOWN.
- An error before STARTING is REJECTED (this node could not do it), from STARTING on FAILED (the task's own doing).
- An engine that does not answer changes no state: the same action is tried again.
"""

from __future__ import annotations

import enum

import attrs

from swarmpy.model.objects import PREPARING_MESSAGE, TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.ports import Progress, RunningTask, TaskExit


class Action(enum.Enum):
    """What to ask of the runtime."""

    PREPARE = "prepare"
    START = "start"
    WAIT = "wait"
    STOP = "stop"


# -- what may have happened ----------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Prepared:
    """PREPARE is done."""


@attrs.frozen(kw_only=True)
class Started:
    """START is done: it runs and is healthy."""

    running: RunningTask


@attrs.frozen(kw_only=True)
class Exited:
    """WAIT is done: it has ended."""

    exit: TaskExit


@attrs.frozen(kw_only=True)
class Stopped:
    """STOP is done: nothing runs."""


@attrs.frozen(kw_only=True)
class Interrupted:
    """The action was given up, as something else is wanted now."""


@attrs.frozen(kw_only=True)
class Errored:
    """The action cannot succeed for this task."""

    err: str


@attrs.frozen(kw_only=True)
class EngineAway:
    """The action could not be tried or finished, as the engine, or a manager who has what the task needs, is away."""

    action: Action
    err: str


@attrs.frozen(kw_only=True)
class Found:
    """The agent has started anew and the task's container is there: running, or (None) not."""

    running: RunningTask | None


@attrs.frozen(kw_only=True)
class Missing:
    """The agent has started anew, or the task is new to it, and there is no container."""


Outcome = Prepared | Started | Exited | Stopped | Interrupted | Errored | EngineAway | Found | Missing


@attrs.frozen(kw_only=True)
class Step:
    """The status as observed now, and what to do; None: nothing until something else is wanted."""

    status: TaskStatus
    action: Action | None


_S = TaskState
_ONWARD: dict[TaskState, tuple[TaskState, str]] = {
    _S.NEW: (_S.ASSIGNED, "assigned"),
    _S.PENDING: (_S.ASSIGNED, "assigned"),
    _S.ASSIGNED: (_S.ACCEPTED, "accepted"),
    _S.ACCEPTED: (_S.PREPARING, PREPARING_MESSAGE),
    _S.READY: (_S.STARTING, "starting"),
}
"""States that need no action to be left, only the wish for more: the next state and its message."""

_WORK: dict[TaskState, Action] = {_S.PREPARING: Action.PREPARE, _S.STARTING: Action.START, _S.RUNNING: Action.WAIT}


def advance(desired: TaskState, status: TaskStatus, outcome: Outcome | None, now_ns: int) -> Step:
    """What ``outcome`` (None: nothing, or something else is desired) makes of a task, and what to do next."""
    status = _observe(status, outcome, now_ns)
    if status.state.is_terminal:
        return Step(status=status, action=Action.STOP if _may_still_run(outcome) else None)
    if desired >= _S.SHUTDOWN:
        return Step(status=status, action=Action.STOP)
    while status.state in _ONWARD and status.state < desired:
        state, message = _ONWARD[status.state]
        status = _risen(status, state, now_ns, message=message)
    return Step(status=status, action=_WORK.get(status.state))


def progressed(status: TaskStatus, progress: Progress) -> TaskStatus:
    """The status of a task that is being prepared, with what is known of that now. When it began stays as it is."""
    if status.state is not _S.PREPARING:
        return status
    return attrs.evolve(status, message=progress.message, err=progress.err)


def _may_still_run(outcome: Outcome | None) -> bool:
    # An action that ended in an error may have left something that runs, and so may an earlier life of the agent.
    match outcome:
        case Errored() | Found(running=RunningTask()) | EngineAway(action=Action.STOP):
            return True
        case _:
            return False


def _observe(status: TaskStatus, outcome: Outcome | None, now_ns: int) -> TaskStatus:
    state = status.state
    observed = status
    match outcome:
        case _ if state.is_terminal:
            pass
        case Prepared() if state is _S.PREPARING:
            observed = _risen(status, _S.READY, now_ns, message="prepared")
        case Started(running=running) if state is _S.STARTING:
            risen = _risen(status, _S.RUNNING, now_ns, message=_started(running))
            observed = attrs.evolve(risen, container=running.container, ports=running.ports)
        case Found(running=RunningTask() as running) if state is _S.RUNNING:
            observed = attrs.evolve(status, container=running.container, ports=running.ports)
        case Exited(exit=ended) if state is _S.RUNNING:
            observed = _ended(status, ended, now_ns)
        case Stopped():
            observed = _risen(status, _S.SHUTDOWN, now_ns, message="shutdown")
        case Errored(err=err):
            observed = _error(status, err, now_ns)
        case Missing() if state >= _S.READY:
            # Not REJECTED, however early the last state is that was saved: it may have run, and been reported so.
            err = "task: its container is no longer on this node"
            observed = _risen(status, _S.FAILED, now_ns, message=status.message, err=err)
        case EngineAway(action=action, err=err) if action is not Action.WAIT and err != status.err:
            observed = attrs.evolve(status, err=err, timestamp_ns=now_ns)
    return observed


def _error(status: TaskStatus, err: str, now_ns: int) -> TaskStatus:
    state = _S.REJECTED if status.state < _S.STARTING else _S.FAILED
    # How far a pull was does not count any more.
    message = PREPARING_MESSAGE if status.state is _S.PREPARING else status.message
    return _risen(status, state, now_ns, message=message, err=err)


def _ended(status: TaskStatus, ended: TaskExit, now_ns: int) -> TaskStatus:
    if ended.exit_code == 0 and not ended.error:
        risen = _risen(status, _S.COMPLETE, now_ns, message="finished")
    else:
        err = f"task: non-zero exit ({ended.exit_code})" if ended.exit_code else "task"
        risen = _error(status, f"{err}: {ended.error}" if ended.error else err, now_ns)
    if risen.container is None:
        return risen
    return attrs.evolve(risen, container=attrs.evolve(risen.container, exit_code=ended.exit_code))


def _started(running: RunningTask) -> str:
    return f"started; not done by this runtime: {', '.join(running.not_done)}" if running.not_done else "started"


def _risen(status: TaskStatus, state: TaskState, now_ns: int, *, message: str, err: str = "") -> TaskStatus:
    assert state > status.state, f"a task's state only rises: {status.state.name} -> {state.name}"
    # The ports of a task that has ended lead nowhere.
    ports = () if state.is_terminal else status.ports
    return attrs.evolve(status, state=state, timestamp_ns=now_ns, message=message, err=err, ports=ports)
