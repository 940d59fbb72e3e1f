"""Two connections tied together: what comes in on one goes out on the other, as fast as the slower side takes it.

A half-close is passed on as one. Nothing is read from a side while the other does not take what was read before, so
that one chunk waits in each direction at most, however many clients do not read.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from swarmpy.wire.connection import format_address
from swarmpy.wire.origins import origin_of

CHUNK_BYTES = 64 * 1024
"""What is read at once, and the most that waits for the slower side."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""After a minute of silence the kernel asks whether the other end is there, and gives it up after another one."""
_CHUNK = bytearray(CHUNK_BYTES)
"""Everybody's: what is read is passed on before anything else is read."""
_RESET = struct.pack("ii", 1, 0)


class Side(asyncio.BufferedProtocol):
    """One of two tied connections. Until it is tied it reads nothing."""

    def __init__(self, on_made: Callable[[Side], None] | None = None, on_lost: Callable[[Side], None] | None = None):
        self.transport: asyncio.Transport | None = None
        self.is_lost = False
        self.origin = ""
        """Where its other end is."""
        self.has_sent = False
        """True when something was passed on to this side."""
        self.said = 0
        """Of a client: how often either of the two tied sides was read from."""
        self.awaits_answer = False
        """Of a client: it has spoken last."""
        self.on_made = on_made
        self.on_lost = on_lost
        self._other: Side | None = None
        self._is_at_eof = False
        self._is_backend = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()
        self.transport.set_write_buffer_limits(high=0)
        self.origin = origin_of(format_address(transport.get_extra_info("peername")))
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Idle connections are never cut here; the kernel finds the ones whose other end is gone.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        if self.on_made is not None:
            self.on_made(self)

    def get_buffer(self, _sizehint: int) -> bytearray:
        """Where the transport puts what it reads."""
        return _CHUNK

    def buffer_updated(self, count: int) -> None:
        """Pass on."""
        other = self._other
        if other is not None and other.transport is not None and not other.is_lost:
            other.has_sent = True
            client = other if self._is_backend else self
            client.said += 1
            client.awaits_answer = client is self
            # A copy: a transport may keep what it was given.
            with memoryview(_CHUNK) as chunk:
                other.transport.write(bytes(chunk[:count]))

    @property
    def is_tied(self) -> bool:
        """True when there is another side."""
        return self._other is not None

    @property
    def unsent_bytes(self) -> int:
        """What waits for this side."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def eof_received(self) -> bool:
        """This side sends no more: tell the other. When both have said so, all is said."""
        self._is_at_eof = True
        other = self._other
        if other is None or other.transport is None or other.is_lost:
            return False
        if other._is_at_eof:
            # Closing flushes what is still on its way.
            other.transport.close()
            return False
        if not other.transport.is_closing():
            other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        """This side is slow: stop reading the other."""
        if self._other is not None and self._other.transport is not None and not self._other.transport.is_closing():
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        """This side has caught up."""
        if self._other is not None and self._other.transport is not None and not self._other.transport.is_closing():
            self._other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is gone: end the other, after it has got what was meant for it."""
        self.is_lost = True
        other = self._other
        if other is not None and other.transport is not None and not other.is_lost:
            # A client that broke off must not look complete to the backend. The other way round a reset could
            # overtake the answer that was sent before it, so it is only for a client that got nothing at all.
            if exc is not None and (other._is_backend or not other.has_sent):
                other.reset()
            else:
                other.transport.close()
        if self.on_lost is not None:
            self.on_lost(self)

    def close(self) -> None:
        """Close in order, after what was passed on has been sent."""
        if self.transport is not None and not self.is_lost:
            self.transport.close()

    def reset(self) -> None:
        """Cut the connection with a TCP reset, so that nobody takes it for a complete answer."""
        if self.transport is None or self.is_lost:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


def tie(client: Side, backend: Side) -> None:
    """Forward between two connections from now on."""
    assert client.transport is not None, "the client is not connected"
    assert backend.transport is not None, "the backend is not connected"
    client._other, backend._other = backend, client
    backend._is_backend = True
    client.transport.resume_reading()
    backend.transport.resume_reading()
