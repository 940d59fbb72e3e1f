"""Kept connections: the pool and the sender, over real servers."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from rpc_lab import Lab, Pki

from swarmpy.errors import BadCertificate, ConnectionFailed, OutcomeUnknown
from swarmpy.model.ids import NodeId
from swarmpy.ports import Channel, Peer
from swarmpy.wire import channels
from swarmpy.wire.channels import BACKOFF_FIRST_S, BACKOFF_MOST_S, MAX_QUEUED, Backoff, ChannelPool, PeerSender
from swarmpy.wire.router import MANAGERS, Router
from swarmpy.wire.rpc import RpcServer

HOST = "127.0.0.3"
"""Not 127.0.0.1, from which all connections within this machine come: one may take a port that was free just now."""


class Inbox:
    """What arrived."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue()

    def router(self) -> Router:
        router = Router()
        router.notify("note", lambda _, payload: self.items.put_nowait(payload), MANAGERS)
        router.call("echo", self._echo, MANAGERS)
        return router

    async def _echo(self, _: Peer, payload: Any) -> Any:
        return payload

    async def get(self) -> Any:
        async with asyncio.timeout(10):
            return await self.items.get()


class CountingDialer:
    """A dialler that counts."""

    def __init__(self, lab: Lab) -> None:
        self._inner = lab.dialer()
        self.dialled = 0

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        self.dialled += 1
        return await self._inner.dial(address, timeout=timeout, expect=expect)


@pytest.fixture
async def inbox() -> Inbox:
    """An empty inbox."""
    return Inbox()


@pytest.fixture
async def server(lab: Lab, inbox: Inbox) -> RpcServer:
    """A server that fills the inbox."""
    return await lab.server(inbox.router(), host=HOST)


def closed_address() -> str:
    """An address that nobody listens on."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return f"{HOST}:{sock.getsockname()[1]}"


async def restart(server: RpcServer, lab: Lab, router: Router) -> None:
    """Another server at the address of a stopped one."""
    again = RpcServer(router, lab.pki.credentials("again"), host=HOST, port=server.port)
    await again.start()
    lab.stack.push_async_callback(again.stop)


# -- the pool ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def dialer(lab: Lab) -> CountingDialer:
    """A dialler of the lab."""
    return CountingDialer(lab)


@pytest.fixture
async def pool(dialer: CountingDialer) -> AsyncIterator[ChannelPool]:
    """A pool that is closed at the end."""
    pool = ChannelPool(dialer, random.Random(1))
    yield pool
    await pool.close()


async def test_everybody_shares_one_channel(pool: ChannelPool, dialer: CountingDialer, server: RpcServer) -> None:
    """Concurrent and later requests for an address get the same channel."""
    channels = await asyncio.gather(*(pool.get(server.address) for _ in range(10)))
    assert len({id(channel) for channel in channels}) == 1
    assert dialer.dialled == 1
    assert await (await pool.get(server.address)).call("echo", 1, timeout=5) == 1


async def test_a_lost_channel_is_replaced(pool: ChannelPool, server: RpcServer, lab: Lab, inbox: Inbox) -> None:
    """After the peer restarted, the pool dials again."""
    first = await pool.get(server.address)
    await server.stop()
    await first.wait_closed()
    await restart(server, lab, inbox.router())
    second = await pool.get(server.address)
    assert second is not first
    assert await second.call("echo", 2, timeout=5) == 2


async def test_failed_dial_is_not_repeated_at_once(pool: ChannelPool, dialer: CountingDialer) -> None:
    """For a moment after a failure the pool answers from memory."""
    address = closed_address()
    for _ in range(3):
        with pytest.raises(ConnectionFailed, match=address):
            await pool.get(address)
    assert dialer.dialled == 1


async def test_dropped_channel_is_closed(pool: ChannelPool, server: RpcServer) -> None:
    """drop closes the channel; the next request opens another one."""
    channel = await pool.get(server.address)
    await pool.drop(server.address)
    with pytest.raises(ConnectionFailed):
        await channel.call("echo", 1, timeout=5)
    assert await (await pool.get(server.address)).call("echo", 1, timeout=5) == 1
    await pool.close()
    with pytest.raises(ConnectionFailed, match="stopping"):
        await pool.get(server.address)


async def test_addresses_are_bounded(
    pool: ChannelPool, server: RpcServer, monkeypatch: pytest.MonkeyPatch, lab: Lab, inbox: Inbox
) -> None:
    """Of addresses without a connection only so many are remembered; one with a connection is never given up."""
    monkeypatch.setattr(channels, "MAX_ADDRESSES", 2)
    channel = await pool.get(server.address)
    for address in (closed_address(), closed_address(), closed_address()):
        with pytest.raises(ConnectionFailed, match=address):
            await pool.get(address)
    assert len(pool._slots) == 2
    other = await lab.server(inbox.router())
    await pool.get(other.address)
    with pytest.raises(ConnectionFailed, match="2 addresses already"):
        await pool.get(closed_address())
    assert await pool.get(server.address) is channel


# -- the sender -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def sending(dialer: CountingDialer, unreachable: asyncio.Queue[str], **options: Any) -> AsyncIterator[PeerSender]:
    """A sender that runs."""
    sender = PeerSender(dialer, random.Random(1), on_unreachable=unreachable.put_nowait, **options)
    running = asyncio.create_task(sender.run())
    await asyncio.sleep(0)
    try:
        yield sender
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_messages_arrive_in_order(dialer: CountingDialer, server: RpcServer, inbox: Inbox) -> None:
    """Messages sent before and after the connection stands arrive in order over one connection."""
    async with sending(dialer, asyncio.Queue()) as sender:
        for number in range(50):
            assert sender.send(server.address, "note", number)
        assert [await inbox.get() for _ in range(50)] == list(range(50))
        assert sender.send(server.address, "note", "direct")
        assert await inbox.get() == "direct"
    assert dialer.dialled == 1


async def test_unreachable_peer_is_reported_and_comes_back(
    dialer: CountingDialer, server: RpcServer, inbox: Inbox, lab: Lab
) -> None:
    """A lost connection is reported at once, failed dials too; a peer that is back gets messages again."""
    unreachable: asyncio.Queue[str] = asyncio.Queue()
    async with sending(dialer, unreachable) as sender, asyncio.timeout(20):
        sender.send(server.address, "note", "before")
        assert await inbox.get() == "before"
        await server.stop()
        assert await unreachable.get() == server.address
        sender.send(server.address, "note", "lost")
        assert await unreachable.get() == server.address
        await restart(server, lab, inbox.router())
        while inbox.items.empty():
            sender.send(server.address, "note", "after")
            await asyncio.sleep(0.02)
        assert await inbox.get() == "after"


async def test_queue_is_bounded(dialer: CountingDialer) -> None:
    """Messages beyond the bound are dropped and say so; nothing is sent before the sender runs."""
    address = closed_address()
    unreachable: asyncio.Queue[str] = asyncio.Queue()
    idle = PeerSender(dialer, random.Random(1), on_unreachable=unreachable.put_nowait)
    assert not idle.send(address, "note", 0)
    async with sending(dialer, unreachable) as sender:
        results = [sender.send(address, "note", number) for number in range(MAX_QUEUED + 1)]
        assert results == [True] * MAX_QUEUED + [False]
        async with asyncio.timeout(5):
            assert await unreachable.get() == address


async def test_queue_is_bounded_in_bytes(
    dialer: CountingDialer, server: RpcServer, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a connection weighs no more than the bound; once it is sent there is room again."""
    monkeypatch.setattr(channels, "MAX_QUEUED_BYTES", 100)
    async with sending(dialer, asyncio.Queue()) as sender:
        assert sender.send(server.address, "note", 1, size=60)
        assert not sender.send(server.address, "note", 2, size=60)
        assert sender.send(server.address, "note", 3, size=40)
        assert [await inbox.get(), await inbox.get()] == [1, 3]
        assert sender.send(server.address, "note", 4, size=1000)
        assert await inbox.get() == 4


