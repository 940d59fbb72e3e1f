"""Replication and safety: one test for each sentence of sections 5.3, 5.4 and 7 of the Raft paper that matters here."""

from __future__ import annotations

import pytest
from raft_cluster import TIMING, Cluster, conf_of, core_of, drain, elect, entries_of, sent

from swarmpy.errors import InvariantViolation, NotLeader, Unavailable
from swarmpy.raft.core import MAX_UNCOMMITTED_BYTES, MAX_UNCOMMITTED_ENTRIES
from swarmpy.raft.messages import Entry, Message, MessageType, Snapshot
from swarmpy.raft.progress import MAX_INFLIGHT_MESSAGES, ProgressState, agreed, majority
from swarmpy.raft.replication import MAX_APPEND_BYTES


def append(core, *terms, index=1, log_term=1, commit=1, term=None, source=2):
    return Message(
        type=MessageType.APPEND,
        to=core.raft_id,
        source=source,
        term=core.term if term is None else term,
        index=index,
        log_term=log_term,
        commit=commit,
        entries=entries_of(*terms, first=index + 1),
    )


def terms_of(core) -> list[int]:
    return [core.log.term_at(i) for i in range(core.log.first_index, core.log.last_index + 1)]


class TestFollower:
    def test_acknowledges_only_what_is_durable(self) -> None:
        """An append is answered with the Ready that persists it, never before."""
        core = core_of(1, 1, 2, 3)
        core.step(append(core, 1, 1))
        ready = core.ready()
        assert ready is not None
        assert [e.index for e in ready.entries] == [2, 3]
        assert ready.messages == ()
        assert [(m.type, m.index) for m in ready.messages_after_persist] == [(MessageType.APPEND_RESPONSE, 3)]

    @pytest.mark.parametrize(
        ("own", "index", "log_term", "fits"),
        [((), 1, 1, True), ((1,), 2, 1, True), ((1,), 2, 2, False), ((1,), 3, 1, False), ((1, 2), 2, 1, True)],
    )
    def test_consistency_check(self, own, index, log_term, fits) -> None:
        """Entries are refused unless the log has the one before them with its term."""
        core = core_of(1, 1, 2, 3, terms=own, term=3)
        core.step(append(core, 3, index=index, log_term=log_term))
        (answer,) = sent(core)
        assert answer.reject is not fits
        assert answer.index == (index + 1 if fits else index)

    @pytest.mark.parametrize(
        ("own", "sent_terms", "index", "log_term", "result"),
        [
            ((1, 1, 1), (2,), 2, 1, [1, 2]),
            ((1, 1, 1), (1,), 2, 1, [1, 1, 1]),
            ((1, 1), (1, 1, 2), 1, 1, [1, 1, 2]),
            ((1, 2, 2), (3, 3), 2, 1, [1, 3, 3]),
            ((1, 2), (), 2, 1, [1, 2]),
        ],
    )
    def test_conflicts_are_cut_and_agreement_is_kept(self, own, sent_terms, index, log_term, result) -> None:
        """A conflicting entry goes with all after it; entries that agree stay, even beyond a late message's end."""
        core = core_of(1, 1, 2, 3, terms=own, term=3)
        core.step(append(core, *sent_terms, index=index, log_term=log_term))
        assert terms_of(core) == result

    def test_overwritten_entries_are_persisted_anew(self) -> None:
        """A tail that was durable and is replaced is handed out again from the conflict on."""
        core = core_of(1, 1, 2, 3, terms=(1, 1, 1), term=2)
        core.step(append(core, 2, index=2, log_term=1))
        ready = core.ready()
        assert ready is not None
        assert [(e.index, e.term) for e in ready.entries] == [(3, 2)]

    def test_cut_while_being_written(self) -> None:
        """What is replaced while the disk works is not taken for durable, and is written again."""
        core = core_of(1, 1, 2, 3)
        core.step(append(core, 1, 1))
        first = core.ready()
        assert first is not None
        core.step(append(core, 2, index=2, log_term=1, term=2, source=3))
        core.advance(first)
        second = core.ready()
        assert second is not None
        assert (3, 2) in [(e.index, e.term) for e in second.entries]
        core.advance(second)
        assert core.log.stable == 3

    def test_commit_never_passes_what_is_known_to_match(self) -> None:
        """The leader's commit counts only up to the last entry of the message: beyond it the log may be another's."""
        core = core_of(1, 1, 2, 3, terms=(1, 1), term=2)
        core.step(append(core, index=1, commit=3))
        assert core.log.committed == 1
        core.step(append(core, index=2, commit=3))
        assert core.log.committed == 2

    def test_committed_entries_are_never_cut(self) -> None:
        """A leader that contradicts a committed entry is a defect, and nobody goes on over it."""
        core = core_of(1, 1, 2, 3, terms=(1, 1), commit=2)
        with pytest.raises(InvariantViolation):
            core.log.maybe_append(1, 1, entries_of(2))

    def test_late_append_is_answered_with_the_commit(self) -> None:
        """An append from before the commit is not looked at again."""
        core = core_of(1, 1, 2, 3, terms=(1, 1, 1), commit=3)
        core.step(append(core, 1, index=1))
        assert [(m.index, m.reject) for m in sent(core, MessageType.APPEND_RESPONSE)] == [(3, False)]

    def test_heartbeat_commits(self) -> None:
        """A heartbeat carries the commit, and is answered with the read round it confirms."""
        core = core_of(1, 1, 2, 3, terms=(1, 1))
        core.step(Message(type=MessageType.HEARTBEAT, to=1, source=2, term=1, commit=3, context=5))
        (ready,) = drain(core)
        assert [e.index for e in ready.committed] == [2, 3]
        assert [(m.type, m.context) for m in ready.messages] == [(MessageType.HEARTBEAT_RESPONSE, 5)]


