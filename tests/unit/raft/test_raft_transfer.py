"""Snapshots on their way: what a follower has stays, whoever sends the rest; only what the digest says is installed."""

from __future__ import annotations

import asyncio
import hashlib
import random

import attrs
import pytest
from raft_cluster import conf_of
from raft_drivers import FAST, Group

from swarmpy.raft import snapshots, transfer
from swarmpy.raft.messages import Message, MessageType, Snapshot
from swarmpy.raft.transfer import (
    ATTEMPTS,
    CHUNK_BYTES,
    MAX_SNAPSHOT_BYTES,
    RESTARTS,
    IncomingSnapshot,
    OutgoingSnapshot,
    Parcel,
    SnapshotSource,
    digest_of,
)

DATA = random.Random(3).randbytes(10_000)
DIGEST = hashlib.sha256(DATA).digest()


def chunk(begin: int, end: int, *, data=DATA, digest=DIGEST, source=1, term=5, index=50, snapshot_term=4) -> Message:
    """Bytes ``begin`` to ``end`` of a snapshot."""
    part = Snapshot(index=index, term=snapshot_term, conf=conf_of(1, 2, 3), data=data[begin:end])
    return Message(
        type=MessageType.SNAPSHOT,
        to=2,
        source=source,
        term=term,
        index=index,
        snapshot=part,
        offset=begin,
        total=len(data),
        digest=digest,
    )


def is_whole(answer: tuple[int, Snapshot | None]) -> bool:
    """All came, and it is installed."""
    received, snapshot = answer
    return received == len(DATA) + 1 and snapshot is not None and snapshot.data == DATA


class TestFollower:
    def test_in_order(self) -> None:
        """Chunks are acknowledged by what is there without a gap; the last one completes the snapshot."""
        incoming = IncomingSnapshot()
        assert incoming.accept(chunk(0, 4000), 0) == (4000, None)
        assert incoming.accept(chunk(4000, 8000), 0) == (8000, None)
        assert is_whole(incoming.accept(chunk(8000, 10_000), 0))
        assert incoming.received == 0

    def test_late_and_repeated(self) -> None:
        """A chunk that is late, repeated or too early changes nothing and tells where to go on."""
        incoming = IncomingSnapshot()
        incoming.accept(chunk(0, 4000), 0)
        for begin, end in ((0, 4000), (8000, 10_000), (2000, 6000)):
            assert incoming.accept(chunk(begin, end), 0) == (4000, None)

    @pytest.mark.parametrize(
        "other", [{"source": 3, "term": 6}, {"source": 1, "term": 9}], ids=["another leader", "the same, restarted"]
    )
    def test_goes_on_where_it_was(self, other) -> None:
        """The same bytes of another sender are added to those that are there."""
        incoming = IncomingSnapshot()
        incoming.accept(chunk(0, 6000), 0)
        assert incoming.accept(chunk(0, 4000, **other), 0) == (6000, None)
        assert is_whole(incoming.accept(chunk(6000, 10_000, **other), 0))

    @pytest.mark.parametrize(
        "other",
        [
            {"index": 51},
            {"snapshot_term": 5},
            {"data": DATA[:-1], "digest": hashlib.sha256(DATA[:-1]).digest()},
            {"data": DATA[::-1], "digest": hashlib.sha256(DATA[::-1]).digest()},
        ],
    )
    def test_another_snapshot_begins_anew(self, other) -> None:
        """Bytes of a snapshot that differs in anything are not mixed with those that are there."""
        incoming = IncomingSnapshot()
        incoming.accept(chunk(0, 6000), 0)
        assert incoming.accept(chunk(0, 3000, **other), 0) == (3000, None)
        assert incoming.accept(chunk(6000, 10_000), 0) == (0, None)

    def test_what_the_digest_does_not_say_is_dropped(self) -> None:
        """A snapshot that arrived with a wrong byte is not installed, and may be sent again from the start."""
        incoming = IncomingSnapshot()
        wrong = bytearray(DATA)
        wrong[5000] ^= 1
        incoming.accept(chunk(0, 6000, data=bytes(wrong)), 0)
        assert incoming.accept(chunk(6000, 10_000), 0) == (0, None)
        incoming.accept(chunk(0, 6000), 0)
        assert is_whole(incoming.accept(chunk(6000, 10_000), 0))

    def test_sender_without_digests(self) -> None:
        """Without a digest only the same leader in the same term goes on with what is there."""
        incoming = IncomingSnapshot()
        incoming.accept(chunk(0, 6000, digest=b""), 0)
        assert incoming.accept(chunk(6000, 8000, digest=b""), 0) == (8000, None)
        assert incoming.accept(chunk(8000, 10_000, digest=b"", source=3, term=6), 0) == (0, None)
        incoming.accept(chunk(0, 6000, digest=b"", source=3, term=6), 0)
        assert is_whole(incoming.accept(chunk(6000, 10_000, digest=b"", source=3, term=6), 0))

    def test_empty_snapshot(self) -> None:
        """A snapshot without data is complete with its first chunk."""
        incoming = IncomingSnapshot()
        received, snapshot = incoming.accept(chunk(0, 0, data=b"", digest=hashlib.sha256().digest()), 0)
        assert received == 1
        assert snapshot is not None

    def test_never_more_than_was_announced(self) -> None:
        """Neither a snapshot that is too large is begun, nor more bytes taken than it is said to have."""
        incoming = IncomingSnapshot()
        huge = attrs.evolve(chunk(0, 100), total=MAX_SNAPSHOT_BYTES + 1)
        assert incoming.accept(huge, 0) == (0, None)
        assert incoming.received == 0
        assert incoming.accept(attrs.evolve(chunk(0, 8000), total=5000), 0) == (0, None)
        assert incoming.received == 0

    def test_given_up(self) -> None:
        """What nobody goes on with is let go after a while, and what the log has passed is at once."""
        incoming = IncomingSnapshot()
        assert not incoming.drop_stale(committed=100, untouched_since=100)
        incoming.accept(chunk(0, 4000), 7)
        assert not incoming.drop_stale(committed=49, untouched_since=6)
        incoming.accept(chunk(0, 4000), 9)
        assert not incoming.drop_stale(committed=49, untouched_since=8)
        assert incoming.drop_stale(committed=49, untouched_since=9)
        assert incoming.received == 0
        incoming.accept(chunk(0, 4000), 10)
        assert incoming.drop_stale(committed=50, untouched_since=0)


