"""Jobs: services whose tasks are to complete, a number of them (replicated) or one on each node (global).

A job is executed when it is made and with each change of it; its iteration says how often. Tasks of an earlier
iteration are removed where they run and are history where they have ended. A slot is done once one of its tasks has
completed. A task that failed is tried again as its restart policy allows: ``on-failure`` unless it says ``none``
(after swarmkit ``manager/orchestrator/jobs``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from swarmpy.control.draft import Draft, is_active, is_ended
from swarmpy.control.global_mode import takes_new_tasks
from swarmpy.control.nodes import Standing, can_be_orphaned
from swarmpy.control.outdated import meets_constraints
from swarmpy.control.restart import ENDED_BY_ITSELF, next_start_ns
from swarmpy.control.slots import SlotKey
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import Cause, TaskState


def look(draft: Draft, key: SlotKey) -> None:
    """Bring the present execution of the job forward in one slot."""
    _end_former(draft, key)
    _supervise(draft, key)
    if draft.is_global:
        _begin_on_node(draft, key)


def decide_job(draft: Draft, most: int) -> bool:
    """Begin as many slots as may be under way; True when there are more than ``most`` of them.

    One that was given up holds no other back, and is not begun again.
    """
    if draft.is_global:
        return False
    spec, slots = draft.service.spec, draft.slots
    room = spec.desired_concurrency - len(slots.under_way)
    free = (number for number in range(1, spec.desired_completions + 1) if number not in slots.begun)
    chosen = list(itertools.islice(free, max(0, min(room, most + 1))))
    for number in chosen[:most]:
        draft.start(number)
        note(draft, number)
    return len(chosen) > most


def completed_slots(service: Service, tasks: Iterable[Task]) -> int:
    """How many slots of the job's present execution are done."""
    found = {task.slot or task.node_id for task in tasks if _is_of(service, task) and has_completed(task)}
    return len(found)


def has_completed(task: Task) -> bool:
    """True when the task did what it was made for."""
    return task.status.state is TaskState.COMPLETE


def _is_of(service: Service, task: Task) -> bool:
    return service.job is not None and task.iteration == service.job.iteration


def _present(draft: Draft, key: SlotKey) -> list[Task]:
    """The slot's tasks of the present execution, the newest last."""
    return [task for task in draft.slot(key) if _is_of(draft.service, task)]


def _end_former(draft: Draft, key: SlotKey) -> None:
    for task in draft.slot(key):
        if _is_of(draft.service, task) or not is_active(task):
            continue
        if is_ended(task):
            draft.retire(task, Cause.EXECUTED_ANEW)
        else:
            draft.remove(task, Cause.EXECUTED_ANEW)


def _supervise(draft: Draft, key: SlotKey) -> None:
    """Let one task of the slot be under way, unless the slot is done or its restart policy is exhausted."""
    for task in _present(draft, key):
        if draft.standing(task) is Standing.GONE and can_be_orphaned(task):
            draft.orphan(task)
    tasks = _present(draft, key)
    if any(map(has_completed, tasks)):
        # Also one that was told to stop, as its node was drained, may have completed first.
        for task in tasks:
            if is_active(task) and not has_completed(task):
                draft.retire(task, Cause.SURPLUS)
        return
    if not tasks or not is_active(tasks[-1]):
        return
    newest = tasks[-1]
    if newest.status.state in ENDED_BY_ITSELF:
        _retry(draft, key, newest)
    elif is_ended(newest) or draft.standing(newest) is not Standing.FINE:
        _move(draft, key, newest)
    elif newest.desired_state == TaskState.READY and _may_start(draft, key, newest):
        draft.promote(newest)


def _retry(draft: Draft, key: SlotKey, failed: Task) -> None:
    if draft.waits_to_start(failed):
        return
    not_before_ns = next_start_ns(draft, failed)
    if not_before_ns is not None:
        draft.retire(failed, Cause.RESTART)
        draft.start(key, not_before_ns=not_before_ns)


def _move(draft: Draft, key: SlotKey, task: Task) -> None:
    """The task lost its node, which is not its fault. Its successor starts when it has stopped: not both may complete.

    A global job has no other node for it: it begins again when its node is back.
    """
    standing = draft.standing(task)
    draft.retire(task, Cause.RESTART if standing is Standing.FINE else standing.cause)
    if not draft.is_global:
        # One that still waited for its restart delay has lost its place, not its reason to wait.
        draft.start(key, not_before_ns=task.not_before_ns if task.desired_state == TaskState.READY else 0)


def _may_start(draft: Draft, key: SlotKey, task: Task) -> bool:
    return not draft.waits_to_start(task) and not any(draft.is_stopping(other) for other in draft.slot(key))


def _begin_on_node(draft: Draft, key: SlotKey) -> None:
    node = draft.view.node(str(key))
    if node is None or not takes_new_tasks(node) or not meets_constraints(draft.service, node):
        return
    tasks = _present(draft, key)
    if not any(map(has_completed, tasks)) and not any(map(is_active, tasks)):
        draft.start(node.id)


def note(draft: Draft, key: SlotKey) -> None:
    """What of the slot is of interest to :func:`decide_job`."""
    begun, under_way = draft.slots.begun, draft.slots.under_way
    if any(is_active(task) or has_completed(task) for task in _present(draft, key)):
        begun.add(key)
    else:
        begun.discard(key)
    if _is_under_way(draft, key):
        under_way.add(key)
    else:
        under_way.discard(key)


def _is_under_way(draft: Draft, key: SlotKey) -> bool:
    """True while a task of the slot runs, stops, or is to start."""
    for task in draft.slot(key):
        if draft.is_stopping(task) or (is_active(task) and not is_ended(task)):
            return True
        if is_active(task) and not has_completed(task) and draft.waits_to_start(task):
            # Rejected during its restart delay: it will be tried again.
            return True
    return False
