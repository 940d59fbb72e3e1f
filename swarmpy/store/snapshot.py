"""The whole state as bytes, and back.

A snapshot is the schema version (one byte) and then frames, each a length (4 bytes, big-endian) and msgpack: a header
``{"version", "counts"}``, then slices ``{"kind", "objects"}`` in the order of creation. Encoding gives way to the loop
between slices, because a manager that is silent for longer than an election timeout loses its office.
"""

from __future__ import annotations

import asyncio
import gc
import struct
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from swarmpy.errors import DataDirMismatch, LogCorrupted, ProtocolViolation
from swarmpy.model import codec
from swarmpy.model.objects import KIND_CLASSES, Kind, StoreObject
from swarmpy.store.stamp import share
from swarmpy.store.tables import Layer
from swarmpy.store.view import View

SLICE_OBJECTS = 200
"""Objects encoded without a pause: about a millisecond and a half."""
_LENGTH = struct.Struct(">I")
# Services come before the tasks that share their parts.
_ORDER = (Kind.CLUSTER, Kind.NODE, Kind.SERVICE, Kind.TASK)


def encode_snapshot(layer: Layer, version: int) -> Coroutine[Any, Any, bytes]:
    """The state exactly as it is at the time of the call, whenever it is awaited and whatever is written meanwhile."""
    objects = {kind: list(layer.by_kind[kind].objects.values()) for kind in _ORDER}
    return _encode(objects, version)


async def _encode(objects: dict[Kind, list[Any]], version: int) -> bytes:
    header = {"version": version, "counts": {kind.value: len(objects[kind]) for kind in _ORDER}}
    parts = [bytes([codec.SCHEMA_VERSION]), *_frame(header)]
    for kind in _ORDER:
        for start in range(0, len(objects[kind]), SLICE_OBJECTS):
            plain = [codec.to_plain(obj) for obj in objects[kind][start : start + SLICE_OBJECTS]]
            parts += _frame({"kind": kind.value, "objects": plain})
            await asyncio.sleep(0)
    return b"".join(parts)


def decode_snapshot(data: bytes) -> tuple[Layer, int]:
    """The state and its version.

    Raises DataDirMismatch for a snapshot of a newer swarmpy, LogCorrupted for bytes that are no whole snapshot.
    """
    if data and data[0] > codec.SCHEMA_VERSION:
        raise DataDirMismatch(
            f"the snapshot has schema version {data[0]}, this swarmpy reads up to {codec.SCHEMA_VERSION}: upgrade it"
        )
    layer = Layer()
    try:
        with _no_collection():
            frames = _frames(data)
            header = next(frames)
            version = int(header["version"])
            for frame in frames:
                _fill(layer, Kind(frame["kind"]), frame["objects"])
            counts = {kind.value: len(layer.by_kind[kind].objects) for kind in _ORDER}
            if counts != header["counts"]:
                raise LogCorrupted(f"the snapshot is cut short: it holds {counts} of {header['counts']}")
    except (ProtocolViolation, StopIteration, struct.error, KeyError, TypeError, ValueError) as error:
        raise LogCorrupted(f"the snapshot is damaged: {error!r}") from error
    return layer, version


def _fill(layer: Layer, kind: Kind, plain: list[Any]) -> None:
    view = View((layer,), 0)
    table = layer.by_kind[kind]
    for item in plain:
        obj: StoreObject = codec.from_plain(KIND_CLASSES[kind], item)
        table.put(obj.id, share(obj, None, view))


def _frame(content: Any) -> tuple[bytes, bytes]:
    packed = codec.pack(content)
    return _LENGTH.pack(len(packed)), packed


def _frames(data: bytes) -> Iterator[Any]:
    position = 1
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        start = position + _LENGTH.size
        position = start + length
        yield codec.unpack(data[start:position])


@contextmanager
def _no_collection() -> Iterator[None]:
    # Collections while so many objects are born find nothing to free and take several times the decoding itself.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
