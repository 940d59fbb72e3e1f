"""A socket in front of an engine's, where connections may be cut, or go on without carrying anything."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from images import SOCKET


class EngineProxy:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.streams = 0
        """Event streams that were opened."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._streaming: set[asyncio.StreamWriter] = set()
        """Whom events go to."""
        self._muted: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def cut(self) -> None:
        """End all connections and take no more."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def cut_events(self) -> None:
        """End the event streams that are open."""
        for writer in self._streaming:
            writer.transport.abort()

    def mute_events(self) -> None:
        """Let the event streams that are open be, but carry nothing more."""
        self._muted |= self._streaming

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
        to_reader, to_writer = await asyncio.open_unix_connection(SOCKET)
        self._writers |= {writer, to_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._ask(reader, to_writer, writer), self._answer(to_reader, writer))
        for end in (writer, to_writer):
            end.transport.abort()
            self._writers.discard(end)
            self._streaming.discard(end)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asker: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            if b"/events?" in data.partition(b"\r\n")[0]:
                self.streams += 1
                self._streaming.add(asker)
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if writer not in self._muted:
                writer.write(data)
                await writer.drain()
        writer.write_eof()
