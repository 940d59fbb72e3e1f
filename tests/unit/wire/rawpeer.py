"""A peer that speaks TLS and nothing else: it sends what the test says, and keeps what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Self

from swarmpy.errors import ProtocolViolation
from swarmpy.wire.frames import OLDEST_VERSION, PROTOCOL_VERSION, Decoder, Kind, encode

HELLO = encode(Kind.HELLO, PROTOCOL_VERSION, OLDEST_VERSION)


class RawPeer:
    """One connection. Nothing is read before the test asks for it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()

    @classmethod
    async def connect(cls, address: str, context: ssl.SSLContext | None) -> Self:
        """Connect, with TLS or (``context`` None) without."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), ssl=context, limit=64 * 1024))

    def send(self, *frames: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(b"".join(frames))

    async def sent(self) -> None:
        """Return when the other end has taken nearly all; ConnectionError when it is gone."""
        await self._writer.drain()

    async def next(self, *kinds: Kind, timeout: float = 5) -> list[Any] | None:
        """The next frame of one of ``kinds`` (any: none given); None when the connection ends before."""
        async with asyncio.timeout(timeout):
            while True:
                while (frame := self._decoder.next()) is not None:
                    if not kinds or frame[0] in kinds:
                        return frame
                try:
                    data = await self._reader.read(65536)
                except OSError:
                    return None
                if not data:
                    return None
                self._decoder.add(data)

    async def last(self, timeout: float = 5) -> list[Any] | None:
        """The GOODBYE, after which the connection is closed; None when it ends without one."""
        frame = await self.next(Kind.GOODBYE, timeout=timeout)
        with contextlib.suppress(ProtocolViolation):
            assert await self.next(timeout=timeout) is None
        return frame

    @property
    def is_gone(self) -> bool:
        """True when this end knows that the other one has closed."""
        return self._reader.at_eof() or self._writer.transport.is_closing()

    def abort(self) -> None:
        """Go away without a word."""
        self._writer.transport.abort()
