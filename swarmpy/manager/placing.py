"""The scheduler's part of the control loop: what it knows of nodes and tasks follows the store.

Between the slices of a round everybody else has a turn. Whatever else is written meanwhile is known to the next slice.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable

from swarmpy.control.decision import Decision
from swarmpy.control.loads import Loads
from swarmpy.control.scheduler import Scheduler
from swarmpy.manager.events import drain
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Kind, Node, Task
from swarmpy.ports import Clock
from swarmpy.store.memory import Store
from swarmpy.store.watch import Event, Resync, Watch

KINDS = (Kind.NODE, Kind.TASK)
"""What has to be watched."""
BUILD_SLICE = 5_000
"""Nodes or tasks that are added in one step where everything is read anew: some ten milliseconds."""


class Placing:
    """One term of office."""

    def __init__(self, store: Store, watch: Watch, clock: Clock) -> None:
        self._store = store
        self._watch = watch
        self._clock = clock
        self._loads: Loads | None = None
        self._scheduler: Scheduler
        self.due: float | None = None
        """When to settle again though nothing has happened, on the monotonic clock."""

    def follow(self) -> bool:
        """Take in what was written; False when events were lost, and everything has to be read anew."""
        events = drain(self._watch)
        if any(isinstance(event, Resync) for event in events):
            self._loads = None
        elif self._loads is not None:
            follow(self._loads, [event for event in events if isinstance(event, Event)])
        return self._loads is not None

    async def settle(self, apply: Callable[[Decision], Awaitable[int]]) -> int:
        """Place what waits, slice by slice, each written by ``apply``; returns how many changes were written."""
        if not self.follow():
            await self._build()
        if self._loads is None:
            return 1  # lost again meanwhile: another round
        written, loads, now_ns = 0, self._loads, self._clock.time_ns()
        for decision in self._scheduler.slices(now_ns):
            written += await apply(decision)
            await asyncio.sleep(0)
            if not self.follow() or self._loads is not loads:
                return written + 1
            loads.give_up()
        wake_at_ns = self._scheduler.wake_at_ns
        self.due = None if wake_at_ns is None else self._clock.monotonic() + (wake_at_ns - now_ns) / 1e9
        return written

    async def _build(self) -> None:
        """Read everything. What is written while that gives way to others comes as events, and is added at the end."""
        meanwhile: list[Event | Resync] = []
        view = self._store.view()
        drain(self._watch)
        loads = Loads()
        nodes, tasks = view.nodes(), view.tasks()
        for start in range(0, len(nodes), BUILD_SLICE):
            for node in nodes[start : start + BUILD_SLICE]:
                loads.node_changed(node.id, node)
            await asyncio.sleep(0)
            meanwhile.extend(drain(self._watch))
        for start in range(0, len(tasks), BUILD_SLICE):
            loads.add(tasks[start : start + BUILD_SLICE])
            await asyncio.sleep(0)
            meanwhile.extend(drain(self._watch))
        if any(isinstance(event, Resync) for event in meanwhile):
            return
        follow(loads, [event for event in meanwhile if isinstance(event, Event)])
        if len(nodes) + len(tasks) >= BUILD_SLICE:
            # It lives as long as the term: a full collection over it takes 40 ms with 100,000 nodes, and frees nothing.
            gc.freeze()
        self._loads, self._scheduler = loads, Scheduler(loads)


def follow(loads: Loads, events: Iterable[Event]) -> None:
    """Take in events of nodes and tasks."""
    for event in events:
        new, old = event.object, event.old
        if event.kind is Kind.TASK:
            loads.task_changed(old if isinstance(old, Task) else None, new if isinstance(new, Task) else None)
        elif event.kind is Kind.NODE:
            loads.node_changed(NodeId(event.id), new if isinstance(new, Node) else None)
