"""Sealing the entries of a log anew, a slice at a time, so that appends need not wait for all of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from swarmpy.errors import LogCorrupted
from swarmpy.raft.messages import Entry, EntryKind
from swarmpy.wire.log_rows import entry_checksum
from swarmpy.wire.log_sealing import LogSeal

SLICE_ENTRIES = 256
SLICE_BYTES = 1 << 20
"""A slice is one transaction; it ends with the entry that reaches either."""

Row = tuple[bytes, int, int, int]
"""Data, checksum, number of the key; and the index, by which it is found."""


def next_rows(db: sqlite3.Connection, seal: LogSeal, after: int) -> tuple[list[Row], int | None]:
    """The next rows after the entry ``after`` that are not of the current key, as they should be, and the last index.

    None: there are no more. Raises LogCorrupted for one that cannot be opened, or does not match its checksum.
    """
    query = "SELECT idx, term, kind, data, crc, key FROM entries WHERE idx > ? AND key != ? ORDER BY idx"
    rows: list[Row] = []
    size = 0
    for index, term, kind, data, crc, key in db.execute(query, (after, seal.key)):
        rows.append(_sealed_anew(seal, (index, term, kind, data, crc, key)))
        size += len(data)
        if len(rows) >= SLICE_ENTRIES or size >= SLICE_BYTES:
            return rows, index
    return rows, None


def _sealed_anew(seal: LogSeal, row: tuple[int, int, int, bytes, int, int]) -> Row:
    index, term, kind, data, crc, key = row
    if crc != entry_checksum(index, term, kind, data, key):
        raise LogCorrupted(f"entry {index} does not match its checksum")
    opened = seal.open_entry(index, term, kind, key, data)
    again = seal.entry(Entry(index=index, term=term, kind=EntryKind(kind), data=opened))
    return again, entry_checksum(index, term, kind, again, seal.key), seal.key, index


def replace(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Put ``rows`` in the place of those of their index, in the transaction that is open."""
    db.executemany("UPDATE entries SET data = ?, crc = ?, key = ? WHERE idx = ?", rows)
