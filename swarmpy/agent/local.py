"""What an agent remembers over a restart: its tasks, the managers and the last endpoint table.

It is a memory aid, not the truth: the managers have that, and containers carry their task's id. So losing it costs
little, and writing it must never hold anybody up: writes are collected and go out together.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import attrs
import structlog

from swarmpy.agent.backoff import Backoff
from swarmpy.errors import StorageError
from swarmpy.model.assignments import EndpointUpdate, ManagerAddress
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Task
from swarmpy.ports import Random

log = structlog.get_logger(__name__)

COLLECT_S = 0.1
"""Seconds a write waits for others."""
RETRY_MOST_S = 30.0
FINAL_WRITE_S = 2.0
"""Most seconds that the last write may hold up a shutdown."""


@attrs.frozen(kw_only=True)
class Remembered:
    """Everything an agent remembers. ``endpoints`` is a whole table."""

    tasks: tuple[Task, ...] = ()
    """The assigned tasks; ``status`` is the last one observed on this node."""
    managers: tuple[ManagerAddress, ...] = ()
    endpoints: EndpointUpdate | None = None
    incarnation: int = 0
    """The latest of the cluster that this node has seen: it never goes back to an earlier one."""
    revoked: dict[str, int] = attrs.Factory(dict)
    """Which certificates are no manager's any more."""


@attrs.frozen(kw_only=True)
class Changes:
    """What is different from before. None: the same."""

    tasks: dict[TaskId, Task | None] = attrs.Factory(dict)
    """None: no longer there."""
    managers: tuple[ManagerAddress, ...] | None = None
    endpoints: EndpointUpdate | None = None
    incarnation: int | None = None
    revoked: dict[str, int] | None = None


class LocalState(Protocol):
    """Where it is kept. One caller at a time."""

    async def load(self) -> Remembered:
        """What was kept; nothing when there is nothing or it cannot be read. Raises DataDirMismatch, StorageError."""

    async def save(self, changes: Changes) -> None:
        """Keep all of ``changes`` or nothing; durable when it returns. Raises StorageError."""

    async def close(self) -> None:
        """Let go. Idempotent."""


class MemoryLocalState:
    """A twin without a disk. It outlives an agent, as a disk would."""

    def __init__(self) -> None:
        self.remembered = Remembered()
        self.saves = 0

    async def load(self) -> Remembered:
        """What was saved."""
        return self.remembered

    async def save(self, changes: Changes) -> None:
        """Keep ``changes``."""
        self.saves += 1
        self.remembered = merge(self.remembered, changes)

    async def close(self) -> None:
        """Nothing to let go of."""


def merge(remembered: Remembered, changes: Changes) -> Remembered:
    """``remembered`` after ``changes``."""
    tasks: dict[TaskId, Task | None] = {task.id: task for task in remembered.tasks}
    tasks.update(changes.tasks)
    return Remembered(
        tasks=tuple(task for task in tasks.values() if task is not None),
        managers=remembered.managers if changes.managers is None else changes.managers,
        endpoints=changes.endpoints or remembered.endpoints,
        incarnation=remembered.incarnation if changes.incarnation is None else changes.incarnation,
        revoked=remembered.revoked if changes.revoked is None else changes.revoked,
    )


class LocalWriter:
    """Collects changes and saves them together. :meth:`run` it."""

    def __init__(self, state: LocalState, random: Random) -> None:
        self._state = state
        self._random = random
        self._pending = Changes()
        self._filled = asyncio.Event()
        self._saving = asyncio.Lock()

    def put_task(self, task: Task) -> None:
        """Remember an assigned task and its status."""
        self._put_tasks({task.id: task})

    def drop_task(self, task_id: TaskId) -> None:
        """Forget a task."""
        self._put_tasks({task_id: None})

    def put_managers(self, managers: tuple[ManagerAddress, ...]) -> None:
        """Remember where the managers are."""
        self._pending = attrs.evolve(self._pending, managers=managers)
        self._filled.set()

    def put_revoked(self, revoked: dict[str, int]) -> None:
        """Remember which certificates are no manager's any more."""
        self._pending = attrs.evolve(self._pending, revoked=revoked)
        self._filled.set()

    def put_endpoints(self, endpoints: EndpointUpdate) -> None:
        """Remember a whole endpoint table."""
        self._pending = attrs.evolve(self._pending, endpoints=endpoints)
        self._filled.set()

    async def put_incarnation(self, incarnation: int) -> None:
        """Remember the cluster's incarnation. Durable on return, unless the disk fails: then it is tried again."""
        self._pending = attrs.evolve(self._pending, incarnation=incarnation)
        self._filled.set()
        try:
            await self._flush()
        except StorageError as error:
            log.warning("local_state_not_saved", reason=str(error))

    def _put_tasks(self, tasks: dict[TaskId, Task | None]) -> None:
        # Several changes of one task between two writes become one.
        self._pending.tasks.update(tasks)
        self._filled.set()

    async def run(self) -> None:
        """Save until cancelled, and once more then."""
        backoff = Backoff(self._random, first=COLLECT_S, most=RETRY_MOST_S)
        failing = False
        try:
            while True:
                await self._filled.wait()
                await asyncio.sleep(backoff.wait())
                try:
                    await self._flush()
                except StorageError as error:
                    # Tasks and routing do not depend on it, so the node works on.
                    (log.debug if failing else log.error)("local_state_not_saved", reason=str(error))
                    failing = True
                    backoff.grow()
                else:
                    failing = False
                    backoff.reset()
        finally:
            await self._final_flush()

    async def _final_flush(self) -> None:
        try:
            async with asyncio.timeout(FINAL_WRITE_S):
                await self._flush()
        except (StorageError, TimeoutError) as error:
            log.warning("local_state_not_saved", reason=str(error))

    async def _flush(self) -> None:
        async with self._saving:
            await self._save()

    async def _save(self) -> None:
        changes, self._pending = self._pending, Changes()
        self._filled.clear()
        if changes == Changes():
            return
        try:
            await self._state.save(changes)
        except (StorageError, asyncio.CancelledError):
            self._restore(changes)
            raise

    def _restore(self, older: Changes) -> None:
        newer = self._pending
        self._pending = Changes(
            tasks={**older.tasks, **newer.tasks},
            managers=older.managers if newer.managers is None else newer.managers,
            endpoints=newer.endpoints or older.endpoints,
            incarnation=older.incarnation if newer.incarnation is None else newer.incarnation,
            revoked=older.revoked if newer.revoked is None else newer.revoked,
        )
        self._filled.set()