class Follower:
    """Answers chunks as one would, with what a test makes of it."""

    def __init__(self) -> None:
        self.incoming = IncomingSnapshot()
        self.offsets: list[int] = []
        self.installed: Snapshot | None = None
        self.out = OutgoingSnapshot(50, retry_after=0.02)

    async def fetch(self, data: bytes = DATA) -> bool:
        """Have the snapshot sent."""
        snapshot = Snapshot(index=50, term=4, conf=conf_of(1, 2, 3), data=data)
        parcel = Parcel(snapshot=snapshot, digest=await digest_of(data))
        return await self.out.run(parcel, self.receive, Message(type=MessageType.SNAPSHOT, to=2, source=1, term=5))

    def receive(self, message: Message) -> None:
        """A chunk came."""
        self.offsets.append(message.offset)
        received, self.installed = self.incoming.accept(message, 0)
        self.answer(message, received)

    def answer(self, message: Message, received: int) -> None:
        """An acknowledgement goes back."""
        ack = Message(type=MessageType.SNAPSHOT_ACK, to=1, index=50, offset=received, digest=message.digest)
        asyncio.get_running_loop().call_soon(self.out.acked, ack)


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Ten chunks of a thousand bytes."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1000)


@pytest.mark.usefixtures("small_chunks")
class TestLeader:
    async def test_goes_on_where_the_follower_is(self) -> None:
        """To a follower that has a part already only the first chunk is sent in vain."""
        follower = Follower()
        follower.incoming.accept(chunk(0, 6000, source=3, term=4), 0)
        assert await follower.fetch()
        assert follower.offsets == [0, 6000, 7000, 8000, 9000]
        assert follower.installed is not None
        assert follower.installed.data == DATA

    async def test_silent_follower_is_given_up(self) -> None:
        """Without any answer a chunk is sent so many times, and no more."""
        follower = Follower()
        follower.answer = lambda message, received: None
        assert not await follower.fetch()
        assert follower.offsets == [0] * ATTEMPTS

    async def test_follower_that_never_gets_it_right(self) -> None:
        """A follower on whose way bytes change each time is not sent the same for ever."""

        class Garbled(Follower):
            def receive(self, message: Message) -> None:
                assert message.snapshot is not None
                bad = attrs.evolve(message.snapshot, data=bytes(len(message.snapshot.data)))
                super().receive(attrs.evolve(message, snapshot=bad))

        follower = Garbled()
        assert not await follower.fetch()
        assert follower.offsets.count(0) == RESTARTS + 1

    async def test_answers_about_other_bytes_do_not_count(self) -> None:
        """An answer to a transfer of another snapshot of the same index says nothing; an older member's does."""
        follower = Follower()
        ack = Message(type=MessageType.SNAPSHOT_ACK, to=1, index=50, offset=7000)
        task = asyncio.create_task(follower.fetch())
        await asyncio.sleep(0)
        follower.out._digest = DIGEST
        follower.out.acked(attrs.evolve(ack, digest=b"other"))
        assert follower.out._acked == 0
        follower.out.acked(ack)
        assert follower.out._acked == 7000
        task.cancel()


