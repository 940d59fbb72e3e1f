"""The ticker: who is woken when, and what a tick that is late counts for. On a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from loop import SimLoop, run
from raft_cluster import core_of, elect, sent

from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import Message, MessageType
from swarmpy.raft.state import RaftRole
from swarmpy.raft.ticker import MOST_TICKS_ASLEEP, Ticker, interval_of, timing_of

CONFIG = RaftConfig()
TICK = interval_of(CONFIG)
HEARTBEAT = 4 * TICK


class Host:
    """Steps a core as the driver does, and notes when."""

    def __init__(self, core: RaftCore, loop: SimLoop) -> None:
        core.set_timing(timing_of(CONFIG))
        self.core = core
        self.loop = loop
        self.inbox: list[Message] = []
        self.woken: list[float] = []
        self.minded: list[float] = []
        self.sent: list[tuple[float, MessageType]] = []
        self.ticker = Ticker(CONFIG, wake=self.wake, minded=self.minded.append)
        self.ticker.start()
        self.step()

    def wake(self) -> None:
        self.woken.append(self.loop.now)
        self.loop.call_soon(self.step)

    def step(self) -> None:
        if self.inbox:
            self.ticker.let_pass(self.core)
        for message in self.inbox:
            self.core.step(message)
        self.inbox.clear()
        self.ticker.catch_up(self.core)
        self.sent += [(self.loop.now, message.type) for message in sent(self.core)]

    def hear(self, kind: MessageType, source: int = 2, **fields: Any) -> None:
        fields.setdefault("term", self.core.term)
        self.inbox.append(Message(type=kind, to=self.core.raft_id, source=source, **fields))
        self.step()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(TICK / 10)

    def hold(self, seconds: float) -> None:
        """The loop stands still."""
        self.loop._now += seconds


def played(scenario: Callable[[Host], Coroutine[Any, Any, None]], *, leads: bool = False) -> None:
    async def main(loop: SimLoop) -> None:
        core = core_of(1, 1, 2, 3)
        if leads:
            elect(core)
        await scenario(Host(core, loop))

    run(1, main, fifo=True)


class TestFollower:
    def test_is_woken_by_its_leader_only(self) -> None:
        """A follower that hears its leader needs no timer."""

        async def scenario(host: Host) -> None:
            for number in range(50):
                host.hear(MessageType.HEARTBEAT)
                await asyncio.sleep(HEARTBEAT * (1.1 if number % 3 else 0.8))
            assert host.core.leader == 2
            assert not host.woken
            passed = int(host.loop.now / TICK) - host.core.now
            assert 0 <= passed <= MOST_TICKS_ASLEEP

        played(scenario)

    def test_campaigns_when_its_time_is_over(self) -> None:
        """The tick at which it stands for election is made when it is due, whenever the last message came."""

        async def scenario(host: Host) -> None:
            host.hear(MessageType.HEARTBEAT)
            await asyncio.sleep(2.4 * TICK)
            host.hear(MessageType.HEARTBEAT)
            due = (2 + host.core.election_timeout) * TICK  # the second message came in the third tick
            await host.until(lambda: host.core.role is RaftRole.PRE_CANDIDATE)
            assert host.sent[-1][1] is MessageType.PRE_VOTE
            assert host.sent[-1][0] == pytest.approx(due)

        played(scenario)

    def test_hastens(self) -> None:
        """A time that has become shorter counts, though the timer was set for a longer one."""

        async def scenario(host: Host) -> None:
            host.hear(MessageType.HEARTBEAT)
            host.core.election_timeout = 2
            host.step()
            await host.until(lambda: host.core.role is RaftRole.PRE_CANDIDATE)
            assert host.sent[-1][0] == pytest.approx(2 * TICK)

        played(scenario)

    def test_that_stood_still_hears_its_leader_first(self) -> None:
        """What has come meanwhile counts before the silence does."""

        async def scenario(host: Host) -> None:
            host.hear(MessageType.HEARTBEAT)
            await asyncio.sleep((host.core.election_timeout - 1.5) * TICK)
            host.hold(4 * TICK)
            host.hear(MessageType.HEARTBEAT)
            assert host.core.role is RaftRole.FOLLOWER
            assert host.core.election_elapsed <= 1
            assert MessageType.PRE_VOTE not in [kind for _, kind in host.sent]

        played(scenario)

    @pytest.mark.parametrize("seconds", [0.2, 0.4, 60.0])
    def test_does_not_count_how_long_it_stood_still(self, seconds) -> None:
        """Of the time that a loop was held up it counts what it meant to sleep."""

        async def scenario(host: Host) -> None:
            host.hear(MessageType.HEARTBEAT)
            before = host.core.now
            host.hold(seconds)
            for _ in range(5):
                host.step()
            assert host.core.now - before <= MOST_TICKS_ASLEEP
            assert host.core.role is RaftRole.FOLLOWER

        played(scenario)

    def test_is_minded_twice_in_an_election_timeout(self) -> None:
        """Also of one that is woken by messages."""

        async def scenario(host: Host) -> None:
            for _ in range(40):
                host.hear(MessageType.HEARTBEAT)
                await asyncio.sleep(HEARTBEAT)
            assert 12 <= len(host.minded) <= 16

        played(scenario)


class TestLeader:
    def test_heartbeats_are_on_time(self) -> None:
        """One in each interval, and no wake-up beside them."""

        async def scenario(host: Host) -> None:
            for _ in range(30):
                await asyncio.sleep(HEARTBEAT)
                host.hear(MessageType.HEARTBEAT_RESPONSE)
                host.hear(MessageType.HEARTBEAT_RESPONSE, source=3)
            beats = sorted({at for at, kind in host.sent if kind is MessageType.HEARTBEAT})
            # The first comes with the next tick, as after every change of the timing.
            assert beats == pytest.approx([TICK + HEARTBEAT * n for n in range(len(beats))])
            assert len(beats) in (29, 30)
            assert len(host.woken) == len(beats)

        played(scenario, leads=True)

    def test_steps_down_in_time(self) -> None:
        """A leader that hears nobody gives up at the tick at which the silence has lasted an election timeout."""

        async def scenario(host: Host) -> None:
            await asyncio.sleep(2.5 * TICK)
            host.hear(MessageType.HEARTBEAT_RESPONSE)
            await host.until(lambda: not host.core.is_leader)
            assert host.loop.now == pytest.approx((2 + host.core.timing.election) * TICK, abs=TICK / 5)

        played(scenario, leads=True)

    def test_that_stood_still_asks_before_it_judges(self) -> None:
        """After a minute it asks who leads, and gives everybody a whole election timeout to answer."""

        async def scenario(host: Host) -> None:
            await asyncio.sleep((host.core.timing.election - 5) * TICK)
            host.hold(60)
            host.sent.clear()
            host.step()
            assert [kind for _, kind in host.sent].count(MessageType.HEARTBEAT) >= 2
            await asyncio.sleep((host.core.timing.election - 2 * MOST_TICKS_ASLEEP) * TICK)
            assert host.core.is_leader

        played(scenario, leads=True)


def test_a_new_measure_counts_from_now_on() -> None:
    """A timer that was set by a longer one is set anew, and what has passed counts by neither."""

    async def scenario(host: Host) -> None:
        slow = CONFIG.with_timing(heartbeat_ns=10**10, election_ns=6 * 10**10)
        host.ticker.set_interval(slow)
        host.step()
        await asyncio.sleep(2)
        assert not host.woken
        host.ticker.set_interval(CONFIG)
        host.step()
        due = host.loop.now + (host.core.election_timeout - host.core.election_elapsed) * TICK
        await host.until(lambda: host.core.role is RaftRole.PRE_CANDIDATE)
        assert host.sent[-1][0] == pytest.approx(due)

    played(scenario)


def test_nobody_is_woken_after_the_end() -> None:
    """A ticker that was stopped has no timer."""

    async def scenario(host: Host) -> None:
        host.ticker.stop()
        await asyncio.sleep(10)
        assert not host.woken

    played(scenario)
