"""A web server as a rolling update expects it: on TERM it finishes what is open, and only then ends.

Run by itself (``python load_server.py``), in a container or as a process. It answers ``GET /MILLISECONDS`` after that
time with ``$TASK``. From TERM on each answer says ``Connection: close``, and a connection that asks for nothing more is
closed after ``IDLE_S``; it goes on accepting, as connections that were made before may still be in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket

IDLE_S = 1.0
"""Longest silence of a connection that is waited for once TERM has come."""
LINGER_S = 2.0
"""Longest wait for the client to have the answer: what is between here and there may go away with this process."""
QUIET_S = 0.2
"""After TERM without a connection."""
NAME = os.environ.get("TASK", "").encode()


class Server:
    """One listening socket."""

    def __init__(self) -> None:
        self._term = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    async def run(self, listening: socket.socket) -> None:
        """Serve until TERM has come and all that is open is done."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._term.set)
        server = await asyncio.start_server(self._serve, sock=listening)
        await self._term.wait()
        await asyncio.sleep(QUIET_S)
        while self._open:
            await asyncio.wait(self._open)
            await asyncio.sleep(QUIET_S)
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._open.add(me)
        try:
            while (request := await self._next(reader)) and await self._answer(request, writer):
                pass
            writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await reader.read(1024):
                    pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._open.discard(me)

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        """The next request; b"" when there is none to wait for."""
        reading = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        term = asyncio.create_task(self._term.wait())
        try:
            await asyncio.wait((reading, term), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await asyncio.wait((reading,), timeout=IDLE_S)
            return reading.result() if reading.done() else b""
        except asyncio.IncompleteReadError:
            return b""
        finally:
            for task in (reading, term):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
                await reading

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """False: the connection is not to be used again."""
        path = request.split(b" ", 2)[1]
        await asyncio.sleep(int(path[1:] or 0) / 1000)
        is_last = self._term.is_set() or b"\r\nconnection: close" in request.lower()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (len(NAME), b"Connection: close\r\n" * is_last)
        writer.write(head + NAME)
        await writer.drain()
        return not is_last


def main() -> None:
    """Listen where the environment says."""
    listening = socket.create_server(
        (os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "80"))), backlog=1024
    )
    asyncio.run(Server().run(listening))


if __name__ == "__main__":
    main()
