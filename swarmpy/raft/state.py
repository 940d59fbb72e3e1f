"""What one member knows, and the only ways its role may change. No decision about a message is taken here.

The rules (:mod:`election`, :mod:`replication`, :mod:`reads`, :mod:`membership`) are functions of this state.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence

import attrs

from swarmpy.errors import InvariantViolation
from swarmpy.ports import Random
from swarmpy.raft.log import RaftLog
from swarmpy.raft.messages import (
    NO_ONE,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Member,
    Message,
    MessageType,
    ReadState,
    Snapshot,
)
from swarmpy.raft.progress import Progress

MAX_STRANGERS = 64
"""Addresses remembered of peers that the configuration does not know."""
MAX_QUEUED_MESSAGES = 32_768
"""Messages that wait for this disk, or to be fetched: more than any follower's window and all reads together."""

_PROMISES = frozenset({MessageType.APPEND_RESPONSE, MessageType.VOTE, MessageType.VOTE_RESPONSE})
"""They speak of what is on this disk."""


class RaftRole(enum.Enum):
    """What a member does in its term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    """Asks whether an election could be won, without disturbing anybody's term."""
    CANDIDATE = "candidate"
    LEADER = "leader"


_ROLE_CHANGES = {
    RaftRole.PRE_CANDIDATE: {RaftRole.FOLLOWER, RaftRole.PRE_CANDIDATE, RaftRole.CANDIDATE},
    RaftRole.CANDIDATE: {RaftRole.FOLLOWER, RaftRole.PRE_CANDIDATE, RaftRole.CANDIDATE},
    RaftRole.LEADER: {RaftRole.CANDIDATE},
    RaftRole.FOLLOWER: set(RaftRole),
}
"""New role -> the roles it may come from."""


@attrs.frozen(kw_only=True)
class Timing:
    """Timeouts in ticks. An election timeout is drawn from [election, 2 * election)."""

    heartbeat: int
    election: int


@attrs.frozen(kw_only=True)
class PendingRead:
    """A read that waits until a quorum confirms this leader. ``round`` is the heartbeat context that must come back."""

    round: int
    index: int
    reader: int
    request: int


