"""Who is cut off lets nobody wait: which members know it, and what they do with reads and writes."""

from __future__ import annotations

import pytest
from raft_cluster import TIMING, Cluster, core_of, sent
from raft_drivers import DEADLINE, Group

from swarmpy.errors import DeadlineExceeded, NoQuorum, NotLeader
from swarmpy.raft.messages import Message, MessageType
from swarmpy.raft.open_reads import Reads


class TestKnowing:
    def test_leader_that_loses_its_quorum(self) -> None:
        """A leader is cut off from the tick in which it steps down, an election timeout after the last answer."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster.tick(TIMING.election - 1, only=1)
        assert not cluster[1].is_cut_off
        cluster.tick(only=1)
        assert not cluster[1].is_leader
        assert cluster[1].is_cut_off

    def test_standing_for_election_does_not_change_it(self) -> None:
        """A leader that was, and asks for votes in vain, stays cut off until it hears of a leader."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        for _ in range(6 * TIMING.election):
            cluster.tick()
            assert cluster[1].is_leader or cluster[1].is_cut_off
        cluster.heal()
        cluster.tick(3)
        assert cluster[1].leader in (2, 3)
        assert not cluster[1].is_cut_off

    def test_leader_that_wins_again(self) -> None:
        """A leader that lost its quorum and was elected anew is not cut off."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.isolate(1)
        cluster.tick(TIMING.election, only=1)
        cluster.heal()
        cluster.tick(2 * TIMING.election, only=2)
        cluster.tick(2 * TIMING.election, only=3)
        cluster[1].campaign()
        cluster.settle()
        assert cluster.leaders() == [1]
        assert not cluster[1].is_cut_off

    def test_deposed_leader(self) -> None:
        """A leader that hears of a later term is in an ordinary election."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster[1].become_follower(cluster[1].term + 1, 0)
        assert not cluster[1].is_cut_off

    def test_member_without_a_leader(self) -> None:
        """A member is cut off when it has known no leader for two election timeouts, and not a tick earlier."""
        core = core_of(1, 1, 2, 3)
        for _ in range(2 * TIMING.election - 1):
            core.tick()
        assert not core.is_cut_off
        core.tick()
        assert core.is_cut_off

    def test_the_time_counts_from_the_loss_of_the_leader(self) -> None:
        """A follower has known no leader only since it gave its last one up, however often it stood for election."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        cluster.tick(5 * TIMING.election)
        cluster.isolate(2)
        while cluster[2].leader:
            cluster.tick()
        for _ in range(2 * TIMING.election):
            assert not cluster[2].is_cut_off
            cluster.tick()
        assert cluster[2].is_cut_off

    def test_an_election_is_no_cut(self) -> None:
        """After the death of a leader most of 40 clusters elect before anybody takes itself for cut off."""
        cut_off = 0
        for seed in range(40):
            cluster = Cluster(1, 2, 3, seed=seed)
            cluster.elect(1)
            cluster.crash(1)
            while not cluster.leaders():
                cluster.tick()
                cut_off += cluster[2].is_cut_off or cluster[3].is_cut_off
        assert cut_off <= 2

    def test_learner(self) -> None:
        """A learner, which never stands for election, knows it as well."""
        core = core_of(4, 1, 2, 3, learners=(4,))
        for _ in range(2 * TIMING.election):
            core.tick()
        assert core.is_cut_off


class TestRefusing:
    async def test_leader_that_is_cut_off_refuses(self) -> None:
        """A leader that loses its quorum fails the reads that wait, and from then on refuses reads and writes."""
        async with Group(1, 2, 3) as group:
            driver = await group.leader()
            group.network.isolate(driver.status().raft_id, group.ids)
            with pytest.raises(NoQuorum, match="cut off"):
                await driver.read_index(DEADLINE)
            assert driver.status().cut_off
            with pytest.raises(NoQuorum, match="cut off"):
                await driver.read_index(0)
            with pytest.raises(NotLeader, match="cut off"):
                driver.propose(b"x")

    async def test_follower_that_is_cut_off_refuses(self) -> None:
        """A follower that hears nobody fails its reads when an election should be over; healed, it reads again."""
        async with Group(1, 2, 3) as group:
            away = (await group.leader()).status().raft_id % 3 + 1
            driver = group.drivers[away]
            group.network.isolate(away, group.ids)
            with pytest.raises(NoQuorum, match="cut off"):
                await driver.read_index(DEADLINE)
            group.network.cut.clear()
            await group.until(lambda: not driver.status().cut_off)
            assert await driver.read_index(DEADLINE) > 0

    async def test_reads_without_a_leader_wait_for_their_deadline(self) -> None:
        """While no leader is known, but one may come any moment, a read waits as long as its caller says."""
        async with Group(1, 2, 3) as group:
            group.network.isolate(1, group.ids)
            driver = group.drivers[1]
            await group.until(lambda: driver.is_loaded)
            with pytest.raises(DeadlineExceeded):
                await driver.read_index(0)

    async def test_gathered_reads_share_one_request(self) -> None:
        """Reads that come while no leader is known are asked for together, once there is one."""
        core, reads = core_of(1, 1, 2, 3), Reads(0)
        for _ in range(50):
            reads.add()
            reads.ask_new(core)
        assert sent(core) == []
        core.step(Message(type=MessageType.HEARTBEAT, to=1, source=2, term=1))
        reads.ask_new(core)
        assert len(sent(core, MessageType.READ_INDEX)) == 1
