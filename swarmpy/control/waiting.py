"""Waits of a decision: until a time that the state tells, but never for longer than the wait was meant to be.

Such a time was taken from the wall clock of whoever led then. The clock of the present leader may be far behind it, or
may be set back in the middle, and nobody must wait an hour for a delay of five seconds. So each leader also measures
for itself, on a clock that only goes forward, how long it has waited (after swarmkit's restart supervisor, which
waits for the delay at most, on a timer of its own).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Waits:
    """What the decisions about one service wait for, in one leader's term. ``monotonic`` tells seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began: dict[Hashable, tuple[Hashable, float]] = {}
        self._asked: dict[Hashable, tuple[Hashable, float]] = {}

    @property
    def pending(self) -> bool:
        """True when the last decision, or this one, waits for anything, or found that it had waited long enough."""
        return bool(self._began or self._asked)

    def left_ns(self, what: Hashable, until_ns: int, now_ns: int, most_ns: int) -> int:
        """Nanoseconds still to wait for ``what``: until ``until_ns``, and ``most_ns`` in all; 0: it is over."""
        now = self._monotonic()
        began = self._began.get(what)
        if began is None or began[0] != until_ns:
            began = (until_ns, now)
        self._asked[what] = began
        waited_ns = int((now - began[1]) * 1e9)
        return max(0, min(until_ns - now_ns, most_ns - waited_ns))

    def left_of_ns(self, what: Hashable, mark: Hashable, most_ns: int) -> int:
        """Nanoseconds left of ``most_ns`` since ``what`` was first asked for with this ``mark``, by our own measure."""
        now = self._monotonic()
        began = self._began.get(what)
        if began is None or began[0] != mark:
            began = (mark, now)
        self._asked[what] = began
        return max(0, most_ns - int((now - began[1]) * 1e9))

    def decided(self) -> None:
        """A decision is made: what it did not ask for is waited for no more."""
        self._began, self._asked = self._asked, {}
