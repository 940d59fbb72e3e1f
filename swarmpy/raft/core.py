"""One member of the consensus as a pure state machine. It never waits, sends, writes, reads a clock or draws by itself.

In go ticks, messages and proposals; out comes a :class:`Ready`. **The caller's duties**, for each Ready, in this order:

1. Send ``messages``. They promise nothing about this disk, so they need not wait for it.
2. Make durable: ``snapshot`` first (and restore the state machine from it), then ``hard_state`` and ``entries`` in one
   step; ``entries`` replace all that is stored from the first one's index on. If this fails, stop for ever: do not
   send, do not apply, do not try again.
3. Send ``messages_after_persist``: votes and acknowledgements, promises that a crash must not take back.
4. Apply ``committed`` in order; hand each CONF_CHANGE to :meth:`RaftCore.apply_conf_change`. Answer ``reads`` as soon
   as their index is applied.
5. Call :meth:`RaftCore.advance` with the Ready. Only then ask for the next.

Between ``ready`` and ``advance`` the core may be stepped, ticked and proposed to as always; what comes of it is in the
next Ready, but :meth:`RaftCore.take_messages` yields the messages that need not wait even for that. Nothing goes out
under a term or vote that is not durable yet; the core sees to that itself.

A host, without its errors::

    while True:
        wait for a message, a tick or a proposal; core.step(message) / core.tick() / core.propose(data)
        while ready := core.ready():
            send(ready.messages)
            storage.append(ready.hard_state, ready.entries)
            send(ready.messages_after_persist)
            for entry in ready.committed: apply(entry)
            core.advance(ready)
"""

from __future__ import annotations

from collections.abc import Collection

from swarmpy.errors import FailedPrecondition, NotLeader, Unavailable
from swarmpy.ports import Random
from swarmpy.raft import election, membership, reads, replication
from swarmpy.raft.log import RaftLog
from swarmpy.raft.messages import (
    NO_ONE,
    ConfChange,
    Entry,
    EntryKind,
    HardState,
    Member,
    Message,
    MessageType,
    Ready,
    Snapshot,
)
from swarmpy.raft.plausible import absurdity
from swarmpy.raft.state import RaftState, Timing

MAX_UNCOMMITTED_BYTES = 8 * 1024 * 1024
MAX_UNCOMMITTED_ENTRIES = 10_000
MAX_UNAPPLIED_BYTES = 32 * 1024 * 1024
MAX_UNAPPLIED_ENTRIES = 20_000
"""Committed and not applied: beyond that a member acknowledges nothing more, so that its leader's window closes. More
than a leader lets come of its own, and than a restart has to apply by the default settings."""
MAX_APPLY_BYTES = 1024 * 1024
MAX_APPLY_ENTRIES = 256

_FROM_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})
_VOTES = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})


_NEW = HardState()


