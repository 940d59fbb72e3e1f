"""How the records of consensus look in a transcript: one line each, in a fixed form, only with what counts."""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.raft.core import RaftCore
from swarmpy.raft.encoding import decode_conf_change
from swarmpy.raft.messages import NO_ONE, Entry, EntryKind, HardState, Message, MessageType, Snapshot
from swarmpy.raft.progress import Progress
from swarmpy.raft.state import RaftRole, RaftState


def entry_line(entry: Entry) -> str:
    """``term/index`` and the content."""
    place = f"{entry.term}/{entry.index}"
    if entry.kind is EntryKind.CONF_CHANGE:
        change = decode_conf_change(entry)
        return f"{place} {change.kind.name} {change.member.raft_id}"
    return f'{place} "{entry.data.decode()}"' if entry.data else f"{place} no-op"


def hard_state_line(hard_state: HardState) -> str:
    """Term, vote and commit."""
    return f"term {hard_state.term}, vote {_who(hard_state.vote)}, commit {hard_state.commit}"


def snapshot_line(snapshot: Snapshot) -> str:
    """Where it ends and who takes part there."""
    return f"snapshot {snapshot.term}/{snapshot.index}, {_group('voters', snapshot.conf.voters)}"


def message_line(m: Message) -> str:
    """Source, target, type, term, and the fields that count for its type."""
    return f"{m.source}->{m.to} {m.type.name} term {m.term}{_fields(m)}"


def _fields(m: Message) -> str:
    return _FIELDS[m.type](m) if m.type in _FIELDS else ""


def _append_response(m: Message) -> str:
    if not m.reject:
        return f", matches to {m.index}"
    return f", rejects {m.index}, try {m.hint_term}/{m.hint}" if m.index else ", rejects"


def _candidate(m: Message) -> str:
    return f", last {m.log_term}/{m.index}{', forced' if m.force else ''}"


def _verdict(m: Message) -> str:
    return ", refused" if m.reject else ", granted"


_FIELDS: dict[MessageType, Callable[[Message], str]] = {
    MessageType.APPEND: lambda m: (
        f", after {m.log_term}/{m.index}, commit {m.commit}{''.join(f', {entry_line(e)}' for e in m.entries)}"
    ),
    MessageType.APPEND_RESPONSE: _append_response,
    MessageType.HEARTBEAT: lambda m: f", commit {m.commit}, round {m.context}",
    MessageType.HEARTBEAT_RESPONSE: lambda m: f", round {m.context}",
    MessageType.VOTE: _candidate,
    MessageType.PRE_VOTE: _candidate,
    MessageType.VOTE_RESPONSE: _verdict,
    MessageType.PRE_VOTE_RESPONSE: _verdict,
    MessageType.READ_INDEX: lambda m: f", read {m.context}",
    MessageType.READ_INDEX_RESPONSE: lambda m: f", read {m.context} at {m.index}",
    MessageType.SNAPSHOT: lambda m: (
        f", {f'snapshot to {m.index}' if m.snapshot is None else snapshot_line(m.snapshot)}"
    ),
}


def role_line(core: RaftState) -> str:
    """What a member is now."""
    if core.role is RaftRole.FOLLOWER:
        return f"{core.raft_id} follows {_who(core.leader)} in term {core.term}"
    return f"{core.raft_id} is {core.role.value} in term {core.term}"


def members_line(core: RaftState) -> str:
    """Who takes part, as far as a member has applied it."""
    learners = f", {_group('learners', core.conf.learners)}" if core.conf.learners else ""
    return f"{core.raft_id} has {_group('voters', core.conf.voters)}{learners}"


def status_lines(core: RaftCore) -> list[str]:
    """All that a member knows of itself and, as a leader, of the others."""
    log = core.log
    places = f"log {log.first_index}..{log.last_index}, durable {log.stable}, commit {log.committed}, "
    places += f"applied {log.applied}{', cut off' if core.is_cut_off else ''}"
    return [
        f"{role_line(core)}, vote {_who(core.vote)}, {places}",
        *(f"  {progress_line(p)}" for _, p in sorted(core.progress.items())),
    ]


def progress_line(p: Progress) -> str:
    """How a follower is fed."""
    paused = ", paused" if p.is_paused else ""
    return f"{p.raft_id} {p.state.value}, match {p.match}, next {p.next}, in flight {p.inflight}{paused}"


def _group(name: str, members: tuple) -> str:
    return f"{name} {' '.join(str(m.raft_id) for m in members) or 'none'}"


def _who(raft_id: int) -> str:
    return "nobody" if raft_id == NO_ONE else str(raft_id)
