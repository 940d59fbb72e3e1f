"""A change of the cluster's state, as data: what decisions return, transactions collect and the Raft log carries."""

from __future__ import annotations

import enum

import attrs

from swarmpy.model.objects import Cluster, Config, Kind, Node, Secret, Service, StoreObject, Task, kind_of
from swarmpy.model.patches import TaskPatch
from swarmpy.model.requests import Answered


class Action(enum.StrEnum):
    """What happens to the object."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@attrs.frozen(kw_only=True)
class Change:
    """One object created, updated or deleted.

    Exactly the field of its kind is set, except for a deletion, where none is.
    """

    action: Action
    kind: Kind
    id: str
    cluster: Cluster | None = None
    node: Node | None = None
    service: Service | None = None
    task: Task | None = None
    secret: Secret | None = None
    config: Config | None = None

    @property
    def object(self) -> StoreObject | None:
        """The object as it is after the change; None for a deletion."""
        return self.cluster or self.node or self.service or self.task or self.secret or self.config


@attrs.frozen(kw_only=True)
class ChangeList:
    """All changes of one transaction: one entry of the log. No object is changed twice."""

    changes: tuple[Change, ...]
    answered: Answered | None = None
    """The request that asked for them, if it shall be done once only."""
    patches: tuple[TaskPatch, ...] = ()
    """Updates of tasks that are told in short. They come after the changes."""

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to write."""
        return not (self.changes or self.patches)


def create(obj: StoreObject) -> Change:
    """The change that creates ``obj``."""
    return _with(Action.CREATE, obj)


def update(obj: StoreObject) -> Change:
    """The change that replaces the object of the same id with ``obj``."""
    return _with(Action.UPDATE, obj)


def delete(obj: StoreObject) -> Change:
    """The change that deletes ``obj``."""
    return Change(action=Action.DELETE, kind=kind_of(obj), id=obj.id)


def _with(action: Action, obj: StoreObject) -> Change:
    if isinstance(obj, Task):  # nearly all
        return Change(action=action, kind=Kind.TASK, id=obj.id, task=obj)
    kind = kind_of(obj)
    match obj:
        case Cluster():
            return Change(action=action, kind=kind, id=obj.id, cluster=obj)
        case Node():
            return Change(action=action, kind=kind, id=obj.id, node=obj)
        case Service():
            return Change(action=action, kind=kind, id=obj.id, service=obj)
        case Secret():
            return Change(action=action, kind=kind, id=obj.id, secret=obj)
        case Config():
            return Change(action=action, kind=kind, id=obj.id, config=obj)
