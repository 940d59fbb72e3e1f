"""Saying in the log what strangers cause, but not as often as they cause it. Pure: times in, counts out."""

from __future__ import annotations

LOG_EVERY_S = 10.0


class Sparing:
    """Lets one in so many seconds be said, and counts the others."""

    def __init__(self, every_s: float = LOG_EVERY_S) -> None:
        self._every_s = every_s
        self._next = float("-inf")
        self._unsaid = 0

    def count(self, now: float) -> int:
        """How many to speak of now, this one included; 0: say nothing of it now."""
        self._unsaid += 1
        if now < self._next:
            return 0
        count, self._unsaid = self._unsaid, 0
        self._next = now + self._every_s
        return count
