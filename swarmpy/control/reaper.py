"""Deletes tasks that nobody needs any more: history beyond its limit, and what was to be removed and has stopped."""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.control.decision import Decision
from swarmpy.control.draft import SlotKey, age_key, is_ended, slot_of
from swarmpy.control.nodes import standing
from swarmpy.model import changes
from swarmpy.model.defaults import restart_policy
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import TaskState, UpdateState
from swarmpy.store.view import View

KEPT_DURING_UPDATE = 2
"""An update reads from the last ended tasks of a slot whether it was part of it, and whether it failed."""


def decide(view: View, limit: int, service_ids: Iterable[ServiceId]) -> Decision:
    """Which tasks of these services to delete. ``limit`` ended tasks are kept of each slot, the newest; negative: all.

    More are kept where counting restarts needs them. A task to be removed from a node that is down is deleted as
    well: an agent that comes back removes what is not among its assignments.
    """
    doomed: list[Task] = []
    for service_id in service_ids:
        doomed += _doomed(view, limit, service_id)
    return Decision(changes=tuple(changes.delete(task) for task in doomed))


def _doomed(view: View, limit: int, service_id: ServiceId) -> list[Task]:
    service = view.service(service_id)
    doomed: list[Task] = []
    ended: dict[SlotKey, list[Task]] = {}
    for task in view.tasks_of_service(service_id):
        if service is None or task.desired_state is TaskState.REMOVE:
            if not _may_still_run(view, task):
                doomed.append(task)
        elif not task.desired_state.is_wanted and is_ended(task):
            ended.setdefault(slot_of(task), []).append(task)
    if service is None or limit < 0:
        return doomed
    for tasks in ended.values():
        # The limit alone decides most slots without looking at the service.
        if len(tasks) > limit:
            keep = _kept(service, limit)
            doomed.extend(sorted(tasks, key=age_key)[: max(0, len(tasks) - keep)])
    return doomed


def _kept(service: Service, limit: int) -> int:
    attempts = restart_policy(service.spec.task).max_attempts or 0
    if attempts:
        limit = max(limit, attempts + 1)
    status = service.update_status
    if status is not None and status.state in (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED):
        limit = max(limit, KEPT_DURING_UPDATE)
    return limit


def _may_still_run(view: View, task: Task) -> bool:
    """True while a node has the task and can still be asked to stop it."""
    if task.status.state < TaskState.ASSIGNED or is_ended(task):
        return False
    return not standing(view, task).is_lost
