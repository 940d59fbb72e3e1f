"""Everything that can grow has a bound, and what happens there is what a network may do, or an error that says so."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from raft_cluster import conf_of, core_of, drain, elect, entries_of, member, sent
from raft_drivers import DEADLINE, FAST, Group

from swarmpy.errors import DeadlineExceeded, NoQuorum, Unavailable
from swarmpy.raft import core as core_module
from swarmpy.raft import inbox, open_reads, snapshots
from swarmpy.raft.core import (
    MAX_UNAPPLIED_BYTES,
    MAX_UNAPPLIED_ENTRIES,
    MAX_UNCOMMITTED_BYTES,
    MAX_UNCOMMITTED_ENTRIES,
)
from swarmpy.raft.encoding import encode_conf_change
from swarmpy.raft.frames import MAX_FRAME_BYTES, frames, size_of
from swarmpy.raft.inbox import Inbox
from swarmpy.raft.log import RaftLog
from swarmpy.raft.messages import (
    ConfChange,
    ConfChangeKind,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
    Snapshot,
)
from swarmpy.raft.open_reads import Reads
from swarmpy.raft.reads import MAX_PENDING_READS
from swarmpy.raft.snapshots import MAX_LOG_BYTES, MAX_PINNED_BYTES, Snapshots
from swarmpy.raft.state import MAX_QUEUED_MESSAGES, MAX_STRANGERS
from swarmpy.raft.storage import MemoryStorage
from swarmpy.raft.transfer import OutgoingSnapshot


class TestCore:
    def test_strangers(self) -> None:
        """Addresses of unknown peers are remembered up to a bound; the leader's and the last ones heard are kept."""
        core = core_of(9, 1, 2, 3)
        for raft_id in range(100, 101 + MAX_STRANGERS):
            core.step(
                Message(type=MessageType.HEARTBEAT, to=9, source=100, term=1, sender=member(100))
                if raft_id == 100
                else Message(type=MessageType.PRE_VOTE, to=9, source=raft_id, term=2, sender=member(raft_id))
            )
        assert len(core.strangers) == MAX_STRANGERS
        assert core.member(100) == member(100)
        assert core.member(101) is None
        assert core.member(100 + MAX_STRANGERS) is not None

    def test_stranger_that_is_heard_again_stays(self) -> None:
        """The peer that was silent longest makes room, not the one that was heard of first."""
        core = core_of(9, 1, 2, 3)
        for raft_id in (*range(100, 100 + MAX_STRANGERS), 100, 999):
            core.step(Message(type=MessageType.PRE_VOTE, to=9, source=raft_id, term=2, sender=member(raft_id)))
        assert core.member(100) is not None
        assert core.member(101) is None

    def test_promises_of_a_hanging_disk(self) -> None:
        """Answers that wait for the disk are bounded; what is dropped there is said again when it is asked for."""
        core = core_of(1, 1, 2, 3)
        append = Message(
            type=MessageType.APPEND, to=1, source=2, term=1, index=1, log_term=1, entries=entries_of(1, first=2)
        )
        for _ in range(MAX_QUEUED_MESSAGES + 10):
            core.step(append)
        assert len(core.promises) == MAX_QUEUED_MESSAGES
        drain(core)
        core.step(append)
        assert [m.index for m in sent(core, MessageType.APPEND_RESPONSE)] == [2]

    def test_messages_under_a_term_that_is_not_written(self) -> None:
        """Messages that wait for the new term to be durable are bounded; a snapshot that is asked for is not lost."""
        core = core_of(1, 1, 2, 3)
        core.term += 1
        for _ in range(MAX_QUEUED_MESSAGES + 10):
            core.send(Message(type=MessageType.HEARTBEAT, to=2, source=1, term=core.term))
        core.send(Message(type=MessageType.SNAPSHOT, to=3, source=1, term=core.term))
        assert len(core.outbox) == MAX_QUEUED_MESSAGES + 1
        assert core.outbox[-1].type is MessageType.SNAPSHOT

    def test_answers_to_reads(self) -> None:
        """Answers that nobody fetches, for the disk hangs, are bounded."""
        core = core_of(1, 1, 2, 3)
        for number in range(MAX_PENDING_READS + 10):
            core.step(Message(type=MessageType.READ_INDEX_RESPONSE, to=1, source=2, term=1, index=1, context=number))
        assert len(core.read_states) == MAX_PENDING_READS

    def test_reads_at_the_leader(self) -> None:
        """Reads that wait for a quorum are bounded: a follower's is dropped, the leader's own is refused."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        for number in range(MAX_PENDING_READS + 10):
            core.step(Message(type=MessageType.READ_INDEX, to=1, source=2, term=core.term, context=number))
        assert len(core.early_reads) + len(core.reads) == MAX_PENDING_READS
        with pytest.raises(Unavailable, match="wait for a quorum"):
            core.read_index(1)

    def test_leader_whose_own_disk_hangs(self) -> None:
        """What followers commit counts against the bounds until this leader has written and applied it."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        drain(core)
        for _ in range(MAX_UNCOMMITTED_BYTES // 1_000_000):
            core.propose(bytes(1_000_000))
        for follower in (2, 3):
            core.step(
                Message(
                    type=MessageType.APPEND_RESPONSE, to=1, source=follower, term=core.term, index=core.log.last_index
                )
            )
        assert core.log.committed == core.log.last_index
        with pytest.raises(Unavailable, match="disk"):
            core.propose(bytes(1_000_000))
        drain(core)
        assert core.uncommitted_bytes == 0
        core.propose(bytes(1_000_000))

    @pytest.mark.parametrize(("count", "size"), [(1000, 1), (4, 1_000_000)], ids=["many", "large"])
    def test_follower_whose_disk_is_slow(self, count, size) -> None:
        """It acknowledges no more than it can apply: the leader's window closes, and its memory is bounded."""
        core = core_of(1, 1, 2, 3)
        data, acked, most = bytes(size), 1, 0
        for _ in range(60):
            if acked == core.log.last_index:
                core.step(
                    Message(
                        type=MessageType.APPEND,
                        to=1,
                        source=2,
                        term=1,
                        index=acked,
                        log_term=1,
                        entries=tuple(Entry(term=1, index=acked + n, data=data) for n in range(1, count + 1)),
                        commit=acked,
                    )
                )
            ready = core.ready()
            assert ready is not None
            most = max(most, core.log.last_index - core.log.applied)
            core.advance(ready)
            acked = max([acked, *(m.index for m in ready.messages_after_persist)])
            assert not ready.hard_state or ready.hard_state.commit <= core.log.stable
        assert most <= MAX_UNAPPLIED_ENTRIES + 2 * count
        assert most * size <= MAX_UNAPPLIED_BYTES + 2 * count * size
        drain(core)
        assert core.log.applied == core.log.committed

    def test_a_change_of_members_is_not_forgotten_meanwhile(self, monkeypatch) -> None:
        """Where a follower only applies, it still makes a committed change durable before it lives by it."""
        monkeypatch.setattr(core_module, "MAX_UNAPPLIED_ENTRIES", 2)
        learner = encode_conf_change(ConfChange(kind=ConfChangeKind.ADD_LEARNER, member=member(4)))
        core = core_of(1, 1, 2, 3)
        entries = (Entry(term=1, index=2, kind=EntryKind.CONF_CHANGE, data=learner), *entries_of(1, 1, 1, first=3))
        append = Message(type=MessageType.APPEND, to=1, source=2, term=1, index=1, log_term=1, entries=entries)
        core.step(append)
        written = core.ready()
        assert written is not None
        core.advance(written)
        more = entries_of(1, first=6)
        core.step(attrs.evolve(append, index=5, entries=more, commit=6))
        ready = core.ready()
        assert ready is not None
        assert (ready.entries, ready.messages_after_persist) == ((), ())
        assert ready.hard_state == HardState(term=1, commit=5)
        assert [entry.index for entry in ready.committed] == [2, 3, 4, 5]
        core.advance(ready)
        after = core.ready()
        assert after is not None
        assert after.entries == more
        assert [m.index for m in after.messages_after_persist] == [6]

    def test_entries_count_too(self) -> None:
        """Small entries are bounded by their number, committed or not."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        drain(core)
        while core.log.last_index - core.log.applied < MAX_UNCOMMITTED_ENTRIES:
            core.propose(b"x")
        core.step(Message(type=MessageType.APPEND_RESPONSE, to=1, source=2, term=core.term, index=core.log.last_index))
        with pytest.raises(Unavailable):
            core.propose(b"x")

    def test_what_waits_is_counted_anew_by_a_new_leader(self) -> None:
        """A leader that was one before counts exactly the entries that it has yet to apply."""
        core = core_of(1, 1, 2, 3)
        elect(core)
        core.propose(b"12345")
        core.become_follower(core.term + 1, 0)
        elect(core)
        core.propose(b"678")
        assert core.uncommitted_bytes == 8


class TestLog:
    def test_tail(self) -> None:
        """The tail that is kept fits both bounds, and never reaches beyond the log."""
        log = RaftLog(offset=10, offset_term=1, entries=[Entry(term=1, index=i, data=bytes(10)) for i in range(11, 21)])
        assert log.tail_from(20, 3, 1000) == 18
        assert log.tail_from(20, 100, 45) == 17
        assert log.tail_from(20, 100, 1000) == 11
        assert log.tail_from(20, 100, 5) == 21
        assert log.tail_from(20, 0, 1000) == 21
        assert log.tail_from(15, 2, 1000) == 14

    async def test_tail_behind_a_snapshot_is_bounded_in_bytes(self, monkeypatch) -> None:
        """However many entries are to be kept for slow followers, they take no more memory than their bound."""
        monkeypatch.setattr(snapshots, "MAX_TAIL_BYTES", 50_000)
        async with Group(1, config=attrs.evolve(FAST, snapshot_interval=20)) as group:
            for _ in range(40):
                await group.write(bytes(10_000))
            driver = group.drivers[1]
            await group.until(lambda: driver._leading().log.offset > 30)


class Outgoing:
    """Snapshots whose transfers are made by the test."""

    def __init__(self, core) -> None:
        self.snapshots = Snapshots(
            core,
            storage=MemoryStorage(),
            state_machine=None,
            config=FAST,
            group=None,
            send=lambda _: None,
            stir=lambda: None,
            last_index=0,
        )
        self.out = OutgoingSnapshot(2, retry_after=1.0)
        self.snapshots._outgoing[2] = (self.out, None)


def test_log_is_held_back_for_a_transfer_only_so_long() -> None:
    """A follower that is being sent a snapshot finds the entries after it, unless it takes far too long."""
    core = core_of(1, 1, 2, 3, terms=(1,) * 1000)
    bench = Outgoing(core)
    assert bench.snapshots._keep_from(900) == 3
    for _ in range(MAX_PINNED_BYTES // MAX_LOG_BYTES):
        bench.snapshots.applied(MAX_LOG_BYTES)
    assert bench.snapshots._keep_from(900) == 900 - FAST.log_entries_for_slow_followers + 1


class TestInbox:
    def test_bound_in_number(self, monkeypatch) -> None:
        """Messages beyond the bound are refused; what is taken makes room."""
        monkeypatch.setattr(inbox, "MAX_MESSAGES", 3)
        box = Inbox()
        messages = [Message(type=MessageType.HEARTBEAT, to=1, term=n) for n in range(5)]
        assert [box.put(m) for m in messages] == [True, True, True, False, False]
        assert box.take() is messages[0]
        assert box.put(messages[4])
        assert [box.take() for _ in range(len(box))] == [messages[1], messages[2], messages[4]]

    def test_bound_in_bytes(self, monkeypatch) -> None:
        """Entries and chunks count by their weight."""
        monkeypatch.setattr(inbox, "MAX_BYTES", 100)
        box = Inbox()
        entries = Message(type=MessageType.APPEND, to=1, entries=(Entry(term=1, index=1, data=bytes(60)),))
        chunk = Message(
            type=MessageType.SNAPSHOT, to=1, snapshot=Snapshot(index=1, term=1, conf=conf_of(1), data=bytes(50))
        )
        assert box.put(entries)
        assert not box.put(chunk)
        assert box.put(Message(type=MessageType.HEARTBEAT, to=1))
        box.take()
        assert box.put(chunk)

    def test_frames_weigh_chunks(self) -> None:
        """Chunks of snapshots count in a frame like entries."""
        chunk = Message(
            type=MessageType.SNAPSHOT, to=2, snapshot=Snapshot(index=1, term=1, conf=conf_of(1), data=bytes(1 << 20))
        )
        assert size_of(chunk) == 1 << 20
        batches = list(frames([chunk] * 5))
        assert max(sum(size_of(m) for m in batch) for _, batch in batches) <= MAX_FRAME_BYTES
        assert sum(len(batch) for _, batch in batches) == 5


class TestOpenReads:
    async def test_bound(self, monkeypatch) -> None:
        """Reads beyond the bound are refused; one that ends, however it does, makes room."""
        monkeypatch.setattr(open_reads, "MAX_OPEN_READS", 3)
        reads = Reads(0)
        opened = [reads.add() for _ in range(3)]
        with pytest.raises(Unavailable, match="wait on this manager"):
            reads.add()
        opened[0].cancel()
        await asyncio.sleep(0)
        reads.add()
        reads.close(NoQuorum("no"))
        await asyncio.sleep(0)
        for _ in range(3):
            reads.add()

    async def test_reads_that_gave_up_are_forgotten(self) -> None:
        """A read leaves nothing behind at its end, whether it was asked for, answered, or neither."""
        reads = Reads(0)
        waiting = reads.add()
        reads.answered(reads.next_request() or 0, 7)
        asked = reads.add()
        assert reads.next_request() == 2
        new = reads.add()
        assert reads.unanswered() == (2,)
        for future in (waiting, asked, new):
            future.cancel()
        assert reads.unanswered() == ()
        assert (reads._new, reads._asked, reads._known) == ([], {}, [])

    async def test_reads_that_time_out_leave_nothing(self) -> None:
        """A member whose reads end by their deadline, again and again, holds none of them."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            group.network.drop = lambda m: m.type is MessageType.HEARTBEAT_RESPONSE and bool(m.context)
            for _ in range(20):
                with pytest.raises(DeadlineExceeded):
                    await driver.read_index(0.001)
                await group.write(b"x")  # the followers are there, only the reads are not confirmed
            group.network.drop = lambda m: False
            await group.until(lambda: not driver._reads._asked)
            assert await driver.read_index(DEADLINE) > 0
