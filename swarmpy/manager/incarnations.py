"""Two clusters with one identity: who is told that it counts no more.

A cluster that was begun anew, by one manager alone or from a backup, shares its id, its CA and its certificates with
what is left of the one before. Its incarnation is later, so it is the one that counts. The managers of the earlier one
may come back, and together they may even be a majority of what they know: they are told here. They speak up by
themselves, as they take this manager for the member it was; the leader calls at those that are silent, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from swarmpy.errors import NotFound, Superseded
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster
from swarmpy.model.states import NodeState
from swarmpy.ports import Clock, Peer, Random
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import Message
from swarmpy.store.memory import Store

log = structlog.get_logger(__name__)

METHOD = "cluster.incarnation"
"""A notification between managers: the sender's incarnation, and its address."""
TELL_S = 1.0
"""Least seconds between two notifications to one address."""
CALL_S = 5.0
"""Seconds between two calls at the managers that were lost; less by up to a half."""
MAX_TOLD = 64
"""Addresses remembered for TELL_S."""


class Incarnations:
    """One manager's. ``send`` brings a notification to an address; ``on_superseded`` gets a later incarnation, and the
    address of a manager of it."""

    def __init__(
        self,
        *,
        address: str,
        store: Store,
        raft: RaftDriver,
        clock: Clock,
        random: Random,
        send: Callable[[str, str, Any], object],
        on_superseded: Callable[[int, str], None],
    ) -> None:
        self._address = address
        self._store = store
        self._raft = raft
        self._clock = clock
        self._random = random
        self._send = send
        self._on_superseded = on_superseded
        self._told: dict[str, float] = {}

    @property
    def own(self) -> int | None:
        """The incarnation of this manager's state; None while it has none."""
        try:
            return self._store.view().cluster().incarnation
        except NotFound:
            return None

    def heard(self, peer: Peer, payload: Any) -> None:
        """``cluster.incarnation``: another manager says which one its state is of."""
        theirs, address = _read(payload)
        own = self.own
        if own is None or theirs == own:
            return
        if theirs > own:
            log.debug("later_incarnation", node=peer.node_id, address=address, own=own, theirs=theirs)
            self._on_superseded(theirs, address)
        elif address:
            self._tell(address)

    def misdirected(self, message: Message) -> None:
        """A Raft message for a member that this manager is not (any more): its sender may be of before."""
        if not self.own:
            return
        known = [m for m in (*self._raft.conf.removed, message.sender) if m is not None]
        for member in known:
            if member.raft_id == message.source:
                self._tell(member.address)

    async def run(self) -> None:
        """The leader's: call at the managers that were lost when the cluster was begun anew, until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(CALL_S / 2, CALL_S))
            if not self.own:
                continue
            view = self._store.view()
            for member in self._raft.conf.removed:
                node = view.node(NodeId(member.node_id))
                # One that has found its way back has a session, and is up.
                if node is not None and node.manager is None and node.status.state is NodeState.DOWN:
                    self._tell(member.address)

    def _tell(self, address: str) -> None:
        now = self._clock.monotonic()
        if address == self._address or now < self._told.get(address, 0.0):
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[address] = now + TELL_S
        self._send(address, METHOD, {"incarnation": self.own, "address": self._address})


def check_incarnation(cluster: Cluster, payload: Any) -> None:
    """Raises Superseded when a caller has seen a later incarnation than that of ``cluster``."""
    seen = payload.get("incarnation", 0) if isinstance(payload, dict) else 0
    if type(seen) is int and seen > cluster.incarnation:
        raise superseded()


def superseded() -> Superseded:
    """What a leader of an earlier incarnation says to those who know."""
    return Superseded("this manager is of an earlier incarnation of the cluster, which was begun anew without it")


def _read(payload: Any) -> tuple[int, str]:
    if isinstance(payload, dict):
        incarnation, address = payload.get("incarnation"), payload.get("address")
        if type(incarnation) is int and isinstance(address, str):
            return incarnation, address
    return 0, ""
