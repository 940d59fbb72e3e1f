"""Where a member's log survives a crash: the protocol, and its twin in memory.

The durable one is :class:`swarmpy.wire.log.SqliteLog`; both pass the same contract suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from swarmpy.errors import AlreadyInCluster
from swarmpy.raft.messages import ConfState, Entry, HardState, Member, Snapshot

BOOTSTRAP_INDEX = 1
"""The first member's log begins with a snapshot here, without data: a joiner has to fetch it, and with it the
membership that no entry tells."""


@attrs.frozen(kw_only=True)
class StoredState:
    """What a storage holds. ``entries`` have no hole and reach back to the snapshot, or (a kept tail) beyond it."""

    hard_state: HardState = attrs.Factory(HardState)
    snapshot: Snapshot | None = None
    entries: tuple[Entry, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True for the storage of a member that has never heard of a cluster."""
        return self.snapshot is None and not self.entries and self.hard_state.term == 0


class LogStorage(Protocol):
    """One member's durable state. Calls come one after the other, but ``save_snapshot`` may overlap all, itself too.

    Every method raises StorageError, after which the member must stop: what is on the disk is no longer known.
    """

    async def load(self) -> StoredState:
        """Open, check and read everything. Raises LogCorrupted, DataDirMismatch."""

    async def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Store both in one step; entries replace all from the first one's index on. Durable on return."""

    async def save_snapshot(self, snapshot: Snapshot, keep_from_index: int) -> None:
        """Store a snapshot and drop the older ones and the entries before ``keep_from_index``. Durable on return.

        When the entry at the snapshot's index is not stored with the snapshot's term, the log is another's and all
        entries are dropped. A snapshot that is not newer than the stored one is ignored.
        """

    async def read_snapshot(self) -> Snapshot | None:
        """The newest snapshot with its data, to be sent to a follower."""

    async def close(self) -> None:
        """Let go. Idempotent."""


class MemoryStorage:
    """A storage that lives as long as its object: what tests and the simulator restart a member from."""

    def __init__(self) -> None:
        self._hard_state = HardState()
        self._snapshot: Snapshot | None = None
        self._entries: list[Entry] = []

    async def load(self) -> StoredState:
        """Everything stored so far."""
        return StoredState(hard_state=self._hard_state, snapshot=self._snapshot, entries=tuple(self._entries))

    async def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """See :class:`LogStorage`."""
        if hard_state is not None:
            self._hard_state = hard_state
        if entries:
            if self._entries:
                del self._entries[max(0, entries[0].index - self._entries[0].index) :]
            self._entries.extend(entries)

    async def save_snapshot(self, snapshot: Snapshot, keep_from_index: int) -> None:
        """See :class:`LogStorage`."""
        if self._snapshot is not None and snapshot.index <= self._snapshot.index:
            return
        self._snapshot = snapshot
        if any(e.index == snapshot.index and e.term == snapshot.term for e in self._entries):
            self._entries = [e for e in self._entries if e.index >= keep_from_index]
        else:
            self._entries = []

    async def read_snapshot(self) -> Snapshot | None:
        """See :class:`LogStorage`."""
        return self._snapshot

    async def close(self) -> None:
        """Nothing to let go."""


async def bootstrap(storage: LogStorage, member: Member) -> None:
    """Make ``storage`` that of the only voter of a new cluster.

    Raises AlreadyInCluster when it is not empty, StorageError.
    """
    await bootstrap_from(storage, Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=ConfState(voters=(member,))))


async def bootstrap_from(storage: LogStorage, snapshot: Snapshot) -> None:
    """Make ``storage`` that of a member whose log begins with ``snapshot``.

    Raises AlreadyInCluster when it is not empty, StorageError.
    """
    if not (await storage.load()).is_empty:
        nodes = ", ".join(member.node_id for member in snapshot.conf.voters)
        raise AlreadyInCluster(f"the raft log of node {nodes} is that of a cluster already: leave it first")
    await storage.save_snapshot(snapshot, snapshot.index + 1)
    await storage.append(HardState(term=snapshot.term, commit=snapshot.index), ())
