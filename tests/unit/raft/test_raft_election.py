"""Elections: one test for each rule of the Raft paper (sections 5.2, 5.4.1) and thesis (4.2.3, 6.2, 9.6)."""

from __future__ import annotations

import pytest
from raft_cluster import TIMING, Cluster, core_of, drain, elect, sent

from swarmpy.errors import FailedPrecondition, InvariantViolation, Unavailable
from swarmpy.raft.messages import NO_ONE, HardState, Message, MessageType
from swarmpy.raft.state import RaftRole


def vote_request(core, *, source=2, term=None, index=99, log_term=99, kind=MessageType.VOTE, force=False):
    term = core.term + 1 if term is None else term
    return Message(type=kind, to=core.raft_id, source=source, term=term, index=index, log_term=log_term, force=force)


def heartbeat(core, *, source=2, term=None, **fields):
    term = core.term if term is None else term
    return Message(type=MessageType.HEARTBEAT, to=core.raft_id, source=source, term=term, **fields)


class TestTimeouts:
    def test_starts_as_follower(self) -> None:
        """A member starts as a follower of nobody."""
        core = core_of(1, 1, 2, 3)
        assert (core.role, core.leader) == (RaftRole.FOLLOWER, NO_ONE)

    def test_heartbeats_keep_it_follower(self) -> None:
        """A follower that hears its leader stays one."""
        core = core_of(1, 1, 2, 3)
        for _ in range(10 * TIMING.election):
            core.step(heartbeat(core))
            core.tick()
        assert core.role is RaftRole.FOLLOWER
        assert core.leader == 2

    def test_timeout_begins_an_election(self) -> None:
        """A follower that hears nothing for its election timeout asks for pre-votes, in no new term."""
        core = core_of(1, 1, 2, 3)
        for _ in range(core.election_timeout):
            core.tick()
        assert core.role is RaftRole.PRE_CANDIDATE
        assert [(m.to, m.term) for m in sent(core, MessageType.PRE_VOTE)] == [(2, 2), (3, 2)]
        assert core.term == 1

    def test_timeouts_are_random(self) -> None:
        """Timeouts are spread over [election, 2 * election), so that votes are rarely split; most are short."""
        core = core_of(1, 1, 2, 3)
        seen = []
        for _ in range(1000):
            core.reset_election_timeout()
            seen.append(core.election_timeout)
        assert min(seen) == TIMING.election
        assert 1.7 * TIMING.election < max(seen) < 2 * TIMING.election
        assert len(set(seen)) >= 7
        assert sum(timeout < 1.5 * TIMING.election for timeout in seen) > 600

    def test_leader_sends_heartbeats(self) -> None:
        """A leader sends a heartbeat to each follower every interval."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        drain(core)
        core.tick()
        assert [m.to for m in sent(core, MessageType.HEARTBEAT)] == [2, 3]

    def test_learner_never_campaigns(self) -> None:
        """A learner waits for ever, but forgets the leader that it no longer hears."""
        core = core_of(3, 1, 2, learners=(3,))
        core.step(heartbeat(core))
        for _ in range(5 * TIMING.election):
            core.tick()
        assert (core.role, core.leader) == (RaftRole.FOLLOWER, NO_ONE)
        with pytest.raises(FailedPrecondition):
            core.campaign()


class TestVotes:
    def test_single_voter_elects_itself(self) -> None:
        """The only voter needs nobody's vote, and its term is durable before it says a word in it."""
        core = core_of(1, 1, learners=(2,))
        core.campaign()
        assert core.is_leader
        ready = core.ready()
        assert ready is not None
        assert ready.hard_state == HardState(term=2, vote=1, commit=1)
        assert not ready.messages
        assert {m.to for m in ready.messages_after_persist} == {2}

    def test_majority_wins(self) -> None:
        """A candidate with the votes of a majority leads."""
        cluster = Cluster(1, 2, 3, 4, 5)
        cluster.down = {4, 5}
        assert cluster.elect(1).term == 2

    def test_minority_does_not_win(self) -> None:
        """Without a majority of pre-votes nobody becomes a candidate, and no term rises however long it lasts."""
        cluster = Cluster(1, 2, 3, 4, 5)
        cluster.down = {3, 4, 5}
        cluster.tick(20 * TIMING.election)
        assert cluster.leaders() == []
        assert {cluster[1].term, cluster[2].term} == {1}

    def test_one_vote_a_term(self) -> None:
        """A member votes for at most one candidate in a term, first come first served."""
        core = core_of(1, 1, 2, 3)
        core.step(vote_request(core, source=2, term=2))
        core.step(vote_request(core, source=3, term=2))
        core.step(vote_request(core, source=2, term=2))
        answers = [(m.to, m.reject) for m in sent(core, MessageType.VOTE_RESPONSE)]
        assert answers == [(2, False), (3, True), (2, False)]

    def test_vote_survives_a_crash(self) -> None:
        """A vote goes out only after it is durable, and counts after a restart."""
        cluster = Cluster(1, 2, 3)
        core = cluster[1]
        core.step(vote_request(core, source=2, term=2))
        ready = core.ready()
        assert ready is not None
        assert ready.hard_state == HardState(term=2, vote=2, commit=1)
        assert not ready.messages
        cluster.nodes[1].persist(ready)
        cluster.restart(1)
        cluster[1].step(vote_request(cluster[1], source=3, term=2))
        assert [m.reject for m in sent(cluster[1], MessageType.VOTE_RESPONSE)] == [True]

    @pytest.mark.parametrize(
        ("terms", "index", "log_term", "granted"),
        [
            ((1,), 2, 1, True),
            ((1,), 3, 1, True),
            ((1, 1), 2, 1, False),
            ((1,), 2, 2, True),
            ((1, 1), 2, 2, True),
            ((2,), 5, 1, False),
        ],
    )
    def test_only_for_a_log_as_complete_as_ours(self, terms, index, log_term, granted) -> None:
        """A vote, and a pre-vote, is refused to a candidate whose log lacks something of ours."""
        for kind in (MessageType.PRE_VOTE, MessageType.VOTE):
            core = core_of(1, 1, 2, 3, terms=terms)
            core.step(vote_request(core, index=index, log_term=log_term, kind=kind, term=3))
            assert [m.reject for m in sent(core, MessageType(kind + 1))] == [not granted]

    def test_split_vote_is_tried_again_soon(self) -> None:
        """A candidate that lost by refusals is a follower again and does not wait a whole timeout."""
        core = core_of(1, 1, 2, 3)
        core.campaign()
        for m in sent(core, MessageType.PRE_VOTE):
            core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=m.to, term=m.term))
        assert core.role is RaftRole.CANDIDATE
        for source in (2, 3):
            core.step(Message(type=MessageType.VOTE_RESPONSE, to=1, source=source, term=core.term, reject=True))
        assert core.role is RaftRole.FOLLOWER
        assert core.election_timeout <= TIMING.election // 2

    def test_requests_are_repeated(self) -> None:
        """A lost request is sent again with the next heartbeat interval, to those that have not answered."""
        core = core_of(1, 1, 2, 3, 4, 5)
        core.campaign()
        drain(core)
        core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=2, term=2))
        core.tick()
        assert [m.to for m in sent(core, MessageType.PRE_VOTE)] == [3, 4, 5]

    @pytest.mark.parametrize("kind", [MessageType.VOTE, MessageType.PRE_VOTE])
    def test_lost_disk_has_no_vote(self, kind) -> None:
        """A member that is asked for its vote and knows of no members may have voted, or acknowledged, before."""
        core = core_of(1, commit=0)
        core.step(vote_request(core, term=2, kind=kind))
        (answer,) = sent(core)
        assert answer.reject
        assert core.vote == NO_ONE

    def test_votes_of_strangers_do_not_count(self) -> None:
        """Answers of learners and unknown ids elect nobody."""
        core = core_of(1, 1, 2, 3, learners=(4,))
        core.campaign()
        drain(core)
        for source in (4, 9):
            core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=source, term=2))
        assert core.role is RaftRole.PRE_CANDIDATE

    def test_candidate_yields_to_a_leader(self) -> None:
        """A candidate that hears a leader of its term, or a later one, follows it."""
        core = core_of(1, 1, 2, 3)
        core.campaign()
        drain(core)
        core.step(heartbeat(core, source=3))
        assert (core.role, core.leader) == (RaftRole.FOLLOWER, 3)


