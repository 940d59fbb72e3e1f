"""What a power cut can leave of a log: photos of its directory between two syncs, and what may lie between them.

Whatever is written between two photos is one step towards the disk: of a growing WAL any sectors of the new part are
there or not, a checkpoint has written any sectors of the database while the WAL is whole, a file has its temporary name
with a part of its data, and a file that goes is there or not.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType

import pytest

from swarmpy.raft.storage import StoredState
from swarmpy.security.sealing import DataKey, KeyRing
from swarmpy.wire import log_files
from swarmpy.wire.log import SqliteLog
from swarmpy.wire.log_files import DATABASE, WAL, mark_of

SECTOR = 512
WAL_HEADER, FRAME = 32, 24 + 4096
Photo = Mapping[str, bytes]
KEYS = tuple(DataKey(number, bytes([number]) * 32) for number in range(1, 10))
RING = KeyRing(KEYS, takes_plain=True)


def take(directory: Path) -> Photo:
    """Every file of the log, and the mark beside it."""
    files = [path for path in directory.iterdir() if path.is_file()]
    mark = mark_of(directory)
    return MappingProxyType({path.name: path.read_bytes() for path in [*files, *([mark] if mark.exists() else [])]})


def put(photo: Photo, directory: Path) -> Path:
    """A directory that looks like that."""
    directory.mkdir(parents=True)
    for name, data in photo.items():
        path = mark_of(directory) if name == mark_of(directory).name else directory / name
        path.write_bytes(data)
    return directory


async def opened(photo: Photo, directory: Path) -> StoredState:
    """What a new process finds there that has all keys, in ``directory``, which is removed. Raises what it raises."""
    log = SqliteLog(put(photo, directory), RING)
    try:
        return await log.load()
    finally:
        await log.close()
        shutil.rmtree(directory.parent)


class FilmedLog(SqliteLog):
    """Takes a photo before every transaction, checkpoint and file that it writes."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch, ring: KeyRing | None = None) -> None:
        super().__init__(directory, ring)
        self.photos: list[Photo] = []
        self._write_file = log_files.write_file
        patch.setattr(log_files, "write_file", self._filmed_write)

    def photo(self) -> None:
        """Take one now."""
        self.photos.append(take(self._directory))

    def _checked(self, db):  # type: ignore[no-untyped-def]
        db.set_trace_callback(self._traced)
        return super()._checked(db)

    def _traced(self, statement: str) -> None:
        if statement.startswith(("BEGIN", "PRAGMA wal_checkpoint", "VACUUM")):
            self.photo()

    def _filmed_write(self, path: Path, *pieces: bytes) -> None:
        self.photo()
        self._write_file(path, *pieces)
        self.photo()


def images(before: Photo, after: Photo, random: Random, count: int) -> Iterator[Photo]:
    """Some of what a power cut can leave between two photos, the first and the last among it."""
    yield before
    for name in sorted({*before, *after}):
        old, new = before.get(name, b""), after.get(name, b"")
        if old == new:
            continue
        for _ in range(count):
            if name == WAL and len(new) > len(old):
                yield {**before, WAL: old + _torn(new[len(old) :], random, begins=not old)}
            elif name == DATABASE:
                yield {**before, DATABASE: _mixed(old, new, random)}
            elif name in after and name not in (WAL, DATABASE):
                part = new[: random.randrange(len(new) + 1)]
                temporary = Path(name).with_suffix(log_files.TEMPORARY_SUFFIX).name
                yield {**before, temporary: part}
        if name == DATABASE:
            yield {**before, DATABASE: new}
        elif name in after and name != WAL:
            yield {**before, name: new}
    yield after


def _torn(new: bytes, random: Random, *, begins: bool) -> bytes:
    """A part of what was written to the end of a WAL; its header is synced before anything else."""
    if begins and random.random() < 0.2:
        return new[: random.randrange(WAL_HEADER + 1)]
    header, new = (new[:WAL_HEADER], new[WAL_HEADER:]) if begins else (b"", new)
    length = random.choice((len(new), random.randrange(len(new) + 1)))
    torn = bytearray(new[:length])
    lost = random.choice((0.1, 0.5, 0.9))
    for start in range(0, length, SECTOR):
        if random.random() < lost:
            end = min(length, start + SECTOR)
            torn[start:end] = bytes(end - start) if random.random() < 0.5 else random.randbytes(end - start)
    return header + bytes(torn)


def _mixed(old: bytes, new: bytes, random: Random) -> bytes:
    """Any sectors of a database written by a checkpoint, the others as they were, or garbage that was being written."""
    mixed = bytearray(new[: max(len(old), random.randrange(len(new) + 1))])
    for start in range(0, len(mixed), SECTOR):
        now = new[start : start + SECTOR]
        was = old[start : start + SECTOR]
        # The first sector has the header, which no page image changes where it counts; disks write sectors whole.
        choice = random.random()
        if was != now and choice < 0.5:
            mixed[start : start + SECTOR] = was.ljust(len(now), b"\0")[: len(now)]
        elif was != now and start and choice < 0.6:
            mixed[start : start + SECTOR] = random.randbytes(len(now))
    return bytes(mixed)


def last_transaction(wal: bytes) -> int:
    """Where the last transaction of a WAL begins."""
    ends = [
        offset + FRAME
        for offset in range(WAL_HEADER, len(wal) - FRAME + 1, FRAME)
        if struct.unpack_from(">I", wal, offset + 4)[0]
    ]
    return [WAL_HEADER, *ends][-2] if ends else WAL_HEADER
