"""How often something may happen: token buckets, one by one and by key. Pure: time comes in with each call.

A bucket holds ``burst`` tokens at most and gets ``per_s`` new ones a second. Times are seconds on a clock that never
goes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

K = TypeVar("K", bound=Hashable)


@attrs.frozen(kw_only=True)
class Rate:
    """So many at once, and so many a second in the long run."""

    burst: float
    per_s: float


class Bucket:
    """A full one at first."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take ``amount`` if it is there; False, and nothing taken, if not."""
        if self._level(now) < amount:
            return False
        self._tokens -= amount
        return True

    def owe(self, now: float, amount: float) -> float:
        """Take ``amount`` in any case. Returns in how many seconds nothing is owed any more; 0: at once."""
        self._tokens = self._level(now) - amount
        return max(0.0, -self._tokens / self._rate.per_s)

    def drain(self, now: float, amount: float) -> None:
        """Take ``amount``, or what is there of it."""
        level = self._level(now)
        self._tokens = level - min(amount, max(0.0, level))

    def give_back(self, amount: float = 1.0) -> None:
        """What was taken was for a good cause."""
        self._tokens = min(self._rate.burst, self._tokens + amount)

    def wait_s(self, now: float, amount: float = 1.0) -> float:
        """In how many seconds :meth:`take` can succeed."""
        return max(0.0, (amount - self._level(now)) / self._rate.per_s)

    def _level(self, now: float) -> float:
        if now > self._at:
            self._tokens = min(self._rate.burst, self._tokens + (now - self._at) * self._rate.per_s)
            self._at = now
        return self._tokens


class Buckets(Generic[K]):
    """One for each key. Beyond ``most`` keys the one used longest ago is forgotten: it has filled, most likely."""

    def __init__(self, rate: Rate, *, most: int) -> None:
        self.rate = rate
        self._most = most
        self._buckets: OrderedDict[K, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: K, now: float) -> Bucket:
        """The bucket of ``key``."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self.rate, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
