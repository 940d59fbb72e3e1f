"""What is written down of a node as its agent tells it, and when it falls silent."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from swarmpy.errors import NodeRemoved
from swarmpy.manager import claims
from swarmpy.manager.incarnations import superseded
from swarmpy.manager.trust import seen
from swarmpy.model.assignments import Heartbeat, SessionRequest
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node, NodeStatus
from swarmpy.model.schema import SERVICES_VERSION
from swarmpy.model.states import NodeState
from swarmpy.ports import Peer
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View


def register(tx: Tx, peer: Peer, node_id: NodeId, request: SessionRequest) -> None:
    """The node is there, and is as it says. Raises NodeRemoved, and Superseded where it knows a later incarnation."""
    if request.incarnation > tx.cluster().incarnation:
        raise superseded()
    node = tx.node(node_id)
    if node is None:
        raise NodeRemoved(f"node {node_id} was removed from the cluster: leave it and join again")
    status = attrs.evolve(node.status, state=NodeState.READY, address=request.address)
    if node.status.state != NodeState.READY:
        # Whether it is leaving its first heartbeat tells: until then it is given nothing.
        status = NodeStatus(state=NodeState.READY, address=request.address, leaving=node.status.leaving)
    tls = seen(tx.cluster(), node, peer, request.roots)
    description = claims.written(request.description, tx.cluster().schema)
    if (status, description, tls) != (node.status, node.description, node.tls):
        tx.update(attrs.evolve(node, status=status, description=description, tls=tls))


def says_more(view: View, node_id: NodeId, beat: Heartbeat) -> bool:
    """True when a heartbeat tells something else than is written down."""
    node = view.node(node_id)
    return node is not None and _told(view, node, beat) != node.status


def note(tx: Tx, node_id: NodeId, beat: Heartbeat) -> None:
    """What does not work on the node is now this, and whether it is about to leave."""
    node = tx.node(node_id)
    if node is not None and (status := _told(tx, node, beat)) != node.status:
        tx.update(attrs.evolve(node, status=status))


def empties(view: View) -> bool:
    """True when all managers of the cluster know what to do about a node that is about to leave."""
    return view.cluster().schema >= SERVICES_VERSION


def mark_down(tx: Tx, node_ids: Iterable[NodeId]) -> None:
    """These nodes have been silent for too long."""
    for node_id in node_ids:
        node = tx.node(node_id)
        if node is not None and node.status.state != NodeState.DOWN:
            status = attrs.evolve(node.status, state=NodeState.DOWN, message="heartbeat failure")
            tx.update(attrs.evolve(node, status=status))


def _told(view: View, node: Node, beat: Heartbeat) -> NodeStatus:
    is_known = empties(view)
    return attrs.evolve(
        node.status,
        message=claims.problems_line(beat.problems),
        engine_away=beat.engine_away and is_known,
        leaving=beat.leaving and is_known,
    )
