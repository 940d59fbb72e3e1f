"""The records of consensus: what is in the log, what members say to each other, what the core asks of its driver.

Plain frozen data, shared by reference and never edited: nothing here decides, encodes or does anything.
"""

from __future__ import annotations

import enum

import attrs

NO_ONE = 0
"""The raft id of nobody: no leader, no vote. Ids of members are positive."""


class EntryKind(enum.IntEnum):
    """What an entry's data is."""

    NORMAL = 0
    """A command of the state machine; empty data is the no-op of a new leader."""
    CONF_CHANGE = 1
    """An encoded :class:`ConfChange`."""


class MessageType(enum.IntEnum):
    """What a message says. The numbers travel over the wire: never reuse one."""

    APPEND = 1
    APPEND_RESPONSE = 2
    HEARTBEAT = 3
    HEARTBEAT_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    PRE_VOTE = 7
    PRE_VOTE_RESPONSE = 8
    SNAPSHOT = 9
    """From the core: "this follower needs a snapshot"; on the wire: one chunk of it."""
    SNAPSHOT_ACK = 10
    """How much of a snapshot has arrived. Between drivers only; the core never sees it."""
    TIMEOUT_NOW = 11
    READ_INDEX = 12
    READ_INDEX_RESPONSE = 13
    REMOVED = 14
    """To a member that was removed and does not know it."""


class ConfChangeKind(enum.IntEnum):
    """How the membership changes. The numbers are stored: never reuse one."""

    ADD_LEARNER = 1
    PROMOTE = 2
    REMOVE = 3
    UPDATE = 4
    """A new address; who votes stays as it is."""


@attrs.frozen(kw_only=True)
class Entry:
    """One place in the log. Term and index together identify the content for ever."""

    term: int
    index: int
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""


@attrs.frozen(kw_only=True)
class HardState:
    """What must survive a crash beside the log. ``commit`` may lag behind: it is learnt again from the leader."""

    term: int = 0
    vote: int = NO_ONE
    commit: int = 0


@attrs.frozen(kw_only=True)
class Member:
    """One manager in the consensus: its raft id (never used twice), its node and where it listens (``host:port``)."""

    raft_id: int
    node_id: str
    address: str


@attrs.frozen(kw_only=True)
class ConfState:
    """Who takes part, each group ordered by raft id."""

    voters: tuple[Member, ...] = ()
    learners: tuple[Member, ...] = ()
    """They get the log and have no vote."""
    removed: tuple[Member, ...] = ()
    """The last members removed, oldest first, so that one that missed it can be told."""


@attrs.frozen(kw_only=True)
class ConfChange:
    """One change of the membership. REMOVE and PROMOTE look at ``member.raft_id`` only."""

    kind: ConfChangeKind
    member: Member


@attrs.frozen(kw_only=True)
class Snapshot:
    """The state machine after the entry ``index`` of ``term``, and the membership there."""

    index: int
    term: int
    conf: ConfState
    data: bytes = attrs.field(default=b"", repr=lambda data: f"<{len(data)} bytes>")


@attrs.frozen(kw_only=True)
class Message:
    """What one member tells another. Which fields count depends on ``type``; the rest keep their defaults."""

    type: MessageType
    to: int
    source: int = NO_ONE
    """Who sends."""
    term: int = 0
    """The sender's term; of a pre-vote, the term it would campaign in."""
    index: int = 0
    """APPEND: the entry before ``entries``. Its response: the last entry known to match, or the one that did not.
    Votes: the candidate's last entry. READ_INDEX_RESPONSE: apply up to here, then read."""
    log_term: int = 0
    """The term of the entry ``index``."""
    entries: tuple[Entry, ...] = ()
    commit: int = 0
    reject: bool = False
    hint: int = 0
    """Rejected APPEND: where the logs may agree, ..."""
    hint_term: int = 0
    """... and the follower's term there."""
    context: int = 0
    """Heartbeats: the newest read they confirm. READ_INDEX and its response: the reader's request number."""
    force: bool = False
    """VOTE on behalf of a leader that hands over: it overrides the lease."""
    sender: Member | None = None
    """Who sends and where to answer, when the receiver may not know the sender yet."""
    snapshot: Snapshot | None = None
    """Of a chunk, ``data`` holds the bytes from ``offset``."""
    offset: int = 0
    """SNAPSHOT: where this chunk begins. SNAPSHOT_ACK: bytes received without a gap."""
    total: int = 0
    """Bytes of the whole snapshot."""
    digest: bytes = b""
    """SNAPSHOT and its ACK: the SHA-256 of the whole snapshot's data; empty from a member that does not tell it."""


@attrs.frozen(kw_only=True)
class ReadState:
    """The read ``request`` of this member may be answered once ``index`` is applied."""

    request: int
    index: int


@attrs.frozen(kw_only=True)
class Ready:
    """What the core wants done, in this order. See :mod:`swarmpy.raft.core` for the caller's duties."""

    messages: tuple[Message, ...] = ()
    """May go out at once, before anything here is durable (a leader replicates while its own disk works)."""
    snapshot: Snapshot | None = None
    """Save it and restore the state machine from it, before the entries."""
    hard_state: HardState | None = None
    """None: unchanged, or only ``commit`` moved, which alone is not worth an fsync (but over a membership change)."""
    entries: tuple[Entry, ...] = ()
    """Append durably; they replace everything stored from the first one's index on."""
    messages_after_persist: tuple[Message, ...] = ()
    """Promises: they may go out only when the three above are durable."""
    committed: tuple[Entry, ...] = ()
    """Apply in order, after persisting. Bounded in number and bytes."""
    reads: tuple[ReadState, ...] = ()
