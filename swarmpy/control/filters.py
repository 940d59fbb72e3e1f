"""Which nodes may take a task. Each filter decides, and says why not.

Words of the explanations are Docker's, with the detail behind a colon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import attrs

from swarmpy.control.constraints import Constraint
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Node, Task
from swarmpy.model.specs import Resources
from swarmpy.model.states import Availability, NodeState

UNBOUNDED = 1 << 60

HostPort = tuple[str, int]


@attrs.define(kw_only=True)
class NodeLoad:
    """A node and what is left of it, kept up to date while tasks are placed."""

    node: Node
    cpu_left: int
    memory_left: int
    host_ports: set[HostPort] = attrs.Factory(set)
    per_service: dict[ServiceId, int] = attrs.Factory(dict)
    """Tasks that are meant to run here, by service."""
    total: int = 0

    @classmethod
    def of(cls, node: Node) -> NodeLoad:
        """An empty node."""
        resources = node.description.resources
        return cls(node=node, cpu_left=resources.nano_cpus, memory_left=resources.memory_bytes)

    @property
    def id(self) -> NodeId:
        """The node's id."""
        return self.node.id

    def tasks_of(self, service_id: ServiceId) -> int:
        """Tasks of a service that are meant to run here."""
        return self.per_service.get(service_id, 0)

    def occupy(self, task: Task) -> None:
        """The task uses resources and ports of the node."""
        reserved = reservation(task)
        self.cpu_left -= reserved.nano_cpus
        self.memory_left -= reserved.memory_bytes
        if task.ports:
            self.host_ports.update(host_ports(task))

    def count(self, task: Task) -> None:
        """The task is meant to run here."""
        self.per_service[task.service_id] = self.per_service.get(task.service_id, 0) + 1
        self.total += 1


_NOTHING = Resources()


def reservation(task: Task) -> Resources:
    """What the task reserves."""
    resources = task.spec.resources
    return _NOTHING if resources is None or resources.reservations is None else resources.reservations


def host_ports(task: Task) -> tuple[HostPort, ...]:
    """The host ports that the task needs for itself."""
    return tuple((p.protocol, p.published_port) for p in task.ports if p.publish_mode == "host" and p.published_port)


class Filter(Protocol):
    """Made for the tasks of one group, asked for each node."""

    def room(self, load: NodeLoad) -> int:
        """How many tasks of the group the node can take, as far as this filter is concerned."""

    def explain(self, refused: Sequence[NodeLoad]) -> str:
        """Why these nodes can take none."""


class ReadyFilter:
    """The node answers and takes new tasks."""

    def room(self, load: NodeLoad) -> int:
        """All or none."""
        node = load.node
        is_open = node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE
        return UNBOUNDED if is_open else 0

    def explain(self, refused: Sequence[NodeLoad]) -> str:
        """How many are down, drained, paused."""
        reasons = Counter(_closed(load.node) for load in refused)
        return f"{_nodes(len(refused))} not available for new tasks: {_listed(reasons)}"


