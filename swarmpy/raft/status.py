"""What a driver tells of itself."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import NO_ONE, ConfState, Member
from swarmpy.raft.progress import ProgressState
from swarmpy.raft.state import RaftRole

CAUGHT_UP_ENTRIES = 1000
"""A learner this close to the leader's end, and pipelined, is fit to be promoted."""

CUT_OFF = (
    "this manager is cut off: it has no leader and hears too few of the others (ask another one, or make sure that the "
    "managers can reach each other)"
)
"""What a member that is cut off tells those who ask it."""


@attrs.frozen(kw_only=True)
class FollowerProgress:
    """One follower, as the leader sees it."""

    raft_id: int
    match: int
    """Its log agrees with the leader's up to here, on its disk."""
    state: ProgressState
    active: bool
    """It has answered within an election timeout, or could not be expected to yet."""
    silent_ticks: int
    """Since it last answered."""
    caught_up: bool
    """It answers, is pipelined, and at most :data:`CAUGHT_UP_ENTRIES` behind."""


@attrs.frozen(kw_only=True)
class RaftStatus:
    """One member at one moment."""

    raft_id: int
    role: RaftRole = RaftRole.FOLLOWER
    term: int = 0
    leader_id: int = NO_ONE
    leader_ready: bool = False
    """It leads and has applied all that was committed before its term."""
    commit: int = 0
    applied: int = 0
    first_index: int = 0
    """The first entry that is still here: who lacks an earlier one is sent a snapshot."""
    last_index: int = 0
    snapshot_index: int = 0
    """Of its newest snapshot; 0 when there is none."""
    log_bytes: int = 0
    """Applied since that snapshot was begun."""
    conf: ConfState = attrs.Factory(ConfState)
    progress: Mapping[int, FollowerProgress] = attrs.Factory(dict)
    """Only of a leader; by raft id."""
    cut_off: bool = False
    """It lost its quorum as the leader, or has known no leader for longer than an election takes: ask another one."""
    removed: bool = False
    """This member was removed from the cluster: its node must stop managing."""

    @property
    def is_leader(self) -> bool:
        """True when it leads, as far as it knows."""
        return self.role is RaftRole.LEADER

    @property
    def members(self) -> tuple[Member, ...]:
        """Voters and learners, by raft id."""
        return tuple(sorted((*self.conf.voters, *self.conf.learners), key=lambda member: member.raft_id))

    @property
    def leader(self) -> Member | None:
        """Who leads, if that is known."""
        return next((m for m in self.members if m.raft_id == self.leader_id), None)

    @property
    def key(self) -> tuple[object, ...]:
        """What subscribers hear of when it changes."""
        return (self.role, self.term, self.leader_id, self.leader_ready, self.conf, self.removed, self.cut_off)


def status_of(core: RaftCore, *, applied: int, since_snapshot: tuple[int, int] | None = None) -> RaftStatus:
    """The status of ``core``, whose state machine has applied everything up to ``applied``.

    ``since_snapshot``: the index of the newest snapshot, and the bytes applied since.
    """
    snapshot_index, log_bytes = since_snapshot or (0, 0)
    last = core.log.last_index
    progress = {}
    for raft_id, p in core.progress.items():
        active = core.is_active(p)
        near = p.state is ProgressState.REPLICATE and last - p.match <= CAUGHT_UP_ENTRIES
        progress[raft_id] = FollowerProgress(
            raft_id=raft_id,
            match=p.match,
            state=p.state,
            active=active,
            silent_ticks=core.now - p.last_contact,
            caught_up=core.answers(p) and near,
        )
    return RaftStatus(
        raft_id=core.raft_id,
        role=core.role,
        term=core.term,
        leader_id=core.leader,
        leader_ready=core.is_leader and applied >= core.term_start,
        commit=core.log.committed,
        applied=applied,
        first_index=core.log.first_index,
        last_index=last,
        snapshot_index=snapshot_index,
        log_bytes=log_bytes,
        conf=core.conf,
        progress=progress,
        cut_off=core.is_cut_off,
        removed=core.is_removed,
    )
