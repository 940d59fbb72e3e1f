"""Published ports and clients and nodes that mean no good: what each costs is bounded, others are served."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs
from test_mesh import HOST, ask_once, backend, connect, endpoint, free_port, running

from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.network.forward import CHUNK_BYTES
from swarmpy.network.mesh import UserspaceMesh


@pytest.fixture
async def mesh() -> AsyncIterator[UserspaceMesh]:
    """A mesh with room for twenty, of which one address gets sixteen."""
    async with running(UserspaceMesh(HOST, random.Random(7), max_connections=20)) as mesh:
        yield mesh


async def until(condition: object, timeout: float = 5) -> None:
    """Wait for what has no event, within a deadline."""
    async with asyncio.timeout(timeout):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def holding(port: int, count: int, host: str = HOST) -> AsyncIterator[list[socket.socket]]:
    """Connections on which nothing is ever said."""
    loop, socks = asyncio.get_running_loop(), []
    try:
        for _ in range(count):
            sock = socket.socket()
            socks.append(sock)
            sock.setblocking(False)
            sock.bind((host, 0))
            with contextlib.suppress(ConnectionResetError):
                await loop.sock_connect(sock, (HOST, port))
        yield socks
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize(
    "address",
    ["a..b", "x" * 70, "x." * 200, "127.0.0.1\x00", "\udcff", "", "ä..ö", "256.1.1.1", "[::1", "no.such.host."],
)
async def test_an_address_that_is_none_costs_nobody_a_request(mesh: UserspaceMesh, address: str) -> None:
    """A node that gives an address no resolver can make anything of: its endpoint is avoided, as one that is down."""
    port = free_port()
    bad = Endpoint(task_id=TaskId("t0"), node_id=NodeId("bad"), address=address, port=80)
    async with backend("good") as good:
        await mesh.apply({PublishedPort(port=port): (bad, endpoint(1, good))})
        assert [await ask_once(port) for _ in range(5)] == ["good"] * 5
        await mesh.apply({PublishedPort(port=port): (bad,)})
        with pytest.raises(ConnectionError):
            await ask_once(port)
    await until(lambda: mesh.connections == 0)


async def test_one_address_cannot_have_all(mesh: UserspaceMesh) -> None:
    """With everything taken that one address may have, others are served."""
    port = free_port()
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with holding(port, 40, "127.0.0.9"):
            await until(lambda: mesh.connections == 16)
            assert [await ask_once(port) for _ in range(5)] == ["x"] * 5
        await until(lambda: mesh.connections == 0)
        async with holding(port, 16, "127.0.0.9"):
            await until(lambda: mesh.connections == 16)


async def test_clients_that_never_read_hold_little(mesh: UserspaceMesh) -> None:
    """What waits in this process for a client that does not read is a chunk, however much its backend has to say."""
    port, poured = free_port(), 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal poured
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()
            poured += 100_000

    async with backend(pour) as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with holding(port, 10) as socks:
            for sock in socks:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            before = -1
            async with asyncio.timeout(20):
                while poured != before or not poured:
                    before = poured
                    await asyncio.sleep(0.2)
            waiting = [side.unsent_bytes for side in mesh.sides]
            assert len(waiting) == 20
            assert max(waiting) <= CHUNK_BYTES
            assert sum(1 for size in waiting if size) >= 5


async def test_a_byte_a_second_holds_nobody_up(mesh: UserspaceMesh) -> None:
    """Clients that drip are carried like others, and others at once."""
    port = free_port()
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as slow:
            for byte in b"who\n":
                slow.writer.write(bytes([byte]))
                began = time.monotonic()
                assert await ask_once(port) == "x"
                assert time.monotonic() - began < 2
            assert (await slow.reader.readline()) == b"x\n"


async def test_a_flood_does_not_hold_the_loop(mesh: UserspaceMesh) -> None:
    """A thousand who connect at once are not dealt with in one go: whoever else lives on this loop has its turns."""
    port = free_port()
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        turns = 0

        async def live() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        socks = [socket.socket() for _ in range(800)]
        try:
            for sock in socks:
                sock.setblocking(False)
                sock.connect_ex((HOST, port))
            living = asyncio.create_task(live())
            await until(lambda: mesh.accepted >= 800)
            living.cancel()
            await asyncio.wait([living])
        finally:
            for sock in socks:
                sock.close()
        assert turns >= 800


async def test_floods_fill_no_log(mesh: UserspaceMesh) -> None:
    """Full, free, full again: a few lines."""
    port = free_port()
    with capture_logs() as logs:
        async with backend("x") as one:
            await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
            for _ in range(15):
                async with holding(port, 25):
                    await until(lambda: mesh.connections >= 16)
                await until(lambda: mesh.connections == 0)
    told = [line for line in logs if line["log_level"] != "debug"]
    assert 1 <= len(told) <= 5
    assert {line["event"] for line in told} == {"too_many_connections"}


async def test_who_is_gone_is_noticed(mesh: UserspaceMesh) -> None:
    """The kernel asks after idle clients soon enough: one that vanished does not keep its place for hours."""
    port = free_port()
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as client:
            assert await client.ask() == "x"
            options = [
                (
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                    + sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                    * sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                )
                for side in mesh.sides
                if side.transport is not None and (sock := side.transport.get_extra_info("socket")) is not None
            ]
    assert options == [(1, 120), (1, 120)]
