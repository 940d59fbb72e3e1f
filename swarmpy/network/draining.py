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
SILENCE_S = 0.5
"""The silence after which a connection is taken for idle, at first."""
PATIENCE_S = 2.0
"""After so many seconds the least silence is enough."""
LEAST_SILENCE_S = 0.005


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
        silence_s = max(LEAST_SILENCE_S, SILENCE_S * (1 - (now - self._began) / PATIENCE_S))
        found = []
        for client in clients:
            if not client.is_tied:
                continue
            seen = self._seen.get(client)
            if seen is None or seen.said != client.said:
                self._seen[client] = _Seen(client.said, now)
            elif not client.awaits_answer and not client.unsent_bytes and now - seen.since >= silence_s:
                found.append(client)
        return found
