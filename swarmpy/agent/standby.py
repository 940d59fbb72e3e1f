"""Connections to managers that answer but do not lead: one of them is the next leader.

A handshake costs both ends milliseconds, and when a leader is lost every agent looks for the next one at the same time.
Who asks the same manager again does so over the connection it has.
"""

from __future__ import annotations

from swarmpy.ports import Channel

MAX_KEPT = 2


class Standby:
    """Keeps the latest few. One that was lost meanwhile is found out by whoever uses it.

    None outlives a session: what this node knows of certificates changes in sessions, and is asked when it dials.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Channel] = {}

    def take(self, address: str) -> Channel | None:
        """The connection to ``address``, which is the caller's to close or to give back; None where there is none."""
        return self._kept.pop(address, None)

    async def keep(self, address: str, channel: Channel) -> None:
        """Keep a connection for a while; the oldest gives way, or one to the same address."""
        gone = [self._kept.pop(address, None)]
        self._kept[address] = channel
        while len(self._kept) > MAX_KEPT:
            gone.append(self._kept.pop(next(iter(self._kept))))
        for old in gone:
            if old is not None:
                await old.close()

    async def clear(self) -> None:
        """Close all. Idempotent."""
        kept, self._kept = self._kept, {}
        for channel in kept.values():
            await channel.close()
