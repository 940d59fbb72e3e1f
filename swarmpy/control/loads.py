"""What is left of each node, kept from one decision to the next.

:class:`Loads` is built from a view once and then follows the changes of nodes and tasks, so that placing looks at the
tasks that wait and never at all tasks. It is a sum over the tasks: whatever the order of changes, it is the same as
one that is built anew from the state they lead to.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Self, TypeVar

import attrs

from swarmpy.control.draft import is_active, is_held_by_node
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Node, Task, TaskStatus
from swarmpy.model.specs import GenericResource, Resources
from swarmpy.model.states import Availability, NodeState, TaskState
from swarmpy.store.view import View

HostPort = tuple[str, int]
_Key = TypeVar("_Key", bound=Hashable)
Group = tuple[ServiceId, int]
"""The tasks of one version of a service."""

_NOTHING = Resources()


def reservation(task: Task) -> Resources:
    """What the task reserves."""
    resources = task.spec.resources
    return _NOTHING if resources is None or resources.reservations is None else resources.reservations


def host_ports(task: Task) -> tuple[HostPort, ...]:
    """The host ports that the task needs for itself."""
    return tuple((p.protocol, p.published_port) for p in task.ports if p.publish_mode == "host" and p.published_port)


@attrs.define(eq=True, kw_only=True)
class NodeLoad:
    """What the tasks of one node use."""

    id: NodeId
    node: Node | None = None
    """None of a node that tasks were left on when it was removed."""
    is_open: bool = False
    """It answers, and takes new tasks."""
    cpu_used: int = 0
    memory_used: int = 0
    total: int = 0
    """Tasks that are meant to run here."""
    host_ports: dict[HostPort, int] = attrs.Factory(dict)
    """How many tasks hold each."""
    generic: dict[str, int] = attrs.Factory(dict)
    """How many of each kind are in use."""
    names: dict[tuple[str, str], int] = attrs.Factory(dict)
    """Which named ones are, by kind and name."""

    @classmethod
    def of(cls, node: Node) -> Self:
        """An empty node."""
        load = cls(id=node.id)
        load.become(node)
        return load

    @property
    def has(self) -> Resources:
        """What the node has in all."""
        return _NOTHING if self.node is None else self.node.description.resources

    def become(self, node: Node | None) -> None:
        """The node is now like this."""
        self.node = node
        self.is_open = (
            node is not None
            and node.status.state is NodeState.READY
            and node.availability is Availability.ACTIVE
            and not node.status.engine_away
        )

    def generic_left(self, kind: str) -> int:
        """How many of a kind of generic resource are left."""
        return sum(each.amount for each in self.has.generic if each.kind == kind) - self.generic.get(kind, 0)

    def has_names(self, kind: str) -> bool:
        """True when what the node has of a kind has names."""
        return any(each.kind == kind and each.names for each in self.has.generic)

    def names_left(self, kind: str) -> tuple[str, ...]:
        """The names of a kind that no task has; () where the kind has no names."""
        names = (name for each in self.has.generic if each.kind == kind for name in each.names)
        return tuple(name for name in names if (kind, name) not in self.names)

    def use(self, task: Task, generic: Sequence[GenericResource], times: int) -> None:
        """The task, which has these of its generic resources, uses what it needs of it (1), or does so no more (-1)."""
        wanted = reservation(task)
        self.cpu_used += times * wanted.nano_cpus
        self.memory_used += times * wanted.memory_bytes
        if task.ports:
            for port in host_ports(task):
                _add(self.host_ports, port, times)
        for each in wanted.generic:
            _add(self.generic, each.kind, times * each.count)
        for each in generic:
            for name in each.names:
                _add(self.names, (each.kind, name), times)


class _Weight:
    """What a task is to its node, as bits."""

    HELD, COUNTS, FAILED = 1, 2, 4


Assumption = tuple[Task, NodeId, TaskStatus, tuple[GenericResource, ...]]
"""A task as it waited; and the node, the status and the generic resources that it gets. There are many: a tuple."""

_TAKES_PART = _Weight.HELD | _Weight.COUNTS
_FAILED = (TaskState.FAILED, TaskState.REJECTED)


class Loads:
    """All nodes, what runs where, and the tasks that wait for a node."""

    def __init__(self) -> None:
        self.by_node: dict[NodeId, NodeLoad] = {}
        self.waiting: dict[ServiceId, dict[TaskId, Task]] = {}
        """Tasks that were not given to a node yet."""
        self.changes = 0
        """Grows with every change of what nodes have and tasks use, except by :meth:`assume`."""
        self.touched: set[NodeId] = set()
        """The nodes of which that was, since somebody emptied it."""
        self.looked_at: dict[ServiceId, int] = {}
        """Services whose waiting tasks were all refused, and say why, at that number of changes."""
        self._of_service: dict[ServiceId, dict[NodeId, int]] = {}
        self._failures: dict[Group, dict[TaskId, tuple[NodeId, int]]] = {}
        self._assumed: dict[TaskId, Assumption] = {}

    @classmethod
    def of(cls, view: View) -> Self:
        """As of a view."""
        loads = cls()
        for node in view.nodes():
            loads.node_changed(node.id, node)
        loads.add(view.tasks())
        return loads

    def add(self, tasks: Iterable[Task]) -> None:
        """Tasks that are not known yet."""
        waiting = self.waiting
        for task in tasks:
            if task.node_id is None and task.status.state < TaskState.ASSIGNED:
                of_service = waiting.get(task.service_id)
                if of_service is None:
                    of_service = waiting[task.service_id] = {}
                of_service[task.id] = task
            else:
                self.task_changed(None, task)

    # -- looking ------------------------------------------------------------------------------------------------------

    def nodes(self) -> Iterable[NodeLoad]:
        """The nodes that are members."""
        return (load for load in self.by_node.values() if load.node is not None)

    def of_service(self, service_id: ServiceId) -> dict[NodeId, int]:
        """How many tasks of the service are meant to run on each node that has some."""
        return self._of_service.get(service_id, {})

    @property
    def has_failures(self) -> bool:
        """False when no task of any group is known to have failed."""
        return bool(self._failures)

    def failures(self, group: Group, since_ns: int) -> dict[NodeId, int]:
        """How often tasks of the group failed on each node after ``since_ns``."""
        found: dict[NodeId, int] = {}
        for node_id, at_ns in self._failures.get(group, {}).values():
            if at_ns > since_ns:
                found[node_id] = found.get(node_id, 0) + 1
        return found

    # -- following ----------------------------------------------------------------------------------------------------

    def node_changed(self, node_id: NodeId, node: Node | None) -> None:
        """A node is new, or became ``node``, or was removed (None)."""
        load = self.by_node.get(node_id)
        if load is None:
            load = self.by_node[node_id] = NodeLoad(id=node_id)
        elif load.node is not None and node is not None and not _matters(load.node, node):
            load.node = node
            return
        load.become(node)
        self.touched.add(node_id)
        self.changes += 1

    def task_changed(self, old: Task | None, new: Task | None) -> None:
        """A task is new (``old`` is None), or became ``new``, or was removed (None)."""
        task = new or old
        if task is None:
            return
        assumed = self._assumed.pop(task.id, None)
        if assumed is not None and new is not None and _is_what(assumed, new):
            if (tasks := self.waiting.get(new.service_id)) and tasks.pop(new.id, None) and not tasks:
                del self.waiting[new.service_id]
            return
        self._wait(old, new)
        if assumed is None:
            counted = old
        else:
            waited, node_id, status, generic = assumed
            counted = attrs.evolve(waited, node_id=node_id, status=status, generic=generic)
        before, after = _weight(counted), _weight(new)
        if before == after and (not before or _is_same(counted, new)):
            return
        self.changes += 1
        if counted is not None and before:
            self._count(counted, counted.node_id, counted.generic, before, -1)
        if new is not None and after:
            self._count(new, new.node_id, new.generic, after, 1)

    def assume(
        self,
        tasks: Iterable[Task],
        order: Iterable[NodeLoad],
        status: TaskStatus,
        generic: Callable[[Task, NodeLoad], tuple[GenericResource, ...]] | None,
    ) -> list[tuple[NodeId, tuple[GenericResource, ...]]]:
        """Tasks of one service are being given to nodes in that order, as long as there are: what each gets.

        Each counts there before the next node is asked for, until its change comes or is given up.
        """
        given = []
        assumed, counts = self._assumed, None
        for task, load in zip(tasks, order, strict=False):
            node_id = load.id
            got = () if generic is None else generic(task, load)
            load.total += 1
            if counts is None:
                counts = self._of_service.setdefault(task.service_id, {})
            counts[node_id] = counts.get(node_id, 0) + 1
            if task.ports or task.spec.resources is not None:
                load.use(task, got, 1)
            assumed[task.id] = (task, node_id, status, got)
            given.append((node_id, got))
        return given

    def give_up(self) -> None:
        """What was assumed and has not come will not come."""
        if self._assumed:
            for task, node_id, _, generic in self._assumed.values():
                self._count(task, node_id, generic, _TAKES_PART, -1)
            self._assumed.clear()
            self.changes += 1

    def _wait(self, old: Task | None, new: Task | None) -> None:
        if new is not None and new.status.state < TaskState.ASSIGNED:
            self.waiting.setdefault(new.service_id, {})[new.id] = new
            self.looked_at.pop(new.service_id, None)
        elif old is not None and (tasks := self.waiting.get(old.service_id)) and tasks.pop(old.id, None) and not tasks:
            del self.waiting[old.service_id]

    def _count(
        self, task: Task, node_id: NodeId | None, generic: Sequence[GenericResource], weight: int, times: int
    ) -> None:
        if node_id is None:
            return
        self.touched.add(node_id)
        if weight & _Weight.FAILED:
            self._count_failure(task, node_id, times)
            return
        load = self.by_node.get(node_id)
        if load is None:
            load = self.by_node[node_id] = NodeLoad(id=node_id)
        if task.ports or task.spec.resources is not None:
            load.use(task, generic, times)
        if weight & _Weight.COUNTS:
            load.total += times
            counts = self._of_service.setdefault(task.service_id, {})
            _add(counts, node_id, times)
            if not counts:
                del self._of_service[task.service_id]

    def _count_failure(self, task: Task, node_id: NodeId, times: int) -> None:
        group = (task.service_id, task.spec_version)
        if times > 0:
            self._failures.setdefault(group, {})[task.id] = node_id, task.applied_at_ns
        elif found := self._failures.get(group):
            found.pop(task.id, None)
            if not found:
                del self._failures[group]


def _add(counts: dict[_Key, int], key: _Key, amount: int) -> None:
    left = counts.get(key, 0) + amount
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)


def _weight(task: Task | None) -> int:
    if task is None or task.node_id is None:
        return 0
    if is_held_by_node(task):
        return _TAKES_PART if is_active(task) else _Weight.HELD
    return _Weight.FAILED if task.status.state in _FAILED else 0


def _is_what(assumed: Assumption, new: Task) -> bool:
    """True for what was assumed, written as it was: the status is the very same object."""
    _, node_id, status, _ = assumed
    if new.status is not status or new.node_id != node_id:
        return False
    return new.desired_state is TaskState.RUNNING or new.desired_state.is_wanted


def _is_same(one: Task | None, other: Task | None) -> bool:
    """True when two states of a task, of equal weight, are the same to its node."""
    if one is None or other is None:
        return one is other
    if one.status.state in _FAILED and one.applied_at_ns != other.applied_at_ns:
        return False
    return one.node_id == other.node_id and one.ports == other.ports and one.generic == other.generic


def _matters(old: Node, new: Node) -> bool:
    """True for a change that may change what the node takes."""
    return (old.spec, old.status, old.description, old.role) != (new.spec, new.status, new.description, new.role)
