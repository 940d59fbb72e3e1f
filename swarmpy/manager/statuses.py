"""Observed states on their way into the store: collected for a moment, written together, answered when committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs
import structlog

from swarmpy.errors import Unavailable
from swarmpy.model.assignments import TaskStatusUpdate
from swarmpy.model.evolving import evolver
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import Actor, Cause, TaskState, may_advance
from swarmpy.ports import Clock
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx

log = structlog.get_logger(__name__)

COLLECT_S = 0.02
"""Seconds a report may wait for others to share its write."""
MAX_WRITE = 500
"""Most tasks of one log entry."""
MAX_PENDING = 50_000
"""Most tasks waiting to be written; agents are told to come again beyond it."""


_observed = evolver(Task, "status", "applied_at_ns", "started_at_ns")


def accept(task: Task | None, node_id: NodeId, status: TaskStatus, now_ns: int) -> Task | None:
    """The task with the reported status, or None when the report says nothing new or is not the node's to make.

    A state only rises: an older report that arrives late changes nothing. But an end is an end: a node that has
    forgotten how far the task had come, as it died before that was on its disk, says REJECTED of one that ran.
    """
    if task is None or task.node_id != node_id:
        return None
    if status.state is TaskState.REJECTED and task.status.state is TaskState.RUNNING:
        status = attrs.evolve(status, state=TaskState.FAILED)
    if task.cause is Cause.MISPLACED and not status.err:
        # The node does not know why the task had to leave it; whoever looks at what became of the task asks that.
        status = attrs.evolve(status, err=task.status.err)
    if status.state == task.status.state:
        if _says_nothing(task, status):
            return None
    elif not may_advance(Actor.AGENT, task.status.state, status.state):
        return None
    started_at_ns = task.started_at_ns or (now_ns if status.state is TaskState.RUNNING else 0)
    return _observed(task, status, now_ns, started_at_ns)


def is_edit(task: Task, status: TaskStatus) -> bool:
    """True for a report of the task's node that changes what is known of it, but not how far it has come."""
    return status.state == task.status.state and not _says_nothing(task, status)


def _says_nothing(task: Task, status: TaskStatus) -> bool:
    return attrs.evolve(status, timestamp_ns=task.status.timestamp_ns) == task.status


class _Batch:
    def __init__(self) -> None:
        self.updates: dict[TaskId, tuple[NodeId, TaskStatus]] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may be left to read the result of a batch whose reporters have all gone.
        self.done.add_done_callback(lambda f: f.cancelled() or f.exception())


class StatusBuffer:
    """Reports of all agents, for one term of office."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._batch: _Batch | None = None
        self._filled = asyncio.Event()

    async def add(self, node_id: NodeId, updates: Sequence[TaskStatusUpdate]) -> None:
        """Return when the updates, of tasks of that node, are committed.

        Raises Unavailable when they may not be; the agent reports again.
        """
        if self._batch is None:
            self._batch = _Batch()
        batch = self._batch
        if len(batch.updates) + len(updates) > MAX_PENDING:
            raise Unavailable(f"more than {MAX_PENDING} task statuses are waiting to be written: report again later")
        for update in updates:
            held = batch.updates.get(update.task_id)
            if held is None or held[1].state <= update.status.state:
                batch.updates[update.task_id] = (node_id, update.status)
        self._filled.set()
        await asyncio.shield(batch.done)

    async def run(self) -> None:
        """Write what is collected, until cancelled."""
        try:
            while True:
                await self._filled.wait()
                await asyncio.sleep(COLLECT_S)
                self._filled.clear()
                batch, self._batch = self._batch, None
                if batch is not None:
                    await self._write(batch)
        finally:
            if self._batch is not None and not self._batch.done.done():
                self._batch.done.set_exception(Unavailable("this manager no longer leads: report again"))

    async def _write(self, batch: _Batch) -> None:
        items = list(batch.updates.items())
        try:
            for start in range(0, len(items), MAX_WRITE):
                part = items[start : start + MAX_WRITE]
                await self._store.update(lambda tx, part=part: self._apply(tx, part))  # type: ignore[misc]
        except BaseException as error:
            if not batch.done.done():
                batch.done.set_exception(
                    error
                    if isinstance(error, Unavailable)
                    else Unavailable("the statuses were not written: report again")
                )
            if isinstance(error, Unavailable):
                log.debug("task_statuses_not_written", count=len(items), reason=str(error))
                return
            raise
        batch.done.set_result(None)

    def _apply(self, tx: Tx, part: Sequence[tuple[TaskId, tuple[NodeId, TaskStatus]]]) -> None:
        now_ns = self._clock.time_ns()
        for task_id, (node_id, status) in part:
            changed = accept(tx.task(task_id), node_id, status, now_ns)
            if changed is not None:
                tx.update(changed)
