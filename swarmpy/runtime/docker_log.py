"""The stream of a container's log, as Docker's Engine sends it, taken apart.

Without a terminal: frames of a head of eight bytes (the stream, three zeros, the length, big endian) and so many bytes.
With one: the bytes as they come. Each line begins with its time, as it is asked for with ``timestamps``; with
``details`` what the log driver has added follows, and may be empty.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime

from swarmpy.errors import RuntimeUnavailable
from swarmpy.model.logs import LINE_BYTES, STDERR, STDOUT, LogLine

_HEAD = struct.Struct(">BxxxI")
_NS = 1_000_000_000

Read = Callable[[int], Awaitable[bytes]]
"""So many bytes at most; b"" at the end."""


async def frames(read: Read, *, details: bool = False) -> AsyncGenerator[LogLine, None]:
    """The lines of a container without a terminal. Raises RuntimeUnavailable where the stream breaks off."""
    buffer = bytearray()
    while True:
        while len(buffer) < _HEAD.size:
            data = await read(_HEAD.size - len(buffer))
            if not data:
                return
            buffer += data
        stream, size = _HEAD.unpack(buffer)
        buffer.clear()
        payload = bytearray()
        while size:
            data = await read(min(size, LINE_BYTES))
            if not data:
                raise RuntimeUnavailable("the Docker Engine ended a log within a line")
            size -= len(data)
            payload += data
            if len(payload) > LINE_BYTES and size:
                raise RuntimeUnavailable(f"the Docker Engine sent a line of more than {LINE_BYTES} bytes")
        line = _line(stream if stream in (STDOUT, STDERR) else STDERR, bytes(payload), details)
        if line is not None:
            yield line


async def plain(read: Read, *, details: bool = False) -> AsyncGenerator[LogLine, None]:
    """The lines of a container with a terminal."""
    rest = b""
    while data := await read(LINE_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for text in lines:
            line = _line(STDOUT, text + b"\n", details)
            if line is not None:
                yield line
        if len(rest) > LINE_BYTES:
            raise RuntimeUnavailable(f"the Docker Engine sent a line of more than {LINE_BYTES} bytes")
    if rest and (line := _line(STDOUT, rest, details)) is not None:
        yield line


def _line(stream: int, text: bytes, details: bool) -> LogLine | None:
    stamp, blank, data = text.partition(b" ")
    added = b""
    if blank and details:
        added, blank, data = data.partition(b" ")
    if not blank:
        return None
    try:
        return LogLine(stream, _time_ns(stamp), data[:LINE_BYTES], added)
    except ValueError:
        return None


def _time_ns(stamp: bytes) -> int:
    """``2026-11-29T10:33:41.123456789Z``: RFC 3339 with up to nine digits. Raises ValueError."""
    text = stamp.decode("ascii").removesuffix("Z")
    seconds, _, fraction = text.partition(".")
    whole = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
    return int(whole.timestamp()) * _NS + int((fraction or "0").ljust(9, "0")[:9])
