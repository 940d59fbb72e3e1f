"""The durable Raft log of one manager: entries and votes in SQLite, snapshots as files beside it.

One transaction holds "cut the conflicting tail, append, set term and vote", so a crash leaves all of it or nothing; a
torn write is SQLite's to undo (WAL, ``synchronous=FULL``: the fsync is in the commit). What comes back is checked:
every entry has a CRC-32, every snapshot a SHA-256, ``meta`` says from where to where the log reaches,
:mod:`swarmpy.wire.wal` looks at the WAL before SQLite does, and a generation shows that nothing was lost or put back
(:mod:`swarmpy.wire.log_files`). A hole or mismatch is fatal, since a member that forgot what it promised would break
the others' consensus. It never guesses: a torn last write, which nobody was told of, is dropped, and the leader sends
it again. ``docs/disk.md`` says what is noticed and what cannot be.

With a ring of keys the data of every entry and snapshot is sealed (:mod:`swarmpy.wire.log_sealing`), on the log's
threads; checksums are of what is on the disk, so they need no key. What is sealed with an earlier key, or was never
sealed, is sealed anew by :meth:`SqliteLog.reseal`, beside the appends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from swarmpy.errors import DataDirMismatch, LogCorrupted, StorageError
from swarmpy.raft.encoding import conf_from_plain, conf_to_plain
from swarmpy.raft.messages import Entry, EntryKind, HardState, Snapshot
from swarmpy.raft.storage import StoredState
from swarmpy.security.sealing import KeyRing
from swarmpy.wire import log_files, log_resealing
from swarmpy.wire.log_files import DATABASE, PLAIN_VERSION, SCHEMA_VERSION, SNAPSHOT_SUFFIX, WAL
from swarmpy.wire.log_rows import (
    SnapshotRow,
    entry_checksum,
    extent_checksum,
    extent_rows,
    first_rows,
    hard_state_checksum,
    hard_state_rows,
    integer,
    set_meta,
    snapshot_checksum,
    snapshot_row,
    transaction,
)
from swarmpy.wire.log_sealing import LogSeal, seal_of

log = structlog.get_logger(__name__)

CHECKPOINT_BYTES = 4 << 20
"""How large the WAL grows: a checkpoint is two more fsyncs, and after a crash 4 MiB take 0.2 s to check."""
_DISK_ERRORS = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""What is the disk's fault or the system's; everything else that SQLite says is damage."""
T = TypeVar("T")


