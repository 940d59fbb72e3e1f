"""Calls, streams and notifications over real TLS connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from rpc_lab import Lab, Pki

from swarmpy.errors import (
    BadCertificate,
    CertificateRevoked,
    ConnectionFailed,
    FailedPrecondition,
    InvalidArgument,
    NodeRemoved,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    SwarmpyError,
    Unavailable,
)
from swarmpy.model.rates import Rate
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.tls import _facts_of, joiner_context, unverified_context
from swarmpy.wire.connection import RpcConfig
from swarmpy.wire.entrance import EntranceLimits
from swarmpy.wire.frames import Kind, encode
from swarmpy.wire.router import MANAGERS, MEMBERS, Router, Standing
from swarmpy.wire.rpc import RpcDialer, RpcServer, parse_address
from swarmpy.wire.serving import ServerConfig

DAY_NS = 24 * 3600 * 1_000_000_000


class Standings(dict[str, Standing]):
    """What a manager thinks of the nodes; all others are good."""

    def __call__(self, peer: Peer) -> Standing:
        return self.get(str(peer.node_id), Standing.GOOD)


GIVEN_UP = ((Kind.CALL, 1, "hang"), (Kind.STREAM, 2, "ticks"))


class Handlers:
    """The methods of the server under test, and what happened in them."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.notified: asyncio.Queue[Any] = asyncio.Queue()

    async def echo(self, peer: Peer, payload: Any) -> Any:
        return {"from": peer.node_id, "payload": payload}

    async def fail(self, peer: Peer, payload: Any) -> Any:
        match payload:
            case "user":
                raise FailedPrecondition("the node is drained")
            case "leader":
                raise NotLeader("ask the leader", leader="10.0.0.1:2377")
            case _:
                raise RuntimeError("secret inside")

    async def hang(self, peer: Peer, payload: Any) -> Any:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def count(self, peer: Peer, payload: Any) -> AsyncIterator[Any]:
        for number in range(payload):
            yield number

    async def ticks(self, peer: Peer, payload: Any) -> AsyncIterator[Any]:
        self.started.set()
        try:
            yield "first"
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()

    async def broken_count(self, peer: Peer, payload: Any) -> AsyncIterator[Any]:
        yield 1
        raise NotFound("no such service")

    def note(self, peer: Peer, payload: Any) -> None:
        self.notified.put_nowait(payload)

    async def large(self, peer: Peer, payload: Any) -> Any:
        return b"x" * payload

    def router(self, **options: Any) -> Router:
        router = Router(**options)
        for name in ("echo", "fail", "hang", "large"):
            router.call(name, getattr(self, name), MEMBERS)
        for name in ("count", "ticks", "broken_count"):
            router.stream(name, getattr(self, name), MEMBERS)
        router.notify("note", self.note, MANAGERS)
        router.call("manager.only", self.echo, MANAGERS)
        router.call("open", self.echo, None)
        router.call("open.hang", self.hang, None)
        return router


@pytest.fixture
async def handlers() -> Handlers:
    """Fresh handlers."""
    return Handlers()


@pytest.fixture
async def server(lab: Lab, handlers: Handlers) -> RpcServer:
    """A server with the handlers."""
    return await lab.server(handlers.router())


@attrs.frozen
class Tls:
    """The serving end of TLS that does only what it is told."""

    end: ssl.SSLObject
    outgoing: ssl.MemoryBIO


async def handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> Tls:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = context.wrap_bio(incoming, outgoing, server_side=True)
    while True:
        try:
            end.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))
    writer.write(outgoing.read())
    return Tls(end, outgoing)


async def soon(waiting: Any, seconds: float = 5) -> Any:
    """The result, within a deadline."""
    async with asyncio.timeout(seconds):
        return await waiting


# -- calls ------------------------------------------------------------------------------------------------------------


