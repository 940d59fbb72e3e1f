"""The whole state as bytes, and back.

A snapshot is the schema version (one byte) and then frames, each a length (4 bytes, big-endian) and msgpack: a header
``{"version", "counts"}``, then slices ``{"kind", "objects"}`` in the order of creation. The schema version is the least
that its reader must know (:mod:`swarmpy.store.schema`). Where requests are remembered, the header also has
``{"sessions", "answers"}`` (how many), and slices ``{"sessions"}`` and ``{"answers"}`` follow in the order of their
use. Encoding pauses between slices, because a manager that is silent for longer than an election timeout loses its
office, and one that keeps a core busy for seconds is made to wait by the kernel when somebody else wants it too.
"""

from __future__ import annotations

import asyncio
import gc
import io
import struct
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from swarmpy.errors import LogCorrupted, ProtocolViolation
from swarmpy.model import codec
from swarmpy.model.objects import KIND_CLASSES, Config, Kind, Secret, StoreObject
from swarmpy.store.schema import version_needed
from swarmpy.store.sessions import Sessions, SessionsCopy
from swarmpy.store.stamp import share
from swarmpy.store.tables import Layer
from swarmpy.store.view import View

SLICE_OBJECTS = 64
"""Objects encoded without a pause: some 0.4 ms."""
SLICE_BYTES = 256 * 1024
"""Of the data of secrets and configs in a slice, as long as one alone does not have more: some 0.1 ms."""
PAUSE_S = 0.001
"""After each slice: a snapshot has time, and takes less than half of a core's."""
FREEZE_BYTES = 4 << 20
"""From this size on what was decoded is taken out of later collections: the first one would take very long."""
_LENGTH = struct.Struct(">I")
# Services come before the tasks that share their parts.
_ORDER = (Kind.CLUSTER, Kind.NODE, Kind.SERVICE, Kind.TASK)
# Told of only where there are some: a reader of an older schema knows nothing of them.
_LATER = (Kind.SECRET, Kind.CONFIG)
_WITH_DATA = (Secret, Config)


def encode_snapshot(layer: Layer, sessions: Sessions, version: int) -> Coroutine[Any, Any, bytes]:
    """The state exactly as it is at the time of the call, whenever it is awaited and whatever is written meanwhile."""
    return _joined(snapshot_parts(layer, sessions, version))


async def _joined(parts: AsyncIterator[bytes]) -> bytes:
    out = io.BytesIO()  # hands out its own buffer: joining the parts would copy the whole state in one step
    async for part in parts:
        out.write(part)
    return out.getvalue()


def snapshot_parts(layer: Layer, sessions: Sessions, version: int) -> AsyncIterator[bytes]:
    """The same piece by piece, for those who need not have all of it at once."""
    objects = {kind: list(layer.by_kind[kind].objects.values()) for kind in _kinds(layer)}
    return _parts(objects, sessions.copy(), version)


async def _parts(objects: dict[Kind, list[Any]], sessions: SessionsCopy, version: int) -> AsyncIterator[bytes]:
    header: dict[str, Any] = {"version": version, "counts": {kind.value: len(objects[kind]) for kind in objects}}
    if sessions.answers:
        header |= {"sessions": len(sessions.uses), "answers": len(sessions.answers)}
    needed = version_needed(objects[Kind.CLUSTER], remembers_requests=bool(sessions.answers))
    if any(kind in objects for kind in _LATER):
        needed = max(needed, codec.SECRETS_VERSION)
    yield bytes([needed]) + _frame(header)
    for kind, of_kind in objects.items():
        for objs in _slices(of_kind):
            yield _frame({"kind": kind.value, "objects": [codec.packable(obj) for obj in objs]})
            await _pause_after(objs)
    for uses in _slices(sessions.uses):
        yield _frame({"sessions": uses})
        await _pause_after(uses)
    for answers in _slices(sessions.answers):
        yield _frame({"answers": answers})
        await _pause_after(answers)