class RaftState:
    """The data of one member. Sets are kept as sorted tuples, so that every loop has one order."""

    address = ""
    """Where this member listens now; "": where the configuration says."""

    def __init__(self, raft_id: int, *, random: Random, timing: Timing, log: RaftLog, hard_state: HardState) -> None:
        self.raft_id = raft_id
        self.random = random
        self.timing = timing
        self.log = log
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.durable = (hard_state.term, hard_state.vote)
        """The term and vote that are on disk: nothing goes out under others."""
        self.role = RaftRole.FOLLOWER
        self.leader = NO_ONE
        self.leaderless_since = 0
        """The tick since which no leader is known."""
        self.lost_quorum = False
        """This member led, a majority fell silent, and no leader has been heard since."""
        self.conf = ConfState()
        self.conf_index = 0
        """The entry that made ``conf``."""
        self.voters: tuple[int, ...] = ()
        self.members: dict[int, Member] = {}
        self.removed_members: dict[int, Member] = {}
        self.strangers: dict[int, Member] = {}
        """Where to answer peers that this member's own configuration does not know yet, or not there."""
        self.is_removed = False

        self.now = 0
        """Ticks since the start."""
        self.election_elapsed = 0
        self.heartbeat_elapsed = self.election_timeout = 0
        self.leader_unreachable = False
        self.votes: dict[int, bool] = {}
        self.campaign_forced = False
        """This candidate was told to stand by the leader itself."""

        self.progress: dict[int, Progress] = {}
        self.term_start = 0
        """The index of this leader's no-op."""
        self.pending_conf_index = 0
        """No further membership change before this entry is applied."""
        self.transferee = NO_ONE
        self.transfer_elapsed = 0
        self.uncommitted_bytes = 0
        """Bytes of the leader's entries that it has not applied yet."""
        self.read_round = 0
        self.read_round_sent = 0
        self.reads: deque[PendingRead] = deque()
        self.early_reads: list[tuple[int, int]] = []
        """(reader, request) that came before this leader has committed an entry of its term."""

        self.outbox: list[Message] = []
        self.promises: list[Message] = []
        self.read_states: list[ReadState] = []
        self.pending_snapshot: Snapshot | None = None
        self.reset_election_timeout()

    @property
    def is_leader(self) -> bool:
        """True for the leader of ``term``, as far as this member knows."""
        return self.role is RaftRole.LEADER

    @property
    def hard_state(self) -> HardState:
        """What must be durable now."""
        return HardState(term=self.term, vote=self.vote, commit=self.log.committed)

    @property
    def me(self) -> Member | None:
        """This member where it can be reached, or None before it has learnt of its own joining."""
        known = self.members.get(self.raft_id)
        if known is None or self.address in ("", known.address):
            return known
        return attrs.evolve(known, address=self.address)

    @property
    def has_committed_in_term(self) -> bool:
        """True when the leader's commit index is known to be current (section 5.4.2 and 8 of the Raft paper)."""
        return self.is_leader and self.log.committed >= self.term_start

    def is_active(self, progress: Progress) -> bool:
        """True when the follower has answered within an election timeout, or could not be expected to yet."""
        return self.now - progress.last_contact < self.timing.election

    def answers(self, progress: Progress) -> bool:
        """True when the follower has really answered within an election timeout: it may be counted on."""
        return progress.has_answered and self.is_active(progress)

    def send(self, message: Message) -> None:
        """Queue a message of this member: promises wait for the disk, others do not.

        Beyond the bound it is dropped, as a network may; but for what no answer would ever bring up again.
        """
        box = self.promises if message.type in _PROMISES else self.outbox
        if len(box) < MAX_QUEUED_MESSAGES or message.type is MessageType.SNAPSHOT:
            box.append(message)

    def remember_stranger(self, raft_id: int, member: Member) -> None:
        """Note where a peer is that the configuration does not know. The one longest silent is forgotten for it."""
        self.strangers.pop(raft_id, None)
        self.strangers[raft_id] = member
        if len(self.strangers) > MAX_STRANGERS:
            del self.strangers[next(known for known in self.strangers if known != self.leader)]

    def reset_election_timeout(self) -> None:
        """Begin to wait for a leader anew.

        Short timeouts are likelier than long ones. Two members draw the same more often than with equal chances, but
        candidates that meet in the pre-vote do each other little harm, and the first one's timeout is what counts:
        simulated with the defaults, half of the elections among three are over after 500 instead of 600 ms, and 95 of
        100 after 775 instead of 875 ms.
        """
        self.election_elapsed = 0
        drawn = self.random.randrange(self.timing.election)
        self.election_timeout = self.timing.election + drawn * drawn // self.timing.election

    def _change_role(self, role: RaftRole, term: int) -> None:
        if self.role not in _ROLE_CHANGES[role]:
            raise InvariantViolation(f"a {self.role.value} cannot become {role.value} (term {self.term})")
        if term < self.term:
            raise InvariantViolation(f"the term cannot go back from {self.term} to {term}")
        if term != self.term:
            self.term = term
            self.vote = NO_ONE
        if self.leader != NO_ONE:
            self.leaderless_since = self.now
        self.role = role
        self.leader = NO_ONE
        self.leader_unreachable = False
        self.heartbeat_elapsed = 0
        self.votes = {}
        self.campaign_forced = False
        self.progress = {}
        self.transferee = NO_ONE
        self.uncommitted_bytes = 0
        self.reads.clear()
        self.early_reads.clear()
        self.reset_election_timeout()

    def become_follower(self, term: int, leader: int) -> None:
        """Follow ``leader`` (or nobody known) in ``term``."""
        self._change_role(RaftRole.FOLLOWER, term)
        self.leader = leader
        if leader != NO_ONE:
            self.lost_quorum = False

    def become_pre_candidate(self) -> None:
        """Ask for pre-votes. The term and the vote stay (section 9.6 of Ongaro's thesis)."""
        self._change_role(RaftRole.PRE_CANDIDATE, self.term)
        self.votes = {self.raft_id: True}

    def become_candidate(self) -> None:
        """Stand for election in the next term, with the own vote."""
        self._change_role(RaftRole.CANDIDATE, self.term + 1)
        self.vote = self.raft_id
        self.votes = {self.raft_id: True}

    def become_leader(self) -> None:
        """Lead: start from what followers are assumed to have, and append the no-op that commits older terms."""
        self._change_role(RaftRole.LEADER, self.term)
        self.leader = self.raft_id
        self.lost_quorum = False
        self.pending_conf_index = self.log.last_index
        self.term_start = self.log.last_index + 1
        self.read_round = self.read_round_sent = 0
        self.sync_progress()
        self.append_entry(EntryKind.NORMAL, b"")
        tail = self.log.slice(self.log.applied + 1, self.log.last_index, 1 << 62)
        self.uncommitted_bytes = sum([len(entry.data) for entry in tail])

    def append_entry(self, kind: EntryKind, data: bytes) -> int:
        """A new entry at the end of a leader's log. Returns its index."""
        index = self.log.last_index + 1
        self.log.append(Entry(term=self.term, index=index, kind=kind, data=data))
        self.uncommitted_bytes += len(data)
        return index

    def set_conf(self, conf: ConfState, index: int) -> None:
        """Take ``conf``, made by the entry or snapshot ``index``, as the membership."""
        self.conf = conf
        self.conf_index = index
        self.voters = tuple(sorted(m.raft_id for m in conf.voters))
        known: Sequence[Member] = sorted((*conf.voters, *conf.learners), key=lambda m: m.raft_id)
        self.members = {m.raft_id: m for m in known}
        self.removed_members = {m.raft_id: m for m in conf.removed}
        # Where a member says itself that it is stays known: this membership may be one from before it moved.
        self.strangers = {k: m for k, m in self.strangers.items() if m != self.members.get(k)}
        if self.raft_id in self.removed_members:
            self.is_removed = True
        if self.is_leader:
            self.sync_progress()

    def sync_progress(self) -> None:
        """Follow exactly the members there are."""
        old = self.progress
        self.progress = {
            raft_id: old.get(raft_id) or Progress(raft_id, next_index=self.log.last_index + 1, now=self.now)
            for raft_id in self.members
            if raft_id != self.raft_id
        }
