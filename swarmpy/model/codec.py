"""How objects look as bytes: attrs classes through cattrs to msgpack. The only file that knows.

Stored bytes start with the schema version that their reader must know; newer ones are refused, and absent fields take
their defaults (fields at their default are left out when writing). Unknown fields are ignored in what is told, and
refused in what all managers must hold alike (:func:`from_stored`).
"""

from __future__ import annotations

from typing import Any, TypeVar

import cattrs
import msgpack
from attrs import has
from cattrs.gen import make_dict_unstructure_fn
from cattrs.preconf.msgpack import make_converter

from swarmpy.errors import DataDirMismatch, ProtocolViolation
from swarmpy.model.schema import (
    BASE_VERSION,
    CERTIFICATES_VERSION,
    CLIENTS_VERSION,
    FIRST_VERSION,
    GATE_VERSION,
    REQUESTS_VERSION,
    SCHEMA_VERSION,
)

__all__ = [
    "BASE_VERSION",
    "CERTIFICATES_VERSION",
    "CLIENTS_VERSION",
    "FIRST_VERSION",
    "GATE_VERSION",
    "REQUESTS_VERSION",
    "SCHEMA_VERSION",
    "to_plain",
    "from_plain",
    "from_stored",
    "pack",
    "unpack",
    "encode",
    "check_version",
    "decode",
]

T = TypeVar("T")

_converter = make_converter(omit_if_default=True, detailed_validation=False)


def _unstructure_factory(cls: type[Any]) -> Any:
    return make_dict_unstructure_fn(cls, _converter, _cattrs_omit_if_default=True)


_converter.register_unstructure_hook_factory(has, _unstructure_factory)
_strict = make_converter(detailed_validation=False, forbid_extra_keys=True)


def to_plain(obj: Any) -> Any:
    """``obj`` as None, bool, int, float, str, bytes, list and dict: what a channel carries."""
    return _converter.unstructure(obj)


def from_plain(cls: type[T], data: Any) -> T:
    """The object of ``cls`` that ``data`` (of a peer) describes. Raises ProtocolViolation."""
    try:
        return _converter.structure(data, cls)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProtocolViolation(f"malformed {cls.__name__}: {error!r}") from error


def from_stored(cls: type[T], data: Any) -> T:
    """As :func:`from_plain`, for what the managers must all hold alike.

    Raises DataDirMismatch for a field that this version does not know: who left it out would hold another state.
    """
    try:
        return _strict.structure(data, cls)
    except cattrs.ForbiddenExtraKeysError as error:
        fields = ", ".join(sorted(error.extra_fields))
        raise DataDirMismatch(
            f"stored {error.cl.__name__} has fields that this swarmpy does not know ({fields}): upgrade it to "
            "the version of the other managers"
        ) from error
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


def check_version(version: int, what: str) -> None:
    """Raise DataDirMismatch for a schema version that this swarmpy does not read, ProtocolViolation for none at all."""
    if version > SCHEMA_VERSION:
        raise DataDirMismatch(
            f"{what} has schema version {version}, this swarmpy reads up to {SCHEMA_VERSION}: upgrade it to "
            "the version of the other managers"
        )
    if version < FIRST_VERSION:
        raise ProtocolViolation(f"{what} has no schema version")


def decode(cls: type[T], data: bytes) -> T:
    """The object that :func:`encode` wrote.

    Raises DataDirMismatch for bytes of a newer version, ProtocolViolation for bytes that are none of ours.
    """
    if not data:
        raise ProtocolViolation(f"malformed {cls.__name__}: no bytes")
    check_version(data[0], f"stored {cls.__name__}")
    return from_plain(cls, unpack(data[1:]))
