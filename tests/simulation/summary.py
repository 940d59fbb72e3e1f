"""What many universes add up to."""

from __future__ import annotations

import textwrap
import time
from collections import Counter

from universe import replay_command
from workers import Outcome

WIDTH = 118
LABEL = 12


class Summary:
    """Adds outcomes up."""

    def __init__(self, seeds: range, jobs: int) -> None:
        self.violations: list[Outcome] = []
        self._seeds = seeds
        self._jobs = jobs
        self._begin = time.monotonic()
        self._worlds: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._checks: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self._virtual_s = self._cpu_s = 0.0
        self._steps = 0

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self._worlds[outcome.world] += 1
        self._cpu_s += outcome.cpu_s
        report = outcome.report
        if report is None:
            self.violations.append(outcome)
            return
        self._virtual_s += report.virtual_s
        self._steps += report.steps
        self._faults += report.faults
        self._checks += report.checks
        self._operations += report.operations

    def lines(self) -> list[str]:
        """What there is to say, without what happened in universes that broke a law."""
        elapsed_s = time.monotonic() - self._begin
        seeds = self._worlds.total()
        lines = [
            "",
            *_row("seeds", f"{seeds:,} from {self._seeds.start} on: {_listed(self._worlds)}"),
            *_row(
                "time",
                f"{self._virtual_s / 3600:,.2f} virtual hours in {self._cpu_s:,.0f} s of CPU, "
                f"{self._virtual_s / (self._cpu_s or 1):,.0f} times as fast as the clock; "
                f"{elapsed_s:,.0f} s on {self._jobs} processes, {60 * seeds / (elapsed_s or 1):,.0f} seeds a minute",
            ),
            *_row("steps", f"{self._steps:,}"),
            *_row("faults", f"{self._faults.total():,}: {_listed(self._faults)}"),
            *_row("checks", f"{self._checks.total():,}: {_listed(self._checks)}"),
            *_row("operations", f"{self._operations.total():,}: {_listed(self._operations)}"),
            *_row("violations", str(len(self.violations))),
        ]
        for outcome in sorted(self.violations, key=lambda outcome: outcome.seed):
            lines.append(f"  seed {outcome.seed}: {outcome.violation}")
            lines.append(f"    {replay_command(outcome.seed, outcome.world)}")
        return lines


def _row(label: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - LABEL, break_on_hyphens=False) or [""]
    return [f"{label if number == 0 else '':<{LABEL}}{line}" for number, line in enumerate(lines)]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(
        f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
