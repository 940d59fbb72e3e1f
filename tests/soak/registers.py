"""Clients that read and change registers through the API, each through a manager of its own or any, and remember.

A register is a service without replicas; its value is a label. It is changed by version, as compare-and-set.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from random import Random
from typing import Any

import attrs
from checks import wrong_history
from door import NOT_DONE, OPEN, Answer, Door, Lost, NotSent, Outcome, write
from linearizability import ANY, Kind, Operation
from linearizability import Outcome as Known
from machines import Machine
from report import Report

REGISTERS = 10
"""At a time."""
OPERATIONS = 200
"""Of one register, before it is read for the last time, checked and removed."""
PAUSE_S = (0.05, 0.4)
PATIENCE_S = 12.0
"""So long a client asks again for what became of a write."""
FINAL_PATIENCE_S = 90.0
COMMAND = {"Image": "none:latest", "Args": ["sleep", "100000"]}


def register_spec(name: str, value: str) -> dict[str, Any]:
    """A service that holds a value."""
    return {
        "Name": name,
        "Labels": {"value": value},
        "TaskTemplate": {"ContainerSpec": COMMAND},
        "Mode": {"Replicated": {"Replicas": 0}},
    }


@attrs.define(eq=False)
class Register:
    """One, with its history."""

    name: str
    id: str = ""
    history: list[Operation] = attrs.Factory(list)
    users: int = 0


class Registers:
    """All registers, and their clients."""

    def __init__(self, door: Door, report: Report, random: Random) -> None:
        self._door = door
        self._report = report
        self._random = random
        self._numbers = itertools.count(1)
        self._values = itertools.count(1)
        self._live: list[Register] = []
        self.stopping = False
        self.acknowledged: list[float] = []
        """When writes were acknowledged."""
        self.outcomes: Counter[str] = Counter()

    async def open(self) -> None:
        """Create the first ones."""
        self._live = [await self._new() for _ in range(REGISTERS)]

    async def run(self, client: str, machine: Machine | None) -> None:
        """Be one client, of ``machine`` or of any, until ``stopping``."""
        while not self.stopping:
            register = self._random.choice(self._live)
            register.users += 1
            try:
                await self._turn(client, register, machine or self._random.choice(self._door.machines))
            finally:
                register.users -= 1
            if len(register.history) >= OPERATIONS and register in self._live:
                await self._replace(register)
            await asyncio.sleep(self._random.uniform(*PAUSE_S))

    async def _replace(self, register: Register) -> None:
        self._live.remove(register)
        self._live.append(await self._new())
        while register.users:
            await asyncio.sleep(0.1)
        await self.finish(register)

    async def finish_all(self) -> None:
        """Read those that are left for the last time, and check them."""
        for register in self._live:
            await self.finish(register)

    # -- operations ---------------------------------------------------------------------------------------------------

    async def _turn(self, client: str, register: Register, machine: Machine) -> None:
        found = await self._read(client, register, machine)
        if found is None or self._random.random() < 0.3:
            return
        value, version = found
        if self._random.random() < 0.3:
            await asyncio.sleep(self._random.uniform(*PAUSE_S))  # so that some versions are old ones
        others = [other for other in self._door.machines if other is not machine]
        self._random.shuffle(others)
        await self._set(client, register, [machine, machine, *others], value, version)

    async def _read(self, client: str, register: Register, machine: Machine) -> tuple[str, int] | None:
        operation = self._begin(client, register, Kind.READ)
        try:
            answer = await self._door.ask(machine, "GET", f"/services/{register.id}")
        except (Lost, NotSent):
            return None
        if answer.kind in NOT_DONE | OPEN:
            self.outcomes["read refused"] += 1
            return None
        if answer.is_ok:
            found = str(answer.body["Spec"]["Labels"].get("value")), int(answer.body["Version"]["Index"])
        elif answer.status == 404:
            found = None
        else:
            self._surprise(operation, answer)
            return None
        self._end(operation, Known.DONE, found[0] if found else None)
        register.history.append(operation)
        self.outcomes["read done"] += 1
        return found

    async def _set(self, client: str, register: Register, machines: list[Machine], old: str, version: int) -> None:
        value = f"v{next(self._values)}"
        operation = self._begin(client, register, Kind.CAS, (old, value))
        outcome = await write(
            self._door,
            machines,
            "POST",
            f"/services/{register.id}/update",
            seconds=PATIENCE_S,
            body=register_spec(register.name, value),
            version=str(version),
        )
        self._settle(operation, outcome)
        register.history.append(operation)

    def _settle(self, operation: Operation, outcome: Outcome) -> None:
        """What the client knows now.

        A conflict is clear also after a try that was left open: had that one been done, its key would say so.
        """
        answer = outcome.answer
        if answer is not None and answer.is_ok:
            self._end(operation, Known.DONE, True)
            self.acknowledged.append(operation.returned)
            self.outcomes["write done after all" if outcome.was_open else "write done"] += 1
        elif answer is not None and answer.kind == "version_conflict":
            operation.outcome = Known.REFUSED
            self.outcomes["write conflict"] += 1
        elif answer is None:
            operation.outcome = Known.UNKNOWN if outcome.was_open else Known.REFUSED
            self.outcomes["write unknown" if outcome.was_open else "write refused"] += 1
        else:
            operation.outcome = Known.UNKNOWN
            self._surprise(operation, answer)

    def _begin(self, client: str, register: Register, kind: Kind, argument: Any = None) -> Operation:
        return Operation(client=client, key=register.name, kind=kind, argument=argument, invoked=time.monotonic())

    def _end(self, operation: Operation, outcome: Known, result: Any = ANY) -> None:
        operation.returned, operation.outcome, operation.result = time.monotonic(), outcome, result

    def _surprise(self, operation: Operation, answer: Answer) -> None:
        self._report.violation(f"unexpected answer {answer.status} {answer.kind} to {operation}: {answer.body}")

    # -- a register's life --------------------------------------------------------------------------------------------

    async def _new(self) -> Register:
        """A new one; tried until it is there, as without registers there is nothing to do."""
        while True:
            register = Register(f"register-{next(self._numbers)}")
            operation = self._begin("maker", register, Kind.WRITE, "new")
            spec = register_spec(register.name, "new")
            outcome = await write(
                self._door, self._shuffled(), "POST", "/services/create", seconds=FINAL_PATIENCE_S, body=spec
            )
            if outcome.answer is not None and outcome.answer.is_ok:
                self._end(operation, Known.DONE)
                register.id = str(outcome.answer.body["ID"])
                register.history.append(operation)
                self.acknowledged.append(operation.returned)
                return register
            if outcome.answer is not None:
                self._surprise(operation, outcome.answer)

    async def finish(self, register: Register) -> None:
        """The last read, which shows whether an acknowledged write was lost; the check; the removal."""
        deadline = time.monotonic() + FINAL_PATIENCE_S
        count = len(register.history)
        while len(register.history) == count:
            for machine in self._shuffled():
                await self._read("last", register, machine)
            if time.monotonic() > deadline:
                self._report.violation(f"{register.name} could not be read for {FINAL_PATIENCE_S:g} s")
                return
            await asyncio.sleep(0.1)
        if wrong := await asyncio.to_thread(wrong_history, register.history):
            self._report.violation(f"{register.name} is not linearizable", explanation=wrong.splitlines())
        self._report.checks["linearizable registers"] += 1
        self._report.checks["operations in them"] += len(register.history)
        await write(self._door, self._shuffled(), "DELETE", f"/services/{register.id}", seconds=FINAL_PATIENCE_S)

    def _shuffled(self) -> list[Machine]:
        machines = list(self._door.machines)
        self._random.shuffle(machines)
        return machines