async def test_call_carries_payload_and_identity(lab: Lab, server: RpcServer) -> None:
    """A call reaches the handler with the caller's identity, and its answer comes back."""
    channel = await lab.dial(server)
    payload = {"a": [1, 2.5, None, True, b"\x00\xff", "é"]}
    assert await channel.call("echo", payload, timeout=5) == {"from": "client", "payload": payload}
    assert channel.peer.node_id == "server"
    assert channel.peer.role is Role.MANAGER


async def test_many_calls_share_a_connection(lab: Lab, server: RpcServer) -> None:
    """Concurrent calls each get their own answer."""
    channel = await lab.dial(server)
    answers = await asyncio.gather(*(channel.call("echo", n, timeout=5) for n in range(500)))
    assert [answer["payload"] for answer in answers] == list(range(500))


async def test_typed_errors_travel(lab: Lab, server: RpcServer) -> None:
    """The caller gets the very error that the handler raised."""
    channel = await lab.dial(server)
    with pytest.raises(FailedPrecondition, match="the node is drained"):
        await channel.call("fail", "user", timeout=5)
    with pytest.raises(NotLeader) as caught:
        await channel.call("fail", "leader", timeout=5)
    assert caught.value.leader == "10.0.0.1:2377"


async def test_unexpected_error_shows_nothing(lab: Lab, server: RpcServer) -> None:
    """A defect of a handler is told as an internal error, and the connection lives on."""
    channel = await lab.dial(server)
    with pytest.raises(SwarmpyError) as caught:
        await channel.call("fail", "bug", timeout=5)
    assert caught.value.message == "internal error"
    assert (await channel.call("echo", 1, timeout=5))["payload"] == 1


async def test_unknown_method_is_not_found(lab: Lab, server: RpcServer) -> None:
    """A method that is not routed is NotFound, as is a call of a stream."""
    channel = await lab.dial(server)
    for method in ("nothing", "count"):
        with pytest.raises(NotFound, match=method):
            await channel.call(method, None, timeout=5)


async def test_timeout_is_outcome_unknown_and_cancels_handler(lab: Lab, server: RpcServer, handlers: Handlers) -> None:
    """A call out of time raises OutcomeUnknown, and its handler is cancelled."""
    channel = await lab.dial(server)
    with pytest.raises(OutcomeUnknown, match="no answer within"):
        await channel.call("hang", None, timeout=0.1)
    await soon(handlers.cancelled.wait())


async def test_peer_killed_during_call_is_outcome_unknown(lab: Lab, server: RpcServer, handlers: Handlers) -> None:
    """A connection that breaks between request and answer leaves the outcome unknown; later calls surely fail."""
    channel = await lab.dial(server)
    call = asyncio.create_task(channel.call("hang", None, timeout=30))
    await soon(handlers.started.wait())
    await server.stop()
    with pytest.raises(OutcomeUnknown):
        await soon(call)
    assert handlers.cancelled.is_set()
    with pytest.raises(ConnectionFailed):
        await channel.call("echo", 1, timeout=5)
    assert not channel.notify("note", 1)


async def test_requests_are_bounded(lab: Lab, handlers: Handlers) -> None:
    """One request more than allowed at once is refused; the others are not disturbed."""
    server = await lab.server(handlers.router(), config=ServerConfig(rpc=RpcConfig(max_requests=3)))
    channel = await lab.dial(server)
    waiting = [asyncio.create_task(channel.call("hang", None, timeout=30)) for _ in range(3)]
    await soon(handlers.started.wait())
    with pytest.raises(Unavailable, match="in progress"):
        await channel.call("echo", 1, timeout=5)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert (await channel.call("echo", 2, timeout=5))["payload"] == 2


async def test_oversize_request_is_refused_here(lab: Lab, server: RpcServer) -> None:
    """A request above the frame limit is refused before it is sent; the connection lives on."""
    channel = await lab.dial(server)
    with pytest.raises(InvalidArgument, match="larger than the limit"):
        await channel.call("echo", b"x" * (4 * 1024 * 1024), timeout=5)
    assert (await channel.call("echo", b"y" * (3 * 1024 * 1024), timeout=5))["payload"][:1] == b"y"


