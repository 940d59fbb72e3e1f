"""Deletes tasks that nobody needs any more: history beyond its limit, and what was to be removed and has stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from swarmpy.control.draft import is_ended
from swarmpy.control.nodes import Standing
from swarmpy.control.slots import age_key
from swarmpy.model.defaults import restart_policy
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import TaskState, UpdateState

KEPT_DURING_UPDATE = 2
"""An update reads from the last ended tasks of a slot whether it was part of it, and whether it failed."""


def doomed(
    service: Service | None, tasks: Sequence[Task], limit: int, standing: Callable[[Task], Standing]
) -> list[Task]:
    """Which of the tasks of one slot to delete. ``limit`` ended ones are kept, the newest; negative: all.

    More are kept where counting restarts needs them. A task to be removed from a node that is down is deleted as
    well: an agent that comes back removes what is not among its assignments.
    """
    leaving = [task for task in tasks if service is None or task.desired_state is TaskState.REMOVE]
    found = [task for task in leaving if not _may_still_run(task, standing)]
    if service is None or limit < 0:
        return found
    ended = _ended(tasks)
    # The limit alone decides most slots without looking at the service.
    if len(ended) > limit:
        found += sorted(ended, key=age_key)[: max(0, len(ended) - kept(service, limit))]
    return found


def _ended(tasks: Iterable[Task]) -> list[Task]:
    return [
        task
        for task in tasks
        if not task.desired_state.is_wanted and task.desired_state is not TaskState.REMOVE and is_ended(task)
    ]


def kept(service: Service, limit: int) -> int:
    """How many ended tasks are kept of each slot where ``limit`` is how many are to be; negative: all."""
    if limit < 0:
        return limit
    attempts = restart_policy(service.spec.task).max_attempts or 0
    if attempts:
        limit = max(limit, attempts + 1)
    status = service.update_status
    if status is not None and status.state in (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED):
        limit = max(limit, KEPT_DURING_UPDATE)
    return limit


def _may_still_run(task: Task, standing: Callable[[Task], Standing]) -> bool:
    """True while a node has the task and can still be asked to stop it."""
    if task.status.state < TaskState.ASSIGNED or is_ended(task):
        return False
    return not standing(task).is_lost
