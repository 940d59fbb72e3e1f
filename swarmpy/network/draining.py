"""When a connection that is forwarded may be ended, as its node is about to stop. Pure: time comes in with each call.

Nothing is known of what is said on it. But where a server has spoken last and both are silent, a request has most
likely been answered and the next is not begun. The longer it takes, the shorter a silence is enough: a client that
never pauses for long is let go of between two of its requests all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from swarmpy.network.forward import Side

DRAIN_S = 10.0
"""Most seconds that connections are waited for."""
SILENCES = ((0.0, 0.5), (1.0, 0.1), (1.5, 0.02), (2.0, 0.004))
"""From so many seconds on: the silence after which a connection is taken for idle. In steps far from each other: so a
client's pause is mostly much longer than the first that is enough for it, and it does not just begin its next request.
"""


@attrs.define
class _Seen:
    """How much had been said on a connection, and when that was seen first."""

    said: int
    since: float


class Drain:
    """The clients of a mesh that takes no more."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._seen: dict[Side, _Seen] = {}

    def over(self, now: float) -> bool:
        """Nothing is waited for any more."""
        return now - self._began >= DRAIN_S

    def idle(self, clients: Iterable[Side], now: float) -> list[Side]:
        """Those that may be closed now. To be asked again every few hundredths of a second."""
        silence_s = next(silence for since, silence in reversed(SILENCES) if now - self._began >= since)
        found = []
        over = self.over(now)
        for client in clients:
            if not client.is_tied:
                continue
            seen = self._seen.get(client)
            if seen is None or seen.said != client.said:
                self._seen[client] = _Seen(client.said, now)
            elif not client.awaits_answer and not client.unsent_bytes and (over or now - seen.since >= silence_s):
                found.append(client)
        return found
