"""The simulated network and disk keep the contracts of the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from disk import SimDisk
from loop import SimLoop, run, seeds
from net import Host, NetOptions, SimNetwork

from swarmpy.errors import (
    BadCertificate,
    ConnectionFailed,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    StorageError,
)
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Channel, Peer
from swarmpy.raft.messages import Entry, HardState
from swarmpy.wire.router import MANAGERS, MEMBERS

Scene = Callable[["Stage"], Coroutine[Any, Any, None]]


class Stage:
    """A server with one method of each kind, and a client."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.net = SimNetwork(loop, NetOptions())
        self.server = self.net.host("server", "10.0.0.1:2377")
        self.client = self.net.host("client", "10.0.0.2:2377", role=Role.WORKER)
        self.notes: list[Any] = []
        self.ended: list[str] = []
        self.server.boot(self._serve)

    async def _serve(self, host: Host) -> None:
        router = host.router
        router.call("echo", self._echo, MEMBERS)
        router.call("slow", self._slow, MEMBERS)
        router.call("secret", self._echo, MANAGERS)
        router.call("hello", self._echo, None)
        router.call("elsewhere", self._elsewhere, MEMBERS)
        router.stream("count", self._count, MEMBERS)
        router.notify("note", lambda peer, payload: self.notes.append(payload), MEMBERS)

    async def _echo(self, peer: Peer, payload: Any) -> Any:
        return [peer.node_id, payload]

    async def _slow(self, peer: Peer, payload: Any) -> Any:
        try:
            await asyncio.sleep(5)
        finally:
            self.ended.append("slow")

    async def _elsewhere(self, peer: Peer, payload: Any) -> Any:
        raise NotLeader("ask another", leader="10.0.0.9:2377")

    async def _count(self, peer: Peer, payload: Any) -> AsyncIterator[Any]:
        try:
            for number in range(payload):
                yield number
                await asyncio.sleep(0.1)
        finally:
            self.ended.append("count")

    async def dial(self) -> Channel:
        """A channel from client to server."""
        return await self.client.dialer.dial(self.server.address, timeout=1)


def play(scene: Scene, seed: int = 0) -> None:
    """Run a scene in the client's life."""

    async def main(loop: SimLoop) -> None:
        stage = Stage(loop)
        done = loop.create_future()

        async def client(host: Host) -> None:
            await asyncio.sleep(0.1)
            await scene(stage)
            done.set_result(None)

        stage.client.on_failure = done.set_exception
        stage.client.boot(client)
        await done

    run(seed, main)


def test_a_call_carries_plain_data_and_errors() -> None:
    """Answers and typed errors come back; tuples arrive as lists; what is not plain cannot travel."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        assert channel.peer.node_id == "server"
        assert await channel.call("echo", {"a": (1, b"x")}, timeout=1) == ["client", {"a": [1, b"x"]}]
        with pytest.raises(NotLeader) as caught:
            await channel.call("elsewhere", None, timeout=1)
        assert caught.value.leader == "10.0.0.9:2377"
        with pytest.raises(PermissionDenied):
            await channel.call("secret", None, timeout=1)
        with pytest.raises(TypeError):
            await channel.call("echo", object(), timeout=1)

    play(scene)


def test_a_joiner_is_anonymous() -> None:
    """A host without a certificate reaches only what is open to anybody."""

    async def scene(stage: Stage) -> None:
        stage.client.role = None
        channel = await stage.dial()
        assert await channel.call("hello", 1, timeout=1) == [None, 1]
        with pytest.raises(PermissionDenied):
            await channel.call("echo", 1, timeout=1)

    play(scene)


def test_dialling_what_is_not_there_fails() -> None:
    """No such host, a host that is off, another node than expected, and a partition."""

    async def scene(stage: Stage) -> None:
        dial, address = stage.client.dialer.dial, stage.server.address
        with pytest.raises(ConnectionFailed, match="does not answer"):
            await dial("10.9.9.9:1", timeout=1)
        with pytest.raises(BadCertificate):
            await dial(address, timeout=1, expect=NodeId("another"))
        stage.net.partition("server", "client", one_way=True)
        before = stage.loop.time()
        with pytest.raises(ConnectionFailed, match="does not answer within 1 s"):
            await dial(address, timeout=1)
        assert stage.loop.time() == pytest.approx(before + 1)
        stage.net.heal()
        stage.server.crash()
        with pytest.raises(ConnectionFailed, match="refused"):
            await dial(address, timeout=1)

    play(scene)


def test_a_timeout_takes_the_request_back() -> None:
    """A caller out of time hears that the outcome is unknown, and the handler is cancelled."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        with pytest.raises(OutcomeUnknown, match="no answer within 1 s"):
            await channel.call("slow", None, timeout=1)
        await asyncio.sleep(0.1)
        assert stage.ended == ["slow"]

    play(scene)


