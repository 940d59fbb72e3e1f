"""The ``filters=`` parameter of lists. Values of one key are alternatives (labels: all must match); keys add up."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from swarmpy.api.json_fields import parse_json
from swarmpy.api.request import ApiRequest
from swarmpy.errors import InvalidArgument


class Filters:
    """The filters of one request."""

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self._values = values

    def get(self, key: str) -> tuple[str, ...]:
        """The values of a key; empty when it is not asked for."""
        return self._values.get(key, ())

    def has(self, key: str) -> bool:
        """True when the key is there, with or without values."""
        return key in self._values

    def one_of(self, key: str, value: str) -> bool:
        """True when nothing is asked of ``key``, or ``value`` is among what is."""
        wanted = self.get(key)
        return not wanted or value in wanted

    def starts_one_of(self, key: str, *values: str) -> bool:
        """True when nothing is asked of ``key``, or one of ``values`` starts with one of what is."""
        wanted = self.get(key)
        return not wanted or any(value.startswith(wanted) for value in values)

    def labels(self, key: str, labels: Mapping[str, str]) -> bool:
        """True when ``labels`` has all that is asked for, each ``name`` or ``name=value``."""
        for wanted in self.get(key):
            name, _, value = wanted.partition("=")
            if name not in labels or (value and labels[name] != value):
                return False
        return True

    def check(self, key: str, allowed: Iterable[str]) -> None:
        """Raise InvalidArgument for a value of ``key`` that can never match."""
        options = list(allowed)
        for value in self.get(key):
            if value not in options:
                raise InvalidArgument(f"Invalid {key} filter: '{value}' (use {', '.join(options)})")


def parse_filters(request: ApiRequest, allowed: Collection[str]) -> Filters:
    """The filters of a request, ``{"name":{"web":true}}`` (Docker's CLI) or ``{"name":["web"]}`` (Python clients).

    Raises InvalidArgument for anything else, and for a key that is not in ``allowed``.
    """
    text = request.query.get("filters", "").strip()
    if not text:
        return Filters({})
    data = parse_json(text.encode("utf-8", "surrogatepass"))
    if not isinstance(data, dict):
        raise InvalidArgument('filters: expected an object such as {"name":["web"]}')
    found: dict[str, tuple[str, ...]] = {}
    for key, values in data.items():
        if key not in allowed:
            raise InvalidArgument(f"Invalid filter '{key}' (use {', '.join(sorted(allowed))})")
        found[key] = _values(key, values)
    return Filters(found)


def _values(key: str, values: object) -> tuple[str, ...]:
    if values is None:
        return ()
    if isinstance(values, dict):
        return tuple(values)
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(values)
    raise InvalidArgument(f"filters: {key}: expected an array of strings or an object of true")
