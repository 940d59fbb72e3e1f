"""Tasks whose node became another under them: it meets their constraints no more, or has less than they reserve.

Those of a replicated service that run are only marked: its restart supervisor has another one run elsewhere first. The
others are shut down, and their services replace them where they can (swarmkit's ``constraintenforcer`` does so with
all). So are those that wait on a node whose engine does not answer.
Only nodes that answer and take tasks are looked at: what is known of others is old, or they are being emptied anyhow.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import attrs

from swarmpy.control.availability import WAITS, Allowance, why_misplaced
from swarmpy.control.constraints import broken_constraint
from swarmpy.control.decision import Decision
from swarmpy.control.draft import is_active, is_held_by_node, retired, with_desired
from swarmpy.control.loads import NodeLoad, reservation
from swarmpy.control.nodes import is_misplaced, no_place, standing
from swarmpy.model import changes
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Node, Task
from swarmpy.model.schema import SERVICES_VERSION
from swarmpy.model.states import Cause, NodeState, ServiceMode, TaskState
from swarmpy.store.view import View


def decide(view: View, node_ids: Iterable[NodeId], now_ns: int) -> Decision:
    """Have what must not stay on these nodes replaced, or shut down; not yet what its service may not miss."""
    found: list[Task] = []
    allowances: dict[ServiceId, Allowance] = {}
    for node_id in node_ids:
        node = view.node(node_id)
        leaving = {task.id: (task, reason) for task, reason in (misplaced(view, node) if node else ())}
        for task, reason in leaving.values():
            why = no_place(node_id, reason)
            if _is_replaced_first(view, task):
                if not is_misplaced(task) or why_misplaced(task) != why:
                    found.append(with_desired(_explained(task, why), task.desired_state, Cause.MISPLACED))
                continue
            held_up = _held_up(view, task, allowances)
            if not held_up:
                found.append(retired(_explained(task, why), TaskState.SHUTDOWN, now_ns, Cause.MISPLACED))
            elif task.status.err != f"{why}; {held_up}":
                found.append(_explained(task, f"{why}; {held_up}"))
        if node is None or node.status.state is NodeState.READY:
            found += [_well_placed(t) for t in view.tasks_on_node(node_id) if is_held_up(t) and t.id not in leaving]
    return Decision(changes=tuple(map(changes.update, found)))


def is_held_up(task: Task) -> bool:
    """True for a task that is to leave its node when another one runs elsewhere, or when its service may miss it."""
    err = task.status.err
    return is_misplaced(task) or (task.desired_state.is_wanted and f"; {WAITS}" in err and bool(why_misplaced(task)))


def _is_replaced_first(view: View, task: Task) -> bool:
    """True for a task whose service brings another one up before it ends: as drains do (``control.restart``)."""
    service = view.service(task.service_id)
    if service is None or service.pending_delete or service.spec.mode is not ServiceMode.REPLICATED:
        return False
    # Until all managers read it, nobody can be told that a task which goes on running is to go.
    return task.status.state is TaskState.RUNNING and view.schema >= SERVICES_VERSION


def _well_placed(task: Task) -> Task:
    cause = Cause.NONE if is_misplaced(task) else task.cause
    return with_desired(_explained(task, ""), task.desired_state, cause)


def _held_up(view: View, task: Task, allowances: dict[ServiceId, Allowance]) -> str:
    """Why the task has to wait before it is shut down; "" when it does not have to."""
    service = view.service(task.service_id)
    if service is None or service.spec.max_unavailable is None:
        return ""
    if service.id not in allowances:
        tasks = view.tasks_of_service(service.id)
        allowances[service.id] = Allowance.of(view, service, tasks, partial(standing, view))
    return "" if allowances[service.id].take(task) else allowances[service.id].reason


def _explained(task: Task, err: str) -> Task:
    return attrs.evolve(task, status=attrs.evolve(task.status, err=err))


def misplaced(view: View, node: Node) -> list[tuple[Task, str]]:
    """The tasks that must not stay on the node, each with the reason.

    Where the node has not enough for all, the oldest tasks stay.
    """
    load = NodeLoad.of(node)
    tasks = [task for task in view.tasks_on_node(node.id) if is_active(task) and is_held_by_node(task)]
    if node.status.engine_away and node.status.state is NodeState.READY:
        return [(task, "its engine does not answer") for task in tasks if _could_start_elsewhere(view, task)]
    if not load.is_open:
        return []
    found = []
    for task in sorted(tasks, key=lambda task: (task.meta.created_at_ns, task.id)):
        reason = _broken_constraint(view, node, task) or _shortage(load, task)
        if reason:
            found.append((task, reason))
        else:
            load.use(task, task.generic, 1)
    return found


def _could_start_elsewhere(view: View, task: Task) -> bool:
    """True for a task that was never started, unless it belongs to its node."""
    service = view.service(task.service_id)
    is_global = service is None or service.spec.mode.is_global
    return task.status.state < TaskState.STARTING and not is_global


def _broken_constraint(view: View, node: Node, task: Task) -> str:
    service = view.service(task.service_id)
    if service is None or service.spec.mode is ServiceMode.GLOBAL:
        # Global services leave nodes that they have no business on by themselves.
        return ""
    own = broken_constraint(task.spec.placement, node)
    # Constraints that only the service has by now are its update's business; those it has no more do not count.
    if own is None or broken_constraint(service.spec.task.placement, node) is None:
        return ""
    return f"constraint {own} is not met"


def _shortage(load: NodeLoad, task: Task) -> str:
    wanted = reservation(task)
    has = load.has
    if wanted.memory_bytes and load.memory_used + wanted.memory_bytes > has.memory_bytes:
        return "insufficient memory"
    if wanted.nano_cpus and load.cpu_used + wanted.nano_cpus > has.nano_cpus:
        return "insufficient CPU"
    for each in wanted.generic:
        if load.generic_left(each.kind) < each.count:
            return f"insufficient {each.kind}"
    for each in task.generic:
        if each.names and not set(each.names) <= set(load.names_left(each.kind)):
            return f"insufficient {each.kind}: it has no {', '.join(each.names)} any more"
    return ""
