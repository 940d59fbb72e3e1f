"""Raft's messages between this manager and the others, as notifications at their cluster ports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from swarmpy.ports import Clock, Dialer, Peer, Random
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.encoding import decode_messages, encode_messages
from swarmpy.raft.frames import size_of
from swarmpy.raft.messages import Member, Message
from swarmpy.wire.bounded_log import BoundedLog
from swarmpy.wire.channels import PeerSender

log = structlog.get_logger(__name__)

METHOD = "raft.messages"


class RaftTransport:
    """Implements ``raft.ports.Transport``. :meth:`serve` the driver that it was given to, and :meth:`run` it."""

    def __init__(self, raft_id: int, dialer: Dialer, clock: Clock, random: Random) -> None:
        self._raft_id = raft_id
        self._sender = PeerSender(dialer, random, on_unreachable=self._on_unreachable)
        self._bounded = BoundedLog(clock.monotonic)
        self._raft: RaftDriver | None = None
        self._on_misdirected: Callable[[Message], None] = lambda _: None

    def serve(self, raft: RaftDriver, on_misdirected: Callable[[Message], None]) -> None:
        """What comes in is for ``raft``; ``on_misdirected`` gets what is for another raft id."""
        self._raft = raft
        self._on_misdirected = on_misdirected

    async def run(self) -> None:
        """Send until cancelled."""
        await self._sender.run()

    def send(self, to: Member, messages: Sequence[Message]) -> None:
        """Send them, if the peer takes them: whatever is lost, Raft sends again."""
        size = sum([size_of(message) for message in messages])
        self._sender.send(to.address, METHOD, encode_messages(messages), size=size)

    def on_messages(self, peer: Peer, payload: Any) -> None:
        """``raft.messages``: what another manager has sent."""
        raft = self._raft
        assert raft is not None, "it serves a driver"
        for message in decode_messages(payload):
            if message.to != self._raft_id:
                self._on_misdirected(message)
                continue
            # An id that is not known yet may be anybody's: a manager that is behind learns the new members, the leader
            # perhaps among them, from these very messages.
            if raft.node_of(message.source) not in (None, peer.node_id):
                event = "raft_message_forged"
                self._bounded.tell(log.warning, event, peer.node_id or "", peer=peer.node_id, claimed=message.source)
                continue
            raft.receive(message)

    def _on_unreachable(self, address: str) -> None:
        # Of a member that has said that it is elsewhere, the old address tells nothing.
        if self._raft is not None:
            for member in self._raft.whereabouts():
                if member.address == address:
                    self._raft.report_unreachable(member.raft_id)
