"""Which nodes a leader has not heard of for too long. Time in which it stood still itself does not count."""

from __future__ import annotations

import asyncio
from collections.abc import KeysView

import structlog

from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeState
from swarmpy.ports import Clock
from swarmpy.store.memory import Store

log = structlog.get_logger(__name__)

GRACE_PERIODS = 3
"""Missed heartbeats after which a node is down (Docker Swarm's factor)."""
NEW_LEADER_EXTRA_S = 1.0
"""Added to the grace after a change of leader: agents must find the new one first."""
LONGEST_SEARCH_S = 6.0
"""At most this is added after a standstill: agents that found nobody for long let seconds pass between two tries, but
no more than they have been looking for."""
RECOVERY_GRACE_S = 60.0
"""The grace of a node that was not heard of since the cluster was begun anew: the managers it knew may be lost, and
each that does not even refuse costs it seconds. Its tasks must not be moved meanwhile."""
LEAST_SLEEP_S = 0.05
"""However short the heartbeats are."""


class Silence:
    """One term of office. Nodes that are down are not waited for."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._deadlines: dict[NodeId, float] = {}

    @property
    def period_s(self) -> float:
        """Seconds from one heartbeat of a node to the next."""
        return self._store.view().cluster().spec.dispatcher.heartbeat_period_ns / 1e9

    @property
    def expected(self) -> KeysView[NodeId]:
        """The nodes that are taken to be there."""
        return self._deadlines.keys()

    def expect_all(self, unheard_s: float = 0.0) -> None:
        """No agent could be heard until now, for ``unheard_s`` seconds: each gets the time to find this leader."""
        now = self._clock.monotonic()
        view = self._store.view()
        extra = max(NEW_LEADER_EXTRA_S, min(unheard_s, LONGEST_SEARCH_S))
        grace = GRACE_PERIODS * self.period_s + extra
        unheard_grace = max(grace, RECOVERY_GRACE_S) if view.cluster().incarnation else grace
        for node in view.nodes():
            if node.status.state is not NodeState.DOWN:
                is_unheard = node.status.state is NodeState.UNKNOWN
                deadline = now + (unheard_grace if is_unheard else grace)
                self._deadlines[node.id] = max(deadline, self._deadlines.get(node.id, deadline))

    def heard(self, node_id: NodeId) -> None:
        """It is there."""
        self._deadlines[node_id] = self._clock.monotonic() + GRACE_PERIODS * self.period_s

    async def sleep(self, seconds: float) -> None:
        """Sleep, and wait for all nodes anew where this process stood still for half a heartbeat or longer.

        What agents sent meanwhile is unread, or they have given up and look for another leader.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            # In parts: of a standstill only what is beyond the end of a sleep can be seen.
            part = min(left, max(LEAST_SLEEP_S, self.period_s / 4))
            due = loop.time() + part
            await asyncio.sleep(part)
            late_s = loop.time() - due
            if late_s > self.period_s / 2:
                log.warning("leader_stood_still", seconds=round(late_s, 3), consequence="all nodes are waited for anew")
                self.expect_all(late_s)

    def forget(self, node_id: NodeId) -> None:
        """It is down."""
        self._deadlines.pop(node_id, None)

    def too_long(self) -> list[NodeId]:
        """Those that must be taken for down."""
        now = self._clock.monotonic()
        return [node_id for node_id, deadline in self._deadlines.items() if deadline <= now]

    def next_in(self, otherwise: float) -> float:
        """Seconds until the first of those waited for may be silent for too long; ``otherwise``: nobody is."""
        now = self._clock.monotonic()
        return min(self._deadlines.values(), default=now + otherwise) - now
