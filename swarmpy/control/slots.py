"""The tasks of one service by slot, kept from one decision to the next, and what the last look at each slot found.

A slot is looked at when something has changed that a look depends on: one of its tasks, the node of one, or what the
service asks for. So a decision costs what has changed, not what there is. Whatever the order of changes, what is known
is the same as if all slots were looked at anew in the state they lead to; :meth:`Slots.mark` too often costs time only.

What was decided and is not in the store yet is *assumed*: later parts of the decision see it. It is dropped with the
first event of its slot, and by :meth:`Slots.give_up` when it was not written after all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from swarmpy.control.progress import Progress
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Task
from swarmpy.store.view import View

SlotKey = int | NodeId
"""A slot is a number (replicated) or a node (global)."""


def slot_of(task: Task) -> SlotKey:
    """The slot that ``task`` is an attempt to fill."""
    return task.slot or NodeId(task.node_id or "")


def age_key(task: Task) -> tuple[int, int, str]:
    """Sorts the tasks of a slot from the oldest to the newest."""
    return (task.spec_version, task.meta.created_at_ns, task.id)


def node_changed(known: Mapping[ServiceId, Slots], view: View, node_id: NodeId) -> None:
    """Have all slots looked at that have something to do with the node."""
    for service_id, slots in known.items():
        service = view.service(service_id)
        if service is not None and service.spec.mode.is_global:
            slots.mark(node_id)
    for task in view.tasks_on_node(node_id):
        if task.service_id in known:
            known[task.service_id].mark(slot_of(task))


class Slots:
    """Of one service, in one leader's term of office."""

    def __init__(self) -> None:
        self.stored: dict[SlotKey, tuple[Task, ...]] = {}
        """The tasks of each slot that has any, the oldest first."""
        self._assumed: dict[SlotKey, tuple[Task, ...]] = {}
        self.stale: dict[SlotKey, None] = {}
        """To be looked at."""
        self._agenda: list[SlotKey] = []
        self.uncounted: dict[SlotKey, None] = {}
        """Those whose running tasks are to be counted anew, where that is asked for."""
        self.restless: dict[SlotKey, None] = {}
        """To be looked at with every decision, as time or other slots may make another one of it."""
        self.basis: object = None
        """What the service was like when its slots were looked at."""
        self.held: dict[SlotKey, None] = {}
        """Slots with a task that is meant to run, or to have completed."""
        self.runs_on: dict[SlotKey, NodeId] = {}
        """The nodes of the slots whose task runs."""
        self.there: dict[SlotKey, int] = {}
        """How many tasks keep a slot from being missing; of services that may miss so many only."""
        self.begun: set[SlotKey] = set()
        """Of a job: slots that need not be begun."""
        self.under_way: set[SlotKey] = set()
        """Of a job: slots that count against its concurrency."""
        self.progress = Progress()

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> Self:
        """These tasks, and nothing is known."""
        slots = cls()
        slots.add(tasks)
        return slots

    def add(self, tasks: Iterable[Task]) -> None:
        """Tasks as they are now; they may be known already."""
        stored, stale, uncounted = self.stored, self.stale, self.uncounted
        for task in tasks:
            key = task.slot or slot_of(task)
            if key in stored:
                self.task_changed(task)
            else:
                stored[key] = (task,)
                stale[key] = uncounted[key] = None

    # -- following ----------------------------------------------------------------------------------------------------

    def task_changed(self, task: Task, *, is_gone: bool = False) -> None:
        """A task is new, or became ``task``, or was removed."""
        key = slot_of(task)
        others = [other for other in self.stored.get(key, ()) if other.id != task.id]
        if not is_gone:
            others.append(task)
            if len(others) > 1:
                others.sort(key=age_key)
        if others:
            self.stored[key] = tuple(others)
        else:
            self.stored.pop(key, None)
        self._assumed.pop(key, None)
        self.mark(key)

    def mark(self, key: SlotKey) -> None:
        """Look at the slot anew."""
        self.stale[key] = self.uncounted[key] = None

    def mark_all(self) -> None:
        """Look at all slots anew."""
        # Of a slot without tasks nothing is known, or it was marked when it lost them.
        self.stale.update(dict.fromkeys(self.stored))
        self.uncounted.update(dict.fromkeys(self.stored))

    def pop_stale(self) -> SlotKey | None:
        """Take out the next slot to be looked at, about in the order of marks; None: there is none."""
        stale = self.stale
        while stale:
            # The first entry of a dictionary that was emptied from its beginning is far away.
            if not self._agenda:
                self._agenda = list(reversed(stale))
            key = self._agenda.pop()
            if key in stale:
                del stale[key]
                return key
        self._agenda.clear()
        stale.clear()
        return None

    # -- deciding -----------------------------------------------------------------------------------------------------

    def tasks(self, key: SlotKey) -> tuple[Task, ...]:
        """The tasks of a slot, with what was decided about them; the oldest first."""
        assumed = self._assumed.get(key)
        return self.stored.get(key, ()) if assumed is None else assumed

    def assume(self, key: SlotKey, task: Task, *, is_gone: bool = False) -> None:
        """It was decided that a task of the slot becomes ``task``, or goes."""
        others = [other for other in self.tasks(key) if other.id != task.id]
        if not is_gone:
            others.append(task)
            others.sort(key=age_key)
        self._assumed[key] = tuple(others)

    def take_back(self, key: SlotKey) -> None:
        """What was decided about the slot is what it is already."""
        self._assumed.pop(key, None)

    def give_up(self) -> list[SlotKey]:
        """What was assumed and has not come will not come; returns the slots of which that is so."""
        lost = list(self._assumed)
        self._assumed.clear()
        return lost
