"""What a node's state means for its tasks.

A node that managers have not heard of since the leader changed (UNKNOWN), or that has just left its session
(DISCONNECTED), is never decided on: its tasks count as running. Only DOWN, drain and removal take tasks away.
"""

from __future__ import annotations

import enum

import attrs

from swarmpy.control.decision import Decision
from swarmpy.model import changes
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Node, Task
from swarmpy.model.states import Availability, Cause, NodeState, TaskState
from swarmpy.store.view import View

NO_PLACE = "is no place for this task any more: "


class Standing(enum.Enum):
    """What may be expected of a task because of where it is."""

    FINE = "fine"
    """On a node that is to keep it, or on none yet."""
    DRAINED = "drained"
    """It runs, but its node is to be empty: an operator wants it so, or it is about to leave or restart."""
    MISPLACED = "misplaced"
    """It runs on a node that is no place for it any more, until another one does its work."""
    DOWN = "down"
    """Its node does not answer; it may run there still, and nobody can tell."""
    GONE = "gone"
    """Its node is no member any more."""

    @property
    def is_lost(self) -> bool:
        """True when nobody can ask the node to do anything."""
        return self in (Standing.DOWN, Standing.GONE)

    @property
    def is_to_go(self) -> bool:
        """True when the task is to run elsewhere, and may do its work until then."""
        return self in (Standing.DRAINED, Standing.MISPLACED)

    @property
    def cause(self) -> Cause:
        """Why a task may have to go because of it."""
        return _CAUSES.get(self, Cause.NODE_LOST)


_CAUSES = {Standing.DRAINED: Cause.DRAIN, Standing.MISPLACED: Cause.MISPLACED}


def is_misplaced(task: Task) -> bool:
    """True for a task that runs, and that another one is to replace elsewhere (``control.enforcer``)."""
    return task.cause is Cause.MISPLACED and task.desired_state.is_wanted


def standing_of(node: Node | None) -> Standing:
    """The standing of the tasks on ``node``; None is a node that was removed."""
    if node is None:
        return Standing.GONE
    if node.status.state is NodeState.DOWN:
        return Standing.DOWN
    if node.availability is Availability.DRAIN:
        return Standing.DRAINED
    return Standing.FINE


def standing(view: View, task: Task) -> Standing:
    """The standing of a task; FINE for one without a node."""
    return Standing.FINE if task.node_id is None else standing_on(standing_of(view.node(task.node_id)), task)


def standing_on(of_node: Standing, task: Task) -> Standing:
    """The standing of a task on a node whose tasks have this one, unless it is a matter of the task."""
    return Standing.MISPLACED if of_node is Standing.FINE and is_misplaced(task) else of_node


def no_place(node_id: NodeId, reason: str) -> str:
    """Why a task must leave its node though the node is well."""
    return f"node {node_id} {NO_PLACE}{reason}"


def orphaned(task: Task, now_ns: int) -> Task:
    """``task`` as it is once its node has left the cluster: nobody will ever report on it again."""
    status = attrs.evolve(
        task.status,
        state=TaskState.ORPHANED,
        timestamp_ns=now_ns,
        message="orphaned",
        err=f"node {task.node_id} was removed from the cluster",
    )
    return attrs.evolve(task, status=status, applied_at_ns=now_ns)


def can_be_orphaned(task: Task) -> bool:
    """True for a task that was given to a node and is not known to have ended."""
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def decide(view: View, now_ns: int) -> Decision:
    """Tasks of nodes that are no members any more become ORPHANED. Their services then replace them."""
    gone = [node_id for node_id in view.nodes_with_tasks() if view.node(node_id) is None]
    lost = [task for node_id in gone for task in view.tasks_on_node(node_id) if can_be_orphaned(task)]
    return Decision(changes=tuple(changes.update(orphaned(task, now_ns)) for task in lost))


def affected_services(view: View, node_id: NodeId) -> tuple[ServiceId, ...]:
    """The services to be decided anew when something about the node has changed."""
    found = dict.fromkeys(task.service_id for task in view.tasks_on_node(node_id))
    found.update(dict.fromkeys(s.id for s in view.services() if s.spec.mode.is_global))
    return tuple(found)
