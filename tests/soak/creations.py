"""A client that creates and removes services under keys, and repeats itself: everything must be done once."""

from __future__ import annotations

import asyncio
import itertools
import time
from random import Random
from typing import Any

import attrs
from checks import Creation, wrong_creations
from door import NOT_DONE, OPEN, Door, Lost, NotSent, new_key, write
from machines import Machine
from registers import register_spec
from report import Report

PAUSE_S = (0.5, 2.0)
LIVE = 10
"""Services that are left standing; older ones are removed."""
PATIENCE_S = 30.0


@attrs.define(eq=False)
class _Made:
    name: str
    key: str = attrs.Factory(new_key)
    answers: set[str] = attrs.Factory(set)
    deletion: str = ""

    @property
    def creation(self) -> Creation:
        return Creation(name=self.name, answers=frozenset(self.answers), deletion=self.deletion)


class Creations:
    """See the module."""

    def __init__(self, door: Door, report: Report, random: Random) -> None:
        self._door = door
        self._report = report
        self._random = random
        self._made: list[_Made] = []
        self.stopping = False

    async def run(self) -> None:
        """Until ``stopping``."""
        for number in itertools.count(1):
            if self.stopping:
                return
            made = _Made(f"once-{number}")
            self._made.append(made)
            await self._create(made, PATIENCE_S)
            if made.answers and self._random.random() < 0.3:
                await self._create(made, PATIENCE_S)
            standing = [one for one in self._made if one.answers and not one.deletion]
            if len(standing) > LIVE:
                await self._remove(standing[0])
            await asyncio.sleep(self._random.uniform(*PAUSE_S))

    async def check(self) -> None:
        """Compare with what a manager has now. Raises Lost, NotSent when it does not say."""
        answer = await self._door.ask(self._any(), "GET", "/services")
        if not answer.is_ok:
            raise Lost(f"{answer.status} {answer.kind}")
        there = [(service["Spec"]["Name"], service["ID"]) for service in answer.body]
        for wrong in wrong_creations([made.creation for made in self._made], there):
            self._report.violation(wrong)
        self._report.checks["creations"] += len(self._made)

    async def _create(self, made: _Made, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = await self._ask("POST", "/services/create", made.key, register_spec(made.name, "once"))
            if answer is not None and answer.is_ok:
                made.answers.add(str(answer.body["ID"]))
                self._report.operations["creation answered"] += 1
                return
            if answer is not None:
                self._report.violation(f"creating {made.name} was answered with {answer.status}: {answer.body}")
                return
            await asyncio.sleep(0.2)
        self._report.operations["creation open"] += 1

    async def _remove(self, made: _Made) -> None:
        made.deletion = "unknown"
        (service_id,) = made.answers
        machines = self._random.sample(self._door.machines, len(self._door.machines))
        outcome = await write(self._door, machines, "DELETE", f"/services/{service_id}", seconds=PATIENCE_S)
        if outcome.answer is None:
            return
        if not outcome.answer.is_ok:
            self._report.violation(
                f"removing {made.name} was answered with {outcome.answer.status}: {outcome.answer.body}",
                was_open=outcome.was_open,
            )
            return
        made.deletion = "done"
        # A repetition of its creation is answered as the first time, and brings nothing back.
        if self._random.random() < 0.5:
            await self._create(made, PATIENCE_S)

    async def _ask(self, method: str, path: str, key: str, body: Any) -> Any:
        """The clear answer, or None."""
        try:
            answer = await self._door.ask(self._any(), method, path, body=body, key=key)
        except (Lost, NotSent):
            return None
        return None if answer.kind in NOT_DONE | OPEN else answer

    def _any(self) -> Machine:
        return self._random.choice(self._door.machines)
