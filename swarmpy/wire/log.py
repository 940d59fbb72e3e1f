"""The durable Raft log of one manager: entries and votes in SQLite, snapshots as files beside it.

One transaction holds "cut the conflicting tail, append, set term and vote", so a crash leaves all of it or nothing; a
torn write is SQLite's to undo (WAL, ``synchronous=FULL``: the fsync is in the commit). What comes back is checked:
every entry has a CRC-32, every snapshot a SHA-256, and a hole or mismatch is fatal, since a member that forgot what it
promised would break the others' consensus. It never repairs and never guesses.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from swarmpy.errors import DataDirMismatch, LogCorrupted, StorageError
from swarmpy.raft.encoding import conf_from_plain, conf_to_plain
from swarmpy.raft.messages import Entry, EntryKind, HardState, Snapshot
from swarmpy.raft.storage import StoredState

SCHEMA_VERSION = 1
DATABASE = "raft.db"
SNAPSHOT_SUFFIX = ".snap"
TEMPORARY_SUFFIX = ".tmp"
T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS snapshots (
    idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, conf TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL
);
"""
_PRAGMAS = (
    "PRAGMA locking_mode=EXCLUSIVE",  # a second manager on the same directory must fail, not mix in
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA journal_size_limit=67108864",
)


class SqliteLog:
    """The :class:`~swarmpy.raft.storage.LogStorage` in a directory of its own (created 0700, files 0600).

    All SQL runs on one thread, in the order of the calls; snapshot files are written on another one, so that appends
    need not wait for them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sql = ThreadPoolExecutor(1, thread_name_prefix="raft-log")
        self._files = ThreadPoolExecutor(1, thread_name_prefix="raft-snapshot")
        self._db: sqlite3.Connection | None = None
        self._last_index = 0
        self._snapshot_index = 0
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
        await self._run(self._sql, lambda: self._append(hard_state, entries))

    async def save_snapshot(self, snapshot: Snapshot, keep_from_index: int) -> None:
        """Store a snapshot; see :class:`~swarmpy.raft.storage.LogStorage`. Raises StorageError."""
        if snapshot.index <= self._snapshot_index:
            return
        name = f"{snapshot.term:016x}-{snapshot.index:016x}{SNAPSHOT_SUFFIX}"
        digest = await self._run(self._files, lambda: self._write_file(name, snapshot))
        await self._run(self._sql, lambda: self._record(snapshot, name, digest, keep_from_index))

    async def read_snapshot(self) -> Snapshot | None:
        """The newest snapshot with its data. Raises LogCorrupted, StorageError."""
        return await self._run(self._sql, self._read_snapshot)

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
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(thread, self._guarded, job))

    def _guarded(self, job: Callable[[], T]) -> T:
        if self._failure:
            raise StorageError(self._failure)
        try:
            return job()
        except (sqlite3.Error, OSError) as error:
            # Whether the last write is on the disk is no longer known (after a failed fsync least of all).
            if type(error) is sqlite3.DatabaseError:  # its subclasses are other matters: a full disk, a lock
                damaged = self._corrupted(f"{DATABASE} is damaged or no raft log: {error}")
                self._failure = str(damaged)
                raise damaged from error
            self._failure = f"{self._directory}: the raft log cannot be used: {error}; check the disk"
            raise StorageError(self._failure) from error

    # ---- on the log's thread

    def _open(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / DATABASE
        # Made here, for SQLite would make it with the umask; its WAL takes the mode over. One that is there is not
        # touched: closing a file drops all locks that this process holds on it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            for pragma in _PRAGMAS:
                db.execute(pragma)
            with _transaction(db):
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                found = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
                if found is None:
                    db.execute("INSERT INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,))
                elif found[0] > SCHEMA_VERSION:
                    raise DataDirMismatch(
                        f"{path}: written by a newer swarmpy (schema {found[0]}, this one reads up to "
                        f"{SCHEMA_VERSION}): upgrade this node"
                    )
        except (sqlite3.Error, DataDirMismatch):
            db.close()
            raise
        self._db = db
        return db

    def _load(self) -> StoredState:
        db = self._open()
        snapshot = self._read_snapshot()
        meta: dict[str, int] = dict(db.execute("SELECT key, value FROM meta"))
        hard_state = HardState(term=meta.get("term", 0), vote=meta.get("vote", 0), commit=meta.get("commit", 0))
        if meta.get("crc", _crc_of_hard_state(HardState())) != _crc_of_hard_state(hard_state):
            raise self._corrupted("term, vote and commit do not match their checksum")
        first_after = snapshot.index + 1 if snapshot is not None else 1
        try:
            entries = self._checked_entries(db, first_after)
        except (ValueError, TypeError) as error:
            raise self._corrupted(f"the entries cannot be read: {error}") from error
        last = entries[-1].index if entries else first_after - 1
        if last < first_after - 1:
            raise self._corrupted(f"the log ends at {last}, before its snapshot {first_after - 1}")
        if hard_state.commit > last:
            raise self._corrupted(f"entries up to {hard_state.commit} are committed, the log ends at {last}")
        self._last_index = last
        self._snapshot_index = first_after - 1
        self._remove_files(keep=None if snapshot is None else self._file_of(db))
        for half_written in sorted(self._directory.glob(f"*{TEMPORARY_SUFFIX}")):
            half_written.unlink()
        return StoredState(hard_state=hard_state, snapshot=snapshot, entries=tuple(entries))

    def _checked_entries(self, db: sqlite3.Connection, first_after: int) -> list[Entry]:
        entries: list[Entry] = []
        for index, term, kind, data, crc in db.execute("SELECT idx, term, kind, data, crc FROM entries ORDER BY idx"):
            expected = entries[-1].index + 1 if entries else min(first_after, index)
            if index != expected:
                raise self._corrupted(f"entry {expected} is missing, {index} comes next")
            if crc != _crc(index, term, kind, data):
                raise self._corrupted(f"entry {index} does not match its checksum")
            entries.append(Entry(index=index, term=term, kind=EntryKind(kind), data=data))
        return entries

    def _append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        db = self._open()
        with _transaction(db):
            if entries:
                if entries[0].index <= self._last_index:
                    db.execute("DELETE FROM entries WHERE idx >= ?", (entries[0].index,))
                db.executemany(
                    "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
                    [(e.index, e.term, int(e.kind), e.data, _crc(e.index, e.term, e.kind, e.data)) for e in entries],
                )
            if hard_state is not None:
                values = {"term": hard_state.term, "vote": hard_state.vote, "commit": hard_state.commit}
                db.executemany(
                    "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                    [*values.items(), ("crc", _crc_of_hard_state(hard_state))],
                )
        if entries:
            self._last_index = entries[-1].index

    def _record(self, snapshot: Snapshot, name: str, digest: str, keep_from_index: int) -> None:
        db = self._open()
        if snapshot.index <= self._snapshot_index:
            return
        with _transaction(db):
            ours = db.execute("SELECT term FROM entries WHERE idx = ?", (snapshot.index,)).fetchone()
            if ours is not None and ours[0] == snapshot.term:
                db.execute("DELETE FROM entries WHERE idx < ?", (keep_from_index,))
            else:
                db.execute("DELETE FROM entries")
                self._last_index = snapshot.index
            db.execute("DELETE FROM snapshots")
            conf = json.dumps(conf_to_plain(snapshot.conf))
            db.execute(
                "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?)", (snapshot.index, snapshot.term, conf, name, digest)
            )
        self._snapshot_index = snapshot.index
        self._remove_files(keep=name)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _read_snapshot(self) -> Snapshot | None:
        db = self._open()
        row = db.execute("SELECT idx, term, conf, file, sha256 FROM snapshots ORDER BY idx DESC LIMIT 1").fetchone()
        if row is None:
            return None
        index, term, conf, name, digest = row
        try:
            data = (self._directory / name).read_bytes()
        except FileNotFoundError:
            raise self._corrupted(f"the snapshot {name} is missing") from None
        if _digest(index, term, conf, data) != digest:
            raise self._corrupted(f"the snapshot {name} does not match its checksum")
        try:
            return Snapshot(index=index, term=term, conf=conf_from_plain(json.loads(conf)), data=data)
        except (ValueError, TypeError) as error:
            raise self._corrupted(f"the members in the snapshot {name} cannot be read: {error}") from error

    def _file_of(self, db: sqlite3.Connection) -> str:
        name: str = db.execute("SELECT file FROM snapshots ORDER BY idx DESC LIMIT 1").fetchone()[0]
        return name

    def _remove_files(self, keep: str | None) -> None:
        for path in sorted(self._directory.glob(f"*{SNAPSHOT_SUFFIX}")):
            if path.name != keep:
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        self._files.shutdown(wait=True)
        if self._db is not None:
            self._db.close()
            self._db = None

    def _corrupted(self, what: str) -> LogCorrupted:
        return LogCorrupted(
            f"{self._directory}: {what}. Do not start this manager on it: remove the directory and join the node anew"
        )

    # ---- on the snapshots' thread

    def _write_file(self, name: str, snapshot: Snapshot) -> str:
        """Write the data so that the name, once it exists, is complete and durable. Returns the digest."""
        final = self._directory / name
        temporary = final.with_suffix(TEMPORARY_SUFFIX)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(snapshot.data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(final)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return _digest(snapshot.index, snapshot.term, json.dumps(conf_to_plain(snapshot.conf)), snapshot.data)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _crc(index: int, term: int, kind: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(b"%d %d %d" % (index, term, kind)))


def _crc_of_hard_state(state: HardState) -> int:
    return zlib.crc32(b"%d %d %d" % (state.term, state.vote, state.commit))


def _digest(index: int, term: int, conf: Any, data: bytes) -> str:
    digest = hashlib.sha256(f"{index} {term} {conf}\n".encode())
    digest.update(data)
    return digest.hexdigest()
