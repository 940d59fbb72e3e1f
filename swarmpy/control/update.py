"""The rolling update: slots whose tasks are outdated get new ones, a few at a time.

All that an update knows of itself is in the store: the service's update status, the outdated tasks that are left (or
have ended), and when the new ones began to run. So a new leader goes on where the old one was.
"""

from __future__ import annotations

import attrs

from swarmpy.control.availability import WAITS
from swarmpy.control.deadline import too_late
from swarmpy.control.draft import Draft, SlotKey, is_active, is_ended
from swarmpy.control.ports import exclusive_port, is_allocated
from swarmpy.control.restart import ENDED_BY_ITSELF, next_start_ns
from swarmpy.control.versions import missing_of
from swarmpy.model.defaults import update_config
from swarmpy.model.objects import Task, UpdateStatus
from swarmpy.model.specs import UpdateConfig
from swarmpy.model.states import Cause, TaskState, UpdateState

FINISHED = (None, UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED)
PAUSED = (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)
ROLLED_BACK = "update rolled back"
"""How the message of a rollback begins that nobody asked for."""
ARRIVED = ENDED_BY_ITSELF | {TaskState.RUNNING}


@attrs.frozen(kw_only=True)
class SlotProgress:
    """How far the update has come in one slot."""

    key: SlotKey
    outdated: tuple[Task, ...]
    """Tasks that are to be replaced and have not been told to stop."""
    coming: tuple[Task, ...]
    """Tasks as the service wants them, running or on their way."""
    failed: Task | None
    """A new task that ended too early, if any."""
    arrived_at_ns: int | None
    """When the first of the new tasks began to run (or ended); None: not yet."""


@attrs.frozen(kw_only=True)
class Turn:
    """What an update does next."""

    slots: tuple[SlotProgress, ...]
    """Those that are replaced now."""
    is_held_up: bool
    """Nothing is on its way, and what is left has to wait, as too much is missing that the update did not take away."""


def decide_update(draft: Draft) -> None:
    """Take the update one step further, as far as state and time allow now."""
    service = draft.service
    state = service.update_status.state if service.update_status else None
    if state in PAUSED or not is_allocated(service):
        return
    if state in FINISHED and not _is_any_outdated(draft):
        return
    if state in FINISHED:
        _set_status(draft, UpdateState.UPDATING, f"update in progress{_fallback(draft)}")
    is_rollback = state is UpdateState.ROLLBACK_STARTED
    config = update_config(service.spec.rollback if is_rollback else service.spec.update)
    part = [slot for key in draft.slots if (slot := _progress(draft, key, config)) is not None]
    failed = [slot.failed for slot in part if slot.failed is not None]
    if config.failure_action != "continue" and failed and len(failed) / len(part) > (config.max_failure_ratio or 0):
        _fail(draft, f"due to failure or early termination of task {failed[0].id}", config, is_rollback=is_rollback)
        return
    turn = _whose_turn(draft, part, config)
    if config.failure_action != "continue" and (late := _too_late(draft, part, config, turn)):
        _fail(draft, late, config, is_rollback=is_rollback)
    elif not any(slot.outdated for slot in part):
        _complete(draft, part, config, is_rollback=is_rollback)
    else:
        _tell_waiting(draft, draft.allowance.reason if turn.is_held_up else "")
        for slot in turn.slots:
            _replace(draft, slot, start_first=_starts_first(draft, config))


def _is_any_outdated(draft: Draft) -> bool:
    # Of the many tasks of a service nearly all are of its version, and there is nothing else to look at then.
    version = draft.service.spec_version
    other = [task for slot in draft.slots.values() for task in slot.values() if task.spec_version != version]
    return any(is_active(task) and draft.is_outdated(task) for task in other)


def _progress(draft: Draft, key: SlotKey, config: UpdateConfig) -> SlotProgress | None:
    """None where the slot neither was nor is to be updated. One that is new and failed is part: it says the same."""
    held = draft.slots[key]
    if len(held) == 1:
        # So are nearly all.
        (only,) = held.values()
        if not is_ended(only):
            if not draft.is_outdated(only):
                return None
            left = (only,) if is_active(only) else ()
            return SlotProgress(key=key, outdated=left, coming=(), failed=None, arrived_at_ns=None)
    tasks = draft.slot(key)
    outdated = [task for task in tasks if draft.is_outdated(task)]
    new = [task for task in tasks if draft.is_of_update(task)]
    arrivals = [task.started_at_ns or task.applied_at_ns for task in new if task.status.state in ARRIVED]
    outdated_ids = {task.id for task in outdated}
    failed = next((task for task in new if _ended_early(task, config)), None)
    if not (outdated or failed):
        return None
    return SlotProgress(
        key=key,
        outdated=tuple(task for task in outdated if is_active(task)),
        coming=tuple(t for t in tasks if is_active(t) and not is_ended(t) and t.id not in outdated_ids),
        failed=failed,
        arrived_at_ns=min(arrivals, default=None),
    )


def _ended_early(task: Task, config: UpdateConfig) -> bool:
    if task.status.state not in ENDED_BY_ITSELF:
        return False
    return not task.started_at_ns or task.applied_at_ns - task.started_at_ns <= (config.monitor_ns or 0)


