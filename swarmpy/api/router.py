"""Which handler answers a method and a path, where it has to run, and who may ask. Holds no state beyond its table."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable, Iterable

import attrs

from swarmpy.api.callers import Access
from swarmpy.api.request import ApiRequest, ApiResponse

Handler = Callable[[ApiRequest], Awaitable[ApiResponse]]

_PART = re.compile(r"\{(\w+)(\.\.\.)?\}")


class Scope(enum.Enum):
    """Where a request is answered."""

    LOCAL = "local"
    """By this node, whatever it is."""
    READ = "read"
    """By this manager, after it has caught up with every write acknowledged so far."""
    WRITE = "write"
    """By the leader; another manager forwards the request."""


READ_METHODS = frozenset({"GET", "HEAD"})


@attrs.frozen
class Route:
    """``pattern``: a path with ``{name}`` for one segment and ``{name...}`` for one or more."""

    method: str
    pattern: str
    scope: Scope
    access: Access
    """The least that a caller must have."""
    handler: Handler
    tells_secrets: bool = attrs.field(default=False, kw_only=True)
    """A read whose answer to an admin has secrets in it: who asked is written down."""
    sets_bound: bool = attrs.field(default=False, kw_only=True)
    """How long it may take is part of what is asked for."""

    @property
    def is_read(self) -> bool:
        """True when it changes nothing."""
        return self.method in READ_METHODS

    @property
    def is_audited(self) -> bool:
        """True when each request goes into the audit log."""
        return self.tells_secrets or not self.is_read


class ApiRouter:
    """Finds routes. The first one that matches wins."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._table = tuple(routes)
        self._routes: dict[str, list[tuple[re.Pattern[str], Route]]] = {}
        for route in self._table:
            self._routes.setdefault(route.method, []).append((_compile(route.pattern), route))

    def table(self) -> tuple[Route, ...]:
        """Every route, by path and method."""
        return tuple(sorted(self._table, key=lambda route: (route.pattern, route.method)))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and the values of its named parts; None when there is none."""
        for regex, route in self._routes.get(method, ()):
            match = regex.fullmatch(path)
            if match is not None:
                return route, match.groupdict()
        return None


def _compile(pattern: str) -> re.Pattern[str]:
    out = []
    end = 0
    for part in _PART.finditer(pattern):
        out.append(re.escape(pattern[end : part.start()]))
        out.append(f"(?P<{part[1]}>{'.+' if part[2] else '[^/]+'})")
        end = part.end()
    out.append(re.escape(pattern[end:]))
    return re.compile("".join(out), re.DOTALL)
