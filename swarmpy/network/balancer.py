"""Which endpoint gets the next connection: the one with the fewest open ones; of equals, the one whose turn it is.

Pure: time comes in with each call. An endpoint that refused a connection is avoided for a moment, unless all did;
where one is silent, so are all of its node.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from swarmpy.model.assignments import Endpoint
from swarmpy.ports import Random

AVOID_S = 2.0
"""How long an endpoint that refused a connection is avoided."""


@attrs.define
class _Load:
    """What is known of one endpoint."""

    turn: float
    """When it was last chosen, counted in choices; below 0: never."""
    open: int = 0
    avoid_until: float = 0.0


class Balancer:
    """The endpoints of one published port."""

    def __init__(self, random: Random, endpoints: Sequence[Endpoint] = ()) -> None:
        self._random = random
        self._turn = 0
        self._loads: dict[Endpoint, _Load] = {}
        self._leaving: dict[Endpoint, _Load] = {}
        self.replace(endpoints)

    def __contains__(self, endpoint: Endpoint) -> bool:
        return endpoint in self._loads

    def replace(self, endpoints: Sequence[Endpoint]) -> None:
        """Make these the endpoints. Ones that stay keep their counts; connections to others are still counted down."""
        old = self._loads
        # New ones start at a random place in the row, or all nodes would begin with the same one.
        self._loads = {e: old.get(e) or self._leaving.pop(e, None) or _Load(-self._random.random()) for e in endpoints}
        self._leaving.update({e: load for e, load in old.items() if e not in self._loads and load.open})

    def choose(self, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for a new connection, counted as open on it until :meth:`release`. None: all were tried."""
        candidates = [(endpoint, load) for endpoint, load in self._loads.items() if endpoint not in tried]
        if not candidates:
            return None
        endpoint, load = min(candidates, key=lambda item: (item[1].avoid_until > now, item[1].open, item[1].turn))
        self._turn += 1
        load.turn = self._turn
        load.open += 1
        return endpoint

    def release(self, endpoint: Endpoint) -> None:
        """A connection to ``endpoint`` has ended, or was never made."""
        load = self._loads.get(endpoint)
        if load is not None:
            load.open -= 1
            return
        leaving = self._leaving.get(endpoint)
        if leaving is not None:
            leaving.open -= 1
            if leaving.open == 0:
                del self._leaving[endpoint]

    def avoid(self, endpoint: Endpoint, now: float, *, is_silent: bool = False) -> None:
        """``endpoint`` did not take a connection. ``is_silent``: nor did its machine refuse it, which may be dead."""
        for other, load in self._loads.items():
            if other == endpoint or (is_silent and other.node_id == endpoint.node_id):
                load.avoid_until = now + AVOID_S
