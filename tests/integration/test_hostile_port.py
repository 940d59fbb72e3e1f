"""A daemon's cluster port and those who have no business there: each meets a clean end, and the daemon goes on.

Which method is open to whom is stated here once more, apart from the table that the daemon goes by.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_asyncio
from fortress import HOUR_NS, Fortress, another_cluster, standing
from structlog.testing import capture_logs

from swarmpy.errors import NodeRemoved, PermissionDenied, SwarmpyError
from swarmpy.manager.operations import remove_node
from swarmpy.model import codec
from swarmpy.model.assignments import SessionRequest
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import NodeDescription, NodeStatus
from swarmpy.model.states import NodeState, Role
from swarmpy.ports import Peer
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.tls import Credentials
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.frames import OLDEST_VERSION, PROTOCOL_VERSION, Decoder, Kind, encode
from swarmpy.wire.router import MethodKind

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = encode(Kind.HELLO, PROTOCOL_VERSION, OLDEST_VERSION)
PATIENCE_S = 15.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fortress(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fortress]:
    """One daemon for all tests: what one of them does to it, the next would notice."""
    directory: Path = tmp_path_factory.mktemp("fortress")
    async with standing(directory) as fortress:
        yield fortress


# -- who may call what ------------------------------------------------------------------------------------------------

ANYBODY, MEMBERS, MANAGERS = {None, Role.WORKER, Role.MANAGER}, {Role.WORKER, Role.MANAGER}, {Role.MANAGER}
OPEN_TO: dict[str, set[Role | None]] = {
    "api.request": MANAGERS,
    "ca.confirm": MEMBERS,
    "ca.join": ANYBODY,
    "ca.rejoin": ANYBODY,
    "ca.renew": MEMBERS,
    "ca.root": ANYBODY,
    "cluster.incarnation": MANAGERS,
    "dispatcher.dependencies": MEMBERS,
    "dispatcher.heartbeat": MEMBERS,
    "dispatcher.log": MEMBERS,
    "dispatcher.report": MEMBERS,
    "dispatcher.session": MEMBERS,
    "logs.close": MANAGERS,
    "logs.more": MANAGERS,
    "logs.open": MANAGERS,
    "raft.introduce": MANAGERS,
    "raft.join": MANAGERS,
    "raft.leave": MEMBERS,
    "raft.messages": MANAGERS,
    "raft.schema": MANAGERS,
    "raft.status": MANAGERS,
}
"""Every method of a daemon. One that is new has to be put down here, with those whom it is meant for."""
ACTS_WITHOUT_A_PAYLOAD = {"raft.leave"}
JUNK: list[Any] = [
    None,
    True,
    7,
    -(2**63),
    2**64 - 1,
    1.5,
    float("inf"),
    "",
    "x" * 100_000,
    b"\xff" * 1000,
    [],
    [None] * 1000,
    {},
    {"": {}},
    {"raft_id": 2**63, "address": "a:1"},
    {"raft_id": True, "address": "a:1"},
    {"raft_id": 1, "address": 7},
    {"incarnation": "later", "address": []},
    {"csr_pem": 10**12},
    {"csr_pem": b"\x00" * 100_000},
    {"session_id": ["x"], "updates": 7, "problems": {"a": 1}},
    {"session_id": "x", "updates": [], "endpoints_version": float("nan")},
    {"session_id": "x", "task_id": "../../etc", "secrets": ["x"] * 1000, "configs": [b"x"]},
    {"session_id": "x", "id": "x", "task_id": "x", "lines": b"\xff" * 100, "number": -1, "ended": "yes"},
    {"options": {"tail": -7}, "service_id": 7, "after": {"a": "b"}},
    {"description": {"hostname": "\x1b[2J", "resources": {"nano_cpus": -1}}, "address": "\x00"},
    {"description": {}, "address": "0.0.0.0"},
    {"token": "x", "csr_pem": b"", "availability": "x" * 1000},
    {"method": "GET", "path": "\x00/../..", "query": {"a": 1}, "headers": [], "body": "x"},
    [[1, 1, 1]],
    [[99, {}], [{}], [[[]]]],
]


class Callers:
    """A connection of each role, kept for the next test."""

    def __init__(self, fortress: Fortress) -> None:
        self._fortress = fortress
        self._channels: dict[Role | None, RpcChannel] = {}

    async def of(self, role: Role | None) -> RpcChannel:
        """One that is open."""
        channel = self._channels.get(role)
        if channel is None or not channel.is_open:
            channel = self._channels[role] = await self._fortress.dial(identity_of(self._fortress, role))
        return channel

    async def close(self) -> None:
        """Close them all."""
        for channel in self._channels.values():
            await channel.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def callers(fortress: Fortress) -> AsyncIterator[Callers]:
    """Somebody of each role."""
    callers = Callers(fortress)
    yield callers
    await callers.close()


def identity_of(fortress: Fortress, role: Role | None) -> NodeIdentity | None:
    """A certificate of that role; None: none at all."""
    return {None: None, Role.WORKER: fortress.worker, Role.MANAGER: fortress.own}[role]


async def ask(channel: RpcChannel, kind: MethodKind, method: str, payload: Any) -> SwarmpyError | None:
    """The error of one request, whatever kind it is; None when it is answered (or takes no answer)."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            if kind is MethodKind.STREAM:
                await anext(channel.stream(method, payload))
            elif kind is MethodKind.CALL:
                await channel.call(method, payload, timeout=PATIENCE_S)
            else:
                assert channel.notify(method, payload)
                await channel.call("ca.root", None, timeout=PATIENCE_S)  # it has been dealt with by then
    except SwarmpyError as error:
        return error
    return None


