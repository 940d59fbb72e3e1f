"""Which nodes may take a task. Each filter decides, and says why not.

The filters and their order are swarmkit's (``manager/scheduler/filter.go``): a node is refused by the first that does
not let it pass. Words of the explanations are Docker's where it has some, with the detail behind a colon.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, Self

import attrs

from swarmpy.control.constraints import architecture, broken_constraint
from swarmpy.control.loads import HostPort, NodeLoad, host_ports, reservation
from swarmpy.control.measures import cpus, size
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Node, Plugin, Task
from swarmpy.model.specs import Placement, Platform, Resources
from swarmpy.model.states import Availability, NodeState

UNBOUNDED = 1 << 60

_ANYWHERE = Placement()

Counts = Callable[[NodeId], int]
"""How many tasks of the service are meant to run on a node."""
Reason = tuple[int, str]
"""On how many nodes, and why."""


@attrs.frozen(kw_only=True)
class Wants:
    """All that placement looks at in a task, but for its version: tasks that want the same are placed together."""

    service_id: ServiceId
    reserved: Resources
    plugins: tuple[Plugin, ...]
    placement: Placement
    host_ports: tuple[HostPort, ...]

    @classmethod
    def of(cls, task: Task) -> Self:
        """Of a task."""
        return cls(
            service_id=task.service_id,
            reserved=reservation(task),
            plugins=plugins_of(task),
            placement=task.spec.placement or _ANYWHERE,
            host_ports=host_ports(task) if task.ports else (),
        )


_FREE = re.compile(r"largest free [^,]*")


def without_free(reason: str) -> str:
    """A reason without how much is free, which changes with every task that comes or goes."""
    return _FREE.sub("", reason)


def plugins_of(task: Task) -> tuple[Plugin, ...]:
    """The drivers that the task needs on its node, but for those that every engine has."""
    found = [
        Plugin(type="volume", name=_plugin_name(mount.volume_driver))
        for mount in task.spec.container.mounts
        if mount.type == "volume" and mount.volume_driver not in ("", "local")
    ]
    driver = task.spec.log_driver
    if driver is not None and driver.name not in ("", "none"):
        found.append(Plugin(type="log", name=_plugin_name(driver.name)))
    return tuple(dict.fromkeys(found))


class Filter(Protocol):
    """Made for tasks that want the same, asked for each node."""

    def room(self, load: NodeLoad) -> int:
        """How many of the tasks the node can take, as far as this filter is concerned."""

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """Why these nodes can take none."""


class ReadyFilter:
    """The node answers and takes new tasks."""

    def room(self, load: NodeLoad) -> int:
        """All or none."""
        return UNBOUNDED if load.is_open else 0

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """How many are down, drained, paused."""
        reasons = Counter(_closed(load.node) for load in refused if load.node is not None)
        return [(count, f"{_nodes(count)} {reason}") for reason, count in reasons.items()]


class ResourceFilter:
    """The node has what is reserved left: CPU, memory, generic resources."""

    def __init__(self, wanted: Resources) -> None:
        self._wanted = wanted

    def room(self, load: NodeLoad) -> int:
        """As often as the reservation fits."""
        return min((max(0, left) // wanted for _, left, wanted, _ in self._measured(load)), default=UNBOUNDED)

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """What is missing on how many nodes, and by how much on the one that has most of it."""
        short: dict[str, list[tuple[int, int, Callable[[int], str]]]] = {}
        for load in refused:
            for name, left, wanted, shown in self._measured(load):
                if left < wanted:
                    short.setdefault(name, []).append((max(0, left), wanted, shown))
        return [(len(lacking), _shortage(name, lacking)) for name, lacking in short.items()]

    def _measured(self, load: NodeLoad) -> Iterable[tuple[str, int, int, Callable[[int], str]]]:
        wanted, has = self._wanted, load.has
        if wanted.memory_bytes:
            yield "memory", has.memory_bytes - load.memory_used, wanted.memory_bytes, size
        if wanted.nano_cpus:
            yield "CPU", has.nano_cpus - load.cpu_used, wanted.nano_cpus, cpus
        for each in wanted.generic:
            if each.count:
                yield each.kind, load.generic_left(each.kind), each.count, str


class PluginFilter:
    """The node has the drivers, where it tells which it has (swarmkit: as engines before 1.13 did not)."""

    def __init__(self, wanted: Sequence[Plugin]) -> None:
        self._wanted = wanted

    def room(self, load: NodeLoad) -> int:
        """All or none."""
        return UNBOUNDED if self._missing(load.node) is None else 0

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """Which driver is the first that is missing, on how many."""
        missing = Counter(self._missing(load.node) for load in refused)
        reasons = Counter({f"{plugin.type} driver {plugin.name}": n for plugin, n in missing.items() if plugin})
        return [(len(refused), f"missing plugin on {_nodes(len(refused))}: {_listed(reasons)}")]

    def _missing(self, node: Node | None) -> Plugin | None:
        has = () if node is None else node.description.plugins
        for plugin in self._wanted:
            names = [_plugin_name(each.name) for each in has if each.type == plugin.type]
            if names and plugin.name not in names:
                return plugin
        return None


class ConstraintFilter:
    """The node meets the placement constraints."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    def room(self, load: NodeLoad) -> int:
        """All or none."""
        return UNBOUNDED if load.node is not None and broken_constraint(self._placement, load.node) is None else 0

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """Which constraint is the first not met, on how many."""
        reasons = Counter(broken_constraint(self._placement, x.node) or "" for x in refused if x.node is not None)
        return [(len(refused), f"scheduling constraints not satisfied on {_nodes(len(refused))}: {_listed(reasons)}")]


