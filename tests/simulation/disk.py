"""A disk that takes its time, forgets at a crash what was not synced, and lies now and then.

It is an append log of records, as a real one is: one is written at a time, sector by sector, and counts when all of
its sectors are there. What a crash leaves of the last record is any subset of its sectors; that is cut off at the next
load. A broken record with others after it was synced once and has rotted since: LogCorrupted, and the host must not
start.

What it holds is sealed as on a real disk, under a key of each life of the host, and opened as it is loaded.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import attrs
from loop import SimLoop

from swarmpy.errors import LogCorrupted, StorageError
from swarmpy.raft.messages import Entry, HardState, Snapshot
from swarmpy.raft.storage import MemoryStorage, StoredState
from swarmpy.security.sealing import DataKey, KeyRing
from swarmpy.wire.log_sealing import LogSeal, seal_of

SECTOR_BYTES = 512
CHECKPOINT_RECORDS = 64
"""Records after which the log is moved into the base, as SQLite moves its WAL into the database."""


@attrs.define(kw_only=True)
class DiskOptions:
    """How good the disk is; may be changed while it runs."""

    fsync_min_s: float = 0.0001
    fsync_mean_s: float = 0.001
    slow: float = 0.01
    """How likely a sync takes a hundred times as long."""
    stall: float = 0.0
    """How likely a sync takes one to five seconds."""
    failure: float = 0.0
    """How likely a sync fails; what it was to write is then on the disk or not, or in parts."""
    full: bool = False
    """Nothing can be written."""


@attrs.define(eq=False)
class _Record:
    """One write: what it does to a storage, and which of its sectors are on the disk."""

    work: Callable[[MemoryStorage], Coroutine[Any, Any, None]]
    sectors: int
    missing: int = 0
    """How many sectors have something else in them."""
    is_under_way: bool = True


class SimDisk:
    """Implements ``LogStorage``; outlives the lives of its host."""

    def __init__(self, loop: SimLoop, options: DiskOptions | None = None) -> None:
        self.options = options or DiskOptions()
        self.has_failed = False
        """In this life of the host a write failed or the log was found to be rotten: the host must stop."""
        self.events: Counter[str] = Counter()
        """What happened to writes, by kind."""
        self._loop = loop
        self._keys: tuple[DataKey, ...] = ()
        self._nonces = itertools.count()
        self._seal = self._next_seal()
        self._base = MemoryStorage()
        self._has_base = False
        self._base_is_rotten = False
        self._snapshot: Snapshot | None = None
        """The newest one that was synced."""
        self._log: list[_Record] = []
        self._queue: deque[_Record] = deque()
        """Calls in their order; only the first one is being written."""

    # -- what happens to it -------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """The power is cut: of the write under way any subset of the sectors made it, of later calls nothing."""
        if self._queue and not self.has_failed:  # after a failure nothing more is written
            self._leave(self._queue[0])
        for record in self._queue:
            record.is_under_way = False
        self._queue.clear()
        self.has_failed = False

    def rot(self) -> bool:
        """Damage something that was synced and is not the last write; False when there is nothing of the kind yet."""
        first = -1 if self._has_base else 0
        if len(self._log) - 1 <= first:
            return False
        place = self._loop.random.randrange(first, len(self._log) - 1)
        if place < 0:
            self._base_is_rotten = True
        else:
            self._log[place].missing = 1
        self.events["rotten"] += 1
        return True

    def wipe(self) -> None:
        """Another, empty disk takes its place; the host must be down."""
        assert not self._queue, "crash the host first"
        self._base = MemoryStorage()
        self._has_base = False
        self._base_is_rotten = False
        self._log.clear()
        self.events["wiped"] += 1

    # -- the protocol -------------------------------------------------------------------------------------------------

    async def load(self) -> StoredState:
        """See ``LogStorage``."""
        await asyncio.sleep(self._latency())
        self._refuse_when_full()
        self._cut_torn_tail()
        if self._base_is_rotten or any(record.missing for record in self._log):
            self.has_failed = True
            self.events["found rotten"] += 1
            raise LogCorrupted("the raft log is damaged before its end")
        self._checkpoint()
        stored = await self._base.load()
        self._seal = self._next_seal()
        self._snapshot = stored.snapshot and self._opened_snapshot(stored.snapshot)
        entries = tuple(self._opened(entry) for entry in stored.entries)
        return attrs.evolve(stored, snapshot=self._snapshot, entries=entries)

    async def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """See ``LogStorage``."""
        stored = tuple(self._sealed(entry) for entry in entries)
        size = sum(len(entry.data) for entry in entries)
        await self._write(lambda storage: storage.append(hard_state, stored), size)

    async def save_snapshot(self, snapshot: Snapshot, keep_from_index: int) -> None:
        """See ``LogStorage``."""
        sealed = self._sealed_snapshot(snapshot)
        await self._write(lambda storage: storage.save_snapshot(sealed, keep_from_index), len(snapshot.data))
        if self._snapshot is None or snapshot.index > self._snapshot.index:
            self._snapshot = snapshot

    async def read_snapshot(self) -> Snapshot | None:
        """See ``LogStorage``."""
        await asyncio.sleep(self._latency())
        return self._snapshot

    async def close(self) -> None:
        """See ``LogStorage``."""

    # -- sealing ------------------------------------------------------------------------------------------------------

    def _next_seal(self) -> LogSeal:
        # Counted nonces, as all of the simulation must come out the same again.
        self._keys += (DataKey(len(self._keys) + 1, len(self._keys).to_bytes(32, "big")),)
        ring = KeyRing(self._keys, nonces=lambda size: next(self._nonces).to_bytes(size, "big"))
        return seal_of(ring, "simulated")

    def _sealed(self, entry: Entry) -> Entry:
        return attrs.evolve(entry, data=self._numbered(self._seal.entry(entry)))

    def _opened(self, entry: Entry) -> Entry:
        key, data = _of_key(entry.data)
        return attrs.evolve(entry, data=self._seal.open_entry(entry.index, entry.term, entry.kind, key, data))

    def _sealed_snapshot(self, snapshot: Snapshot) -> Snapshot:
        pieces = self._seal.snapshot(snapshot.index, snapshot.term, repr(snapshot.conf), snapshot.data)
        return attrs.evolve(snapshot, data=self._numbered(b"".join(pieces)))

    def _opened_snapshot(self, snapshot: Snapshot) -> Snapshot:
        key, data = _of_key(snapshot.data)
        about = snapshot.index, snapshot.term, repr(snapshot.conf)
        return attrs.evolve(snapshot, data=self._seal.open_snapshot(*about, key, data))

    def _numbered(self, sealed: bytes) -> bytes:
        return struct.pack(">I", self._seal.key) + sealed

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _write(self, work: Callable[[MemoryStorage], Coroutine[Any, Any, None]], size: int) -> None:
        self._refuse_when_full()
        if self.has_failed:
            raise StorageError("the disk failed before: nothing is written any more")
        record = _Record(work, sectors=1 + -(-size // SECTOR_BYTES))
        self._queue.append(record)
        fails = self._loop.random.random() < self.options.failure
        await asyncio.sleep(self._latency())
        while record.is_under_way and self._queue[0] is not record:
            # An earlier one takes longer; the disk keeps the order.
            await asyncio.sleep(self.options.fsync_min_s)
        if not record.is_under_way:
            return
        self._queue.popleft()
        if self.has_failed:
            raise StorageError("the disk failed before: nothing is written any more")
        if fails:
            self.has_failed = True
            self.events["failed"] += 1
            self._leave(record)
            raise StorageError("the disk failed to sync the raft log")
        self.events["synced"] += 1
        self._log.append(record)
        if len(self._log) >= CHECKPOINT_RECORDS and not any(record.missing for record in self._log):
            self._checkpoint()

    def _leave(self, record: _Record) -> None:
        """Put what is on the disk of a write that was not synced into the log."""
        random = self._loop.random
        if (kind := random.randrange(3)) == 0:
            self.events["lost"] += 1
            return
        if kind == 1:
            record.missing = random.randrange(1, record.sectors + 1)
        self.events["torn" if record.missing else "landed"] += 1
        self._log.append(record)

    def _cut_torn_tail(self) -> None:
        if self._log and self._log[-1].missing:
            self._log.pop()
            self.events["cut"] += 1

    def _checkpoint(self) -> None:
        for record in self._log:
            assert not record.missing
            _finish(record.work(self._base))
            self._has_base = True
        self._log.clear()

    def _refuse_when_full(self) -> None:
        if self.options.full:
            self.has_failed = True
            self.events["full"] += 1
            raise StorageError("the disk of the raft log is full")

    def _latency(self) -> float:
        options, random = self.options, self._loop.random
        seconds = options.fsync_min_s + random.expovariate(1 / options.fsync_mean_s)
        if options.stall and random.random() < options.stall:
            self.events["stalled"] += 1
            return seconds + random.uniform(1.0, 5.0)
        return seconds * 100 if random.random() < options.slow else seconds


def _of_key(stored: bytes) -> tuple[int, bytes]:
    """The number of the key, and what it has sealed."""
    return int.from_bytes(stored[:4], "big"), stored[4:]


def _finish(work: Coroutine[Any, Any, None]) -> None:
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the storage in memory never waits")
