"""Identifiers: 25 characters of [0-9a-z], 128 random bits (Docker's own form)."""

from __future__ import annotations

from typing import NewType

ClusterId = NewType("ClusterId", str)
NodeId = NewType("NodeId", str)
ServiceId = NewType("ServiceId", str)
TaskId = NewType("TaskId", str)
SecretId = NewType("SecretId", str)
ConfigId = NewType("ConfigId", str)

ID_BYTES = 16
ID_LENGTH = 25
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(one + two for one in _DIGITS for two in _DIGITS)
"""Two digits at a time: ids are made with every task."""


def encode_id(raw: bytes) -> str:
    """The identifier of 16 random bytes."""
    if len(raw) != ID_BYTES:
        raise ValueError(f"an id is made of {ID_BYTES} bytes, not {len(raw)}")
    return base36(raw, ID_LENGTH)


def base36(raw: bytes, width: int) -> str:
    """``raw`` as a big-endian number in base 36, padded with zeros to ``width`` characters."""
    number = int.from_bytes(raw, "big")
    out = []
    while number:
        number, pair = divmod(number, 36 * 36)
        out.append(_PAIRS[pair])
    return "".join(reversed(out)).lstrip("0").rjust(width, "0")
