"""What is always true of a Raft group, looked at with every message, write and entry that goes by.

Figure 3 of the Raft paper, what a promise needs on the disk of who makes it (section 5 there), and one change of the
membership at a time (section 4.1 of Ongaro's thesis). The laws have their own books: of a member they believe only its
log and what it believes to be committed, and hold that against the books and against the disks.

Every look costs the same however long the logs are.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn, Protocol

import attrs
from film import Film
from loop import SimLoop, SimulationError
from memberships import Membership, membership_of

from swarmpy.raft.core import RaftCore
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import (
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from swarmpy.raft.storage import BOOTSTRAP_INDEX, StoredState

_FROM_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})
_PRE_VOTES = frozenset({MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE})
"""They speak of a term that has not begun."""


class LawBroken(SimulationError):
    """Something is not as it always must be."""


class Durable(Protocol):
    """What would be left if the power went now."""

    @property
    def hard_state(self) -> HardState:
        """Term, vote and commit."""

    def holds(self, index: int, term: int | None) -> bool:
        """True when the entry ``index`` of ``term`` (None: of any) is there, or a snapshot that reaches so far."""


@attrs.define(eq=False)
class Seen:
    """What is known of one member. A crash forgets the second half only."""

    raft_id: int
    term: int = 0
    """The latest under which it has said anything."""
    written: dict[int, int] = attrs.Factory(dict)
    """The term of the last entry it wrote at each index."""
    conf_index: int = 0
    """Of the membership it lives by: it is applied again when it wakes up."""
    core: RaftCore | None = None
    commit: int = 0
    applied: int = 0
    chain: bytes = b""
    led: int = 0
    conf: ConfState | None = None
    voters: tuple[int, ...] = ()
    """Those of the last look."""
    heard: dict[int, int] = attrs.Factory(dict)
    """Its own tick when somebody was last heard."""
    awake_since: int = -1
    """The tick at which it last woke up: what was heard before is old."""
    patient_since: int = 0
    """The tick from which silence is held against the others."""
    looked_at: float = 0.0


class RaftLaws:
    """The books of one group, and the laws. Each method is called as the thing happens, before it has effects."""

    def __init__(self, loop: SimLoop, film: Film, durable: Mapping[int, Durable], *, election_s: float = 0.5) -> None:
        self.leaders: dict[int, int] = {}
        """Who leads, by term."""
        self.commit = BOOTSTRAP_INDEX
        """The last entry known to be committed."""
        self.confs: list[Membership] = []
        """All memberships that were ever committed."""
        self.broken: asyncio.Future[None] = loop.create_future()
        """Fails as soon as a law is broken."""
        self._loop = loop
        self._checked = film.checked
        self._durable = durable
        self._standstill_s = election_s * 0.8
        self._woken_s = election_s * 1.3
        self._drivers: dict[int, RaftDriver] = {}
        self._members: dict[int, Seen] = {}
        self._votes: dict[tuple[int, int], int] = {}
        self._log: dict[tuple[int, int], tuple[Entry, int | None]] = {}
        """Every entry that anybody ever wrote, and the term of the one before it."""
        self._committed: dict[int, int] = {BOOTSTRAP_INDEX: 1}
        self._committed_in: list[tuple[int, int]] = [(1, BOOTSTRAP_INDEX)]
        """(term of the leader, last entry that was committed in it)."""
        self._last_change = 0
        """The last entry that was ever to change the membership, committed or not."""
        self._chains: dict[int, bytes] = {}
        self._states: dict[int, bytes] = {}

    def founded(self, conf: ConfState) -> None:
        """The membership that the first snapshot tells."""
        self.confs.append(membership_of(conf, BOOTSTRAP_INDEX))

    # -- lives --------------------------------------------------------------------------------------------------------

    def born(self, raft_id: int, driver: RaftDriver) -> None:
        """A life begins."""
        self._drivers[raft_id] = driver

    def loaded(self, raft_id: int, stored: StoredState) -> None:
        """Its log is ``stored``."""
        old = self._members.get(raft_id) or Seen(raft_id)
        snapshot = stored.snapshot
        written = {} if snapshot is None else {snapshot.index: snapshot.term}
        written |= {entry.index: entry.term for entry in stored.entries}
        self._members[raft_id] = Seen(raft_id, term=old.term, written=written, conf_index=old.conf_index)
        term = stored.hard_state.term if snapshot is None else max(stored.hard_state.term, snapshot.term)
        if term < old.term:
            self._fail(raft_id, f"spoke in term {old.term} and wakes up in term {term}")
        self._checked("terms are not forgotten")

    # -- looking at a member ------------------------------------------------------------------------------------------

    def look(self, raft_id: int) -> Seen | None:
        """What must be true of a member at any moment. None before its log is loaded."""
        seen = self._members.get(raft_id)
        if seen is None:
            return None
        core = seen.core
        if core is None:
            core = seen.core = self._drivers[raft_id]._core
            if core is None:
                return None
            self._meets(seen, core)
        if core.term < seen.term:
            self._fail(raft_id, f"spoke in term {seen.term} and is in term {core.term}")
        if (vote := self._votes.get((raft_id, core.term), core.vote)) != core.vote:
            self._fail(raft_id, f"voted for {vote} in term {core.term} and holds {core.vote} for its vote")
        if core.log.committed != seen.commit:
            self._commits(seen, core)
        if core.conf is not seen.conf:
            self._has_conf(seen, core)
        if core.is_leader and seen.led != core.term:
            self._leads(seen, core)
        if self._loop.now - seen.looked_at > self._standstill_s:
            seen.patient_since = core.now  # it stood still
            if self._loop.now - seen.looked_at > self._woken_s:
                seen.awake_since = core.now
        seen.looked_at, seen.voters = self._loop.now, core.voters
        return seen

    def _meets(self, seen: Seen, core: RaftCore) -> None:
        """It lives."""

    def _commits(self, seen: Seen, core: RaftCore) -> None:
        log, index = core.log, core.log.committed
        if index < seen.commit:
            self._fail(seen.raft_id, f"took back the commit of {seen.commit}, to {index}")
        seen.commit = index
        self._checked("the commit index only rises")
        if index <= self.commit:
            term = log.term_at(index)
            right = term is None or term == self._committed.get(index, term)
            if not right:
                self._fail(seen.raft_id, f"holds entry {index} of term {term} for committed, which is another one")
            self._checked("one entry is committed at an index")
            return
        for place in range(self.commit + 1, index + 1):
            entry = log.entry(place)
            self._committed[place] = entry.term
            if entry.kind is EntryKind.CONF_CHANGE:
                self.confs.append(self.confs[-1].after(entry))
        self.commit = index
        self._committed_in.append((max(core.term, self._committed_in[-1][0]), index))
        term = self._committed[index]
        if core.is_leader and term != core.term:
            self._fail(seen.raft_id, f"leads in term {core.term} and commits entry {index} of term {term} by itself")
        # A membership may have been applied since the last look, and the entry been committed by the one before it.
        quorum = any(self._is_on_quorum(voters, index, term) for voters in (core.voters, seen.voters))
        if not quorum:
            self._fail(seen.raft_id, f"commits entry {index} of term {term}, which is not on a quorum's disks")
        self._checked("what is committed is on the disks of a quorum")

    def _is_on_quorum(self, voters: Sequence[int], index: int, term: int) -> bool:
        return 2 * sum(1 for voter in voters if self._durable[voter].holds(index, term)) > len(voters)

    def _has_conf(self, seen: Seen, core: RaftCore) -> None:
        seen.conf = core.conf
        seen.patient_since = core.now
        if core.conf_index:
            seen.conf_index = max(seen.conf_index, self._conf_at(core.conf_index).index)
            right = self._conf_at(core.conf_index)
            mine = membership_of(core.conf, right.index)
            if mine != right:
                self._fail(seen.raft_id, f"has at entry {core.conf_index} {mine}, not {right}")
            self._checked("all agree who takes part")

    def is_membership_settled(self) -> bool:
        """True when no change may be under way, and all voters live by the last one."""
        conf = self.confs[-1]
        seen = [self._members.get(raft_id) for raft_id, _ in conf.voters]
        return self._last_change <= self.commit and all(one and one.conf_index == conf.index for one in seen)

    def _conf_at(self, index: int) -> Membership:
        return self.confs[bisect_right(self.confs, index, key=lambda conf: conf.index) - 1]

    def _leads(self, seen: Seen, core: RaftCore) -> None:
        term, raft_id = core.term, seen.raft_id
        seen.led, seen.patient_since = term, core.now
        other = self.leaders.setdefault(term, raft_id)
        if other != raft_id:
            self._fail(raft_id, f"leads in term {term}, as {other} does")
        self._checked("one leader in a term")
        votes = sum(1 for voter in core.voters if voter == raft_id or self._votes.get((voter, term)) == raft_id)
        if 2 * votes <= len(core.voters):
            self._fail(raft_id, f"leads in term {term} by {votes} of {core.voters}")
        self._checked("a leader has the votes of a majority")
        before = bisect_right(self._committed_in, (term - 1, self.commit))
        index = self._committed_in[before - 1][1]
        there = core.log.term_at(index)
        complete = index <= core.log.offset or there == self._committed[index]
        if not complete:
            self._fail(raft_id, f"leads in term {term} without entry {index}, which was committed before")
        self._checked("a leader has all that was committed")

    # -- messages -----------------------------------------------------------------------------------------------------

    def sends(self, raft_id: int, messages: Iterable[Message]) -> None:
        """``messages`` go out."""
        seen = self.look(raft_id)
        assert seen is not None
        assert seen.core is not None
        disk = self._durable[raft_id]
        for message in messages:
            kind, term = message.type, message.term
            if kind in _PRE_VOTES:
                continue
            if term > seen.core.term:
                self._fail(raft_id, f"speaks in term {term} and is in {seen.core.term}")
            seen.term = max(seen.term, term)
            if kind in _FROM_LEADER:
                if self.leaders.get(term) != raft_id:
                    self._fail(raft_id, f"speaks as the leader of term {term}")
                if disk.hard_state.term < term:
                    self._fail(raft_id, f"leads in term {term}, which is not on its disk")
                self._checked("a leader speaks for its own term")
            elif kind is MessageType.VOTE:
                self._votes_for(raft_id, disk, term, raft_id)
            elif kind is MessageType.VOTE_RESPONSE and not message.reject:
                self._votes_for(raft_id, disk, term, message.to)
            elif kind is MessageType.APPEND_RESPONSE and not message.reject:
                self._acknowledges(seen, disk, term, message.index)

    def _acknowledges(self, seen: Seen, disk: Durable, term: int, index: int) -> None:
        assert seen.core is not None
        mine = seen.core.log.term_at(index)
        # When the leader of a later term has cut the entry off, and that is on the disk, it is as if it had been there.
        overtaken = term < disk.hard_state.term and (mine is None or mine > term)
        if index and not overtaken and not disk.holds(index, mine if term == seen.core.term else None):
            self._fail(seen.raft_id, f"acknowledges entry {index}, which is not on its disk")
        self._checked("what is acknowledged is on the disk")

    def _votes_for(self, raft_id: int, disk: Durable, term: int, candidate: int) -> None:
        first = self._votes.setdefault((raft_id, term), candidate)
        if first != candidate:
            self._fail(raft_id, f"votes for {first} and {candidate} in term {term}")
        stored = disk.hard_state
        kept = stored.term > term or (stored.term == term and stored.vote == candidate)
        if not kept:
            self._fail(raft_id, f"votes for {candidate} in term {term}, which is not on its disk: {stored}")
        self._checked("one vote in a term, and it is on the disk")

    # -- the disk -----------------------------------------------------------------------------------------------------

    def writes(self, raft_id: int, entries: Sequence[Entry]) -> None:
        """``entries`` go to the disk."""
        seen = self.look(raft_id)
        if seen is None:
            return
        if entries and entries[0].index in seen.written:
            seen.written = {index: term for index, term in seen.written.items() if index < entries[0].index}
        for entry in entries:
            index, term = entry.index, entry.term
            before = seen.written.get(index - 1)
            there = self._log.get((index, term))
            if there is None:
                if entry.kind is EntryKind.CONF_CHANGE:
                    self._changes_alone(seen, entry)
                    self._last_change = max(self._last_change, index)
                self._log[index, term] = (entry, before)
            else:
                known, known_before = there
                same = known == entry and (before is None or known_before is None or before == known_before)
                if not same:
                    self._fail(raft_id, f"writes {entry} after term {before}; others have {known} after {known_before}")
            seen.written[index] = term
            self._checked("logs match")

    def _changes_alone(self, seen: Seen, entry: Entry) -> None:
        earlier = [i for i in range(self.commit + 1, entry.index) if i in seen.written]
        pending = [i for i in earlier if self._log[i, seen.written[i]][0].kind is EntryKind.CONF_CHANGE]
        if pending:
            self._fail(seen.raft_id, f"writes change {entry.index} while change {pending} is not committed")
        self._checked("one change of the membership at a time")

    def saves(self, raft_id: int, snapshot: Snapshot) -> None:
        """A snapshot goes to the disk."""
        seen = self.look(raft_id)
        if seen is None:
            return
        term = self._committed.get(snapshot.index)
        if term != snapshot.term:
            self._fail(raft_id, f"saves {snapshot}, where entry {snapshot.index} is of term {term}")
        mine, right = membership_of(snapshot.conf, 0), attrs.evolve(self._conf_at(snapshot.index), index=0)
        if mine != right:
            self._fail(raft_id, f"saves a snapshot with {mine}, not {right}")
        if seen.written.get(snapshot.index) != snapshot.term:
            seen.written = {snapshot.index: snapshot.term}
        self._checked("a snapshot has the membership of its index")

    # -- the state machine --------------------------------------------------------------------------------------------

    def applies(self, raft_id: int, index: int, data: bytes) -> None:
        """The entry ``index`` goes into the state machine."""
        seen = self.look(raft_id)
        assert seen is not None
        assert seen.core is not None
        committed = seen.core.log.committed
        if index > committed:
            self._fail(raft_id, f"applies entry {index} and knows only {committed} to be committed")
        if index <= seen.applied:
            self._fail(raft_id, f"applies entry {index} after {seen.applied}")
        entry, _ = self._log[index, self._committed[index]]
        if entry.data != data:
            self._fail(raft_id, f"applies something else than the committed entry {index}")
        seen.applied = index
        seen.chain = hashlib.sha256(b"%d %b %b" % (index, seen.chain, data)).digest()
        chain = self._chains.setdefault(index, seen.chain)
        if chain != seen.chain:
            self._fail(raft_id, f"applies entry {index} after other ones than somebody before it")
        conf = self._conf_at(index).index
        if seen.core.conf_index < conf:
            self._fail(raft_id, f"applies entry {index} and not the change {conf} before it")
        self._loop.mark(raft_id, index, int.from_bytes(chain[:7], "big"))
        self._checked("all apply the same entries")

    def snapshots(self, raft_id: int, version: int, data: bytes) -> None:
        """A member's state after the entry ``version`` is ``data``."""
        digest = hashlib.sha256(data).digest()
        first = self._states.setdefault(version, digest)
        if first != digest:
            self._fail(raft_id, f"has another state after entry {version} than somebody before it")
        self._checked("equal logs make equal states")

    def restores(self, raft_id: int, version: int, data: bytes) -> None:
        """A member's state is replaced by ``data``, that after the entry ``version``."""
        digest = hashlib.sha256(data).digest()
        known = self._states.get(version)
        if known != digest:
            self._fail(raft_id, f"restores a state of entry {version} that nobody has saved")
        seen = self._members[raft_id]
        seen.applied, seen.chain = version, self._chains.get(version, b"")
        self._checked("a restored state is one that was saved")

    def _fail(self, raft_id: int, what: str) -> NoReturn:
        error = LawBroken(f"raft member {raft_id} {what}")
        if not self.broken.done():
            self.broken.set_exception(error)
            self.broken.exception()  # whoever plays this universe waits for it, or finds it among the problems
        self._loop.problems.append(str(error))
        raise error