def test_a_partition_holds_up_and_then_breaks() -> None:
    """A short partition delays; one longer than the keepalive ends the connection and what runs on it."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        stage.net.partition("client", "server")
        stage.net.later(2, stage.net.heal)
        before = stage.loop.time()
        await channel.call("echo", 1, timeout=5)
        assert stage.loop.time() - before >= 2
        stage.net.partition("server", "client", one_way=True)
        with pytest.raises(OutcomeUnknown, match="nothing heard for 6 s"):
            await channel.call("echo", 1, timeout=60)
        await channel.wait_closed()
        assert not channel.notify("note", 1)
        with pytest.raises(ConnectionFailed, match="closed"):
            await channel.call("echo", 1, timeout=1)

    play(scene)


@pytest.mark.parametrize("seed", seeds(10))
def test_a_crash_ends_connections_and_leaves_no_trace(seed: int) -> None:
    """The caller of a host that lost its power hears of it in bounded time; no handler cleans up."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        stage.net.later(1, stage.server.crash)
        with pytest.raises(OutcomeUnknown, match="lost"):
            await channel.call("slow", None, timeout=60)
        assert stage.ended == []
        stage.server.restart()
        assert await (await stage.dial()).call("echo", 1, timeout=1) == ["client", 1]

    play(scene, seed)


@pytest.mark.parametrize("seed", seeds(10))
def test_notifications_keep_their_order_unless_told_otherwise(seed: int) -> None:
    """In order and complete by default; lost and overtaking each other when the network is bad."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        for number in range(50):
            assert channel.notify("note", number)
        await asyncio.sleep(1)
        assert stage.notes == list(range(50))
        stage.notes.clear()
        stage.net.options.notify_loss = stage.net.options.notify_overtake = 0.3
        for number in range(50):
            channel.notify("note", number)
        await asyncio.sleep(1)
        assert stage.notes != sorted(stage.notes)
        assert 10 < len(stage.notes) < 50

    play(scene, seed)


def test_a_stream_ends_on_either_side() -> None:
    """All answers in order; the handler is told when nobody reads any more or the connection is closed."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        assert [number async for number in channel.stream("count", 5)] == [0, 1, 2, 3, 4]
        assert stage.ended == ["count"]
        items = channel.stream("count", 100)
        assert await anext(items) == 0
        await items.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        assert stage.ended == ["count", "count"]
        items = channel.stream("count", 100)
        assert await anext(items) == 0
        await channel.close()
        await channel.close()
        with pytest.raises(OutcomeUnknown, match="closed"):
            [number async for number in items]
        await asyncio.sleep(0.1)
        assert stage.ended == ["count"] * 3

    play(scene)


def entries(first: int, last: int) -> list[Entry]:
    """Entries of term 1."""
    return [Entry(term=1, index=index, data=b"%d" % index) for index in range(first, last + 1)]


