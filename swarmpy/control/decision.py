"""What a decision is: changes to write now, and when to ask again though nothing has happened."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from swarmpy.model.changes import Change, update
from swarmpy.model.objects import Task
from swarmpy.model.patches import TaskPatch

NewId = Callable[[], str]
"""Makes a fresh identifier. Randomness comes in from outside, so that a decision can be repeated."""


@attrs.frozen(kw_only=True)
class Assigned:
    """Tasks that get a node, all at once: a patch, and the tasks as they were when it was decided."""

    tasks: tuple[Task, ...]
    patch: TaskPatch

    def changes(self) -> list[Change]:
        """The same as changes of whole tasks."""
        return list(map(update, self.patch.done_to(self.tasks, (task.meta for task in self.tasks))))


@attrs.frozen(kw_only=True)
class Decision:
    """The outcome of one look at the state. Empty when the state is as it should be."""

    changes: tuple[Change, ...] = ()
    """To be written in one transaction, in this order."""
    assigned: tuple[Assigned, ...] = ()
    """To be written before them, each in one transaction."""
    wake_at_ns: int | None = None
    """Wall-clock time at which the same question has another answer; None: only an event can change it."""

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to write."""
        return not (self.changes or self.assigned)


def earlier(a: int | None, b: int | None) -> int | None:
    """The earlier of two times, of which either may be missing."""
    if a is None or b is None:
        return b if a is None else a
    return min(a, b)
