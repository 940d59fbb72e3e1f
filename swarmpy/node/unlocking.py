"""Wrong unlock keys: counted, and each makes the next one wait longer. Pure."""

from __future__ import annotations

FIRST_WAIT_S = 1.0
MOST_WAIT_S = 30.0
"""A key of 256 bits is not guessed; this keeps whoever tries from having the daemon work, and the log readable."""


class Attempts:
    """Of one life of the daemon."""

    def __init__(self) -> None:
        self.wrong = 0
        """Keys that opened nothing, since the last that did."""
        self._not_before = 0.0

    def wait_s(self, now: float) -> float:
        """How long the next key has to wait, at the moment ``now`` of a clock that never goes back."""
        return max(0.0, self._not_before - now) if self.wrong else 0.0

    def failed(self, now: float) -> float:
        """One more; returns how long the next one has to wait."""
        wait = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0**self.wrong)
        self.wrong += 1
        self._not_before = now + wait
        return wait

    def succeeded(self) -> None:
        """It was the right one."""
        self.wrong = 0
