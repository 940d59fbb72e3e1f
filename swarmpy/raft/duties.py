"""What the core asks for, done in the order it asks for: persist, send, restore, apply, advance.

Whatever is proposed while one Ready is persisted is the next one: one append, one fsync, however many proposals. An
error of the storage or the state machine passes through and ends everything: nothing is tried again or skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from swarmpy.raft.core import RaftCore
from swarmpy.raft.encoding import decode_conf_change
from swarmpy.raft.messages import Entry, EntryKind, Message, Ready
from swarmpy.raft.open_reads import Reads
from swarmpy.raft.ports import StateMachine
from swarmpy.raft.proposals import Proposals
from swarmpy.raft.snapshots import Snapshots
from swarmpy.raft.storage import BOOTSTRAP_INDEX, LogStorage, StoredState

log = structlog.get_logger(__name__)

APPLY_SLICE = 64
APPLY_SLICE_BYTES = 32 * 1024
"""Entries applied, or bytes of them, before others get their turn on the loop: some milliseconds."""


class Duties:
    """One member's. ``send`` hands messages to the network, ``changed`` has the driver look at the core again."""

    def __init__(
        self,
        *,
        storage: LogStorage,
        state_machine: StateMachine,
        proposals: Proposals,
        reads: Reads,
        send: Callable[[RaftCore, Sequence[Message]], None],
        changed: Callable[[RaftCore], None],
    ) -> None:
        self._storage = storage
        self._state_machine = state_machine
        self._proposals = proposals
        self._reads = reads
        self._send = send
        self._changed = changed
        self.wanted = asyncio.Event()
        """There may be something to do."""
        self.applied = 0
        """The last entry in the state machine."""
        self.writing_since: float | None = None
        """When the write under way began, on the loop's clock."""

    async def begin(self, stored: StoredState) -> None:
        """Put the state machine where the stored snapshot is."""
        self.applied = 0
        if stored.snapshot is not None:
            await self._restore(stored.snapshot.index, stored.snapshot.data)

    async def run(self, core: RaftCore, snapshots: Snapshots) -> None:
        """Do them until cancelled. Raises StorageError."""
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            while (ready := core.ready()) is not None:
                self._send(core, ready.messages)
                await self._persist(ready)
                core.persisted(ready)
                self._send(core, ready.messages_after_persist)
                if ready.snapshot is not None:
                    await self._install(snapshots, ready)
                self._changed(core)  # this disk may have been the one that makes a majority
                for read in ready.reads:
                    self._reads.answered(read.request, read.index)
                await self._apply(core, snapshots, ready.committed)
                core.advance(ready)
                self._reads.applied(self.applied)
                self._changed(core)
                await snapshots.take_if_due(self.applied)

    async def _persist(self, ready: Ready) -> None:
        self.writing_since = asyncio.get_running_loop().time()
        if ready.snapshot is not None:
            await self._storage.save_snapshot(ready.snapshot, ready.snapshot.index + 1)
        if ready.hard_state is not None or ready.entries:
            await self._storage.append(ready.hard_state, ready.entries)
        self.writing_since = None

    async def _restore(self, index: int, data: bytes) -> None:
        if index > BOOTSTRAP_INDEX:
            await self._state_machine.restore(data)
        self.applied = index

    async def _install(self, snapshots: Snapshots, ready: Ready) -> None:
        assert ready.snapshot is not None
        index = ready.snapshot.index
        await self._restore(index, ready.snapshot.data)
        snapshots.installed(index)
        self._proposals.fail_unless(lambda proposal: proposal.index > index)
        log.info("raft_snapshot_installed", index=index, size_bytes=len(ready.snapshot.data))

    async def _apply(self, core: RaftCore, snapshots: Snapshots, entries: Sequence[Entry]) -> None:
        count = size = 0
        for entry in entries:
            if entry.kind is EntryKind.CONF_CHANGE:
                core.apply_conf_change(decode_conf_change(entry), entry.index)
            elif entry.data:
                self._state_machine.apply(entry.index, entry.data)
                snapshots.applied(len(entry.data))
            self.applied = entry.index
            self._proposals.applied(entry.index, entry.term)
            count, size = count + 1, size + len(entry.data)
            if count >= APPLY_SLICE or size >= APPLY_SLICE_BYTES:
                count = size = 0
                await asyncio.sleep(0)
