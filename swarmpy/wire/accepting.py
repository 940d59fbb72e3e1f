"""Waiting for connections. As ``loop.sock_accept``, which fails loudly when it is cancelled as a connection comes in.

(Of CPython 3.11: the callback that was queued for the connection finds its future cancelled.)
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any


async def accept(listening: socket.socket) -> tuple[socket.socket, Any]:
    """The next connection of a non-blocking socket, non-blocking as well, and where it comes from. Raises OSError.

    Gives nobody else a turn when a connection waits already. One caller at a time.
    """
    while True:
        try:
            sock, address = listening.accept()
        except (BlockingIOError, InterruptedError):
            await _readable(listening)
            continue
        sock.setblocking(False)
        return sock, address


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
