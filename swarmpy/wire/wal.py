"""A second opinion on SQLite's write-ahead log, before SQLite reads it.

SQLite takes the first frame whose checksum is wrong for the end of the log and drops what follows without a word: right
after a power cut, when that was the last write and nobody was told of it, but bit rot further up would take synced
transactions along. The two can be told apart, because :mod:`swarmpy.wire.log` begins a transaction only when the one
before is synced, and begins every WAL as an empty file:

- a *torn tail* is one transaction, of whose sectors any number are missing, zero or garbage; nothing follows it;
- where frames of the same WAL (the salts say so) follow that are no part of the broken frame's transaction, that one
  was synced, so the damage is *rot*.

A transaction ends with a frame that has its commit field set, and has its pages in ascending order, for the log is
written with ``cache_spill=OFF``; every one has the page of the table ``meta``, which is page 2. So page numbers fall
from one transaction to the next, and one damaged field hides no boundary.

What cannot be told apart: rot in the last transaction looks like a torn tail and is dropped as one, and so does damage
that hides where the last but one ends (its frame header gone, no other frame to compare with). A file that was cut off
at the end of a transaction looks whole; :mod:`swarmpy.wire.log_files` notices when all of it is lost.

The format is section 4 of https://www.sqlite.org/fileformat2.html; a frame's checksum goes on from the one stored in
the frame before it, so every frame can be checked by itself.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs

from swarmpy.errors import LogCorrupted

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_MAGIC = 0x377F0682
"""Its last bit says that checksums take the words as big-endian."""
_FORMAT = 3007000
_PAGE_SIZES = tuple(1 << n for n in range(9, 17))
_WORD = 0xFFFFFFFF
Checksum = tuple[int, int]


@attrs.frozen
class _Frame:
    """The header of a frame, as far as it can be believed."""

    page: int
    commit: int
    """The size of the database in pages after the transaction that it ends; 0 when it ends none."""
    salts: bytes
    checksum: Checksum


def check(path: Path, database_pages: int) -> int:
    """Look through the WAL ``path`` of a database file of so many pages. Returns the bytes of its torn tail, mostly 0.

    Reads a frame at a time. Raises LogCorrupted, with file and offset, when synced transactions would be lost; OSError.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        return _Scan(path, file, database_pages).run()


class _Scan:
    """One look through one file."""

    def __init__(self, path: Path, file: BinaryIO, database_pages: int) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._database_pages = database_pages
        self._salts = b""
        self._page_size = 0
        self._is_big_endian = False
        self._most_pages = 0
        """Larger page numbers and sizes are garbage: new pages of the database come from frames of this file."""

    def run(self) -> int:
        header = self._file.read(HEADER_BYTES)
        if self._size <= HEADER_BYTES and not self._is_header(header):
            return self._size
        if not self._is_header(header):
            # SQLite syncs it before the first frame, so it was whole once.
            raise self._rot(0, "its header")
        self._salts = header[16:24]
        _, _, checksum = self._header(header)
        frame_bytes = FRAME_HEADER_BYTES + self._page_size
        self._most_pages = self._database_pages + (self._size - HEADER_BYTES) // frame_bytes + 1
        last_page, end = 0, HEADER_BYTES
        for offset in range(HEADER_BYTES, self._size, frame_bytes):
            raw = self._file.read(frame_bytes)
            if len(raw) < frame_bytes:
                break
            frame = _frame(raw)
            if frame.salts != self._salts or self._sum(raw, checksum) != frame.checksum or not frame.page:
                self._check_tail(offset, frame, last_page)
                break
            checksum = frame.checksum
            last_page = 0 if frame.commit else frame.page
            if frame.commit:
                end = offset + frame_bytes
        return self._size - end

    def _check_tail(self, broken_at: int, broken: _Frame, last_page: int) -> None:
        """Raise LogCorrupted unless the broken frame and all after it can be of one transaction.

        ``last_page`` is the one before it in its transaction, 0 when it is the first.
        """
        # Each field by itself: damage of the one leaves the other, and garbage is hardly ever in the range of either.
        has_ended = self._is_plausible(broken.commit)
        if self._is_plausible(broken.page):
            last_page = max(last_page, broken.page)
        for frame in self._headers_after(broken_at):
            if frame.salts != self._salts or not self._is_plausible(frame.page):
                continue
            if has_ended or frame.page <= last_page:
                raise self._rot(broken_at, "the frame there")
            has_ended, last_page = self._is_plausible(frame.commit), frame.page

    def _headers_after(self, offset: int) -> Iterator[_Frame]:
        frame_bytes = FRAME_HEADER_BYTES + self._page_size
        for start in range(offset + frame_bytes, self._size - FRAME_HEADER_BYTES + 1, frame_bytes):
            self._file.seek(start)
            yield _frame(self._file.read(FRAME_HEADER_BYTES))

    def _is_plausible(self, pages: int) -> bool:
        return 0 < pages <= self._most_pages

    def _is_header(self, raw: bytes) -> bool:
        if len(raw) < HEADER_BYTES:
            return False
        magic, page_size, checksum = self._header(raw)
        return (
            magic & ~1 == _MAGIC
            and struct.unpack_from(">I", raw, 4)[0] == _FORMAT
            and page_size in _PAGE_SIZES
            and _checksum(raw[:24], (0, 0), is_big_endian=self._is_big_endian) == checksum
        )

    def _header(self, raw: bytes) -> tuple[int, int, Checksum]:
        magic, _, page_size, _, _, _, first, second = struct.unpack(">8I", raw)
        self._page_size, self._is_big_endian = page_size, bool(magic & 1)
        return magic, page_size, (first, second)

    def _sum(self, raw: bytes, before: Checksum) -> Checksum:
        middle = _checksum(raw[:8], before, is_big_endian=self._is_big_endian)
        return _checksum(raw[FRAME_HEADER_BYTES:], middle, is_big_endian=self._is_big_endian)

    def _rot(self, offset: int, what: str) -> LogCorrupted:
        return LogCorrupted(
            f"{self._path.name} is damaged at byte {offset}: {what} does not match its checksum, and what was written "
            "after it was on the disk already is still there"
        )


def _frame(raw: bytes) -> _Frame:
    page, commit, salts, first, second = struct.unpack_from(">II8sII", raw)
    return _Frame(page=page, commit=commit, salts=salts, checksum=(first, second))


def _checksum(data: bytes, before: Checksum, *, is_big_endian: bool) -> Checksum:
    """SQLite's checksum of ``data``, a multiple of 8 bytes, going on from ``before``."""
    words = array("I", data)
    if is_big_endian is not _NATIVE_IS_BIG:
        words.byteswap()
    first, second = before
    pairs = iter(words)
    for even in pairs:
        first = (first + even + second) & _WORD
        second = (second + next(pairs) + first) & _WORD
    return first, second


_NATIVE_IS_BIG = array("I", b"\0\0\0\1")[0] == 1
