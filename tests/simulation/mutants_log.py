"""Deliberate bugs of the log: how entries are followed, cut, written, committed and applied."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_raft = partial(Mutant, world="managers")

LOG = (
    _raft(
        name="no-log-match",
        bug="A follower takes entries without looking at the term of the one before them.",
        killer=115,
        module="swarmpy.raft.log",
        edits=(Edit("if not self.matches(prev_index, prev_term):", "if self.term_at(prev_index) is None:"),),
    ),
    _raft(
        name="keep-conflict",
        bug="A follower keeps its own entries where the leader has others.",
        killer=5,
        module="swarmpy.raft.log",
        edits=(Edit("if self.term_at(entry.index) != entry.term:", "if self.term_at(entry.index) is None:"),),
    ),
    _raft(
        name="late-append-cuts",
        bug="A late or repeated append cuts off the entries that came after it.",
        killer=25,
        module="swarmpy.raft.log",
        edits=(
            Edit(
                "if self.term_at(entry.index) != entry.term:",
                "if self.term_at(entry.index) != entry.term or entry.index > self.committed:",
            ),
        ),
    ),
    _raft(
        name="stay-stable",
        bug="Entries that replace others count as written because the others were.",
        killer=5,
        module="swarmpy.raft.log",
        edits=(Edit("        self.stable = min(self.stable, index - 1)\n", ""),),
    ),
    _raft(
        name="commit-old-term",
        bug="A leader commits an entry of an earlier term because a majority has it (figure 8 of the Raft paper).",
        killer=1,
        module="swarmpy.raft.replication",
        edits=(Edit("if index > log.committed and log.matches(index, state.term):", "if index > log.committed:"),),
    ),
    _raft(
        name="count-unwritten",
        bug="A leader counts itself for entries that are not on its own disk.",
        module="swarmpy.raft.replication",
        edits=(Edit("agreed([log.stable if v == state.raft_id", "agreed([log.last_index if v == state.raft_id"),),
    ),
    _raft(
        name="heartbeat-commits-too-much",
        bug="A heartbeat tells a follower to commit more than is known to match.",
        killer=115,
        module="swarmpy.raft.reads",
        edits=(Edit("commit=min(progress.match, state.log.committed),", "commit=state.log.committed,"),),
    ),
    _raft(
        name="behind-and-acknowledges",
        bug="A member that only applies for a while acknowledges what it has yet to write.",
        killer=1,
        module="swarmpy.raft.core",
        edits=(
            Edit(
                "            messages=messages,\n            hard_state=HardState(",
                "            messages=(*messages, *self.promises),\n            hard_state=HardState(",
            ),
        ),
    ),
    _raft(
        name="minority-commits",
        bug="One voter less than a majority commits.",
        killer=1,
        module="swarmpy.raft.progress",
        edits=(
            Edit(
                "return sorted(values)[(len(values) - 1) // 2]",
                "return sorted(values)[len(values) // 2 + len(values) // 3]",
            ),
        ),
    ),
)

APPLY = (
    _raft(
        name="apply-out-of-order",
        bug="The entries of one batch are applied in another order.",
        module="swarmpy.raft.duties",
        edits=(
            Edit(
                "        for entry in entries:\n",
                "        for entry in sorted(entries, key=lambda entry: -entry.index):\n",
            ),
        ),
    ),
    _raft(
        name="apply-skips",
        bug="An entry of an earlier term that is committed late is not applied.",
        killer=13,
        module="swarmpy.raft.duties",
        edits=(
            Edit("            elif entry.data:\n", "            elif entry.data and entry.term >= core.term - 1:\n"),
        ),
    ),
    _raft(
        name="apply-twice",
        bug="A member that restarts applies the kept tail again, over its snapshot.",
        killer=3,
        module="swarmpy.raft.core",
        edits=(Edit("            log.applied_to(snapshot.index)\n", ""),),
    ),
    _raft(
        name="refuse-the-unknown",
        bug="A proposal whose outcome is unknown is reported as refused.",
        killer=2,
        module="swarmpy.raft.proposals",
        edits=(
            Edit(
                "from swarmpy.errors import OutcomeUnknown, SwarmpyError",
                "from swarmpy.errors import SwarmpyError, Unavailable",
            ),
            Edit(
                "def _lost() -> OutcomeUnknown:\n    return OutcomeUnknown(",
                "def _lost() -> Unavailable:\n    return Unavailable(",
            ),
        ),
    ),
)
