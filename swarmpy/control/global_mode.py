"""Global services: one task on every node that may have one. The node is the slot."""

from __future__ import annotations

from swarmpy.control.constraints import broken_constraint
from swarmpy.control.draft import Draft, is_active
from swarmpy.control.nodes import Standing, no_place, standing_of
from swarmpy.control.outdated import meets_constraints
from swarmpy.control.slots import SlotKey
from swarmpy.model.objects import Node
from swarmpy.model.states import Availability, Cause, NodeState


def release_node(draft: Draft, key: SlotKey) -> None:
    """Take the task from a node that must not have one. Nothing replaces it: another node has its own."""
    active = [task for task in draft.slot(key) if is_active(task)]
    if not active:
        return
    node = draft.view.node(str(key))
    if node is None:
        for task in draft.slot(key):
            draft.remove(task, Cause.NODE_LOST)
        return
    broken = broken_constraint(draft.service.spec.task.placement, node)
    standing = standing_of(node)
    for task in active:
        if broken is not None:
            draft.explain(task, no_place(node.id, f"constraint {broken} is not met"))
            draft.retire(draft.latest(task), Cause.MISPLACED)
        elif standing is not Standing.FINE:
            draft.retire(task, standing.cause)


def begin_on_node(draft: Draft, key: SlotKey) -> None:
    """Start a task on the node if it should have one and has none."""
    node = draft.view.node(str(key))
    if node is None or any(map(is_active, draft.slot(key))):
        return
    if takes_new_tasks(node) and meets_constraints(draft.service, node):
        draft.start(node.id)


def takes_new_tasks(node: Node) -> bool:
    """True when a task may be started on the node."""
    return node.status.state is NodeState.READY and node.availability is Availability.ACTIVE
