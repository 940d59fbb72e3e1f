"""Log lines that strangers can cause: a few of each kind, then one now and then that says how many were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from swarmpy.model.rates import Buckets, Rate

ALL = Rate(burst=20, per_s=1.0)
"""Lines of one event, whoever causes them."""
EACH = Rate(burst=5, per_s=0.1)
"""Lines of one event that one origin causes: it must not drown those of others."""
MAX_KEYS = 1024
MAX_TEXT_CHARS = 500
"""Of one text in a line."""

Tell = Callable[..., object]
"""A method of a logger."""


class BoundedLog:
    """``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._all: Buckets[str] = Buckets(ALL, most=MAX_KEYS)
        self._each: Buckets[tuple[str, str]] = Buckets(EACH, most=MAX_KEYS)
        self._left_out: Counter[str] = Counter()

    def tell(self, tell: Tell, event: str, origin: str, /, **fields: Any) -> None:
        """``tell(event, **fields)``, unless there were too many such lines. Long texts are cut."""
        now = self._clock()
        if not (self._each.of((event, origin), now).take(now) and self._all.of(event, now).take(now)):
            # The kinds of events are few and fixed.
            self._left_out[event] += 1
            return
        left_out = self._left_out.pop(event, 0)
        if left_out:
            fields["left_out"] = left_out
        tell(event, **{name: _cut(value) for name, value in fields.items()})


def _cut(value: Any) -> Any:
    return value[:MAX_TEXT_CHARS] if isinstance(value, str) else value
