"""The driver: real event loop, real timers, several members; the disk is memory unless a test says otherwise."""

from __future__ import annotations

import asyncio
import itertools
import time

import attrs
import pytest
from raft_drivers import DEADLINE, FAST, Group, Words, member

from swarmpy.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotLeader,
    OutcomeUnknown,
    StorageError,
    Unavailable,
)
from swarmpy.raft.driver import MAX_PROPOSAL_BYTES
from swarmpy.raft.frames import MAX_FRAME_BYTES
from swarmpy.raft.messages import ConfChange, ConfChangeKind, MessageType
from swarmpy.raft.state import RaftRole
from swarmpy.raft.storage import MemoryStorage, bootstrap
from swarmpy.raft.transfer import CHUNK_BYTES
from swarmpy.wire.log import SqliteLog


def change(kind: ConfChangeKind, raft_id: int) -> ConfChange:
    return ConfChange(kind=kind, member=member(raft_id))


class SlowDisk(MemoryStorage):
    """Writes wait until they are let through; the number of writes is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.appends: list[int] = []

    async def append(self, hard_state, entries) -> None:
        self.appends.append(len(entries))
        await self.gate.wait()
        await super().append(hard_state, entries)


class BrokenDisk(MemoryStorage):
    """Fails when it is told to."""

    broken = False
    failures = 0

    async def append(self, hard_state, entries) -> None:
        if self.broken:
            self.failures += 1
            raise StorageError("/data/raft: the disk is on fire")
        await super().append(hard_state, entries)


class TestWrites:
    async def test_commit_everywhere(self) -> None:
        """What is proposed at the leader is applied on all members in the same order."""
        async with Group(1, 2, 3) as group:
            words = [b"%d" % n for n in range(500)]
            await group.write(*words)
            await group.until(lambda: all(m.words == words for m in group.machines.values()))

    async def test_single_member(self) -> None:
        """A cluster of one leads at once and needs nobody."""
        storage = MemoryStorage()
        await bootstrap(storage, member(1))
        group = Group(1)
        group.storages[1] = storage
        async with group:
            began = time.monotonic()
            await group.write(b"x")
            assert time.monotonic() - began < 1
            assert group.machines[1].words == [b"x"]
            assert await group.drivers[1].read_index(1) >= 3

    async def test_proposal_in_the_very_moment_of_leading(self) -> None:
        """A lone member leads before anybody was told; a proposal made right then is not given up as an old one."""
        group = Group(1)
        async with group:
            await asyncio.sleep(0)
            proposal = group.drivers[1].propose(b"early")
            await asyncio.wait_for(proposal.done, DEADLINE)
            assert group.machines[1].words == [b"early"]

    async def test_proposals_during_a_write_share_the_next(self) -> None:
        """Everything that is proposed while the disk works is one append."""
        group = Group(1)
        disk = SlowDisk()
        group.storages[1] = disk
        async with group:
            driver = await group.leader()
            disk.gate.clear()
            before = len(disk.appends)
            first = driver.propose(b"first")
            await group.until(lambda: len(disk.appends) > before)
            rest = [driver.propose(b"%d" % n) for n in range(200)]
            disk.gate.set()
            await asyncio.wait_for(asyncio.gather(first.done, *[p.done for p in rest]), DEADLINE)
            assert disk.appends[before:] == [1, 200]

    async def test_heartbeats_go_out_while_the_disk_works(self) -> None:
        """A leader whose disk hangs for several election timeouts still leads, and commits through its followers."""
        group = Group(1, 2, 3)
        disks = {i: SlowDisk() for i in group.ids}
        group.storages.update(disks)
        async with group:
            driver = await group.leader()
            leader = driver.status().raft_id
            disks[leader].gate.clear()
            proposal = driver.propose(b"x")
            others = [i for i in group.ids if i != leader]
            await group.until(lambda: all(group.machines[i].words == [b"x"] for i in others))
            term = driver.status().term
            beats = []
            group.network.drop = lambda m: bool(beats.append(m)) if m.type is MessageType.HEARTBEAT else False
            await group.until(lambda: len(beats) > 5 * FAST.election_tick * len(others))
            assert (driver.status().term, driver.status().role) == (term, RaftRole.LEADER)
            assert not proposal.done.done()
            disks[leader].gate.set()
            await asyncio.wait_for(proposal.done, DEADLINE)

    async def test_followers_refuse_and_name_the_leader(self) -> None:
        """A follower refuses a write and says where the leader is."""
        async with Group(1, 2, 3) as group:
            leader = (await group.leader()).status().raft_id
            follower = group.drivers[1 if leader != 1 else 2]
            await group.until(lambda: follower.status().leader_id == leader)
            with pytest.raises(NotLeader) as caught:
                follower.propose(b"x")
            assert caught.value.leader == member(leader).address

    async def test_bounds_of_a_proposal(self) -> None:
        """Empty and oversized proposals are refused; the largest allowed one is committed."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            for bad in (b"", bytes(MAX_PROPOSAL_BYTES + 1)):
                with pytest.raises(InvalidArgument):
                    driver.propose(bad)
            await group.write(bytes(MAX_PROPOSAL_BYTES))

    async def test_back_pressure(self) -> None:
        """Without a quorum proposals are refused at some point instead of filling the memory."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            group.network.isolate(driver.status().raft_id, group.ids)
            for _ in range(8):
                driver.propose(bytes(1_000_000))
            with pytest.raises(Unavailable, match="quorum"):
                driver.propose(bytes(1_000_000))

    async def test_outcome_unknown_when_the_leadership_is_lost(self) -> None:
        """A proposal of a leader that is cut off fails with OutcomeUnknown, and is not on the others."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            old = driver.status().raft_id
            group.network.isolate(old, group.ids)
            proposal = driver.propose(b"lost")
            with pytest.raises(OutcomeUnknown):
                await asyncio.wait_for(proposal.done, DEADLINE)
            new = await group.leader(other_than=old)
            await asyncio.wait_for(new.propose(b"kept").done, DEADLINE)
            group.network.cut.clear()
            await group.until(lambda: group.agree() and group.machines[old].words == [b"kept"])

    async def test_stopping_fails_what_is_open(self) -> None:
        """A member that is stopped leaves nobody waiting, and tells its subscribers that it does not lead."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            leader = driver.status().raft_id
            group.network.isolate(leader, group.ids)
            seen = []
            driver.subscribe(seen.append)
            proposal = driver.propose(b"x")
            read = asyncio.create_task(driver.read_index(DEADLINE))
            await asyncio.sleep(0)
            await group.kill(leader)
            with pytest.raises(OutcomeUnknown):
                await proposal.done
            with pytest.raises(Unavailable):
                await read
            assert not seen[-1].is_leader
            with pytest.raises(NotLeader):
                driver.propose(b"y")


class TestFailover:
    async def test_leader_dies(self) -> None:
        """The others elect a leader, nothing acknowledged is lost, and the dead one catches up when it is back."""
        async with Group(1, 2, 3) as group:
            await group.write(b"a")
            old = (await group.leader()).status().raft_id
            await group.kill(old)
            await group.leader(other_than=old)
            await group.write(b"b")
            group.start(old)
            await group.until(lambda: group.agree() and group.machines[old].words == [b"a", b"b"])

    async def test_broken_connections_make_it_fast(self) -> None:
        """When the leader's connections break, a new one is ready long before an election timeout is over."""
        slow = attrs.evolve(FAST, tick_ns=200_000_000)
        async with Group(1, 2, 3, config=slow) as group:
            old = (await group.leader()).status().raft_id
            await group.until(lambda: all(d.status().leader_id == old for d in group.drivers.values()))
            began = time.monotonic()
            await group.kill(old, reset=True)
            await group.leader(other_than=old)
            assert time.monotonic() - began < slow.election_tick * slow.tick_ns / 1e9

    async def test_everybody_restarts(self) -> None:
        """After a restart of all, everything acknowledged is there again."""
        async with Group(1, 2, 3) as group:
            await group.write(b"a", b"b")
            for raft_id in group.ids:
                await group.kill(raft_id)
            for raft_id in group.ids:
                group.start(raft_id)
            await group.write(b"c")
            await group.until(lambda: all(m.words == [b"a", b"b", b"c"] for m in group.machines.values()))

    async def test_transfer(self) -> None:
        """The leadership goes where it is sent, and back without a target."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            old = driver.status().raft_id
            target = old % 3 + 1
            await driver.transfer_leadership(target, DEADLINE)
            assert (await group.leader(other_than=old)).status().raft_id == target
            await group.drivers[target].transfer_leadership(None, DEADLINE)
            await group.leader(other_than=target)
            with pytest.raises(NotLeader):
                await group.drivers[target].transfer_leadership(None, DEADLINE)

    async def test_transfer_that_does_not_come_about(self) -> None:
        """When the target does not take over, the caller hears it and writes go on."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            group.network.drop = lambda m: m.type is MessageType.TIMEOUT_NOW
            with pytest.raises(Unavailable):
                await driver.transfer_leadership(None, DEADLINE)
            await group.write(b"x")

    async def test_blocked_loop_deposes_nobody(self) -> None:
        """A loop that is held for several election timeouts counts that as one tick."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            term = driver.status().term
            time.sleep(5 * FAST.election_tick * FAST.tick_ns / 1e9)  # noqa: ASYNC251 - the very thing under test
            await asyncio.sleep(2 * FAST.tick_ns / 1e9)
            assert driver.status().term == term
            await group.write(b"x")

    async def test_subscribers_see_each_change(self) -> None:
        """Subscribers hear of leader, readiness and members, each change once, until they unsubscribe."""
        async with Group(1, 2, 3, joiners=(4,)) as group:
            seen = []
            unsubscribe = group.drivers[1].subscribe(seen.append)
            leader = await group.leader()
            await group.until(lambda: bool(seen) and seen[-1].leader is not None)
            await leader.propose_conf_change(change(ConfChangeKind.ADD_LEARNER, 4), DEADLINE)
            await group.until(lambda: len(seen[-1].members) == 4)
            assert all(one.key != two.key for one, two in itertools.pairwise(seen))
            unsubscribe()
            count = len(seen)
            await leader.transfer_leadership(None, DEADLINE)
            assert len(seen) == count


class TestReads:
    async def test_read_on_a_follower_sees_earlier_writes(self) -> None:
        """After read_index any member has every write that was finished before."""
        async with Group(1, 2, 3) as group:
            leader = (await group.leader()).status().raft_id
            follower = 1 if leader != 1 else 2
            for n in range(20):
                await group.write(b"%d" % n)
                await group.drivers[follower].read_index(DEADLINE)
                assert group.machines[follower].words[-1] == b"%d" % n

    async def test_reads_survive_a_failover(self) -> None:
        """A read that was on its way to a leader that died is answered by the next one."""
        async with Group(1, 2, 3) as group:
            old = (await group.leader()).status().raft_id
            follower = group.drivers[1 if old != 1 else 2]
            await group.until(lambda: follower.status().leader_id == old)
            group.network.isolate(old, group.ids)
            assert await follower.read_index(DEADLINE) > 0


class TestMembership:
    async def test_join_promote_remove(self) -> None:
        """A member joins empty, catches up, is promoted, carries the cluster, and knows when it is removed."""
        async with Group(1, joiners=(2, 3)) as group:
            await group.write(b"a", b"b")
            driver = group.drivers[1]
            for joiner in (2, 3):
                await driver.propose_conf_change(change(ConfChangeKind.ADD_LEARNER, joiner), DEADLINE)
                await group.until(lambda joiner=joiner: driver.status().progress[joiner].caught_up)
                await group.until(lambda joiner=joiner: group.machines[joiner].words == [b"a", b"b"])
                await driver.propose_conf_change(change(ConfChangeKind.PROMOTE, joiner), DEADLINE)
            assert [m.raft_id for m in driver.status().conf.voters] == [1, 2, 3]
            await group.kill(1, reset=True)
            await group.write(b"c")
            leader = await group.leader()
            await leader.propose_conf_change(change(ConfChangeKind.REMOVE, 1), DEADLINE)
            assert [m.raft_id for m in leader.status().conf.voters] == [2, 3]

    async def test_first_member_comes_back_to_the_others(self) -> None:
        """The founder, whose first membership was itself alone, restarts as one of three and leads nobody alone."""
        storage = MemoryStorage()
        await bootstrap(storage, member(1))
        group = Group(joiners=(1, 2, 3))
        group.storages[1] = storage
        async with group:
            driver = await group.leader()
            for joiner in (2, 3):
                await driver.propose_conf_change(change(ConfChangeKind.ADD_LEARNER, joiner), DEADLINE)
                await group.until(lambda joiner=joiner: driver.status().progress[joiner].caught_up)
                await driver.propose_conf_change(change(ConfChangeKind.PROMOTE, joiner), DEADLINE)
            await group.write(b"a")
            await group.kill(1, reset=True)
            await group.write(b"b")
            founder = group.start(1)
            await group.until(lambda: group.machines[1].words == [b"a", b"b"])
            assert [m.raft_id for m in founder.status().conf.voters] == [1, 2, 3]
            assert len([i for i in group.ids if group.drivers[i].status().is_leader]) == 1
            await group.write(b"c")

    async def test_founder_alone_after_a_restart_leads_nobody(self) -> None:
        """The founder of what are three members now, restarted while the others are away, does not lead alone."""
        storage = MemoryStorage()
        await bootstrap(storage, member(1))
        group = Group(joiners=(1, 2, 3))
        group.storages[1] = storage
        async with group:
            driver = await group.leader()
            for joiner in (2, 3):
                await driver.propose_conf_change(change(ConfChangeKind.ADD_LEARNER, joiner), DEADLINE)
                await group.until(lambda joiner=joiner: driver.status().progress[joiner].caught_up)
                await driver.propose_conf_change(change(ConfChangeKind.PROMOTE, joiner), DEADLINE)
            await group.kill(1)
            group.network.isolate(1, group.ids)
            seen = []
            founder = group.start(1)
            founder.subscribe(seen.append)
            await group.until(lambda: founder.status().role is RaftRole.PRE_CANDIDATE)
            assert not any(status.is_leader for status in seen)

    async def test_removal_that_would_break_the_quorum_is_refused(self) -> None:
        """With one of three away, the other follower cannot be removed, and the cluster goes on."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            leader = driver.status().raft_id
            away, present = [i for i in group.ids if i != leader]
            await group.kill(away)
            await group.until(lambda: not driver.status().progress[away].active)
            with pytest.raises(FailedPrecondition, match="bring the others back"):
                await driver.propose_conf_change(change(ConfChangeKind.REMOVE, present), DEADLINE)
            await group.write(b"x")

    async def test_removed_member_knows(self) -> None:
        """A member that is removed, present or away, comes to know it."""
        async with Group(1, 2, 3, 4) as group:
            driver = await group.leader()
            leader = driver.status().raft_id
            present, away = [i for i in group.ids if i != leader][:2]
            group.network.isolate(away, group.ids)
            await driver.propose_conf_change(change(ConfChangeKind.REMOVE, away), DEADLINE)
            await driver.propose_conf_change(change(ConfChangeKind.REMOVE, present), DEADLINE)
            await group.until(lambda: group.drivers[present].status().removed)
            assert not group.drivers[away].status().removed
            group.network.cut.clear()
            await group.until(lambda: group.drivers[away].status().removed)
            await group.write(b"x")

    async def test_concurrent_changes_wait_for_each_other(self) -> None:
        """Two changes at once are made one after the other."""
        async with Group(1, 2, 3, joiners=(4, 5)) as group:
            driver = await group.leader()
            await asyncio.gather(
                *[driver.propose_conf_change(change(ConfChangeKind.ADD_LEARNER, i), DEADLINE) for i in (4, 5)]
            )
            assert [m.raft_id for m in driver.status().conf.learners] == [4, 5]

    async def test_change_without_a_quorum_ends(self) -> None:
        """A change that nobody confirms does not wait for ever."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            group.network.isolate(driver.status().raft_id, group.ids)
            with pytest.raises(OutcomeUnknown):
                await driver.propose_conf_change(change(ConfChangeKind.ADD_LEARNER, 4), 0.05)


class TestSnapshots:
    async def test_slow_follower_is_caught_up_by_a_snapshot(self) -> None:
        """A member that was away while the log was compacted gets a snapshot, in chunks, and then the log."""
        config = attrs.evolve(FAST, snapshot_interval=20, log_entries_for_slow_followers=5)
        async with Group(1, 2, 3, config=config) as group:
            leader = (await group.leader()).status().raft_id
            away = leader % 3 + 1
            await group.kill(away)
            missed = group.drivers[leader].status().last_index
            assert group.drivers[leader].status().first_index <= missed
            chunks = []
            group.network.drop = lambda m: (
                bool(chunks.append(len(m.snapshot.data))) if m.type is MessageType.SNAPSHOT else False
            )
            for n in range(60):
                await group.write(b"%d" % n + bytes([65]) * 60_000)
            await group.until(lambda: group.drivers[leader].status().first_index > missed + 1)
            group.start(away)
            await group.until(group.agree)
            assert group.machines[away].restored
            assert len(chunks) > 2
            assert max(chunks) == CHUNK_BYTES
            await group.write(b"after")
            await group.until(lambda: group.machines[away].words[-1] == b"after")

    async def test_lossy_transfer_arrives(self) -> None:
        """Chunks and acknowledgements that get lost are sent again, from where the follower is."""
        config = attrs.evolve(FAST, snapshot_interval=20, log_entries_for_slow_followers=0)
        async with Group(1, 2, 3, config=config) as group:
            leader = (await group.leader()).status().raft_id
            away = leader % 3 + 1
            await group.kill(away)
            count = 0

            def lossy(message) -> bool:
                nonlocal count
                if message.type not in (MessageType.SNAPSHOT, MessageType.SNAPSHOT_ACK):
                    return False
                count += 1
                return count % 3 == 0

            group.network.drop = lossy
            for n in range(60):
                await group.write(b"%d" % n + bytes([65]) * 60_000)
            group.start(away)
            await group.until(group.agree)
            assert group.machines[away].restored

    async def test_restart_from_a_snapshot(self) -> None:
        """A member restarts from its snapshot and the log after it; the log does not grow without bound."""
        config = attrs.evolve(FAST, snapshot_interval=50, log_entries_for_slow_followers=10)
        async with Group(1, 2, 3, config=config) as group:
            for n in range(30):
                await group.write(*[b"%d.%d" % (n, m) for m in range(10)])
            await group.until(group.agree)
            expected = list(group.machines[1].words)
            await group.kill(1)
            stored = await group.storages[1].load()
            assert len(stored.entries) < 150
            group.start(1)
            await group.until(lambda: group.machines[1].words == expected)
            assert group.machines[1].restored == 1

    async def test_snapshot_is_of_one_moment(self) -> None:
        """What is applied while a snapshot is encoded is not in it: restoring and replaying gives no word twice."""

        class Slow(Words):
            async def snapshot(self) -> bytes:
                fixed = list(self.words)
                for _ in range(50):
                    await asyncio.sleep(0)
                return b"\n".join(fixed)

        config = attrs.evolve(FAST, snapshot_interval=10, log_entries_for_slow_followers=0)
        group = Group(1, config=config)
        group.new_machine = Slow
        async with group:
            words = [b"%d" % n for n in range(300)]
            for n in range(0, 300, 10):
                await group.write(*words[n : n + 10])
            await group.kill(1)
            group.start(1)
            await group.until(lambda: group.machines[1].words == words)


class TestFailures:
    async def test_leader_with_a_hanging_disk_hands_over(self) -> None:
        """A leader whose disk does not answer any more applies nothing: another one takes over, and writes go on."""
        group = Group(1, 2, 3)
        disks = {i: SlowDisk() for i in group.ids}
        group.storages.update(disks)
        async with group:
            driver = await group.leader()
            leader = driver.status().raft_id
            disks[leader].gate.clear()
            driver.propose(b"x")
            await group.leader(other_than=leader)
            await group.write(b"y")
            disks[leader].gate.set()
            await group.until(lambda: all(m.words == [b"x", b"y"] for m in group.machines.values()))

    async def test_disk_that_fails_while_being_stopped(self) -> None:
        """When the disk fails in the moment the member is cancelled, its error is told, and nobody is left waiting."""
        group = Group(1)
        disk = BrokenDisk()
        group.storages[1] = disk
        async with group:
            driver = await group.leader()
            disk.broken = True
            proposal = driver.propose(b"x")
            task = group.tasks.pop(1)
            while not disk.failures:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=DEADLINE)
            assert isinstance(task.exception(), StorageError)
            with pytest.raises(OutcomeUnknown):
                await proposal.done

    async def test_transfer_ends_with_the_member(self) -> None:
        """Who waits for a hand-over hears at once that the member stops."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            group.network.drop = lambda m: m.type is MessageType.TIMEOUT_NOW
            handing = asyncio.create_task(driver.transfer_leadership(None, DEADLINE))
            await group.until(lambda: driver._leading().transferee != 0)
            await group.kill(driver.status().raft_id)
            with pytest.raises(Unavailable, match="stops"):
                await asyncio.wait_for(handing, DEADLINE / 2)

    async def test_storage_error_ends_the_driver(self) -> None:
        """A disk that fails stops the member with that error, and the others go on."""
        group = Group(1, 2, 3)
        disks = {i: BrokenDisk() for i in group.ids}
        group.storages.update(disks)
        async with group:
            driver = await group.leader()
            leader = driver.status().raft_id
            disks[leader].broken = True
            driver.propose(b"x")
            with pytest.raises(StorageError, match="on fire"):
                await asyncio.wait_for(group.tasks.pop(leader), DEADLINE)
            group.network.drivers.pop(leader)
            await group.leader(other_than=leader)
            await group.write(b"y")

    async def test_failing_state_machine_ends_the_driver(self) -> None:
        """An entry that cannot be applied is not skipped."""
        async with Group(1) as group:
            driver = await group.leader()
            driver.propose(b"boom")
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(group.tasks.pop(1), DEADLINE)

    async def test_messages_to_a_stopped_member_are_dropped(self) -> None:
        """A member that does not run ignores messages and broken connections."""
        async with Group(1) as group:
            driver = await group.leader()
            await group.kill(1)
            driver.report_unreachable(2)
            assert driver.status().role is RaftRole.FOLLOWER
            with pytest.raises(Unavailable):
                await driver.read_index(1)

    async def test_frames_are_bounded(self) -> None:
        """What goes out in one call fits a frame, however much waits."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            for proposal in [driver.propose(bytes(700_000)) for _ in range(10)]:
                await asyncio.wait_for(proposal.done, DEADLINE)
            assert 700_000 <= group.network.largest_frame <= MAX_FRAME_BYTES


async def test_on_a_real_disk(tmp_path) -> None:
    """Three members on SQLite logs: writes, a restart of all, and everything is there."""
    group = Group(1, 2, 3)
    group.storages.update({i: SqliteLog(tmp_path / str(i)) for i in group.ids})
    words = [b"%d" % n for n in range(300)]
    async with group:
        await group.write(*words)
    for storage in group.storages.values():
        await storage.close()
    group.storages.update({i: SqliteLog(tmp_path / str(i)) for i in group.ids})
    async with group:
        await group.write(b"after")
        await group.until(lambda: all(m.words == [*words, b"after"] for m in group.machines.values()))
    for storage in group.storages.values():
        await storage.close()