def _kinds(layer: Layer) -> tuple[Kind, ...]:
    return (*_ORDER, *(kind for kind in _LATER if layer.by_kind[kind].objects))


async def _pause_after(part: list[Any]) -> None:
    if len(part) == SLICE_OBJECTS or (part and _data_bytes(part[-1])):
        await asyncio.sleep(PAUSE_S)


def _slices(items: list[Any]) -> Iterator[list[Any]]:
    """Lets go of each item with its slice: to let go of all at the end would be another step that holds the loop."""
    start = 0
    while start < len(items):
        part = items[start : start + SLICE_OBJECTS]
        taken = 0
        for count, item in enumerate(part):
            taken += _data_bytes(item)
            if count and taken > SLICE_BYTES:
                del part[count:]
                break
        items[start : start + len(part)] = [None] * len(part)
        start += len(part)
        yield part


def _data_bytes(item: Any) -> int:
    return len(item.spec.data) if isinstance(item, _WITH_DATA) else 0


Restored = tuple[Layer, Sessions, int]
"""The state, the answers to requests, and the version."""


async def decode_snapshot(data: bytes) -> Restored:
    """The state in ``data``; gives way to the loop after each slice.

    Raises DataDirMismatch for a snapshot of a newer swarmpy, LogCorrupted for bytes that are no whole snapshot.
    """
    # Collections while so many objects are born find nothing to free and take several times the decoding itself.
    with _no_collection():
        steps = _decode(data)
        try:
            while True:
                next(steps)
                await asyncio.sleep(0)
        except StopIteration as end:
            restored: Restored = end.value
            return restored


def decode_at_once(data: bytes) -> Restored:
    """As :func:`decode_snapshot`, where no loop runs."""
    with _no_collection():
        steps = _decode(data)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            restored: Restored = end.value
            return restored


def _decode(data: bytes) -> Generator[None, None, Restored]:
    layer, sessions = Layer(), Sessions()
    try:
        if data:
            codec.check_version(data[0], "the snapshot")
        frames = _frames(data)
        header: Any = next(frames, {})
        version = int(header["version"])
        for frame in frames:
            if "kind" in frame:
                _fill(layer, Kind(frame["kind"]), frame["objects"])
            else:
                sessions.fill(uses=frame.get("sessions", ()), answers=frame.get("answers", ()))
            yield
        _check_counts(header, layer, sessions)
        if len(data) >= FREEZE_BYTES:
            gc.freeze()
    except (ProtocolViolation, struct.error, LookupError, AttributeError, TypeError, ValueError) as error:
        raise LogCorrupted(f"the snapshot is damaged: {error!r}") from error
    return layer, sessions, version


def _check_counts(header: Any, layer: Layer, sessions: Sessions) -> None:
    counts = {kind.value: len(layer.by_kind[kind].objects) for kind in _kinds(layer)}
    remembered = sessions.count()
    if counts != header["counts"] or remembered != (header.get("sessions", 0), header.get("answers", 0)):
        raise LogCorrupted(
            f"the snapshot is cut short: it holds {counts} and {remembered} sessions and answers of {header}"
        )


def _fill(layer: Layer, kind: Kind, plain: list[Any]) -> None:
    view = View((layer,), 0)
    table = layer.by_kind[kind]
    for item in plain:
        obj: StoreObject = codec.from_stored(KIND_CLASSES[kind], item)
        table.put(obj.id, share(obj, None, view))


def _frame(content: Any) -> bytes:
    packed = codec.pack(content)
    return _LENGTH.pack(len(packed)) + packed


def _frames(data: bytes) -> Iterator[Any]:
    position = 1
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        start = position + _LENGTH.size
        position = start + length
        yield codec.unpack(data[start:position])


@contextmanager
def _no_collection() -> Iterator[None]:
    """Also for all that goes on meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