class TestLeader:
    def test_begins_with_a_noop(self) -> None:
        """A new leader appends an empty entry of its term."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        ready = core.ready()
        assert ready is not None
        assert [(e.term, e.index, e.data) for e in ready.entries] == [(2, 2, b"")]

    def test_appends_go_out_before_the_own_disk(self) -> None:
        """Followers get an entry while the leader still writes it, and its own vote counts only afterwards."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        ready = core.ready()
        assert ready is not None
        assert [(m.to, m.type) for m in ready.messages] == [(2, MessageType.APPEND), (3, MessageType.APPEND)]
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=2, index=2))
        assert core.log.committed == 1
        core.persisted(ready)
        assert core.log.committed == 2

    def test_majority_of_followers_commits_without_the_own_disk(self) -> None:
        """A slow disk of the leader does not hold the cluster up."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        core.ready()
        for source in (2, 3):
            core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=source, term=2, index=2))
        assert core.log.committed == 2

    def test_proposals_share_an_append(self) -> None:
        """However many proposals come at once, each follower gets one message and the disk one write."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        for n in range(100):
            core.propose(b"%d" % n)
        ready = core.ready()
        assert ready is not None
        assert len(ready.entries) == 100
        assert [len(m.entries) for m in ready.messages] == [100, 100]

    def test_appends_are_bounded_in_bytes(self) -> None:
        """One message carries a bounded number of bytes, but always an entry."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        size = MAX_APPEND_BYTES // 2
        for _ in range(5):
            core.propose(bytes(size))
        core.propose(bytes(MAX_APPEND_BYTES + 5))
        counts = [len(m.entries) for m in sent(core, MessageType.APPEND) if m.to == 2]
        assert counts == [2, 2, 1, 1]

    def test_window_bounds_what_is_in_flight(self) -> None:
        """A follower that does not answer is sent a bounded number of messages."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        count = 0
        for n in range(2 * MAX_INFLIGHT_MESSAGES):
            core.propose(b"%d" % n)
            count += sum(1 for m in core.take_messages() if m.to == 2 and m.entries)
        assert count == MAX_INFLIGHT_MESSAGES
        core.step(
            Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=core.term, index=core.log.last_index - 10)
        )
        assert sum(len(m.entries) for m in core.take_messages() if m.to == 2) > 0

    def test_commit_is_told_at_once(self) -> None:
        """Followers apply an entry as soon as it is committed, without waiting for a heartbeat."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.propose(1, b"x")
        assert [cluster.values(i) for i in (1, 2, 3)] == [[b"x"]] * 3

    def test_commits_with_a_minority_down(self) -> None:
        """Two of three are enough, one is not."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(3)
        cluster.propose(1, b"x")
        assert cluster.values(1) == [b"x"]
        cluster.crash(2)
        cluster.propose(1, b"y")
        assert cluster.values(1) == [b"x"]

    def test_older_terms_are_not_committed_by_counting(self) -> None:
        """An entry of an earlier term is committed only along with one of the own term (figure 8 of the paper)."""
        core = core_of(1, 1, 2, 3, 4, 5, terms=(2,), term=3)
        elect(core)
        drain(core)
        for source in (2, 3):
            core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=source, term=core.term, index=2))
        assert core.log.committed == 1
        for source in (2, 3):
            core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=source, term=core.term, index=3))
        assert core.log.committed == 3

    def test_lost_append_is_repaired(self) -> None:
        """After a lost message the next heartbeat's answer leads to a repair, though nothing else is proposed."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.drop = lambda m: m.type is MessageType.APPEND and m.to == 3
        cluster.propose(1, b"x")
        cluster.heal()
        assert cluster.values(3) == []
        cluster.tick(3)
        assert cluster.values(3) == [b"x"]

    def test_answers_about_unknown_entries_are_ignored(self) -> None:
        """A follower cannot acknowledge what the leader never had."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        drain(core)
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=core.term, index=1000))
        assert core.progress[2].match == 0

    def test_back_pressure(self) -> None:
        """Without a quorum a bounded number of entries and bytes is taken; nothing is appended when one is refused."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        for _ in range(MAX_UNCOMMITTED_BYTES // 1_000_000):
            core.propose(bytes(1_000_000))
        last = core.log.last_index
        with pytest.raises(Unavailable):
            core.propose(bytes(1_000_000))
        while core.log.last_index - core.log.committed < MAX_UNCOMMITTED_ENTRIES:
            core.propose(b"x")
        with pytest.raises(Unavailable):
            core.propose(b"x")
        assert core.log.last_index > last

    def test_only_the_leader_takes_proposals(self) -> None:
        """A follower refuses, and nothing is in its log."""
        core = core_of(1, 1, 2, 3)
        with pytest.raises(NotLeader):
            core.propose(b"x")
        assert core.log.last_index == 1


class TestConflictRepair:
    def test_figure_7(self) -> None:
        """Whatever a lost leader left behind, missing or extra, the logs end up equal (figure 7 of the paper)."""
        leader_terms = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
        followers = [
            (1, 1, 1, 4, 4, 5, 5, 6, 6),
            (1, 1, 1, 4),
            (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
            (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
            (1, 1, 1, 4, 4, 4, 4),
            (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
        ]
        for terms in followers:
            cluster = Cluster(1, 2, 3)
            for raft_id, own in ((1, leader_terms), (2, terms), (3, leader_terms)):
                node = cluster.nodes[raft_id]
                node.entries = list(entries_of(*own))
                node.hard_state = node.hard_state.__class__(term=7, vote=0, commit=1)
                node.restart()
            cluster.elect(1)
            cluster.propose(1, b"x")
            cluster.tick(2)
            assert terms_of(cluster[2]) == terms_of(cluster[1])
            assert cluster.values(2) == cluster.values(1)

    def test_long_conflicts_are_skipped_by_term(self) -> None:
        """A follower with hundreds of entries of lost terms is repaired in a few round trips."""
        cluster = Cluster(1, 2, 3)
        for raft_id, own in ((1, (1,) + (5,) * 400), (2, (1,) + (2,) * 200 + (3,) * 300), (3, (1,) + (5,) * 400)):
            node = cluster.nodes[raft_id]
            node.entries = list(entries_of(*own))
            node.hard_state = node.hard_state.__class__(term=5, vote=0, commit=1)
            node.restart()
        probes = 0

        def count(message: Message) -> bool:
            nonlocal probes
            probes += message.type is MessageType.APPEND and message.to == 2
            return False

        cluster.drop = count
        cluster.elect(1)
        assert terms_of(cluster[2]) == terms_of(cluster[1])
        assert probes <= 6

    def test_late_rejection_is_ignored(self) -> None:
        """A rejection of a message sent long ago does not take the follower back."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.propose(1, b"x", b"y")
        match = cluster[1].progress[2].match
        cluster[1].step(
            Message(
                type=MessageType.APPEND_RESPONSE, to=1, source=2, term=cluster[1].term, index=2, reject=True, hint=0
            )
        )
        assert cluster[1].progress[2].state is ProgressState.REPLICATE
        assert cluster[1].progress[2].match == match


