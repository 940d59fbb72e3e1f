"""What a leader may promise to those who ask it: to take a write, to change the managers, to have shown what is true.

Beside the laws of the group (:mod:`raft_laws`), whose books they share. Here it counts who was heard, and when.
"""

from __future__ import annotations

from memberships import Membership
from raft_laws import RaftLaws, Seen

from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import ConfChange, Message


class LeaderLaws(RaftLaws):
    """All laws of one group."""

    def hears(self, raft_id: int, message: Message) -> None:
        """``message`` has come."""
        seen = self.look(raft_id)
        if seen is not None and seen.core is not None:
            seen.heard[message.source] = seen.core.now

    def accepts_write(self, raft_id: int) -> None:
        """A leader takes a write. A quorum has answered it within an election timeout of its own ticks."""
        seen = self.look(raft_id)
        assert seen is not None
        assert seen.core is not None
        core = seen.core
        heard = [core.now if v == raft_id else max(seen.heard.get(v, 0), seen.patient_since) for v in core.voters]
        quorum = sorted(heard, reverse=True)[len(heard) // 2]
        silence = core.now - quorum
        if silence > core.timing.election:
            self._fail(raft_id, f"takes a write {silence} ticks after a quorum was heard")
        self._checked("a leader that is cut off takes no writes")

    def shows(self, raft_id: int, index: int, asked_at: int) -> None:
        """A read is answered with the state after ``index``; ``asked_at`` was committed when it was asked for."""
        self.look(raft_id)
        if index < asked_at:
            self._fail(raft_id, f"answers a read with entry {index}, though {asked_at} was committed before it")
        self._checked("a read shows what was committed before it")

    def _meets(self, seen: Seen, core: RaftCore) -> None:
        propose = core.propose_conf_change

        def lawful(change: ConfChange) -> int:
            self.look(seen.raft_id)
            index = propose(change)
            # The one it lives by: a leader that stood still may not know yet what another has changed since.
            before = self._conf_at(core.conf_index)
            self._accepts_change(seen, core, before, before.after(core.log.entry(index)))
            return index

        vars(core)["propose_conf_change"] = lawful

    def _accepts_change(self, seen: Seen, core: RaftCore, before: Membership, after: Membership) -> None:
        """The managers left, or with the new one, have a quorum that was heard: no patience counts."""
        voters = sorted(raft_id for raft_id, _ in after.voters)
        if voters == sorted(raft_id for raft_id, _ in before.voters) or core.now <= seen.awake_since:
            return
        since = core.now - core.timing.election - 1
        silent = [v for v in voters if v != seen.raft_id and seen.heard.get(v, -1) < max(since, seen.awake_since)]
        if 2 * len(silent) >= len(voters):
            self._fail(seen.raft_id, f"changes the voters to {voters}, of whom {silent} are silent")
        self._checked("a change of the managers leaves a quorum that answers")
