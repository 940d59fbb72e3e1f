"""The userspace mesh, with real sockets on loopback addresses."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
from structlog.testing import capture_logs

from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.network.listening import HANDSHAKE_S
from swarmpy.network.mesh import UserspaceMesh

HOST = "127.0.0.3"
"""Not 127.0.0.1, from which all connections within this machine come: one may take a port that was free just now."""
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def free_port(host: str = HOST) -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def endpoint(number: int, port: int) -> Endpoint:
    """The endpoint of one task of this machine."""
    return Endpoint(task_id=TaskId(f"t{number}"), node_id=NodeId("n1"), address=HOST, port=port)


async def say_name(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line with a name."""
    while await reader.readline():
        writer.write(name.encode() + b"\n")
        await writer.drain()


@asynccontextmanager
async def backend(serve: Serve | str, port: int = 0) -> AsyncIterator[int]:
    """A task that listens; gives its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(serve, str):
                await say_name(serve, reader, writer)
            else:
                await serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, HOST, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def running(mesh: UserspaceMesh) -> AsyncIterator[UserspaceMesh]:
    """Close the mesh at the end."""
    try:
        yield mesh
    finally:
        await mesh.close()


@pytest.fixture
async def mesh() -> AsyncIterator[UserspaceMesh]:
    """A mesh on the loopback address."""
    async with running(UserspaceMesh(HOST, random.Random(7), connect_timeout_s=0.5)) as mesh:
        yield mesh


class Client:
    """A client connection to a published port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self) -> str:
        self.writer.write(b"who\n")
        async with asyncio.timeout(10):
            return (await self.reader.readline()).decode().strip()


