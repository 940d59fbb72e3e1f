"""Where the managers are: how one that has moved finds the others, and makes them know its new address.

The membership says where each manager listens, and only the leader can change that. But a manager that moved may lead,
or be needed for a quorum, before anybody knows where it is. So it introduces itself to every manager that it has heard
of; whoever it meets answers it at its new address from then on, and names the others it knows. As soon as there is a
leader, the new address is written into the membership, and everybody has it.

A manager speaks for itself only: what it says of others is where to ask, not where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from swarmpy.errors import InvalidArgument, PermissionDenied, ProtocolViolation, SwarmpyError
from swarmpy.manager.leader_calls import LeaderCalls
from swarmpy.model import codec
from swarmpy.ports import Dialer, Peer, Random
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import NO_ONE, Member

log = structlog.get_logger(__name__)

INTRODUCE = "raft.introduce"
DIAL_TIMEOUT_S = 2.0
CALL_TIMEOUT_S = 2.0
JOIN_TIMEOUT_S = 3.0
RETRY_FIRST_S = 0.2
RETRY_MOST_S = 10.0
MAX_HEARD_OF = 64
"""Addresses remembered that other managers named: many more than a cluster should have managers."""


class Whereabouts:
    """One manager's. :meth:`run` it with the driver; ``changed`` is to be called when Raft's status has."""

    def __init__(
        self,
        *,
        me: Member,
        raft: RaftDriver,
        dialer: Dialer,
        random: Random,
        known: Callable[[], Iterable[str]],
        hints: tuple[str, ...],
    ) -> None:
        self._me = me
        self._raft = raft
        self._dialer = dialer
        self._random = random
        self._known = known
        self._hints = hints
        self._unmet = set(hints) - {me.address}
        self._heard_of: dict[str, None] = {}
        self._calls = LeaderCalls(dialer, random, self.addresses)
        self._stirred = asyncio.Event()

    def changed(self) -> None:
        """Look again."""
        self._stirred.set()

    def addresses(self) -> list[str]:
        """Every address at which there may be a manager, this one's own first: it may lead, or know who does."""
        told = [member.address for member in self._raft.whereabouts() if member.raft_id != self._me.raft_id]
        addresses = (self._me.address, *told, *self._hints, *self._heard_of, *self._known())
        return list(dict.fromkeys(address for address in addresses if address))

    # -- the one that moved -------------------------------------------------------------------------------------------

    @property
    def has_moved(self) -> bool:
        """True while the membership, as far as this manager has it, says that it is elsewhere."""
        members = self._raft.status().members
        return any(m.raft_id == self._me.raft_id and m.address != self._me.address for m in members)

    def problems(self) -> tuple[str, ...]:
        """A line for a manager that has moved and is not where the others believe it is."""
        if not self.has_moved:
            return ()
        line = (
            f"the other managers have not heard yet that this one is at {self._me.address} now; if they have moved "
            "too, start it with --manager-addr and their addresses"
        )
        return (line,)

    async def run(self) -> None:
        """Make this manager found after a move, until cancelled. Nothing is done while it is where it should be."""
        while True:
            wait = RETRY_FIRST_S
            while self._has_to_look():
                self._stirred.clear()
                # Side by side: where nobody answers any more, each try takes its time.
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._introduce_all(), name="introduce")
                    if self.has_moved:
                        group.create_task(self._ask_leader(), name="tell the new address")
                if not self._has_to_look():
                    break
                await self._pause(wait)
                wait = min(2 * wait, RETRY_MOST_S)
            self._stirred.clear()
            if not self._has_to_look():
                await self._stirred.wait()

    def _has_to_look(self) -> bool:
        # Where an operator said that there is a manager, one may come up later, and know of nobody else.
        return self.has_moved or bool(self._unmet)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(self._random.uniform(seconds / 2, seconds)):
                await self._stirred.wait()
        except TimeoutError:
            return

    async def _introduce_all(self) -> None:
        others = [address for address in self.addresses() if address != self._me.address]
        async with asyncio.TaskGroup() as group:
            for address in others:
                group.create_task(self._introduce(address), name=f"introduce to {address}")

    async def _introduce(self, address: str) -> None:
        payload = {"raft_id": self._me.raft_id, "address": self._me.address}
        try:
            channel = await self._dialer.dial(address, timeout=DIAL_TIMEOUT_S)
            try:
                answer = await channel.call(INTRODUCE, payload, timeout=CALL_TIMEOUT_S)
                met, others = _introduction(answer)
                self._meet(channel.peer, met)
                self._unmet.discard(address)
            finally:
                await channel.close()
        except SwarmpyError as error:
            log.debug("manager_not_met", address=address, reason=str(error))
            return
        for other in others[:MAX_HEARD_OF]:
            self._heard_of.pop(other, None)
            self._heard_of[other] = None
        while len(self._heard_of) > MAX_HEARD_OF:
            del self._heard_of[next(iter(self._heard_of))]

    async def _ask_leader(self) -> None:
        try:
            await self._calls.call("raft.join", join_payload(self._me), timeout=JOIN_TIMEOUT_S, repeatable=True)
        except SwarmpyError as error:
            log.debug("new_address_not_told", address=self._me.address, reason=str(error))
        else:
            log.info("new_address_told", address=self._me.address)

    # -- the others ---------------------------------------------------------------------------------------------------

    async def on_introduced(self, peer: Peer, payload: Any) -> Any:
        """``raft.introduce``: a manager tells where it is, and is told who this one is and where others may be."""
        raft_id, address = identity(payload, INTRODUCE)
        self._meet(peer, (raft_id, address))
        return {"raft_id": self._me.raft_id, "address": self._me.address, "others": self.addresses()}

    def _meet(self, peer: Peer, who: tuple[int, str]) -> None:
        raft_id, address = who
        if peer.node_id is None or self._raft.node_of(raft_id) not in (None, peer.node_id):
            raise PermissionDenied(f"node {peer.node_id} is not raft member {raft_id}")
        self._raft.meet(Member(raft_id=raft_id, node_id=peer.node_id, address=address))


def join_payload(me: Member) -> dict[str, Any]:
    """What a manager asks the leader with to be a member at its address."""
    return {"raft_id": me.raft_id, "address": me.address, "schema": codec.SCHEMA_VERSION}


def identity(payload: Any, method: str) -> tuple[int, str]:
    """The raft id and the address in what a manager says of itself. Raises InvalidArgument."""
    if isinstance(payload, dict):
        raft_id, address = payload.get("raft_id"), payload.get("address")
        if isinstance(raft_id, int) and raft_id > NO_ONE and isinstance(address, str) and ":" in address:
            return raft_id, address
    raise InvalidArgument(f"{method}: raft_id and address are needed")


def _introduction(answer: Any) -> tuple[tuple[int, str], list[str]]:
    try:
        met = identity(answer, INTRODUCE)
    except InvalidArgument as error:
        raise ProtocolViolation(f"malformed answer to {INTRODUCE}: {error}") from error
    others = answer.get("others", ())
    if not isinstance(others, list) or not all(isinstance(other, str) and ":" in other for other in others):
        raise ProtocolViolation(f"malformed answer to {INTRODUCE}: no list of addresses")
    return met, others
