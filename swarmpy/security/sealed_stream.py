"""A stream that only an unlock key opens: what a backup of a swarm with autolock is.

A key of its own is made for each stream and goes first, sealed with the unlock key; then the pieces, each of which
knows its place and, the last one, that it is the last. Everything is bound to what the stream is of (``about``).
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator

from swarmpy.errors import SealBroken
from swarmpy.security.sealing import KEY_BYTES, DataKey, KeyRing, UnlockKey, names_of
from swarmpy.store.backup import Header

_LENGTH = struct.Struct(">I")
_PLACE = struct.Struct(">Q?")


def about_backup(header: Header) -> bytes:
    """What a sealed backup is bound to."""
    return names_of("swarmpy backup", header.cluster_id, header.incarnation, header.index, header.term, header.time_ns)


async def sealed_stream(unlock: UnlockKey, about: bytes, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """``parts``, sealed one by one as they come."""
    secret = os.urandom(KEY_BYTES)
    ring = KeyRing((DataKey(1, secret),))
    yield _framed(unlock.seal(secret, about))
    place, waiting = 0, b""
    async for part in parts:
        if waiting:
            yield _framed(ring.seal(waiting, about + _PLACE.pack(place, False)))
            place += 1
        waiting = part
    yield _framed(ring.seal(waiting, about + _PLACE.pack(place, True)))


def opened_stream(unlock: UnlockKey, about: bytes, stream: bytes) -> bytes:
    """What was sealed. Raises WrongUnlockKey, and SealBroken where it was changed or cut."""
    first, *pieces = _frames(stream)
    secret = unlock.open(first, about)
    ring = KeyRing((DataKey(1, secret),))
    last = len(pieces) - 1
    if last < 0:
        raise SealBroken("it is cut short")
    return b"".join(
        ring.open(1, piece, about + _PLACE.pack(place, place == last)) for place, piece in enumerate(pieces)
    )


def _framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _frames(stream: bytes) -> list[bytes]:
    frames, at = [], 0
    view = memoryview(stream)
    while at < len(stream):
        end = at + _LENGTH.size
        if end <= len(stream):
            end += _LENGTH.unpack_from(stream, at)[0]
        if end > len(stream):
            raise SealBroken("it is cut short")
        frames.append(bytes(view[at + _LENGTH.size : end]))
        at = end
    if not frames:
        raise SealBroken("it is empty")
    return frames