@asynccontextmanager
async def connect(port: int, host: str = HOST) -> AsyncIterator[Client]:
    """A client of a published port."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def ask_once(port: int) -> str:
    """One request on a connection of its own."""
    async with connect(port) as client:
        return await client.ask()


async def test_requests_are_spread_evenly(mesh: UserspaceMesh) -> None:
    """Sequential connections take turns among the endpoints."""
    port = free_port()
    async with backend("a") as a, backend("b") as b, backend("c") as c:
        await mesh.apply({PublishedPort(port=port): tuple(endpoint(n, p) for n, p in enumerate((a, b, c)))})
        answers = Counter([await ask_once(port) for _ in range(30)])
    assert set(answers) == {"a", "b", "c"}
    assert max(answers.values()) <= 14


async def test_refused_connect_goes_to_another_endpoint(mesh: UserspaceMesh) -> None:
    """An endpoint that nobody listens on costs no request, and is avoided afterwards."""
    port = free_port()
    async with backend("alive") as alive:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, free_port()), endpoint(2, alive))})
        assert [await ask_once(port) for _ in range(20)] == ["alive"] * 20


async def test_silent_endpoint_goes_to_another_endpoint(mesh: UserspaceMesh) -> None:
    """An endpoint whose connect does not finish is given up after the timeout."""
    port = free_port()
    # A full backlog: the kernel answers no further connects.
    with socket.socket() as full, socket.socket() as one, socket.socket() as two:
        full.bind((HOST, 0))
        full.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        async with backend("alive") as alive:
            await mesh.apply({PublishedPort(port=port): (endpoint(1, full.getsockname()[1]), endpoint(2, alive))})
            assert [await ask_once(port) for _ in range(4)] == ["alive"] * 4


async def test_a_dead_machine_is_waited_for_once(mesh: UserspaceMesh) -> None:
    """However many of its tasks are in the table: after the first that is silent connections go to other nodes."""
    port = free_port()
    with socket.socket() as full, socket.socket() as one, socket.socket() as two:
        full.bind((HOST, 0))
        full.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        dead = [endpoint(number, full.getsockname()[1]) for number in range(8)]
        async with backend("alive") as alive:
            living = attrs.evolve(endpoint(9, alive), node_id=NodeId("n2"))
            await mesh.apply({PublishedPort(port=port): (*dead, living)})
            with capture_logs() as logs:
                assert [await ask_once(port) for _ in range(4)] == ["alive"] * 4
    assert len([line for line in logs if line["event"] == "endpoint_refused"]) == 1


async def test_a_silent_task_is_asked_twice_where_nobody_else_is_left(mesh: UserspaceMesh) -> None:
    """Where nobody else is left it is asked once more, and its client is reset then."""
    port = free_port()
    with socket.socket() as full, socket.socket() as one, socket.socket() as two:
        full.bind((HOST, 0))
        full.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        await mesh.apply({PublishedPort(port=port): (endpoint(1, full.getsockname()[1]),)})
        async with connect(port) as client:
            with capture_logs() as logs, pytest.raises(ConnectionError):
                await client.ask()
    assert [line["reason"] for line in logs if line["event"] == "endpoint_refused"] == ["timed out"] * 2


async def test_no_endpoint_resets_at_once(mesh: UserspaceMesh) -> None:
    """A port with nobody behind it, or only with dead ones, resets its clients instead of letting them wait."""
    port = free_port()
    for endpoints in ((), (endpoint(1, free_port()),)):
        await mesh.apply({PublishedPort(port=port): endpoints})
        async with connect(port) as client:
            with pytest.raises(ConnectionError):
                # An orderly end would give "" instead.
                await client.ask()


async def test_half_close_is_passed_on(mesh: UserspaceMesh) -> None:
    """A client that has sent everything still gets its answer, and the backend sees the end of the request."""
    port = free_port()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(-1)
        writer.write(str(len(request)).encode())
        await writer.drain()

    async with backend(count) as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as client:
            client.writer.write(b"x" * 1_000_000)
            client.writer.write_eof()
            async with asyncio.timeout(10):
                assert await client.reader.read(-1) == b"1000000"


async def test_backend_half_close_leaves_the_other_way_open(mesh: UserspaceMesh) -> None:
    """A backend that has said everything can still listen."""
    port = free_port()
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        heard.set_result(await reader.read(-1))

    async with backend(greet) as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as client, asyncio.timeout(10):
            assert await client.reader.read(-1) == b"hello"
            client.writer.write(b"thanks")
            client.writer.write_eof()
            assert await heard == b"thanks"


async def test_slow_client_holds_the_backend_back(mesh: UserspaceMesh) -> None:
    """50 MB to a client that does not read yet: the backend is held back, and then every byte arrives."""
    port = free_port()
    total, chunk = 50_000_000, b"0123456789" * 10_000
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readline()
        writer.transport.set_write_buffer_limits(high=0)
        while sent < total:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)

    async with backend(pour) as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        reader, writer = await asyncio.open_connection(HOST, port, limit=1024)
        try:
            writer.write(b"go\n")
            before = -1
            async with asyncio.timeout(20):
                while sent != before or sent == 0:
                    before = sent
                    await asyncio.sleep(0.1)
                held_at = sent
                received = 0
                while data := await reader.read(1 << 16):
                    received += len(data)
            assert held_at < total / 2
            assert received == total
        finally:
            writer.close()


async def test_removed_endpoint_keeps_its_connections(mesh: UserspaceMesh) -> None:
    """Open connections outlive their endpoint's and their port's removal; new ones do not get there."""
    port = free_port()
    async with backend("old") as old, backend("new") as new:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, old),)})
        async with connect(port) as client:
            assert await client.ask() == "old"
            await mesh.apply({PublishedPort(port=port): (endpoint(2, new),)})
            assert [await ask_once(port) for _ in range(5)] == ["new"] * 5
            assert await client.ask() == "old"
            await mesh.apply({})
            assert await client.ask() == "old"
            with pytest.raises(ConnectionRefusedError):
                await ask_once(port)


async def test_no_request_is_lost_while_endpoints_change(mesh: UserspaceMesh) -> None:
    """2,000 sequential requests are all answered while tasks come and go: out of the table first, then stopped."""
    published = PublishedPort(port=free_port())
    answers: list[str] = []

    async def ask() -> None:
        for _ in range(2000):
            answers.append(await ask_once(published.port))

    async with AsyncExitStack() as stack:
        first = AsyncExitStack()
        current = (first, endpoint(0, await first.enter_async_context(backend("0"))))
        await mesh.apply({published: (current[1],)})
        asking = asyncio.create_task(ask())
        stack.push_async_callback(lambda: asyncio.wait([asking]))
        number = 0
        while not asking.done():
            number += 1
            task = AsyncExitStack()
            fresh = (task, endpoint(number, await task.enter_async_context(backend(str(number)))))
            await mesh.apply({published: (current[1], fresh[1])})
            await asyncio.wait([asking], timeout=0.02)
            await mesh.apply({published: (fresh[1],)})
            await current[0].aclose()
            current = fresh
        await current[0].aclose()
        await asking
    assert len(answers) == 2000
    assert "" not in answers
    assert len(set(answers)) > 5


async def test_taken_port_is_a_problem_until_it_is_free(mesh: UserspaceMesh) -> None:
    """A port that is in use is reported in one line, the other ports work, and it is opened later."""
    good = free_port()
    async with backend("x") as one:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            port = taken.getsockname()[1]
            table = {PublishedPort(port=p): (endpoint(1, one),) for p in (port, good)}
            await mesh.apply(table)
            assert mesh.problems() == (f"published port {port}: address already in use on {HOST}",)
            assert await ask_once(good) == "x"
            await mesh.apply(table)
            assert len(mesh.problems()) == 1
        await mesh.apply(table)
        assert mesh.problems() == ()
        assert await ask_once(port) == "x"


async def test_udp_is_reported(mesh: UserspaceMesh) -> None:
    """A UDP port is a problem that goes when the port goes."""
    await mesh.apply({PublishedPort(port=53, protocol="udp"): ()})
    assert mesh.problems() == ("published port 53/udp: only tcp is forwarded without root",)
    await mesh.apply({})
    assert mesh.problems() == ()


async def test_connections_are_bounded() -> None:
    """One connection more than allowed is reset; a place that becomes free is used."""
    port = free_port()
    async with running(UserspaceMesh(HOST, random.Random(7), max_connections=2)) as mesh, backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as first:
            async with connect(port) as second:
                assert [await first.ask(), await second.ask()] == ["x", "x"]
                with pytest.raises(ConnectionError):
                    await ask_once(port)
            async with asyncio.timeout(5):
                while mesh.connections > 1:
                    await asyncio.sleep(0.01)
            assert await ask_once(port) == "x"


async def test_close_cuts_what_is_left() -> None:
    """close ends open connections and listening, and may be called again."""
    port = free_port()
    mesh = UserspaceMesh(HOST, random.Random(7))
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as client:
            assert await client.ask() == "x"
            await mesh.close()
            await mesh.close()
            with pytest.raises(ConnectionError):
                await client.reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await ask_once(port)


# -- a node that is about to stop -------------------------------------------------------------------------------------


async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line after 0.7 s: a longer silence than one that is taken for the end."""
    while await reader.readline():
        await asyncio.sleep(0.7)
        writer.write(b"done\n")
        await writer.drain()


