"""Snapshots of one member: taking its own in the background, sending them to followers, receiving a leader's.

Never holds the log up: the state machine encodes in slices, the storage writes beside its appends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs
import structlog

from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import Message, MessageType, Snapshot
from swarmpy.raft.ports import StateMachine
from swarmpy.raft.storage import LogStorage
from swarmpy.raft.transfer import IncomingSnapshot, OutgoingSnapshot, SnapshotSource

log = structlog.get_logger(__name__)

MAX_LOG_BYTES = 64 * 1024 * 1024
"""Applied bytes after which a snapshot is due, however few entries they are: it bounds the log in memory."""
MAX_TAIL_BYTES = 32 * 1024 * 1024
"""Of the entries kept behind a snapshot for slow followers."""
MAX_PINNED_BYTES = 4 * MAX_LOG_BYTES
"""Applied bytes that the log is kept back for a follower that is being sent a snapshot; a slower one needs another."""
PATIENCE = 120
"""Election timeouts until a snapshot that nobody went on sending is let go: a minute by default."""


class Snapshots:
    """Started and cancelled with the driver, in whose task group its work runs."""

    def __init__(
        self,
        core: RaftCore,
        *,
        storage: LogStorage,
        state_machine: StateMachine,
        config: RaftConfig,
        group: asyncio.TaskGroup,
        send: Callable[[Message], None],
        stir: Callable[[], None],
        last_index: int,
    ) -> None:
        self._core = core
        self._storage = storage
        self._state_machine = state_machine
        self.config = config
        """May be replaced while this runs."""
        self._group = group
        self._send = send
        self._stir = stir
        self._last_index = last_index
        """The index of the newest snapshot of this member."""
        self._bytes = 0
        self._taking: asyncio.Task[None] | None = None
        self._outgoing: dict[int, tuple[OutgoingSnapshot, asyncio.Task[None]]] = {}
        self._source = SnapshotSource(storage.read_snapshot)
        self._incoming = IncomingSnapshot()

    @property
    def since(self) -> tuple[int, int]:
        """The index of the newest snapshot, and the bytes applied since."""
        return self._last_index, self._bytes

    def applied(self, size: int) -> None:
        """``size`` more bytes are applied."""
        self._bytes += size
        for out, _ in self._outgoing.values():
            out.bytes_since += size

    def installed(self, index: int) -> None:
        """A leader's snapshot is stored and restored from."""
        self._last_index = max(self._last_index, index)
        self._bytes = 0

    async def take_if_due(self, applied: int) -> None:
        """Begin a snapshot when enough was applied; return when the state machine has fixed what goes into it."""
        core = self._core
        if applied - self._last_index < self.config.snapshot_interval and self._bytes < MAX_LOG_BYTES:
            return
        term = core.log.term_at(applied)
        if self._taking is not None or term is None or core.conf_index > applied or applied <= self._last_index:
            return
        self._bytes = 0
        fixed = asyncio.Event()
        snapshot = Snapshot(index=applied, term=term, conf=core.conf)
        self._taking = self._group.create_task(self._take(snapshot, fixed), name="raft-snapshot")
        await fixed.wait()

    async def _take(self, snapshot: Snapshot, fixed: asyncio.Event) -> None:
        try:
            # No await lies between these two: the state is fixed in the very step in which the driver is let go.
            fixed.set()
            data = await self._state_machine.snapshot()
            await self._storage.save_snapshot(attrs.evolve(snapshot, data=data), self._keep_from(snapshot.index))
            self._last_index = max(self._last_index, snapshot.index)
            self._core.compact(self._keep_from(snapshot.index) - 1)
            log.debug("raft_snapshot_taken", index=snapshot.index, size_bytes=len(data))
        finally:
            self._taking = None

    def _keep_from(self, index: int) -> int:
        keep_from = self._core.log.tail_from(index, self.config.log_entries_for_slow_followers, MAX_TAIL_BYTES)
        # A follower that is being sent a snapshot needs the entries after it next.
        pinned = [out.index + 1 for out, _ in self._outgoing.values() if out.bytes_since < MAX_PINNED_BYTES]
        return max(1, min([keep_from, *pinned]))

    def send_to(self, request: Message) -> None:
        """The core found that a follower needs a snapshot."""
        if request.to in self._outgoing:
            return
        retry_after = self.config.election_ns / 1e9
        out = OutgoingSnapshot(request.index, retry_after=retry_after)
        task = self._group.create_task(self._transfer(out, request), name=f"raft-snapshot-to-{request.to}")
        self._outgoing[request.to] = (out, task)

    async def _transfer(self, out: OutgoingSnapshot, request: Message) -> None:
        parcel = await self._source.get(out.index, self._last_index)
        delivered = parcel is not None and await out.run(parcel, self._send, request)
        del self._outgoing[request.to]
        self._forget_source()
        if self._core.is_leader and self._core.term == request.term:
            self._core.report_snapshot(request.to, delivered=delivered)
            self._stir()
        if not delivered:
            log.warning("raft_snapshot_not_delivered", to=request.to, index=out.index)

    def stop_sending(self) -> None:
        """This member leads no more."""
        for _, task in self._outgoing.values():
            task.cancel()
        self._outgoing.clear()
        self._forget_source()

    def _forget_source(self) -> None:
        if not self._outgoing:
            self._source.forget()

    def drop_stale(self) -> None:
        """To be called now and then: let go of a snapshot that came in part, when nobody goes on sending it."""
        core = self._core
        since = core.now - PATIENCE * core.timing.election
        received = self._incoming.received
        if self._incoming.drop_stale(committed=core.log.committed, untouched_since=since) and received:
            log.info("raft_snapshot_given_up", received_bytes=received)

    def acked(self, message: Message) -> None:
        """A follower's SNAPSHOT_ACK."""
        found = self._outgoing.get(message.source)
        if found is not None and message.term == self._core.term:
            found[0].acked(message)

    def receive(self, message: Message) -> None:
        """A chunk from the leader, or a stale one."""
        core = self._core
        # Any chunk shows that the leader lives, or tells a deposed one the term.
        core.step(attrs.evolve(message, type=MessageType.HEARTBEAT, snapshot=None, index=0))
        if message.snapshot is None or core.leader != message.source or core.term != message.term:
            return
        received, whole = message.total + 1, message.snapshot
        if message.snapshot.index > core.log.committed:
            received, installable = self._incoming.accept(message, core.now)
            if installable is None:
                self._acknowledge(message, received)
                return
            whole = installable
        core.step(attrs.evolve(message, snapshot=whole))
        self._acknowledge(message, received)

    def _acknowledge(self, message: Message, received: int) -> None:
        self._core.send(
            Message(
                type=MessageType.SNAPSHOT_ACK,
                to=message.source,
                source=self._core.raft_id,
                term=self._core.term,
                index=message.index,
                offset=received,
                digest=message.digest,
            )
        )
