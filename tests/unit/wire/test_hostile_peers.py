"""The cluster port, without a cluster behind it, in the hands of peers that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from rawpeer import HELLO, RawPeer
from rpc_lab import Lab, Pki
from structlog.testing import capture_logs

from swarmpy.errors import BadCertificate, OutcomeUnknown, SwarmpyError, Unavailable
from swarmpy.model import codec
from swarmpy.model.rates import Rate
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.tls import joiner_context
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.connection import RpcConfig
from swarmpy.wire.entrance import EntranceLimits
from swarmpy.wire.frames import Kind, encode
from swarmpy.wire.router import MANAGERS, MEMBERS, Router
from swarmpy.wire.rpc import RpcServer
from swarmpy.wire.serving import ServerConfig


class Handlers:
    """What the server serves; how many of each run."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.calls = 0

    async def echo(self, _: Peer, payload: Any) -> Any:
        self.calls += 1
        return payload

    async def slow(self, _: Peer, payload: Any) -> Any:
        await asyncio.sleep(0.3 + payload / 100)
        return payload

    async def hang(self, _: Peer, _payload: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.running -= 1

    async def ticks(self, _: Peer, _payload: Any) -> AsyncIterator[Any]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield "tick"
            await asyncio.get_running_loop().create_future()
        finally:
            self.running -= 1

    async def fill(self, _: Peer, _payload: Any) -> AsyncIterator[Any]:
        while True:
            self.calls += 1
            yield b"x" * 10_000

    def note(self, _: Peer, _payload: Any) -> None:
        raise RuntimeError("a defect")

    def router(self) -> Router:
        router = Router()
        router.call("echo", self.echo, MEMBERS)
        router.call("open", self.echo, None)
        router.call("hang", self.hang, None)
        router.call("slow", self.slow, MEMBERS)
        router.call("seldom", self.echo, MEMBERS, Rate(burst=3, per_s=0.001))
        router.stream("ticks", self.ticks, MEMBERS)
        router.stream("fill", self.fill, None)
        router.notify("note", self.note, MANAGERS)
        return router


@pytest.fixture
async def handlers() -> Handlers:
    """Fresh handlers."""
    return Handlers()


@pytest.fixture
async def server(lab: Lab, handlers: Handlers) -> RpcServer:
    """A server as in earnest."""
    return await lab.server(handlers.router())


@pytest.fixture
async def member(lab: Lab, server: RpcServer) -> RpcChannel:
    """Another manager, which must not notice anything."""
    return await lab.dial(server)


@attrs.frozen
class Visitor:
    """Opens connections with one certificate, or none."""

    lab: Lab
    context: ssl.SSLContext

    async def to(self, server: RpcServer, *frames: bytes) -> RawPeer:
        peer = await RawPeer.connect(server.address, self.context)
        self.lab.stack.callback(peer.abort)
        peer.send(*frames)
        return peer


@pytest.fixture
def worker(lab: Lab, pki: Pki) -> Visitor:
    """A worker with a certificate."""
    return Visitor(lab, pki.credentials("worker", Role.WORKER).client_context())


@pytest.fixture
def stranger(lab: Lab, pki: Pki) -> Visitor:
    """Somebody without one."""
    return Visitor(lab, joiner_context(pki.root.cert_pem))


async def is_well(member: RpcChannel) -> bool:
    """The member's calls are answered."""
    return bool(await member.call("echo", 1, timeout=5) == 1)


async def until(condition: Any, timeout: float = 5) -> None:
    """Wait for what has no event, within a deadline."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


def call(frame_id: int, method: str = "hang", payload: Any = None) -> bytes:
    """A request."""
    return encode(Kind.CALL, frame_id, method, payload)


# -- requests ---------------------------------------------------------------------------------------------------------


async def test_thousands_of_requests_at_once(
    server: RpcServer, member: RpcChannel, worker: Visitor, handlers: Handlers
) -> None:
    """So many run; each of the others is refused; when they end, there is room again."""
    peer = await worker.to(server, HELLO, *(call(number) for number in range(2000)))
    refused = [await peer.next(Kind.ERROR) for _ in range(1968)]
    assert all(frame is not None and frame[2] == "unavailable" for frame in refused)
    assert handlers.most == 32
    assert await is_well(member)
    peer.send(*(encode(Kind.CANCEL, number) for number in range(2000)), call(5000, "echo", 7))
    assert await peer.next(Kind.RESULT) == [Kind.RESULT, 5000, 7]
    assert handlers.running == 0


async def test_thousands_of_streams(server: RpcServer, member: RpcChannel, worker: Visitor, handlers: Handlers) -> None:
    """Streams are requests like others, on all connections of a node together."""
    peers = [
        await worker.to(server, HELLO, *(encode(Kind.STREAM, n, "ticks", None) for n in range(1000))) for _ in range(3)
    ]
    for peer in peers:
        assert await peer.next(Kind.ERROR) is not None
    assert handlers.most == 3 * 32
    assert await is_well(member)
    for peer in peers:
        peer.abort()
    await until(lambda: handlers.running == 0)


async def test_a_storm_of_cancels(server: RpcServer, member: RpcChannel, worker: Visitor, handlers: Handlers) -> None:
    """Requests that are taken back at once, and many that never were, leave nothing."""
    storm = [encode(Kind.CANCEL, number) for number in range(1000)]
    storm += [call(number) + encode(Kind.CANCEL, number) for number in range(1000)]
    peer = await worker.to(server, HELLO, *storm, call(1, "echo", "after"))
    assert await peer.next(Kind.RESULT, Kind.ERROR, Kind.GOODBYE) == [Kind.RESULT, 1, "after"]
    assert handlers.running == 0
    assert await is_well(member)


async def test_who_does_not_read_gets_no_more(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """Answers that are not read are bounded: of streams by waiting, of refusals by the end of the connection."""
    config = ServerConfig(rpc=RpcConfig(write_buffer_bytes=200_000), worker_rate=Rate(burst=1e9, per_s=1e9))
    server = await lab.server(handlers.router(), config=config)
    member = await lab.dial(server)
    visitor = Visitor(lab, pki.credentials("worker", Role.WORKER).client_context())
    greedy = await visitor.to(server, HELLO, *(encode(Kind.STREAM, n, "fill", None) for n in range(32)))
    before = -1
    async with asyncio.timeout(20):
        while handlers.calls != before:
            before = handlers.calls
            await asyncio.sleep(0.2)
    # What the kernel keeps of 10 kB each, and no more.
    assert handlers.calls < 5000
    assert await is_well(member)
    for number in range(40, 100_000):
        greedy.send(call(number, "x" * 60))
        if number % 500 == 0:
            await asyncio.sleep(0)
        if greedy.is_gone:
            break
    await until(lambda: greedy.is_gone)
    assert await is_well(member)


async def test_a_request_that_is_refused_without_end(server: RpcServer, member: RpcChannel, stranger: Visitor) -> None:
    """A caller without a certificate may ask as it likes: it is told no each time, at its pace."""
    peer = await stranger.to(server, HELLO, *(call(number, "echo") for number in range(500)))
    frames = [await peer.next(Kind.ERROR) for _ in range(500)]
    assert {frame[2] for frame in frames if frame} <= {"permission_denied", "unavailable"}
    assert await is_well(member)


# -- frames -----------------------------------------------------------------------------------------------------------

NESTED = b"\x91" * 900 + b"\x90"
BODIES = {
    "nothing": b"",
    "not an array": b"\x01",
    "empty array": b"\x90",
    "no such kind": b"\x91\x7f",
    "kind is nested": b"\x91" + NESTED,
    "kind is a text": b"\x91\xa5HELLO",
    "kind is true": b"\x91\xc3",
    "nested too deep": b"\x91" * 100_000,
    "4 GB of bytes": b"\x94\x01\x01\xa4echo\xc6\xff\xff\xff\xff",
    "4 GB array": b"\x94\x01\x01\xa4echo\xdd\xff\xff\xff\xff",
    "4 GB map": b"\x94\x01\x01\xa4echo\xdf\xff\xff\xff\xff",
    "4 GB extension": b"\x94\x01\x01\xa4echo\xc9\xff\xff\xff\xff\x01",
    "an extension": b"\x94\x01\x01\xa4echo\xd4\x05\x00",
    "broken text": b"\x94\x01\x01\xa4\xff\xfe\xfd\xfc\xc0",
    "a key that is a list": b"\x94\x01\x01\xa4echo\x81\x90\x01",
    "id is a float": b"\x94\x01\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xa4echo\xc0",
    "id is true": b"\x94\x01\xc3\xa4echo\xc0",
    "too few fields": b"\x92\x01\x01",
    "too many fields": b"\x95\x01\x01\xa4echo\xc0\xc0",
    "an answer": codec.pack([4, 1, None]),
    "an error": codec.pack([5, 1, "x", "y", "z"]),
    "more after the end": b"\x91\x09\x91\x09",
}


def frame_of(body: bytes) -> bytes:
    """Any body with its length."""
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("greeted", [True, False])
async def test_a_frame_that_is_none(
    server: RpcServer, member: RpcChannel, worker: Visitor, body: bytes, greeted: bool
) -> None:
    """One line of reason, and the end of this connection; nobody else notices, and no defect is told."""
    with capture_logs() as logs:
        peer = await worker.to(server, HELLO if greeted else b"", frame_of(body))
        goodbye = await peer.last()
    assert goodbye is not None
    assert goodbye[1] == "protocol_violation"
    assert len(goodbye[2]) < 300
    assert [line["event"] for line in logs] == ["connection_failed"]
    assert await is_well(member)


@pytest.mark.parametrize(
    "payload",
    [float("nan"), float("inf"), 2**64 - 1, -(2**63), {"a": {"a": {}}}, "\x00", b"\xff" * 100_000, [None] * 10_000],
    ids=lambda payload: repr(payload)[:20],
)
async def test_odd_payloads_are_carried(server: RpcServer, worker: Visitor, payload: Any) -> None:
    """What msgpack can carry is a payload; what it means is the handler's to judge."""
    peer = await worker.to(server, HELLO, call(1, "echo", payload))
    answer = await peer.next(Kind.RESULT, Kind.ERROR, Kind.GOODBYE)
    assert answer is not None
    assert codec.pack(answer) == codec.pack([Kind.RESULT, 1, payload])


async def test_a_payload_as_deep_as_the_parser_allows(server: RpcServer, worker: Visitor) -> None:
    """Deeper than Python's own stack is not, and is no defect."""
    with capture_logs() as logs:
        peer = await worker.to(server, HELLO, frame_of(b"\x94\x01\x01\xa4echo" + NESTED))
        frame = await peer.next(Kind.RESULT, Kind.ERROR, Kind.GOODBYE)
    assert frame is not None
    assert logs == []


@pytest.mark.parametrize("frame_id", [-(2**63), -1, 0, 2**63, 2**64 - 1])
async def test_any_number_is_an_id(server: RpcServer, worker: Visitor, frame_id: int) -> None:
    """The caller chooses ids, and gets them back."""
    peer = await worker.to(server, HELLO, call(frame_id, "echo", 5))
    assert await peer.next(Kind.RESULT, Kind.ERROR, Kind.GOODBYE) == [Kind.RESULT, frame_id, 5]


async def test_workers_and_strangers_send_small_frames_only(
    server: RpcServer, member: RpcChannel, worker: Visitor, stranger: Visitor
) -> None:
    """The bound goes by who it is: a worker sends no more than 256 KiB at once, a stranger 16 KiB."""
    for visitor, limit in ((worker, 256 * 1024), (stranger, 16 * 1024)):
        fits = b"x" * (limit - 100)
        peer = await visitor.to(server, HELLO, call(1, "open", fits))
        if visitor is worker:
            assert await peer.next(Kind.RESULT, Kind.GOODBYE) == [Kind.RESULT, 1, fits]
        peer = await visitor.to(server, HELLO, call(1, "open", b"x" * limit))
        goodbye = await peer.last()
        assert goodbye is not None
        assert f"larger than the limit of {limit}" in goodbye[2]
    assert await is_well(member)
    assert await member.call("echo", b"x" * (3 * 1024 * 1024), timeout=10)


async def test_a_byte_at_a_time(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """A stranger that drips is cut when its time is over; one that never says HELLO, before that."""
    config = ServerConfig(anonymous=RpcConfig(handshake_timeout_s=0.8), anonymous_life_s=1.4)
    server = await lab.server(handlers.router(), config=config)
    visitor = Visitor(lab, joiner_context(pki.root.cert_pem))
    peer = await visitor.to(server, HELLO)
    data = call(1, "open", b"x" * 1000)
    silent = await visitor.to(server)
    began = time.monotonic()
    for byte in data:
        peer.send(bytes([byte]))
        await asyncio.sleep(0.02)
        if time.monotonic() - began > 1.2:
            break
    goodbye = await silent.last()
    assert goodbye is not None
    assert "no HELLO" in goodbye[2]
    goodbye = await peer.last()
    assert goodbye is not None
    assert "lasts 1.4 s" in goodbye[2]


# -- floods -----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_floods_is_slowed_down_alone(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """Of all its connections together so much is read a second; the connections live, and another worker is free."""
    config = ServerConfig(worker_rate=Rate(burst=200 * 1024, per_s=200 * 1024))
    server = await lab.server(handlers.router(), config=config)
    bad = Visitor(lab, pki.credentials("bad", Role.WORKER).client_context())
    good = await lab.dial(server, pki.credentials("good", Role.WORKER))
    peers = [await bad.to(server, HELLO) for _ in range(4)]
    began = time.monotonic()
    for peer in peers:
        peer.send(*(call(number, "echo") for number in range(200)))
    for _ in range(50):
        assert await good.call("echo", 1, timeout=5) == 1
    of_the_good = handlers.calls
    assert of_the_good < 50 + 200 + 200 * (time.monotonic() - began) + 4 * 64
    for peer in peers:
        answers = [await peer.next(Kind.RESULT, Kind.ERROR, timeout=10) for _ in range(200)]
        assert {answer[1] for answer in answers if answer} == set(range(200))
    # 804 frames of at least a kilobyte: the burst, and three seconds.
    assert time.monotonic() - began > 2.5


async def test_what_takes_long_to_read_costs_more(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """A frame of the smallest values there are takes some thousand times as long to read as one of bytes: it is paid
    for, up to a bound."""
    size = 30_000
    server = await lab.server(handlers.router(), config=ServerConfig(worker_rate=Rate(burst=1e9, per_s=0.001)))
    channel = await lab.dial(server, pki.credentials("worker", Role.WORKER))
    pace = server._worker_paces.of("worker", asyncio.get_running_loop().time())
    paid = []
    for payload in (b"x" * size, [{}] * size):
        before = pace.wait_s(0, 2e9)
        assert await channel.call("echo", payload, timeout=10) == payload
        paid.append((pace.wait_s(0, 2e9) - before) * pace._rate.per_s)
    assert size < paid[0] < 1.2 * size
    assert 1.5 * size < paid[1] < 16.2 * size


async def test_a_stranger_sends_few_values(server: RpcServer, member: RpcChannel, stranger: Visitor) -> None:
    """To read thousands of small ones takes long; who has no certificate can do so once in a connection."""
    peer = await stranger.to(
        server, HELLO, call(1, "open", [b""] * 200), call(2, "open", [{}] * 10_000), call(3, "open")
    )
    goodbye = await peer.last()
    assert goodbye is not None
    assert "more than 256 values" in goodbye[2]
    assert await is_well(member)


async def test_who_has_to_pay_waits_on_every_connection(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """What one connection has used up counts before the first frame of another one is read, not after it."""
    server = await lab.server(handlers.router(), config=ServerConfig(worker_rate=Rate(burst=40_000, per_s=1)))
    bad, good = Visitor(lab, pki.credentials("bad", Role.WORKER).client_context()), await lab.dial(server)
    first, second = await bad.to(server, HELLO), await bad.to(server, HELLO)
    for peer in (first, second):
        assert await peer.next(Kind.HELLO) is not None
    first.send(call(1, "echo", b"x" * 100_000))
    await until(lambda: handlers.calls == 1)
    second.send(call(2, "echo", "not now"))
    await second.sent()
    for number in range(1, 30):
        assert await is_well(good)
        assert handlers.calls == 1 + number


async def test_a_worker_has_few_connections(
    lab: Lab, pki: Pki, server: RpcServer, member: RpcChannel, worker: Visitor
) -> None:
    """One more is refused with the reason, while those of others are taken; when one is closed, there is room again."""
    peers = [await worker.to(server, HELLO) for _ in range(16)]
    for peer in peers:
        assert await peer.next(Kind.HELLO) is not None
    with pytest.raises(Unavailable, match="node worker has 16 connections already"):
        await lab.dial(server, pki.credentials("worker", Role.WORKER))
    assert await is_well(member)
    assert await (await lab.dial(server, pki.credentials("other", Role.WORKER))).call("echo", 1, timeout=5) == 1
    peers[0].abort()

    async def is_let_in() -> bool:
        try:
            return bool(
                await (await lab.dial(server, pki.credentials("worker", Role.WORKER))).call("echo", 1, timeout=5)
            )
        except SwarmpyError:
            return False

    async with asyncio.timeout(5):
        while not await is_let_in():
            await asyncio.sleep(0.05)


async def test_costly_methods_are_called_seldom(server: RpcServer, lab: Lab, pki: Pki) -> None:
    """Each worker has its own share of a method that costs much; managers are not counted."""
    bad = await lab.dial(server, pki.credentials("bad", Role.WORKER))
    good = await lab.dial(server, pki.credentials("good", Role.WORKER))
    manager = await lab.dial(server, pki.credentials("m", Role.MANAGER))
    for _ in range(3):
        await bad.call("seldom", None, timeout=5)
    with pytest.raises(Unavailable, match="seldom: node bad asks too often: again in"):
        await bad.call("seldom", None, timeout=5)
    await good.call("seldom", None, timeout=5)
    for _ in range(10):
        await manager.call("seldom", None, timeout=5)


async def test_strangers_share_what_there_is(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """With all places of strangers taken from one address, the next one from there is refused, with the reason."""
    server = await lab.server(handlers.router(), config=ServerConfig(max_anonymous=3))
    member = await lab.dial(server)
    visitor = Visitor(lab, joiner_context(pki.root.cert_pem))
    peers = [await visitor.to(server, HELLO) for _ in range(3)]
    for peer in peers:
        assert await peer.next(Kind.HELLO)
    late = await (await visitor.to(server, HELLO)).last()
    assert late is not None
    assert "too many callers without a certificate" in late[2]
    # 127.0.0.2 has none: it gets the place of the first of the others.
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=joiner_context(pki.root.cert_pem), local_addr=("127.0.0.2", 0)
    )
    other = RawPeer(reader, writer)
    lab.stack.callback(other.abort)
    other.send(HELLO, call(1, "open", "x"))
    assert await other.next(Kind.RESULT) == [Kind.RESULT, 1, "x"]
    goodbye = await peers[0].last()
    assert goodbye is not None
    assert "too many callers" in goodbye[2]
    assert await is_well(member)


async def open_sockets(lab: Lab, server: RpcServer, count: int, host: str = "127.0.0.1") -> list[socket.socket]:
    """Connections on which nothing is said."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        sock = socket.socket()
        lab.stack.callback(sock.close)
        sock.setblocking(False)
        sock.bind((host, 0))
        with contextlib.suppress(ConnectionResetError):  # some are turned away
            await loop.sock_connect(sock, ("127.0.0.1", server.port))
        made.append(sock)
    return made


async def test_handshakes_that_stall_delay_nobody_from_elsewhere(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """With every handshake and every place to wait held by one address, somebody from another gets in at once."""
    limits = EntranceLimits(waiting=20, handshakes=4, handshakes_of_origin=4)
    server = await lab.server(handlers.router(), config=ServerConfig(entrance=limits))
    await open_sockets(lab, server, 60, "127.0.0.9")
    began = time.monotonic()
    member = await lab.dial(server)
    assert await is_well(member)
    assert time.monotonic() - began < 2.0


async def test_churn_is_turned_away_before_it_costs_anything(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """An address that comes and goes loses its welcome; members from elsewhere do not, and the log stays short."""
    limits = EntranceLimits(strangers=Rate(burst=20, per_s=1))
    server = await lab.server(handlers.router(), config=ServerConfig(entrance=limits))
    with capture_logs() as logs:
        for _ in range(10):
            for sock in await open_sockets(lab, server, 30, "127.0.0.9"):
                sock.close()
        members = [await lab.dial(server) for _ in range(30)]
        assert [await is_well(member) for member in members] == [True] * 30
    turned_away = [line for line in logs if line["event"] == "connection_turned_away"]
    assert 1 <= len(turned_away) <= 5
    assert len(logs) < 15


async def test_the_loop_is_not_held_by_those_who_connect(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """While a thousand connections wait to be accepted, calls of a member are answered in between."""
    server = await lab.server(handlers.router())
    member = await lab.dial(server)
    await open_sockets(lab, server, 900)
    answered = [await is_well(member) for _ in range(3)]
    assert answered == [True] * 3
    await until(lambda: server.waiting >= 400)


async def test_who_has_gone_is_not_answered(
    lab: Lab, pki: Pki, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """One that asked too much, has to wait, and goes meanwhile: its answers are dropped, and nobody complains."""
    config = ServerConfig(worker_rate=Rate(burst=20 * 1024, per_s=40 * 1024))
    server = await lab.server(handlers.router(), config=config)
    visitor = Visitor(lab, pki.credentials("worker", Role.WORKER).client_context())
    for _ in range(2):
        slow = [call(number, "slow", number) for number in range(30)]
        peer = await visitor.to(server, HELLO, *slow, call(99, "echo", b"x" * 40_000))
        await peer.sent()
        await asyncio.sleep(0.1)
        peer.abort()
    other = await lab.dial(server)
    async with asyncio.timeout(20):
        while server.connections > 1:
            assert await is_well(other)
            await asyncio.sleep(0.05)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_floods_fill_no_log(server: RpcServer, lab: Lab, pki: Pki, member: RpcChannel, worker: Visitor) -> None:
    """Notifications that are refused, frames that are none, handlers that fail: a few lines of each, and short ones."""
    manager = Visitor(lab, pki.credentials("m2").client_context())
    with capture_logs() as logs:
        peers = [
            await worker.to(server, HELLO, *(encode(Kind.NOTIFY, "note", None) for _ in range(1000)), call(1, "echo")),
            await worker.to(server, HELLO, *(encode(Kind.NOTIFY, "\n" * 9000, 1) for _ in range(100)), call(1, "echo")),
            await manager.to(server, HELLO, *(encode(Kind.NOTIFY, "note", None) for _ in range(1000)), call(1, "echo")),
        ]
        for peer in peers:
            assert await peer.next(Kind.RESULT, timeout=20) == [Kind.RESULT, 1, None]
        for _ in range(10):
            peer = await worker.to(server, HELLO, frame_of(b"\xdb\x00\x0f\x00\x00" + b"\xff" * 0xF0000))
            await peer.last()
            peer.abort()
    by_event: dict[str, int] = {}
    for line in logs:
        by_event[line["event"]] = by_event.get(line["event"], 0) + 1
        assert all(len(str(value)) <= 500 for name, value in line.items() if name != "exc_info"), line
    assert set(by_event) == {"notification_refused", "handler_failed", "connection_failed"}
    assert max(by_event.values()) <= 5


async def test_one_connection_cannot_close_the_port(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """Should taking somebody in fail in a way that nobody thought of, it is told, and the port stays open."""
    server = await lab.server(handlers.router())
    names = iter(["bad"])

    def check(peer: Peer) -> None:
        if peer.node_id == next(names, None):
            raise ZeroDivisionError

    server._router.guard = check
    with capture_logs() as logs:
        with pytest.raises((OutcomeUnknown, Unavailable, BadCertificate)):
            await lab.dial(server, pki.credentials("bad"))
        assert await is_well(await lab.dial(server, pki.credentials("good")))
    assert "connection_failed_unexpectedly" in [line["event"] for line in logs]