async def test_oversize_answer_is_an_error(lab: Lab, server: RpcServer) -> None:
    """An answer above the frame limit becomes an error for its caller alone."""
    channel = await lab.dial(server)
    with pytest.raises(FailedPrecondition, match="larger than the limit"):
        await channel.call("large", 5 * 1024 * 1024, timeout=5)
    assert len(await channel.call("large", 1000, timeout=5)) == 1000


# -- streams and notifications ----------------------------------------------------------------------------------------


async def test_stream_in_order_to_its_end(lab: Lab, server: RpcServer) -> None:
    """A stream delivers every answer in order and ends."""
    channel = await lab.dial(server)
    assert [item async for item in channel.stream("count", 1000)] == list(range(1000))


async def test_stream_error_comes_after_its_items(lab: Lab, server: RpcServer) -> None:
    """The error that ends a stream is raised after the answers before it."""
    channel = await lab.dial(server)
    stream = channel.stream("broken_count", None)
    assert await soon(anext(stream)) == 1
    with pytest.raises(NotFound, match="no such service"):
        await soon(anext(stream))
    with pytest.raises(StopAsyncIteration):
        await soon(anext(stream))


async def test_closing_a_stream_cancels_its_handler(lab: Lab, server: RpcServer, handlers: Handlers) -> None:
    """aclose on the client side ends the generator on the server."""
    channel = await lab.dial(server)
    stream = channel.stream("ticks", None)
    assert await soon(anext(stream)) == "first"
    await stream.aclose()
    await soon(handlers.cancelled.wait())
    await stream.aclose()


async def test_slow_reader_loses_its_stream_only(lab: Lab, server: RpcServer) -> None:
    """A stream whose reader falls behind ends with an error; the connection lives on."""
    channel = await lab.dial(server, config=RpcConfig(stream_queue=10))
    stream = channel.stream("count", 100_000)
    assert (await channel.call("echo", 1, timeout=5))["payload"] == 1
    items: list[Any] = []

    async def read_slowly() -> None:
        async for item in stream:
            items.append(item)
            await asyncio.sleep(0)

    with pytest.raises(Unavailable, match="unread"):
        await soon(read_slowly())
    assert items == list(range(len(items)))
    assert (await channel.call("echo", 2, timeout=5))["payload"] == 2


async def test_lost_connection_ends_streams(lab: Lab, server: RpcServer, handlers: Handlers) -> None:
    """Streams of a lost connection raise; new ones raise at their first step."""
    channel = await lab.dial(server)
    stream = channel.stream("ticks", None)
    assert await soon(anext(stream)) == "first"
    await server.stop()
    with pytest.raises(OutcomeUnknown):
        await soon(anext(stream))
    with pytest.raises(ConnectionFailed):
        await soon(anext(channel.stream("ticks", None)))


async def test_notifications_keep_their_order(lab: Lab, server: RpcServer, handlers: Handlers) -> None:
    """Notifications arrive in order."""
    channel = await lab.dial(server)
    for number in range(100):
        assert channel.notify("note", number)
    assert [await soon(handlers.notified.get()) for _ in range(100)] == list(range(100))


async def test_notifications_are_dropped_above_the_bound(lab: Lab, server: RpcServer) -> None:
    """Notifications beyond the write buffer are dropped and say so."""
    channel = await lab.dial(server, config=RpcConfig(write_buffer_bytes=100_000))
    results = [channel.notify("note", b"x" * 10_000) for _ in range(50)]
    assert results[0] is True
    assert results[-1] is False
    assert (await channel.call("echo", 1, timeout=5))["payload"] == 1
    assert channel.notify("note", "again")


# -- identity ---------------------------------------------------------------------------------------------------------


