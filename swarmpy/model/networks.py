"""The networks that every node has already, by the names that Docker has for them.

Of the networks that a spec may name they are the only ones that there are: ``bridge`` is where containers are anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.model.specs import TaskSpec

HOST = "host"
"""The node's own: a container in it has no network of its own, and listens at the node's addresses."""
BRIDGE = "bridge"
PREDEFINED = (BRIDGE, HOST)


def is_on_host(task: TaskSpec) -> bool:
    """True when the task's container shares the network of its node."""
    return any(network.target == HOST for network in task.networks)


def missing_networks(task: TaskSpec) -> tuple[str, ...]:
    """The networks of the spec that no node has: they are kept in it, and nothing else is done with them."""
    return tuple(network.target for network in task.networks if network.target not in PREDEFINED)


def networks_warning(names: Sequence[str]) -> str:
    """What a user should know who has asked for networks that no node has."""
    return (
        f"networks: {', '.join(names)} are accepted, but overlay networks are not available yet: "
        "services reach each other through published ports"
    )
