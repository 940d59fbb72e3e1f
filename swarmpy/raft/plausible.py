"""Messages that no member would send. They come from a peer with a certificate, so it is broken, or in wrong hands.

A member drops them: it neither ends over them nor believes them. It does not protect from a manager that lies well:
that one could do anything anyway.
"""

from __future__ import annotations

from swarmpy.raft.messages import NO_ONE, ConfState, Message, MessageType
from swarmpy.raft.state import RaftState

MAX_TERM_STEP = 1 << 32
"""A term ends with an election, so it takes more than a century of them to get so far ahead of anybody. Whoever
believed in a far greater one would have to vote in one that cannot be stored."""
MOST = (1 << 63) - 1
"""What a log can store."""
MAX_MEMBERS = 1024

_OF_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})


def absurdity(state: RaftState, message: Message) -> str:
    """What is the matter with ``message``; "" for one that may be meant."""
    if message.source in (NO_ONE, state.raft_id):
        return "it comes from nobody else"
    if message.term > state.term + MAX_TERM_STEP:
        return f"its term {message.term} is ages after {state.term}"
    kind = message.type
    if kind in _OF_LEADER:
        return _of_leader(state, message)
    if kind is MessageType.REMOVED and message.source not in state.members:
        return "a stranger says that this member was removed"
    return ""


def _of_leader(state: RaftState, message: Message) -> str:
    if message.term == state.term and state.leader not in (NO_ONE, message.source):
        return f"term {state.term} has a leader already: {state.leader}"
    if message.type is MessageType.SNAPSHOT:
        return _of_snapshot(state, message)
    if message.index + len(message.entries) > MOST:
        return "the log has no room for its entries"
    last = message.log_term
    for entry in message.entries:
        if not last <= entry.term <= message.term:
            return "the terms of its entries fall, or are later than its own"
        last = entry.term
    return ""


def _of_snapshot(state: RaftState, message: Message) -> str:
    snapshot, log = message.snapshot, state.log
    if snapshot is None:
        return ""
    if snapshot.term > message.term or not 0 < snapshot.index < MOST:
        return "its snapshot is of a later term, or of nowhere"
    if snapshot.index > log.committed and snapshot.term < (log.term_at(log.committed) or 0):
        return "its snapshot is of an earlier term than what is committed before it"
    return _of_members(snapshot.conf)


def _of_members(conf: ConfState) -> str:
    ids = [member.raft_id for member in (*conf.voters, *conf.learners)]
    if not conf.voters or len(ids) > MAX_MEMBERS or len(conf.removed) > MAX_MEMBERS:
        return "it has no members, or too many"
    if NO_ONE in ids or len(set(ids)) < len(ids) or any(member.raft_id in ids for member in conf.removed):
        return "its members contradict each other"
    return ""
