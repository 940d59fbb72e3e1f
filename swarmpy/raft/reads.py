"""Reads that see every write finished before them, on any member, without writing (section 6.4 of Ongaro's thesis).

The leader notes its commit index, has a quorum confirm in a round of heartbeats that it still leads, and only then
answers. All reads that come before a round goes out share it.
"""

from __future__ import annotations

from swarmpy.errors import NotLeader, Unavailable
from swarmpy.raft.messages import NO_ONE, Message, MessageType, ReadState
from swarmpy.raft.progress import agreed
from swarmpy.raft.state import PendingRead, RaftState

MAX_PENDING_READS = 10_000


def request(state: RaftState, number: int) -> None:
    """Ask for the index that the read ``number`` of this member has to see; the answer comes in a Ready.

    Raises NotLeader when no leader is known, Unavailable when too many reads wait.
    """
    if state.is_leader:
        if not _admit(state, state.raft_id, number):
            raise Unavailable(f"{MAX_PENDING_READS} reads wait for a quorum already: ask again later")
    elif state.leader == NO_ONE:
        raise NotLeader("no manager leads at the moment: ask again later")
    else:
        state.send(
            Message(
                type=MessageType.READ_INDEX,
                to=state.leader,
                source=state.raft_id,
                term=state.term,
                context=number,
                sender=state.me,
            )
        )


def handle_request(state: RaftState, message: Message) -> None:
    """A follower's read. When it cannot be served it is dropped: the reader asks again."""
    if state.is_leader:
        _admit(state, message.source, message.context)


def _admit(state: RaftState, reader: int, number: int) -> bool:
    if len(state.reads) + len(state.early_reads) >= MAX_PENDING_READS:
        return False
    if not state.has_committed_in_term:
        state.early_reads.append((reader, number))
        return True
    if state.read_round == state.read_round_sent:
        state.read_round += 1
    state.reads.append(PendingRead(round=state.read_round, index=state.log.committed, reader=reader, request=number))
    return True


def release_early(state: RaftState) -> None:
    """The commit index is current now: reads that waited for that may begin."""
    if state.early_reads and state.has_committed_in_term:
        waiting, state.early_reads = state.early_reads, []
        for reader, number in waiting:
            _admit(state, reader, number)


def send_round(state: RaftState) -> None:
    """Begin the round of heartbeats for the reads that came since the last one."""
    if state.read_round != state.read_round_sent:
        send_heartbeats(state)


def send_heartbeats(state: RaftState) -> None:
    """Tell everybody that this leader is there, what is committed, and which reads wait for them."""
    state.read_round_sent = state.read_round
    for progress in state.progress.values():
        state.send(
            Message(
                type=MessageType.HEARTBEAT,
                to=progress.raft_id,
                source=state.raft_id,
                term=state.term,
                # Only what is known to match: the follower may still have entries of a lost leader.
                commit=min(progress.match, state.log.committed),
                context=state.read_round,
                # Who does not answer may have missed that this leader has moved, and answer where it was.
                sender=state.me if progress.match == 0 or not state.answers(progress) else None,
            )
        )
    confirm(state)  # a leader that is its own quorum gets no answers to wait for


def confirm(state: RaftState) -> None:
    """Answer the reads whose round a quorum has confirmed."""
    if not state.reads or not state.voters:
        return
    rounds = [state.read_round_sent if v == state.raft_id else state.progress[v].read_acked for v in state.voters]
    confirmed = agreed(rounds)
    while state.reads and state.reads[0].round <= confirmed:
        read = state.reads.popleft()
        if read.reader == state.raft_id:
            state.read_states.append(ReadState(request=read.request, index=read.index))
            continue
        state.send(
            Message(
                type=MessageType.READ_INDEX_RESPONSE,
                to=read.reader,
                source=state.raft_id,
                term=state.term,
                index=read.index,
                context=read.request,
            )
        )


def handle_response(state: RaftState, message: Message) -> None:
    """The leader's answer to a read of this member. Beyond the bound it is dropped, and asked for again."""
    if len(state.read_states) < MAX_PENDING_READS:
        state.read_states.append(ReadState(request=message.context, index=message.index))
