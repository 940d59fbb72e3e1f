"""Why a service does not run as many tasks as it should, in one line for a person."""

from __future__ import annotations

from collections import Counter

import attrs

from swarmpy.control.draft import is_active, is_ended, is_held_by_node
from swarmpy.control.jobs import completed_slots, has_completed
from swarmpy.control.nodes import standing
from swarmpy.control.outdated import is_outdated, meets_constraints
from swarmpy.control.slots import age_key, slot_of
from swarmpy.model.objects import PREPARING_MESSAGE, Node, Service, Task
from swarmpy.model.states import Availability, NodeState, ServiceMode, TaskState, UpdateState
from swarmpy.store.view import View

MAX_REASONS = 3
"""More would not fit a line."""


@attrs.frozen(kw_only=True)
class Replicas:
    """How many tasks of a service run, and how many should."""

    running: int
    desired: int
    completed: int = 0
    """Of a job: how many of its tasks have completed in its present execution. They are no longer among the desired."""


def count_replicas(view: View, service: Service) -> Replicas:
    """Tasks that run on nodes that are not lost, and tasks wanted. Two tasks of one slot count once."""
    running = {
        slot_of(task)
        for task in view.tasks_of_service(service.id)
        if is_active(task) and task.status.state == TaskState.RUNNING and not standing(view, task).is_lost
    }
    if service.pending_delete:
        desired = 0
    elif service.spec.mode.is_job:
        return _count_job(view, service, len(running))
    elif service.spec.mode is ServiceMode.GLOBAL:
        desired = sum(1 for node in view.nodes() if _may_have_a_task(view, service, node))
    else:
        desired = service.spec.desired_replicas
    return Replicas(running=len(running), desired=desired)


def _count_job(view: View, service: Service, running: int) -> Replicas:
    tasks = view.tasks_of_service(service.id)
    completed = completed_slots(service, tasks)
    if service.spec.mode is ServiceMode.REPLICATED_JOB:
        left = max(0, service.spec.desired_completions - completed)
        return Replicas(running=running, desired=min(left, service.spec.desired_concurrency), completed=completed)
    done = {task.node_id for task in tasks if has_completed(task) and not is_outdated(view, service, task)}
    nodes = [node for node in view.nodes() if node.id not in done and _may_have_a_task(view, service, node)]
    return Replicas(running=running, desired=len(nodes), completed=completed)


def why_not_running(view: View, service: Service) -> str:
    """One line; "" when as many tasks run as are wanted and no update is paused."""
    reasons: list[str] = []
    status = service.update_status
    if status is not None and status.state in (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED):
        reasons.append(status.message)
    replicas = count_replicas(view, service)
    if service.pending_delete:
        left = len(view.tasks_of_service(service.id))
        return f"being removed: {_tasks(left)} still stopping" if left else "being removed"
    if replicas.running < replicas.desired:
        reasons.extend(_reasons(view, service, replicas))
    elif not replicas.desired and not replicas.completed and service.spec.mode.is_global:
        reasons.append(_no_node(view, service))
    shown = reasons[:MAX_REASONS]
    if len(reasons) > MAX_REASONS:
        shown.append(f"{len(reasons) - MAX_REASONS} more reasons")
    return "; ".join(shown)


def _no_node(view: View, service: Service) -> str:
    """Why a global service, or job, has no task at all."""
    nodes = view.nodes()
    fit = [node for node in nodes if meets_constraints(service, node)]
    if not fit:
        return f"no node meets its constraints ({len(nodes)} looked at)"
    return f"no node takes tasks: of {len(fit)} that meet its constraints all are down, paused or drained"


def why_waiting(view: View, task: Task) -> str:
    """Why a task that is wanted does not get on, in a sentence, where its own status does not say; "" for nothing."""
    is_done = task.iteration is not None and has_completed(task)
    if not is_active(task) or is_done or task.status.state is TaskState.RUNNING:
        return ""
    if is_ended(task):
        # One may be rejected while it waits for its restart delay: that is not made shorter.
        waits = task.desired_state is TaskState.READY
        return (
            f"it is {'tried again after its restart delay' if waits else 'not tried again, as its restart policy says'}"
        )
    if task.status.err:
        return ""
    return _before_it(view, task) if task.desired_state is TaskState.READY else _node_trouble(view, task)


def _before_it(view: View, task: Task) -> str:
    others = (t for t in view.tasks_of_service(task.service_id) if slot_of(t) == slot_of(task) and t.id != task.id)
    stopping = next((other for other in others if not is_active(other) and is_held_by_node(other)), None)
    if stopping is not None:
        node = None if stopping.node_id is None else view.node(stopping.node_id)
        return f"it starts when task {stopping.id} has stopped{'' if node is None else f' on node {_name(node)}'}"
    return "it waits for its restart delay" if task.not_before_ns else ""


def _node_trouble(view: View, task: Task) -> str:
    node = None if task.node_id is None else view.node(task.node_id)
    if node is None or node.status.state is NodeState.READY:
        return ""
    return f"its node {_name(node)} is {node.status.state}"


def _name(node: Node) -> str:
    return node.description.hostname or node.id


def _reasons(view: View, service: Service, replicas: Replicas) -> list[str]:
    pending: Counter[str] = Counter()
    troubled: Counter[str] = Counter()
    starting = 0
    tasks = sorted(view.tasks_of_service(service.id), key=age_key)
    failures = {slot_of(task): task.status.err for task in tasks if is_ended(task) and task.status.err}
    missing = replicas.desired - replicas.running
    for task in tasks:
        if not is_active(task) or task.status.state == TaskState.RUNNING:
            continue
        if service.job is not None and has_completed(task):
            continue
        failure = failures.get(slot_of(task), "")
        trouble = _trouble(task, failure)
        if task.status.state < TaskState.ASSIGNED and task.status.err:
            pending[task.status.err] += 1
        elif trouble:
            troubled[trouble] += 1
        elif waiting := why_waiting(view, task):
            troubled[f"{task.status.state.name.lower()}: {waiting}"] += 1
        else:
            starting += 1
    found = [f"{_tasks(count)} pending: {err}" for err, count in pending.most_common()]
    found.extend(f"{_tasks(count)} {text}" for text, count in troubled.most_common())
    if starting:
        found.append(f"{_tasks(starting)} starting")
    explained = starting + pending.total() + troubled.total()
    return found if explained else [f"{_tasks(missing)} not created yet"]


def _trouble(task: Task, failure: str) -> str:
    """Why a task does not run yet, or how far it is; ``failure`` ended the one before. "": it just takes its time."""
    if is_ended(task):
        return _given_up(task)
    is_prepared = task.status.state is TaskState.PREPARING
    if is_prepared and task.status.err:
        return f"preparing: {task.status.err}"
    if failure:
        return f"restarting after: {failure}"
    return f"preparing: {task.status.message}" if is_prepared and task.status.message != PREPARING_MESSAGE else ""


def _given_up(task: Task) -> str:
    if task.status.state == TaskState.COMPLETE:
        return "complete, not restarted by its policy"
    return f"{task.status.state.name.lower()}, not restarted by its policy: {task.status.err or 'no reason given'}"


def _may_have_a_task(view: View, service: Service, node: Node) -> bool:
    if not meets_constraints(service, node) or node.status.state is NodeState.DOWN:
        return False
    if node.status.state is NodeState.READY and node.availability is Availability.ACTIVE:
        return True
    return any(task.service_id == service.id and is_active(task) for task in view.tasks_on_node(node.id))


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"
