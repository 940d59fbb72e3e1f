"""The agent's memory on disk: one small sqlite database in the data directory.

All of it is done in worker threads, one call at a time; encoding as well, as an endpoint table may be large.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import structlog

from swarmpy.agent.local import Changes, Remembered
from swarmpy.errors import DataDirMismatch, ProtocolViolation, StorageError
from swarmpy.model import codec
from swarmpy.model.assignments import EndpointUpdate, ManagerAddress
from swarmpy.model.objects import Task

log = structlog.get_logger(__name__)

SCHEMA_VERSION = 1
_TASK = "task/"
_MANAGERS = "managers"
_ENDPOINTS = "endpoints"
_INCARNATION = "incarnation"
_REVOKED = "revoked"
_SIDE_FILES = ("-journal", "-wal", "-shm")


class LocalDatabase:
    """The LocalState of a real node. The file is created with mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        # A call that was cancelled goes on in its thread; the next one waits for it.
        self._lock = threading.Lock()

    async def load(self) -> Remembered:
        """See LocalState. What cannot be read is put aside as ``<name>.corrupt``."""
        return await asyncio.to_thread(self._load)

    async def save(self, changes: Changes) -> None:
        """See LocalState."""
        await asyncio.to_thread(self._save, changes)

    async def close(self) -> None:
        """See LocalState."""
        await asyncio.to_thread(self._close)

    def _load(self) -> Remembered:
        with self._lock:
            try:
                return self._read(self._open())
            except (sqlite3.DatabaseError, ProtocolViolation) as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise StorageError(f"{self._path} cannot be opened: {error}") from error
                log.warning(
                    "local_state_corrupt", path=str(self._path), reason=str(error), consequence="starting empty"
                )
                self._put_aside()
                return Remembered()

    def _save(self, changes: Changes) -> None:
        rows, gone = _rows(changes)
        with self._lock:
            try:
                with self._open() as db:
                    db.executemany("INSERT OR REPLACE INTO item (key, value) VALUES (?, ?)", rows)
                    db.executemany("DELETE FROM item WHERE key = ?", gone)
            except (sqlite3.Error, OSError) as error:
                raise StorageError(f"{self._path} cannot be written: {error}") from error

    def _close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                raise StorageError(f"{self._path} cannot be opened: {error.strerror}") from error
            db = sqlite3.connect(self._path, timeout=5, check_same_thread=False)
            try:
                self._prepare(db)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise DataDirMismatch(
                f"{self._path} has schema version {found}, this swarmpy reads up to {SCHEMA_VERSION}: upgrade it"
            )
        db.execute("PRAGMA synchronous = FULL")
        with db:
            db.execute("CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _read(self, db: sqlite3.Connection) -> Remembered:
        tasks: list[Task] = []
        managers: tuple[ManagerAddress, ...] = ()
        endpoints: EndpointUpdate | None = None
        incarnation = 0
        revoked: dict[str, int] = {}
        for key, value in db.execute("SELECT key, value FROM item ORDER BY key"):
            if key.startswith(_TASK):
                tasks.append(codec.decode(Task, value))
            elif key == _MANAGERS:
                managers = codec.decode(Remembered, value).managers
            elif key == _ENDPOINTS:
                endpoints = codec.decode(EndpointUpdate, value)
            elif key == _INCARNATION:
                incarnation = codec.decode(Remembered, value).incarnation
            elif key == _REVOKED:
                revoked = codec.decode(Remembered, value).revoked
        return Remembered(
            tasks=tuple(tasks), managers=managers, endpoints=endpoints, incarnation=incarnation, revoked=revoked
        )

    def _put_aside(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        for side in _SIDE_FILES:
            Path(f"{self._path}{side}").unlink(missing_ok=True)
        self._path.replace(f"{self._path}.corrupt")


def _rows(changes: Changes) -> tuple[list[tuple[str, bytes]], list[tuple[str]]]:
    rows = [(f"{_TASK}{i}", codec.encode(task)) for i, task in changes.tasks.items() if task is not None]
    gone = [(f"{_TASK}{i}",) for i, task in changes.tasks.items() if task is None]
    if changes.managers is not None:
        rows.append((_MANAGERS, codec.encode(Remembered(managers=changes.managers))))
    if changes.endpoints is not None:
        rows.append((_ENDPOINTS, codec.encode(changes.endpoints)))
    if changes.incarnation is not None:
        rows.append((_INCARNATION, codec.encode(Remembered(incarnation=changes.incarnation))))
    if changes.revoked is not None:
        rows.append((_REVOKED, codec.encode(Remembered(revoked=changes.revoked))))
    return rows, gone
