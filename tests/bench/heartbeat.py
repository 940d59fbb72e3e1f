"""What one heartbeat costs both ends, apart: the message, TLS, and the rest of the way."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any

from swarmpy.model import codec
from swarmpy.model.assignments import Heartbeat, HeartbeatReply
from swarmpy.model.ids import NodeId, encode_id
from swarmpy.model.objects import RootCA
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.tls import Credentials
from swarmpy.wire.frames import LENGTH_BYTES, Kind, decode_body, encode
from swarmpy.wire.router import MEMBERS, Router
from swarmpy.wire.rpc import RpcDialer, RpcServer
from swarmpy.wire.tls_stream import TlsStream, connected

METHOD = "dispatcher.heartbeat"
CLUSTER = "bench"
REPEATS = 5


async def heartbeat_cost(rounds: int) -> dict[str, Any]:
    """Microseconds of processor time of both ends together, for one heartbeat and its answer.

    ``tls`` is what a message and an answer of their size cost more over TLS than over TCP, with nothing but asyncio's
    transports around them. Each is the least of several series of so many ``rounds``: what others do only adds to it.
    """
    root = create_root_ca(time.time_ns())
    server, client = credentials_of(root), credentials_of(root)
    whole = await _least(lambda: _calls(server, client, rounds))
    tls = await _least(lambda: _echoes(server.server_context(), client.client_context(), rounds))
    tcp = await _least(lambda: _echoes(None, None, rounds))
    message = min(_messages(rounds) for _ in range(REPEATS))
    return {
        "whole_us": round(whole, 1),
        "tls_us": round(tls - tcp, 1),
        "msgpack_us": round(message, 1),
        "rest_us": round(whole - (tls - tcp) - message, 1),
    }


async def _least(series: Callable[[], Awaitable[float]]) -> float:
    return min([await series() for _ in range(REPEATS)])


def credentials_of(root: RootCA) -> Credentials:
    """Those of another manager."""
    key_pem, csr_pem = new_key_and_csr()
    node_id = NodeId(encode_id(random.randbytes(16)))
    now_ns, expiry_ns = time.time_ns(), 24 * 3600 * 10**9
    cert_pem = issue(
        root, csr_pem, node_id=node_id, role=Role.MANAGER, cluster_id=CLUSTER, expiry_ns=expiry_ns, now_ns=now_ns
    )
    return Credentials(NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=root.cert_pem))


def _beat() -> Heartbeat:
    return Heartbeat(session_id=encode_id(random.randbytes(16)), endpoints_version=7)


# -- the message ----------------------------------------------------------------------------------------------------


def _messages(rounds: int) -> float:
    """A heartbeat and its answer made, encoded, decoded and checked."""
    beat = _beat()
    began = time.process_time()
    for number in range(rounds):
        request = decode_body(encode(Kind.CALL, number, METHOD, codec.to_plain(beat))[LENGTH_BYTES:])
        codec.from_plain(Heartbeat, request[3])
        reply = HeartbeatReply(period_ns=1_000_000_000 + number)
        answer = decode_body(encode(Kind.RESULT, number, codec.to_plain(reply))[LENGTH_BYTES:])
        codec.from_plain(HeartbeatReply, answer[2])
    return (time.process_time() - began) / rounds * 1e6


# -- all of it ------------------------------------------------------------------------------------------------------


async def _calls(ours: Credentials, theirs: Credentials, rounds: int) -> float:
    router = Router()

    async def answer(_peer: Peer, payload: Any) -> Any:
        codec.from_plain(Heartbeat, payload)
        return codec.to_plain(HeartbeatReply(period_ns=1_000_000_000))

    router.call(METHOD, answer, MEMBERS)
    server = RpcServer(router, ours, host="127.0.0.1", port=0)
    await server.start()
    try:
        channel = await RpcDialer(theirs.client_context, CLUSTER).dial(server.address, timeout=5)
        beat = _beat()
        began = time.process_time()
        for _ in range(rounds):
            reply = await channel.call(METHOD, codec.to_plain(beat), timeout=5)
            codec.from_plain(HeartbeatReply, reply)
        used = time.process_time() - began
        await channel.close()
    finally:
        await server.stop()
    return used / rounds * 1e6


# -- TLS ------------------------------------------------------------------------------------------------------------


class _Answering(asyncio.Protocol):
    """Answers each message, which comes in one piece on loopback, with ``answer``."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        # As connections do: what is written in one turn of the loop goes out together.
        asyncio.get_running_loop().call_soon(self._transport.write, self._answer)


class _Asking(asyncio.Protocol):
    """Sends ``message`` again whenever it is answered, so many times."""

    def __init__(self, message: bytes, times: int) -> None:
        self._message = message
        self._left = times
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._message)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._left -= 1
        if self._left > 0:
            asyncio.get_running_loop().call_soon(self._transport.write, self._message)
        elif not self.done.done():
            self.done.set_result(None)


async def _echoes(server: ssl.SSLContext | None, client: ssl.SSLContext | None, rounds: int) -> float:
    loop = asyncio.get_running_loop()
    message = encode(Kind.CALL, rounds, METHOD, codec.to_plain(_beat()))
    answer = encode(Kind.RESULT, rounds, codec.to_plain(HeartbeatReply(period_ns=1_000_000_000)))

    def answering() -> asyncio.Protocol:
        above = _Answering(answer)
        return above if server is None else TlsStream(above, server, server_side=True)

    listening = await loop.create_server(answering, "127.0.0.1", 0)
    port, asking = listening.sockets[0].getsockname()[1], _Asking(message, rounds)
    if client is None:
        await loop.create_connection(lambda: asking, "127.0.0.1", port)
    else:
        await connected("127.0.0.1", port, asking, client, source="")
    began = time.process_time()
    await asking.done
    used = time.process_time() - began
    asking.abort()
    listening.close()
    await listening.wait_closed()
    return used / rounds * 1e6
