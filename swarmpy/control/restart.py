"""What becomes of a slot whose task has ended, or whose node was lost, drained, or is no place for it any more.

A task that ended by itself is replaced after its restart delay, as its policy allows. A task that lost its node is
replaced at once: it did nothing wrong. Attempts are counted from the tasks still kept, so that a new leader counts
as the old one did.
"""

from __future__ import annotations

from swarmpy.control.availability import WAITS, why_misplaced
from swarmpy.control.draft import Draft, is_active, is_ended
from swarmpy.control.nodes import Standing, can_be_orphaned
from swarmpy.control.ports import starts_first
from swarmpy.control.slots import SlotKey, age_key, slot_of
from swarmpy.model.defaults import restart_policy
from swarmpy.model.objects import Task
from swarmpy.model.states import Cause, TaskState

ENDED_BY_ITSELF = frozenset({TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED})
"""How a task ends that nobody asked to end."""


def supervise(draft: Draft, key: SlotKey) -> None:
    """Bring one slot back to one task that runs or is on its way, as far as its restart policy allows."""
    tasks = draft.slot(key)
    # Of nearly all slots there is one task that is not over and done with, and nothing else is to be asked.
    left = [task for task in tasks if is_active(task) or not is_ended(task)]
    if not left or (len(left) == 1 and _is_well(draft, left[0])):
        if any(task.status.err for task in tasks):
            _stop_waiting(draft, key)
        return
    _stop_waiting(draft, key)
    for task in tasks:
        if draft.standing(task) is Standing.GONE and can_be_orphaned(task):
            draft.orphan(task)
    active = _active(draft, key)
    if not active or (len(active) == 1 and _is_well(draft, active[0])):
        return
    _replace_lost(draft, key)
    _replace_ended(draft, key)
    _replace_leaving(draft, key)
    _retire_surplus(draft, key)
    _promote(draft, key)


def next_start_ns(draft: Draft, ended: Task) -> int | None:
    """When a replacement of a task that ended by itself may start; None when its policy allows no other attempt."""
    policy = restart_policy(ended.spec)
    if policy.condition == "none" or (policy.condition == "on-failure" and ended.status.state is TaskState.COMPLETE):
        return None
    if policy.max_attempts and _attempts(draft, ended, policy.window_ns or 0) >= policy.max_attempts:
        return None
    return draft.now_ns + (policy.delay_ns or 0)


def _attempts(draft: Draft, ended: Task, window_ns: int) -> int:
    # Measured back from the end of the last task, not from now: a service that was given up stays given up.
    since = ended.applied_at_ns - window_ns if window_ns else 0
    return sum(
        task.id != ended.id
        and task.spec_version == ended.spec_version
        and task.iteration == ended.iteration
        and task.status.state in ENDED_BY_ITSELF
        and task.applied_at_ns > since
        for task in draft.slot(slot_of(ended))
    )


def _is_well(draft: Draft, task: Task) -> bool:
    if task.desired_state is not TaskState.RUNNING or task.status.state.is_terminal:
        return False
    return draft.standing(task) is Standing.FINE


def _active(draft: Draft, key: SlotKey) -> list[Task]:
    return [task for task in draft.slot(key) if is_active(task)]


def _live(draft: Draft, key: SlotKey) -> list[Task]:
    """The tasks that serve the slot, or will, where they are."""
    return [t for t in _active(draft, key) if not is_ended(t) and draft.standing(t) is Standing.FINE]


def _newest_active_is(draft: Draft, key: SlotKey, task: Task) -> bool:
    return _active(draft, key)[-1].id == task.id


def _replace_lost(draft: Draft, key: SlotKey) -> None:
    for task in _active(draft, key):
        standing = draft.standing(task)
        unused = standing.is_to_go and task.status.state < TaskState.RUNNING
        if not (standing.is_lost or unused):
            continue
        is_last = len(_active(draft, key)) == 1
        draft.retire(task, standing.cause)
        if is_last:
            # One that still waited for its restart delay has lost its place, not its reason to wait.
            draft.start(key, not_before_ns=task.not_before_ns if task.desired_state == TaskState.READY else 0)


def _replace_ended(draft: Draft, key: SlotKey) -> None:
    for task in _active(draft, key):
        if not is_ended(task):
            continue
        if _live(draft, key) or not _newest_active_is(draft, key, task):
            draft.retire(task, Cause.RESTART)
        elif draft.standing(task).is_to_go:
            draft.retire(task, Cause.RESTART)
            draft.start(key)
        elif not draft.waits_to_start(task):
            # A delay is not shortened when the task is rejected while it waits: else a command that does not exist
            # would be tried as fast as nodes can say so.
            not_before_ns = next_start_ns(draft, task)
            if not_before_ns is not None:
                draft.retire(task, Cause.RESTART)
                draft.start(key, not_before_ns=not_before_ns)


def _replace_leaving(draft: Draft, key: SlotKey) -> None:
    """The replacement first; the old one goes when it runs, or when it is clear that it will not run soon."""
    active = _active(draft, key)
    leaving = [task for task in active if not is_ended(task) and draft.standing(task).is_to_go]
    if not leaving:
        return
    live = _live(draft, key)
    if not live and not any(is_ended(task) for task in active):
        draft.start(key)
        return
    is_replaced = any(task.status.state == TaskState.RUNNING for task in live)
    if not is_replaced and not _is_stuck(draft, live):
        return
    for task in leaving:
        standing = draft.standing(task)
        reason = why_misplaced(task) if standing is Standing.MISPLACED else ""
        if is_replaced or draft.allowance.take(task):
            draft.explain(task, reason)
            draft.retire(draft.latest(task), standing.cause)
        else:
            draft.explain(task, "; ".join(filter(None, (reason, draft.allowance.reason))))


def _stop_waiting(draft: Draft, key: SlotKey) -> None:
    """A task that waited to leave its node may stay, as the node is not drained any more."""
    for task in draft.slot(key):
        if task.status.err.startswith(WAITS) and draft.standing(task) is Standing.FINE:
            draft.explain(task, "")


def _is_stuck(draft: Draft, live: list[Task]) -> bool:
    """True when it is clear that the replacement of a task that is to go will not run soon.

    A service that starts first lets go of a task that works only if there is no place for another.
    """
    cannot_be_placed = any(task.status.state < TaskState.ASSIGNED and task.status.err for task in live)
    if cannot_be_placed or starts_first(draft.service):
        return cannot_be_placed
    return not live or any(task.desired_state == TaskState.READY for task in live)


def _retire_surplus(draft: Draft, key: SlotKey) -> None:
    """Once a task of the current spec runs, the others of its slot are not needed any more."""
    live = _live(draft, key)
    if len(live) < 2:
        return
    best = max(live, key=lambda t: (not draft.is_outdated(t), t.status.state == TaskState.RUNNING, age_key(t)))
    for task in live:
        if task.id == best.id:
            continue
        same_spec = draft.is_outdated(task) == draft.is_outdated(best)
        if best.status.state == TaskState.RUNNING or (same_spec and task.status.state < TaskState.RUNNING):
            draft.retire(task, Cause.SURPLUS)


def _promote(draft: Draft, key: SlotKey) -> None:
    for task in _active(draft, key):
        if task.desired_state != TaskState.READY or is_ended(task):
            continue
        if not draft.waits_to_start(task) and not any(draft.is_stopping(other) for other in draft.slot(key)):
            draft.promote(task)
