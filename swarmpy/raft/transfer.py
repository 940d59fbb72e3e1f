"""A snapshot on its way to a follower, in chunks that fit a frame.

One chunk at a time, the next when the follower says how much it has: so a slow follower is never flooded, a repeated
or lost chunk does no harm, and after a break the transfer goes on where it was. A digest names the bytes, so it goes on
just the same when another leader, or the same one after a restart, sends them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import attrs

from swarmpy.raft.messages import Message, Snapshot

CHUNK_BYTES = 1024 * 1024
MAX_SNAPSHOT_BYTES = 1 << 30
"""A larger one is refused: it would not fit the follower's memory beside its state."""
ATTEMPTS = 10
"""Tries to get one chunk over before the transfer is given up."""
RESTARTS = 3
"""Times a follower may lose what it had before the transfer is given up."""


@attrs.frozen(kw_only=True)
class Parcel:
    """A snapshot and the SHA-256 of its data."""

    snapshot: Snapshot
    digest: bytes


class SnapshotSource:
    """The newest snapshot on disk. Transfers that go on side by side share one copy and one digest of it."""

    def __init__(self, read: Callable[[], Awaitable[Snapshot | None]]) -> None:
        self._read = read
        self._parcel: Parcel | None = None
        self._lock = asyncio.Lock()

    async def get(self, least_index: int, newest_index: int) -> Parcel | None:
        """One that reaches ``least_index``, read anew when the one at hand is older than ``newest_index``.

        None when there is none, or it is larger than MAX_SNAPSHOT_BYTES. Raises StorageError.
        """
        async with self._lock:
            if self._parcel is None or self._parcel.snapshot.index < max(least_index, newest_index):
                snapshot = await self._read()
                if snapshot is None or snapshot.index < least_index or len(snapshot.data) > MAX_SNAPSHOT_BYTES:
                    return None
                self._parcel = Parcel(snapshot=snapshot, digest=await digest_of(snapshot.data))
            return self._parcel

    def forget(self) -> None:
        """Nobody is being sent anything: let go of the memory."""
        self._parcel = None


async def digest_of(data: bytes) -> bytes:
    """The SHA-256 of ``data``; gives way to the loop after each chunk."""
    digest = hashlib.sha256()
    view = memoryview(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        digest.update(view[offset : offset + CHUNK_BYTES])
        await asyncio.sleep(0)
    return digest.digest()


class OutgoingSnapshot:
    """The leader's side. :meth:`run` ends when the follower has it all or does not answer any more."""

    def __init__(self, index: int, *, retry_after: float) -> None:
        self.index = index
        """Grows when a newer snapshot is found on disk at the start."""
        self.bytes_since = 0
        """Applied since the transfer began."""
        self._retry_after = retry_after
        self._digest = b""
        self._acked = 0
        self._restarts = 0
        self._answer = asyncio.Event()

    async def run(self, parcel: Parcel, send: Callable[[Message], None], chunk: Message) -> bool:
        """Send ``parcel`` in chunks, each made from ``chunk``. True when it is installed."""
        snapshot, self._digest = parcel.snapshot, parcel.digest
        self.index = snapshot.index
        total = len(snapshot.data)
        attempts = 0
        offset = -1
        while attempts < ATTEMPTS and self._restarts <= RESTARTS:
            if self._acked != offset:
                offset, attempts = self._acked, 0
            attempts += 1
            part = attrs.evolve(snapshot, data=snapshot.data[offset : offset + CHUNK_BYTES])
            send(
                attrs.evolve(
                    chunk, index=snapshot.index, snapshot=part, offset=offset, total=total, digest=self._digest
                )
            )
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
        if message.index != self.index or message.digest not in (b"", self._digest) or message.offset == self._acked:
            return
        if message.offset < self._acked:
            self._restarts += 1
        self._acked = message.offset
        self._answer.set()


class IncomingSnapshot:
    """The follower's side: collects the chunks of one snapshot in order, whoever sends them."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._index = 0
        self._data = bytearray()
        self._hash = hashlib.sha256()
        self._touched = 0

    @property
    def received(self) -> int:
        """Bytes of an unfinished snapshot."""
        return len(self._data)

    def accept(self, message: Message, now: int) -> tuple[int, Snapshot | None]:
        """Take a chunk at the tick ``now``. Returns how many bytes are there now (what to acknowledge), and the
        snapshot when complete.

        A chunk of another snapshot begins anew; one that is late, repeated or out of order changes nothing. When all
        is there and is not what the digest says, all is dropped.
        """
        chunk = message.snapshot
        if chunk is None or message.total > MAX_SNAPSHOT_BYTES:
            return 0, None
        key: tuple[object, ...] = (chunk.index, chunk.term, message.total, message.digest)
        if not message.digest:
            key += (message.source, message.term)  # nothing says that two leaders would send the same bytes
        if key != self._key:
            self.drop()
            self._key = key
            self._index = chunk.index
        self._touched = now
        if message.offset == len(self._data) and len(self._data) + len(chunk.data) <= message.total:
            self._data += chunk.data
            self._hash.update(chunk.data)
        if len(self._data) < message.total:
            return len(self._data), None
        is_whole = message.digest in (b"", self._hash.digest())
        data = bytes(self._data)
        self.drop()
        return (message.total + 1, attrs.evolve(chunk, data=data)) if is_whole else (0, None)

    def drop_stale(self, *, committed: int, untouched_since: int) -> bool:
        """Let go of what the log has passed, or nobody went on with since that tick. True when there was something."""
        if self._key is None or (self._index > committed and self._touched > untouched_since):
            return False
        self.drop()
        return True

    def drop(self) -> None:
        """Let go of what has come so far."""
        self._key = None
        self._data = bytearray()
        self._hash = hashlib.sha256()
