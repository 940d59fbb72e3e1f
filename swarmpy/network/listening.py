"""The listening socket of a published port, which is let go of without breaking a connection that was made already.

The kernel completes connections by itself and queues them; closing the socket resets what is queued, and whatever
handshake is on its way. A client would see a connection that was accepted, and broken. So before it is closed, new
connections are dropped by a socket filter (the client's kernel asks again after a second, and is refused then),
handshakes get a moment to end, and all that is queued is taken.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Awaitable, Callable

import structlog

from swarmpy.wire.accepting import accept

log = structlog.get_logger(__name__)

BACKLOG = 1024
HANDSHAKE_S = 0.05
"""How long a handshake that has begun may go on when a socket is let go of: a round trip, mostly."""

_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER of Linux's asm-generic/socket.h; Python's socket module does not name it."""
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags of the TCP header
    (0x45, 0, 1, 0x02),  # jset SYN, else skip one
    (0x06, 0, 0, 0),  # ret 0: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret -1: take
)
"""A classic BPF program: code, jump if true, jump if false, k (Documentation/networking/filter.rst of the kernel)."""

Take = Callable[[socket.socket], Awaitable[None]]


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens already. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        # Listening now, not when asyncio does: two sockets may be bound to one address, but only one may listen.
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Gives every connection of one socket to ``take``; ``refused`` is told of an OSError, and waits for a while."""

    def __init__(self, sock: socket.socket, take: Take, refused: Callable[[OSError], Awaitable[None]]) -> None:
        self._sock = sock
        self._take = take
        self._refused = refused
        self._taking = asyncio.Lock()
        self._accepting = asyncio.create_task(self._accept(), name=f"published port {sock.getsockname()[1]}")

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await accept(self._sock)
            except OSError as error:
                # Out of file descriptors, mostly: connections that end will free some.
                await self._refused(error)
                continue
            async with self._taking:
                await self._take(sock)
            # While clients wait to be accepted, nothing above ever lets anybody else run.
            await asyncio.sleep(0)

    async def stop(self, *, gently: bool = False) -> None:
        """Listen no more. ``gently``: what the kernel has accepted by then is taken first."""
        if gently:
            self._drop_new()
            await asyncio.sleep(HANDSHAKE_S)
        # Not in the middle of taking a connection.
        async with self._taking:
            self._accepting.cancel()
        await asyncio.wait([self._accepting])
        with self._sock:
            while gently:
                try:
                    sock, _ = self._sock.accept()
                except OSError:  # there is none
                    return
                sock.setblocking(False)
                await self._take(sock)

    def _drop_new(self) -> None:
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _DROP_SYN))
        try:
            self._sock.setsockopt(
                socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(program))
            )
        except OSError as error:
            # Without it the moment between the last look at the queue and the end is short, but not none.
            log.debug("no_socket_filter", reason=str(error))