async def test_worker_may_not_call_manager_method(lab: Lab, pki: Pki, server: RpcServer) -> None:
    """A worker's certificate opens a worker's calls only."""
    channel = await lab.dial(server, pki.credentials("worker", Role.WORKER))
    assert (await channel.call("echo", 1, timeout=5))["from"] == "worker"
    with pytest.raises(PermissionDenied, match="is not open to a worker"):
        await channel.call("manager.only", None, timeout=5)


async def test_joiner_may_call_only_what_is_open(lab: Lab, pki: Pki, server: RpcServer) -> None:
    """A caller without a certificate is anonymous and gets nothing that is not open to anybody."""
    channel = await lab.keep(RpcDialer(joiner_context(pki.root.cert_pem)).dial(server.address, timeout=5))
    assert (await channel.call("open", 1, timeout=5))["from"] is None
    for method in ("echo", "manager.only"):
        with pytest.raises(PermissionDenied, match="without a certificate"):
            await channel.call(method, None, timeout=5)


async def test_unverified_dialler_learns_no_identity(lab: Lab, server: RpcServer) -> None:
    """Without verification the peer is anonymous, whatever its certificate says."""
    channel = await lab.keep(RpcDialer(unverified_context()).dial(server.address, timeout=5))
    assert channel.peer.is_anonymous
    assert channel.peer.node_id is None


async def test_other_ca_is_refused_by_the_client(lab: Lab, other_pki: Pki, server: RpcServer) -> None:
    """A client does not talk to a server of another CA."""
    dialer = RpcDialer(other_pki.credentials("client").client_context, "cluster-b")
    with pytest.raises(BadCertificate, match="not of this cluster"):
        await dialer.dial(server.address, timeout=5)


async def test_other_ca_is_refused_by_the_server(lab: Lab, other_pki: Pki, pki: Pki, server: RpcServer) -> None:
    """A server does not talk to a client of another CA, and the client's error names the certificate."""
    context = other_pki.credentials("client").client_context()
    context.load_verify_locations(cadata=pki.root.cert_pem.decode())
    with pytest.raises(ConnectionFailed, match="does not accept this node's certificate"):
        await RpcDialer(context, "cluster-a").dial(server.address, timeout=5)


async def test_other_cluster_of_the_same_ca_is_refused(lab: Lab, pki: Pki, server: RpcServer) -> None:
    """The cluster id in the certificate counts, on both sides."""
    stranger = pki.credentials("client", cluster_id="cluster-x")
    with pytest.raises(BadCertificate, match="belongs to cluster cluster-x"):
        await lab.dial(server, stranger)
    with pytest.raises(BadCertificate, match="belongs to cluster cluster-a"):
        await RpcDialer(stranger.client_context, "cluster-x").dial(server.address, timeout=5)


async def test_expired_certificate_is_refused(lab: Lab, pki: Pki, server: RpcServer) -> None:
    """A certificate that has expired opens nothing."""
    with pytest.raises(ConnectionFailed, match="expired"):
        await lab.dial(server, pki.credentials("client", ago_ns=2 * DAY_NS))