async def test_drain_waits_for_answers_and_takes_nothing_new(mesh: UserspaceMesh) -> None:
    """What was asked is answered, the connection is closed in order then, and others are refused meanwhile."""
    port = free_port()
    async with backend(slowly) as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as client:
            client.writer.write(b"?\n")
            await client.writer.drain()
            draining = asyncio.create_task(mesh.drain())
            await asyncio.sleep(HANDSHAKE_S * 2)
            with pytest.raises(ConnectionRefusedError):
                await ask_once(port)
            assert await client.reader.read() == b"done\n"
            await draining
        assert mesh.connections == 0


async def test_drain_takes_what_the_kernel_has_accepted(mesh: UserspaceMesh) -> None:
    """Connections that nobody has looked at yet are answered, not reset."""
    port = free_port()
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        # Without a turn for the loop: they are in the kernel's queue only.
        queued = [socket.create_connection((HOST, port)) for _ in range(20)]
        draining = asyncio.create_task(mesh.drain())
        for sock in queued:
            sock.setblocking(False)
        loop = asyncio.get_running_loop()
        for sock in queued:
            await loop.sock_sendall(sock, b"?\n")
        assert [await loop.sock_recv(sock, 10) for sock in queued] == [b"x\n"] * len(queued)
        assert [await loop.sock_recv(sock, 10) for sock in queued] == [b""] * len(queued)
        await draining
        for sock in queued:
            sock.close()


async def test_drain_lets_go_of_a_client_that_goes_on_asking(mesh: UserspaceMesh) -> None:
    """It is closed between two requests, not within one."""
    port = free_port()
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        async with connect(port) as client:
            assert await client.ask() == "x"
            draining = asyncio.create_task(mesh.drain())
            while not client.reader.at_eof():
                assert await client.ask() == "x"
                await asyncio.sleep(0.05)
            await draining


async def test_drain_keeps_the_table_current(mesh: UserspaceMesh) -> None:
    """A table that comes meanwhile opens no port."""
    port = free_port()
    await mesh.drain()
    async with backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        assert mesh.problems() == ()
        with pytest.raises(ConnectionRefusedError):
            await ask_once(port)


async def test_any_address_answers_on_both_families() -> None:
    """0.0.0.0 listens on IPv6 as well where the machine has it."""
    port = free_port("0.0.0.0")
    async with running(UserspaceMesh("0.0.0.0", random.Random(7))) as mesh, backend("x") as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        assert await ask_once(port) == "x"
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            return
        async with connect(port, "::1") as client:
            assert await client.ask() == "x"


async def test_client_that_breaks_off_resets_the_backend(mesh: UserspaceMesh) -> None:
    """A backend does not take a broken-off request for a complete one."""
    port = free_port()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready\n")
        try:
            await reader.read(-1)
            ended.set_result("complete")
        except ConnectionResetError:
            ended.set_result("reset")

    async with backend(read_all) as one:
        await mesh.apply({PublishedPort(port=port): (endpoint(1, one),)})
        sock = socket.create_connection((HOST, port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            assert await loop.sock_recv(sock, 100) == b"ready\n"
            sock.send(b"half of it")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            sock.close()
            assert await ended == "reset"
