"""What happened in a universe: a line for each event, and counts of faults, checks and operations."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TextIO

import structlog
from loop import LIFE

REMEMBERED = 400
"""Lines that are told of a universe that ends badly."""


class Film:
    """Everything that is worth telling of one universe; printed as it happens when ``out`` is given."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.faults: Counter[str] = Counter()
        """Faults that were injected, by kind."""
        self.checks: Counter[str] = Counter()
        """How often each law was checked."""
        self.operations: Counter[str] = Counter()
        """What clients and operators did, by kind and outcome."""
        self.lines: deque[str] = deque(maxlen=REMEMBERED)
        self.is_shown = out is not None
        """Somebody looks on: what is told only for the looks is worth its time."""
        self._has_ended = False
        self._out = out
        self._time: Callable[[], float] = lambda: 0.0

    def attach(self, time: Callable[[], float]) -> None:
        """Take the times of lines from here."""
        self._time = time

    def end(self) -> None:
        """What is told from now on is of no interest."""
        self._has_ended = True

    def tell(self, who: str, what: str) -> None:
        """``what`` happened to ``who``."""
        if self._has_ended:
            return
        one_line = what.replace("\n", " | ")
        line = f"{self._time():9.4f}  {who:<10.10}  {one_line}"
        self.lines.append(line)
        if self._out is not None:
            self._out.write(line + "\n")

    def fault(self, kind: str, who: str, what: str) -> None:
        """A fault of ``kind`` was injected."""
        self.faults[kind] += 1
        self.tell(who, f"FAULT {what}")

    def checked(self, law: str, times: int = 1) -> None:
        """``law`` was looked at and holds."""
        self.checks[law] += times

    def did(self, operation: str) -> None:
        """A client or operator did something."""
        self.operations[operation] += 1

    @contextlib.contextmanager
    def rolling(self) -> Iterator[None]:
        """Meanwhile the logs of production code come here, under the name of the host, if somebody looks on; if not,
        nowhere: writing lines that nobody reads takes most of the time of a simulation."""
        before = structlog.get_config()
        level = logging.DEBUG if self.is_shown else logging.CRITICAL
        structlog.configure(
            processors=[self._log],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _log(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> str:
        life = LIFE.get()
        fields = "".join(f" {key}={value!r}" for key, value in event.items() if key not in ("event", "exc_info"))
        error = f" {event['exc_info']!r}" if event.get("exc_info") else ""
        self.tell(life.name if life else "-", f"{level}: {event.get('event')}{fields}{error}")
        return ""
