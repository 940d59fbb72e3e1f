"""Deliberate bugs of snapshots and of changes of the membership."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_raft = partial(Mutant, world="managers")

SNAPSHOT = (
    _raft(
        name="snapshot-answered-before-saved",
        bug="A member answers for a snapshot that is not on its disk yet.",
        module="swarmpy.raft.duties",
        edits=(
            Edit(
                "        if ready.snapshot is not None:\n"
                "            await self._storage.save_snapshot(ready.snapshot, ready.snapshot.index + 1)\n",
                "",
            ),
            Edit(
                "                    await self._install(snapshots, ready)\n",
                "                    await self._storage.save_snapshot(ready.snapshot, ready.snapshot.index + 1)\n"
                "                    await self._install(snapshots, ready)\n",
            ),
        ),
    ),
    _raft(
        name="compact-too-much",
        bug="Entries applied while a snapshot was being made are dropped with it.",
        killer=46,
        module="swarmpy.raft.snapshots",
        edits=(
            Edit(
                "await self._storage.save_snapshot(attrs.evolve(snapshot, data=data), self._keep_from(snapshot.index))",
                "await self._storage.save_snapshot(attrs.evolve(snapshot, data=data), self._core.log.applied + 1)",
            ),
        ),
    ),
    _raft(
        name="snapshot-of-another-moment",
        bug="A snapshot says that it reaches further than the state in it.",
        killer=5,
        module="swarmpy.raft.snapshots",
        edits=(
            Edit(
                "            await self._storage.save_snapshot(attrs.evolve(snapshot, data=data),",
                "            snapshot = attrs.evolve(snapshot, index=self._core.log.applied)\n"
                "            await self._storage.save_snapshot(attrs.evolve(snapshot, data=data),",
            ),
        ),
    ),
    _raft(
        name="snapshot-without-members",
        bug="A member that installs a leader's snapshot keeps its old membership.",
        module="swarmpy.raft.replication",
        edits=(Edit("            state.set_conf(snapshot.conf, snapshot.index)\n", ""),),
    ),
)

MEMBERS = (
    _raft(
        name="learner-votes",
        bug="A learner's vote counts.",
        killer=1,
        module="swarmpy.raft.election",
        edits=(
            Edit("    for voter in state.voters:\n", "    for voter in state.members:\n"),
            Edit("    if message.source not in state.voters:\n", "    if message.source not in state.members:\n"),
        ),
    ),
    _raft(
        name="learner-commits",
        bug="What a learner has counts towards the commit.",
        killer=1,
        module="swarmpy.raft.replication",
        edits=(
            Edit(
                "index = agreed([log.stable if v == state.raft_id else state.progress[v].match for v in state.voters])",
                "matched = [log.stable, *(p.match for p in state.progress.values())]\n"
                "    index = sorted(matched)[-(len(state.voters) // 2 + 1)]",
            ),
        ),
    ),
    _raft(
        name="two-changes-at-once",
        bug="A change of the membership begins before the one before it is applied.",
        killer=72,
        module="swarmpy.raft.membership",
        edits=(
            Edit(
                "if state.log.applied < state.pending_conf_index or not state.has_committed_in_term:",
                "if not state.has_committed_in_term:",
            ),
        ),
    ),
    _raft(
        name="change-before-commit",
        bug="A leader goes by a new membership as soon as it has proposed it.",
        module="swarmpy.raft.membership",
        edits=(
            Edit(
                "    state.pending_conf_index = index\n    return index\n",
                "    state.pending_conf_index = index\n"
                "    state.set_conf(changed(state.conf, change), index)\n    return index\n",
            ),
        ),
    ),
    _raft(
        name="removed-still-counts",
        bug="A member that was removed remains a voter.",
        killer=5,
        module="swarmpy.raft.membership",
        edits=(Edit("gone = voters.pop(raft_id, None) or", "gone = voters.get(raft_id) or"),),
    ),
    _raft(
        name="change-without-quorum",
        bug="A manager is removed, or gets a vote, though too few of those left answer.",
        killer=82,
        module="swarmpy.raft.membership",
        edits=(
            Edit("    if answering < needed <= me + sum(map(state.is_active, others)):\n", "    if answering < 0:\n"),
            Edit("    if answering < needed:\n", "    if answering < 0:\n"),
        ),
    ),
    _raft(
        name="patience-is-an-answer",
        bug="A leader that is new, or stood still, counts on those that it has not heard yet.",
        killer=82,
        module="swarmpy.raft.state",
        edits=(Edit("return progress.has_answered and self.is_active(progress)", "return self.is_active(progress)"),),
    ),
)
