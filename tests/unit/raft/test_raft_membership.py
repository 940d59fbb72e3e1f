"""Membership changes (thesis 4.1-4.2) and reads without writes (thesis 6.4)."""

from __future__ import annotations

import pytest
from raft_cluster import TIMING, Cluster, conf_of, core_of, drain, elect, member, sent

from swarmpy.errors import FailedPrecondition, NotLeader, Unavailable
from swarmpy.raft import membership
from swarmpy.raft.messages import ConfChange, ConfChangeKind, Entry, EntryKind, HardState, Member, Message, MessageType
from swarmpy.raft.progress import ProgressState
from swarmpy.raft.status import status_of

ADD, PROMOTE = ConfChangeKind.ADD_LEARNER, ConfChangeKind.PROMOTE
REMOVE, UPDATE = ConfChangeKind.REMOVE, ConfChangeKind.UPDATE


def change(kind: ConfChangeKind, raft_id: int) -> ConfChange:
    return ConfChange(kind=kind, member=member(raft_id))


def do(cluster: Cluster, leader: int, kind: ConfChangeKind, raft_id: int) -> None:
    cluster[leader].propose_conf_change(change(kind, raft_id))
    cluster.settle()


class TestJoining:
    def test_from_one_to_three(self) -> None:
        """Two empty members join a single one as learners, catch up, and vote."""
        cluster = Cluster(1, joiners=(2, 3))
        cluster.elect(1)
        cluster.propose(1, b"a", b"b")
        for joiner in (2, 3):
            do(cluster, 1, ADD, joiner)
            cluster.tick(3)
            assert cluster.values(joiner) == [b"a", b"b"]
            assert joiner not in cluster[1].voters
            do(cluster, 1, PROMOTE, joiner)
        cluster.tick(2)
        assert all(cluster[i].voters == (1, 2, 3) for i in (1, 2, 3))
        cluster.crash(1)
        assert cluster.wait_leader() in (2, 3)

    def test_learner_does_not_count(self) -> None:
        """An entry that only a learner acknowledges is not committed; one without it is."""
        cluster = Cluster(1, 2, 3, joiners=(4,))
        cluster.elect(1)
        do(cluster, 1, ADD, 4)
        cluster.tick(2)
        cluster.crash(4)
        cluster.propose(1, b"x")
        assert cluster.values(1) == [b"x"]
        cluster.restart(4)
        cluster.down |= {2, 3}
        cluster.propose(1, b"y")
        assert cluster.values(1) == [b"x"]

    def test_joiner_knows_where_to_answer(self) -> None:
        """A joiner that has no configuration yet answers the leader by the address in its message."""
        cluster = Cluster(1, joiners=(2,))
        cluster.elect(1)
        seen = []
        cluster.drop = lambda m: bool(seen.append(m)) if m.to == 2 else False
        do(cluster, 1, ADD, 2)
        assert seen[0].sender == member(1)

    def test_a_silent_member_is_told_where_to_answer(self) -> None:
        """It may have missed that the leader has moved; who answers need not be told."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.propose(1, b"x")
        cluster.tick(TIMING.election)
        told = {2: set(), 3: set()}

        def lose(message: Message) -> bool:
            if message.type is MessageType.HEARTBEAT:
                told[message.to].add(message.sender)
            return message.source == 3

        cluster.drop = lose
        cluster.tick(2 * TIMING.election)
        assert told == {2: {None}, 3: {None, member(1)}}

    def test_everybody_knows_all_addresses(self) -> None:
        """An address that changed is known everywhere, and votes are as before."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        moved = Member(raft_id=3, node_id="node3", address="10.9.9.9:2377")
        cluster[1].propose_conf_change(ConfChange(kind=UPDATE, member=moved))
        cluster.settle()
        assert all(cluster[i].members[3] == moved for i in (1, 2, 3))
        assert cluster[1].voters == (1, 2, 3)

    def test_promotion_needs_a_learner_that_caught_up(self) -> None:
        """A learner that is away would endanger the quorum, so it is not promoted."""
        cluster = Cluster(1, joiners=(2,))
        cluster.elect(1)
        cluster.crash(2)
        do(cluster, 1, ADD, 2)
        with pytest.raises(FailedPrecondition, match="caught up"):
            cluster[1].propose_conf_change(change(PROMOTE, 2))

    def test_promotion_after_the_leader_stood_still(self) -> None:
        """A leader that wakes up is patient with all; that makes no vote of a learner that died before."""
        cluster = Cluster(1, joiners=(2,))
        core = cluster.elect(1)
        do(cluster, 1, ADD, 2)
        cluster.crash(2)
        cluster.tick(TIMING.election + 1)
        core.wake()
        assert not status_of(core, applied=0).progress[2].caught_up
        with pytest.raises(FailedPrecondition, match="caught up"):
            core.propose_conf_change(change(PROMOTE, 2))
        cluster.down.clear()
        cluster.tick()
        assert status_of(core, applied=0).progress[2].caught_up
        do(cluster, 1, PROMOTE, 2)
        assert core.voters == (1, 2)


