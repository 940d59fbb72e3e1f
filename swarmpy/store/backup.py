"""A backup of the whole state as a stream of bytes, and how it is read and checked again. Pure.

A backup is::

    MAGIC, format version (2 bytes), length of the header (4 bytes), CRC-32 of these two (4 bytes)
    header        JSON, see Header
    chunks        each a length (4 bytes, never 0) and so many bytes of the payload; then a length of 0
    SHA-256       of everything before it

Numbers are big-endian. The payload is a snapshot as :mod:`swarmpy.store.snapshot` makes it. It holds every secret of
the cluster: the key of its CA, the join tokens, the environment of services. So whoever has the file can join nodes,
issue certificates and read what services were given. Of a cluster with autolock the payload is sealed
(:mod:`swarmpy.security.sealed_stream`), and only its unlock key of that time opens it: format version 2.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

import attrs

from swarmpy.errors import DataDirMismatch, LogCorrupted, ProtocolViolation
from swarmpy.model import codec
from swarmpy.model.assignments import ManagerAddress

MAGIC = b"swarmpy-backup\r\n"
"""With a line end that a transfer as text would change."""
PLAIN_VERSION = 1
FORMAT_VERSION = 2
"""The newest, and that of a sealed backup."""
CHUNK_BYTES = 256 << 10
MAX_CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 30
"""As of a snapshot between managers."""
_FIXED = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")


@attrs.frozen(kw_only=True)
class Header:
    """What a backup says of itself. No secrets."""

    cluster_id: str
    cluster_name: str = ""
    incarnation: int = 0
    index: int
    """Of the last write that it holds."""
    term: int
    time_ns: int
    """When it was taken, nanoseconds since the Unix epoch, by the clock of the manager that made it."""
    swarmpy: str
    """The version that made it."""
    holds: dict[str, int]
    """How many objects of each kind."""
    managers: tuple[ManagerAddress, ...] = ()
    sealed: bool = False
    """Its payload opens with the cluster's unlock key only."""


async def written(header: Header, parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The bytes of a backup, in pieces of about CHUNK_BYTES; holds no more than one of them and one of ``parts``."""
    digest = hashlib.sha256()
    text = json.dumps(codec.to_plain(header), indent=1).encode()
    fixed = _FIXED.pack(FORMAT_VERSION if header.sealed else PLAIN_VERSION, len(text))
    first = MAGIC + fixed + _NUMBER.pack(zlib.crc32(fixed)) + text
    digest.update(first)
    yield first
    waiting = bytearray()
    async for part in parts:
        waiting += part
        while len(waiting) >= CHUNK_BYTES:
            chunk = _chunk(bytes(waiting[:CHUNK_BYTES]))
            del waiting[:CHUNK_BYTES]
            digest.update(chunk)
            yield chunk
    last = (_chunk(bytes(waiting)) if waiting else b"") + _NUMBER.pack(0)
    digest.update(last)
    yield last + digest.digest()


def _chunk(data: bytes) -> bytes:
    return _NUMBER.pack(len(data)) + data


class Reader:
    """Checks the bytes of a backup as they come, in whatever pieces. Raises LogCorrupted, DataDirMismatch.

    Nothing that it hands out is to be used before :meth:`finish` has returned.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._needed = len(MAGIC) + _FIXED.size + _NUMBER.size
        self._step: Callable[[bytes], bytes | None] = self._on_fixed
        self._header: Header | None = None
        self._payload_bytes = 0
        self._done = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in; yields those of the payload. The iterator must be exhausted before the next call."""
        self._buffer += data
        while not self._done and len(self._buffer) >= self._needed:
            piece = bytes(self._buffer[: self._needed])
            del self._buffer[: self._needed]
            if (payload := self._step(piece)) is not None:
                yield payload
        if self._done and self._buffer:
            raise LogCorrupted("the backup is damaged: something follows after its end")

    def finish(self) -> Header:
        """The header, when all has come and is sound."""
        if not self._done or self._header is None:
            raise LogCorrupted("the backup is cut short")
        return self._header

    def _on_fixed(self, piece: bytes) -> None:
        if not piece.startswith(MAGIC):
            raise LogCorrupted("this is no backup of swarmpy, or its beginning is damaged")
        fixed = piece[len(MAGIC) : len(MAGIC) + _FIXED.size]
        version, length = _FIXED.unpack(fixed)
        if _NUMBER.unpack(piece[-_NUMBER.size :])[0] != zlib.crc32(fixed) or length > MAX_HEADER_BYTES:
            raise LogCorrupted("the backup is damaged at its beginning")
        if version > FORMAT_VERSION:
            raise DataDirMismatch(
                f"the backup was made by a newer swarmpy (format {version}, this one reads up to {FORMAT_VERSION}): "
                "restore it with that version"
            )
        self._next(piece, length, self._on_header)

    def _on_header(self, piece: bytes) -> None:
        try:
            self._header = codec.from_plain(Header, json.loads(piece))
        except (ValueError, ProtocolViolation) as error:
            raise LogCorrupted("the backup's header is damaged") from error
        self._next(piece, _NUMBER.size, self._on_length)

    def _on_length(self, piece: bytes) -> None:
        (length,) = _NUMBER.unpack(piece)
        self._payload_bytes += length
        if length > MAX_CHUNK_BYTES or self._payload_bytes > MAX_PAYLOAD_BYTES:
            raise LogCorrupted("the backup is damaged: a part of it is too large")
        if length:
            self._next(piece, length, self._on_chunk)
        else:
            self._next(piece, self._digest.digest_size, self._on_digest)

    def _on_chunk(self, piece: bytes) -> bytes:
        self._next(piece, _NUMBER.size, self._on_length)
        return piece

    def _on_digest(self, piece: bytes) -> None:
        if piece != self._digest.digest():
            raise LogCorrupted("the backup is damaged: it does not match its checksum")
        self._done = True

    def _next(self, piece: bytes, needed: int, step: Callable[[bytes], bytes | None]) -> None:
        self._digest.update(piece)
        self._needed, self._step = needed, step
