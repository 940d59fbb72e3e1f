"""Who may be asked what: the cluster's objects are the managers' affair. The texts are the ones clients look for."""

from __future__ import annotations

from swarmpy.api.backend import ManagerBackend, NodeBackend
from swarmpy.errors import NotInCluster, SwarmLocked

_NO_CLUSTER = (
    'This node is not a swarm manager: it is in no swarm. Create one ("swarm init") or join one, and try again.'
)
_WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
_PENDING = "This node is joining a swarm and is not a swarm manager yet. Try again in a moment."


def require_manager(node: NodeBackend) -> ManagerBackend:
    """The manager on this node. Raises NotInCluster, which says what this node is instead."""
    if node.manager is not None:
        return node.manager
    match node.local_state:
        case "active":
            raise NotInCluster(_WORKER)
        case "pending":
            raise NotInCluster(_PENDING)
        case "locked":
            raise SwarmLocked
        case "error":
            raise NotInCluster(f"This node is not a swarm manager: {node.error}")
        case _:
            raise NotInCluster(_NO_CLUSTER)
