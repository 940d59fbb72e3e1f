"""How objects look as bytes: attrs classes through cattrs to msgpack. The only file that knows.

Stored bytes start with the schema version that their reader must know; newer ones are refused, unknown fields are
ignored, and absent fields take their defaults (fields at their default are left out when writing).
"""

from __future__ import annotations

from typing import Any, TypeVar

import cattrs
import msgpack
from attrs import has
from cattrs.gen import make_dict_unstructure_fn
from cattrs.preconf.msgpack import make_converter

from swarmpy.errors import DataDirMismatch, ProtocolViolation

SCHEMA_VERSION = 2
"""The newest that can be read."""
FIRST_VERSION = 1
REQUESTS_VERSION = 2
"""Of an entry or a snapshot that remembers requests: who ignores them would do a repeated one again."""
T = TypeVar("T")

_converter = make_converter(omit_if_default=True, detailed_validation=False)


def _unstructure_factory(cls: type[Any]) -> Any:
    return make_dict_unstructure_fn(cls, _converter, _cattrs_omit_if_default=True)


_converter.register_unstructure_hook_factory(has, _unstructure_factory)


def to_plain(obj: Any) -> Any:
    """``obj`` as None, bool, int, float, str, bytes, list and dict: what a channel carries."""
    return _converter.unstructure(obj)


def from_plain(cls: type[T], data: Any) -> T:
    """The object of ``cls`` that ``data`` (of a peer) describes. Raises ProtocolViolation."""
    try:
        return _converter.structure(data, cls)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolViolation(f"malformed {cls.__name__}: {error!r}") from error


def pack(data: Any) -> bytes:
    """Plain data as msgpack."""
    packed: bytes = msgpack.packb(data, use_bin_type=True)
    return packed


def unpack(data: bytes) -> Any:
    """Plain data of msgpack bytes. Raises ProtocolViolation."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolViolation(f"malformed msgpack: {error!r}") from error


def encode(obj: Any, version: int = FIRST_VERSION) -> bytes:
    """``obj`` as bytes to be stored, for readers that know ``version``."""
    return bytes([version]) + pack(to_plain(obj))


def decode(cls: type[T], data: bytes) -> T:
    """The object that :func:`encode` wrote.

    Raises DataDirMismatch for bytes of a newer version, ProtocolViolation for bytes that are none of ours.
    """
    if not data:
        raise ProtocolViolation(f"malformed {cls.__name__}: no bytes")
    if data[0] > SCHEMA_VERSION:
        raise DataDirMismatch(
            f"stored {cls.__name__} has schema version {data[0]}, this swarmpy reads up to {SCHEMA_VERSION}: upgrade it"
        )
    return from_plain(cls, unpack(data[1:]))