async def test_a_worker_that_listens_is_no_manager(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """A member's server with a worker's certificate is refused before anything is sent to it."""
    server = await lab.server(handlers.router(), credentials=pki.credentials("bad", Role.WORKER))
    with pytest.raises(BadCertificate, match="is not a manager"):
        await lab.dial(server)


async def test_expected_node_is_checked(lab: Lab, server: RpcServer) -> None:
    """Dialling an address where another node answers raises BadCertificate."""
    with pytest.raises(BadCertificate, match="is node server, not n2"):
        await lab.dialer().dial(server.address, timeout=5, expect="n2")  # type: ignore[arg-type]


async def test_removed_node_is_cut_off(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """A node removed while connected loses its streams; it cannot connect again."""
    standings = Standings()
    server = await lab.server(
        handlers.router(standing=standings),
        config=ServerConfig(rpc=RpcConfig(ping_interval_s=0.1)),
    )
    channel = await lab.dial(server)
    stream = channel.stream("ticks", None)
    assert await soon(anext(stream)) == "first"
    standings["client"] = Standing.REMOVED
    with pytest.raises(PermissionDenied, match="removed from the cluster"):
        await channel.call("echo", 1, timeout=5)
    with pytest.raises(OutcomeUnknown, match="removed from the cluster"):
        await soon(anext(stream))
    with pytest.raises(PermissionDenied, match="removed from the cluster"):
        await lab.dial(server)


async def test_a_revoked_certificate_loses_what_it_had_open(lab: Lab, handlers: Handlers) -> None:
    """At once: nothing more comes out of a stream, not even before the next tick, which closes the connection."""
    standings, news = Standings(), asyncio.Event()

    async def items(peer: Peer, payload: Any) -> AsyncIterator[Any]:
        yield "before"
        await news.wait()
        yield "after"

    router = handlers.router(standing=standings)
    router.stream("items", items, MEMBERS)
    server = await lab.server(router)
    channel = await lab.dial(server)
    stream = channel.stream("items", None)
    assert await soon(anext(stream)) == "before"
    standings["client"] = Standing.REVOKED
    news.set()
    with pytest.raises(CertificateRevoked):
        await soon(anext(stream))
    with pytest.raises(CertificateRevoked):
        await channel.call("manager.only", 1, timeout=5)
    await soon(channel.wait_closed())


async def test_a_revoked_certificate_is_good_for_another_one_only(lab: Lab, handlers: Handlers) -> None:
    """It may connect for that, as briefly as somebody without a certificate; a notification ends the connection."""
    standings = Standings(client=Standing.REVOKED)
    router = handlers.router(standing=standings)
    router.call("renew", handlers.echo, MEMBERS, even_revoked=True)
    config = ServerConfig(rpc=RpcConfig(ping_interval_s=0.1), anonymous_life_s=1.0)
    server = await lab.server(router, config=config)
    channel = await lab.dial(server)
    with pytest.raises(CertificateRevoked):
        await channel.call("manager.only", 1, timeout=5)
    assert (await channel.call("renew", 1, timeout=5))["from"] == "client"
    await soon(channel.wait_closed())
    channel = await lab.dial(server)
    channel.notify("note", 1)
    with pytest.raises(OutcomeUnknown, match="was revoked"):
        await channel.call("renew", 1, timeout=5)
    assert handlers.notified.empty()


async def test_a_certificate_that_was_read_before_is_judged_anew(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """What it says is remembered, but not whether it counts: by its root, by what was revoked, by who was removed."""
    standings = Standings()
    router = handlers.router(standing=standings)
    server = await lab.server(router)
    credentials = pki.credentials("seen")
    assert (await (await lab.dial(server, credentials)).call("echo", 1, timeout=5))["from"] == "seen"
    read = _facts_of.cache_info()
    standings["seen"] = Standing.REVOKED
    channel = await lab.dial(server, credentials)
    with pytest.raises(CertificateRevoked):
        await channel.call("echo", 1, timeout=5)
    standings["seen"] = Standing.REMOVED
    with pytest.raises(NodeRemoved):
        await lab.dial(server, credentials)
    standings["seen"] = Standing.GOOD

    def refuse(peer: Peer) -> None:
        if peer.node_id == "seen":
            raise BadCertificate("its root CA was replaced")

    router.guard = refuse
    with pytest.raises(BadCertificate, match="was replaced"):
        await lab.dial(server, credentials)
    after = _facts_of.cache_info()
    assert after.misses == read.misses
    assert after.hits >= read.hits + 3


async def test_a_certificate_that_was_read_before_runs_out(lab: Lab, pki: Pki, server: RpcServer) -> None:
    """Its dates are looked at in each handshake."""
    # Valid for an hour after its day, and two seconds of that hour are left.
    credentials = pki.credentials("short", ago_ns=DAY_NS + 3600 * 10**9 - 2 * 10**9)
    channel = await lab.dial(server, credentials)
    assert (await channel.call("echo", 1, timeout=5))["from"] == "short"

    async def dial_without_end() -> None:
        while True:
            await lab.dial(server, credentials)
            await asyncio.sleep(0.1)

    with pytest.raises(ConnectionFailed, match="does not accept this node's certificate"):
        await soon(dial_without_end(), 10)


async def test_a_node_that_is_removed_as_it_connects_ends_nothing_else(lab: Lab, handlers: Handlers) -> None:
    """Its connection is refused; the server goes on for the others."""
    standings = Standings(bad=Standing.REMOVED)
    server = await lab.server(handlers.router(standing=standings))
    member = await lab.dial(server)
    with pytest.raises(NodeRemoved):
        await lab.dial(server, lab.pki.credentials("bad"))
    assert (await member.call("echo", 1, timeout=5))["payload"] == 1


async def test_renewed_credentials_are_shown_from_then_on(lab: Lab, pki: Pki, server: RpcServer) -> None:
    """After a replacement new connections carry the new certificate; the old connection goes on."""
    credentials = pki.credentials("client", Role.WORKER)
    dialer = lab.dialer(credentials)
    old = await lab.keep(dialer.dial(server.address, timeout=5))
    credentials.replace(pki.credentials("client", Role.MANAGER).identity)
    new = await lab.keep(dialer.dial(server.address, timeout=5))
    assert (await new.call("manager.only", 1, timeout=5))["from"] == "client"
    with pytest.raises(PermissionDenied):
        await old.call("manager.only", 1, timeout=5)


async def test_anonymous_callers_are_few_and_short(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """Callers without a certificate are bounded in number and in time; members are not affected."""
    config = ServerConfig(max_anonymous=1, anonymous_life_s=1.0)
    server = await lab.server(handlers.router(), config=config)
    dialer = RpcDialer(joiner_context(pki.root.cert_pem))
    first = await lab.keep(dialer.dial(server.address, timeout=5))
    with pytest.raises(Unavailable, match="too many callers"):
        await dialer.dial(server.address, timeout=5)
    member = await lab.dial(server)
    with pytest.raises(OutcomeUnknown, match="without a certificate"):
        await first.call("open.hang", None, timeout=5)
    assert (await member.call("echo", 1, timeout=5))["payload"] == 1


async def test_who_is_expected_is_no_stranger(lab: Lab, pki: Pki) -> None:
    """An answer to a method that vouches for its caller gives back what its coming has cost; a refusal does not."""

    async def join(_peer: Peer, payload: Any) -> Any:
        if payload != "right":
            raise PermissionDenied("wrong")
        return "welcome"

    router = Router()
    router.call("join", join, None, vouches=True)
    entrance = EntranceLimits(strangers=Rate(burst=1, per_s=0.001))
    server = await lab.server(router, config=ServerConfig(entrance=entrance))
    dialer = RpcDialer(joiner_context(pki.root.cert_pem))
    for _ in range(3):
        channel = await lab.keep(dialer.dial(server.address, timeout=5))
        assert await channel.call("join", "right", timeout=5) == "welcome"
    channel = await lab.keep(dialer.dial(server.address, timeout=5))
    with pytest.raises(PermissionDenied):
        await channel.call("join", "false", timeout=5)
    with pytest.raises(ConnectionFailed):
        await dialer.dial(server.address, timeout=5)


# -- bad peers --------------------------------------------------------------------------------------------------------


async def test_plaintext_is_refused(lab: Lab, server: RpcServer) -> None:
    """Plain HTTP on the cluster port is cut off, and the server goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await soon(reader.read())
    writer.close()
    assert (await (await lab.dial(server)).call("echo", 1, timeout=5))["payload"] == 1


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\xff" * 64, "larger than the limit"),
        ((5).to_bytes(4, "big") + b"\xc1\xc1\xc1\xc1\xc1", "malformed"),
        ((1).to_bytes(4, "big") + b"\x01", "not an array"),
        (encode(Kind.CALL, 1, "echo", None), "not HELLO"),
        (encode(Kind.HELLO, 9, 8), "versions 8 to 9"),
        (encode(Kind.HELLO, 1, 1) + encode(Kind.RESULT, 1, None), "unexpected RESULT"),
        (encode(Kind.HELLO, 1, 1) + encode(Kind.STREAM, 1, "ticks", 0) * 2, "in progress already"),
    ],
)
async def test_garbage_ends_the_connection_with_a_reason(
    lab: Lab, pki: Pki, server: RpcServer, sent: bytes, reason: str
) -> None:
    """What the protocol does not allow gets one clear line and the end of the connection; the server goes on."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=pki.credentials("client").client_context()
    )
    writer.write(sent)
    answer = await soon(reader.read())
    writer.close()
    await writer.wait_closed()
    assert reason.encode() in answer
    assert (await (await lab.dial(server)).call("echo", 1, timeout=5))["payload"] == 1


async def test_newer_server_is_refused_with_a_clear_line(lab: Lab, pki: Pki) -> None:
    """A server that does not speak our version any more yields a line that says what to do."""

    async def newer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Kind.HELLO, 7, 7))
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(newer, "127.0.0.1", 0, ssl=pki.credentials("server").server_context())
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(SwarmpyError, match="protocol versions 7 to 7 offered, 1 to 1 spoken here: upgrade"):
            await lab.dialer().dial(f"127.0.0.1:{port}", timeout=5)


async def test_silent_peer_is_noticed_by_the_client(lab: Lab, pki: Pki) -> None:
    """A server that stops talking without closing is given up after the configured time."""
    hello = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Kind.HELLO, 1, 1))
        hello.set()
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0, ssl=pki.credentials("server").server_context())
    async with listener:
        address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        config = RpcConfig(ping_interval_s=0.1, dead_after_s=0.4)
        channel = await lab.keep(lab.dialer(config=config).dial(address, timeout=5))
        with pytest.raises(OutcomeUnknown, match=r"nothing heard for 0\.4 s"):
            await channel.call("echo", 1, timeout=30)


