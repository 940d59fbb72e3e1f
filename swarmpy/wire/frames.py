"""How messages look on a connection: a length (4 bytes, big endian) and a msgpack array whose first item is its kind.

====== ========= =============================== =========================================================
number kind      rest of the array               meaning
====== ========= =============================== =========================================================
0      HELLO     newest, oldest                  first frame of both sides: protocol versions spoken
1      CALL      id, method, payload             a request with one answer
2      STREAM    id, method, payload             a request with many answers
3      NOTIFY    method, payload                 a request without an answer
4      RESULT    id, payload                     the answer of a CALL
5      ERROR     id, code, message, detail       the end of a CALL or STREAM that failed
6      ITEM      id, payload                     one answer of a STREAM
7      END       id                              the end of a STREAM
8      CANCEL    id                              the caller does not want the answer any more
9      PING                                      "I am here"; every frame says so, this one says nothing else
10     GOODBYE   code, message                   why the sender closes the connection
====== ========= =============================== =========================================================

Bytes of a peer come in here: nothing is allocated before its length is known to be within the limit, and nothing but
ProtocolViolation comes out. The decoder knows no sockets.
"""

from __future__ import annotations

import enum
import gc
from typing import Any

from swarmpy.errors import ProtocolViolation
from swarmpy.model import codec

PROTOCOL_VERSION = 1
"""The newest version this swarmpy speaks."""
OLDEST_VERSION = 1
"""The oldest version this swarmpy still speaks."""

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 4 * 1024 * 1024
LARGE_BYTES = 16 * 1024
"""Frames from this size on may have thousands of values."""


class Kind(enum.IntEnum):
    """What a frame is."""

    HELLO = 0
    CALL = 1
    STREAM = 2
    NOTIFY = 3
    RESULT = 4
    ERROR = 5
    ITEM = 6
    END = 7
    CANCEL = 8
    PING = 9
    GOODBYE = 10


_INT, _STR, _ANY = int, str, object
_SHAPES: tuple[tuple[type, ...], ...] = (
    (_INT, _INT),
    (_INT, _STR, _ANY),
    (_INT, _STR, _ANY),
    (_STR, _ANY),
    (_INT, _ANY),
    (_INT, _STR, _STR, _STR),
    (_INT, _ANY),
    (_INT,),
    (_INT,),
    (),
    (_STR, _STR),
)
"""The types of the rest of each kind's array, by its number."""


def encode(kind: Kind, *rest: Any) -> bytes:
    """One frame. The caller checks its size: the limit is the receiver's."""
    body = codec.pack((int(kind), *rest))
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Decoder:
    """Cuts the bytes of one direction into frames."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.size = 0
        """Bytes of the frame that :meth:`next` gave last."""
        self._buffer = bytearray()
        self._start = 0
        """Where what is left of the buffer begins."""

    def add(self, data: bytes) -> None:
        """Take bytes in."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next(self) -> list[Any] | None:
        """The next frame, kind first; None when it is not there yet. Raises ProtocolViolation, and is then unusable."""
        begin = self._start + LENGTH_BYTES
        if len(self._buffer) < begin:
            return None
        length = int.from_bytes(self._buffer[self._start : begin], "big")
        if length > self.max_frame_bytes:
            raise ProtocolViolation(f"a frame of {length} bytes is larger than the limit of {self.max_frame_bytes}")
        end = begin + length
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[begin:end])
        self._start, self.size = end, LENGTH_BYTES + length
        if end == len(self._buffer):
            self._buffer, self._start = bytearray(), 0
        return decode_body(body)


def decode_body(body: bytes) -> list[Any]:
    """The array of one frame, its kind a known number and the rest of the right types. Raises ProtocolViolation."""
    frame = codec.unpack(body) if len(body) < LARGE_BYTES else _unpack_at_once(body)
    if not isinstance(frame, list) or not frame:
        raise ProtocolViolation("malformed frame: not an array")
    kind, *rest = frame
    # A bool is an int to Python, never to the peer.
    if type(kind) is not int or not 0 <= kind < len(_SHAPES):
        what = kind if isinstance(kind, int) else f"of type {type(kind).__name__}"
        raise ProtocolViolation(f"malformed frame: unknown kind {what}")
    shape = _SHAPES[kind]
    if len(rest) != len(shape):
        raise ProtocolViolation(f"malformed frame: {Kind(kind).name} has {len(rest)} fields, not {len(shape)}")
    for value, expected in zip(rest, shape, strict=True):
        if expected is not object and type(value) is not expected:
            raise ProtocolViolation(f"malformed frame: {Kind(kind).name} with a {type(value).__name__}")
    return frame


def _unpack_at_once(body: bytes) -> Any:
    """As ``codec.unpack``, and no garbage is looked for meanwhile: over and over, among what is only just being made,
    which takes eight times as long as making it."""
    if not gc.isenabled():
        return codec.unpack(body)
    gc.disable()
    try:
        return codec.unpack(body)
    finally:
        gc.enable()
