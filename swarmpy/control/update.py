"""The rolling update: slots whose tasks are outdated get new ones, a few at a time.

All that an update knows of itself is in the store: the service's update status, the outdated tasks that are left (or
have ended), and when the new ones began to run. So a new leader goes on where the old one was.
"""

from __future__ import annotations

import attrs

from swarmpy.control.availability import WAITS
from swarmpy.control.deadline import stuck_one, too_late
from swarmpy.control.draft import Draft, is_active, is_ended, is_rolled_back
from swarmpy.control.ports import exclusive_port, is_allocated
from swarmpy.control.progress import SlotProgress
from swarmpy.control.restart import ENDED_BY_ITSELF, next_start_ns
from swarmpy.control.slots import SlotKey
from swarmpy.control.versions import missing_of
from swarmpy.model.defaults import update_config
from swarmpy.model.objects import Service, Task, UpdateStatus
from swarmpy.model.specs import UpdateConfig
from swarmpy.model.states import Cause, TaskState, UpdateState

FINISHED = (None, UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED)
PAUSED = (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)
ROLLED_BACK = "update rolled back"
"""How the message of a rollback begins that nobody asked for."""
ARRIVED = ENDED_BY_ITSELF | {TaskState.RUNNING}


@attrs.frozen(kw_only=True)
class Turn:
    """What an update does next."""

    slots: tuple[SlotKey, ...]
    """Those that are replaced now."""
    is_held_up: bool
    """Nothing is on its way, and what is left has to wait, as too much is missing that the update did not take away."""
    has_more: bool
    """More of them could be replaced now."""


def decide_update(draft: Draft, most: int) -> bool:
    """Take the update one step further, as far as state and time allow now.

    True when there are more than ``most`` slots whose turn it is.
    """
    service, progress = draft.service, draft.slots.progress
    state = service.update_status.state if service.update_status else None
    if state in PAUSED or not is_allocated(service):
        return False
    if state in FINISHED and not progress.outdated:
        return False
    if state in FINISHED:
        _set_status(draft, UpdateState.UPDATING, f"update in progress{_fallback(draft)}")
    is_rollback, config = is_rolled_back(service), draft.update_config
    failed = progress.failed
    has_failed = bool(failed) and len(failed) / len(progress.slots) > (config.max_failure_ratio or 0)
    if config.failure_action != "continue" and has_failed:
        first = progress.slots[min(failed)].failed
        which = "" if first is None else first.id
        _fail(draft, f"due to failure or early termination of task {which}", config, is_rollback=is_rollback)
        return False
    turn = _whose_turn(draft, config, most)
    held_up = draft.allowance.reason if turn.is_held_up else ""
    gives_up = config.failure_action != "continue"
    if gives_up and (late := too_late(draft, config.progress_deadline_ns or 0, held_up=held_up)):
        _fail(draft, late, config, is_rollback=is_rollback)
    elif not progress.outdated:
        _complete(draft, config, is_rollback=is_rollback)
    else:
        _tell_waiting(draft, held_up)
        for key in turn.slots:
            _replace(draft, key, progress.slots[key], start_first=_starts_first(draft, config))
            note(draft, key)
        return turn.has_more
    return False


def is_under_way(service: Service) -> bool:
    """True while the service is updated, or its update waits for somebody."""
    return service.update_status is not None and service.update_status.state not in FINISHED


def note(draft: Draft, key: SlotKey) -> None:
    """What of the slot is of interest to :func:`decide_update`."""
    draft.slots.progress.put(key, _progress(draft, key))


def _progress(draft: Draft, key: SlotKey) -> SlotProgress | None:
    """None where the slot neither was nor is to be updated. One that is new and failed is part: it says the same."""
    tasks = draft.slot(key)
    version = draft.service.spec_version
    if not draft.is_updating:
        # Only whether there is something to update is asked for then.
        if not any(task.spec_version != version and is_active(task) and draft.is_outdated(task) for task in tasks):
            return None
    elif not any(task.spec_version != version or task.status.state in ENDED_BY_ITSELF for task in tasks):
        return None
    config = draft.update_config
    outdated, old, coming, new = False, list[Task](), list[Task](), list[Task]()
    failed, arrived_at_ns, has_started = None, None, False
    for task in tasks:
        is_outdated, is_wanted = draft.is_outdated(task), is_active(task)
        if is_outdated:
            outdated = True
            if is_wanted:
                old.append(task)
        elif is_wanted and not is_ended(task):
            coming.append(task)
        if not draft.is_of_update(task):
            continue
        new.append(task)
        has_started = has_started or task.started_at_ns > 0
        if failed is None and _ended_early(task, config):
            failed = task
        if task.status.state in ARRIVED:
            at_ns = task.started_at_ns or task.applied_at_ns
            arrived_at_ns = at_ns if arrived_at_ns is None else min(arrived_at_ns, at_ns)
    if not (outdated or failed):
        return None
    return SlotProgress(
        outdated=tuple(old),
        coming=tuple(coming),
        failed=failed,
        is_given_up=failed is not None and next_start_ns(draft, failed) is None,
        arrived_at_ns=arrived_at_ns,
        is_coming_new=any(task in new for task in coming),
        has_started=has_started,
        stuck=None if has_started or not new else stuck_one(draft, new),
    )