async def test_every_method_is_stated(fortress: Fortress) -> None:
    """The daemon serves these and no others."""
    assert {route.method for route in fortress.router.table()} == set(OPEN_TO)


@pytest.mark.parametrize("role", [None, Role.WORKER, Role.MANAGER], ids=lambda role: role or "nobody")
@pytest.mark.parametrize("method", sorted(OPEN_TO))
async def test_a_method_is_open_to_whom_it_should_be(
    fortress: Fortress, callers: Callers, method: str, role: Role | None
) -> None:
    """Over a real connection with a real certificate, as each kind of request."""
    kinds = {route.method: route.kind for route in fortress.router.table()}
    channel, before = await callers.of(role), fortress.manager.store.version
    # A payload that means nothing, so that nothing is done.
    for kind in (MethodKind.CALL, MethodKind.STREAM):
        error = await ask(channel, kind, method, {"\x00": 0})
        if kind is not kinds[method]:
            assert error is not None
            assert error.code == "not_found"
        elif role not in OPEN_TO[method]:
            assert type(error) is PermissionDenied
            assert "is not open to" in error.message
        else:
            assert error is None or "is not open to" not in error.message
    if kinds[method] is MethodKind.NOTIFY:
        # It has no answer; what the router says of it is told in the log, if there is room.
        peer = Peer(node_id=NodeId("x"), role=role, cluster_id=fortress.cluster.id)
        refusal = pytest.raises(PermissionDenied, match="is not open to")
        with contextlib.nullcontext() if role in OPEN_TO[method] else refusal:
            fortress.router.dispatch_notify(peer, method, [])
    if role not in OPEN_TO[method]:
        assert fortress.manager.store.version == before


async def test_a_worker_is_told_no_by_every_way_in(fortress: Fortress) -> None:
    """Of the methods of managers a worker sees a refusal each, and nothing is stored of what it sent."""
    channel, before = await fortress.dial(fortress.worker), fortress.manager.store.version
    try:
        for route in fortress.router.table():
            if Role.WORKER in OPEN_TO[route.method] or route.kind is MethodKind.NOTIFY:
                continue
            for payload in (None, {"raft_id": 7, "address": "10.0.0.1:2377"}, []):
                error = await ask(channel, route.kind, route.method, payload)
                assert isinstance(error, PermissionDenied), route.method
                assert error.message == f"{route.method} is not open to a worker"
    finally:
        await channel.close()
    assert fortress.manager.store.version == before


@pytest.mark.parametrize("role", [None, Role.WORKER, Role.MANAGER], ids=lambda role: role or "nobody")
async def test_junk_is_refused_by_type_and_changes_nothing(fortress: Fortress, role: Role | None) -> None:
    """Every method with every kind of payload, by everybody: never a defect, never a change."""
    before, nodes = fortress.manager.store.version, len(fortress.manager.store.view().nodes())
    channel = await fortress.dial(identity_of(fortress, role))
    with capture_logs() as logs:
        for route in fortress.router.table():
            if route.method in ACTS_WITHOUT_A_PAYLOAD:
                continue
            for payload in JUNK:
                error = await ask(channel, route.kind, route.method, payload)
                assert error is None or error.code != "internal", (route.method, payload)
                assert error is None or len(error.message) < 1000
                if not channel.is_open:
                    channel = await fortress.dial(identity_of(fortress, role))
    await channel.close()
    assert not [line for line in logs if line["event"] in ("handler_failed", "connection_failed_unexpectedly")]
    assert len(fortress.manager.store.view().nodes()) == nodes
    assert fortress.manager.store.version == before
    assert fortress.manager.is_leader
    assert await fortress.is_well()


