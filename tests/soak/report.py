"""What a soak says: one JSON object a line, and a summary at the end."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any


class Report:
    """Lines as they come; counts and violations for the summary. Times are seconds since the beginning."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.violations: list[str] = []
        self.faults: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.checks: Counter[str] = Counter()

    def line(self, event: str, **values: Any) -> None:
        """Something happened."""
        print(json.dumps({"t": round(time.monotonic() - self.began, 3), "event": event, **values}), flush=True)

    def violation(self, what: str, **values: Any) -> None:
        """A promise was broken."""
        self.violations.append(what)
        self.line("violation", what=what, **values)

    def since(self, moment: float) -> float:
        """A moment of the monotonic clock as the lines show it."""
        return round(moment - self.began, 3)

    def summary(self, **values: Any) -> None:
        """The last line."""
        self.line(
            "summary",
            minutes=round((time.monotonic() - self.began) / 60, 2),
            faults=dict(sorted(self.faults.items())),
            operations=dict(sorted(self.operations.items())),
            checks=dict(sorted(self.checks.items())),
            **values,
            violations=self.violations,
            verdict="violated" if self.violations else "passed",
        )
