"""Sections 5.1 and 5.2 of the Raft paper, 3.10, 4.2.3 and 9.6 of Ongaro's thesis: terms, elections, pre-votes.

The table of all claims is in test_raft_paper.py.
"""

from __future__ import annotations

import pytest
from raft_cluster import TIMING, Cluster, core_of, drain, elect, sent

from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import NO_ONE, Message, MessageType
from swarmpy.raft.state import RaftRole

SPEAKS_OF_ITS_TERM = [
    MessageType.APPEND,
    MessageType.APPEND_RESPONSE,
    MessageType.HEARTBEAT,
    MessageType.HEARTBEAT_RESPONSE,
    MessageType.VOTE,
    MessageType.VOTE_RESPONSE,
    MessageType.SNAPSHOT,
    MessageType.TIMEOUT_NOW,
    MessageType.READ_INDEX,
    MessageType.READ_INDEX_RESPONSE,
]
ROLES = [RaftRole.FOLLOWER, RaftRole.PRE_CANDIDATE, RaftRole.CANDIDATE, RaftRole.LEADER]


def core_in(role: RaftRole) -> RaftCore:
    """Member 1 of three in term 5 (or, having stood for election, 6), where nobody is heard any more."""
    core = core_of(1, 1, 2, 3, term=5)
    if role is RaftRole.LEADER:
        elect(core)
    elif role is not RaftRole.FOLLOWER:
        core.campaign()
        if role is RaftRole.CANDIDATE:
            core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=2, term=6))
    drain(core)
    assert core.role is role
    return core


def memory(core: RaftCore) -> tuple[object, ...]:
    """What must not be changed by a stale message."""
    return core.role, core.term, core.vote, core.leader, core.log.last_index, core.log.committed, dict(core.votes)


class TestTerms:
    @pytest.mark.parametrize("role", ROLES, ids=lambda role: role.value)
    @pytest.mark.parametrize("kind", SPEAKS_OF_ITS_TERM, ids=lambda kind: kind.name)
    def test_a_later_term_makes_everybody_a_follower(self, role, kind) -> None:
        """5.1: whoever hears of a later term takes it over and follows, whatever it was and in whatever message."""
        core = core_in(role)
        # A forced vote, for a leader and those who hear one ignore the others (4.2.3).
        core.step(Message(type=kind, to=1, source=2, term=core.term + 3, index=9, log_term=9, force=True))
        drain(core)
        assert core.term >= 8
        assert core.role is RaftRole.FOLLOWER or (kind is MessageType.TIMEOUT_NOW and core.role is RaftRole.CANDIDATE)

    @pytest.mark.parametrize("role", ROLES, ids=lambda role: role.value)
    @pytest.mark.parametrize("kind", [*SPEAKS_OF_ITS_TERM, MessageType.PRE_VOTE], ids=lambda kind: kind.name)
    def test_an_earlier_term_changes_nothing(self, role, kind) -> None:
        """5.1: a message of an earlier term is refused or ignored."""
        core = core_in(role)
        before = memory(core)
        core.step(Message(type=kind, to=1, source=2, term=4, index=9, log_term=9, commit=9))
        assert all(m.reject for m in sent(core))
        assert memory(core) == before

    def test_terms_never_go_back(self) -> None:
        """5.1: a restarted member goes on in the last term that it spoke in."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.restart(1)
        assert cluster[1].term == 2


class TestElections:
    def test_a_candidate_begins_a_term_with_its_own_vote(self) -> None:
        """5.2: it increments the term, votes for itself, and asks all others, once that vote is on its disk."""
        core = core_of(1, 1, 2, 3, 4, 5)
        core.campaign()
        drain(core)
        for source in (2, 3):
            core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=source, term=2))
        assert (core.role, core.term, core.vote) == (RaftRole.CANDIDATE, 2, 1)
        ready = core.ready()
        assert ready is not None
        assert ready.hard_state is not None
        assert (ready.hard_state.term, ready.hard_state.vote) == (2, 1)
        assert ready.messages == ()
        assert [(m.type, m.to) for m in ready.messages_after_persist] == [(MessageType.VOTE, i) for i in (2, 3, 4, 5)]

    @pytest.mark.parametrize(
        ("size", "granted", "refused", "role"),
        [
            (1, 0, 0, RaftRole.LEADER),
            (2, 1, 0, RaftRole.LEADER),
            (2, 0, 1, RaftRole.FOLLOWER),
            (3, 1, 0, RaftRole.LEADER),
            (3, 1, 1, RaftRole.LEADER),
            (3, 0, 1, RaftRole.CANDIDATE),
            (3, 0, 2, RaftRole.FOLLOWER),
            (4, 1, 1, RaftRole.CANDIDATE),
            (4, 2, 1, RaftRole.LEADER),
            (4, 1, 2, RaftRole.FOLLOWER),
            (5, 2, 2, RaftRole.LEADER),
            (5, 1, 2, RaftRole.CANDIDATE),
            (5, 1, 3, RaftRole.FOLLOWER),
            (7, 3, 3, RaftRole.LEADER),
        ],
    )
    def test_the_outcome_of_an_election(self, size, granted, refused, role) -> None:
        """5.2: a majority of all voters wins, its impossibility loses, anything else is open."""
        core = core_of(1, *range(1, size + 1))
        core.campaign()
        drain(core)
        for source in range(2, size + 1):
            core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=source, term=2))
        drain(core)
        for number, source in enumerate(range(2, 2 + granted + refused)):
            reject = number >= granted
            core.step(Message(type=MessageType.VOTE_RESPONSE, to=1, source=source, term=2, reject=reject))
        assert core.role is role

    def test_a_repeated_answer_counts_once(self) -> None:
        """5.2: a majority is one of members, not of messages."""
        core = core_in(RaftRole.CANDIDATE)
        core.set_conf(core_of(1, 1, 2, 3, 4, 5).conf, 1)
        for _ in range(3):
            core.step(Message(type=MessageType.VOTE_RESPONSE, to=1, source=2, term=core.term))
        assert core.role is RaftRole.CANDIDATE

    def test_a_candidate_without_answers_begins_anew(self) -> None:
        """5.2: when its timeout passes without a decision it tries again; here with a pre-vote, so the term waits."""
        core = core_in(RaftRole.CANDIDATE)
        for _ in range(core.election_timeout):
            core.tick()
        assert (core.role, core.term) == (RaftRole.PRE_CANDIDATE, 6)

    def test_a_new_leader_announces_itself_at_once(self) -> None:
        """5.2: it does not wait for the next heartbeat, so that no other election begins."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        assert {(m.type, m.to) for m in core.take_messages()} >= {(MessageType.APPEND, 2), (MessageType.APPEND, 3)}

    def test_granting_a_vote_starts_the_timeout_anew(self) -> None:
        """5.2: a voter gives its candidate time to win before it stands itself; a refusal gives none."""
        for log_term, waits in ((9, True), (0, False)):
            core = core_of(1, 1, 2, 3)
            for _ in range(TIMING.election - 1):
                core.tick()
            core.step(Message(type=MessageType.VOTE, to=1, source=2, term=2, index=9, log_term=log_term))
            if waits:
                assert core.election_elapsed == 0
            assert (core.vote == 2) is waits