def _whose_turn(draft: Draft, part: list[SlotProgress], config: UpdateConfig) -> Turn:
    """Which slots are next, as far as the parallelism and what may be missing allow."""
    waiting = [slot for slot in part if slot.outdated and not slot.coming]
    # One that failed may be out of attempts; it must not keep the others from their turn.
    waiting.sort(key=lambda slot: slot.failed is not None)
    in_flight = [_is_in_flight(draft, slot, config.delay_ns or 0) for slot in part]
    room = config.parallelism - sum(in_flight) if config.parallelism else len(waiting)
    chosen: list[SlotProgress] = []
    held = False
    for slot in waiting:
        if len(chosen) >= room:
            break
        if _starts_first(draft, config) or all(draft.allowance.take(task) for task in slot.outdated):
            chosen.append(slot)
        else:
            held = True
    return Turn(slots=tuple(chosen), is_held_up=held and not chosen and not any(in_flight))


def _is_in_flight(draft: Draft, slot: SlotProgress, delay_ns: int) -> bool:
    """True while the slot counts against the parallelism: until its new task runs or ends, and for the delay then."""
    if not slot.coming:
        return False
    if slot.arrived_at_ns is None:
        # Tasks of the same wishes from before (a rollback finds such) need not arrive again.
        return any(map(draft.is_of_update, slot.coming))
    return draft.waits_for(slot.key, slot.arrived_at_ns + delay_ns, delay_ns)


def _replace(draft: Draft, slot: SlotProgress, *, start_first: bool) -> None:
    status = draft.service.update_status
    is_rollback = status is not None and status.state is UpdateState.ROLLBACK_STARTED
    cause = Cause.ROLLBACK if is_rollback else Cause.UPDATE
    serving = [task for task in slot.outdated if task.status.state == TaskState.RUNNING]
    not_before_ns = 0
    if slot.failed is not None:
        next_ns = next_start_ns(draft, slot.failed)
        if next_ns is None:
            return
        not_before_ns = next_ns
    for task in slot.outdated:
        if not (start_first and task in serving):
            draft.retire(task, cause)
    draft.start(slot.key, not_before_ns=not_before_ns)


def _starts_first(draft: Draft, config: UpdateConfig) -> bool:
    return config.order == "start-first" and exclusive_port(draft.service) is None


def _fallback(draft: Draft) -> str:
    """What to say of an update that cannot start the new tasks first, as it was asked to."""
    port = exclusive_port(draft.service)
    if port is None or update_config(draft.service.spec.update).order != "start-first":
        return ""
    return f", stop-first: two tasks cannot have port {port.published_port}/{port.protocol} of a node at once"


def _complete(draft: Draft, part: list[SlotProgress], config: UpdateConfig, *, is_rollback: bool) -> None:
    arrivals = [draft.service.update_status.started_at_ns if draft.service.update_status else 0]
    for slot in part:
        if slot.arrived_at_ns is not None:
            arrivals.append(slot.arrived_at_ns)
        elif any(map(draft.is_of_update, slot.coming)):
            return
    monitor_ns = config.monitor_ns or 0
    if part and draft.waits_for("monitor", max(arrivals) + monitor_ns, monitor_ns):
        return
    if is_rollback:
        _tell_waiting(draft, "")
        before = draft.service.update_status.message if draft.service.update_status else ""
        # Why there was a rollback is of interest when it is over, too.
        why = f": {before}" if before.startswith(ROLLED_BACK) else ""
        _set_status(draft, UpdateState.ROLLBACK_COMPLETED, f"rollback completed{why}")
    else:
        _set_status(draft, UpdateState.COMPLETED, f"update completed{_fallback(draft)}")


def _too_late(draft: Draft, part: list[SlotProgress], config: UpdateConfig, turn: Turn) -> str:
    tasks = [task for slot in part for task in draft.slot(slot.key)]
    held_up = draft.allowance.reason if turn.is_held_up else ""
    return too_late(draft, tasks, config.progress_deadline_ns or 0, held_up=held_up)


def _tell_waiting(draft: Draft, reason: str) -> None:
    """Say in the update's status that it is held up, or no more."""
    status = draft.service.update_status
    if status is None:
        return
    before = status.message.split(f", {WAITS}")[0]
    message = f"{before}, {reason}" if reason else before
    if message != status.message:
        draft.service = attrs.evolve(draft.service, update_status=attrs.evolve(status, message=message))


def _fail(draft: Draft, reason: str, config: UpdateConfig, *, is_rollback: bool) -> None:
    service = draft.service
    if is_rollback:
        _set_status(draft, UpdateState.ROLLBACK_PAUSED, f"rollback paused {reason}")
    elif (
        config.failure_action == "rollback"
        and service.previous_spec is not None
        and not missing_of(draft.view, service.previous_spec.task)
    ):
        # One step back only: a rollback is never rolled back.
        draft.service = attrs.evolve(service, spec=service.previous_spec, previous_spec=None)
        _set_status(draft, UpdateState.ROLLBACK_STARTED, f"{ROLLED_BACK} {reason}")
    else:
        _set_status(draft, UpdateState.PAUSED, f"update paused {reason}")


def _set_status(draft: Draft, state: UpdateState, message: str) -> None:
    before = draft.service.update_status
    starts = before is None or state in (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)
    ends = state in FINISHED
    status = UpdateStatus(
        state=state,
        started_at_ns=draft.now_ns if before is None or starts else before.started_at_ns,
        completed_at_ns=draft.now_ns if ends else 0,
        message=message,
    )
    draft.service = attrs.evolve(draft.service, update_status=status)
