"""The audit log: ``audit.log`` in the data directory, one JSON object a line, bounded.

Entries are taken in on the loop at the cost of an append and written down by a thread, a few at a time. When they come
faster than the disk takes them, or it takes none, the newest are dropped: a request is never held up or refused for the
log's sake. What was dropped is counted, told in ``status`` and written down as soon as that is possible.

Nothing is synced: what was written outlives the daemon, not the machine. The last moments before a ``kill -9`` of the
daemon (GATHER_S) may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import structlog

from swarmpy.api.audit import AuditEntry, as_line, lost_line
from swarmpy.ports import Clock

log = structlog.get_logger(__name__)

FILE = "audit.log"
FILE_BYTES = 10 * 1024 * 1024
"""At this size a new file is begun."""
FILES = 5
"""Full ones that are kept, ``audit.log.1`` being the newest of them."""
QUEUE = 10_000
"""Entries that wait to be written."""
GATHER_S = 0.05
CLOSE_TIMEOUT_S = 5.0
_MAX_NAMES = 1000


class AuditLog:
    """Implements :class:`swarmpy.api.audit.Auditor`."""

    def __init__(
        self, path: Path, clock: Clock, *, file_bytes: int = FILE_BYTES, files: int = FILES, queue: int = QUEUE
    ) -> None:
        self._path = path
        self._clock = clock
        self._file_bytes = file_bytes
        self._files = files
        self._queue = queue
        self._waiting: deque[AuditEntry] = deque()
        self._lost = 0
        """Not told in the log yet."""
        self._all_lost = 0
        self._trouble = ""
        self._is_closing = False
        self._news = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        # The rest belongs to the thread that writes; there is one at a time.
        self._fd: int | None = None
        self._size = 0
        self._is_torn = False
        """The last line in the file is not whole."""
        self._names: dict[int, str] = {}

    def record(self, entry: AuditEntry) -> None:
        """Keep the entry, or count it as lost."""
        if len(self._waiting) >= self._queue:
            self._lose(1)
            return
        self._waiting.append(entry)
        self._news.set()

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the log, one line each."""
        found = [f"the audit log {self._path} cannot be written: {self._trouble}"] if self._trouble else []
        if self._all_lost:
            found.append(f"{self._all_lost} entries of the audit log were lost since the daemon was started")
        return tuple(found)

    def start(self) -> None:
        """Begin to write."""
        assert self._main is None, "started twice"
        self._main = asyncio.create_task(self._run(), name="audit-log")

    async def close(self) -> None:
        """Write down what there is, and end. Idempotent."""
        main, self._main = self._main, None
        if main is not None:
            self._is_closing = True
            self._news.set()
            _, late = await asyncio.wait([main], timeout=CLOSE_TIMEOUT_S)
            if late:
                log.warning("audit_log_not_finished", lost=len(self._waiting))
                main.cancel()
                await asyncio.wait([main])

    async def _run(self) -> None:
        try:
            while not self._is_closing or self._waiting:
                await self._news.wait()
                if not self._is_closing:
                    await asyncio.sleep(GATHER_S)
                self._news.clear()
                await self._write_down()
        finally:
            self._close_file()

    async def _write_down(self) -> None:
        entries = list(self._waiting)
        self._waiting.clear()
        lost, self._lost = self._lost, 0
        if not entries and not lost:
            return
        try:
            await asyncio.to_thread(self._write, entries, lost)
        except OSError as error:
            self._all_lost -= lost
            self._lose(lost + len(entries))
            if not self._trouble:
                log.warning("audit_log_not_written", path=str(self._path), reason=error.strerror or str(error))
            self._trouble = error.strerror or str(error)
        else:
            self._trouble = ""

    def _lose(self, count: int) -> None:
        self._lost += count
        self._all_lost += count

    # -- in a thread --------------------------------------------------------------------------------------------------

    def _write(self, entries: list[AuditEntry], lost: int) -> None:
        lines = [lost_line(self._clock.time_ns(), lost)] if lost else []
        lines += [as_line(entry, self._user_name) for entry in entries]
        try:
            for data in pieces(lines, self._file_bytes):
                self._append(data)
        except OSError:
            self._close_file()
            raise

    def _append(self, data: bytes) -> None:
        if self._is_torn:
            data = b"\n" + data
        fd = self._file_for(len(data))
        while data:
            count = os.write(fd, data)
            self._size += count
            data = data[count:]
            self._is_torn = bool(data)

    def _file_for(self, size: int) -> int:
        """The file that has room for ``size`` bytes; an empty one has room for anything."""
        fd = self._open() if self._fd is None else self._fd
        if self._size and self._size + size > self._file_bytes:
            self._close_file()
            self._rotate()
            fd = self._open()
        return fd

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = fd = os.open(self._path, flags, 0o600)
        os.fchmod(fd, 0o600)
        self._size = os.fstat(fd).st_size
        return fd

    def _close_file(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _rotate(self) -> None:
        for number in range(self._files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                numbered(self._path, number).replace(numbered(self._path, number + 1))
        self._path.replace(numbered(self._path, 1))

    def _user_name(self, uid: int) -> str:
        if uid not in self._names:
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            try:
                self._names[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._names[uid] = ""
        return self._names[uid]


def pieces(lines: list[str], most: int) -> Iterator[bytes]:
    """The lines as bytes, in as few pieces of no more than ``most`` as there can be: each is one write."""
    piece: list[str] = []
    size = 0
    for line in lines:
        if piece and size + len(line) + 1 > most:
            yield "".join(piece).encode("ascii")
            piece, size = [], 0
        piece.append(f"{line}\n")
        size += len(line) + 1
    if piece:
        yield "".join(piece).encode("ascii")


def numbered(path: Path, number: int) -> Path:
    """The file that was full so many files ago."""
    return path.with_name(f"{path.name}.{number}")
