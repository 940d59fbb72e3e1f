"""Global services: one task on every node that may have one. The node is the slot."""

from __future__ import annotations

from swarmpy.control.constraints import broken_constraint
from swarmpy.control.draft import Draft, is_active
from swarmpy.control.nodes import Standing, no_place, standing_of
from swarmpy.control.outdated import meets_constraints
from swarmpy.model.objects import Node
from swarmpy.model.states import Availability, Cause, NodeState


def release_nodes(draft: Draft) -> None:
    """Take the tasks from nodes that must not have one. Nothing replaces them: another node has its own."""
    for key in draft.slots:
        active = [task for task in draft.slot(key) if is_active(task)]
        if not active:
            continue
        node = draft.view.node(str(key))
        if node is None:
            for task in draft.slot(key):
                draft.remove(task, Cause.NODE_LOST)
            continue
        broken = broken_constraint(draft.service.spec.task.placement, node)
        standing = standing_of(node)
        for task in active:
            if broken is not None:
                draft.explain(task, no_place(node.id, f"constraint {broken} is not met"))
                draft.retire(draft.slots[key][task.id], Cause.MISPLACED)
            elif standing is not Standing.FINE:
                draft.retire(task, standing.cause)


def decide_nodes(draft: Draft) -> None:
    """Start a task on each node that should have one and has none."""
    for node in draft.view.nodes():
        if any(is_active(task) for task in draft.slot(node.id)):
            continue
        if takes_new_tasks(node) and meets_constraints(draft.service, node):
            draft.start(node.id)


def takes_new_tasks(node: Node) -> bool:
    """True when a task may be started on the node."""
    return node.status.state is NodeState.READY and node.availability is Availability.ACTIVE
