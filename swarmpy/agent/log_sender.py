"""This node's half of reading logs: it sends what managers have asked for, in one session.

Each log is read no faster than its batches are taken: one batch of a subscription is on its way at a time, and what a
manager has no room for is sent again after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import attrs
import structlog

from swarmpy.errors import SwarmpyError, Unavailable
from swarmpy.model.ids import TaskId
from swarmpy.model.logs import (
    BATCH_BYTES,
    LogBatch,
    LogBatchReply,
    LogLine,
    LogOptions,
    LogOrder,
    pack_lines,
)

log = structlog.get_logger(__name__)

GATHER_S = 0.02
"""How long a batch waits for more lines."""
FULL_WAIT_S = 0.25
"""Before a batch is sent again that was not taken."""
MAX_READERS = 256
"""Logs that are read at once; others wait for their turn."""

Key = tuple[str, TaskId]
Send = Callable[[LogBatch], Awaitable[LogBatchReply]]
"""A batch, whose session the sender knows."""
Read = Callable[[TaskId, LogOptions], AsyncGenerator[LogLine, None]]
"""Raises NotFound for a task that is not here, RuntimeUnavailable."""


class LogSender:
    """All logs of one session, in its task group from :meth:`begin` on."""

    def __init__(self, read: Read, send: Send) -> None:
        self._read = read
        self._send = send
        self._readers: dict[Key, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._room = asyncio.Semaphore(MAX_READERS)
        self._group: asyncio.TaskGroup | None = None

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Readers are tasks of ``group``."""
        self._group = group

    def take(self, orders: tuple[LogOrder, ...]) -> None:
        """From now on these logs are wanted, and no others."""
        assert self._group is not None, "orders come in a session"
        wanted = {(order.id, order.task_id): order for order in orders}
        for key in [key for key in self._readers if key not in wanted]:
            self._readers.pop(key).cancel()
        self._turns = {i: lock for i, lock in self._turns.items() if any(i == key[0] for key in wanted)}
        for key, order in wanted.items():
            if key not in self._readers:
                self._turns.setdefault(order.id, asyncio.Lock())
                self._readers[key] = self._group.create_task(self._serve(order), name=f"log-{order.task_id}")

    async def _serve(self, order: LogOrder) -> None:
        async with self._room:
            batch = LogBatch(session_id="", id=order.id, task_id=order.task_id)
            error = ""
            try:
                lines = self._read(order.task_id, order.options)
                async with contextlib.aclosing(lines), contextlib.aclosing(batches(lines)) as found:
                    async for packed in found:
                        batch = attrs.evolve(batch, number=batch.number + 1, lines=packed)
                        if not await self._is_wanted(batch):
                            return
            except (SwarmpyError, OSError) as failed:
                log.debug("log_not_read", task=order.task_id, reason=str(failed))
                error = str(failed) or type(failed).__name__
            await self._is_wanted(attrs.evolve(batch, number=batch.number + 1, lines=b"", ended=True, error=error))

    async def _is_wanted(self, batch: LogBatch) -> bool:
        """Send until it is taken. False when nobody wants it any more."""
        turn = self._turns.setdefault(batch.id, asyncio.Lock())
        while True:
            try:
                async with turn:
                    reply = await self._send(batch)
            except Unavailable:
                # Too much at once, or the session is about to end. A batch that was taken is known by its number.
                await asyncio.sleep(FULL_WAIT_S)
                continue
            except SwarmpyError as refused:
                log.debug("log_refused", task=batch.task_id, reason=str(refused))
                return False
            if reply.accepted:
                return reply.wanted
            await asyncio.sleep(FULL_WAIT_S)


async def batches(lines: AsyncGenerator[LogLine, None]) -> AsyncGenerator[bytes, None]:
    """Lines, together as long as they come at once, up to BATCH_BYTES and one line more."""
    waiting: list[LogLine] = []
    size = 0
    has, room = asyncio.Event(), asyncio.Event()

    async def gather() -> None:
        nonlocal size
        try:
            async for line in lines:
                waiting.append(line.bounded())
                size += waiting[-1].size
                has.set()
                if size >= BATCH_BYTES:
                    room.clear()
                    await room.wait()
        finally:
            has.set()

    gathering = asyncio.create_task(gather(), name="log-gather")
    try:
        while True:
            await has.wait()
            if size < BATCH_BYTES and not gathering.done():
                await asyncio.wait({gathering}, timeout=GATHER_S)
            has.clear()
            if waiting:
                batch = pack_lines(waiting)
                waiting, size = [], 0
                room.set()
                yield batch
            elif gathering.done():
                gathering.result()
                return
            if gathering.done():
                has.set()
    finally:
        gathering.cancel()
        await asyncio.gather(gathering, return_exceptions=True)
