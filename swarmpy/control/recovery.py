"""What becomes of the cluster's objects when one manager begins it anew, alone.

Services, tasks, tokens, the CA and the ids of the cluster and of every node stay. Only who manages is another: the
managers that were are workers from now on, and count as lost until they are heard of.
"""

from __future__ import annotations

from typing import TypeVar

import attrs

from swarmpy.model import changes
from swarmpy.model.changes import Change
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster, ManagerStatus, Node, NodeStatus
from swarmpy.model.schema import SCHEMA_VERSION
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import NodeState, Role
from swarmpy.store.view import View

LOST = "lost when the cluster was begun anew"
UNHEARD = "not heard of since the cluster was begun anew"
NS_PER_MS = 1_000_000
T = TypeVar("T", Cluster, Node)


def next_incarnation(cluster: Cluster, now_ns: int) -> int:
    """The incarnation of a cluster that is begun anew from ``cluster`` now."""
    return max(cluster.incarnation + 1, now_ns // NS_PER_MS)


def begun_anew(
    view: View, node_id: NodeId, manager: ManagerStatus, now_ns: int, *, new: Node | None = None
) -> tuple[Change, ...]:
    """The changes that make ``node_id`` the only manager; ``new`` is its node where the cluster has none of that id.

    Tasks are not touched: those of lost managers are replaced as on any node that is down, all others are taken to run
    until their nodes have had time to find the new leader.
    """
    cluster = view.cluster()
    # This manager is the only one, so what it reads all read; who does not know of incarnations must not come in.
    anew = attrs.evolve(cluster, incarnation=next_incarnation(cluster, now_ns), schema=SCHEMA_VERSION)
    found: list[Change] = [changes.update(_touched(anew, now_ns))]
    for node in view.nodes():
        after = _leading(node, manager) if node.id == node_id else _following(node)
        if after != node:
            found.append(changes.update(_touched(after, now_ns)))
    if view.node(node_id) is None:
        created = _leading(new or Node(id=node_id), manager)
        found.append(changes.create(_touched(created, now_ns, created=True)))
    return tuple(found)


def _leading(node: Node, manager: ManagerStatus) -> Node:
    return attrs.evolve(
        node,
        role=Role.MANAGER,
        spec=attrs.evolve(node.spec, role=Role.MANAGER),
        manager=manager,
        status=_unheard(node.status),
    )


def _following(node: Node) -> Node:
    was_manager = node.manager is not None or node.role is Role.MANAGER
    spec: NodeSpec = attrs.evolve(node.spec, role=Role.WORKER)
    status = _unheard(node.status)
    if was_manager:
        status = attrs.evolve(node.status, state=NodeState.DOWN, message=LOST)
    return attrs.evolve(node, role=Role.WORKER, spec=spec, manager=None, status=status)


def _unheard(status: NodeStatus) -> NodeStatus:
    if status.state is NodeState.DOWN:
        return status
    return attrs.evolve(status, state=NodeState.UNKNOWN, message=UNHEARD)


def _touched(obj: T, now_ns: int, *, created: bool = False) -> T:
    created_at_ns = now_ns if created else obj.meta.created_at_ns
    return attrs.evolve(obj, meta=attrs.evolve(obj.meta, created_at_ns=created_at_ns, updated_at_ns=now_ns))
