"""A look at the log of a manager that does not run: everything as it is stored, damaged or not, and nothing changed.

SQLite itself would change the directory: to read a database with a write-ahead log it makes a ``-shm`` file and, at the
end, moves the log into the database. So a database without a write-ahead log (a daemon that was stopped leaves none) is
opened as immutable, where SQLite reads this one file and nothing else; one with it is read from a private copy.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs

from swarmpy.errors import (
    DataDirMismatch,
    FailedPrecondition,
    LogCorrupted,
    PermissionDenied,
    StorageError,
    SwarmpyError,
)
from swarmpy.raft.encoding import conf_from_plain
from swarmpy.raft.messages import ConfState, HardState
from swarmpy.security.sealing import PLAIN, KeyRing
from swarmpy.wire import log_files, wal
from swarmpy.wire.log_files import DATABASE, PLAIN_VERSION, SCHEMA_VERSION, SNAPSHOT_SUFFIX, WAL
from swarmpy.wire.log_rows import entry_checksum, extent_checksum, hard_state_checksum, snapshot_checksum
from swarmpy.wire.log_sealing import LogSeal, seal_of

_MOST_FAULTS = 3
_MISMATCH = "does not match its checksum"


@attrs.frozen(kw_only=True)
class StoredHardState:
    """Term, vote and commit, and whether they match their checksum."""

    state: HardState
    is_sound: bool


@attrs.frozen(kw_only=True)
class StoredExtent:
    """From where to where the log reaches, as ``meta`` has it, and whether that matches its checksum."""

    first: int
    last: int
    snapshot: int
    generation: int
    is_sound: bool


@attrs.frozen(kw_only=True)
class StoredEntry:
    """One row of the log. ``kind`` is a number: it may be one that this version does not know."""

    index: int
    term: int
    kind: int
    data: bytes
    fault: str = ""
    """Why its data is not known: it does not match its checksum, or cannot be opened."""

    @property
    def is_sound(self) -> bool:
        """True when its data is what was written."""
        return not self.fault


@attrs.frozen(kw_only=True)
class StoredSnapshot:
    """What the database says of the newest snapshot; its data is a file of its own."""

    index: int
    term: int
    conf: str
    file: str
    sha256: str
    key: int = PLAIN
    """The number of the key that its file is sealed with."""

    def members(self) -> ConfState:
        """Who took part. Raises LogCorrupted."""
        try:
            return conf_from_plain(json.loads(self.conf))
        except (ValueError, TypeError) as error:
            raise LogCorrupted(f"the members in the snapshot {self.file} cannot be read") from error


@attrs.frozen(kw_only=True)
class Entries:
    """What there is in the table: ``count`` entries ``first .. last`` (0 when there are none) of ``size`` bytes."""

    count: int
    first: int
    last: int
    size: int


class StoppedLog:
    """Of :func:`open_stopped`. Every method raises LogCorrupted where the database is damaged, StorageError.

    Entries are read one by one: a log may be larger than the memory.
    """

    def __init__(self, directory: Path, db: sqlite3.Connection, seal: LogSeal) -> None:
        self._directory = directory
        self._db = db
        self._seal = seal

    def check_schema(self) -> None:
        """Raises DataDirMismatch for a database of a newer version."""
        (found,) = self._numbers("schema_version")
        if found > SCHEMA_VERSION:
            raise DataDirMismatch(
                f"{self._directory / DATABASE} was written by a newer swarmpy (schema {found}, this one reads up to "
                f"{SCHEMA_VERSION}): upgrade this node"
            )

    @property
    def is_sealed(self) -> bool:
        """True when its rows tell a key."""
        return self._key_column() == "key"

    def _key_column(self) -> str:
        (found,) = self._numbers("schema_version")
        return "0" if found == PLAIN_VERSION else "key"

    def faults(self) -> list[str]:
        """What SQLite's own check of the database finds, at most a few lines."""
        with self._damage():
            rows = [str(row[0]) for row in self._db.execute(f"PRAGMA integrity_check({_MOST_FAULTS})")]
        return [] if rows == ["ok"] else [" ".join(row.split()) for row in rows]

    def torn_bytes(self) -> int:
        """How many bytes of a torn last write are at the end of the WAL; a daemon drops them, and so is done here.

        Raises LogCorrupted when SQLite would drop more than that.
        """
        path = self._directory / DATABASE
        with self._damage():
            return wal.check(self._directory / WAL, path.stat().st_size // log_files.PAGE_BYTES)

    def mark(self) -> int:
        """The generation that must be there; 0 when no mark is beside the directory, as with a copy."""
        with self._damage():
            return log_files.read_mark(self._directory)

    def hard_state(self) -> StoredHardState:
        """Term, vote and commit."""
        term, vote, commit, checksum = self._numbers("term", "vote", "commit", "crc")
        state = HardState(term=term, vote=vote, commit=commit)
        return StoredHardState(state=state, is_sound=checksum == hard_state_checksum(state))

    def extent(self) -> StoredExtent:
        """From where to where the log should reach."""
        first, last, snapshot, generation, checksum = self._numbers(
            "first", "last", "snapshot", "generation", "extent_crc"
        )
        is_sound = checksum == extent_checksum(first, last, snapshot, generation)
        return StoredExtent(first=first, last=last, snapshot=snapshot, generation=generation, is_sound=is_sound)

    def _numbers(self, *keys: str) -> list[int]:
        with self._damage():
            meta = dict(self._db.execute("SELECT key, value FROM meta"))
        for key in keys:
            if type(meta.get(key)) is not int:
                raise LogCorrupted(f"{DATABASE} does not tell its {key}")
        return [meta[key] for key in keys]

    def snapshot(self) -> StoredSnapshot | None:
        """The newest snapshot, if there is one."""
        columns = f"idx, term, conf, file, sha256, {self._key_column()}"
        row = self._row(f"SELECT {columns} FROM snapshots ORDER BY idx DESC LIMIT 1")  # noqa: S608  # nosec B608  # of our own words
        if row is None:
            return None
        index, term, conf, file, sha256, key = row
        if (
            type(term) is not int
            or type(key) is not int
            or not all(isinstance(text, str) for text in (conf, file, sha256))
        ):
            raise LogCorrupted("the record of the snapshot is no such record")
        if Path(file).name != file:
            raise LogCorrupted("the record of the snapshot names a file elsewhere")
        return StoredSnapshot(index=index, term=term, conf=conf, file=file, sha256=sha256, key=key)

    def size_of(self, snapshot: StoredSnapshot) -> int:
        """Bytes of a snapshot's file."""
        with self._damage():
            return self._file(snapshot).stat().st_size

    def data_of(self, snapshot: StoredSnapshot) -> bytes:
        """A snapshot's data, which matches its digest, and is opened if it was sealed."""
        with self._damage():
            data = self._file(snapshot).read_bytes()
        index, term, conf, key = snapshot.index, snapshot.term, snapshot.conf, snapshot.key
        if snapshot_checksum(index, term, conf, data, key) != snapshot.sha256:
            raise LogCorrupted(f"the snapshot {snapshot.file} does not match its checksum")
        return self._seal.open_snapshot(index, term, conf, key, data)

    def _file(self, snapshot: StoredSnapshot) -> Path:
        file = self._directory / snapshot.file
        if not file.is_file():
            raise LogCorrupted(f"the snapshot {snapshot.file} is missing")
        return file

    def count(self) -> Entries:
        """How many entries there are."""
        row = self._row("SELECT COUNT(*), MIN(idx), MAX(idx), SUM(LENGTH(data)) FROM entries")
        count, first, last, size = row or (0, 0, 0, 0)
        return Entries(count=count, first=first or 0, last=last or 0, size=int(size or 0))

    def entries(self, last: int | None = None) -> Iterator[StoredEntry]:
        """Entries in order, up to ``last``."""
        columns = f"idx, term, kind, data, crc, {self._key_column()}"
        query = f"SELECT {columns} FROM entries WHERE idx <= ? ORDER BY idx"  # noqa: S608  # nosec B608  # of our own words
        with self._damage():
            for row in self._db.execute(query, (last or (1 << 63) - 1,)):
                yield self._entry(*row)

    def _entry(self, index: int, term: Any, kind: Any, stored: Any, crc: Any, key: Any) -> StoredEntry:
        is_row = all(type(number) is int for number in (term, kind, key)) and type(stored) is bytes
        if not is_row:
            return StoredEntry(index=index, term=0, kind=0, data=b"", fault=_MISMATCH)
        if crc != entry_checksum(index, term, kind, stored, key):
            return StoredEntry(index=index, term=term, kind=kind, data=stored, fault=_MISMATCH)
        try:
            data = self._seal.open_entry(index, term, kind, key, stored)
        except LogCorrupted as error:
            return StoredEntry(index=index, term=term, kind=kind, data=stored, fault=_seal_fault(error))
        return StoredEntry(index=index, term=term, kind=kind, data=data)

    def _row(self, query: str) -> tuple[Any, ...] | None:
        with self._damage():
            found: tuple[Any, ...] | None = self._db.execute(query).fetchone()
            return found

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """What SQLite cannot make sense of is damage; what the disk does not give is the disk's."""
        try:
            yield
        except sqlite3.Error as error:
            raise LogCorrupted(f"{DATABASE} is damaged or no raft log: {error}") from error
        except OSError as error:
            raise unreadable(self._directory, error) from error


def _seal_fault(error: LogCorrupted) -> str:
    # "entry 7 cannot be opened: ...": which one it is stands beside it.
    return " ".join(str(error).split(" ")[2:])


@contextmanager
def open_stopped(directory: Path, ring: KeyRing | None = None) -> Iterator[StoppedLog]:
    """The log in ``directory``, on which no daemon may run meanwhile: the caller sees to that. ``ring`` opens it.

    Raises FailedPrecondition when there is none, LogCorrupted for one that is no log, PermissionDenied, StorageError.
    """
    with _kept_out(directory):
        source, beside = directory / DATABASE, directory / WAL
        try:
            _look(directory)
            seal = seal_of(ring, log_files.read_owner(directory))
            is_settled = not beside.exists() or not beside.stat().st_size
        except OSError as error:
            raise unreadable(directory, error) from error
        if is_settled:
            with _connected(f"{source.absolute().as_uri()}?immutable=1") as db:
                yield StoppedLog(directory, db, seal)
            return
        with tempfile.TemporaryDirectory(prefix="swarmpy-raft-") as private:
            _copy((source, beside), Path(private))
            with _connected((Path(private) / DATABASE).as_uri()) as db:
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                yield StoppedLog(directory, db, seal)


@contextmanager
def _kept_out(directory: Path) -> Iterator[None]:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(f"{directory} is locked: the manager it belongs to runs, stop it first") from None
        yield
    finally:
        os.close(descriptor)


def _look(directory: Path) -> None:
    source = directory / DATABASE
    if not source.is_file():
        if any(directory.glob(f"*{SNAPSHOT_SUFFIX}")) or (directory / WAL).exists():
            raise LogCorrupted(f"{directory} has files of a raft log, but {DATABASE} is missing")
        raise FailedPrecondition(f"{directory} holds no raft log: there is no {DATABASE}")
    with source.open("rb") as file:
        log_files.check_header(file)


@contextmanager
def _connected(uri: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
        db.text_factory = lambda raw: raw.decode(errors="replace")  # damaged text must not stop the reading
        yield db


def _copy(files: Sequence[Path], to: Path) -> None:
    for file in files:
        try:
            shutil.copyfile(file, to / file.name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FailedPrecondition(
                    f"{file.parent} was not closed in good order and has to be copied to be read, but {to.parent} has "
                    "no room for it: set TMPDIR to a directory that has"
                ) from error
            raise unreadable(file, error) from error


def unreadable(path: Path, error: OSError) -> SwarmpyError:
    """What to tell when ``path`` cannot be read."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"cannot read {path}: permission denied: run this as the daemon's user")
    return StorageError(f"cannot read {path}: {error.strerror}")