def _ended_early(task: Task, config: UpdateConfig) -> bool:
    if task.status.state not in ENDED_BY_ITSELF:
        return False
    return not task.started_at_ns or task.applied_at_ns - task.started_at_ns <= (config.monitor_ns or 0)


def _whose_turn(draft: Draft, config: UpdateConfig, most: int) -> Turn:
    """Which slots are next, as far as the parallelism and what may be missing allow."""
    progress = draft.slots.progress
    delay_ns = config.delay_ns or 0
    under_way = len(progress.flying) + sum(_is_settling(draft, key, delay_ns) for key in list(progress.settling))
    room = config.parallelism - under_way if config.parallelism else len(progress.waiting)
    if room <= 0 or not progress.waiting:
        return Turn(slots=(), is_held_up=False, has_more=False)
    # One that failed may be out of attempts; it must not keep the others from their turn.
    sound, failed = progress.waiting - progress.failed, progress.waiting & progress.failed
    waiting = [*sorted(sound), *sorted(failed)]
    if _starts_first(draft, config):
        return Turn(slots=tuple(waiting[: min(room, most)]), is_held_up=False, has_more=len(waiting) > most < room)
    chosen: list[SlotKey] = []
    held = False
    for key in waiting:
        if len(chosen) >= min(room, most):
            return Turn(slots=tuple(chosen), is_held_up=False, has_more=room > most)
        if draft.allowance.is_free(key) and all(map(draft.allowance.take, progress.slots[key].outdated)):
            chosen.append(key)
        else:
            held = True
    return Turn(slots=tuple(chosen), is_held_up=held and not chosen and not under_way, has_more=False)


def _is_settling(draft: Draft, key: SlotKey, delay_ns: int) -> bool:
    """True while a slot whose new task has arrived counts against the parallelism, for the delay."""
    settling = draft.slots.progress.settling
    arrived_at_ns = draft.slots.progress.slots[key].arrived_at_ns or 0
    if arrived_at_ns + delay_ns <= draft.now_ns:
        settling.discard(key)
        return False
    return draft.waits_for(key, arrived_at_ns + delay_ns, delay_ns)


def _replace(draft: Draft, key: SlotKey, slot: SlotProgress, *, start_first: bool) -> None:
    cause = Cause.ROLLBACK if is_rolled_back(draft.service) else Cause.UPDATE
    serving = [task for task in slot.outdated if task.status.state == TaskState.RUNNING]
    not_before_ns = None if slot.failed is None else next_start_ns(draft, slot.failed)
    for task in slot.outdated:
        if not (start_first and task in serving):
            draft.retire(task, cause)
    draft.start(key, not_before_ns=not_before_ns or 0)


def _starts_first(draft: Draft, config: UpdateConfig) -> bool:
    return config.order == "start-first" and exclusive_port(draft.service) is None


def _fallback(draft: Draft) -> str:
    """What to say of an update that cannot start the new tasks first, as it was asked to."""
    port = exclusive_port(draft.service)
    if port is None or update_config(draft.service.spec.update).order != "start-first":
        return ""
    return f", stop-first: two tasks cannot have port {port.published_port}/{port.protocol} of a node at once"


def _complete(draft: Draft, config: UpdateConfig, *, is_rollback: bool) -> None:
    progress, before = draft.slots.progress, draft.service.update_status
    if progress.flying:
        return
    arrivals = [slot.arrived_at_ns for slot in progress.slots.values() if slot.arrived_at_ns is not None]
    last_ns = max(arrivals, default=0) if before is None else max([before.started_at_ns, *arrivals])
    monitor_ns = config.monitor_ns or 0
    if progress.slots and draft.waits_for("monitor", last_ns + monitor_ns, monitor_ns):
        return
    if is_rollback:
        _tell_waiting(draft, "")
        message = draft.service.update_status.message if draft.service.update_status else ""
        # Why there was a rollback is of interest when it is over, too.
        why = f": {message}" if message.startswith(ROLLED_BACK) else ""
        _set_status(draft, UpdateState.ROLLBACK_COMPLETED, f"rollback completed{why}")
    else:
        _set_status(draft, UpdateState.COMPLETED, f"update completed{_fallback(draft)}")


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
