"""What those who want to join are let do: so many failures, and one node for one request.

Kept by the leader, in memory: a new leader begins anew. It decides nothing about tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import structlog

from swarmpy.errors import Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.rates import Buckets, Rate
from swarmpy.ports import Clock, Peer
from swarmpy.wire.bounded_log import BoundedLog
from swarmpy.wire.origins import origin_of

log = structlog.get_logger(__name__)

FAILURES = Rate(burst=10, per_s=1.0)
"""Of one origin. Who succeeds is not counted: a thousand machines behind one address may join at once."""
MAX_ORIGINS = 4096
MAX_REMEMBERED = 1024
REMEMBERED_S = 600.0
"""How long, and of how many requests, the answer is remembered. It is for those whose answer was lost."""


class JoinGuard:
    """The leader's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: Buckets[str] = Buckets(FAILURES, most=MAX_ORIGINS)
        self._answers: OrderedDict[bytes, tuple[float, NodeId, Any]] = OrderedDict()
        self._bounded = BoundedLog(clock.monotonic)

    def check(self, peer: Peer) -> None:
        """Raises Unavailable for a caller from where too many have failed; its token is not even looked at."""
        now = self._clock.monotonic()
        wait_s = self._failures.of(origin_of(peer.address), now).wait_s(now)
        if wait_s > 0:
            raise Unavailable(
                f"too many attempts to join from this address have failed: try again in {wait_s:.1f} s, with the "
                'token that "swarm join-token worker" on a manager shows'
            )

    def failed(self, peer: Peer, reason: str) -> None:
        """A caller was not let in, by its own fault."""
        now, origin = self._clock.monotonic(), origin_of(peer.address)
        self._failures.of(origin, now).take(now)
        self._bounded.tell(log.warning, "join_refused", origin, address=peer.address, reason=reason)

    def answer_to(self, token: str, csr_pem: bytes) -> tuple[NodeId, Any] | None:
        """Which node this very request made, and what it was answered with; None for a new one."""
        found = self._answers.get(_key(token, csr_pem))
        if found is None or found[0] <= self._clock.monotonic():
            return None
        return found[1:]

    def answered(self, token: str, csr_pem: bytes, node_id: NodeId, answer: Any) -> None:
        """The request made a node."""
        now = self._clock.monotonic()
        self._answers[_key(token, csr_pem)] = (now + REMEMBERED_S, node_id, answer)
        while len(self._answers) > MAX_REMEMBERED or next(iter(self._answers.values()))[0] <= now:
            self._answers.popitem(last=False)


def _key(token: str, csr_pem: bytes) -> bytes:
    # Not the token itself: what is remembered shall be of no use to whoever gets to see it.
    digest = hashlib.sha256(token.strip().encode("utf-8", "surrogatepass") + b"\x00")
    digest.update(csr_pem)
    return digest.digest()
