"""The files of a Raft log: the database that is made whole or not at all, the snapshots, and the mark beside them.

The mark (``raft.mark`` beside ``raft/``) holds the number of the newest *generation*: one begins with every opening and
every checkpoint, as the first transaction of an empty WAL, and is in the mark when it is on the disk. A database whose
generation is lower than the mark's has lost its WAL or comes from a backup, and with it what this manager promised.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

from swarmpy.errors import LogCorrupted, StorageError
from swarmpy.wire import wal

DATABASE = "raft.db"
WAL = f"{DATABASE}-wal"
SNAPSHOT_SUFFIX = ".snap"
TEMPORARY_SUFFIX = ".tmp"
OWNER = "owner"
"""The file that says which node and member the log is of."""
PLAIN_VERSION = 1
"""Of a database whose rows do not tell a key: nothing in it is sealed."""
SCHEMA_VERSION = 2
PAGE_BYTES = 4096

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, kind INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE snapshots (
    idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, conf TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL
);
"""
"""``meta`` comes first: its page has a low number, which :mod:`swarmpy.wire.wal` counts on."""
_KEYS = (
    "ALTER TABLE entries ADD COLUMN key INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE snapshots ADD COLUMN key INTEGER NOT NULL DEFAULT 0",
)
"""Since version 2: the number of the key that the data is sealed with, 0 for none."""
_PRAGMAS = (
    "PRAGMA locking_mode=EXCLUSIVE",  # no -shm file, and no other program in between
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA cache_spill=OFF",  # a transaction reaches the WAL in one piece, its pages in order
    "PRAGMA wal_autocheckpoint=0",  # done by hand: SQLite would hide that one failed
    "PRAGMA temp_store=MEMORY",  # what VACUUM copies stays out of other files
)
_HEADER = b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + b"\x02\x02"
"""With the two bytes that say "use the WAL": damage there would have SQLite ignore it."""


def lock(directory: Path) -> int:
    """Make ``directory`` (0700) and keep everybody else out until the descriptor is closed.

    A second manager on the same directory must fail, not mix in. Raises StorageError, OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StorageError(f"{directory}: the raft log is locked: another process uses it") from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_database(directory: Path, first_rows: dict[str, int], *, is_sealed: bool) -> tuple[sqlite3.Connection, int]:
    """The database of a locked directory, made with ``first_rows`` in ``meta`` when there is no log at all.

    One that is to be sealed is made for that; one that is there stays as it is. Returns how many bytes of a torn write
    were cut from its WAL, too. Raises LogCorrupted, sqlite3.Error, OSError.
    """
    path = directory / DATABASE
    if not path.exists():
        _check_nothing_is_left(directory)
        _create(path, first_rows, is_sealed=is_sealed)
    with path.open("rb") as file:
        check_header(file)
    torn = wal.check(directory / WAL, path.stat().st_size // PAGE_BYTES)
    return _connect(path), torn


def check_header(file: BinaryIO) -> None:
    """Raise LogCorrupted unless the database ``file`` begins as one of ours."""
    if file.read(len(_HEADER)) != _HEADER:
        raise LogCorrupted(f"{DATABASE} is damaged at byte 0 or no raft log: its header is not one of a raft log")


def _check_nothing_is_left(directory: Path) -> None:
    left = [path.name for path in (directory / WAL, mark_of(directory)) if path.exists()]
    left += sorted(path.name for path in directory.glob(f"*{SNAPSHOT_SUFFIX}"))
    if left:
        raise LogCorrupted(f"{DATABASE} is missing, though there is {left[0]}")


def _create(path: Path, first_rows: dict[str, int], *, is_sealed: bool) -> None:
    """Make the database whole or not at all: one that lost its tables is never taken for a new one."""
    temporary = path.with_suffix(TEMPORARY_SUFFIX)
    for leftover in (temporary, *path.parent.glob(f"{temporary.name}-*")):
        leftover.unlink(missing_ok=True)
    # Made here, for SQLite would make it with the umask; its WAL takes the mode over.
    os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        for pragma in _PRAGMAS:
            db.execute(pragma)
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        for statement in _KEYS if is_sealed else ():
            db.execute(statement)
        rows = {"schema_version": SCHEMA_VERSION if is_sealed else PLAIN_VERSION, **first_rows}
        db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # Closing would keep it to itself when the last of the WAL did not get into the database.
    if path.with_name(f"{temporary.name}-wal").exists():
        raise OSError(f"{temporary} cannot be closed")
    temporary.rename(path)
    sync_directory(path.parent)


def add_keys(db: sqlite3.Connection) -> None:
    """Change a database of PLAIN_VERSION to one whose rows tell a key, in the transaction that is open."""
    for statement in _KEYS:
        db.execute(statement)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,))


def read_owner(directory: Path) -> str:
    """Which node and member the log in ``directory`` is of; "" when nothing says it. Raises OSError."""
    try:
        return (directory / OWNER).read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        for pragma in _PRAGMAS:
            db.execute(pragma)
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
    except sqlite3.Error:
        db.close()
        raise
    return db


# ---- the mark


def mark_of(directory: Path) -> Path:
    """The mark of the log in ``directory``: beside it, so that a directory that was put back does not bring its own."""
    return directory.with_name(f"{directory.name}.mark")


def read_mark(directory: Path) -> int:
    """The generation that must be there; 0 when there never was a log. Raises LogCorrupted, OSError."""
    path = mark_of(directory)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return 0
    number = raw.split(b" ")[0]
    if not number.isdigit() or raw != _mark(int(number)):
        raise LogCorrupted(f"{path.name} is damaged")
    return int(number)


def write_mark(directory: Path, generation: int) -> None:
    """From now on ``generation`` must be there. Durable on return. Raises OSError."""
    path = mark_of(directory)
    write_file(path, _mark(generation))


def _mark(generation: int) -> bytes:
    number = b"%d" % generation
    return b"%b %08x\n" % (number, zlib.crc32(number))


# ---- files


def write_file(path: Path, *pieces: bytes) -> None:
    """Write a file so that its name, once it exists, is complete and durable. Raises OSError."""
    temporary = path.with_suffix(TEMPORARY_SUFFIX)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with suppress(OSError):  # it may have taken the last room of the disk, in which the log could be opened again
            temporary.unlink()
        raise
    sync_directory(path.parent)


def snapshot_time(directory: Path) -> int:
    """When the newest snapshot was written, nanoseconds since the Unix epoch; 0 when there is none."""
    with suppress(OSError):  # one that is replaced this moment
        return max((path.stat().st_mtime_ns for path in directory.glob(f"*{SNAPSHOT_SUFFIX}")), default=0)
    return 0


def remove_snapshots(directory: Path, keep: str | None) -> None:
    """Remove the snapshots that no row names. Raises OSError."""
    for path in sorted(directory.glob(f"*{SNAPSHOT_SUFFIX}")):
        if path.name != keep:
            path.unlink(missing_ok=True)


def remove_half_written(directory: Path) -> None:
    """Remove what a crash left unfinished. Raises OSError."""
    for path in sorted(directory.glob(f"*{TEMPORARY_SUFFIX}*")):
        path.unlink()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_mark(directory: Path) -> None:
    """The log of ``directory`` is given up on purpose: another may begin there. Raises OSError."""
    mark = mark_of(directory)
    mark.with_suffix(TEMPORARY_SUFFIX).unlink(missing_ok=True)
    if mark.exists():
        mark.unlink()
        sync_directory(directory.parent)
