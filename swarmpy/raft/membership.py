"""Who takes part: one change at a time, in force on each member when it applies the entry.

With single changes any old and any new majority share a member, so no joint state is needed (section 4.1 of Ongaro's
thesis), provided that a leader first commits an entry of its own term. A removed id is never used again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from swarmpy.errors import FailedPrecondition, NotLeader, Unavailable
from swarmpy.raft.encoding import encode_conf_change
from swarmpy.raft.messages import NO_ONE, ConfChange, ConfChangeKind, ConfState, EntryKind, Member
from swarmpy.raft.progress import ProgressState, majority
from swarmpy.raft.replication import maybe_commit
from swarmpy.raft.state import RaftState

MAX_REMOVED_REMEMBERED = 64


def changed(conf: ConfState, change: ConfChange) -> ConfState:
    """``conf`` after ``change``. A change that does not fit changes nothing, on every member alike."""
    member = change.member
    voters = {m.raft_id: m for m in conf.voters}
    learners = {m.raft_id: m for m in conf.learners}
    removed = {m.raft_id: m for m in conf.removed}
    raft_id = member.raft_id
    if change.kind is ConfChangeKind.ADD_LEARNER:
        if raft_id not in voters and raft_id not in removed:
            learners[raft_id] = member
    elif change.kind is ConfChangeKind.PROMOTE:
        if raft_id in learners:
            voters[raft_id] = learners.pop(raft_id)
    elif change.kind is ConfChangeKind.UPDATE:
        for group in (voters, learners):
            if raft_id in group:
                group[raft_id] = member
    else:
        gone = voters.pop(raft_id, None) or learners.pop(raft_id, None)
        if gone is not None:
            removed[raft_id] = gone
    return ConfState(
        voters=_ordered(voters),
        learners=_ordered(learners),
        removed=tuple(removed.values())[-MAX_REMOVED_REMEMBERED:],
    )


def _ordered(members: dict[int, Member]) -> tuple[Member, ...]:
    return tuple(members[raft_id] for raft_id in sorted(members))


def propose(state: RaftState, change: ConfChange) -> int:
    """Leader: append ``change`` to the log. Returns its index.

    Raises NotLeader; Unavailable while another change is under way, or the leader does not know yet who answers;
    FailedPrecondition when the change makes no sense or would leave the cluster without a reachable quorum.
    """
    if not state.is_leader:
        raise NotLeader
    if state.transferee != NO_ONE:
        raise Unavailable("the leadership is being handed over: ask again in a moment")
    if state.log.applied < state.pending_conf_index or not state.has_committed_in_term:
        raise Unavailable("another change of the managers is under way: ask again when it is done")
    _check(state, change)
    index = state.append_entry(EntryKind.CONF_CHANGE, encode_conf_change(change))
    state.pending_conf_index = index
    return index


def _check(state: RaftState, change: ConfChange) -> None:
    member = change.member
    known = state.members.get(member.raft_id)
    is_voter = member.raft_id in state.voters
    if change.kind is ConfChangeKind.ADD_LEARNER:
        if member.raft_id <= NO_ONE or member.raft_id in state.removed_members:
            raise FailedPrecondition(f"raft id {member.raft_id} cannot join: it was removed before; take a new id")
        if is_voter:
            raise FailedPrecondition(f"raft member {member.raft_id} votes already")
        return
    if known is None:
        raise FailedPrecondition(f"raft member {member.raft_id} is not one of this cluster")
    if change.kind is ConfChangeKind.PROMOTE:
        _check_promotion(state, member.raft_id, is_voter=is_voter)
    elif change.kind is ConfChangeKind.REMOVE and is_voter:
        _check_removal(state, member.raft_id)


def _check_promotion(state: RaftState, raft_id: int, *, is_voter: bool) -> None:
    if is_voter:
        raise FailedPrecondition(f"raft member {raft_id} votes already")
    progress = state.progress[raft_id]
    if not state.answers(progress) or progress.state is not ProgressState.REPLICATE:
        raise FailedPrecondition(f"raft member {raft_id} has not caught up with the log: promote it when it has")


def _check_removal(state: RaftState, raft_id: int) -> None:
    left = [voter for voter in state.voters if voter != raft_id]
    if not left:
        raise FailedPrecondition("the last manager cannot be removed: nobody would be left to decide")
    if raft_id == state.raft_id and len(left) == 1:
        # The one left may not learn that it decides alone now, and would wait for this one's vote for ever.
        raise FailedPrecondition("the leader of two managers cannot remove itself: hand the leadership over first")
    _check_quorum_of(state, left, f"raft member {raft_id} cannot be removed")


def check_removals(state: RaftState, raft_ids: Collection[int]) -> None:
    """Leader: would a quorum be left and answer without ``raft_ids``? Asks only, and changes nothing.

    One of them may be this leader, which is to hand over first. Raises NotLeader, FailedPrecondition, Unavailable.
    """
    if not state.is_leader:
        raise NotLeader
    left = [voter for voter in state.voters if voter not in raft_ids]
    if not left:
        learning = len(state.members) - len(state.voters)
        why = f"; {learning} more are catching up and have no vote yet: wait until they are reachable" * bool(learning)
        raise FailedPrecondition(f"attempting to demote the last manager of the swarm{why}")
    if len(left) < len(state.voters):
        _check_quorum_of(state, left, "this would cost the swarm its quorum")


def _check_quorum_of(state: RaftState, voters: Sequence[int], refusal: str) -> None:
    others = [state.progress[voter] for voter in voters if voter != state.raft_id]
    me = len(voters) - len(others)
    answering = me + sum(map(state.answers, others))
    needed = majority(len(voters))
    if answering < needed <= me + sum(map(state.is_active, others)):
        raise Unavailable(f"{refusal}: the leader has not heard of all managers yet: ask again in a moment")
    if answering < needed:
        raise FailedPrecondition(
            f"{refusal}: {answering} of {len(voters)} managers that are left answer, {needed} are needed; "
            "bring the others back first, or remove those that are gone for good"
        )


def apply(state: RaftState, change: ConfChange, index: int) -> None:
    """The entry ``index`` is applied: ``change`` is in force. A leader that removed itself steps down."""
    if index <= state.conf_index:
        return  # a snapshot that was installed meanwhile includes it
    state.set_conf(changed(state.conf, change), index)
    if not state.is_leader:
        return
    if index == state.pending_conf_index:
        state.pending_conf_index = 0  # now, and not with the rest of what is applied together: the next may follow
    if state.raft_id not in state.voters:
        state.become_follower(state.term, NO_ONE)
        return
    if state.transferee not in state.voters:
        state.transferee = NO_ONE
    maybe_commit(state)
