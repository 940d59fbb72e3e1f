"""How a leader is made and unmade: timeouts, pre-votes, votes, the lease, the quorum check, and handing over.

After sections 5.2 and 5.4.1 of the Raft paper; pre-vote is section 9.6 of Ongaro's thesis, leadership transfer 3.10,
the quorum check 6.2, and ignoring votes while a leader is heard 4.2.3.
"""

from __future__ import annotations

from swarmpy.errors import FailedPrecondition, NotLeader, Unavailable
from swarmpy.raft.messages import NO_ONE, EntryKind, Message, MessageType
from swarmpy.raft.progress import agreed, majority
from swarmpy.raft.state import RaftRole, RaftState


def can_campaign(state: RaftState) -> bool:
    """True for a voter without a committed membership change that it has yet to apply."""
    if state.raft_id not in state.voters or state.pending_snapshot is not None:
        return False
    log = state.log
    return not any(log.entry(i).kind is EntryKind.CONF_CHANGE for i in range(log.applied + 1, log.committed + 1))


def in_lease(state: RaftState) -> bool:
    """True while a leader is heard: it must not be disturbed by members that do not hear it.

    A leader is always in its own lease, for it steps down by itself when it loses the quorum.
    """
    if state.is_leader:
        return True
    return state.leader != NO_ONE and not state.leader_unreachable and state.election_elapsed < state.timing.election


def is_cut_off(state: RaftState) -> bool:
    """True for a member that should not let anybody wait for it: reads and writes go elsewhere, or come later.

    That is a leader that lost its quorum, until it hears of a leader, and a member that has known none for as long as
    the longest election timeout: an ordinary election is over by then.
    """
    if state.leader != NO_ONE:
        return False
    return state.lost_quorum or state.now - state.leaderless_since >= 2 * state.timing.election


def tick_follower(state: RaftState) -> None:
    """A tick of a member that does not lead."""
    state.election_elapsed += 1
    if state.election_elapsed >= state.election_timeout:
        if can_campaign(state):
            pre_campaign(state)
        elif state.leader != NO_ONE:
            state.become_follower(state.term, NO_ONE)
        return
    if state.role is not RaftRole.FOLLOWER:
        state.heartbeat_elapsed += 1
        if state.heartbeat_elapsed >= state.timing.heartbeat:
            # A request may be lost, or be ignored by a voter whose lease is about to end.
            state.heartbeat_elapsed = 0
            _ask_for_votes(state)


def ticks_left(state: RaftState) -> int:
    """The number of the next tick that brings something about, if nothing else happens before; 1 is the very next."""
    timing = state.timing
    if state.is_leader:
        heard = agreed([state.now if v == state.raft_id else state.progress[v].last_contact for v in state.voters])
        left = min(timing.heartbeat - state.heartbeat_elapsed, heard + timing.election - state.now)
        return left if state.transferee == NO_ONE else min(left, timing.election - state.transfer_elapsed)
    left = state.election_timeout - state.election_elapsed
    if state.role is not RaftRole.FOLLOWER:
        left = min(left, timing.heartbeat - state.heartbeat_elapsed)
    if state.leader == NO_ONE and not is_cut_off(state):
        left = min(left, state.leaderless_since + 2 * timing.election - state.now)
    return left


def pre_campaign(state: RaftState) -> None:
    """Find out whether an election could be won."""
    state.become_pre_candidate()
    if len(state.votes) >= majority(len(state.voters)):
        campaign(state)
    else:
        _ask_for_votes(state)


def campaign(state: RaftState, *, force: bool = False) -> None:
    """Stand for election; ``force`` when the leader itself asked for it."""
    state.become_candidate()
    state.campaign_forced = force
    if len(state.votes) >= majority(len(state.voters)):
        state.become_leader()
    else:
        _ask_for_votes(state)


def _ask_for_votes(state: RaftState) -> None:
    pre = state.role is RaftRole.PRE_CANDIDATE
    for voter in state.voters:
        if voter in state.votes:
            continue
        state.send(
            Message(
                type=MessageType.PRE_VOTE if pre else MessageType.VOTE,
                to=voter,
                source=state.raft_id,
                term=state.term + 1 if pre else state.term,
                index=state.log.last_index,
                log_term=state.log.last_term,
                force=state.campaign_forced,
                sender=state.me,
            )
        )


def handle_vote_request(state: RaftState, message: Message) -> None:
    """VOTE or PRE_VOTE of this term or (PRE_VOTE) a later one."""
    pre = message.type is MessageType.PRE_VOTE
    free = state.vote == message.source or (state.vote == NO_ONE and state.leader == NO_ONE)
    granted = (free or (pre and message.term > state.term)) and _may_lead(state, message)
    if granted and not pre:
        state.vote = message.source
        state.reset_election_timeout()
    state.send(
        Message(
            type=MessageType.PRE_VOTE_RESPONSE if pre else MessageType.VOTE_RESPONSE,
            to=message.source,
            source=state.raft_id,
            # A granted pre-vote answers for the term asked about; a refusal tells ours.
            term=message.term if granted else state.term,
            reject=not granted,
        )
    )