async def test_silent_client_is_noticed_by_the_server(lab: Lab, pki: Pki, handlers: Handlers) -> None:
    """A client that stops talking loses its connection, and its handlers end."""
    config = ServerConfig(rpc=RpcConfig(ping_interval_s=0.1, dead_after_s=0.4))
    server = await lab.server(handlers.router(), config=config)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=pki.credentials("client").client_context()
    )
    writer.write(encode(Kind.HELLO, 1, 1) + encode(Kind.STREAM, 1, "ticks", None))
    await soon(handlers.cancelled.wait())
    writer.close()
    await soon(reader.read())


async def test_call_that_is_given_up_before_it_begins(
    lab: Lab, pki: Pki, server: RpcServer, handlers: Handlers
) -> None:
    """A call and its end that arrive together: it never begins, and nothing is left that nobody awaits."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=pki.credentials("client").client_context())
    given_up = [encode(kind, number, method, None) + encode(Kind.CANCEL, number) for kind, number, method in GIVEN_UP]
    writer.write(encode(Kind.HELLO, 1, 1) + b"".join(given_up) + encode(Kind.NOTIFY, "note", "after"))
    assert await soon(handlers.notified.get()) == "after"
    assert not handlers.started.is_set()
    writer.transport.abort()


async def test_peer_that_has_closed_is_written_to_no_more(lab: Lab, pki: Pki) -> None:
    """It says that it closes, and takes nothing any more: the connection ends, though what was sent is stuck."""
    greeted, stuck, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = await handshake(reader, writer, pki.credentials("server").server_context())
        tls.end.write(encode(Kind.HELLO, 1, 1))
        writer.write(tls.outgoing.read())
        greeted.set()
        await stuck.wait()
        with contextlib.suppress(ssl.SSLError):
            tls.end.unwrap()  # says that it closes; the rest of what the other side sent is never read
        farewell = tls.outgoing.read()
        assert farewell
        writer.write(farewell)
        await over.wait()
        writer.transport.abort()

    listener = await asyncio.start_server(closing, "127.0.0.1", 0, limit=1024)
    async with listener:
        address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        config = RpcConfig(write_buffer_bytes=64 << 20, max_frame_bytes=64 << 20)
        channel = await lab.keep(lab.dialer(config=config).dial(address, timeout=5))
        await soon(greeted.wait())
        call = asyncio.create_task(channel.call("echo", b"x" * (32 << 20), timeout=60))
        await asyncio.sleep(0)
        stuck.set()
        await soon(channel.wait_closed())
        with pytest.raises(OutcomeUnknown):
            await call
        over.set()


async def test_idle_connection_is_kept(lab: Lab, handlers: Handlers) -> None:
    """Pings keep a connection with no traffic open."""
    config = RpcConfig(ping_interval_s=0.1, dead_after_s=0.4)
    server = await lab.server(handlers.router(), config=ServerConfig(rpc=config))
    channel = await lab.dial(server, config=config)
    with pytest.raises(TimeoutError):
        await soon(channel.wait_closed(), 1.2)
    assert (await channel.call("echo", 1, timeout=5))["payload"] == 1


async def test_nobody_listens(lab: Lab, server: RpcServer) -> None:
    """Dialling a closed port is ConnectionFailed; an address that is none is InvalidArgument."""
    await server.stop()
    with pytest.raises(ConnectionFailed, match="cannot connect to"):
        await lab.dialer().dial(server.address, timeout=5)
    with pytest.raises(InvalidArgument, match="is not host:port"):
        await lab.dialer().dial("nonsense", timeout=5)


async def test_mute_listener_times_out(lab: Lab) -> None:
    """A peer that accepts and says nothing costs no more than the timeout."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionFailed, match="does not answer within"):
            await lab.dialer().dial(f"127.0.0.1:{port}", timeout=0.2)


