"""How often one node may ask for something that costs a write: a few times at once, and then once in a while."""

from __future__ import annotations

from swarmpy.ports import Clock

MAX_REMEMBERED = 1024
"""Callers before those are forgotten that may have all at once again."""


class Pace:
    """Of one kind of request: ``burst`` at once, and one more every ``every_s`` seconds, for each caller."""

    def __init__(self, clock: Clock, *, burst: int, every_s: float) -> None:
        self._clock = clock
        self._burst = burst
        self._every_s = every_s
        self._used: dict[str, tuple[float, float]] = {}
        """How much of its burst a caller has used, at a time."""

    def take(self, caller: str) -> bool:
        """Count a request of ``caller``; False when it comes too soon, which is not counted."""
        now = self._clock.monotonic()
        used = self._used_now(caller, now)
        if used > self._burst - 1:
            return False
        self._used[caller] = used + 1, now
        if len(self._used) > MAX_REMEMBERED:
            self._used = {other: then for other, then in self._used.items() if self._used_now(other, now) > 0}
        return True

    def _used_now(self, caller: str, now: float) -> float:
        used, at = self._used.get(caller, (0.0, now))
        return max(0.0, used - (now - at) / self._every_s)
