"""Deliberate bugs of elections, terms, the quorum check and reads."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_raft = partial(Mutant, world="managers")

ELECTION = (
    _raft(
        name="vote-twice",
        bug="A voter that has voted votes again in the same term.",
        killer=6,
        module="swarmpy.raft.election",
        edits=(
            Edit(
                "free = state.vote == message.source or (state.vote == NO_ONE and state.leader == NO_ONE)",
                "free = state.leader == NO_ONE",
            ),
        ),
    ),
    _raft(
        name="forget-vote",
        bug="A member that restarts has forgotten whom it voted for.",
        killer=1,
        module="swarmpy.raft.state",
        edits=(Edit("self.vote = hard_state.vote\n", "self.vote = NO_ONE\n"),),
    ),
    _raft(
        name="forget-term",
        bug="A member that restarts remembers only the term of its last entry.",
        killer=12,
        module="swarmpy.raft.state",
        edits=(
            Edit("self.term = hard_state.term\n", "self.term = log.last_term\n"),
            Edit(
                "self.vote = hard_state.vote\n", "self.vote = hard_state.vote if self.term == hard_state.term else 0\n"
            ),
        ),
    ),
    _raft(
        name="vote-for-a-shorter-log",
        bug="A voter does not compare the candidate's log with its own.",
        killer=3,
        module="swarmpy.raft.log",
        edits=(Edit("return (last_term, last_index) >= (self.last_term, self.last_index)", "return True"),),
    ),
    _raft(
        name="count-refusals",
        bug="A refused vote is counted as a granted one.",
        killer=3,
        module="swarmpy.raft.election",
        edits=(Edit("granted = sum(state.votes.values())", "granted = len(state.votes)"),),
    ),
    _raft(
        name="no-pre-vote",
        bug="A member stands for election without asking first whether it could win.",
        killer=4,
        module="swarmpy.raft.election",
        edits=(
            Edit(
                "    state.become_pre_candidate()\n    if len(state.votes) >= majority(len(state.voters)):\n"
                "        campaign(state)\n    else:\n        _ask_for_votes(state)\n",
                "    campaign(state)\n",
            ),
        ),
    ),
    _raft(
        name="no-check-quorum",
        bug="A leader that hears from nobody goes on leading.",
        killer=1,
        module="swarmpy.raft.core",
        edits=(Edit("if not election.has_quorum(self):", "if not self.voters:"),),
    ),
    _raft(
        name="votes-before-the-disk",
        bug="Votes and acknowledgements go out before what they promise is on the disk.",
        module="swarmpy.raft.duties",
        edits=(
            Edit("                await self._persist(ready)\n", ""),
            Edit(
                "                self._send(core, ready.messages_after_persist)\n",
                "                self._send(core, ready.messages_after_persist)\n"
                "                await self._persist(ready)\n",
            ),
        ),
    ),
    _raft(
        name="term-not-durable",
        bug="Messages go out under a term that is not on the disk yet.",
        killer=9,
        module="swarmpy.raft.core",
        edits=(Edit("if not self.outbox or self.durable != (self.term, self.vote):", "if not self.outbox:"),),
    ),
    _raft(
        name="no-term-check",
        bug="Messages of earlier terms are taken for those of this term.",
        killer=18,
        module="swarmpy.raft.core",
        edits=(
            Edit(
                "            self._answer_earlier_term(message)\n            return\n",
                "            if message.type in _FROM_LEADER:\n"
                "                self._answer_earlier_term(message)\n                return\n",
            ),
        ),
    ),
)

READS = (
    _raft(
        name="read-without-quorum",
        bug="A leader answers reads without confirming that it still leads.",
        killer=27,
        module="swarmpy.raft.reads",
        edits=(Edit("confirmed = agreed(rounds)", "confirmed = state.read_round_sent"),),
    ),
    _raft(
        name="read-before-applied",
        bug="A read is answered before its index is applied.",
        killer=3,
        module="swarmpy.raft.open_reads",
        edits=(Edit("            if wanted <= index:\n", "            if wanted:\n"),),
    ),
    _raft(
        name="read-before-first-commit",
        bug="A new leader answers reads before it knows what is committed.",
        killer=6,
        module="swarmpy.raft.reads",
        edits=(Edit("    if not state.has_committed_in_term:\n", "    if state.log.committed < 0:\n"),),
    ),
    _raft(
        name="old-confirmation",
        bug="A heartbeat's answer confirms reads that came after the heartbeat.",
        killer=8,
        module="swarmpy.raft.replication",
        edits=(Edit("max(progress.read_acked, min(message.context, state.read_round))", "state.read_round"),),
    ),
)
