"""Connections to managers that answer but do not lead: one of them is the next leader, or the first to know it.

A handshake costs both ends milliseconds, and when a leader is lost every agent looks for the next one at the same
time. So an agent that has a session keeps a connection to one other manager. Where there are three, half of the agents
have one to the next leader when the leader is lost; the others are told who it is, and make one handshake, not two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import attrs
import structlog

from swarmpy.agent.backoff import Backoff
from swarmpy.errors import SwarmpyError
from swarmpy.ports import Channel, Dialer, Peer, Random

log = structlog.get_logger(__name__)

MAX_KEPT = 2
"""While nobody leads; during a session it is one."""
PAUSE_FIRST_S = 5.0
PAUSE_MOST_S = 60.0
"""Seconds until a connection is made that is missing: not while a storm lasts."""
DIAL_TIMEOUT_S = 4.0


@attrs.define(eq=False)
class _Kept:
    channel: Channel
    watching: asyncio.Task[None]

    def let_go(self) -> Channel:
        """It is the caller's now."""
        self.watching.cancel()
        return self.channel


class Standby:
    """Keeps the latest few. :meth:`run` it, and :meth:`clear` it at the end.

    What this node knows of certificates changes in sessions, so each peer is asked about again when its connection is
    used; :meth:`clear` it when this node's own certificate or its roots change, too.
    """

    def __init__(
        self, *, dialer: Dialer, random: Random, check: Callable[[Peer], None], other: Callable[[], str | None]
    ) -> None:
        """``check`` raises what speaks against a peer; ``other`` names a manager to be connected with, None: nobody."""
        self._dialer = dialer
        self._check = check
        self._other = other
        self._pause = Backoff(random, first=PAUSE_FIRST_S, most=PAUSE_MOST_S)
        self._kept: dict[str, _Kept] = {}
        self._clearings = 0
        self._missing = asyncio.Event()
        self._missing.set()

    @property
    def latest(self) -> str:
        """The manager that the latest connection is to; "" where there is none."""
        return next(reversed(self._kept), "")

    async def run(self) -> None:
        """Have one whenever there is somebody to be connected with, until cancelled."""
        while True:
            await self._missing.wait()
            await asyncio.sleep(self._pause.wait())
            address, clearings = self._other() if self._missing.is_set() else None, self._clearings
            if address is None:
                continue
            try:
                channel = await self._dialer.dial(address, timeout=DIAL_TIMEOUT_S)
            except SwarmpyError as error:
                log.debug("no_standby", manager=address, reason=str(error))
                self._pause.grow()
                continue
            self._pause.reset()
            await self.keep(address, channel)
            if clearings != self._clearings:
                await self.clear()

    async def take(self, address: str) -> Channel | None:
        """The connection to ``address``, which is the caller's to close or to give back; None where there is none."""
        kept = self._kept.pop(address, None)
        self._look()
        if kept is None:
            return None
        channel = kept.let_go()
        try:
            self._check(channel.peer)
        except SwarmpyError as error:
            log.debug("standby_refused", manager=address, reason=str(error))
            await channel.close()
            return None
        return channel

    async def keep(self, address: str, channel: Channel) -> None:
        """Keep a connection for a while; the oldest gives way, or one to the same address."""
        gone = [self._kept.pop(address, None)]
        watching = asyncio.create_task(self._forget_lost(address, channel), name=f"standby {address}")
        self._kept[address] = _Kept(channel, watching)
        while len(self._kept) > MAX_KEPT:
            gone.append(self._kept.pop(next(iter(self._kept))))
        self._look()
        await _close(gone)

    async def keep_one(self) -> None:
        """A session is open: the latest is enough."""
        await _close([self._kept.pop(address) for address in list(self._kept)[:-1]])

    async def clear(self) -> None:
        """Close all. Idempotent."""
        kept, self._kept = self._kept, {}
        self._clearings += 1
        self._look()
        await _close(kept.values())

    async def _forget_lost(self, address: str, channel: Channel) -> None:
        await channel.wait_closed()
        if (kept := self._kept.get(address)) is not None and kept.channel is channel:
            del self._kept[address]
            self._look()

    def _look(self) -> None:
        if self._kept:
            self._missing.clear()
        else:
            self._missing.set()


async def _close(gone: Iterable[_Kept | None]) -> None:
    for kept in gone:
        if kept is not None:
            await kept.let_go().close()
            await asyncio.wait([kept.watching])
