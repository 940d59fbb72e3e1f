"""Clocks that show the loop's virtual time, each host's with errors of its own."""

from __future__ import annotations

from loop import SimLoop

EPOCH_NS = 1_700_000_000_000_000_000
"""Wall clock at the beginning of every simulation."""
_SECOND_NS = 1_000_000_000


class SimClock:
    """Implements ``ports.Clock``. The wall clock is off by ``skew_ns`` and may jump; the monotonic one is the loop's,
    at the pace of the life that asks. It belongs to the machine: a crash does not set it."""

    def __init__(self, loop: SimLoop, skew_ns: int = 0) -> None:
        self._loop = loop
        self._skews = [(0.0, skew_ns)]
        """How far the wall clock is off, and since when."""

    def time_ns(self) -> int:
        """Wall clock in nanoseconds."""
        return EPOCH_NS + self._skews[-1][1] + int(self._loop.now * _SECOND_NS)

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._loop.time()

    def jump(self, seconds: float) -> None:
        """Set the wall clock, forwards or backwards."""
        self._skews.append((self._loop.now, self._skews[-1][1] + int(seconds * _SECOND_NS)))

    def correct(self) -> None:
        """Undo all jumps."""
        if len(self._skews) > 1:
            self._skews.append((self._loop.now, self._skews[0][1]))

    def moments(self, time_ns: int) -> list[float]:
        """The virtual times at which the wall clock showed ``time_ns``: none or several once it has jumped."""
        ends = [since for since, _ in self._skews[1:]] + [self._loop.now]
        moments = []
        for (since, skew_ns), end in zip(self._skews, ends, strict=True):
            moment = (time_ns - skew_ns - EPOCH_NS) / _SECOND_NS
            if since - 1e-6 <= moment <= end + 1e-6:
                moments.append(moment)
        return moments
