"""The progress deadline of an update: it does not wait for ever for a task that cannot be placed or does not get ready.

Progress is a slot whose new task runs for the first time. The time without any is measured by the leader's own clock
alone (:mod:`swarmpy.control.waiting`): no clock that was set, and no other leader's, can make an update late. A new
leader gives it the whole time again (after Nomad's ``progress_deadline``).
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.control.draft import Draft, is_active, is_ended
from swarmpy.control.restart import next_start_ns
from swarmpy.control.slots import slot_of
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState


def stuck_one(draft: Draft, new: Sequence[Task]) -> Task | None:
    """Of the new tasks of a slot of which none has run yet: one that is waited for, and may be for ever."""
    awaited = [task for task in new if is_active(task)]
    return next((task for task in awaited if not is_ended(task) or next_start_ns(draft, task) is None), None)


def too_late(draft: Draft, deadline_ns: int, *, held_up: str = "") -> str:
    """Why the update is given up, in words to follow "update paused"; "" while it may go on.

    ``held_up`` is why it may not replace a slot, where none is on its way. Asked for in each decision while one is
    waited for: where nothing is, the time begins anew.
    """
    progress = draft.slots.progress
    if not deadline_ns or not (progress.stuck or held_up):
        return ""
    status = draft.service.update_status
    began = None if status is None else (status.state, status.started_at_ns)
    if draft.waits_long("progress", (began, draft.service.spec_version, len(progress.started)), deadline_ns):
        return ""
    stuck = progress.slots[min(progress.stuck)].stuck if progress.stuck else None
    return f"as it made no progress for {_seconds(deadline_ns)}: {held_up if stuck is None else _why(draft, stuck)}"


def _seconds(amount_ns: int) -> str:
    return f"{amount_ns / 1e9:g} seconds"


def _why(draft: Draft, task: Task) -> str:
    if is_ended(task):
        return f"task {task.id} has {task.status.state.name.lower()} and may not be tried again: {task.status.err}"
    err = f": {task.status.err}" if task.status.err else ""
    if task.status.state < TaskState.ASSIGNED:
        return f"task {task.id} could not be placed{err}"
    if task.desired_state is TaskState.READY and any(map(draft.is_stopping, draft.slot(slot_of(task)))):
        return f"task {task.id} still waits for the one before it to stop{err}"
    node = None if task.node_id is None else draft.view.node(task.node_id)
    where = task.node_id if node is None else node.description.hostname or node.id
    return f"task {task.id} is still {task.status.state.name.lower()} on node {where}{err}"
