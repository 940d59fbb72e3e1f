"""The memory of the daemons, and their logs."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
from checks import wrong_log_lines
from machines import Machine
from report import Report

SAMPLE_S = 5.0
SETTLED_S = 30.0
"""A daemon of this age has all its modules and its state."""
MOST_RESIDENT_MIB = 400
TOLD = 5
"""Lines of one kind and daemon that are shown."""


@attrs.define(eq=False)
class _Life:
    """One process of a daemon."""

    pid: int
    settled_at: float
    settled_kib: int
    last_at: float = 0.0
    last_kib: int = 0


class Memory:
    """Resident memory over the lives of all daemons."""

    def __init__(self, machines: Mapping[str, Machine], report: Report) -> None:
        self._machines = machines
        self._report = report
        self._lives: dict[str, list[_Life]] = {name: [] for name in machines}
        self._most: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for name, machine in self._machines.items():
                self._sample(name, machine)
            await asyncio.sleep(SAMPLE_S)

    def _sample(self, name: str, machine: Machine) -> None:
        resident, now = machine.resident_kib(), time.monotonic()
        if not resident or machine.process is None:
            return
        if resident > MOST_RESIDENT_MIB * 1024 >= self._most[name]:
            self._report.violation(f"{name} uses {resident // 1024} MiB of memory")
        self._most[name] = max(self._most[name], resident)
        if now - machine.started_at < SETTLED_S:
            return
        lives = self._lives[name]
        if not lives or lives[-1].pid != machine.process.pid:
            lives.append(_Life(machine.process.pid, now, resident))
        lives[-1].last_at, lives[-1].last_kib = now, resident

    def summary(self) -> dict[str, Any]:
        """By node, of its longest life: MiB at first and at last, and how many minutes were between."""
        found = {}
        for name, lives in self._lives.items():
            if lives:
                longest = max(lives, key=lambda life: life.last_at - life.settled_at)
                found[name] = {
                    "first_mib": round(longest.settled_kib / 1024, 1),
                    "last_mib": round(longest.last_kib / 1024, 1),
                    "minutes": round((longest.last_at - longest.settled_at) / 60, 1),
                    "most_mib": round(self._most[name] / 1024, 1),
                    "lives": len(lives),
                }
        return found


class Logs:
    """What the daemons say, read on from where it was read last."""

    def __init__(self, machines: Mapping[str, Machine], report: Report) -> None:
        self._machines = machines
        self._report = report
        self._offsets: Counter[str] = Counter()
        self._told: Counter[tuple[str, str]] = Counter()

    def check(self) -> None:
        """Complain of lines that should not be there."""
        for name, machine in self._machines.items():
            with machine.log_file.open("rb") as file:
                file.seek(self._offsets[name])
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offsets[name] += len(whole)
            for line in wrong_log_lines(whole.decode(errors="replace").splitlines(), disk_was_full=machine.was_full):
                kind = re.search(r"event=(\S+)", line)
                self._told[name, kind.group(1) if kind else line[:40]] += 1
                if self._told[name, kind.group(1) if kind else line[:40]] <= TOLD:
                    self._report.violation(f"the log of {name} has: {line}")