async def test_room_comes_back_when_a_peer_is_not_there(
    dialer: CountingDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited in vain is forgotten with its weight."""
    monkeypatch.setattr(channels, "MAX_QUEUED_BYTES", 100)
    address = closed_address()
    unreachable: asyncio.Queue[str] = asyncio.Queue()
    async with sending(dialer, unreachable) as sender, asyncio.timeout(10):
        for _ in range(3):
            assert sender.send(address, "note", 1, size=100)
            assert await unreachable.get() == address


async def test_peers_are_bounded(dialer: CountingDialer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages to more addresses than can be kept are dropped; an address that is let go makes room."""
    monkeypatch.setattr(channels, "MAX_ADDRESSES", 2)
    async with sending(dialer, asyncio.Queue(), idle_s=0.05) as sender:
        one, two, three = closed_address(), closed_address(), closed_address()
        assert sender.send(one, "note", 1)
        assert sender.send(two, "note", 1)
        assert not sender.send(three, "note", 1)
        async with asyncio.timeout(10):
            while not sender.send(three, "note", 1):
                await asyncio.sleep(0.01)


async def test_another_node_at_the_address_gets_nothing(
    dialer: CountingDialer, server: RpcServer, inbox: Inbox
) -> None:
    """With an expected node id, a stranger at its address counts as unreachable."""
    unreachable: asyncio.Queue[str] = asyncio.Queue()
    async with sending(dialer, unreachable) as sender, asyncio.timeout(5):
        sender.send(server.address, "note", 1, expect=NodeId("somebody"))
        assert await unreachable.get() == server.address
    assert inbox.items.empty()


async def test_idle_peer_is_let_go(dialer: CountingDialer, server: RpcServer, inbox: Inbox) -> None:
    """A peer that nothing is sent to is disconnected without being reported; the next message connects again."""
    unreachable: asyncio.Queue[str] = asyncio.Queue()
    async with sending(dialer, unreachable, idle_s=0.05) as sender:
        sender.send(server.address, "note", 1)
        assert await inbox.get() == 1
        await asyncio.sleep(0.3)
        sender.send(server.address, "note", 2)
        assert await inbox.get() == 2
    assert dialer.dialled == 2
    assert unreachable.empty()


async def test_pool_survives_a_call_that_is_cut(pool: ChannelPool, server: RpcServer, lab: Lab, pki: Pki) -> None:
    """A stranger behind an address is BadCertificate, not a hang."""
    with pytest.raises(BadCertificate):
        await lab.dialer(pki.credentials("x", cluster_id="elsewhere")).dial(server.address, timeout=5)
    channel = await pool.get(server.address)
    await server.stop()
    with pytest.raises((OutcomeUnknown, ConnectionFailed)):
        await channel.call("echo", 1, timeout=5)


def test_backoff_grows_and_varies() -> None:
    """Pauses double up to the most, each between a half and the whole of it."""
    backoff = Backoff(random.Random(3))
    expected = BACKOFF_FIRST_S
    for _ in range(10):
        assert expected / 2 <= backoff.next() <= expected
        expected = min(expected * 2, BACKOFF_MOST_S)
    backoff.reset()
    assert backoff.next() <= BACKOFF_FIRST_S
