"""Sections 5.3, 5.4, 5.5 and 7 of the Raft paper, 10.2.1 of Ongaro's thesis: the log, its safety, snapshots.

The table of all claims is in test_raft_paper.py.
"""

from __future__ import annotations

import pytest
from raft_cluster import Cluster, conf_of, core_of, drain, elect, entries_of, sent

from swarmpy.raft.messages import HardState, Message, MessageType, Snapshot
from swarmpy.raft.progress import ProgressState


def acknowledge(core, source: int, index: int) -> None:
    core.step(Message(type=MessageType.APPEND_RESPONSE, to=core.raft_id, source=source, term=core.term, index=index))


def append(core, *terms: int, index: int = 1, log_term: int = 1, commit: int = 1) -> Message:
    return Message(
        type=MessageType.APPEND,
        to=core.raft_id,
        source=2,
        term=core.term,
        index=index,
        log_term=log_term,
        commit=commit,
        entries=entries_of(*terms, first=index + 1),
    )


def content(core) -> tuple[object, ...]:
    """Everything in a log."""
    log = core.log
    entries = [log.entry(i) for i in range(log.first_index, log.last_index + 1)]
    return log.offset, entries, log.committed, log.applied, log.stable


def with_logs(term: int, *logs: tuple[int, ...]) -> Cluster:
    """Members 1, 2, ... with these terms in their logs, after the first snapshot."""
    cluster = Cluster(*range(1, len(logs) + 1))
    for node, terms in zip(cluster.nodes.values(), logs, strict=True):
        node.entries = list(entries_of(*terms))
        node.hard_state = HardState(term=term, commit=1)
        node.restart()
    return cluster


