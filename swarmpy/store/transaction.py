"""One transaction: reads what is there, collects what shall change. Never proposes and never commits.

What a transaction wrote is visible to its own reads at once, still with the version the object had before: the new
one is the index of the entry, which is known only when the transaction is proposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import is_

import attrs

from swarmpy.errors import AlreadyExists, NotFound, VersionConflict
from swarmpy.model.changes import Action, Change, ChangeList
from swarmpy.model.changes import create as create_change
from swarmpy.model.changes import delete as delete_change
from swarmpy.model.changes import update as update_change
from swarmpy.model.evolving import evolver
from swarmpy.model.objects import Cluster, Config, Kind, Meta, Secret, Service, StoreObject, Task, kind_of
from swarmpy.model.patches import patch_of, patched_fields
from swarmpy.model.requests import Answered
from swarmpy.model.states import Cause
from swarmpy.store.stamp import may_tell, with_meta
from swarmpy.store.tables import Layer
from swarmpy.store.view import View

_touched = evolver(Meta, "updated_at_ns", "spec_index")
_for_the_log = evolver(Task, "meta", "story", "cause")


class Tx(View):
    """A view that can be written to. Several writes of one object become one change.

    ``patches``: updates of tasks may be told in short.
    """

    def __init__(self, below: tuple[Layer, ...], version: int, now_ns: int, *, patches: bool = False) -> None:
        self._own = Layer(is_upper=True)
        super().__init__((self._own, *below), version)
        self._now_ns = now_ns
        self._patches = patches
        self._changes: dict[tuple[Kind, str], Change] = {}
        self._before: dict[str, Task] = {}

    @property
    def now_ns(self) -> int:
        """The time of this transaction, nanoseconds since the Unix epoch."""
        return self._now_ns

    def create(self, obj: StoreObject) -> None:
        """Add an object. Raises AlreadyExists when its id or name is taken, or for a second cluster."""
        kind = kind_of(obj)
        if self.get(kind, obj.id) is not None:
            raise AlreadyExists(f"{kind} {obj.id} exists already")
        self._check_unique(obj)
        meta = Meta(created_at_ns=self._now_ns, updated_at_ns=self._now_ns)
        self._record(create_change(with_meta(obj, meta)))

    def update(self, obj: StoreObject, expected_version: int | None = None) -> None:
        """Replace the object of the same id.

        Raises NotFound when there is none, VersionConflict when it is not of ``expected_version``, AlreadyExists when
        its new name is taken.
        """
        kind = kind_of(obj)
        current = self._current(kind, obj.id)
        if expected_version is not None and current.meta.version != expected_version:
            raise VersionConflict
        self._check_unique(obj)
        if self._patches and isinstance(current, Task) and (kind, obj.id) not in self._changes:
            self._before[obj.id] = current
        # What the store sets is not for the log: readers of an older schema would stop at it.
        meta = _touched(current.meta, self._now_ns, 0)
        if isinstance(obj, Task):
            self._record(update_change(_for_the_log(obj, meta, b"", self._writable(obj.cause))))
            return
        self._record(update_change(with_meta(obj, meta)))

    def _writable(self, cause: Cause) -> Cause:
        """None while there are managers that do not read causes: nobody has asked for them, so nothing is refused."""
        return cause if cause is Cause.NONE or may_tell(self.schema) else Cause.NONE

    def delete(self, obj: StoreObject) -> None:
        """Remove the object of the same id. Raises NotFound when there is none."""
        self._record(delete_change(self._current(kind_of(obj), obj.id)))

    def apply(self, changes: Iterable[Change]) -> None:
        """Make changes that were decided on a view.

        An update is refused with VersionConflict when the object changed since it was read: the decision was made on
        something that is no longer so. Raises as :meth:`create`, :meth:`update` and :meth:`delete`.
        """
        for change in changes:
            obj = change.object
            if obj is None:
                self.delete(self._current(change.kind, change.id))
            elif change.action is Action.CREATE:
                self.create(obj)
            else:
                self.update(obj, expected_version=obj.meta.version)

    def is_current(self, change: Change) -> bool:
        """False for a change of an object that is no longer as the change was decided on, or is gone."""
        current = self.get(change.kind, change.id)
        if change.action is Action.CREATE:
            return current is None
        if current is None:
            return False
        return change.object is None or change.object.meta.version == current.meta.version

    @property
    def count(self) -> int:
        """How many objects have been written so far."""
        return len(self._changes)

    def changes(self) -> tuple[Change, ...]:
        """What has been written so far, one change an object."""
        return tuple(self._changes.values())

    def entry(self, answered: Answered | None = None) -> ChangeList:
        """What has been written so far, as it goes into the log."""
        whole: list[Change] = []
        alike: dict[tuple[str, ...], list[Task]] = {}
        for change in self._changes.values():
            task = change.task
            before = self._before.get(change.id) if task is not None and change.action is Action.UPDATE else None
            fields = None if before is None or task is None else patched_fields(before, task)
            if fields is None or task is None:
                whole.append(change)
            else:
                alike.setdefault(fields, []).append(task)
        patches = tuple([patch_of(tasks, fields, self._now_ns) for fields, tasks in alike.items()])
        return ChangeList(changes=tuple(whole), answered=answered, patches=patches)

    def _current(self, kind: Kind, object_id: str) -> StoreObject:
        current = self.get(kind, object_id)
        if current is None:
            raise NotFound(f"{kind} {object_id} not found")
        return current

    def _check_unique(self, obj: StoreObject) -> None:
        match obj:
            case Service() if not obj.pending_delete:
                _check_name(obj, obj.spec.name, self.service_by_name(obj.spec.name))
            case Secret() if obj.spec.name:
                _check_number(obj, self.secret_versions(obj.spec.name))
            case Config():
                _check_number(obj, self.config_versions(obj.spec.name))
            case Cluster():
                for cluster in self._clusters.all():
                    if cluster.id != obj.id:
                        raise AlreadyExists(f"the cluster is initialised already: it is {cluster.id}")

    def _record(self, change: Change) -> None:
        key = (change.kind, change.id)
        earlier = self._changes.pop(key, None)
        match (earlier.action if earlier else None, change.action):
            case (Action.CREATE, Action.DELETE):
                pass
            case (Action.CREATE, Action.UPDATE):
                self._changes[key] = attrs.evolve(change, action=Action.CREATE)
            case (Action.DELETE, Action.CREATE):
                self._changes[key] = attrs.evolve(change, action=Action.UPDATE)
            case _:
                self._changes[key] = change
        self._own.by_kind[change.kind].put(change.id, change.object)


def check_unchanged(tasks: Sequence[Task], now: Sequence[Task | None]) -> None:
    """Raise NotFound or VersionConflict unless the tasks that are there ``now`` are those that were looked at."""
    if all(map(is_, tasks, now)):
        return
    for task, current in zip(tasks, now, strict=True):
        if current is None:
            raise NotFound(f"task {task.id} not found")
        if current.meta.version != task.meta.version:
            raise VersionConflict


def _check_number(obj: Secret | Config, versions: Sequence[Secret | Config]) -> None:
    """A new version comes after all that are there."""
    is_new = all(version.id != obj.id for version in versions)
    for version in versions:
        if version.id != obj.id and (version.number == obj.number or (is_new and version.number > obj.number)):
            raise AlreadyExists(f"{kind_of(obj)} {obj.spec.name} exists already: choose another name")


def _check_name(obj: StoreObject, name: str, holder: StoreObject | None) -> None:
    if holder is not None and holder.id != obj.id:
        raise AlreadyExists(f"{kind_of(obj)} {name} exists already: choose another name")
