"""How far a node is that is about to leave the cluster: what is left on it, and what does not run elsewhere yet."""

from __future__ import annotations

import attrs

from swarmpy.control.draft import is_active, is_ended
from swarmpy.control.explain import why_waiting
from swarmpy.control.nodes import standing
from swarmpy.control.slots import slot_of
from swarmpy.model.assignments import Departure, ServiceLeft
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Task
from swarmpy.model.states import Cause, TaskState
from swarmpy.store.view import View

MAX_SERVICES = 20
"""Most services that are told of: those of which most is left."""
MAX_REASONS = 3


def departure(view: View, node_id: NodeId) -> Departure:
    """What the leader tells the node."""
    node = view.node(node_id)
    services: dict[ServiceId, list[Task]] = {}
    left = 0
    for task in view.tasks_on_node(node_id):
        services.setdefault(task.service_id, []).append(task)
        left += not is_ended(task)
    found = [_of_service(view, service_id, tasks) for service_id, tasks in services.items()]
    told = sorted((each for each in found if each.left or each.missing), key=lambda each: (-each.left, each.service))
    return Departure(begun=node is not None and node.status.leaving, left=left, services=tuple(told[:MAX_SERVICES]))


def _of_service(view: View, service_id: ServiceId, here: list[Task]) -> ServiceLeft:
    left = [task for task in here if not is_ended(task)]
    told = ServiceLeft(service=here[0].service_name, left=len(left))
    service = view.service(service_id)
    if service is None or service.spec.mode.is_global:
        return told
    moving = {slot_of(task) for task in here if not is_ended(task) or task.cause is Cause.DRAIN}
    if not moving:
        return told
    elsewhere: dict[object, list[Task]] = {}
    for task in view.tasks_of_service(service_id):
        if is_active(task) and task.node_id != here[0].node_id and slot_of(task) in moving:
            elsewhere.setdefault(slot_of(task), []).append(task)
    waiting = [tasks for tasks in elsewhere.values() if not any(_serves(view, task) for task in tasks)]
    missing = {slot_of(tasks[0]) for tasks in waiting}.difference(slot_of(task) for task in left)
    reasons = dict.fromkeys(reason for task in left if (reason := task.status.err))
    reasons.update(dict.fromkeys(_reason(view, task) for tasks in waiting for task in tasks[:1]))
    return attrs.evolve(told, missing=len(missing), reasons=tuple(reasons)[:MAX_REASONS])


def _serves(view: View, task: Task) -> bool:
    """True for a task that has nothing to wait for any more: it runs, or has completed."""
    if task.status.state is TaskState.RUNNING:
        return not standing(view, task).is_lost
    return task.status.state is TaskState.COMPLETE and task.iteration is not None


def _reason(view: View, task: Task) -> str:
    state = task.status.state.name.lower()
    why = task.status.err or why_waiting(view, task)
    return f"{state}: {why}" if why else state
