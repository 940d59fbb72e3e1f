"""Tables of immutable objects with secondary indexes, and how layers of them are read as one.

A :class:`Layer` holds one table of each kind. The committed state is a layer; what is proposed but not yet committed is
a layer above it, and what a transaction has written so far is a layer above that. An upper layer holds only what
differs; None there hides the object of a lower one. Reading through layers costs what is read, never what is stored.

Order is deterministic: objects come in the order of their creation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

import attrs

from swarmpy.model.objects import Cluster, Config, Kind, Node, Secret, Service, Task
from swarmpy.model.references import kept_by_service, kept_by_task, references
from swarmpy.model.states import TaskState

T = TypeVar("T")


@attrs.frozen(eq=False)
class Index(Generic[T]):
    """A secondary index: ``key`` gives the group an object belongs to, or None when it is in no group.

    With ``many`` it gives a tuple of all the groups that the object belongs to.
    """

    name: str
    key: Callable[[T], Hashable]
    many: bool = False
    fields: frozenset[str] = frozenset()
    """Of those that a patch of a task may change: which ``key`` looks at."""
    most: Callable[[Any], Collection[Hashable]] | None = None
    """Told the spec of a task: all the groups it may ever belong to. Most specs have none."""

    def has(self, obj: T, key: Hashable) -> bool:
        """True when ``obj`` belongs to the group ``key``."""
        found = self.key(obj)
        return key in found if self.many and isinstance(found, tuple) else found == key


def _held_ports(service: Service) -> tuple[Hashable, ...]:
    # A service that is being removed has given up its ports.
    if not service.ports or service.pending_delete:
        return ()
    return tuple({(port.protocol, port.published_port): None for port in service.ports if port.published_port})


# A service that is being removed has given up its name: another may have it while the last tasks stop.
SERVICE_NAME: Index[Service] = Index("name", lambda s: None if s.pending_delete else s.spec.name)
SERVICE_PORT: Index[Service] = Index("port", _held_ports, many=True)
# What a service or a task that is not over needs: secrets, configs and credentials, whose ids are of one kind.
SERVICE_REFERENCE: Index[Service] = Index("reference", kept_by_service, many=True)
TASK_REFERENCE: Index[Task] = Index("reference", kept_by_task, many=True, fields=frozenset({"status"}), most=references)
# All versions have the name; credentials for a registry have none.
SECRET_NAME: Index[Secret] = Index("name", lambda secret: secret.spec.name or None)
CONFIG_NAME: Index[Config] = Index("name", lambda config: config.spec.name)
TASK_SERVICE: Index[Task] = Index("service", attrgetter("service_id"))
TASK_NODE: Index[Task] = Index("node", attrgetter("node_id"), fields=frozenset({"node_id"}))
# Few at a time, however many tasks there are.
TASK_WAITING: Index[Task] = Index(
    "waiting",
    lambda task: True if task.status.state < TaskState.ASSIGNED else None,
    fields=frozenset({"status"}),
)


class Table(Generic[T]):
    """Objects of one kind by id, and the ids of each group of each index.

    ``is_upper``: of a layer that is soon gone and seldom asked for groups, which are found out when it is asked.
    """

    __slots__ = ("_groups", "_indexes", "_is_upper", "objects")

    def __init__(self, *indexes: Index[T], is_upper: bool = False) -> None:
        self.objects: dict[str, T | None] = {}
        self._indexes = indexes
        self._is_upper = is_upper
        # Made with the first object: most layers of most kinds never have one.
        self._groups: dict[Index[T], _Groups] = {}

    def put(self, object_id: str, obj: T | None) -> None:
        """Write an object; None hides the one of a lower layer."""
        if self._is_upper and not self._groups:
            self.objects[object_id] = obj
            return
        old = self.objects.get(object_id)
        if not self._groups:
            self._groups = {index: {} for index in self._indexes}
        for index, groups in self._groups.items():
            before = None if old is None else index.key(old)
            after = None if obj is None else index.key(obj)
            if before != after:
                _leave(groups, before, object_id, index.many)
                _enter(groups, after, object_id, index.many)
        self.objects[object_id] = obj

    def replace(self, ids: Sequence[str], objs: Sequence[T], fields: Collection[str]) -> list[T]:
        """Write objects that differ from those that are here in ``fields`` only; returns what was here."""
        olds: list[Any] = list(map(self.objects.__getitem__, ids))
        for index, groups in self._groups.items():
            if index.fields.isdisjoint(fields) or (index.most is not None and not _are_any_in(objs, index.most)):
                continue
            for object_id, before, after in zip(ids, map(index.key, olds), map(index.key, objs), strict=True):
                if before != after:
                    _leave(groups, before, object_id, index.many)
                    _enter(groups, after, object_id, index.many)
        self.objects.update(zip(ids, objs, strict=True))
        return olds

    def put_all(self, ids: Sequence[str], objs: Sequence[T]) -> None:
        """Write many objects."""
        if self._is_upper and not self._groups:
            self.objects.update(zip(ids, objs, strict=True))
            return
        for object_id, obj in zip(ids, objs, strict=True):
            self.put(object_id, obj)

    def forget(self, object_id: str) -> None:
        """Take an id out of this layer: a lower one shows again."""
        old = self.objects.pop(object_id, None)
        if old is not None:
            for index, groups in self._groups.items():
                _leave(groups, index.key(old), object_id, index.many)
        if self._is_upper and not self.objects:
            self._groups = {}

    def clear(self) -> None:
        """Take all ids out of this layer."""
        self.objects.clear()
        self._groups = {}

    def group(self, index: Index[T], key: Hashable) -> Iterable[str]:
        """The ids of this layer in one group."""
        return self._groups_of(index).get(key, ())

    def keys(self, index: Index[T]) -> Iterable[Hashable]:
        """The groups of this layer that are not empty."""
        return self._groups_of(index)

    def _groups_of(self, index: Index[T]) -> _Groups:
        if not self._groups:
            if not self.objects:
                return {}
            self._groups = {each: {} for each in self._indexes}
            for each, groups in self._groups.items():
                for object_id, obj in self.objects.items():
                    if obj is not None:
                        _enter(groups, each.key(obj), object_id, each.many)
        return self._groups[index]


_Groups = dict[Hashable, dict[str, None]]


def _are_any_in(objs: Sequence[Any], most: Callable[[Any], Collection[Hashable]]) -> bool:
    # Thousands of tasks, and one spec.
    return any(map(most, {id(spec): spec for spec in map(attrgetter("spec"), objs)}.values()))


def _enter(groups: _Groups, key: Hashable, object_id: str, many: bool) -> None:
    if many:
        for each in _each(key, many):
            groups.setdefault(each, {})[object_id] = None
    elif key is not None:
        group = groups.get(key)
        if group is None:
            groups[key] = {object_id: None}
        else:
            group[object_id] = None


def _leave(groups: _Groups, key: Hashable, object_id: str, many: bool) -> None:
    if many:
        for each in _each(key, many):
            _leave(groups, each, object_id, many=False)
    elif key is not None:
        group = groups[key]
        del group[object_id]
        if not group:
            del groups[key]


def _each(key: Hashable, many: bool) -> tuple[Hashable, ...]:
    if key is None:
        return ()
    return key if many and isinstance(key, tuple) else (key,)


class Layer:
    """One table of each kind. ``is_upper``: of what is in flight, or of a transaction."""

    __slots__ = ("by_kind", "clusters", "configs", "nodes", "secrets", "services", "tasks")

    def __init__(self, *, is_upper: bool = False) -> None:
        upper = is_upper
        self.clusters: Table[Cluster] = Table()
        self.nodes: Table[Node] = Table()
        self.services: Table[Service] = Table(SERVICE_NAME, SERVICE_PORT, SERVICE_REFERENCE, is_upper=upper)
        self.tasks: Table[Task] = Table(TASK_SERVICE, TASK_NODE, TASK_WAITING, TASK_REFERENCE, is_upper=upper)
        self.secrets: Table[Secret] = Table(SECRET_NAME, is_upper=upper)
        self.configs: Table[Config] = Table(CONFIG_NAME, is_upper=upper)
        self.by_kind: dict[Kind, Table[Any]] = {
            Kind.CLUSTER: self.clusters,
            Kind.NODE: self.nodes,
            Kind.SERVICE: self.services,
            Kind.TASK: self.tasks,
            Kind.SECRET: self.secrets,
            Kind.CONFIG: self.configs,
        }


class Stack(Generic[T]):
    """The tables of one kind in several layers, uppermost first, read as one."""

    __slots__ = ("_base", "_tables", "_upper")

    def __init__(self, tables: Sequence[Table[T]]) -> None:
        self._tables = tables
        self._upper = tables[:-1]
        self._base = tables[-1]

    def get(self, object_id: str) -> T | None:
        """The object of that id, or None."""
        for table in self._upper:
            if object_id in table.objects:
                return table.objects[object_id]
        return self._base.objects.get(object_id)

    def get_all(self, object_ids: Iterable[str]) -> list[T | None]:
        """The objects of these ids."""
        if any(table.objects for table in self._upper):
            return [self.get(object_id) for object_id in object_ids]
        return list(map(self._base.objects.get, object_ids))

    def all(self) -> tuple[T, ...]:
        """All objects, in order of creation."""
        base = self._base.objects
        over: dict[str, T | None] = {}
        for table in reversed(self._upper):
            over.update(table.objects)
        if not over:
            return tuple(obj for obj in base.values() if obj is not None)
        shown = [over.get(key, obj) for key, obj in base.items()]
        shown += [obj for key, obj in over.items() if key not in base]
        return tuple(obj for obj in shown if obj is not None)

    def group(self, index: Index[T], key: Hashable) -> tuple[T, ...]:
        """The objects of one group of an index."""
        if not any(table.objects for table in self._upper):
            # As a view of the committed state is: all that is in the group is there, and is in no other layer.
            return tuple([obj for obj in map(self._base.objects.get, self._base.group(index, key)) if obj is not None])
        found: dict[str, T] = {}
        for table in reversed(self._tables):
            for object_id in table.group(index, key):
                obj = self.get(object_id)
                if obj is not None and index.has(obj, key):
                    found[object_id] = obj
        return tuple(found.values())

    def has_any(self, index: Index[T], key: Hashable) -> bool:
        """True when there is an object in one group of an index: found at the first one, however many there are."""
        for table in self._tables:
            for object_id in table.group(index, key):
                obj = self.get(object_id)
                if obj is not None and index.has(obj, key):
                    return True
        return False

    def keys(self, index: Index[T]) -> tuple[Hashable, ...]:
        """The groups of an index, and perhaps some that the upper layers have emptied."""
        return tuple(dict.fromkeys(key for table in reversed(self._tables) for key in table.keys(index)))
