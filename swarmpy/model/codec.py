"""How objects look as bytes: attrs classes through cattrs to msgpack. The only file that knows.

Stored bytes start with the schema version that their reader must know; newer ones are refused, and absent fields take
their defaults (fields at their default are left out when writing). Unknown fields are ignored in what is told, and
refused in what all managers must hold alike (:func:`from_stored`).

What is told comes from a peer, who may be anybody: a value is taken only if it is of the very type that its field has,
and never converted (``bytes(10**10)`` is ten gigabytes). What is stored was written here, and is read as ever.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import cattrs
import msgpack
from attrs import has
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn
from cattrs.preconf.msgpack import make_converter

from swarmpy.errors import DataDirMismatch, ProtocolViolation
from swarmpy.model.patches import TaskPatch
from swarmpy.model.schema import (
    BASE_VERSION,
    CERTIFICATES_VERSION,
    CLIENTS_VERSION,
    FIRST_VERSION,
    GATE_VERSION,
    REQUESTS_VERSION,
    ROOTS_VERSION,
    SCHEMA_VERSION,
    SECRETS_VERSION,
    SERVICES_VERSION,
)
from swarmpy.model.specs import TaskSpec

__all__ = [
    "BASE_VERSION",
    "CERTIFICATES_VERSION",
    "CLIENTS_VERSION",
    "FIRST_VERSION",
    "GATE_VERSION",
    "REQUESTS_VERSION",
    "ROOTS_VERSION",
    "SCHEMA_VERSION",
    "SECRETS_VERSION",
    "SERVICES_VERSION",
    "to_plain",
    "from_plain",
    "from_stored",
    "reason",
    "has_at_most",
    "packable",
    "pack",
    "unpack",
    "encode",
    "check_version",
    "decode",
]

T = TypeVar("T")


class _Shared:
    """Unstructures a part that many objects share one after the other, as the tasks of a service their spec, once.

    It keeps the last one, as one pair: several threads encode.
    """

    def __init__(self, unstructure: Callable[[Any], Any]) -> None:
        self._unstructure = unstructure
        self._last: tuple[Any, Any] = (None, None)

    def __call__(self, part: Any) -> Any:
        known, plain = self._last
        if known is not part:
            plain = self._unstructure(part)
            self._last = part, plain
        return plain


def _new_converter() -> cattrs.Converter:
    converter = make_converter(omit_if_default=True, detailed_validation=False)

    def factory(cls: type[Any]) -> Any:
        return make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True)

    converter.register_unstructure_hook_factory(has, factory)
    return converter


_converter = _new_converter()
_packer = _new_converter()
"""Of what is packed at once, and never changed or kept."""
_packer.register_unstructure_hook(TaskSpec, _Shared(_packer.get_unstructure_hook(TaskSpec)))


def _plain_patch(patch: TaskPatch) -> dict[str, Any]:
    """Thousands of ids and numbers as they are; statuses, and whatever else is no plain data, unstructured."""
    columns = {name: getattr(patch, name) for name in patch.fields}
    for name in _OBJECTS.intersection(columns):
        columns[name] = [_packer.unstructure(value) for value in columns[name]]
    return {"ids": patch.ids, "updated_at_ns": patch.updated_at_ns, **columns}


_OBJECTS = frozenset({"status", "desired_state", "generic"})
_packer.register_unstructure_hook(TaskPatch, _plain_patch)
_strict = make_converter(detailed_validation=False, forbid_extra_keys=True)
_told = make_converter(detailed_validation=False)

MAX_REASON_CHARS = 200
"""Of what is said about data that does not fit: it may quote the data, which may be megabytes."""
_MISFITS = (
    cattrs.BaseValidationError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What may be raised over data that does not fit, whatever it is."""


def _take(converter: cattrs.Converter, field: type[Any], *types: type[Any]) -> None:
    """Have a field of type ``field`` take values of ``types`` only. A bool is an int to Python, never to the peer."""

    def check(value: Any, cls: type[Any]) -> Any:
        if not isinstance(value, types) or (type(value) is bool and field is not bool):
            raise TypeError(f"{field.__name__} expected, {type(value).__name__} found")
        return cls(value) if issubclass(cls, enum.Enum) else value

    converter.register_structure_hook(field, check)


def _mapping_only(cls: type[Any]) -> Any:
    """An object from a mapping and nothing else: to a text of any length, too, one may ask whether a name is in it."""
    structure = make_dict_structure_fn(cls, _told, _cattrs_detailed_validation=False)

    def check(value: Any, as_class: type[Any]) -> Any:
        if type(value) is not dict:
            raise TypeError(f"{cls.__name__} expected, {type(value).__name__} found")
        return structure(value, as_class)

    return check


_told.register_structure_hook_factory(has, _mapping_only)
for _field in (bool, int, str, bytes):
    _take(_told, _field, _field)
_take(_told, float, float, int)


def to_plain(obj: Any) -> Any:
    """``obj`` as None, bool, int, float, str, bytes, list and dict: what a channel carries."""
    return _converter.unstructure(obj)


def from_plain(cls: type[T], data: Any, *, most: int | None = None) -> T:
    """The object of ``cls`` that ``data`` (of a peer) describes. Raises ProtocolViolation, and nothing else.

    ``most``: of how many values it may consist. To make one into an object takes some hundred times as long as to send
    it, and a megabyte holds a million of them.
    """
    if most is not None and not has_at_most(data, most):
        raise ProtocolViolation(f"malformed {cls.__name__}: it has more than {most} values")
    return _structure(_told, cls, data)


def has_at_most(data: Any, most: int) -> bool:
    """True when there are so few values in ``data``, at whatever depth. Looks at no more than that."""
    containers = [data]
    while containers:
        container = containers.pop()
        most -= len(container) if isinstance(container, list | dict) else 0
        if most < 0:
            return False
        values = container.values() if isinstance(container, dict) else container
        if isinstance(container, list | dict):
            containers += [value for value in values if isinstance(value, list | dict)]
    return True


def _structure(converter: cattrs.Converter, cls: type[T], data: Any) -> T:
    try:
        return converter.structure(data, cls)
    except _MISFITS as error:
        raise ProtocolViolation(f"malformed {cls.__name__}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What is the matter with data of a peer, in few words whatever the data is."""
    return f"{type(error).__name__}: {str(error)[:MAX_REASON_CHARS]}"


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
    except _MISFITS as error:
        raise ProtocolViolation(f"malformed {cls.__name__}: {reason(error)}") from error


def packable(obj: Any) -> Any:
    """As :func:`to_plain`, for :func:`pack` only: objects that share parts may have those in common here as well."""
    return _packer.unstructure(obj)


def pack(data: Any) -> bytes:
    """Plain data as msgpack."""
    packed: bytes = msgpack.packb(data, use_bin_type=True)
    return packed


def unpack(data: bytes) -> Any:
    """Plain data of msgpack bytes. Raises ProtocolViolation, also for extension types: they are no plain data."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_no_extension)
    except (*_MISFITS, msgpack.exceptions.UnpackException) as error:
        raise ProtocolViolation(f"malformed msgpack: {reason(error)}") from error


def _no_extension(code: int, _data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def encode(obj: Any, version: int = FIRST_VERSION) -> bytes:
    """``obj`` as bytes to be stored, for readers that know ``version``."""
    return bytes([version]) + pack(packable(obj))


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
    return _structure(_converter, cls, unpack(data[1:]))