def _may_lead(state: RaftState, candidate: Message) -> bool:
    if not state.voters:
        return False  # who is taken for a voter and knows no members has lost its disk, and with it what it promised
    if state.raft_id in state.removed_members and state.voters == (candidate.source,):
        # It decides alone since this member was removed, and has yet to learn it. It has all that is committed; what
        # this log has beyond that binds nobody.
        return True
    return state.log.is_up_to_date(candidate.index, candidate.log_term)


def handle_vote_response(state: RaftState, message: Message) -> None:
    """An answer to this (pre-)candidate."""
    pre = state.role is RaftRole.PRE_CANDIDATE
    expected = MessageType.PRE_VOTE_RESPONSE if pre else MessageType.VOTE_RESPONSE
    if message.type is not expected or state.role not in (RaftRole.PRE_CANDIDATE, RaftRole.CANDIDATE):
        return
    if pre and not message.reject and message.term != state.term + 1:
        return
    if message.source not in state.voters:
        return
    state.votes.setdefault(message.source, not message.reject)
    quorum = majority(len(state.voters))
    granted = sum(state.votes.values())
    if granted >= quorum:
        if pre:
            campaign(state)
        else:
            state.become_leader()
        return
    if len(state.votes) - granted > len(state.voters) - quorum:
        state.become_follower(state.term, NO_ONE)
    if message.reject and not pre:
        # The vote is split: nobody leads, so trying again soon breaks no lease.
        _hasten(state)


def leader_unreachable(state: RaftState) -> None:
    """The connection to the leader broke: most likely its process is gone, so do not sit the timeout out.

    It is only a hint. The pre-vote makes acting on it harmless: while the others hear the leader they ignore us.
    """
    if state.role is RaftRole.FOLLOWER and not state.leader_unreachable:
        state.leader_unreachable = True
        _hasten(state)


def heard_leader(state: RaftState) -> None:
    """The leader of this term spoke: the lease begins anew."""
    if state.leader_unreachable:
        state.leader_unreachable = False
        state.reset_election_timeout()
    state.election_elapsed = 0


def _hasten(state: RaftState) -> None:
    soon = state.election_elapsed + 1 + state.random.randrange(max(1, state.timing.election // 2))
    state.election_timeout = min(state.election_timeout, soon)


def has_quorum(state: RaftState) -> bool:
    """False for a leader that a majority has not answered for an election timeout: another may have been elected."""
    active = sum(1 for v in state.voters if v == state.raft_id or state.is_active(state.progress[v]))
    return active >= majority(len(state.voters))


def start_transfer(state: RaftState, to: int) -> int:
    """Hand the leadership to the voter ``to`` (NO_ONE: the best one). Returns whom it was offered to.

    Raises NotLeader, FailedPrecondition (not a voter), Unavailable (nobody suitable answers).
    """
    if not state.is_leader:
        raise NotLeader
    if to == state.raft_id:
        return to
    others = [state.progress[voter] for voter in state.voters if voter != state.raft_id]
    if to == NO_ONE:
        active = [p for p in others if state.is_active(p)]
        if not active:
            raise Unavailable("no other manager answers that could take over the leadership: start one first")
        to = max(active, key=lambda p: (p.match, -p.raft_id)).raft_id
    elif to not in state.voters:
        raise FailedPrecondition(f"raft member {to} cannot lead: it is not a voter of this cluster")
    elif not state.is_active(state.progress[to]):
        raise Unavailable(f"raft member {to} does not answer: the leadership stays here")
    state.transferee = to
    state.transfer_elapsed = 0
    offer_leadership(state)
    return to


def offer_leadership(state: RaftState) -> None:
    """Tell the transferee to stand for election at once, as soon as its log is complete."""
    progress = state.progress.get(state.transferee)
    if progress is not None and progress.match == state.log.last_index:
        state.send(Message(type=MessageType.TIMEOUT_NOW, to=state.transferee, source=state.raft_id, term=state.term))


def tick_transfer(state: RaftState) -> None:
    """Give a hand-over up that took an election timeout, and accept proposals again."""
    if state.transferee == NO_ONE:
        return
    state.transfer_elapsed += 1
    if state.transfer_elapsed >= state.timing.election or state.transferee not in state.voters:
        state.transferee = NO_ONE


def handle_timeout_now(state: RaftState) -> None:
    """The leader hands over to this member."""
    if can_campaign(state) and not state.is_leader:
        if state.role is not RaftRole.FOLLOWER:
            state.become_follower(state.term, NO_ONE)
        campaign(state, force=True)