class TestSource:
    async def test_one_copy_for_all(self) -> None:
        """Transfers side by side share one copy in memory; a newer snapshot is read anew, and nothing is held after."""
        reads: list[Snapshot] = []

        async def read() -> Snapshot:
            await asyncio.sleep(0)
            reads.append(Snapshot(index=50 + len(reads), term=4, conf=conf_of(1), data=DATA))
            return reads[-1]

        source = SnapshotSource(read)
        one, two = await asyncio.gather(source.get(40, 50), source.get(45, 50))
        assert one is two
        assert one is not None
        assert one.digest == DIGEST
        newer = await source.get(51, 51)
        assert newer is not None
        assert newer.snapshot.index == 51
        assert len(reads) == 2
        source.forget()
        await source.get(40, 50)
        assert len(reads) == 3

    async def test_nothing_to_send(self) -> None:
        """Neither a missing snapshot nor one that is too old for the follower is sent."""

        async def read() -> Snapshot | None:
            return Snapshot(index=50, term=4, conf=conf_of(1), data=DATA)

        assert await SnapshotSource(read).get(51, 51) is None

    async def test_digest_gives_way(self) -> None:
        """The digest of a large snapshot leaves the loop to others after each chunk."""
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        data = bytes(5 * CHUNK_BYTES + 1)
        assert await digest_of(data) == hashlib.sha256(data).digest()
        assert turns >= 5
        task.cancel()


BIG = attrs.evolve(FAST, snapshot_interval=20, log_entries_for_slow_followers=0)


class TestMembers:
    async def test_over_a_change_of_the_leader(self) -> None:
        """A follower goes on with the next leader's chunks where the last one's broke off."""
        group = Group(1, 2, 3, config=BIG)
        async with group:
            leader = (await group.leader()).status().raft_id
            away = leader % 3 + 1
            await group.kill(away)
            # One entry at a time: both take their snapshots at the same entry.
            for n in range(60):
                await group.write(b"%d" % n + bytes([65]) * 60_000)
                await group.until(group.agree)
            indexes = {i: (await group.storages[i].read_snapshot()).index for i in group.tasks}
            assert len(set(indexes.values())) == 1, "or there is nothing to go on with"
            sent: list[tuple[int, int]] = []

            def after_two(message: Message) -> bool:
                if message.type is not MessageType.SNAPSHOT:
                    return False
                sent.append((message.source, message.offset))
                return message.source == leader and message.offset > 0

            group.network.drop = after_two
            group.start(away)
            await group.until(lambda: any(offset > 0 for _, offset in sent))
            group.network.isolate(leader, group.ids)
            await group.until(lambda: group.machines[away].restored > 0)
            successor = next(source for source, _ in sent if source != leader)
            offsets = [offset for source, offset in sent if source == successor]
            assert offsets[0] == 0
            assert min(offsets[1:]) >= CHUNK_BYTES
            group.network.cut.clear()
            await group.until(group.agree)

    async def test_half_of_one_is_not_kept_for_ever(self, monkeypatch) -> None:
        """A follower lets go of what came in part when nobody sends the rest."""
        monkeypatch.setattr(snapshots, "PATIENCE", 2)
        async with Group(1, 2, 3, config=BIG) as group:
            leader = (await group.leader()).status().raft_id
            away = leader % 3 + 1
            await group.kill(away)
            for n in range(60):
                await group.write(b"%d" % n + bytes([65]) * 60_000)
            group.network.drop = lambda m: m.type is MessageType.SNAPSHOT and m.offset > 0
            driver = group.start(away)
            await group.until(lambda: bool(driver._snapshots and driver._snapshots._incoming.received))
            group.network.isolate(away, group.ids)
            await group.until(lambda: not driver._snapshots._incoming.received)
