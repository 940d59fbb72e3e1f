"""Calling the leader from a node that does not know who it is: ask any manager, follow where it points."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from swarmpy.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    NotLeader,
    OutcomeUnknown,
    Superseded,
    SwarmpyError,
    Unavailable,
)
from swarmpy.ports import Dialer, Random

DIAL_TIMEOUT_S = 2.0
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0


class LeaderCalls:
    """One-off calls to the leader. ``addresses`` gives the managers (``host:port``) known at the moment."""

    def __init__(self, dialer: Dialer, random: Random, addresses: Callable[[], Iterable[str]]) -> None:
        self._dialer = dialer
        self._random = random
        self._addresses = addresses

    async def call(self, method: str, payload: Any, *, timeout: float, repeatable: bool = False) -> Any:
        """The leader's answer, within ``timeout`` seconds.

        Tries again while it is sure that nothing was done, or doing it twice is as good as once (``repeatable``).
        Raises what the leader raises, OutcomeUnknown when its answer was lost, DeadlineExceeded with the last reason
        when no leader answered.
        """
        passing = (NotLeader, ConnectionFailed, Superseded, *((OutcomeUnknown,) if repeatable else ()))
        wait = RETRY_FIRST_S
        reason: SwarmpyError = Unavailable("no manager is known")
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for address in list(self._addresses()):
                        try:
                            return await self._call_at(address, method, payload, timeout)
                        except passing as error:
                            reason = error
                    await asyncio.sleep(self._random.uniform(wait / 2, wait))
                    wait = min(2 * wait, RETRY_MOST_S)
        except TimeoutError:
            raise DeadlineExceeded(f"no leader answered within {timeout:g} s: {reason}") from None

    async def _call_at(self, address: str, method: str, payload: Any, timeout: float) -> Any:
        try:
            return await self._call_once(address, method, payload, timeout)
        except NotLeader as error:
            if not error.leader or error.leader == address:
                raise
            return await self._call_once(error.leader, method, payload, timeout)

    async def _call_once(self, address: str, method: str, payload: Any, timeout: float) -> Any:
        channel = await self._dialer.dial(address, timeout=DIAL_TIMEOUT_S)
        try:
            return await channel.call(method, payload, timeout=timeout)
        finally:
            await channel.close()
