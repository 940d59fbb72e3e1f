"""The timeouts of a cluster: what is allowed, how they are counted, and how they change while it runs."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from raft_cluster import TIMING, Cluster, core_of, elect, sent
from raft_drivers import DEADLINE, FAST, Group

from swarmpy.errors import InvalidArgument
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.raft.messages import MessageType
from swarmpy.raft.state import RaftRole, Timing
from swarmpy.raft.ticker import interval_of, timing_of

MS = 1_000_000
SLOW = RaftConfig().with_timing(heartbeat_ns=10_000 * MS, election_ns=60_000 * MS)


class TestConfig:
    def test_default(self) -> None:
        """By default the leader is heard ten times a second, and is missed after half a second."""
        config = RaftConfig()
        config.check()
        assert (config.heartbeat_ns, config.election_ns) == (100 * MS, 500 * MS)
        assert timing_of(config) == Timing(heartbeat=4, election=20)
        assert interval_of(config) == 0.025

    @pytest.mark.parametrize(
        ("heartbeat_ms", "election_ms"), [(10, 50), (100, 750), (101, 1000), (250, 5000), (12_000, 60_000)]
    )
    def test_as_given(self, heartbeat_ms, election_ms) -> None:
        """Whatever is given comes out again, and is counted within a quarter of a heartbeat."""
        config = RaftConfig().with_timing(heartbeat_ns=heartbeat_ms * MS, election_ns=election_ms * MS)
        assert (config.heartbeat_ns, config.election_ns) == (heartbeat_ms * MS, election_ms * MS)
        timing = timing_of(config)
        assert timing.heartbeat * interval_of(config) == pytest.approx(heartbeat_ms / 1000)
        assert timing.election * interval_of(config) == pytest.approx(election_ms / 1000, abs=heartbeat_ms / 4000)

    @pytest.mark.parametrize(
        ("heartbeat_ms", "election_ms", "reason"),
        [
            (9, 500, "heartbeat interval is 9 ms"),
            (0, 500, "more than nothing|heartbeat interval"),
            (0, 0, "more than nothing"),
            (100, 499, "election timeout of 499 ms is too short"),
            (100, 60_001, "election timeout is 60001 ms"),
            (10, 9, "election timeout is 9 ms"),
        ],
    )
    def test_refusals(self, heartbeat_ms, election_ms, reason) -> None:
        """Timeouts that no cluster could live with are refused with the reason."""
        with pytest.raises(InvalidArgument, match=reason):
            RaftConfig().with_timing(heartbeat_ns=heartbeat_ms * MS, election_ns=election_ms * MS)


class TestCore:
    def test_follower_gets_a_whole_timeout(self) -> None:
        """A follower that counts by shorter timeouts from now on does not miss its leader at once."""
        core = core_of(1, 1, 2, 3)
        for _ in range(TIMING.election - 1):
            core.tick()
        core.set_timing(Timing(heartbeat=1, election=5))
        assert 5 <= core.election_timeout < 10
        for _ in range(core.election_timeout - 1):
            core.tick()
            assert core.role is RaftRole.FOLLOWER
        core.tick()
        assert core.role is RaftRole.PRE_CANDIDATE

    def test_leader_keeps_its_quorum(self) -> None:
        """Followers that were there count for a whole new timeout, those that were not stay absent."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        cluster.crash(3)
        cluster.tick(TIMING.election)
        core.now += 7
        core.progress[2].last_contact = core.now - 7
        core.set_timing(Timing(heartbeat=1, election=5))
        assert core.is_active(core.progress[2])
        assert not core.is_active(core.progress[3])
        for _ in range(4):
            core.tick()
            assert core.is_leader
        core.tick()
        assert not core.is_leader

    def test_a_longer_timeout_brings_nobody_back(self) -> None:
        """Whom a leader missed by the old timeout it does not count on by a new one until there is an answer."""
        cluster = Cluster(1, 2, 3)
        core = cluster.elect(1)
        cluster.crash(3)
        cluster.tick(TIMING.election)
        core.set_timing(Timing(heartbeat=1, election=10 * TIMING.election))
        assert core.answers(core.progress[2])
        assert not core.answers(core.progress[3])
        cluster.restart(3)
        cluster.tick()
        assert core.answers(core.progress[3])

    def test_leader_is_heard_at_once(self) -> None:
        """Followers may count by shorter timeouts already, so the next heartbeat does not wait for the old ones."""
        core = core_of(1, 1, 2, 3)
        core.set_timing(Timing(heartbeat=10, election=50))
        elect(core)
        core.tick()
        assert sent(core, MessageType.HEARTBEAT) == []
        core.set_timing(Timing(heartbeat=20, election=100))
        core.tick()
        assert len(sent(core, MessageType.HEARTBEAT)) == 2

    def test_same_timing_changes_nothing(self) -> None:
        """Taking over what is in force already gives nobody more time."""
        core = core_of(1, 1, 2, 3)
        core.tick()
        before = (core.election_elapsed, core.election_timeout)
        core.set_timing(TIMING)
        assert (core.election_elapsed, core.election_timeout) == before


class TestDriver:
    async def test_faster(self) -> None:
        """Members that wait for a far-away tick live by shorter timeouts at once, and elect."""
        async with Group(1, 2, 3, config=SLOW) as group:
            await group.until(lambda: all(driver.is_loaded for driver in group.drivers.values()))
            await asyncio.sleep(0.02)
            for driver in group.drivers.values():
                driver.set_timing(FAST)
            leader = await group.leader()
            await group.write(b"x")
            await group.kill(leader.status().raft_id)
            await group.leader(other_than=leader.status().raft_id)

    async def test_slower(self) -> None:
        """With longer timeouts nobody is missed where everybody would have been with the old ones."""
        async with Group(1, 2, 3) as group:
            leader = await group.leader()
            for driver in group.drivers.values():
                driver.set_timing(SLOW)
            await asyncio.sleep(0)
            term = leader.status().term
            group.network.isolate(leader.status().raft_id, group.ids)
            await asyncio.sleep(3 * FAST.election_ns / 1e9)
            assert leader.status().is_leader
            group.network.cut.clear()
            await group.write(b"x")
            assert leader.status().term == term

    async def test_before_it_runs(self) -> None:
        """What is set before a member has loaded its log counts when it has."""
        group = Group(1, config=SLOW)
        async with group:
            group.drivers[1].set_timing(FAST)
            await group.until(lambda: group.drivers[1].is_loaded)
            assert group.drivers[1]._leading().timing == timing_of(FAST)

    async def test_snapshots_follow_too(self) -> None:
        """How often snapshots are taken changes with the rest."""
        async with Group(1) as group:
            driver = await group.leader()
            driver.set_timing(attrs.evolve(FAST, snapshot_interval=5, log_entries_for_slow_followers=0))
            await group.write(*[b"%d" % n for n in range(20)])
            await group.until(lambda: driver._leading().log.offset > 10)

    async def test_cluster_goes_through_every_change(self) -> None:
        """While members change their timing one after the other, in either direction, writes go on."""
        async with Group(1, 2, 3) as group:
            for config in (SLOW, FAST, attrs.evolve(FAST, tick_ns=40 * MS), FAST):
                for driver in group.drivers.values():
                    driver.set_timing(config)
                    await group.write(b"x")
                    await asyncio.sleep(0.01)
            assert await (await group.leader()).read_index(DEADLINE) > 0
