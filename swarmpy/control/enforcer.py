"""Tasks whose node became another under them: it meets their constraints no more, or has less than they reserve.

They are shut down, and their services replace them elsewhere (swarmkit ``manager/orchestrator/constraintenforcer``).
Only nodes that answer and take tasks are looked at: what is known of others is old, or they are being emptied anyhow.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from swarmpy.control.constraints import broken_constraint
from swarmpy.control.decision import Decision
from swarmpy.control.draft import is_active, is_held_by_node, retired
from swarmpy.control.loads import NodeLoad, reservation
from swarmpy.model import changes
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node, Task
from swarmpy.model.states import ServiceMode, TaskState
from swarmpy.store.view import View


def decide(view: View, node_ids: Iterable[NodeId], now_ns: int) -> Decision:
    """Shut down what must not stay on these nodes."""
    found = []
    for node_id in node_ids:
        node = view.node(node_id)
        for task, reason in misplaced(view, node) if node else ():
            status = attrs.evolve(task.status, err=f"node {node_id} is no place for this task any more: {reason}")
            found.append(changes.update(retired(attrs.evolve(task, status=status), TaskState.SHUTDOWN, now_ns)))
    return Decision(changes=tuple(found))


def misplaced(view: View, node: Node) -> list[tuple[Task, str]]:
    """The tasks that must not stay on the node, each with the reason.

    Where the node has not enough for all, the oldest tasks stay.
    """
    load = NodeLoad.of(node)
    if not load.is_open:
        return []
    found = []
    tasks = [task for task in view.tasks_on_node(node.id) if is_active(task) and is_held_by_node(task)]
    for task in sorted(tasks, key=lambda task: (task.meta.created_at_ns, task.id)):
        reason = _broken_constraint(view, node, task) or _shortage(load, task)
        if reason:
            found.append((task, reason))
        else:
            load.use(task, task.generic, 1)
    return found


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
