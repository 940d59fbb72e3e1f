"""The cores against a simple model: whatever hypothesis does to a group, it holds one sequence of committed entries.

Time, delivery, loss, repetition, slow disks, crashes, compaction, changes of the membership, hand-overs and reads are
rules. The laws are those of figure 3 of the Raft paper, and the promises that the disk has to keep.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from raft_cluster import TIMING, Cluster, Node, member

from swarmpy.errors import FailedPrecondition, InvariantViolation, NotLeader, Unavailable
from swarmpy.raft import reads, state
from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import NO_ONE, ConfChange, ConfChangeKind, Message, MessageType, Ready
from swarmpy.raft.state import RaftState

EXAMPLES = int(os.environ.get("SWARMPY_MACHINE_EXAMPLES", "60"))
EVERYBODY = (1, 2, 3, 4, 5)
IDS = st.sampled_from((1, 1, 2, 2, 3, 3, 4, 5))
FATES = st.tuples(st.sampled_from([0, 0, 0, 1, 5, 99]), st.sampled_from(["arrives"] * 4 + ["arrives twice", "is lost"]))
"""Which of the messages on their way, and what becomes of it."""
CHANGES = st.one_of(
    st.tuples(st.sampled_from([ConfChangeKind.ADD_LEARNER, ConfChangeKind.PROMOTE]), st.sampled_from((2, 3, 4, 5))),
    st.tuples(st.sampled_from([ConfChangeKind.REMOVE, ConfChangeKind.UPDATE]), IDS),
)
REFUSALS = (FailedPrecondition, NotLeader, Unavailable)


def _looks_of(core: RaftCore) -> tuple[object, ...]:
    """What others may notice of a member."""
    is_somebody = (core.role, core.term, core.vote, core.leader, core.transferee, core.is_cut_off)
    return (*is_somebody, len(core.outbox), len(core.promises), len(core.read_states), core.election_timeout)


class WatchedCluster(Cluster):
    """A cluster in which every promise is compared with the disk of the member that makes it."""

    def __init__(self, founders: tuple[int, ...]) -> None:
        super().__init__(*founders, joiners=tuple(i for i in EVERYBODY if i not in founders))
        self.votes: dict[tuple[int, int], int] = {}

    def _post(self, node: Node, messages: tuple[Message, ...]) -> None:
        for message in messages:
            assert message.term <= node.hard_state.term + (message.type is MessageType.PRE_VOTE) or (
                message.type is MessageType.PRE_VOTE_RESPONSE
            ), f"member {node.raft_id} speaks in a term that is not on its disk: {message}"
            candidate = {MessageType.VOTE: node.raft_id, MessageType.VOTE_RESPONSE: message.to}.get(message.type)
            if candidate is not None and not message.reject:
                first = self.votes.setdefault((node.raft_id, message.term), candidate)
                assert first == candidate, f"member {node.raft_id} votes twice in term {message.term}"
            if message.type is MessageType.APPEND_RESPONSE and not message.reject:
                last = node.entries[-1].index if node.entries else 0
                stored = max(last, node.snapshot.index if node.snapshot else 0)
                assert message.index <= stored, f"member {node.raft_id} acknowledges what it has not stored"
        super()._post(node, messages)


class RaftMachine(RuleBasedStateMachine):
    """One to three founders, the others of five join. ``seen`` counts over all runs what has come about at all."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.writing: dict[int, tuple[Ready, bool]] = {}
        """What a member works on, and whether it is on its disk."""
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.leader_of: dict[int, int] = {}
        self.asked: dict[int, int] = {}
        """Of each read, the largest index that was committed when it was asked for."""
        self.count = 0

    @initialize(founders=st.sampled_from([(1, 2, 3), (1, 2, 3), (1, 2), (1,)]))
    def found(self, founders: tuple[int, ...]) -> None:
        """The cluster begins with these voters."""
        self.cluster = WatchedCluster(founders)
        self.cluster.elect(1)

    def up(self, raft_id: int) -> RaftCore | None:
        return None if raft_id in self.cluster.down else self.cluster[raft_id]

    # ---- what happens

    @rule(raft_id=IDS, ticks=st.integers(1, 25))
    def tick(self, raft_id: int, ticks: int) -> None:
        """Time passes for one, and what it has to say goes out."""
        core = self.up(raft_id)
        quiet, before = (core.quiet_ticks, _looks_of(core)) if core else (0, ())
        for number in range(1, ticks + 1 if core else 0):
            assert core is not None
            core.tick()
            assert number > quiet or _looks_of(core) == before, f"tick {number} of {quiet} brought something about"
        self.work(raft_id, 3)

    @rule(fates=st.lists(FATES, min_size=1, max_size=20), duties=st.integers(0, 6))
    def deliver(self, fates: list[tuple[int, str]], duties: int) -> None:
        """Some of what is on its way; whom it reaches does some of its duties."""
        wire = self.cluster.wire
        for place, fate in fates[: len(wire)]:
            message = wire.pop(min(place, len(wire) - 1))
            if fate == "is lost" or self.cluster.is_lost(message):
                continue
            if fate == "arrives twice":
                wire.append(message)
            self.cluster[message.to].step(message)
            self.work(message.to, duties)

    @rule(raft_id=IDS, duties=st.integers(1, 9))
    def do_duties(self, raft_id: int, duties: int) -> None:
        """A member goes on with its work."""
        self.work(raft_id, duties)

    def work(self, raft_id: int, duties: int) -> None:
        """Each Ready is three duties: begun, written, finished."""
        while duties and raft_id not in self.cluster.down and self.duty(raft_id):
            duties -= 1

    def duty(self, raft_id: int) -> bool:
        cluster = self.cluster
        node = cluster.nodes[raft_id]
        ready, written = self.writing.pop(raft_id, (None, False))
        if ready is None:
            cluster._post(node, node.core.take_messages())
            is_called = node.core.has_duties
            ready = node.core.ready()
            assert is_called == (ready is not None), f"called: {is_called}, for {ready}"
            if ready is None:
                return False
            cluster._post(node, ready.messages)
            self.writing[raft_id] = (ready, False)
        elif not written:
            node.persist(ready)
            node.core.persisted(ready)
            cluster._post(node, ready.messages_after_persist)
            self.writing[raft_id] = (ready, True)
        else:
            node.apply(ready)
            node.core.advance(ready)
        return True

    @rule(
        raft_id=IDS,
        event=st.sampled_from(["nothing", "a crash", "a long crash", "all come back"]),
        on_disk=st.booleans(),
    )
    def power(self, raft_id: int, event: str, on_disk: bool) -> None:
        """The power goes, for a moment or longer; a write that was under way is on the disk or not."""
        cluster = self.cluster
        if event.endswith("crash"):
            ready, written = self.writing.pop(raft_id, (None, True))
            if ready is not None and not written and on_disk:
                cluster.nodes[raft_id].persist(ready)
            cluster.crash(raft_id)
            self.seen["crashes"] += 1
        if event == "a crash":
            cluster.restart(raft_id)
        elif event == "all come back":
            for other in sorted(cluster.down):
                cluster.restart(other)

    @rule(raft_id=IDS)
    def campaign(self, raft_id: int) -> None:
        """An election timeout."""
        core = self.up(raft_id)
        if core is not None and core.may_campaign and not core.is_leader:
            core.campaign()
            self.work(raft_id, 3)

    @rule(raft_id=IDS, entries=st.integers(1, 3))
    def propose(self, raft_id: int, entries: int) -> None:
        """A leader, or who takes himself for one, is asked to write."""
        core = self.up(raft_id)
        for _ in range(entries if core and core.is_leader else 0):
            assert core is not None
            self.count += 1
            try:
                core.propose(b"%d" % self.count)
            except REFUSALS:
                break
        self.work(raft_id, 2)

    @rule()
    def read(self) -> None:
        """A read is asked for of everybody, whoever leads."""
        for raft_id in sorted(set(self.cluster.nodes) - self.cluster.down):
            self.ask(raft_id)

    def ask(self, raft_id: int) -> None:
        self.count += 1
        self.asked[self.count] = max(self.committed, default=0)
        try:
            self.cluster[raft_id].read_index(self.count)
        except REFUSALS:
            return
        self.work(raft_id, 3)

    @rule(raft_id=IDS, keep=st.integers(0, 3))
    def compact(self, raft_id: int, keep: int) -> None:
        """A member takes a snapshot and forgets its log but for a tail."""
        node = self.cluster.nodes[raft_id]
        if raft_id not in self.cluster.down and node.applied_index > node.core.log.offset:
            node.take_snapshot(keep=keep)
            self.seen["snapshots"] += 1

    @rule(change=CHANGES)
    def change_members(self, change: tuple[ConfChangeKind, int]) -> None:
        """Each leader is asked for a change of the membership."""
        kind, raft_id = change
        for leader in self.cluster.leaders():
            try:
                self.cluster[leader].propose_conf_change(ConfChange(kind=kind, member=member(raft_id)))
            except REFUSALS:
                continue
            self.seen[kind.name] += 1
            self.work(leader, 2)

    @rule(to=st.sampled_from((NO_ONE, 1, 2, 3)))
    def transfer(self, to: int) -> None:
        """Each leader is asked to hand over."""
        for leader in self.cluster.leaders():
            try:
                self.cluster[leader].transfer_leadership(to)
            except REFUSALS:
                continue
            self.seen["transfers"] += 1
            self.work(leader, 1)

    @rule(raft_id=IDS)
    def isolate(self, raft_id: int) -> None:
        """One is cut off from all others."""
        self.cluster.isolate(raft_id)

    @rule()
    def heal(self) -> None:
        """Nobody is cut off any more."""
        self.cluster.heal()

    @rule(raft_id=IDS, ticks=st.integers(5, 25))
    def stand_still(self, raft_id: int, ticks: int) -> None:
        """For one no time passes, and nothing reaches it; the others go on. Then it is asked for a read."""
        self.finish_writing()
        self.cluster.isolate(raft_id)
        for _ in range(ticks):
            for other in sorted(set(self.cluster.nodes) - {raft_id}):
                self.cluster.tick(only=other)
        self.one_history()
        if raft_id not in self.cluster.down:
            self.ask(raft_id)

    @rule(ticks=st.sampled_from([0, 0, 0, 1, 5, 25]))
    def calm(self, ticks: int) -> None:
        """Time passes for all; what is sent arrives, but at those that are cut off; every duty is done."""
        self.finish_writing()
        self.cluster.settle()
        self.cluster.tick(ticks)

    def finish_writing(self) -> None:
        for raft_id in sorted(self.writing):
            while raft_id in self.writing:
                self.duty(raft_id)

    # ---- what must hold

    @invariant()
    def one_leader_a_term(self) -> None:
        """Election safety."""
        for raft_id in self.cluster.leaders():
            core = self.cluster[raft_id]
            if core.durable[0] == core.term:
                assert self.leader_of.setdefault(core.term, raft_id) == raft_id, f"two leaders in term {core.term}"

    @invariant()
    def one_history(self) -> None:
        """State machine safety: nobody commits, or has applied, anything else at a place than anybody did."""
        for node in self.cluster.nodes.values():
            log = node.core.log
            for index in range(log.first_index, log.committed + 1):
                entry = log.entry(index)
                assert self.committed.setdefault(index, (entry.term, entry.data)) == (entry.term, entry.data)
            for index, data in node.applied.items():
                assert self.committed[index][1] == data

    @invariant()
    def reads_are_fresh(self) -> None:
        """A read waits at least for all that was committed when it was asked for."""
        for node in self.cluster.nodes.values():
            for number, index in node.reads.items():
                assert index >= self.asked[number], f"read {number} does not see entry {self.asked[number]}"

    @invariant()
    def leaders_are_complete(self) -> None:
        """Leader completeness: a leader of the latest term has everything that was ever committed.

        The latest is that of all members: whoever was followed by another leader is behind a majority's term.
        """
        latest = max(node.core.term for node in self.cluster.nodes.values())
        for raft_id in self.cluster.leaders():
            core = self.cluster[raft_id]
            places = [i for i in self.committed if i > core.log.offset] if core.term == latest else []
            lacking = [i for i in places if not core.log.matches(i, self.committed[i][0])]
            assert not lacking, f"leader {raft_id} of term {latest} lacks the committed entries {lacking}"

    @invariant()
    def logs_match(self) -> None:
        """Log matching: two logs with the same term at a place are the same up to it."""
        logs = [node.core.log for node in self.cluster.nodes.values()]
        for number, one in enumerate(logs):
            for two in logs[:number]:
                agree = False
                for index in range(min(one.last_index, two.last_index), max(one.offset, two.offset), -1):
                    agree = agree or one.matches(index, two.entry(index).term)
                    assert not agree or one.entry(index) == two.entry(index)

    def teardown(self) -> None:
        """With the faults over, somebody leads, takes a write, and all that belong to it agree."""
        cluster = self.cluster
        self.finish_writing()
        cluster.heal()
        cluster.wire.clear()
        for raft_id in sorted(cluster.down):
            cluster.restart(raft_id)
        cluster.tick(60)
        leader = cluster.wait_leader()
        cluster.propose(leader, b"last")
        cluster.tick(10)
        self.one_history()
        assert {cluster.values(i)[-1] for i in cluster[leader].members} == {b"last"}
        assert len({tuple(cluster.values(i)) for i in cluster[leader].members}) == 1
        self.seen["reads"] += sum(len(node.reads) for node in cluster.nodes.values())
        self.seen["terms"] += len(self.leader_of)
        self.seen["commits"] += len(self.committed)


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def test_any_schedule() -> None:
    """No schedule breaks a law, and afterwards the group works; the schedules do bring about what they should."""
    RaftMachine.seen.clear()
    run_state_machine_as_test(
        RaftMachine,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=60, deadline=None, suppress_health_check=CHECKS),
    )
    seen = RaftMachine.seen
    seen["changes"] = sum(seen[kind.name] for kind in ConfChangeKind)
    least = {"commits": 50, "terms": 10, "reads": 10, "crashes": 10, "snapshots": 5, "transfers": 5, "changes": 1}
    assert {name: seen[name] for name in least if seen[name] < least[name]} == {}


def answer_at_once(leader: RaftState, reader: int, number: int) -> bool:
    leader.read_states.append(reads.ReadState(request=number, index=leader.log.committed))
    return True


@pytest.mark.parametrize(
    ("where", "name", "bug"),
    [
        (state, "_PROMISES", frozenset()),
        (reads, "_admit", answer_at_once),
        (Node, "persist", lambda self, ready: None),
        (RaftCore, "quiet_ticks", TIMING.election),
        (RaftCore, "has_duties", False),
    ],
    ids=[
        "promises before it writes",
        "answers reads without a quorum",
        "writes nothing",
        "takes every tick for a quiet one",
        "calls nobody for its duties",
    ],
)
def test_bugs_are_found(monkeypatch, where, name, bug) -> None:
    """The machine finds deliberate bugs, so it can find others."""
    monkeypatch.setattr(where, name, bug)
    with pytest.raises((AssertionError, InvariantViolation)):
        run_state_machine_as_test(
            RaftMachine,
            settings=settings(
                max_examples=400,
                stateful_step_count=60,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=CHECKS,
                report_multiple_bugs=False,
            ),
        )