class PlatformFilter:
    """The image exists for the node's operating system and architecture."""

    def __init__(self, platforms: Sequence[Platform]) -> None:
        self._wanted = platforms

    def room(self, load: NodeLoad) -> int:
        """All or none."""
        has = Platform() if load.node is None else load.node.description.platform
        return UNBOUNDED if any(_is_of(has, platform) for platform in self._wanted) else 0

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """What the image exists for."""
        wanted = ", ".join(dict.fromkeys(f"{p.os or 'any'}/{p.architecture or 'any'}" for p in self._wanted))
        return [(len(refused), f"unsupported platform on {_nodes(len(refused))}: the image is for {wanted}")]


class HostPortFilter:
    """The ports that the task needs on its node are free."""

    def __init__(self, wanted: Sequence[HostPort]) -> None:
        self._wanted = wanted

    def room(self, load: NodeLoad) -> int:
        """One at most."""
        return 0 if any(port in load.host_ports for port in self._wanted) else 1

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """Which port, on how many."""
        reasons = Counter(
            f"{port}/{protocol}" for x in refused for protocol, port in self._wanted if (protocol, port) in x.host_ports
        )
        return [(len(refused), f"host-mode port already in use on {_nodes(len(refused))}: {_listed(reasons)}")]


class MaxReplicasFilter:
    """The node has fewer tasks of the service than allowed."""

    def __init__(self, most: int, counts: Counts) -> None:
        self._most = most
        self._counts = counts

    def room(self, load: NodeLoad) -> int:
        """What is left up to the bound."""
        return max(0, self._most - self._counts(load.id))

    def explain(self, refused: Sequence[NodeLoad]) -> list[Reason]:
        """The bound, and how many reached it."""
        return [(len(refused), f"max replicas per node limit exceed: {self._most} on {_nodes(len(refused))}")]


class Pipeline:
    """The filters for tasks that want the same, in order; those that they have no need of are left out."""

    def __init__(self, wants: Wants, counts: Counts) -> None:
        reserved, placement = wants.reserved, wants.placement
        filters: list[Filter] = [ReadyFilter()]
        if reserved.nano_cpus or reserved.memory_bytes or reserved.generic:
            filters.append(ResourceFilter(reserved))
        if wants.plugins:
            filters.append(PluginFilter(wants.plugins))
        if placement.constraints:
            filters.append(ConstraintFilter(placement))
        if placement.platforms:
            filters.append(PlatformFilter(placement.platforms))
        if wants.host_ports:
            filters.append(HostPortFilter(wants.host_ports))
        if placement.max_replicas:
            filters.append(MaxReplicasFilter(placement.max_replicas, counts))
        self._filters = tuple(filters)

    def room(self, load: NodeLoad) -> int:
        """How many of the tasks the node can take."""
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
        found = [(-count, index, text) for index, at in refused.items() for count, text in self._reasons(index, at)]
        reasons = "; ".join(text for _, _, text in sorted(found))
        return f"no suitable node ({reasons})" if reasons else "no suitable node"

    def _reasons(self, index: int, refused: Sequence[NodeLoad]) -> list[Reason]:
        return self._filters[index].explain(refused)


def _plugin_name(name: str) -> str:
    return name.removesuffix(":latest")


def _is_of(has: Platform, wanted: Platform) -> bool:
    """True when ``has`` is what is wanted; what is not said is any."""
    is_architecture = not wanted.architecture or architecture(wanted.architecture) == architecture(has.architecture)
    return is_architecture and (not wanted.os or wanted.os.lower() == has.os.lower())


def _closed(node: Node) -> str:
    if node.status.state is not NodeState.READY:
        return node.status.state.value
    if node.availability is Availability.ACTIVE:
        return "without an engine that answers"
    if node.status.leaving:
        return "about to leave or restart"
    return {Availability.DRAIN: "drained", Availability.PAUSE: "paused"}.get(node.availability, "")


def _shortage(name: str, lacking: Sequence[tuple[int, int, Callable[[int], str]]]) -> str:
    most, wanted, shown = max(lacking, key=lambda each: each[0])
    free, needs = shown(most), shown(wanted)
    if free == needs:
        # So little is missing that it does not show.
        free, needs = str(most), str(wanted)
    return f"insufficient {name} on {_nodes(len(lacking))}: largest free {free}, needs {needs}"


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _listed(reasons: Counter[str]) -> str:
    ordered = sorted(((count, reason) for reason, count in reasons.items() if count), key=lambda r: (-r[0], r[1]))
    return ", ".join(f"{reason} on {count}" for count, reason in ordered)