class RaftCore(RaftState):
    """The member ``raft_id``, restarted from what its storage had."""

    absurdity = ""
    """What was the matter with the last message that was dropped. To be cleared by whoever has told it."""

    def __init__(
        self,
        raft_id: int,
        *,
        random: Random,
        timing: Timing,
        address: str = "",
        hard_state: HardState = _NEW,
        snapshot: Snapshot | None = None,
        entries: tuple[Entry, ...] = (),
    ) -> None:
        log = _load_log(snapshot, entries)
        if snapshot is not None and snapshot.term > hard_state.term:
            # A crash between saving an installed snapshot and the term that came with it. No vote was sent in it.
            hard_state = HardState(term=snapshot.term, commit=hard_state.commit)
        super().__init__(raft_id, random=random, timing=timing, log=log, hard_state=hard_state)
        self.address = address
        if snapshot is not None:
            log.commit_to(snapshot.index)
            log.applied_to(snapshot.index)
            self.set_conf(snapshot.conf, snapshot.index)
        log.commit_to(max(hard_state.commit, log.committed))

    # ---- input

    def tick(self) -> None:
        """Time passes."""
        self.now += 1
        if not self.is_leader:
            election.tick_follower(self)
            return
        if not election.has_quorum(self):
            self.become_follower(self.term, NO_ONE)
            self.lost_quorum = True
            return
        election.tick_transfer(self)
        self.heartbeat_elapsed += 1
        if self.heartbeat_elapsed >= self.timing.heartbeat:
            replication.broadcast_heartbeat(self)

    @property
    def quiet_ticks(self) -> int:
        """How many ticks may be made late and all at once, as they bring nothing about if nothing else happens."""
        return max(0, election.ticks_left(self) - 1)

    def wake(self) -> None:
        """This process stood still for longer than an election timeout. Find out at once who leads now.

        A leader asks its followers, and gives them a whole election timeout to answer, for the silence was its own.
        """
        if self.is_leader:
            for progress in self.progress.values():
                progress.last_contact = self.now
                progress.has_answered = False
            replication.broadcast_heartbeat(self)

    def step(self, message: Message) -> None:
        """A message of another member. One that nobody would send is dropped (:attr:`absurdity`)."""
        if message.to != self.raft_id:
            return
        if reason := absurdity(self, message):
            self.absurdity = reason
            return
        if message.type is MessageType.REMOVED:
            self.is_removed = True
            return
        if message.source in self.removed_members:
            self._tell_removed(message.source)
            return
        if message.sender is not None and message.sender.raft_id == message.source:
            self.meet(message.sender)
        if message.term > self.term:
            if not self._accept_later_term(message):
                return
        elif message.term < self.term:
            self._answer_earlier_term(message)
            return
        self._dispatch(message)

    def meet(self, member: Member) -> None:
        """A member says itself where it is."""
        if member != self.members.get(member.raft_id):
            self.remember_stranger(member.raft_id, member)
        else:
            self.strangers.pop(member.raft_id, None)

    def _accept_later_term(self, message: Message) -> bool:
        kind = message.type
        if kind in _VOTES and not message.force and election.in_lease(self):
            return False
        if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESPONSE and not message.reject):
            return True  # these speak of a term that has not begun
        self.become_follower(message.term, message.source if kind in _FROM_LEADER else NO_ONE)
        return True

    def _answer_earlier_term(self, message: Message) -> None:
        """Let a deposed leader, or a candidate of the past, learn the term; all else is stale."""
        if message.type in _FROM_LEADER:
            answer = MessageType.APPEND_RESPONSE
        elif message.type is MessageType.PRE_VOTE:
            answer = MessageType.PRE_VOTE_RESPONSE
        else:
            return
        self.send(Message(type=answer, to=message.source, source=self.raft_id, term=self.term, reject=True))

    def _tell_removed(self, raft_id: int) -> None:
        self.send(Message(type=MessageType.REMOVED, to=raft_id, source=self.raft_id, term=self.term))

    def _dispatch(self, message: Message) -> None:
        kind = message.type
        if kind in _VOTES:
            election.handle_vote_request(self, message)
        elif kind in _FROM_LEADER:
            self._step_from_leader(message)
        elif kind is MessageType.READ_INDEX:
            reads.handle_request(self, message)
        elif self.is_leader:
            self._step_leader(message)
        elif kind is MessageType.READ_INDEX_RESPONSE:
            reads.handle_response(self, message)
        elif kind is MessageType.TIMEOUT_NOW:
            election.handle_timeout_now(self)
        else:
            election.handle_vote_response(self, message)

    def _step_from_leader(self, message: Message) -> None:
        if self.leader == NO_ONE:
            self.become_follower(self.term, message.source)
        election.heard_leader(self)
        if message.type is MessageType.APPEND:
            replication.handle_append(self, message)
        elif message.type is MessageType.HEARTBEAT:
            replication.handle_heartbeat(self, message)
        else:
            replication.handle_snapshot(self, message)

    def _step_leader(self, message: Message) -> None:
        progress = self.progress.get(message.source)
        if progress is None:
            return
        progress.last_contact = self.now
        progress.has_answered = True
        if message.type is MessageType.APPEND_RESPONSE:
            replication.handle_append_response(self, progress, message)
        elif message.type is MessageType.HEARTBEAT_RESPONSE:
            replication.handle_heartbeat_response(self, progress, message)

    def propose(self, data: bytes) -> int:
        """Leader: append ``data`` to the log. Returns its index; its term is ``term``.

        Raises NotLeader, Unavailable (too much is uncommitted, or the leadership is being handed over).
        """
        if not self.is_leader:
            raise NotLeader
        if self.transferee != NO_ONE:
            raise Unavailable("the leadership is being handed over: ask again in a moment")
        # Counted until they are applied: followers may commit far ahead of a leader whose own disk hangs.
        waiting = self.log.last_index - self.log.applied
        if waiting >= MAX_UNCOMMITTED_ENTRIES or (
            self.uncommitted_bytes + len(data) > MAX_UNCOMMITTED_BYTES and waiting
        ):
            what = "a quorum of managers" if self.log.committed < self.log.last_index else "this manager's disk"
            raise Unavailable(f"{waiting} changes ({self.uncommitted_bytes} bytes) wait for {what}: ask again later")
        return self.append_entry(EntryKind.NORMAL, data)

    def propose_conf_change(self, change: ConfChange) -> int:
        """See :func:`membership.propose`."""
        return membership.propose(self, change)

    def check_removals(self, raft_ids: Collection[int]) -> None:
        """See :func:`membership.check_removals`."""
        membership.check_removals(self, raft_ids)

    def apply_conf_change(self, change: ConfChange, index: int) -> None:
        """See :func:`membership.apply`."""
        membership.apply(self, change, index)

    def read_index(self, number: int) -> None:
        """See :func:`reads.request`."""
        reads.request(self, number)

    def transfer_leadership(self, to: int) -> int:
        """See :func:`election.start_transfer`."""
        return election.start_transfer(self, to)

    def report_unreachable(self, raft_id: int) -> None:
        """The connection to ``raft_id`` broke; what was on its way may be lost."""
        if self.is_leader:
            progress = self.progress.get(raft_id)
            if progress is not None and progress.inflight:
                progress.become_probe(progress.match + 1)
        elif raft_id == self.leader:
            election.leader_unreachable(self)

    def report_snapshot(self, raft_id: int, *, delivered: bool) -> None:
        """Leader: the snapshot for ``raft_id`` has been handed over, or could not be."""
        progress = self.progress.get(raft_id)
        if progress is not None and progress.pending_snapshot:
            progress.become_probe(progress.pending_snapshot + 1 if delivered else progress.match + 1)
            progress.probe_sent = True  # until it is heard of again

    @property
    def is_cut_off(self) -> bool:
        """See :func:`election.is_cut_off`."""
        return election.is_cut_off(self)

    def set_timing(self, timing: Timing) -> None:
        """Count by other timeouts from now on. Everybody gets a whole one of the new ones before being missed."""
        if timing == self.timing:
            return
        active = [p for p in self.progress.values() if self.is_active(p)]
        for progress in self.progress.values():
            progress.has_answered = self.answers(progress)  # a longer timeout makes nobody answer who did not
        self.timing = timing
        for progress in active:
            progress.last_contact = self.now
        self.heartbeat_elapsed = timing.heartbeat  # due at once: followers may count by a shorter timeout already
        self.transfer_elapsed = 0
        self.leaderless_since = self.now
        self.reset_election_timeout()

    @property
    def may_campaign(self) -> bool:
        """True for a voter that could lead: no snapshot or change of membership is on its way in."""
        return election.can_campaign(self)

    def campaign(self) -> None:
        """Stand for election now, as after a timeout. Raises FailedPrecondition for one that may not."""
        if not election.can_campaign(self):
            raise FailedPrecondition(f"raft member {self.raft_id} may not stand for election")
        election.pre_campaign(self)

    # ---- output

    def take_messages(self) -> tuple[Message, ...]:
        """Messages that need not wait for anything, not even for a Ready that is being worked on."""
        if self.is_leader:
            replication.replicate(self)
        if not self.outbox or self.durable != (self.term, self.vote):
            return ()
        messages, self.outbox = tuple(self.outbox), []
        return messages

    @property
    def has_duties(self) -> bool:
        """True when :meth:`ready` has something, after :meth:`take_messages` has given what it could."""
        log = self.log
        if self.promises or self.read_states or self.pending_snapshot is not None:
            return True
        return log.stable < log.last_index or log.applied < log.committed or self.durable != (self.term, self.vote)

    def ready(self) -> Ready | None:
        """Everything to be done now, or None. Each Ready must be followed by :meth:`advance` before the next."""
        messages = self.take_messages()
        log = self.log
        if self._is_behind():
            return self._only_apply(messages)
        entries = log.unstable()
        new_term_or_vote = self.durable != (self.term, self.vote)
        after = (*self.outbox, *self.promises)
        self.outbox, self.promises = [], []
        committed: tuple[Entry, ...] = ()
        if log.applied < log.committed:
            committed = log.slice(log.applied + 1, log.committed, MAX_APPLY_BYTES, MAX_APPLY_ENTRIES)
        # A member that forgot a membership it had applied could wait for ever for the vote of one who is gone.
        changes_conf = any(entry.kind is EntryKind.CONF_CHANGE for entry in committed)
        reads_done, self.read_states = tuple(self.read_states), []
        snapshot, self.pending_snapshot = self.pending_snapshot, None
        if not (messages or snapshot or new_term_or_vote or entries or after or committed or reads_done):
            return None
        return Ready(
            messages=messages,
            snapshot=snapshot,
            hard_state=self.hard_state if new_term_or_vote or entries or changes_conf else None,
            entries=entries,
            messages_after_persist=after,
            committed=committed,
            reads=reads_done,
        )

    def _is_behind(self) -> bool:
        """True when more is to be applied, and can be, than should wait."""
        log, high = self.log, min(self.log.committed, self.log.stable)
        waiting = high - log.applied
        if waiting > MAX_UNAPPLIED_ENTRIES or self.is_leader:  # who has counted the bytes when they were proposed
            return waiting > MAX_UNAPPLIED_ENTRIES
        return len(log.slice(log.applied + 1, high, MAX_UNAPPLIED_BYTES)) < waiting

    def _only_apply(self, messages: tuple[Message, ...]) -> Ready:
        """What is new waits, and all promises with it: its disk could take it in faster than it is applied."""
        log, high = self.log, min(self.log.committed, self.log.stable)
        committed = log.slice(log.applied + 1, high, MAX_APPLY_BYTES, MAX_APPLY_ENTRIES)
        changes_conf = any(entry.kind is EntryKind.CONF_CHANGE for entry in committed)
        reads_done, self.read_states = tuple(self.read_states), []
        return Ready(
            messages=messages,
            hard_state=HardState(term=self.term, vote=self.vote, commit=high) if changes_conf else None,
            committed=committed,
            reads=reads_done,
        )

    def persisted(self, ready: Ready) -> None:
        """Duty 2 is done for ``ready``. Optional: :meth:`advance` says it too, but later."""
        if ready.hard_state is not None:
            self.durable = (ready.hard_state.term, ready.hard_state.vote)
        if ready.entries:
            last = ready.entries[-1]
            self.log.stable_to(last.index, last.term)
            if self.is_leader:
                replication.maybe_commit(self)

    def advance(self, ready: Ready) -> None:
        """All duties are done for ``ready``."""
        self.persisted(ready)
        if ready.committed:
            if self.is_leader:
                self.uncommitted_bytes -= sum([len(entry.data) for entry in ready.committed])
            self.log.applied_to(ready.committed[-1].index)

    def compact(self, index: int) -> None:
        """Forget entries up to ``index``; a snapshot that reaches at least as far is durable."""
        self.log.compact_to(min(index, self.log.applied, self.log.stable))

    def member(self, raft_id: int) -> Member | None:
        """Where to send to ``raft_id``, if it is known."""
        return self.members.get(raft_id) or self.strangers.get(raft_id) or self.removed_members.get(raft_id)

    def whereabouts(self) -> tuple[Member, ...]:
        """All members, each where it said itself that it is, or else where the configuration says."""
        return tuple(self.strangers.get(raft_id, member) for raft_id, member in self.members.items())

    def reachable_at(self, raft_id: int) -> tuple[Member, ...]:
        """Where to send to ``raft_id``: where the configuration says, and where it says itself that it is.

        Either may be out of date: a leader that has moved could never tell a member that missed the change, if that
        one answered only where the leader used to be.
        """
        known, stranger = self.member(raft_id), self.strangers.get(raft_id)
        if known is None:
            return ()
        return (known,) if stranger in (None, known) else (known, stranger)


def _load_log(snapshot: Snapshot | None, entries: tuple[Entry, ...]) -> RaftLog:
    """The log after the snapshot, with the kept tail before it if there is one.

    Of a kept tail the first entry serves as the compacted one, for the term before it is not stored.
    """
    if snapshot is None:
        return RaftLog(entries=entries)
    if entries and entries[0].index <= snapshot.index:
        return RaftLog(offset=entries[0].index, offset_term=entries[0].term, entries=entries[1:])
    return RaftLog(offset=snapshot.index, offset_term=snapshot.term, entries=entries)