def told(logs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was written down of callers: not that the machine which daemon and callers share stood still."""
    return [line for line in logs if not line["event"].endswith("_stood_still")]


# -- certificates that are none ---------------------------------------------------------------------------------------


async def end_of(fortress: Fortress, context: ssl.SSLContext) -> tuple[list[Any] | None, str]:
    """The GOODBYE, if there is one, and how the connection ends, of somebody who connects and asks."""
    host, _, port = fortress.address.rpartition(":")
    decoder, last = Decoder(), None
    async with asyncio.timeout(PATIENCE_S):
        try:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        except ssl.SSLError as error:
            return None, error.reason or ""
        except ConnectionError:
            return None, "closed"
        try:
            writer.write(HELLO + encode(Kind.CALL, 1, "raft.schema", None))
            while data := await reader.read(65536):
                decoder.add(data)
                while (frame := decoder.next()) is not None:
                    last = frame
                    if frame[0] in (Kind.RESULT, Kind.ERROR):
                        return frame, "answered"
            return last, "closed"
        except ssl.SSLError as error:
            return last, error.reason or ""
        except ConnectionError:
            return last, "closed"
        finally:
            writer.transport.abort()


def with_files(fortress: Fortress, tmp_path: Path, cert_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """A context that shows any certificate."""
    context = fortress.context(None)
    (tmp_path / "cert").write_bytes(cert_pem)
    (tmp_path / "key").write_bytes(key_pem)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    return context


def trusting(fortress: Fortress, identity: NodeIdentity) -> ssl.SSLContext:
    """What a node of ``identity`` connects with, when it trusts the cluster whatever its own CA is."""
    context = Credentials(identity).client_context()
    context.load_verify_locations(cadata=fortress.cluster.root_ca.cert_pem.decode())
    return context


@pytest.mark.parametrize(
    "case",
    [
        "another cluster of the same names",
        "expired",
        "not yet valid",
        "signed by a worker as if it were a CA",
        "signed by a manager as if it were a CA",
        "signed by nobody",
        "the root itself",
    ],
)
async def test_a_certificate_that_is_none_opens_nothing(fortress: Fortress, tmp_path: Path, case: str) -> None:
    """It is refused in the handshake: not a word of the protocol is spoken, and nothing is asked of anybody."""
    node_id = fortress.worker.node_id
    root = fortress.cluster.root_ca
    match case:
        case "another cluster of the same names":
            other = another_cluster()
            context = trusting(fortress, fortress.issued(node_id, Role.MANAGER, root=other))
        case "expired":
            context = trusting(fortress, fortress.issued(node_id, Role.MANAGER, ago_ns=3 * HOUR_NS))
        case "not yet valid":
            context = trusting(fortress, fortress.issued(node_id, Role.MANAGER, ago_ns=-3 * HOUR_NS))
        case "signed by a worker as if it were a CA":
            context = with_files(fortress, tmp_path, *fortress.signed_by(fortress.worker))
        case "signed by a manager as if it were a CA":
            context = with_files(fortress, tmp_path, *fortress.signed_by(fortress.own))
        case "signed by nobody":
            alone = another_cluster()
            context = with_files(fortress, tmp_path, alone.cert_pem, alone.key_pem)
        case _:
            context = with_files(fortress, tmp_path, root.cert_pem, root.key_pem)
    with capture_logs() as logs:
        frame, end = await end_of(fortress, context)
    assert (frame, end != "answered") == (None, True)
    assert len(told(logs)) <= 1
    assert await fortress.is_well()


# -- TLS that is none -------------------------------------------------------------------------------------------------


async def test_only_tls_1_3_is_spoken(fortress: Fortress) -> None:
    """Whoever speaks no newer version gets nowhere, with a certificate or without."""
    for identity in (None, fortress.worker):
        context = fortress.context(identity)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        frame, end = await end_of(fortress, context)
        assert (frame, end != "answered") == (None, True)
    assert await fortress.is_well()


@pytest.mark.parametrize("protocols", [["h2", "http/1.1"], ["swarmpy/1"], ["x" * 200]], ids=["web", "own", "junk"])
async def test_protocols_are_not_negotiated(fortress: Fortress, protocols: list[str]) -> None:
    """Whatever protocols are offered, none is chosen, and this port speaks the only one it knows."""
    context = fortress.context(fortress.own)
    context.set_alpn_protocols(protocols)
    host, _, port = fortress.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
    writer.transport.abort()
    assert (await end_of(fortress, context))[1] == "answered"


async def test_nothing_is_resumed(fortress: Fortress) -> None:
    """No connection can be made with what an earlier one left: every one shows its certificate anew."""
    host, _, port = fortress.address.rpartition(":")

    def twice() -> list[tuple[bool | None, bool]]:
        context, session, found = fortress.context(fortress.own), None, []
        for _ in range(2):
            with (
                socket.create_connection((host, int(port)), timeout=PATIENCE_S) as sock,
                context.wrap_socket(sock, session=session) as secure,
            ):
                secure.sendall(HELLO)
                assert secure.recv(100)
                session = secure.session
                found.append((secure.session_reused, session is not None and session.has_ticket))
        return found

    assert await asyncio.to_thread(twice) == [(False, False)] * 2


WORDS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80" + b"\x11" * 40,
    "SSLv3": b"\x16\x03\x00\x00\x2d\x01\x00\x00\x29\x03\x00" + b"\x22" * 39,
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x00\x10" + b"\x00" * 16,
    "a heartbeat": b"\x18\x03\x03\x00\x03\x01\x40\x00",
    "a record too large": b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
    "a hello of 16 MB": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"\x03" * 16_380,
    "a frame": HELLO,
    "zeros": b"\x00" * 100_000,
    "noise": bytes(range(256)) * 400,
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
async def test_what_is_no_tls_ends_at_once(fortress: Fortress, words: bytes) -> None:
    """At most an alert comes back, within a moment, and at most a line is written."""
    host, _, port = fortress.address.rpartition(":")
    with capture_logs() as logs:
        reader, writer = await asyncio.open_connection(host, int(port))
        began, answer = time.monotonic(), b""
        with contextlib.suppress(ConnectionError):
            writer.write(words)
            answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.transport.abort()
    assert time.monotonic() - began < 3
    assert len(answer) <= 7
    assert answer[:1] in (b"", b"\x15")
    assert len(told(logs)) <= 1
    assert await fortress.is_well()


async def test_who_stalls_is_cut(fortress: Fortress) -> None:
    """Nothing said, half a hello, a byte now and then, a hello and no more: each is over in some seconds."""
    host, _, port = fortress.address.rpartition(":")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = fortress.context(fortress.own).wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()

    async def stall(words: bytes, drip_s: float) -> float:
        reader, writer = await asyncio.open_connection(host, int(port))
        began = time.monotonic()
        reading = asyncio.create_task(reader.read())
        for place in range(len(words)):
            writer.write(words[place : place + 1])
            if drip_s and not reading.done():
                await asyncio.wait({reading}, timeout=drip_s)
        await asyncio.wait({reading}, timeout=PATIENCE_S)
        assert reading.done()
        reading.exception()
        writer.transport.abort()
        return time.monotonic() - began

    async with asyncio.timeout(2 * PATIENCE_S):
        took = await asyncio.gather(
            stall(b"", 0), stall(hello[: len(hello) // 2], 0), stall(hello[:5], 0), stall(hello, 0), stall(hello, 0.1)
        )
        assert await fortress.is_well()
    assert max(took) < 10


# -- nodes that were removed ------------------------------------------------------------------------------------------


async def test_a_removed_node_is_out(fortress: Fortress) -> None:
    """Its open connection ends with the reason, streams and all, and it cannot come back with its certificate."""
    gone = await fortress.join()
    channel = await fortress.dial(gone)
    request = SessionRequest(description=NodeDescription(hostname="gone"), address="127.0.0.1")
    stream = channel.stream("dispatcher.session", codec.to_plain(request))
    assert await asyncio.wait_for(anext(stream), PATIENCE_S)

    def down(tx: Any) -> None:
        node = tx.node(gone.node_id)
        tx.update(attrs.evolve(node, status=NodeStatus(state=NodeState.DOWN)))

    await fortress.manager.store.update(down)
    await remove_node(fortress.manager.store, gone.node_id, force=True)

    async def read_to_the_end() -> None:
        with contextlib.suppress(SwarmpyError):
            async for _ in stream:
                pass

    await asyncio.wait_for(read_to_the_end(), PATIENCE_S)
    await asyncio.wait_for(channel.wait_closed(), PATIENCE_S)
    assert channel.error is not None
    assert "removed from the cluster" in channel.error.message
    with pytest.raises(NodeRemoved):
        await fortress.dial(gone)
    assert await fortress.is_well()


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_many_refused_are_a_few_lines(fortress: Fortress) -> None:
    """Whoever comes again and again with a wrong certificate, or with words, fills no disk."""
    bad = trusting(fortress, fortress.issued("x" * 25, Role.MANAGER, root=another_cluster()))
    host, _, port = fortress.address.rpartition(":")
    with capture_logs() as logs:
        for number in range(60):
            if number % 2:
                await end_of(fortress, bad)
            else:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(WORDS["HTTP"])
                writer.close()
    assert len(told(logs)) <= 10
    assert await fortress.is_well()
