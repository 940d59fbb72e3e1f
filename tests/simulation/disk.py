"""A disk that takes its time and forgets at a crash what was not yet synced."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import attrs
from loop import SimLoop

from swarmpy.errors import StorageError
from swarmpy.raft.messages import Entry, HardState, Snapshot
from swarmpy.raft.storage import MemoryStorage, StoredState


@attrs.define(kw_only=True)
class DiskOptions:
    """How good the disk is; may be changed while it runs."""

    fsync_min_s: float = 0.0001
    fsync_mean_s: float = 0.001
    slow: float = 0.01
    """How likely a sync takes a hundred times as long."""
    failure: float = 0.0
    """How likely a sync fails; what it was to write is then on the disk or not."""


@attrs.define(eq=False)
class _Write:
    work: Coroutine[Any, Any, None]


class SimDisk:
    """Implements ``LogStorage``; outlives the lives of its host. Each write is whole or not at all, in order."""

    def __init__(self, loop: SimLoop, options: DiskOptions | None = None) -> None:
        self.options = options or DiskOptions()
        self.has_failed = False
        """A sync has failed in this life of the host: the host must stop."""
        self._loop = loop
        self._durable = MemoryStorage()
        self._unsynced: list[_Write] = []

    def crash(self) -> None:
        """The power is cut: of the writes that were not synced, any number of the first ones made it."""
        survivors = self._loop.random.randrange(len(self._unsynced) + 1)
        for number, write in enumerate(self._unsynced):
            if number < survivors:
                _finish(write.work)
            else:
                write.work.close()
        self._unsynced.clear()
        self.has_failed = False

    async def load(self) -> StoredState:
        """See ``LogStorage``."""
        await asyncio.sleep(self._latency())
        return await self._durable.load()

    async def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """See ``LogStorage``."""
        await self._sync(self._durable.append(hard_state, tuple(entries)))

    async def save_snapshot(self, snapshot: Snapshot, keep_from_index: int) -> None:
        """See ``LogStorage``."""
        await self._sync(self._durable.save_snapshot(snapshot, keep_from_index))

    async def read_snapshot(self) -> Snapshot | None:
        """See ``LogStorage``."""
        await asyncio.sleep(self._latency())
        return await self._durable.read_snapshot()

    async def close(self) -> None:
        """See ``LogStorage``."""

    async def _sync(self, work: Coroutine[Any, Any, None]) -> None:
        write = _Write(work)
        self._unsynced.append(write)
        fails = self._loop.random.random() < self.options.failure
        await asyncio.sleep(self._latency())
        while write in self._unsynced and self._unsynced[0] is not write:
            # An earlier one takes longer; the disk keeps the order.
            await asyncio.sleep(self.options.fsync_min_s)
        if write not in self._unsynced:
            return
        self._unsynced.remove(write)
        if fails:
            self.has_failed = True
            if self._loop.random.random() < 0.5:
                _finish(work)
            else:
                work.close()
            raise StorageError("the disk failed to sync the raft log")
        _finish(work)

    def _latency(self) -> float:
        options, random = self.options, self._loop.random
        seconds = options.fsync_min_s + random.expovariate(1 / options.fsync_mean_s)
        return seconds * 100 if random.random() < options.slow else seconds


def _finish(work: Coroutine[Any, Any, None]) -> None:
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the storage in memory never waits")
