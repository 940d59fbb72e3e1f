"""A clock that shows the loop's virtual time, with an error of its own for each host."""

from __future__ import annotations

import asyncio

EPOCH_NS = 1_700_000_000_000_000_000
"""Wall clock at the beginning of every simulation."""


class SimClock:
    """Implements ``ports.Clock``. ``skew_ns`` is how far this host's wall clock is off."""

    def __init__(self, loop: asyncio.AbstractEventLoop, skew_ns: int = 0) -> None:
        self._loop = loop
        self._skew_ns = skew_ns

    def time_ns(self) -> int:
        """Wall clock in nanoseconds."""
        return EPOCH_NS + self._skew_ns + int(self._loop.time() * 1e9)

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._loop.time()