class TestOneAtATime:
    def test_second_change_is_refused(self) -> None:
        """While a change is not applied, another one is refused and leaves no trace in the log."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        core.propose_conf_change(change(ADD, 4))
        last = core.log.last_index
        with pytest.raises(Unavailable):
            core.propose_conf_change(change(ADD, 5))
        assert core.log.last_index == last
        cluster.settle()
        core.propose_conf_change(change(ADD, 5))

    def test_next_change_may_follow_as_soon_as_one_is_applied(self) -> None:
        """A change waits for the one before, not for the rest of what is applied together with that."""
        core = core_of(1, 1)
        elect(core)
        drain(core)
        index = core.propose_conf_change(change(ADD, 4))
        core.propose(b"x")
        written = core.ready()
        assert written is not None
        core.advance(written)
        ready = core.ready()
        assert ready is not None
        assert [entry.index for entry in ready.committed] == [index, index + 1]
        core.apply_conf_change(change(ADD, 4), index)
        assert core.propose_conf_change(change(ADD, 5)) == index + 2

    def test_none_before_an_entry_of_the_own_term_is_committed(self) -> None:
        """A new leader first commits its no-op: the open change of its predecessor may be in its log."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        with pytest.raises(Unavailable):
            core.propose_conf_change(change(ADD, 4))

    def test_change_is_in_force_when_applied(self) -> None:
        """Appending a change does nothing; applying it does."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        core.propose_conf_change(change(ADD, 4))
        assert 4 not in core.members
        cluster.settle()
        assert 4 in core.members

    def test_nobody_campaigns_over_an_unapplied_change(self) -> None:
        """A member that has yet to apply a committed change does not stand for election."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        core = cluster[2]
        index = cluster[1].propose_conf_change(change(ADD, 4))
        for message in cluster[1].take_messages():
            if message.to == 2:
                core.step(message)
        core.log.commit_to(index)
        with pytest.raises(FailedPrecondition):
            core.campaign()

    @pytest.mark.parametrize(
        ("kind", "raft_id"), [(ADD, 2), (ADD, 0), (PROMOTE, 2), (PROMOTE, 9), (REMOVE, 9), (UPDATE, 9)]
    )
    def test_senseless_changes_are_refused(self, kind, raft_id) -> None:
        """A change that does not fit the membership is refused with a reason."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        with pytest.raises(FailedPrecondition):
            cluster[1].propose_conf_change(change(kind, raft_id))

    def test_followers_refuse(self) -> None:
        """Only the leader takes changes."""
        with pytest.raises(NotLeader):
            core_of(1, 1, 2, 3).propose_conf_change(change(ADD, 4))


class TestRemoving:
    def test_removed_follower_learns_it(self) -> None:
        """A member that applies its own removal knows that it is out, and elects nobody."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        do(cluster, 1, REMOVE, 3)
        assert cluster[3].is_removed
        assert cluster[1].voters == (1, 2)
        cluster.tick(3 * TIMING.election)
        assert cluster.leaders() == [1]

    def test_removed_while_away_is_told(self) -> None:
        """A member that was removed while it was cut off is told when it asks for votes, and disturbs nobody."""
        cluster = Cluster(1, 2, 3)
        term = cluster.elect(1).term
        cluster.isolate(3)
        do(cluster, 1, REMOVE, 3)
        cluster.heal()
        assert not cluster[3].is_removed
        cluster.tick(3 * TIMING.election)
        assert cluster[3].is_removed
        assert cluster[1].term == term

    def test_removed_is_remembered_through_a_restart(self) -> None:
        """Who was removed is part of the configuration, so an old id cannot come back."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        do(cluster, 1, REMOVE, 3)
        cluster.nodes[1].take_snapshot()
        cluster.restart(1)
        cluster.down.add(3)
        leader = cluster.wait_leader()
        cluster.tick(2)
        with pytest.raises(FailedPrecondition, match="removed before"):
            cluster[leader].propose_conf_change(change(ADD, 3))

    def test_removed_leader_steps_down(self) -> None:
        """A leader that removes itself leads until that is committed; then the others elect one."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        do(cluster, 1, REMOVE, 1)
        assert cluster.leaders() == []
        assert cluster[1].is_removed
        assert cluster.wait_leader() in (2, 3)
        assert all(cluster[i].voters == (2, 3) for i in (2, 3))

    def test_leader_of_two_cannot_remove_itself(self) -> None:
        """The one left might never hear that it decides alone; the other way round it is fine."""
        cluster = Cluster(1, 2)
        cluster.elect(1)
        with pytest.raises(FailedPrecondition, match="hand the leadership over"):
            cluster[1].propose_conf_change(change(REMOVE, 1))
        do(cluster, 1, REMOVE, 2)
        assert cluster[1].voters == (1,)

    def test_an_applied_change_is_not_forgotten(self) -> None:
        """The last one left decides alone after a crash too, though it has written nothing since the removal."""
        cluster = Cluster(1, 2)
        cluster.elect(1)
        do(cluster, 1, REMOVE, 2)
        cluster.crash(2)
        cluster.restart(1)
        assert cluster.wait_leader() == 1
        cluster.propose(1, b"x")
        assert cluster.values(1) == [b"x"]

    def test_the_removed_helps_the_one_left(self) -> None:
        """The leader of two forgot in a crash that it decides alone; the removed, whose log is longer, knows it."""
        cluster = Cluster(1, 2)
        core = cluster.elect(1)
        core.propose_conf_change(change(REMOVE, 2))
        cluster.settle()
        node = cluster.nodes[2]
        assert node.core.is_removed
        cluster.nodes[1].hard_state = HardState(term=core.term, vote=1, commit=1)
        last = node.core.log.last_index
        node.core.log.append(Entry(term=core.term, index=last + 1, data=b"sent, but not written by the leader"))
        cluster.restart(1)
        assert cluster[1].voters == (1, 2)
        assert cluster.wait_leader() == 1
        cluster.propose(1, b"x")
        assert cluster[1].voters == (1,)
        assert cluster.values(1) == [b"x"]

    def test_the_removed_helps_nobody_else(self) -> None:
        """Where more than one is left, a removed member refuses a log shorter than its own, as everybody does."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        do(cluster, 1, REMOVE, 3)
        core = cluster[3]
        core.step(Message(type=MessageType.VOTE, to=3, source=2, term=core.term + 1, index=1, log_term=1, force=True))
        (answer,) = sent(core, MessageType.VOTE_RESPONSE)
        assert answer.reject

    def test_quorum_shrinks_with_a_removal(self) -> None:
        """An entry that waited for a member that is removed is committed by those left."""
        cluster = Cluster(1, 2, 3, 4)
        cluster.elect(1)
        cluster.down = {4}
        do(cluster, 1, REMOVE, 4)
        cluster.crash(3)
        cluster.propose(1, b"x")
        assert cluster.values(1) == [b"x"]

    def test_removal_must_leave_a_reachable_quorum(self) -> None:
        """With one of three away, removing a live one is refused, removing the dead one is fine."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(3)
        cluster.tick(TIMING.election + 1)
        with pytest.raises(FailedPrecondition, match="bring the others back"):
            cluster[1].propose_conf_change(change(REMOVE, 2))
        do(cluster, 1, REMOVE, 3)
        assert cluster[1].voters == (1, 2)

    @pytest.mark.parametrize("moment", ["elected", "woken"])
    def test_whom_a_leader_has_not_heard_yet_does_not_count(self, moment) -> None:
        """A new leader, or one that wakes up, does not take silence for an answer: it asks to be asked again."""
        cluster = Cluster(1, 2, 3, 4, 5)
        cluster.down = {4, 5}
        core = cluster.elect(1)
        if moment == "woken":
            cluster.tick(TIMING.election + 1)
            core.wake()
            cluster.settle()
        assert core.has_committed_in_term
        for ask in (lambda: core.propose_conf_change(change(REMOVE, 2)), lambda: core.check_removals([2])):
            with pytest.raises(Unavailable, match="not heard of all managers yet"):
                ask()
        cluster.tick(TIMING.election)
        with pytest.raises(FailedPrecondition, match="2 of 4 managers that are left answer, 3 are needed"):
            core.propose_conf_change(change(REMOVE, 2))
        do(cluster, 1, REMOVE, 4)
        assert core.voters == (1, 2, 3, 5)

    def test_asking_first(self) -> None:
        """Whether members may go can be asked for all at once; nothing changes by it."""
        cluster = Cluster(1, 2, 3, 4, 5)
        core = cluster.elect(1)
        cluster.down = {4, 5}
        cluster.tick(TIMING.election + 1)
        last = core.log.last_index
        for fine in ([], [4], [4, 5], [3, 4, 5], [1, 4, 5], [9]):
            core.check_removals(fine)
        with pytest.raises(FailedPrecondition, match="2 of 4 managers that are left answer, 3 are needed"):
            core.check_removals([2])
        with pytest.raises(FailedPrecondition, match="1 of 3 managers that are left answer, 2 are needed"):
            core.check_removals([1, 2])
        with pytest.raises(FailedPrecondition, match="the last manager of the swarm"):
            core.check_removals([1, 2, 3, 4, 5])
        assert core.log.last_index == last
        with pytest.raises(NotLeader):
            cluster[2].check_removals([4])

    def test_asking_about_the_leader(self) -> None:
        """The leader of two may go if the other answers: it hands over first."""
        cluster = Cluster(1, 2)
        core = cluster.elect(1)
        core.check_removals([1])
        cluster.crash(2)
        cluster.tick(TIMING.election - 1, only=1)
        core.progress[2].last_contact = core.now - TIMING.election
        with pytest.raises(FailedPrecondition, match="0 of 1 managers"):
            core.check_removals([1])

    def test_asking_about_the_only_voter(self) -> None:
        """A learner cannot take over; what to wait for is said."""
        cluster = Cluster(1, joiners=(2,))
        core = cluster.elect(1)
        with pytest.raises(FailedPrecondition, match=r"the last manager of the swarm$"):
            core.check_removals([1])
        do(cluster, 1, ADD, 2)
        with pytest.raises(FailedPrecondition, match="last manager of the swarm; 1 more are catching up"):
            core.check_removals([1])

    def test_during_a_hand_over_it_is_only_put_off(self) -> None:
        """A leader that hands over is still one: a change is refused for the moment, not for the rest of its term."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        cluster.drop = lambda m: m.type is MessageType.TIMEOUT_NOW
        core.transfer_leadership(2)
        with pytest.raises(Unavailable, match="handed over"):
            core.propose_conf_change(change(REMOVE, 3))
        cluster.tick(TIMING.election)
        do(cluster, 1, REMOVE, 3)
        assert core.voters == (1, 2)

    def test_last_voter_stays(self) -> None:
        """The last manager cannot be removed."""
        cluster = Cluster(1)
        cluster.elect(1)
        with pytest.raises(FailedPrecondition, match="last manager"):
            cluster[1].propose_conf_change(change(REMOVE, 1))


class TestChanged:
    def test_all_kinds(self) -> None:
        """A configuration after each kind of change, ordered by raft id."""
        conf = membership.changed(conf_of(2, 3), change(ADD, 1))
        assert conf == conf_of(2, 3, learners=(1,))
        conf = membership.changed(conf, change(PROMOTE, 1))
        assert conf == conf_of(1, 2, 3)
        conf = membership.changed(conf, change(REMOVE, 2))
        assert ([m.raft_id for m in conf.voters], [m.raft_id for m in conf.removed]) == ([1, 3], [2])

    @pytest.mark.parametrize("kind", [PROMOTE, REMOVE, UPDATE])
    def test_what_does_not_fit_changes_nothing(self, kind) -> None:
        """Every member applies a senseless change alike: not at all."""
        conf = conf_of(1, 2, learners=(3,))
        assert membership.changed(conf, change(kind, 9)) == conf

    def test_removed_never_returns(self) -> None:
        """A removed id is not added again, and only a bounded number is remembered."""
        conf = membership.changed(conf_of(1, 2), change(REMOVE, 2))
        assert membership.changed(conf, change(ADD, 2)) == conf
        for raft_id in range(100, 300):
            conf = membership.changed(membership.changed(conf, change(ADD, raft_id)), change(REMOVE, raft_id))
        assert len(conf.removed) == membership.MAX_REMOVED_REMEMBERED
        assert conf.removed[-1].raft_id == 299


class TestReads:
    def test_leader_asks_a_quorum_first(self) -> None:
        """A read is answered only after a round of heartbeats was confirmed by a majority."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        cluster.propose(1, b"x")
        core.read_index(7)
        ready = core.ready()
        assert ready is not None
        assert ready.reads == ()
        core.advance(ready)
        beats = [m for m in ready.messages if m.type is MessageType.HEARTBEAT]
        core.step(
            Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=2, term=core.term, context=beats[0].context)
        )
        (done,) = drain(core)
        assert [(r.request, r.index) for r in done.reads] == [(7, core.log.committed)]

    def test_follower_reads_through_the_leader(self) -> None:
        """A follower learns the leader's commit index."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.propose(1, b"x")
        cluster[3].read_index(1)
        cluster.settle()
        assert cluster.nodes[3].reads == {1: cluster[1].log.committed}

    def test_reads_share_a_round(self) -> None:
        """Reads that come together cost one heartbeat for each follower."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        for number in range(50):
            core.read_index(number)
        assert len([m for m in core.take_messages() if m.type is MessageType.HEARTBEAT]) == 2

    def test_deposed_leader_answers_none(self) -> None:
        """A leader that was cut off and replaced never answers a read with its old state."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster[1].read_index(1)
        cluster.tick(3 * TIMING.election)
        cluster.heal()
        cluster.tick(3)
        assert cluster.nodes[1].reads == {}

    def test_new_leader_waits_for_its_noop(self) -> None:
        """A read at a leader that does not know yet what is committed waits until it does."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        core.read_index(1)
        drain(core)
        core.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=2, term=core.term, context=0))
        assert not core.read_states
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=core.term, index=2))
        (beat, *_) = [m for m in sent(core, MessageType.HEARTBEAT) if m.to == 2]
        core.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=2, term=core.term, context=beat.context))
        assert [r.index for ready in drain(core) for r in ready.reads] == [2]

    def test_single_voter_answers_alone(self) -> None:
        """The only voter is its own quorum."""
        cluster = Cluster(1)
        cluster.elect(1)
        cluster[1].read_index(3)
        cluster.settle()
        assert cluster.nodes[1].reads == {3: cluster[1].log.committed}

    def test_single_voter_answers_though_its_heartbeat_was_first(self) -> None:
        """A lone leader confirms a read itself, also when the round went out with a regular heartbeat."""
        cluster = Cluster(1)
        core = cluster.elect(1)
        core.read_index(3)
        core.tick()
        cluster.settle()
        assert cluster.nodes[1].reads == {3: core.log.committed}

    def test_without_a_leader_it_is_refused(self) -> None:
        """A member that knows no leader cannot ask one."""
        with pytest.raises(NotLeader):
            core_of(1, 1, 2, 3).read_index(1)

    def test_only_later_rounds_confirm(self) -> None:
        """An answer to a heartbeat from before the read does not confirm it."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        before = core.read_round
        core.read_index(1)
        drain(core)
        core.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, source=2, term=core.term, context=before))
        assert not core.read_states


def test_conf_change_entries_are_marked() -> None:
    """A membership change is in the log as what it is."""
    cluster = Cluster(1, 2, 3)
    core = cluster.elect(1)
    index = core.propose_conf_change(change(ADD, 4))
    assert core.log.entry(index).kind is EntryKind.CONF_CHANGE
    assert core.progress[2].state is ProgressState.REPLICATE
