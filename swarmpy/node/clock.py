"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's own time; see :class:`swarmpy.ports.Clock`."""

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()
