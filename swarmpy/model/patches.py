"""What is told of an update of tasks that most of each stays as it is: the fields that change, and nothing else.

A task carries its whole spec and is written four or five times in its life: each time little but its node, its status
or what is wanted of it changes. So that little is what the log carries, for many tasks at once. It is done to the task
that is there, the same on every manager as all have applied the same entries before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any

import attrs

from swarmpy.errors import InvariantViolation
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Meta, Task, TaskStatus
from swarmpy.model.specs import GenericResource
from swarmpy.model.states import Cause, TaskState


@attrs.frozen(kw_only=True)
class TaskPatch:
    """Tasks that are updated in the same fields.

    A field has one value for all of the tasks, or one for each in the order of ``ids``; none at all where it stays.
    """

    ids: tuple[TaskId, ...]
    updated_at_ns: int = 0
    """Set by the store when it is written."""
    node_id: tuple[NodeId | None, ...] = ()
    status: tuple[TaskStatus, ...] = ()
    desired_state: tuple[TaskState, ...] = ()
    not_before_ns: tuple[int, ...] = ()
    applied_at_ns: tuple[int, ...] = ()
    started_at_ns: tuple[int, ...] = ()
    generic: tuple[tuple[GenericResource, ...], ...] = ()
    cause: tuple[Cause, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that change."""
        return tuple(name for name, column in zip(PATCHED, _columns(self), strict=True) if column)

    def values(self, name: str, tasks: Sequence[Task]) -> Iterable[Any]:
        """What the tasks have in the field ``name`` after it."""
        column: tuple[Any, ...] = getattr(self, name)
        if not column:
            return map(attrgetter(name), tasks)
        return repeat(column[0]) if len(column) == 1 else column

    def done_to(
        self, tasks: Sequence[Task], metas: Iterable[Meta], stories: Iterable[bytes] | None = None
    ) -> list[Task]:
        """The tasks, which are those of ``ids``, as they become, with these ``metas`` and, where given, ``stories``.

        Raises InvariantViolation for a patch that does not say one thing of each task.
        """
        names, count = self.fields, len(self.ids)
        columns: list[tuple[Any, ...]] = [getattr(self, name) for name in names]
        if any(len(column) not in (1, count) for column in columns):
            raise InvariantViolation(f"a patch of {count} tasks has other numbers of {', '.join(names)}")
        each = [self.values(name, tasks) for name in PATCHED]
        return list(map(_made, tasks, metas, map(_STORY, tasks) if stories is None else stories, *each))


PATCHED = tuple(field.name for field in attrs.fields(TaskPatch) if field.name not in ("ids", "updated_at_ns"))
"""The fields of a task that change while it lives; the others stay as it was made."""

_STORY = attrgetter("story")
_columns = attrgetter(*PATCHED)
_changing = attrgetter(*PATCHED)
_kept = attrgetter(*(field.name for field in attrs.fields(Task) if field.name not in ("meta", "story", *PATCHED)))


class _Unfrozen:
    """A task that can be written to: its slots are those of a task, laid out alike."""

    __slots__ = tuple(field.name for field in attrs.fields(Task))


def _made(
    task: Task,
    meta: Meta,
    told: bytes,
    node_id: NodeId | None,
    status: TaskStatus,
    desired_state: TaskState,
    not_before_ns: int,
    applied_at_ns: int,
    started_at_ns: int,
    generic: tuple[GenericResource, ...],
    cause: Cause,
) -> Task:
    """``task`` with all that a patch may change. In the way of :mod:`~swarmpy.model.evolving`, and as fast again."""
    made: Any = _new(_Unfrozen)
    made.id = task.id
    made.meta = meta
    made.spec = task.spec
    made.spec_version = task.spec_version
    made.service_id = task.service_id
    made.service_name = task.service_name
    made.service_labels = task.service_labels
    made.slot = task.slot
    made.iteration = task.iteration
    made.node_id = node_id
    made.status = status
    made.desired_state = desired_state
    made.ports = task.ports
    made.not_before_ns = not_before_ns
    made.applied_at_ns = applied_at_ns
    made.started_at_ns = started_at_ns
    made.generic = generic
    made.cause = cause
    made.story = told
    made.__class__ = Task
    return made  # type: ignore[no-any-return]


_new = object.__new__


def patched_fields(before: Task, after: Task) -> tuple[str, ...] | None:
    """The fields in which a task has become different; None when a patch cannot say it."""
    if before.meta.created_at_ns != after.meta.created_at_ns:
        return None
    if _kept(before) != _kept(after):
        return None
    pairs = zip(PATCHED, _changing(before), _changing(after), strict=True)
    return tuple([name for name, old, new in pairs if old is not new and old != new])


def patch_of(tasks: Sequence[Task], fields: Iterable[str], updated_at_ns: int) -> TaskPatch:
    """The patch that makes ``tasks`` what they are here, where they differ from what they were in ``fields``."""
    columns = {name: _column([getattr(task, name) for task in tasks]) for name in fields}
    return TaskPatch(ids=tuple([task.id for task in tasks]), updated_at_ns=updated_at_ns, **columns)


def _column(values: list[Any]) -> tuple[Any, ...]:
    first = values[0]
    return (first,) if all(value is first or value == first for value in values) else tuple(values)


def metas(tasks: Iterable[Task], version: int, updated_at_ns: int) -> Iterator[Meta]:
    """What becomes of the ``meta`` of tasks that are written at ``version``: one for all that were made together."""
    made: dict[int, Meta] = {}
    for task in tasks:
        created_at_ns = task.meta.created_at_ns
        meta = made.get(created_at_ns)
        if meta is None:
            meta = made[created_at_ns] = Meta(version=version, created_at_ns=created_at_ns, updated_at_ns=updated_at_ns)
        yield meta
