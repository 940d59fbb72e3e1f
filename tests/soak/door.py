"""One request to one daemon's API, sent once, and what is known of it afterwards."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from typing import Any

import aiohttp
import attrs
from machines import Machine

from swarmpy.api.request import ERROR_HEADER, KEY_HEADER

BOUND_S = 15.0
"""A write succeeds or fails clearly within this: the managers' ten seconds, and what a busy machine adds."""
TIMEOUT_S = 20.0
NOT_DONE = frozenset({"not_leader", "no_quorum", "not_manager", "connection_failed", "not_in_cluster", "unavailable"})
"""Kinds of errors that promise that nothing was done."""
OPEN = frozenset({"outcome_unknown", "deadline_exceeded"})
"""Kinds of errors that leave it open."""


class NotSent(Exception):
    """Nobody listens there."""


class Lost(Exception):
    """It was sent, and no answer came: it may have been done."""


@attrs.frozen(kw_only=True)
class Answer:
    """Status, kind of error, and JSON."""

    status: int
    kind: str
    body: Any

    @property
    def is_ok(self) -> bool:
        """It was done."""
        return self.status < 400


def new_key() -> str:
    """For a write that is to be done once."""
    return str(uuid.uuid4())


@attrs.define(eq=False)
class Door:
    """The way to the daemons. Measures how long they take to answer."""

    machines: list[Machine]
    slow: list[str] = attrs.Factory(list)
    """Answers that took longer than BOUND_S though nobody disturbed the daemon."""
    slowest_s: float = 0.0
    answers: Counter[str] = attrs.Factory(Counter)
    _sessions: dict[str, aiohttp.ClientSession] = attrs.Factory(dict)

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()

    async def ask(
        self, machine: Machine, method: str, path: str, *, body: Any = None, key: str = "", **query: str
    ) -> Answer:
        """Raises NotSent, Lost."""
        session = self._sessions.get(machine.name)
        if session is None:
            connector = aiohttp.UnixConnector(path=str(machine.socket), force_close=True)
            session = self._sessions[machine.name] = aiohttp.ClientSession(connector=connector)
        headers = {KEY_HEADER: key} if key else {}
        began = time.monotonic()
        try:
            async with session.request(
                method,
                f"http://swarmpy{path}",
                params=query,
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            ) as response:
                data = await response.read()
                answer = Answer(
                    status=response.status,
                    kind=response.headers.get(ERROR_HEADER, ""),
                    body=json.loads(data) if data.strip() else None,
                )
        except aiohttp.ClientConnectorError as error:
            self.answers["not sent"] += 1
            raise NotSent(str(error)) from error
        except (TimeoutError, aiohttp.ClientError) as error:
            self.answers["lost"] += 1
            if isinstance(error, TimeoutError):
                self._measure(machine, f"{method} {path}: none", began)
            raise Lost(f"{type(error).__name__}: {error}") from error
        self._measure(machine, f"{method} {path}: {answer.status} {answer.kind}", began)
        self.answers["done" if answer.is_ok else answer.kind or str(answer.status)] += 1
        return answer

    def _measure(self, machine: Machine, what: str, began: float) -> None:
        if machine.undisturbed_since(began):
            seconds = time.monotonic() - began
            self.slowest_s = max(self.slowest_s, seconds)
            if seconds > BOUND_S:
                self.slow.append(f"{machine.name} answered after {seconds:.1f} s: {what}")


@attrs.frozen(kw_only=True)
class Outcome:
    """Of a write that was sent as often as it took."""

    answer: Answer | None
    """The clear one that ended it: success, or a refusal of the request itself. None when none came."""
    was_open: bool
    """One of the tries may have done it."""


async def write(
    door: Door, machines: list[Machine], method: str, path: str, *, seconds: float, body: Any = None, **query: str
) -> Outcome:
    """Send a write under one key to one machine after another, until one says clearly what became of it."""
    key = new_key()
    deadline = time.monotonic() + seconds
    was_open = False
    turn = 0
    while True:
        try:
            answer = await door.ask(machines[turn % len(machines)], method, path, body=body, key=key, **query)
            if answer.is_ok or answer.kind not in NOT_DONE | OPEN:
                return Outcome(answer=answer, was_open=was_open)
            was_open = was_open or answer.kind in OPEN
        except Lost:
            was_open = True
        except NotSent:
            pass
        turn += 1
        if time.monotonic() > deadline:
            return Outcome(answer=None, was_open=was_open)
        await asyncio.sleep(0.1)
