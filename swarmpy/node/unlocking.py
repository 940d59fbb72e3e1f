"""A manager that waits for its unlock key: who it is, and the keys that were tried.

Wrong keys are counted, and each makes the next one wait longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

from swarmpy.errors import InvalidArgument, SwarmLocked, WrongUnlockKey
from swarmpy.node.datadir import NodeState
from swarmpy.ports import Clock
from swarmpy.security.sealing import UnlockKey

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_WAIT_S = 1.0
MOST_WAIT_S = 30.0
"""A key of 256 bits is not guessed; this keeps whoever tries from having the daemon work, and the log readable."""


class Attempts:
    """Of one life of the daemon."""

    def __init__(self) -> None:
        self.wrong = 0
        """Keys that opened nothing, since the last that did."""
        self._not_before = 0.0

    def wait_s(self, now: float) -> float:
        """How long the next key has to wait, at the moment ``now`` of a clock that never goes back."""
        return max(0.0, self._not_before - now) if self.wrong else 0.0

    def failed(self, now: float) -> float:
        """One more; returns how long the next one has to wait."""
        wait = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0**self.wrong)
        self.wrong += 1
        self._not_before = now + wait
        return wait

    def succeeded(self) -> None:
        """It was the right one."""
        self.wrong = 0


class Gate:
    """Between a daemon and what it has on its disk."""

    def __init__(self) -> None:
        self.waiting: NodeState | None = None
        """Who this node is, while it waits."""
        self._attempts = Attempts()

    def close(self, state: NodeState | None) -> None:
        """Wait for the key of ``state``."""
        self.waiting = state
        if state is not None:
            log.warning("manager_locked", node=state.node_id, reason=str(SwarmLocked()))

    def check(self) -> None:
        """Raise SwarmLocked while it waits."""
        if self.waiting is not None:
            raise SwarmLocked

    def problems(self) -> tuple[str, ...]:
        """A line for keys that were wrong."""
        wrong = self._attempts.wrong
        return (f"wrong unlock keys were given: {wrong}",) if self.waiting is not None and wrong else ()

    async def pass_with(self, key: UnlockKey, opened: Callable[[UnlockKey], T], clock: Clock) -> T:
        """What ``opened`` gives (in a thread), when it is the key's turn; one caller at a time. Then nobody waits.

        Raises InvalidArgument when it opens nothing, and what else ``opened`` raises.
        """
        await asyncio.sleep(self._attempts.wait_s(clock.monotonic()))
        try:
            found = await asyncio.to_thread(opened, key)
        except WrongUnlockKey:
            wait_s = self._attempts.failed(clock.monotonic())
            log.warning("unlock_key_wrong", count=self._attempts.wrong, next_one_waits_s=wait_s)
            raise InvalidArgument("swarm could not be unlocked: invalid key provided") from None
        self._attempts.succeeded()
        self.waiting = None
        log.info("manager_unlocked")
        return found