@pytest.mark.parametrize("seed", seeds(20))
def test_a_disk_keeps_what_was_synced_and_a_prefix_of_the_rest(seed: int) -> None:
    """A crash in the middle of a write leaves it whole or not at all, and never touches an older one."""

    async def main(loop: SimLoop) -> None:
        net = SimNetwork(loop)
        host, disk = net.host("a", "a:1"), SimDisk(loop)
        host.on_crash.append(disk.crash)
        synced: list[int] = []

        async def write(host: Host) -> None:
            for first in range(1, 1000, 3):
                await disk.append(HardState(term=1, commit=first), entries(first, first + 2))
                synced.append(first + 2)

        host.boot(write)
        await asyncio.sleep(loop.random.uniform(0, 0.1))
        host.crash()
        state = await disk.load()
        kept = state.entries[-1].index if state.entries else 0
        assert kept in ((synced or [0])[-1], (synced or [0])[-1] + 3)
        assert state.hard_state.commit == max(0, kept - 2)

    run(seed, main)


def test_a_failed_sync_is_told() -> None:
    """A disk that cannot sync raises StorageError."""

    async def main(loop: SimLoop) -> None:
        disk = SimDisk(loop)
        disk.options.failure = 1.0
        with pytest.raises(StorageError):
            await disk.append(None, entries(1, 1))
        assert disk.has_failed

    run(0, main)


def test_what_is_clogged_comes_later_and_in_order() -> None:
    """A clogged link holds everything up, for longer than a connection lives in silence, and loses nothing."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        stage.net.clog("client", "server")
        for number in range(20):
            channel.notify("note", number)
        await asyncio.sleep(10)
        assert stage.notes == []
        stage.net.heal([("client", "server")])
        await asyncio.sleep(1)
        assert stage.notes == list(range(20))

    play(scene)


def test_a_reset_breaks_what_is_under_way() -> None:
    """Both ends live on; the caller hears that the outcome is unknown, and the handler is cancelled."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        stage.net.later(1, stage.net.reset, "server", "client")
        with pytest.raises(OutcomeUnknown, match="reset by peer"):
            await channel.call("slow", None, timeout=60)
        await asyncio.sleep(0.1)
        assert stage.ended == ["slow"]
        assert await (await stage.dial()).call("echo", 1, timeout=1) == ["client", 1]

    play(scene)


def test_an_answer_can_be_lost_after_the_request_was_carried_out() -> None:
    """The handler runs to its end, and the caller does not know."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        stage.net.options.answer_loss = 1.0
        with pytest.raises(OutcomeUnknown, match="reset by peer"):
            await channel.call("slow", None, timeout=60)
        assert stage.ended == ["slow"]

    play(scene)


def test_notifications_can_come_twice() -> None:
    """Each one comes at least once, some a second time, later."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        stage.net.options.notify_duplicate = 0.5
        for number in range(50):
            channel.notify("note", number)
        await asyncio.sleep(1)
        assert set(stage.notes) == set(range(50))
        assert 60 < len(stage.notes) < 90

    play(scene)


def test_a_far_link_is_slow_in_its_direction() -> None:
    """The way there takes as long as it is far, with its jitter; the way back does not."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        link = stage.net.link("client", "server")
        link.far_s, link.jitter_s = 0.2, 0.1
        before = stage.loop.now
        await channel.call("echo", 1, timeout=5)
        assert 0.2 < stage.loop.now - before < 0.35

    play(scene)


def test_a_host_that_stands_still_does_nothing_and_then_all_at_once() -> None:
    """Its timers and what comes for it wait; its connections live; after that everything due happens at that moment."""

    async def scene(stage: Stage) -> None:
        channel = await stage.dial()
        ticks: list[float] = []
        stage.server.call(
            lambda: [stage.loop.call_later(n / 10, lambda: ticks.append(stage.loop.now)) for n in range(30)]
        )
        await asyncio.sleep(0.55)
        stage.server.pause()
        seen = list(ticks)
        channel.notify("note", 1)
        stage.net.later(4, stage.server.resume)
        resumed_at = stage.loop.now + 4
        assert await channel.call("echo", 1, timeout=10) == ["client", 1]
        assert stage.loop.now > resumed_at
        assert stage.notes == [1]
        assert ticks[: len(seen)] == seen
        assert len(ticks) == 30
        assert set(ticks[len(seen) :]) == {resumed_at}

    play(scene)
