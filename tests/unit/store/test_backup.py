"""The bytes of a backup: what is written is read again, in whatever pieces; whatever is not that is refused."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_world import FixedClock, InstantProposer, node, service

from swarmpy.errors import DataDirMismatch, LogCorrupted
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.ids import NodeId
from swarmpy.store.backup import CHUNK_BYTES, FORMAT_VERSION, MAGIC, MAX_CHUNK_BYTES, Header, Reader, written
from swarmpy.store.memory import Store

HEADER = Header(
    cluster_id="c",
    cluster_name="default",
    incarnation=3,
    index=12,
    term=4,
    time_ns=5,
    swarmpy="0.1.0",
    holds={"nodes": 2},
    managers=(ManagerAddress(node_id=NodeId("n"), address="10.0.0.1:2377"),),
)


async def made(*parts: bytes) -> list[bytes]:
    """The pieces of a backup with that payload."""

    async def source() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return [piece async for piece in written(HEADER, source())]


def read(pieces: Sequence[bytes]) -> tuple[Header, bytes]:
    """Header and payload of a backup."""
    reader = Reader()
    payload = b"".join(piece for data in pieces for piece in reader.feed(data))
    return reader.finish(), payload


def cut(data: bytes, seed: int) -> list[bytes]:
    """The same bytes as a network might deliver them."""
    rng, pieces = random.Random(seed), []
    while data:
        size = rng.choice((1, 2, 7, 100, 100_000))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (CHUNK_BYTES,), (CHUNK_BYTES + 1, 5), (3 * CHUNK_BYTES,), (7, 8, 9)])
async def test_what_was_written_is_read(sizes: tuple[int, ...]) -> None:
    """However long its parts are and however it is cut; no piece is much longer than a chunk."""
    parts = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    pieces = await made(*parts)
    assert read(pieces) == (HEADER, b"".join(parts))
    assert read(cut(b"".join(pieces), 1)) == (HEADER, b"".join(parts))
    assert max(map(len, pieces)) < CHUNK_BYTES + 1000


async def test_every_byte_counts() -> None:
    """A flipped bit anywhere, a cut anywhere, anything added: each is noticed, and never by a traceback."""
    good = b"".join(await made(b"payload", b"more of it"))
    for position in range(len(good)):
        for bit in (1, 128):
            bad = bytearray(good)
            bad[position] ^= bit
            with pytest.raises(LogCorrupted):
                read([bytes(bad)])
        with pytest.raises(LogCorrupted):
            read([good[:position]])
    for more in (b"x", good):
        with pytest.raises(LogCorrupted):
            read([good, more])


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_are_a_backup_by_chance(data: bytes, begins_well: bool) -> None:
    """Whatever a file holds."""
    with pytest.raises((LogCorrupted, DataDirMismatch)):
        read([MAGIC * begins_well + data])


async def test_a_newer_format_is_told_from_damage() -> None:
    """The beginning has a checksum of its own, so that "newer" is never a flipped bit."""
    fixed = struct.pack(">HI", FORMAT_VERSION + 1, 5)
    with pytest.raises(DataDirMismatch, match="newer swarmpy"):
        read([MAGIC + fixed + struct.pack(">I", zlib.crc32(fixed)) + b"xxxxx"])
    with pytest.raises(LogCorrupted, match="at its beginning"):
        read([MAGIC + fixed + struct.pack(">I", 1) + b"xxxxx"])


async def test_nothing_is_allocated_for_a_length_that_cannot_be() -> None:
    """A header or a chunk of four gigabytes is refused when its length is read."""
    fixed = struct.pack(">HI", FORMAT_VERSION, 0xFFFFFFFF)
    with pytest.raises(LogCorrupted):
        read([MAGIC + fixed + struct.pack(">I", zlib.crc32(fixed))])
    first = (await made())[0]
    with pytest.raises(LogCorrupted, match="too large"):
        read([first + struct.pack(">I", MAX_CHUNK_BYTES + 1)])


async def test_the_parts_of_a_store_are_its_snapshot() -> None:
    """Of the moment of the call, whatever is written afterwards."""
    store = Store(FixedClock())
    store.set_proposer(InstantProposer(store))
    await store.update(lambda tx: tx.create(node("n")))
    parts, whole = store.parts(), await store.snapshot()
    await store.update(lambda tx: tx.create(service("web")))
    assert b"".join([part async for part in parts]) == whole
