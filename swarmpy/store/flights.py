"""Requests whose entries are proposed and neither applied nor given up: what a leader must not propose once more.

They end with their proposals and not with the term of office: until then an entry may still be applied.
"""

from __future__ import annotations

import asyncio

import attrs

from swarmpy.model.requests import Answered, RequestId
from swarmpy.store.sessions import check_same, forgotten


@attrs.frozen(kw_only=True)
class Flight:
    """One of them. ``done`` is the proposal's."""

    answered: Answered
    done: asyncio.Future[None]


class Flights:
    """All of them, by session and sequence."""

    def __init__(self) -> None:
        self._flights: dict[str, dict[int, Flight]] = {}

    def find(self, request: RequestId) -> Flight | None:
        """The flight of ``request``, sent before.

        Raises FailedPrecondition as :meth:`~swarmpy.store.sessions.Sessions.answer` will once all of them are applied.
        """
        flights = self._flights.get(request.session, {})
        flight = flights.get(request.sequence)
        if flight is not None:
            check_same(request, flight.answered.request.digest)
        elif any(request.sequence < other.answered.request.answered_below for other in flights.values()):
            raise forgotten(request)
        return flight

    def add(self, answered: Answered, done: asyncio.Future[None]) -> None:
        """Keep a new one until ``done``."""
        if done.done():
            return
        request = answered.request
        self._flights.setdefault(request.session, {})[request.sequence] = Flight(answered=answered, done=done)
        done.add_done_callback(lambda _: self._end(request))

    def _end(self, request: RequestId) -> None:
        flights = self._flights[request.session]
        del flights[request.sequence]
        if not flights:
            del self._flights[request.session]
