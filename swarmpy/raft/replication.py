"""How the log gets to the followers and becomes committed: appends, conflicts, heartbeats, snapshots.

Sending is level-triggered: handlers only note what is known, and :func:`replicate` sends whatever is due. However many
proposals and answers came in since the last time, each follower gets them as one append.

After sections 5.3, 5.4.2 and 7 of the Raft paper.
"""

from __future__ import annotations

from swarmpy.raft import election, reads
from swarmpy.raft.messages import Entry, Message, MessageType
from swarmpy.raft.progress import Progress, ProgressState, agreed
from swarmpy.raft.state import RaftState

MAX_APPEND_BYTES = 1024 * 1024
"""Entries in one append (a single larger entry still goes, alone)."""
MAX_APPEND_ENTRIES = 4096


def replicate(state: RaftState) -> None:
    """Leader: send each follower what it lacks, as far as its window allows."""
    reads.send_round(state)
    for progress in state.progress.values():
        while _send_due(state, progress):
            pass


def _send_due(state: RaftState, progress: Progress) -> bool:
    """Send one append or ask for a snapshot. True when there may be more to send at once."""
    if progress.is_paused and not progress.ping:
        return False
    log = state.log
    if _is_served(state, progress):
        return False
    prev_term = log.term_at(progress.next - 1)
    if prev_term is None:
        _send_snapshot(state, progress)
        return False
    entries: tuple[Entry, ...] = ()
    if not progress.is_paused:
        entries = log.slice(progress.next, log.last_index, MAX_APPEND_BYTES, MAX_APPEND_ENTRIES)
    state.send(
        Message(
            type=MessageType.APPEND,
            to=progress.raft_id,
            source=state.raft_id,
            term=state.term,
            index=progress.next - 1,
            log_term=prev_term,
            entries=entries,
            commit=log.committed,
            sender=state.me if progress.match == 0 else None,
        )
    )
    progress.sent_commit = log.committed
    last = progress.next - 1 + len(entries)
    progress.sent(last, sum([len(entry.data) for entry in entries]))
    return last < log.last_index


def _is_served(state: RaftState, progress: Progress) -> bool:
    """True when the follower has, or is being sent, all there is, and knows what is committed."""
    log = state.log
    if progress.ping or progress.next <= log.last_index or progress.sent_commit < log.committed:
        return False
    return progress.state is ProgressState.REPLICATE or progress.match == log.last_index


def _send_snapshot(state: RaftState, progress: Progress) -> None:
    """The entries that the follower needs are gone. A silent follower is left alone until it answers."""
    if not state.is_active(progress):
        progress.ping = False
        return
    index = state.log.offset
    progress.become_snapshot(index)
    state.send(
        Message(
            type=MessageType.SNAPSHOT,
            to=progress.raft_id,
            source=state.raft_id,
            term=state.term,
            index=index,
            sender=state.me,
        )
    )


def broadcast_heartbeat(state: RaftState) -> None:
    """The heartbeat that is due; it does for the reads that wait, too."""
    state.heartbeat_elapsed = 0
    reads.send_heartbeats(state)


def handle_append(state: RaftState, message: Message) -> None:
    """Follower: entries of the leader of this term."""
    log = state.log
    answer = MessageType.APPEND_RESPONSE
    if message.index < log.committed:
        # Late or repeated: what is committed matches anyway.
        state.send(Message(type=answer, to=message.source, source=state.raft_id, term=state.term, index=log.committed))
        return
    last = log.maybe_append(message.index, message.log_term, message.entries)
    if last is not None:
        log.commit_to(max(log.committed, min(message.commit, last)))
        state.send(Message(type=answer, to=message.source, source=state.raft_id, term=state.term, index=last))
        return
    hint, hint_term = log.agree_hint(message.index, message.log_term)
    state.send(
        Message(
            type=answer,
            to=message.source,
            source=state.raft_id,
            term=state.term,
            index=message.index,
            reject=True,
            hint=hint,
            hint_term=hint_term,
        )
    )


def handle_append_response(state: RaftState, progress: Progress, message: Message) -> None:
    """Leader: how far a follower has come."""
    if message.reject:
        hint = message.hint
        if message.hint_term:
            hint = state.log.agree_hint(message.hint, message.hint_term)[0]
        progress.rejected(message.index, hint)
        return
    if message.index > state.log.last_index:
        return  # no promise about anything of ours
    news = progress.acked(message.index)
    connected = progress.state is ProgressState.SNAPSHOT and progress.match >= state.log.offset
    if connected or progress.state is ProgressState.PROBE:
        progress.become_replicate()
    if news:
        maybe_commit(state)
        if progress.raft_id == state.transferee:
            election.offer_leadership(state)


def maybe_commit(state: RaftState) -> None:
    """Leader: commit what a majority has, if it is of this term; older terms come with it (section 5.4.2)."""
    if not state.voters:
        return
    log = state.log
    index = agreed([log.stable if v == state.raft_id else state.progress[v].match for v in state.voters])
    if index > log.committed and log.matches(index, state.term):
        log.commit_to(index)
        reads.release_early(state)


def handle_heartbeat(state: RaftState, message: Message) -> None:
    """Follower: the leader is there."""
    state.log.commit_to(max(state.log.committed, min(message.commit, state.log.last_index)))
    state.send(
        Message(
            type=MessageType.HEARTBEAT_RESPONSE,
            to=message.source,
            source=state.raft_id,
            term=state.term,
            context=message.context,
        )
    )


def handle_heartbeat_response(state: RaftState, progress: Progress, message: Message) -> None:
    """Leader: a follower is there. Anything without an answer so far may have been lost, so ask again."""
    progress.probe_sent = False
    if progress.state is ProgressState.REPLICATE and progress.match < state.log.last_index:
        progress.ping = True
    progress.read_acked = max(progress.read_acked, min(message.context, state.read_round))
    reads.confirm(state)
    if progress.raft_id == state.transferee:
        election.offer_leadership(state)


def handle_snapshot(state: RaftState, message: Message) -> None:
    """Follower: a whole snapshot is there."""
    snapshot = message.snapshot
    log = state.log
    if snapshot is not None and snapshot.index > log.committed:
        if log.matches(snapshot.index, snapshot.term):
            log.commit_to(snapshot.index)  # we have the entries: applying them is all it takes
        else:
            log.restore(snapshot.index, snapshot.term)
            state.set_conf(snapshot.conf, snapshot.index)
            state.pending_snapshot = snapshot
    state.send(
        Message(
            type=MessageType.APPEND_RESPONSE,
            to=message.source,
            source=state.raft_id,
            term=state.term,
            index=log.committed,
        )
    )
