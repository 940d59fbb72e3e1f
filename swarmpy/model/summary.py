"""Changes in words: what is done to which object, and which of its fields differ. Never what is in them.

Made for eyes that may see that something happened but not the secrets in it (tokens, keys, environment): an object is
told by its kind, id and name, a change by the paths of the fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from swarmpy.model.changes import Action, Change
from swarmpy.model.grammar import printable
from swarmpy.model.objects import Cluster, Config, Kind, Node, Secret, Service, StoreObject, Task
from swarmpy.model.patches import TaskPatch

_NOT_TOLD = frozenset({"id", "meta", "spec_version", "made_at"})
"""Set by the store, whatever a writer puts there."""


@attrs.frozen(kw_only=True)
class Summary:
    """One change."""

    action: Action
    kind: Kind
    id: str
    name: str = ""
    """ "" when it is not known: a deletion says only the id."""
    fields: tuple[str, ...] | None = None
    """Of an update: dotted paths, in the order of the classes. None when the object before is not known."""

    def __str__(self) -> str:
        what = (
            f"{self.action} {self.kind} {self.name} ({self.id})"
            if self.name
            else f"{self.action} {self.kind} {self.id}"
        )
        if self.action is not Action.UPDATE or self.fields is None:
            return what
        return f"{what}: {', '.join(self.fields) or 'nothing'}"


def summary(change: Change, before: StoreObject | None) -> Summary:
    """``change`` of an object that was ``before``; None when that is not known or there was none."""
    after = change.object
    known = after or before
    fields = None
    if change.action is Action.UPDATE and before is not None and type(after) is type(before):
        fields = tuple(changed_fields(before, after))
    return Summary(
        action=change.action,
        kind=change.kind,
        id=printable(change.id),
        name="" if known is None else printable(name_of(known)),
        fields=fields,
    )


def patch_summaries(patch: TaskPatch, before: Sequence[Task | None]) -> list[Summary]:
    """What is done to each of the tasks, which were ``before``; None where that is not known."""
    found = []
    known = [task for task in before if task is not None]
    after = patch.done_to(known, (task.meta for task in known)) if len(known) == len(patch.ids) else []
    names = [printable(name_of(task)) for task in after]
    fields = [tuple(changed_fields(old, new)) for old, new in zip(known, after, strict=False)]
    if not after:
        names, fields = [""] * len(patch.ids), [patch.fields] * len(patch.ids)
    for task_id, name, changed in zip(patch.ids, names, fields, strict=True):
        found.append(Summary(action=Action.UPDATE, kind=Kind.TASK, id=printable(task_id), name=name, fields=changed))
    return found


def changed_fields(before: Any, after: Any) -> Iterator[str]:
    """The paths of the fields in which two objects of one class differ; containers are told as a whole."""
    for field in attrs.fields(type(after)):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new or field.name in _NOT_TOLD:
            continue
        if attrs.has(type(new)) and type(old) is type(new):
            yield from (f"{field.name}.{inner}" for inner in changed_fields(old, new))
        else:
            yield field.name


def name_of(obj: StoreObject) -> str:
    """What people call it."""
    match obj:
        case Cluster() | Service() | Secret() | Config():
            return obj.spec.name
        case Node():
            return obj.description.hostname or obj.spec.name
        case Task():
            return f"{obj.service_name}.{obj.place}"
