"""Deliberate bugs that tens to hundreds of universes did not notice: what the simulator sees too rarely, or not yet.

They are no part of the suite; ``python -m tests.simulation.mutants --elusive`` looks for them.
"""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_raft = partial(Mutant, world="managers")

ELUSIVE = (
    _raft(
        name="longer-log-wins",
        bug="Logs are compared by length alone, not by their last terms first.",
        module="swarmpy.raft.log",
        edits=(
            Edit(
                "return (last_term, last_index) >= (self.last_term, self.last_index)",
                "return last_index >= self.last_index",
            ),
        ),
    ),
    _raft(
        name="stable-without-term",
        bug="A finished write counts for other entries that have taken the place of those written.",
        module="swarmpy.raft.log",
        edits=(
            Edit("if index > self.stable and self.matches(index, term):", "if self.last_index >= index > self.stable:"),
        ),
    ),
    _raft(
        name="tail-survives-on-disk",
        bug="Entries on the disk after those that replace a conflict are not deleted.",
        module="swarmpy.raft.storage",
        edits=(
            Edit(
                "                del self._entries[max(0, entries[0].index - self._entries[0].index) :]\n"
                "            self._entries.extend(entries)\n",
                "                at = max(0, entries[0].index - self._entries[0].index)\n"
                "                self._entries[at : at + len(entries)] = entries\n"
                "            else:\n                self._entries.extend(entries)\n",
            ),
        ),
    ),
    _raft(
        name="append-commits-too-much",
        bug="A follower commits all of its log that the leader says is committed, matching or not.",
        module="swarmpy.raft.replication",
        edits=(Edit("min(message.commit, last)))", "min(message.commit, log.last_index)))"),),
    ),
    _raft(
        name="snapshot-without-answers",
        bug="A snapshot forgets which requests were applied.",
        module="swarmpy.store.snapshot",
        edits=(
            Edit(
                "return _parts(objects, sessions.copy(), version)",
                "return _parts(objects, Sessions().copy(), version)",
            ),
        ),
    ),
)
