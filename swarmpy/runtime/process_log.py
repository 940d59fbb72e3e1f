"""Reading the log that the warden keeps of a task (:class:`swarmpy.runtime.warden.Log` has the format)."""

from __future__ import annotations

import asyncio
import calendar
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import lru_cache
from pathlib import Path

import attrs

from swarmpy.model.logs import ALL_LINES, STDERR, STDOUT, LogLine, LogOptions

POLL_S = 0.1
"""How soon a reader that follows sees what was written."""
_CHUNK_BYTES = 128 * 1024
_STREAMS = {b"stdout": STDOUT, b"stderr": STDERR}
_NS = 1_000_000_000


async def read_log(path: Path, options: LogOptions, is_over: Callable[[], bool]) -> AsyncGenerator[LogLine, None]:
    """The lines of the log at ``path``, and of the part before it, as ``options`` has it.

    With ``follow`` until ``is_over`` says that nothing is written any more. What was rotated away twice since it could
    have been read is left out: the log is bounded, its readers may be slow.
    """
    if options.tail != ALL_LINES and not options.after_ns:
        options = attrs.evolve(options, after_ns=await asyncio.to_thread(_before_tail, path, options))
    reader = _Reader(path, options)
    try:
        while True:
            over = is_over()
            lines = await asyncio.to_thread(reader.next_lines)
            for line in lines or ():
                yield line
            if lines is None:
                if over or not options.follow:
                    return
                await asyncio.sleep(POLL_S)
    finally:
        reader.close()


class _Reader:
    """Where a reader is. All but ``close`` is called in a thread."""

    def __init__(self, path: Path, options: LogOptions) -> None:
        self._path = path
        self._options = options
        self._file: int | None = None
        self._rest = b""
        self._last_ns = 0
        """Times rise from record to record, over all files: what is seen twice is seen by that."""

    def next_lines(self) -> list[LogLine] | None:
        """Some lines, perhaps none of those that are wanted; None at the end of what is there."""
        if self._file is None and not self._open_next():
            return None
        assert self._file is not None
        # Asked first: what was renamed before is not written to any more.
        is_newest = self._is_newest(os.fstat(self._file).st_ino)
        data = os.read(self._file, _CHUNK_BYTES)
        if not data:
            return None if is_newest or not self._open_next() else []
        *records, self._rest = (self._rest + data).split(b"\n")
        found = []
        for record in records:
            line = _parse(record)
            if line is not None and line.timestamp_ns > self._last_ns:
                self._last_ns = line.timestamp_ns
                if self._options.wants(line):
                    found.append(line)
        return found

    def _open_next(self) -> bool:
        """Go on with the rotated file, where it is another one than that which was read, or with the newest."""
        now = None if self._file is None else os.fstat(self._file).st_ino
        for path in (Path(f"{self._path}.1"), self._path):
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if os.fstat(file).st_ino == now:
                os.close(file)
                continue
            self.close()
            self._file, self._rest = file, b""
            return True
        return False

    def _is_newest(self, inode: int) -> bool:
        try:
            return self._path.stat().st_ino == inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _before_tail(path: Path, options: LogOptions) -> int:
    """The time of the last line that is not among the last ``options.tail`` ones; 0 when all are."""
    times: deque[int] = deque(maxlen=max(options.tail, 0) + 1)
    for record in _records(path):
        line = _parse(record)
        if line is not None and line.data.endswith(b"\n") and options.wants(line):
            times.append(line.timestamp_ns)
    return times[0] if len(times) > max(options.tail, 0) else 0


def _records(path: Path) -> Iterator[bytes]:
    for part in (Path(f"{path}.1"), path):
        try:
            with part.open("rb") as file:
                yield from (record.removesuffix(b"\n") for record in file)
        except FileNotFoundError:
            continue


def _parse(record: bytes) -> LogLine | None:
    """A record; None for what is none, as a crash or a full disk may have left it."""
    parts = record.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in _STREAMS or len(parts[0]) != 30:
        return None
    try:
        at = _seconds(parts[0][:19]) * _NS + int(parts[0][20:29])
    except ValueError:
        return None
    return LogLine(_STREAMS[parts[1]], at, parts[3] + (b"\n" if parts[2] == b"F" else b""))


@lru_cache(maxsize=64)
def _seconds(text: bytes) -> int:
    """``2026-11-29T10:33:41`` as seconds since the epoch. Raises ValueError."""
    fields = [int(text[start:end]) for start, end in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))]
    return calendar.timegm((*fields, 0, 0, 0))