class TestSnapshots:
    def test_behind_the_log_gets_a_snapshot(self) -> None:
        """A follower that needs compacted entries is sent a snapshot and goes on with the log after it."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(3)
        cluster.propose(1, *[b"%d" % n for n in range(50)])
        cluster.nodes[1].take_snapshot(keep=5)
        cluster.propose(1, b"after")
        cluster.restart(3)
        cluster.tick(5)
        assert cluster.values(3) == cluster.values(1)
        assert cluster[3].log.offset > 1
        assert cluster[1].progress[3].state is ProgressState.REPLICATE

    def test_kept_tail_spares_the_snapshot(self) -> None:
        """A follower that lacks only entries of the kept tail gets those."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(3)
        cluster.propose(1, *[b"%d" % n for n in range(50)])
        cluster.nodes[1].take_snapshot(keep=51)
        cluster.restart(3)
        cluster.tick(5)
        assert cluster.values(3) == cluster.values(1)
        assert cluster[3].log.offset == 1

    def test_restart_from_snapshot_and_tail(self) -> None:
        """A member restarted from a snapshot with a kept tail is what it was."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.propose(1, *[b"%d" % n for n in range(20)])
        cluster.nodes[1].take_snapshot(keep=5)
        cluster.propose(1, b"after")
        before = cluster.values(1)
        cluster.restart(1)
        cluster.wait_leader()
        cluster.tick(3)
        assert cluster.values(1) == before

    def test_stale_snapshot_is_ignored(self) -> None:
        """A snapshot behind the commit changes nothing, and is answered with the commit."""
        core = core_of(1, 1, 2, 3, terms=(1, 1, 1), commit=4)
        snapshot = Snapshot(index=2, term=1, conf=conf_of(1, 2))
        core.step(Message(type=MessageType.SNAPSHOT, to=1, source=2, term=1, snapshot=snapshot))
        ready = drain(core)
        assert all(r.snapshot is None for r in ready)
        assert [m.index for r in ready for m in r.messages_after_persist] == [4]
        assert core.voters == (1, 2, 3)

    def test_snapshot_of_entries_that_are_there_only_commits(self) -> None:
        """Nothing is thrown away for a snapshot whose entry the log has."""
        core = core_of(1, 1, 2, 3, terms=(1, 1, 1, 1))
        snapshot = Snapshot(index=3, term=1, conf=conf_of(1, 2, 3))
        core.step(Message(type=MessageType.SNAPSHOT, to=1, source=2, term=1, snapshot=snapshot))
        assert core.log.committed == 3
        assert core.log.last_index == 5

    def test_undelivered_snapshot_is_tried_again(self) -> None:
        """When the snapshot did not get over, the follower is probed when it is next heard of, and gets another."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        drain(core)
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=2, index=1, reject=True, hint=0))
        assert [m.to for m in sent(core, MessageType.SNAPSHOT)] == [2]
        core.report_snapshot(2, delivered=False)
        assert sent(core, MessageType.SNAPSHOT) == []
        core.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=2, term=2))
        assert [m.to for m in sent(core, MessageType.SNAPSHOT)] == [2]

    def test_silent_follower_gets_none(self) -> None:
        """No snapshot is made ready for a follower that does not answer anyway."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(3)
        cluster.propose(1, *[b"%d" % n for n in range(10)])
        cluster.nodes[1].take_snapshot()
        cluster.tick(2 * TIMING.election)
        cluster.propose(1, b"x")
        assert cluster[1].progress[3].state is not ProgressState.SNAPSHOT

    def test_crash_between_snapshot_and_term(self) -> None:
        """A snapshot of a later term than the stored one raises the term, with no vote cast in it."""
        cluster = Cluster(1, 2, 3)
        node = cluster.nodes[1]
        node.snapshot = Snapshot(index=9, term=6, conf=conf_of(1, 2, 3))
        node.hard_state = node.hard_state.__class__(term=2, vote=3, commit=1)
        node.restart()
        assert (node.core.term, node.core.vote, node.core.log.committed) == (6, 0, 9)


class TestQuorum:
    @pytest.mark.parametrize("count", range(1, 8))
    def test_agreed_is_what_a_majority_has(self, count) -> None:
        """The agreed value is reached by a majority, and the next larger one is not."""
        values = list(range(count))
        value = agreed(values)
        assert sum(1 for v in values if v >= value) >= majority(count)
        assert sum(1 for v in values if v >= value + 1) < majority(count)

    def test_two_majorities_meet(self) -> None:
        """Any two majorities share a member."""
        assert all(2 * majority(n) > n for n in range(1, 10))


def test_hard_state_is_not_written_for_a_commit_alone() -> None:
    """A commit costs no fsync of its own: it is learnt again after a crash."""
    core = core_of(1, 1, 2, 3, terms=(1,))
    core.step(Message(type=MessageType.HEARTBEAT, to=1, source=2, term=1, commit=2))
    (ready,) = drain(core)
    assert ready.hard_state is None
    assert ready.committed


def test_lost_log_is_noticed() -> None:
    """A commit beyond the end of the own log means that a durable log was lost."""
    with pytest.raises(InvariantViolation):
        core_of(1, 1, 2, 3, terms=(1,), commit=9)


def test_entries_are_applied_in_bounded_slices() -> None:
    """A long backlog comes in several Readys, in order and without a gap."""
    core = core_of(1, 1, 2, 3, terms=(1,) * 1000, commit=1001)
    batches = [r.committed for r in drain(core)]
    assert len(batches) > 2
    assert [e.index for b in batches for e in b] == list(range(2, 1002))
    assert all(isinstance(e, Entry) for b in batches for e in b)
