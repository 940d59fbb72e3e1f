"""Bytes to a real server and back: for what no HTTP client would send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import attrs
from api_world import World

from swarmpy.api.app import ApiServer
from swarmpy.api.connection import Limits

GET = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER_S = 30.0


@attrs.define
class Raw:
    """One connection. A plain socket: asyncio's streams forget what came before the other side hung up."""

    sock: socket.socket
    received: bytes = b""

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Connect."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(path))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def send(self, data: bytes) -> None:
        """Send; a connection that is closed already takes nothing any more."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(ANSWER_S):
                await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def more(self) -> bool:
        """Wait for more bytes; False when the other side has ended the connection."""
        try:
            piece = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except ConnectionError:
            return False
        self.received += piece
        return bool(piece)

    async def rest(self) -> bytes:
        """All that comes until the other side ends the connection."""
        async with asyncio.timeout(ANSWER_S):
            while await self.more():
                pass
        rest, self.received = self.received, b""
        return rest

    async def answer(self) -> bytes:
        """The next answer; b"" when there is none any more."""
        async with asyncio.timeout(ANSWER_S):
            while not (whole := _length(self.received)) or len(self.received) < whole:
                if not await self.more():
                    return b""
        answer, self.received = self.received[:whole], self.received[whole:]
        return answer

    async def status(self) -> int:
        """The status of the next answer; 0 when there is none any more."""
        answer = await self.answer()
        return int(answer.split()[1]) if answer else 0

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _length(data: bytes) -> int:
    """How long the first answer in ``data`` is; 0 while its head is not whole."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return 0
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(head) + len(end) + (int(lengths[0].partition(b":")[2]) if lengths else 0)


async def exchanged(path: Path, data: bytes) -> bytes:
    """The first answer to ``data`` on a connection of its own; b"" when that is ended without one."""
    with await Raw.open(path) as raw:
        await raw.send(data)
        return await raw.answer()


@contextlib.asynccontextmanager
async def serving(path: Path, *, leads: bool = True, **limits: float) -> AsyncIterator[ApiServer]:
    """The API of a leader, or of a manager that waits for one, within ``limits``."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    if not leads:
        world.elect(None)
    server = ApiServer(world.apis["m1"], path, limits=Limits(**limits))  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def connected(path: Path, *, leads: bool = True, **limits: float) -> AsyncIterator[Raw]:
    """A connection to such a server."""
    async with serving(path, leads=leads, **limits):
        with await Raw.open(path) as raw:
            yield raw