async def test_taken_port_is_a_clear_line(lab: Lab, server: RpcServer, pki: Pki) -> None:
    """A port that is in use is told as such."""
    second = RpcServer(Router(), pki.credentials("x"), host="127.0.0.1", port=server.port)
    with pytest.raises(InvalidArgument, match=r"cannot listen on 127\.0\.0\.1:\d+: address already in use"):
        await second.start()


@pytest.mark.parametrize(
    ("text", "expected"), [("h:1", ("h", 1)), ("[::1]:2377", ("::1", 2377)), ("10.0.0.1:65535", ("10.0.0.1", 65535))]
)
def test_addresses_are_parsed(text: str, expected: tuple[str, int]) -> None:
    """host:port and [host]:port are understood."""
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "h", ":1", "h:", "h:0", "h:65536", "h:x", "::1:2377", "h:²", "h:" + "1" * 5000),
        *("h\x00:1", "h h:1", "x" * 64 + ":1", "x." * 200 + "x:1"),
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    """Anything else is InvalidArgument."""
    with pytest.raises(InvalidArgument):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["a..b:1", "ä..b:1", ".:1", "-:1", "[::1%x]:1", "[1:2:3]:1", "%s:1", "*:1", "999.999.999.999:1"]
)
async def test_an_address_of_nobody_is_nobodys(lab: Lab, text: str) -> None:
    """Whatever a resolver makes of it: nobody answers there, and that is all."""
    with pytest.raises(ConnectionFailed):
        await lab.dialer().dial(text, timeout=5)
