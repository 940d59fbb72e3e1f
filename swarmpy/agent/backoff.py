"""How long to wait before trying again. Waits grow and are random, so that a thousand agents do not call in step."""

from __future__ import annotations

from swarmpy.ports import Random


class Backoff:
    """Seconds to wait: uniform in [half, whole] of a bound that doubles from ``first`` to ``most``."""

    def __init__(self, random: Random, *, first: float, most: float) -> None:
        self._random = random
        self._first = first
        self._most = most
        self._bound = first

    @property
    def bound(self) -> float:
        """The most seconds that :meth:`wait` gives now."""
        return self._bound

    def wait(self) -> float:
        """A wait of the present length."""
        return self._random.uniform(self._bound / 2, self._bound)

    def grow(self) -> None:
        """Double the next waits."""
        self._bound = min(self._bound * 2, self._most)

    def next(self) -> float:
        """A wait; the one after it is longer."""
        seconds = self.wait()
        self.grow()
        return seconds

    def reset(self) -> None:
        """Things work again."""
        self._bound = self._first