class TestReplication:
    @pytest.mark.parametrize(
        ("size", "others", "committed"),
        [
            (1, 0, True),
            (2, 0, False),
            (2, 1, True),
            (3, 1, True),
            (4, 1, False),
            (4, 2, True),
            (5, 1, False),
            (5, 2, True),
        ],
    )
    def test_a_majority_commits(self, size, others, committed) -> None:
        """5.3: an entry is committed when it is stored by a majority of all voters, the leader among them."""
        core = core_of(1, *range(1, size + 1))
        elect(core)
        drain(core)
        for source in range(2, 2 + others):
            acknowledge(core, source, core.log.last_index)
        assert (core.log.committed == core.log.last_index) is committed

    def test_a_commit_takes_what_is_before_with_it(self) -> None:
        """5.3: with an entry all entries before it are committed, those of earlier leaders included."""
        core = core_of(1, 1, 2, 3, terms=(1, 2, 2), term=3)
        elect(core)
        drain(core)
        acknowledge(core, 2, core.log.last_index)
        applied = [(e.term, e.index) for ready in drain(core) for e in ready.committed]
        assert applied == [(1, 2), (2, 3), (2, 4), (4, 5)]

    def test_a_leader_never_changes_its_own_log(self) -> None:
        """5.3: leader append-only: followers with other and longer logs change nothing in the leader's."""
        cluster = with_logs(7, (1, 4, 6), (1, 4, 6), (1, 2, 3, 3, 3, 3))
        before = [cluster[1].log.entry(i) for i in range(2, 5)]
        cluster.elect(1)
        cluster.propose(1, b"x")
        assert [cluster[1].log.entry(i) for i in range(2, 5)] == before

    def test_a_leader_first_assumes_equal_logs(self) -> None:
        """5.3: a new leader begins after its own last entry of before, and goes back only where it does not fit."""
        core = core_of(1, 1, 2, 3, terms=(1, 1, 1))
        elect(core)
        assert [(m.index, m.log_term) for m in sent(core, MessageType.APPEND)] == [(4, 1), (4, 1)]

    def test_a_follower_that_returns_gets_everything(self) -> None:
        """5.3: the leader goes on sending for ever, also after it has answered its client."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(3)
        for n in range(30):
            cluster.propose(1, b"%d" % n)
            cluster.tick(3)
        cluster.restart(3)
        cluster.tick(2)
        assert cluster.values(3) == cluster.values(1)

    def test_figure_8(self) -> None:
        """5.4.2: an old entry on a majority is not committed, and may be replaced; with a new one after it, never."""
        logs = ((1, 2), (1, 2), (1, 2), (1,), (1, 3))  # moment (c): 1 has brought "2.3" to 3, too
        cluster = with_logs(3, *logs)
        cluster.isolate(5)
        cluster.drop = lambda m: m.type is MessageType.APPEND and bool(m.entries)  # its no-op of term 4 is lost
        cluster.elect(1)
        cluster.tick(2)
        assert cluster[1].log.committed == 1
        cluster.heal()
        cluster.crash(1)
        for raft_id in (2, 3, 4):
            cluster.restart(raft_id)
        cluster[5].become_follower(cluster[2].term, 0)
        cluster.elect(5)
        assert cluster[3].log.term_at(3) == 3

        cluster = with_logs(3, *logs)
        cluster.isolate(5)
        cluster.elect(1)
        assert cluster[1].log.committed == 4
        cluster.heal()
        cluster.crash(1)
        for raft_id in (2, 3, 4):
            cluster.restart(raft_id)
        cluster[5].become_follower(cluster[2].term, 0)
        cluster[5].campaign()
        cluster.settle()
        assert cluster.leaders() == []

    def test_messages_are_idempotent(self) -> None:
        """5.5: what is sent again after a crash does no harm: the same append, snapshot or heartbeat twice is once."""
        snapshot = Snapshot(index=9, term=1, conf=conf_of(1, 2, 3))
        for message in (
            append(core_of(1, 1, 2, 3), 1, 1, commit=3),
            Message(type=MessageType.SNAPSHOT, to=1, source=2, term=1, snapshot=snapshot),
            Message(type=MessageType.HEARTBEAT, to=1, source=2, term=1, commit=1),
        ):
            core = core_of(1, 1, 2, 3)
            core.step(message)
            drain(core)
            before = content(core)
            core.step(message)
            assert all(not r.entries and r.snapshot is None and not r.committed for r in drain(core))
            assert content(core) == before


class TestDiskInParallel:
    def test_a_commit_without_the_leaders_disk_survives_the_leader(self) -> None:
        """10.2.1: a majority of followers commits while the leader still writes; its crash then loses nothing."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        core = cluster[1]
        index = core.propose(b"x")
        ready = core.ready()  # sent, never written
        assert ready is not None
        cluster.wire += ready.messages
        for raft_id in (2, 3):
            for message in [m for m in cluster.wire if m.to == raft_id]:
                cluster[raft_id].step(message)
            cluster.work(raft_id)
        for message in cluster.wire:
            if message.to == 1:
                core.step(message)
        cluster.wire.clear()
        assert core.log.committed == index
        assert core.log.stable < index
        cluster.restart(1)
        assert cluster[1].log.last_index < index
        cluster.wait_leader()
        cluster.tick(3)
        assert cluster.values(1) == cluster.values(2) == [b"x"]

    def test_nothing_is_applied_before_it_is_committed(self) -> None:
        """10.2.1: the leader's own write alone applies nothing."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        core.propose(b"x")
        assert all(not ready.committed for ready in drain(core))


class TestSnapshots:
    def test_a_snapshot_carries_the_membership(self) -> None:
        """7: whoever installs a snapshot has the members of that moment, however many changes it never saw."""
        core = core_of(1, 1, 2, 3)
        conf = conf_of(1, 3, 4, 5, learners=(6,))
        core.step(
            Message(type=MessageType.SNAPSHOT, to=1, source=2, term=1, snapshot=Snapshot(index=9, term=1, conf=conf))
        )
        (ready,) = drain(core)
        assert ready.snapshot is not None
        assert (core.conf, core.voters) == (conf, (1, 3, 4, 5))
        assert [m.index for m in ready.messages_after_persist] == [9]

    def test_only_what_is_applied_and_stored_is_compacted(self) -> None:
        """7: the log is cut only where a snapshot of the applied state can stand for it."""
        core = core_of(1, 1, 2, 3, terms=(1, 1, 1), commit=3)
        core.compact(99)
        assert core.log.offset == 1
        drain(core)
        core.compact(99)
        assert core.log.offset == 3

    def test_a_compacted_log_is_still_checked(self) -> None:
        """7: of the last compacted entry index and term are kept, for the check of the first append after it."""
        core = core_of(1, 1, 2, 3, terms=(1, 1, 1), commit=4)
        drain(core)
        core.compact(4)
        core.step(append(core, 1, index=4, log_term=1))
        assert [m.reject for m in sent(core, MessageType.APPEND_RESPONSE)] == [False]
        assert core.log.last_index == 5

    def test_a_follower_is_fed_nothing_else_meanwhile(self) -> None:
        """7: until the snapshot is there, appends after it would not fit and are not sent."""
        core = core_of(1, 1, 2, 3, terms=(1,) * 5, commit=6)
        elect(core)
        drain(core)
        core.compact(6)
        core.step(
            Message(
                type=MessageType.APPEND_RESPONSE,
                to=1,
                source=2,
                term=core.term,
                index=6,
                reject=True,
                hint=1,
                hint_term=1,
            )
        )
        assert [m.type for m in sent(core) if m.to == 2] == [MessageType.SNAPSHOT]
        assert core.progress[2].state is ProgressState.SNAPSHOT
        core.propose(b"x")
        assert [m.type for m in sent(core) if m.to == 2] == []
