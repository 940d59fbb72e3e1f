"""Rows of a Raft log's database: what is stored beside the data, so that damage is noticed without any key."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from swarmpy.errors import LogCorrupted
from swarmpy.raft.messages import HardState
from swarmpy.wire.log_files import DATABASE

SnapshotRow = tuple[int, int, str, str, str, int]
"""Index, term, membership, file, digest and number of the key that it is sealed with."""


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Every one writes the page of ``meta``, on which :mod:`swarmpy.wire.wal` counts."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def set_meta(db: sqlite3.Connection, rows: dict[str, int]) -> None:
    """Write rows of ``meta``."""
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows.items())


def integer(db: sqlite3.Connection, key: str) -> int:
    """A row of ``meta``. Raises LogCorrupted."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None or type(row[0]) is not int:
        raise LogCorrupted(f"{DATABASE} does not tell its {key}")
    number: int = row[0]
    return number


def snapshot_row(db: sqlite3.Connection, *, has_keys: bool) -> SnapshotRow | None:
    """What is stored of the newest snapshot, in a database whose rows tell their key, or do not."""
    key = "key" if has_keys else "0"
    query = f"SELECT idx, term, conf, file, sha256, {key} FROM snapshots ORDER BY idx DESC"  # noqa: S608  # nosec B608  # of our own words
    row: SnapshotRow | None = db.execute(query).fetchone()
    return row


def first_rows() -> dict[str, int]:
    """``meta`` of a new log."""
    return {**hard_state_rows(HardState()), **extent_rows(1, 0, 0, 0)}


def hard_state_rows(state: HardState) -> dict[str, int]:
    """Rows of ``meta``."""
    return {"term": state.term, "vote": state.vote, "commit": state.commit, "crc": hard_state_checksum(state)}


def extent_rows(first: int, last: int, snapshot: int, generation: int) -> dict[str, int]:
    """Rows of ``meta``."""
    checksum = extent_checksum(first, last, snapshot, generation)
    return {"first": first, "last": last, "snapshot": snapshot, "generation": generation, "extent_crc": checksum}


def extent_checksum(first: int, last: int, snapshot: int, generation: int) -> int:
    """What is stored beside from where to where the log reaches."""
    return zlib.crc32(b"%d %d %d %d" % (first, last, snapshot, generation))


def entry_checksum(index: int, term: int, kind: int, data: bytes, key: int = 0) -> int:
    """What is stored beside an entry: of what is on the disk, sealed or not. ``key``: the number of its key."""
    about = b"%d %d %d %d" % (index, term, kind, key) if key else b"%d %d %d" % (index, term, kind)
    return zlib.crc32(data, zlib.crc32(about))


def hard_state_checksum(state: HardState) -> int:
    """What is stored beside term, vote and commit."""
    return zlib.crc32(b"%d %d %d" % (state.term, state.vote, state.commit))


def snapshot_checksum(index: int, term: int, conf: str, data: bytes | Sequence[bytes], key: int = 0) -> str:
    """What the database remembers of a snapshot's file; ``conf`` is the membership as it is stored there."""
    about = f"{index} {term} {key} {conf}\n" if key else f"{index} {term} {conf}\n"
    digest = hashlib.sha256(about.encode())
    for piece in (data,) if isinstance(data, bytes) else data:
        digest.update(piece)
    return digest.hexdigest()
