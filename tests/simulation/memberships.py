"""Who takes part in a Raft group, as the laws work it out for themselves from the committed entries."""

from __future__ import annotations

import json

import attrs

from swarmpy.raft.messages import ConfChangeKind, ConfState, Entry

Place = tuple[int, str]
"""Raft id and address of a member."""


@attrs.frozen
class Membership:
    """Who takes part from the entry ``index`` on."""

    index: int
    voters: frozenset[Place]
    learners: frozenset[Place]

    def after(self, entry: Entry) -> Membership:
        """The membership that the committed change ``entry`` makes of this one."""
        number, (raft_id, _, address) = json.loads(entry.data)
        kind = ConfChangeKind(number)
        voters, learners = dict(self.voters), dict(self.learners)
        group = voters if raft_id in voters else learners
        if kind is ConfChangeKind.ADD_LEARNER and raft_id not in voters:
            learners[raft_id] = address
        elif kind is ConfChangeKind.UPDATE and raft_id in group:
            group[raft_id] = address
        elif kind is ConfChangeKind.PROMOTE and raft_id in learners:
            voters[raft_id] = learners.pop(raft_id)
        elif kind is ConfChangeKind.REMOVE:
            group.pop(raft_id, None)
        return Membership(entry.index, frozenset(voters.items()), frozenset(learners.items()))


def membership_of(conf: ConfState, index: int) -> Membership:
    """``conf`` as the laws note it."""
    places = [frozenset((m.raft_id, m.address) for m in group) for group in (conf.voters, conf.learners)]
    return Membership(index, *places)
