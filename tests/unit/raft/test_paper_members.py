"""Section 6 of the Raft paper, chapters 4 and 6 of Ongaro's thesis: membership, and what clients may rely on.

The table of all claims is in test_raft_paper.py.
"""

from __future__ import annotations

import itertools

import pytest
from raft_cluster import TIMING, Cluster, core_of, drain, elect, member, sent

from swarmpy.errors import NotLeader, Unavailable
from swarmpy.raft import reads
from swarmpy.raft.messages import ConfChange, ConfChangeKind, Message, MessageType
from swarmpy.raft.progress import majority
from swarmpy.raft.state import RaftRole


def change(kind: ConfChangeKind, raft_id: int) -> ConfChange:
    return ConfChange(kind=kind, member=member(raft_id))


class TestMembership:
    @pytest.mark.parametrize("size", range(1, 7))
    def test_old_and_new_majorities_meet(self, size) -> None:
        """4.1: with one voter more, any majority of before and any of after share a member; so also with one less."""
        before, after = range(size), range(size + 1)
        for old in itertools.combinations(before, majority(size)):
            for new in itertools.combinations(after, majority(size + 1)):
                assert set(old) & set(new)

    def test_an_uncommitted_change_goes_with_its_leader(self) -> None:
        """4.1: a change that reached no majority is replaced like any entry; the members are as before."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster[1].propose_conf_change(change(ConfChangeKind.REMOVE, 3))
        cluster.tick(3 * TIMING.election)
        cluster.heal()
        cluster.tick(3)
        assert [cluster[i].voters for i in (1, 2, 3)] == [(1, 2, 3)] * 3
        (leader,) = cluster.leaders()
        cluster[leader].propose_conf_change(change(ConfChangeKind.ADD_LEARNER, 4))

    def test_a_new_leader_finishes_the_change_it_inherits(self) -> None:
        """4.1: a change on a majority is committed by the next leader, who takes no other before that."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster[1].propose_conf_change(change(ConfChangeKind.REMOVE, 1))
        cluster.drop = lambda m: m.to == 1  # the answers are lost: it is committed by nobody
        cluster.settle()
        cluster.crash(1)
        cluster.heal()
        leader = cluster.wait_leader()
        cluster.tick(2)
        assert cluster[leader].voters == (2, 3)

    def test_a_learner_has_no_part_in_any_quorum(self) -> None:
        """4.2.1: neither its vote, nor its acknowledgement, nor its answer to a heartbeat counts."""
        core = core_of(1, 1, 2, 3, learners=(4,))
        elect(core)
        drain(core)
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=4, term=2, index=2))
        assert core.log.committed == 1
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=2, index=2))
        assert core.log.committed == 2
        core.read_index(1)
        (beat,) = [m for m in sent(core, MessageType.HEARTBEAT) if m.to == 4]
        core.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=4, term=2, context=beat.context))
        assert all(not ready.reads for ready in drain(core))
        for _ in range(TIMING.election):
            core.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=4, term=2))
            core.tick()
        assert core.role is RaftRole.FOLLOWER

    def test_a_leader_counts_itself_until_its_removal_is_in_force(self) -> None:
        """4.2.2: the leader of three that removes itself needs one of the other two, and then leads no more."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(3)
        cluster[1].propose_conf_change(change(ConfChangeKind.REMOVE, 1))
        cluster.settle()
        assert cluster[1].role is RaftRole.FOLLOWER
        assert cluster[2].voters == (2, 3)

    def test_a_member_that_is_not_one_yet_disturbs_nobody(self) -> None:
        """4.2.3: a stranger, however late its term and long its log, makes no follower of a leader vote."""
        cluster = Cluster(1, 2, 3)
        term = cluster.elect(1).term
        for raft_id in (1, 2, 3):
            cluster[raft_id].step(
                Message(type=MessageType.VOTE, to=raft_id, source=9, term=term + 5, index=99, log_term=99)
            )
        cluster.tick(2)
        assert cluster.leaders() == [1]
        assert {cluster[i].term for i in (1, 2, 3)} == {term}


class TestClients:
    def test_a_deposed_leader_takes_nothing(self) -> None:
        """6.2: who is no leader any more refuses, so that the client looks for the new one."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster.tick(3 * TIMING.election)
        with pytest.raises(NotLeader):
            cluster[1].propose(b"x")
        with pytest.raises(NotLeader):
            cluster[1].read_index(1)

    def test_a_cut_off_leader_ends_within_an_election_timeout(self) -> None:
        """6.2: nobody waits for a leader that has lost its quorum longer than that."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster.tick(TIMING.election - 1, only=1)
        assert cluster[1].role is RaftRole.LEADER
        cluster.tick(1, only=1)
        assert cluster[1].role is RaftRole.FOLLOWER

    def test_a_read_is_confirmed_by_a_majority(self) -> None:
        """6.4: of five, the answers of two followers to a heartbeat sent after the read came; one is not enough."""
        core = core_of(1, 1, 2, 3, 4, 5)
        elect(core)
        drain(core)
        for source in (2, 3):
            core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=source, term=2, index=2))
        drain(core)
        core.read_index(1)
        (beat, *_) = sent(core, MessageType.HEARTBEAT)
        answers = []
        for source in (2, 2, 3):
            core.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=source, term=2, context=beat.context))
            answers.append(sum(len(ready.reads) for ready in drain(core)))
        assert answers == [0, 0, 1]

    def test_a_follower_does_not_answer_for_the_leader(self) -> None:
        """6.4: a read that reaches a member that does not lead is dropped: the reader asks again."""
        core = core_of(1, 1, 2, 3)
        core.step(Message(type=MessageType.HEARTBEAT, to=1, source=2, term=1))
        drain(core)
        core.step(Message(type=MessageType.READ_INDEX, to=1, source=3, term=1, context=7))
        assert sent(core) == []

    def test_reads_cost_no_write(self) -> None:
        """6.4: a read leaves no entry and no hard state behind, on any member."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        before = [cluster[i].log.last_index for i in (1, 2, 3)]
        for raft_id in (1, 2, 3):
            cluster[raft_id].read_index(raft_id)
            cluster.settle()
            assert raft_id in cluster.nodes[raft_id].reads
        assert [cluster[i].log.last_index for i in (1, 2, 3)] == before

    def test_too_many_reads_are_refused(self) -> None:
        """6.4, bounded: when more wait for a quorum than are taken, the next is refused, not kept."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        for number in range(reads.MAX_PENDING_READS):
            core.read_index(number)
        with pytest.raises(Unavailable):
            core.read_index(reads.MAX_PENDING_READS)
        assert len(core.reads) + len(core.early_reads) == reads.MAX_PENDING_READS