class SqliteLog:
    """The :class:`~swarmpy.raft.storage.LogStorage` in a directory of its own (created 0700, files 0600).

    All SQL runs on one thread, in the order of the calls; snapshot files are written and read on another one, so that
    appends need not wait for them. The first call is :meth:`load`. After any error every call raises StorageError.
    """

    def __init__(self, directory: Path, ring: KeyRing | None = None) -> None:
        """``ring``: what to seal with; without one the log is as versions before sealing wrote it."""
        self._directory = directory
        self._ring = ring
        self._seal = LogSeal()
        self._version = 0
        self._seals = 0
        self._sql = ThreadPoolExecutor(1, thread_name_prefix="raft-log")
        self._files = ThreadPoolExecutor(1, thread_name_prefix="raft-snapshot")
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None
        self._first_index = 1
        """Of the entries in the database; one more than ``_last_index`` when there are none."""
        self._last_index = 0
        self._snapshot_index = 0
        self._generation = 0
        """0 until everything was loaded and found to be sound."""
        self._saving = asyncio.Lock()
        self._closing: asyncio.Future[None] | None = None
        self._failure = ""

    # ---- the protocol: every call is one job of a thread

    async def load(self) -> StoredState:
        """Open, check and read everything.

        Raises LogCorrupted (with what does not fit), DataDirMismatch (written by a newer version), StorageError.
        """
        return await self._run(self._sql, self._load)

    async def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Store both in one transaction; durable on return. Raises StorageError."""
        if hard_state is not None or entries:
            await self._run(self._sql, lambda: self._append(hard_state, entries))

    async def save_snapshot(self, snapshot: Snapshot, keep_from_index: int) -> None:
        """Store a snapshot; see :class:`~swarmpy.raft.storage.LogStorage`. Raises StorageError."""
        # One after the other: the record of a snapshot removes all files but its own, also those yet to be recorded.
        async with self._saving:
            if snapshot.index <= self._snapshot_index:
                return
            row = await self._run(self._files, lambda: self._write_snapshot(snapshot))
            await self._run(self._sql, lambda: self._record(row, len(snapshot.data), keep_from_index))

    async def read_snapshot(self) -> Snapshot | None:
        """The newest snapshot with its data. Raises LogCorrupted, StorageError."""
        async with self._saving:  # its file stays
            row = await self._run(self._sql, lambda: self._snapshot_row(self._loaded))
            return await self._run(self._files, lambda: self._read_snapshot(row))

    # ---- keys

    @property
    def seals(self) -> int:
        """How often the current key has sealed; never too few, but for what a crash undid."""
        return self._seals

    async def use(self, ring: KeyRing) -> None:
        """Seal with ``ring`` from now on, which opens all that is stored. Raises StorageError."""
        await self._run(self._sql, lambda: self._use(ring))

    async def reseal(self) -> None:
        """Seal anew what is of another key than the current one, or of none; nothing else is left of it on return.

        Appends and snapshots go on meanwhile. After a crash: once more. Raises LogCorrupted, StorageError.
        """
        after: int | None = 0
        while after is not None:
            after = await self._run(self._sql, partial(self._reseal_entries, after))
        async with self._saving:
            row = await self._run(self._sql, lambda: self._snapshot_row(self._loaded))
            if row is not None and row[-1] != self._seal.key:
                snapshot = await self._run(self._files, lambda: self._read_snapshot(row))
                assert snapshot is not None
                again = await self._run(self._files, lambda: self._write_snapshot(snapshot))
                await self._run(self._sql, lambda: self._replace_snapshot(again, len(snapshot.data)))
        await self._run(self._sql, self._rebuild)

    async def close(self) -> None:
        """Finish what is under way, close the database and end the threads. Idempotent.

        On return nothing is written any more, so the directory may be removed or opened again.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().run_in_executor(self._sql, self._close)
            self._sql.shutdown(wait=False)
        await asyncio.shield(self._closing)

    async def _run(self, thread: ThreadPoolExecutor, job: Callable[[], T]) -> T:
        if self._closing is not None:
            raise StorageError(f"{self._directory}: the raft log is closed")
        # Shielded: a cancelled caller must not leave a half-known write behind for the next one to overtake.
        running = asyncio.get_running_loop().run_in_executor(thread, self._guarded, job)
        # Its error may come when nobody waits any more; whoever asks next is told.
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(running)

    def _guarded(self, job: Callable[[], T]) -> T:
        if self._failure:
            raise StorageError(self._failure)
        try:
            return job()
        except (sqlite3.Error, OSError, StorageError) as error:
            # Whether the last write is on the disk is no longer known (after a failed fsync least of all).
            reason = self._reason(error)
            self._failure = str(reason)
            raise reason from (error.__cause__ if isinstance(error, StorageError) else error)

    def _reason(self, error: sqlite3.Error | OSError | StorageError) -> StorageError:
        if isinstance(error, LogCorrupted):
            return LogCorrupted(
                f"{self._directory}: {error}. This manager must not go on from it: remove this directory and start the "
                "node again, and it joins the other managers anew"
            )
        if isinstance(error, StorageError):
            return error
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DISK_ERRORS:
            return self._reason(LogCorrupted(f"{DATABASE} is damaged or no raft log: {error}"))
        return StorageError(f"{self._directory}: the raft log cannot be used: {error}; check the disk")

    # ---- on the log's thread

    def _load(self) -> StoredState:
        if self._lock is None:
            self._lock = log_files.lock(self._directory)
        if self._db is None:
            is_sealed = self._ring is not None
            self._db, torn = log_files.open_database(self._directory, first_rows(), is_sealed=is_sealed)
            if torn:
                log.warning("raft_log_torn_write_dropped", directory=str(self._directory), size_bytes=torn)
        self._seal = seal_of(self._ring, log_files.read_owner(self._directory))
        try:
            stored = self._checked(self._db)
        except (ValueError, TypeError, KeyError) as error:
            raise LogCorrupted(f"{DATABASE} cannot be read: {error}") from error
        if not self._generation:
            log_files.remove_half_written(self._directory)  # first, for it may fill the disk
            self._begin_generation(self._db, integer(self._db, "generation"))
            row = self._snapshot_row(self._db)
            log_files.remove_snapshots(self._directory, keep=None if row is None else row[3])
            if self._ring is not None and self._version == PLAIN_VERSION:
                self._use(self._ring)
        return stored

    @property
    def _loaded(self) -> sqlite3.Connection:
        assert self._db is not None, "load() comes first"
        assert self._generation, "load() comes first"
        return self._db

    def _checked(self, db: sqlite3.Connection) -> StoredState:
        """Everything, if all of it fits together. Raises LogCorrupted and what unreadable rows raise."""
        version = integer(db, "schema_version")
        if version > SCHEMA_VERSION:
            raise DataDirMismatch(
                f"{self._directory / DATABASE}: written by a newer swarmpy (schema {version}, this one reads up to "
                f"{SCHEMA_VERSION}): upgrade this node"
            )
        self._version = version
        meta: dict[str, int] = dict(db.execute("SELECT key, value FROM meta"))
        hard_state = HardState(term=meta["term"], vote=meta["vote"], commit=meta["commit"])
        if meta["crc"] != hard_state_checksum(hard_state):
            raise LogCorrupted("term, vote and commit do not match their checksum")
        first, last, snapshot_index = meta["first"], meta["last"], meta["snapshot"]
        generation = meta["generation"]
        if meta["extent_crc"] != extent_checksum(first, last, snapshot_index, generation):
            raise LogCorrupted("the extent of the log does not match its checksum")
        mark = log_files.read_mark(self._directory)
        if generation < mark:
            raise LogCorrupted(
                f"generation {mark} of the log was begun, but generation {generation} is there: {WAL} is lost, or "
                "older files were put back"
            )
        snapshot = self._read_snapshot(self._snapshot_row(db))
        if snapshot_index != (0 if snapshot is None else snapshot.index):
            raise LogCorrupted(f"the snapshot at {snapshot_index} is missing")
        entries = self._checked_entries(db, first, last)
        if hard_state.commit > last:
            raise LogCorrupted(f"entries up to {hard_state.commit} are committed, the log ends at {last}")
        problems = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
        if problems != ["ok"]:
            raise LogCorrupted(f"{DATABASE} is damaged: {' '.join(problems[0].split())}")
        self._first_index, self._last_index, self._snapshot_index = first, last, snapshot_index
        self._seals = meta.get("seals", 0)
        return StoredState(hard_state=hard_state, snapshot=snapshot, entries=tuple(entries))

    def _checked_entries(self, db: sqlite3.Connection, first: int, last: int) -> list[Entry]:
        entries: list[Entry] = []
        key_column = "0" if self._version == PLAIN_VERSION else "key"
        query = f"SELECT idx, term, kind, data, crc, {key_column} FROM entries ORDER BY idx"  # noqa: S608  # nosec B608  # of our own words
        for index, term, kind, data, crc, key in db.execute(query):
            expected = first + len(entries)
            if index != expected or index > last:
                raise LogCorrupted(f"entry {expected} is missing, {index} comes next")
            if crc != entry_checksum(index, term, kind, data, key):
                raise LogCorrupted(f"entry {index} does not match its checksum")
            if kind > max(EntryKind):
                raise DataDirMismatch(
                    f"{self._directory}: entry {index} is of kind {kind}, which this swarmpy does not know: upgrade it "
                    "to the version of the other managers"
                )
            opened = self._seal.open_entry(index, term, kind, key, data)
            entries.append(Entry(index=index, term=term, kind=EntryKind(kind), data=opened))
        if first + len(entries) != last + 1:
            raise LogCorrupted(f"entry {first + len(entries)} is missing, and all after it up to {last}")
        return entries

    def _append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        db = self._loaded
        first, last = self._first_index, self._last_index
        rows = [self._row(entry) for entry in entries]
        with transaction(db):
            if entries:
                begin = entries[0].index
                if begin <= last:
                    db.execute("DELETE FROM entries WHERE idx >= ?", (begin,))
                db.executemany(f"INSERT INTO entries VALUES ({self._places})", rows)  # noqa: S608  # nosec B608  # of our own words
                first, last = begin if begin < first or first > last else first, entries[-1].index
            if hard_state is not None:
                set_meta(db, hard_state_rows(hard_state))
            set_meta(db, extent_rows(first, last, self._snapshot_index, self._generation))
            self._count(db, len(entries))
        self._first_index, self._last_index = first, last
        if (self._directory / WAL).stat().st_size >= CHECKPOINT_BYTES:
            self._begin_generation(db, self._generation)

    def _row(self, entry: Entry) -> tuple[object, ...]:
        data, key = self._seal.entry(entry), self._seal.key
        checksum = entry_checksum(entry.index, entry.term, entry.kind, data, key)
        return self._columns((entry.index, entry.term, int(entry.kind), data, checksum, key))

    def _columns(self, row: tuple[object, ...]) -> tuple[object, ...]:
        """``row`` as this database has it: without a key where nothing has one."""
        return row[:-1] if self._version == PLAIN_VERSION else row

    @property
    def _places(self) -> str:
        return "?, ?, ?, ?, ?" if self._version == PLAIN_VERSION else "?, ?, ?, ?, ?, ?"

    def _count(self, db: sqlite3.Connection, seals: int) -> None:
        if self._version != PLAIN_VERSION:
            self._seals += seals
            set_meta(db, {"seals": self._seals})

    def _record(self, row: SnapshotRow, size: int, keep_from_index: int) -> None:
        db = self._loaded
        index, term, _, name, _, _ = row
        if index <= self._snapshot_index:
            return
        first, last = max(self._first_index, keep_from_index), self._last_index
        with transaction(db):
            ours = db.execute("SELECT term FROM entries WHERE idx = ?", (index,)).fetchone()
            if ours is not None and ours[0] == term:
                db.execute("DELETE FROM entries WHERE idx < ?", (keep_from_index,))
            else:
                db.execute("DELETE FROM entries")
                first, last = index + 1, index
            db.execute("DELETE FROM snapshots")
            db.execute(f"INSERT INTO snapshots VALUES ({self._places})", self._columns(row))  # noqa: S608  # nosec B608  # of our own words
            set_meta(db, extent_rows(first, last, index, self._generation))
            self._count(db, self._seal.seals_for(size))
        self._first_index, self._last_index, self._snapshot_index = first, last, index
        log_files.remove_snapshots(self._directory, keep=name)
        self._begin_generation(db, self._generation)

    def _use(self, ring: KeyRing) -> None:
        db = self._loaded
        if self._version == PLAIN_VERSION or ring.current != self._seal.key:
            with transaction(db):
                if self._version == PLAIN_VERSION:
                    log_files.add_keys(db)
                set_meta(db, {"seals": 0})
            self._version, self._seals = SCHEMA_VERSION, 0
        self._ring, self._seal = ring, seal_of(ring, log_files.read_owner(self._directory))

    def _reseal_entries(self, after: int) -> int | None:
        """The next few entries after ``after``; returns the last one of them, None when there are no more."""
        db = self._loaded
        rows, last = log_resealing.next_rows(db, self._seal, after)
        if rows:
            with transaction(db):
                log_resealing.replace(db, rows)
                self._count(db, len(rows))
            if (self._directory / WAL).stat().st_size >= CHECKPOINT_BYTES:
                self._begin_generation(db, self._generation)
        return last

    def _replace_snapshot(self, row: SnapshotRow, size: int) -> None:
        db = self._loaded
        index, _, _, name, digest, key = row
        with transaction(db):
            db.execute("UPDATE snapshots SET file = ?, sha256 = ?, key = ? WHERE idx = ?", (name, digest, key, index))
            self._count(db, self._seal.seals_for(size))
        log_files.remove_snapshots(self._directory, keep=name)

    def _rebuild(self) -> None:
        """Have no page in the files that is not in use: free ones keep what was in them."""
        db = self._loaded
        db.execute("VACUUM")
        self._begin_generation(db, self._generation)

    def _begin_generation(self, db: sqlite3.Connection, previous: int) -> None:
        """Move the WAL into the database, and begin an empty one with a transaction that the mark then asks for."""
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageError(f"{self._directory}: the raft log is locked: its WAL cannot be emptied")
        generation = previous + 1
        with transaction(db):
            set_meta(db, extent_rows(self._first_index, self._last_index, self._snapshot_index, generation))
        log_files.write_mark(self._directory, generation)
        self._generation = generation

    def _close(self) -> None:
        self._files.shutdown(wait=True)
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- on the snapshots' thread

    def _snapshot_row(self, db: sqlite3.Connection) -> SnapshotRow | None:
        return snapshot_row(db, has_keys=self._version != PLAIN_VERSION)

    def _read_snapshot(self, row: SnapshotRow | None) -> Snapshot | None:
        """The one that ``row`` tells of. The file may be large, and appends must not wait for it."""
        if row is None:
            return None
        index, term, conf, name, digest, key = row
        try:
            data = (self._directory / name).read_bytes()
        except FileNotFoundError:
            raise LogCorrupted(f"the snapshot {name} is missing") from None
        if snapshot_checksum(index, term, conf, data, key) != digest:
            raise LogCorrupted(f"the snapshot {name} does not match its checksum")
        data = self._seal.open_snapshot(index, term, conf, key, data)
        try:
            return Snapshot(index=index, term=term, conf=conf_from_plain(json.loads(conf)), data=data)
        except (ValueError, TypeError) as error:
            raise LogCorrupted(f"the members in the snapshot {name} cannot be read: {error}") from error

    def _write_snapshot(self, snapshot: Snapshot) -> SnapshotRow:
        """Write the file; it counts when the database has the row that is returned."""
        index, term, seal = snapshot.index, snapshot.term, self._seal
        conf = json.dumps(conf_to_plain(snapshot.conf))
        # Sealed anew, it is another file: the one that counts stays until the other does.
        of_key = f"-{seal.key:x}" if seal.key else ""
        name = f"{term:016x}-{index:016x}{of_key}{SNAPSHOT_SUFFIX}"
        pieces = list(seal.snapshot(index, term, conf, snapshot.data))
        log_files.write_file(self._directory / name, *pieces)
        return index, term, conf, name, snapshot_checksum(index, term, conf, pieces, seal.key), seal.key
