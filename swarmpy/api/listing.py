"""Long lists as JSON, in slices: whoever asks for thousands of objects must not hold a manager's loop for as long as
it takes to write them down, or the manager misses its heartbeats.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from swarmpy.api.request import JSON, ApiResponse

SLICE_OBJECTS = 64
"""Written down without a pause: about three milliseconds."""


class Identified(Protocol):
    """An object of the store: immutable, and replaced by another one of the same id when it changes."""

    @property
    def id(self) -> str:
        """What it is found by."""


Obj = TypeVar("Obj", bound=Identified)
T = TypeVar("T")


class JsonCache(Generic[Obj]):
    """The JSON of the ``limit`` objects that were asked for last, each as long as it is the same object."""

    def __init__(self, to_json: Callable[[Obj], Any], limit: int) -> None:
        self._to_json = to_json
        self._limit = limit
        self._known: OrderedDict[str, tuple[Obj, bytes]] = OrderedDict()

    def get(self, obj: Obj) -> bytes:
        """The JSON of ``obj``."""
        known = self._known.get(obj.id)
        if known is not None and known[0] is obj:
            self._known.move_to_end(obj.id)
            return known[1]
        encoded = to_bytes(self._to_json(obj))
        self._known[obj.id] = (obj, encoded)
        self._known.move_to_end(obj.id)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)
        return encoded


def to_bytes(value: Any) -> bytes:
    """``value`` as JSON."""
    return json.dumps(value).encode()


async def json_array(items: Iterable[T], encode: Callable[[T], bytes | None]) -> ApiResponse:
    """The array of what ``encode`` makes of each item; None leaves it out.

    ``items`` are looked at over several turns of the loop: they must not be read from a view while that goes on.
    """
    parts: list[bytes] = []
    left: Iterator[T] = iter(items)
    while batch := list(islice(left, SLICE_OBJECTS)):
        parts += [part for part in map(encode, batch) if part is not None]
        await asyncio.sleep(0)
    return ApiResponse(status=200, body=b"[%b]\n" % b", ".join(parts), content_type=JSON)
