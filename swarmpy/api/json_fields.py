"""Reads JSON that came from outside, strictly and with the path of every field that is wrong.

As Go's decoder, which Docker's clients are written against: names match whatever their case (docker-py sends
``replicated`` for ``Replicated``), null is "not given", unknown fields are ignored. Unlike it, a value of the wrong
type is named by its whole path. Nothing here knows what a field means.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from swarmpy.errors import InvalidArgument
from swarmpy.model.grammar import bare

INT64_MAX = 2**63 - 1


def parse_json(body: bytes) -> Any:
    """The value of a request body. Raises InvalidArgument: empty, no JSON, nested too deep, NaN."""
    if not body.strip():
        raise InvalidArgument("got EOF while reading request body")
    try:
        return _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid JSON in request body: {error}") from error


def given(**values: Any) -> dict[str, Any]:
    """The values that are not empty (Go's ``omitempty``); tuples become lists."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class Fields:
    """One JSON object and where it is. The getters raise InvalidArgument ``Path.To.Field: expected string``."""

    def __init__(self, value: object, path: str = "") -> None:
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise InvalidArgument(f"{path or 'request body'}: expected object, got {_type_name(value)}")
        self.path = path
        self._names: dict[str, object] = value
        self._values: dict[str, object] = {str(key).lower(): item for key, item in value.items()}

    def path_of(self, name: str) -> str:
        """The field's whole path."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """True when the field is there and not null."""
        return self._values.get(name.lower()) is not None

    def first_name(self) -> str | None:
        """The name of the first field that is there and not null, as it came; None when there is none."""
        return next((name for name, value in self._names.items() if value is not None), None)

    def raw(self, name: str) -> object:
        """The value as it came; None when absent."""
        return self._values.get(name.lower())

    def nested(self, name: str) -> Fields:
        """A nested object; an absent one is empty."""
        return Fields(self.raw(name), self.path_of(name))

    def maybe_nested(self, name: str) -> Fields | None:
        """A nested object, or None."""
        return self.nested(name) if self.has(name) else None

    def nested_list(self, name: str) -> list[Fields]:
        """A list of objects."""
        return [Fields(item, f"{self.path_of(name)}[{i}]") for i, item in enumerate(self._list(name))]

    def string(self, name: str) -> str:
        """A string; "" when absent."""
        return _string(self.raw(name), self.path_of(name)) if self.has(name) else ""

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        items = self._list(name)
        return tuple(_string(item, f"{self.path_of(name)}[{i}]") for i, item in enumerate(items)) if items else ()

    def string_map(self, name: str) -> dict[str, str]:
        """An object whose values are strings (null is "")."""
        value = self.raw(name)
        path = self.path_of(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidArgument(f"{path}: expected object, got {_type_name(value)}")
        return {_string(key, path): "" if v is None else _string(v, f"{path}.{bare(key)}") for key, v in value.items()}

    def boolean(self, name: str) -> bool:
        """A boolean; False when absent."""
        return self.maybe_boolean(name) or False

    def maybe_boolean(self, name: str) -> bool | None:
        """A boolean, or None."""
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return value
        raise InvalidArgument(f"{self.path_of(name)}: expected boolean, got {_type_name(value)}")

    def integer(self, name: str, *, least: int = 0, most: int = INT64_MAX) -> int:
        """An integer within bounds; 0 when absent."""
        return self.maybe_integer(name, least=least, most=most) or 0

    def maybe_integer(self, name: str, *, least: int = 0, most: int = INT64_MAX) -> int | None:
        """An integer within bounds, or None."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidArgument(f"{self.path_of(name)}: expected integer, got {_type_name(value)}")
        if value < least == 0:
            raise InvalidArgument(f"{self.path_of(name)} cannot be negative: {_brief(value)}")
        if not least <= value <= most:
            raise InvalidArgument(f"{self.path_of(name)}: {_brief(value)} is not between {least} and {most}")
        return value

    def number(self, name: str) -> float:
        """A finite number of zero or more; 0 when absent."""
        value = self.raw(name)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidArgument(f"{self.path_of(name)}: expected number, got {_type_name(value)}")
        if not 0 <= value <= INT64_MAX or not math.isfinite(value):
            raise InvalidArgument(f"{self.path_of(name)}: {_brief(value)} is out of range")
        return float(value)

    def refuse(self, *names: str, reason: str = "") -> None:
        """Raise InvalidArgument when one of the fields asks for something: it would silently be ignored otherwise."""
        for name in names:
            if _asks_for_something(self.raw(name)):
                why = f": {reason}" if reason else " yet"
                raise InvalidArgument(f"{self.path_of(name)} is not supported{why}")

    def _list(self, name: str) -> list[Any]:
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidArgument(f"{self.path_of(name)}: expected array, got {_type_name(value)}")
        return value


def _brief(number: float) -> str:
    text = str(number)
    return text if len(text) < 25 else f"{text[:22]}..."


def _string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{path}: expected string, got {_type_name(value)}")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidArgument(f"{path}: half of a surrogate pair is no character")
    return value


def _asks_for_something(value: object) -> bool:
    """False for null, false, 0, "" and containers of nothing but these: what clients send for "not given"."""
    if isinstance(value, dict):
        return any(_asks_for_something(item) for item in value.values())
    if isinstance(value, list):
        return any(not isinstance(item, dict) or _asks_for_something(item) for item in value)
    return bool(value)


def _type_name(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