class TestTerms:
    def test_later_term_is_taken_over(self) -> None:
        """A leader that hears of a later term steps down into it."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=7, reject=True))
        assert (core.role, core.term) == (RaftRole.FOLLOWER, 7)

    def test_deposed_leader_is_told(self) -> None:
        """A message of a leader of the past is answered with the term, and changes nothing."""
        core = core_of(1, 1, 2, 3, term=5)
        core.step(Message(type=MessageType.APPEND, to=1, source=2, term=3, index=1, log_term=1))
        (answer,) = sent(core)
        assert (answer.type, answer.term, answer.reject) == (MessageType.APPEND_RESPONSE, 5, True)
        assert core.leader == NO_ONE

    def test_a_second_leader_of_one_term_is_not_followed(self) -> None:
        """Only one can be right, and whoever came second says nothing that counts."""
        core = core_of(1, 1, 2, 3)
        core.step(heartbeat(core, source=2))
        core.step(heartbeat(core, source=3))
        assert core.leader == 2
        assert core.absurdity == "term 1 has a leader already: 2"

    def test_illegal_role_changes_are_defects(self) -> None:
        """A follower cannot lead without an election; a leader cannot campaign; a term cannot go back."""
        core = core_of(1, 1, 2, 3)
        with pytest.raises(InvariantViolation):
            core.become_leader()
        with pytest.raises(InvariantViolation):
            core.become_follower(0, NO_ONE)
        elect(core)
        with pytest.raises(InvariantViolation):
            core.become_candidate()

    def test_message_to_another_is_ignored(self) -> None:
        """A message that is not for this member changes nothing."""
        core = core_of(1, 1, 2, 3)
        core.step(Message(type=MessageType.HEARTBEAT, to=4, source=2, term=9))
        assert core.term == 1


class TestLease:
    @pytest.mark.parametrize("kind", [MessageType.PRE_VOTE, MessageType.VOTE])
    def test_votes_are_ignored_while_a_leader_is_heard(self, kind) -> None:
        """A member cut off for a while cannot depose a leader that the others hear."""
        core = core_of(1, 1, 2, 3)
        core.step(heartbeat(core, source=2))
        drain(core)
        for _ in range(TIMING.election - 1):
            core.tick()
        core.step(vote_request(core, source=3, term=9, kind=kind))
        assert sent(core) == []
        assert core.term == 1
        core.tick()
        core.step(vote_request(core, source=3, term=9, kind=kind))
        assert [m.reject for m in sent(core)] == [False]

    def test_returning_member_does_not_disturb(self) -> None:
        """After a partition of one, the leader and its term are what they were."""
        cluster = Cluster(1, 2, 3)
        term = cluster.elect(1).term
        cluster.isolate(3)
        cluster.tick(10 * TIMING.election)
        cluster.heal()
        cluster.tick(3)
        assert cluster.leaders() == [1]
        assert {cluster[i].term for i in (1, 2, 3)} == {term}
        assert cluster[3].leader == 1

    def test_leader_without_a_quorum_steps_down(self) -> None:
        """A leader that a majority has not answered for an election timeout is none any more."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster.tick(TIMING.election, only=1)
        assert cluster[1].role is not RaftRole.LEADER

    def test_leader_with_a_quorum_stays(self) -> None:
        """Half of an even number is not enough, one more is."""
        cluster = Cluster(1, 2, 3, 4, 5)
        cluster.elect(1)
        cluster.down = {4, 5}
        cluster.tick(5 * TIMING.election)
        assert cluster.leaders() == [1]

    def test_wake_asks_at_once(self) -> None:
        """A leader that stood still does not step down for its own silence, and asks who leads now."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster.tick(3 * TIMING.election, only=2)
        cluster.tick(3 * TIMING.election, only=3)
        assert cluster.leaders() != [1]
        cluster.heal()
        cluster[1].wake()
        cluster.settle()
        assert cluster[1].role is RaftRole.FOLLOWER
        assert len(cluster.leaders()) == 1


class TestUnreachableLeader:
    def test_broken_connection_hastens_the_election(self) -> None:
        """When the leader's process is gone the others do not sit their timeout out."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.crash(1)
        for follower in (2, 3):
            cluster[follower].report_unreachable(1)
        assert ticks_to_leader(cluster) < TIMING.election

    def test_one_broken_connection_changes_nothing(self) -> None:
        """A follower that alone lost the connection is ignored by those that hear the leader, and comes back."""
        cluster = Cluster(1, 2, 3)
        term = cluster.elect(1).term
        cluster[2].report_unreachable(1)
        cluster.cut = {(1, 2), (2, 1)}
        cluster.tick(2 * TIMING.election)
        assert cluster.leaders() == [1]
        cluster.heal()
        cluster.tick(2)
        assert (cluster[2].leader, cluster[2].term) == (1, term)
        assert cluster[2].election_timeout >= TIMING.election

    def test_other_members_are_not_missed(self) -> None:
        """A follower does not care for its connection to another follower."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        before = cluster[2].election_timeout
        cluster[2].report_unreachable(3)
        assert cluster[2].election_timeout == before


class TestTransfer:
    def test_hands_over_at_once(self) -> None:
        """The target leads without waiting for any timeout, lease or no lease."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        assert cluster[1].transfer_leadership(3) == 3
        cluster.settle()
        assert cluster.leaders() == [3]

    def test_picks_the_best(self) -> None:
        """Without a target the one that lacks least of the log is offered it."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.cut = {(1, 2), (2, 1)}
        cluster.propose(1, b"x")
        assert cluster[1].transfer_leadership(NO_ONE) == 3

    def test_target_is_brought_up_to_date_first(self) -> None:
        """A target that lacks entries gets them before it stands for election."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.drop = lambda m: m.type is MessageType.APPEND and m.to == 2
        cluster.propose(1, b"x")
        cluster[1].transfer_leadership(2)
        cluster.settle()
        assert cluster.leaders() == [1]
        cluster.heal()
        cluster.tick(3)
        assert cluster.leaders() == [2]
        assert cluster.values(2) == [b"x"]

    def test_no_proposals_meanwhile_and_given_up_after_a_timeout(self) -> None:
        """Proposals are refused during a hand-over, and taken again when it did not come about."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.drop = lambda m: m.type is MessageType.TIMEOUT_NOW
        cluster[1].transfer_leadership(2)
        with pytest.raises(Unavailable):
            cluster[1].propose(b"x")
        cluster.tick(TIMING.election)
        cluster.propose(1, b"y")
        assert cluster.values(1) == [b"y"]

    def test_lost_requests_are_repeated_with_their_force(self) -> None:
        """A target whose first requests get lost still wins at once: the lease does not hold against the repeated."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.tick(1)
        cluster.drop = lambda m: m.type is MessageType.VOTE
        cluster[1].transfer_leadership(3)
        cluster.settle()
        cluster.heal()
        cluster.tick(TIMING.heartbeat, only=3)
        assert cluster[3].is_leader

    def test_force_ends_with_the_candidacy(self) -> None:
        """One that was told to stand, and failed, asks like anybody else the next time."""
        core = core_of(3, 1, 2, 3)
        core.step(Message(type=MessageType.TIMEOUT_NOW, to=3, source=1, term=1))
        assert all(m.force for m in sent(core, MessageType.VOTE))
        for _ in range(2 * TIMING.election):
            core.tick()
        assert not any(m.force for m in sent(core) if m.type is MessageType.PRE_VOTE)

    def test_refusals(self) -> None:
        """Learners, strangers and the dead are offered nothing."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        with pytest.raises(FailedPrecondition):
            cluster[1].transfer_leadership(9)
        cluster.crash(2)
        cluster.tick(TIMING.election)
        with pytest.raises(Unavailable):
            cluster[1].transfer_leadership(2)


def ticks_to_leader(cluster: Cluster) -> int:
    """How long it takes until somebody leads."""
    for ticks in range(1, 20 * TIMING.election):
        cluster.tick()
        if cluster.leaders():
            return ticks
    raise AssertionError("nobody was elected")


def test_median_failover_is_short() -> None:
    """After a silent death half of 60 clusters have a new leader within 1.5 election timeouts, all within 4."""
    took = []
    for seed in range(60):
        cluster = Cluster(1, 2, 3, seed=seed)
        cluster.elect(1)
        cluster.tick(2)
        cluster.crash(1)
        took.append(ticks_to_leader(cluster))
    took.sort()
    assert took[30] <= 1.5 * TIMING.election
    assert took[-1] <= 4 * TIMING.election