class ResourceFilter:
    """The node has the reserved CPU and memory left."""

    def __init__(self, task: Task) -> None:
        self._wanted = reservation(task)

    def room(self, load: NodeLoad) -> int:
        """As often as the reservation fits."""
        wanted, room = self._wanted, UNBOUNDED
        if wanted.nano_cpus:
            room = min(room, max(0, load.cpu_left) // wanted.nano_cpus)
        if wanted.memory_bytes:
            room = min(room, max(0, load.memory_left) // wanted.memory_bytes)
        return room

    def explain(self, refused: Sequence[NodeLoad]) -> str:
        """What is missing on how many."""
        wanted = self._wanted
        reasons: Counter[str] = Counter()
        for load in refused:
            reasons["memory"] += load.memory_left < wanted.memory_bytes
            reasons["CPU"] += load.cpu_left < wanted.nano_cpus
        return f"insufficient resources on {_nodes(len(refused))}: {_listed(reasons, 'on')}"


class ConstraintFilter:
    """The node meets the placement constraints."""

    def __init__(self, task: Task) -> None:
        texts = task.spec.placement.constraints if task.spec.placement else ()
        self._constraints = [(text, _parse(text)) for text in texts]

    def room(self, load: NodeLoad) -> int:
        """All or none."""
        return UNBOUNDED if self._broken(load.node) is None else 0

    def explain(self, refused: Sequence[NodeLoad]) -> str:
        """Which constraint is the first not met, on how many."""
        reasons = Counter(self._broken(load.node) or "" for load in refused)
        return f"scheduling constraints not satisfied on {_nodes(len(refused))}: {_listed(reasons, 'on')}"

    def _broken(self, node: Node) -> str | None:
        for text, constraint in self._constraints:
            if constraint is None or not constraint.is_met_by(node):
                return text
        return None


class HostPortFilter:
    """The ports that the task needs on its node are free."""

    def __init__(self, task: Task) -> None:
        self._wanted = host_ports(task)

    def room(self, load: NodeLoad) -> int:
        """One at most, if there are any."""
        if not self._wanted:
            return UNBOUNDED
        return 0 if any(port in load.host_ports for port in self._wanted) else 1

    def explain(self, refused: Sequence[NodeLoad]) -> str:
        """Which port, on how many."""
        reasons = Counter(
            f"{port}/{protocol}" for x in refused for protocol, port in self._wanted if (protocol, port) in x.host_ports
        )
        return f"host-mode port already in use on {_nodes(len(refused))}: {_listed(reasons, 'on')}"


class MaxReplicasFilter:
    """The node has fewer tasks of the service than allowed."""

    def __init__(self, task: Task) -> None:
        self._service_id = task.service_id
        self._most = task.spec.placement.max_replicas if task.spec.placement else 0

    def room(self, load: NodeLoad) -> int:
        """What is left up to the bound."""
        return max(0, self._most - load.tasks_of(self._service_id)) if self._most else UNBOUNDED

    def explain(self, refused: Sequence[NodeLoad]) -> str:
        """The bound, and how many reached it."""
        return f"max replicas per node limit exceed: {self._most} on {_nodes(len(refused))}"


class Pipeline:
    """All filters for the tasks of one group, in order."""

    def __init__(self, task: Task) -> None:
        self._filters: tuple[Filter, ...] = (
            ReadyFilter(),
            ResourceFilter(task),
            ConstraintFilter(task),
            HostPortFilter(task),
            MaxReplicasFilter(task),
        )

    def room(self, load: NodeLoad) -> int:
        """How many tasks of the group the node can take."""
        room = UNBOUNDED
        for check in self._filters:
            room = min(room, check.room(load))
            if not room:
                break
        return room

    def explain(self, loads: Iterable[NodeLoad]) -> str:
        """Why none of the nodes can take a task: the most frequent reason first."""
        refused: dict[int, list[NodeLoad]] = {}
        for load in loads:
            for index, check in enumerate(self._filters):
                if not check.room(load):
                    refused.setdefault(index, []).append(load)
                    break
        order = sorted(refused.items(), key=lambda item: (-len(item[1]), item[0]))
        reasons = "; ".join(self._filters[index].explain(nodes) for index, nodes in order)
        return f"no suitable node ({reasons})" if reasons else "no suitable node"


def _parse(text: str) -> Constraint | None:
    """None for one that cannot be met because it cannot be read; specs are validated, old ones may be stored."""
    try:
        return Constraint.parse(text)
    except InvalidArgument:
        return None


def _closed(node: Node) -> str:
    if node.status.state is not NodeState.READY:
        return node.status.state.value
    return {Availability.DRAIN: "drained", Availability.PAUSE: "paused"}.get(node.spec.availability, "")


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _listed(reasons: Counter[str], word: str = "") -> str:
    ordered = sorted(((count, reason) for reason, count in reasons.items() if count), key=lambda r: (-r[0], r[1]))
    if word:
        return ", ".join(f"{reason} {word} {count}" for count, reason in ordered)
    return ", ".join(f"{count} {reason}" for count, reason in ordered)