class TestPreVotes:
    def test_a_pre_vote_binds_nobody(self) -> None:
        """9.6: it may be granted to any number, writes nothing, and starts no timeout anew."""
        core = core_of(1, 1, 2, 3)
        for _ in range(5):
            core.tick()
        for source in (2, 3):
            core.step(Message(type=MessageType.PRE_VOTE, to=1, source=source, term=2, index=9, log_term=9))
        ready = core.ready()
        assert ready is not None
        assert ready.hard_state is None
        assert [(m.to, m.reject, m.term) for m in ready.messages] == [(2, False, 2), (3, False, 2)]
        assert (core.term, core.vote, core.election_elapsed) == (1, NO_ONE, 5)

    def test_a_refused_pre_vote_tells_the_term(self) -> None:
        """9.6: a member that was away learns in which term the others are, and asks for that one's successor."""
        core = core_of(1, 1, 2, 3)
        core.campaign()
        drain(core)
        core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=2, term=7, reject=True))
        assert (core.role, core.term) == (RaftRole.FOLLOWER, 7)
        core.campaign()
        assert {m.term for m in sent(core, MessageType.PRE_VOTE)} == {8}

    def test_grants_of_another_term_do_not_count(self) -> None:
        """9.6: a late answer to an earlier pre-vote says nothing about this one."""
        core = core_in(RaftRole.PRE_CANDIDATE)
        core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=2, term=9))
        assert core.role is RaftRole.PRE_CANDIDATE


class TestTransfer:
    def test_a_forced_request_counts_in_the_lease(self) -> None:
        """3.10 and 4.2.3: who hears a leader ignores candidates, but not the one that the leader itself asked."""
        core = core_of(1, 1, 2, 3)
        core.step(Message(type=MessageType.HEARTBEAT, to=1, source=2, term=1))
        drain(core)
        request = Message(type=MessageType.VOTE, to=1, source=3, term=2, index=9, log_term=9)
        core.step(request)
        assert sent(core) == []
        core.step(Message(type=MessageType.VOTE, to=1, source=3, term=2, index=9, log_term=9, force=True))
        assert [m.reject for m in sent(core, MessageType.VOTE_RESPONSE)] == [False]

    def test_force_does_not_replace_a_complete_log(self) -> None:
        """3.10: a hand-over is an election as any other: what the voter has, the candidate must have."""
        core = core_of(1, 1, 2, 3, terms=(1, 1))
        core.step(Message(type=MessageType.VOTE, to=1, source=3, term=2, index=2, log_term=1, force=True))
        assert [m.reject for m in sent(core, MessageType.VOTE_RESPONSE)] == [True]
