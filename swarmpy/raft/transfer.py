"""A snapshot on its way to a follower, in chunks that fit a frame.

One chunk at a time, the next when the follower says how much it has: so a slow follower is never flooded, a repeated
or lost chunk does no harm, and after a break the transfer goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import attrs

from swarmpy.raft.messages import Message, Snapshot

CHUNK_BYTES = 1024 * 1024
MAX_SNAPSHOT_BYTES = 1 << 30
"""A larger one is refused: it would not fit the follower's memory beside its state."""
ATTEMPTS = 10
"""Tries to get one chunk over before the transfer is given up."""


class OutgoingSnapshot:
    """The leader's side. :meth:`run` ends when the follower has it all or does not answer any more."""

    def __init__(self, index: int, *, retry_after: float) -> None:
        self.index = index
        """Grows when a newer snapshot is found on disk at the start."""
        self._retry_after = retry_after
        self._acked = 0
        self._answer = asyncio.Event()

    async def run(
        self, read: Callable[[], Awaitable[Snapshot | None]], send: Callable[[Message], None], chunk: Message
    ) -> bool:
        """Read the snapshot and send it in chunks, each made from ``chunk``. True when it is installed."""
        snapshot = await read()
        if snapshot is None or snapshot.index < self.index or len(snapshot.data) > MAX_SNAPSHOT_BYTES:
            return False
        self.index = snapshot.index
        total = len(snapshot.data)
        attempts = 0
        offset = -1
        while attempts < ATTEMPTS:
            if self._acked != offset:
                offset, attempts = self._acked, 0
            attempts += 1
            data = snapshot.data[offset : offset + CHUNK_BYTES]
            part = attrs.evolve(snapshot, data=data)
            send(attrs.evolve(chunk, index=snapshot.index, snapshot=part, offset=offset, total=total))
            self._answer.clear()
            try:
                async with asyncio.timeout(self._retry_after):
                    await self._answer.wait()
            except TimeoutError:
                continue
            if self._acked > total:
                return True
        return False

    def acked(self, message: Message) -> None:
        """The follower has ``message.offset`` bytes, or (one more than all) has installed it."""
        if message.index == self.index and message.offset != self._acked:
            self._acked = message.offset
            self._answer.set()


class IncomingSnapshot:
    """The follower's side: collects the chunks of one snapshot of one leader, in order."""

    def __init__(self) -> None:
        self._key: tuple[int, int, int, int] | None = None
        self._data = bytearray()

    def accept(self, message: Message) -> tuple[int, Snapshot | None]:
        """Take a chunk. Returns how many bytes are there now (what to acknowledge), and the snapshot when complete.

        A chunk of another snapshot begins anew; one that is late, repeated or out of order changes nothing.
        """
        chunk = message.snapshot
        if chunk is None or message.total > MAX_SNAPSHOT_BYTES:
            return 0, None
        key = (message.source, message.term, chunk.index, message.total)
        if key != self._key:
            self._key = key
            self._data = bytearray()
        if message.offset == len(self._data) and len(self._data) + len(chunk.data) <= message.total:
            self._data += chunk.data
        if len(self._data) < message.total:
            return len(self._data), None
        data = bytes(self._data)
        self._key = None
        self._data = bytearray()
        return message.total + 1, attrs.evolve(chunk, data=data)
