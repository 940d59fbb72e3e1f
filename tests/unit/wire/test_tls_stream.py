"""TLS of connections: what asyncio's own does, which the other end of each test has."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from key_updates import DATA, Caller
from rpc_lab import Pki

from swarmpy.wire.tls_stream import READ_AHEAD_BYTES, UNWANTED_BYTES, TlsStream, accepted, connected

PATIENCE_S = 10


class Above(asyncio.Protocol):
    """Keeps what it is told, and reads what it is told to."""

    def __init__(self) -> None:
        self.stream: TlsStream | None = None
        self.data = bytearray()
        self.log: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.is_full = False
        self.greeting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.log.append("made")
        self.stream = cast("TlsStream", transport)
        if self.greeting:
            self.stream.write(self.greeting)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.log[-1] != "data":
            self.log.append("data")

    def eof_received(self) -> bool:
        self.log.append("eof")
        return False

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.append("lost")
        self.lost.set_result(exc)

    @property
    def made(self) -> TlsStream:
        assert self.stream is not None
        return self.stream


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


class Listener:
    """A port that takes one connection in, as TlsStream's server end."""

    def __init__(self, pki: Pki, above: Above, timeout: float = PATIENCE_S) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self._context = pki.credentials("server").server_context()
        self._above, self._timeout = above, timeout
        self.port: int = self._listening.getsockname()[1]

    async def take(self) -> None:
        sock, _ = await asyncio.get_running_loop().sock_accept(self._listening)
        self._listening.close()
        await accepted(sock, self._above, self._context, timeout=self._timeout)


@asynccontextmanager
async def met(pki: Pki) -> AsyncIterator[tuple[Above, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TlsStream that serves, and a caller with asyncio's TLS."""
    above = Above()
    listener = Listener(pki, above)
    taking = asyncio.create_task(listener.take())
    context = pki.credentials("client").client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=context)
    try:
        await taking
        yield above, reader, writer
    finally:
        above.made.abort()
        writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            await above.lost


async def test_much_goes_both_ways_in_order(pki: Pki) -> None:
    """Megabytes in pieces of any size, at the same time in both directions."""
    sent = random.Random(1).randbytes(4_000_000)
    async with met(pki) as (above, reader, writer):

        async def write(put: Callable[[bytes], None]) -> None:
            rng, start = random.Random(2), 0
            while start < len(sent):
                size = rng.choice((1, 100, 16_384, 16_385, 300_000))
                put(sent[start : start + size])
                start += size
                await asyncio.sleep(0)
                while above.is_full or writer.transport.get_write_buffer_size() > 100_000:
                    await asyncio.sleep(0.001)

        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(write(above.made.write))
            group.create_task(write(writer.write))
            read = group.create_task(reader.readexactly(len(sent)))
        await until(lambda: len(above.data) == len(sent))
        assert hashlib.sha256(read.result()).digest() == hashlib.sha256(sent).digest()
        assert hashlib.sha256(above.data).digest() == hashlib.sha256(sent).digest()


async def test_the_ends_of_this_kind_understand_each_other(pki: Pki) -> None:
    """What the client says as soon as it may comes with the end of its handshake."""
    server, client = Above(), Above()
    client.greeting = b"hello"
    listener = Listener(pki, server)
    taking = asyncio.create_task(listener.take())
    context = pki.credentials("client").client_context()
    await connected("127.0.0.1", listener.port, client, context, source="127.0.0.7")
    await taking
    await until(lambda: bytes(server.data) == b"hello")
    assert server.made.get_extra_info("peername")[0] == "127.0.0.7"
    assert server.made.get_extra_info("ssl_object").version() == "TLSv1.3"
    server.made.write(b"bye")
    server.made.close()
    async with asyncio.timeout(PATIENCE_S):
        assert await client.lost is None
        assert await server.lost is None
    assert (client.log, bytes(client.data)) == (["made", "data", "eof", "lost"], b"bye")
    assert server.log == ["made", "data", "lost"]
    client.made.write(b"too late")
    client.made.close()
    client.made.abort()


async def test_who_does_not_read_takes_in_little(pki: Pki) -> None:
    """What waits is bounded, and comes in order, with the end of the connection last."""
    sent = random.Random(3).randbytes(20_000_000)
    async with met(pki) as (above, _, writer):
        above.made.pause_reading()
        writer.write(sent)
        before = -1
        async with asyncio.timeout(PATIENCE_S):
            while (left := writer.transport.get_write_buffer_size()) != before or left > len(sent) - 10_000:
                before = left
                await asyncio.sleep(0.1)
        assert len(above.made._records) <= READ_AHEAD_BYTES + 2 * 256 * 1024
        assert not above.data
        writer.close()
        above.made.resume_reading()
        async with asyncio.timeout(PATIENCE_S):
            assert await above.lost is None
        assert above.data == sent
        assert above.log == ["made", "data", "eof", "lost"]


async def test_new_keys_are_taken(pki: Pki, tmp_path: Path) -> None:
    """A peer may change its keys now and then; whatever it says before and after is understood."""
    above = Above()
    listener = Listener(pki, above)
    taking = asyncio.create_task(listener.take())
    caller = await Caller.connect(
        listener.port, pki.credentials("client").client_context(), tmp_path / "keys", behind=2
    )
    await taking
    for number in range(10):
        caller.writer.write(caller.keys.record(DATA, b"%d" % number) + caller.keys.updated())
    await until(lambda: bytes(above.data) == b"0123456789")
    caller.writer.transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        await above.lost


@pytest.mark.parametrize("when", ["behind the handshake", "later", "while nothing is read", "while it closes"])
async def test_records_without_data_end_it(pki: Pki, tmp_path: Path, when: str) -> None:
    """Thousands of changes of keys: a few are looked at, and then the connection is cut. OpenSSL would deal with all of
    them before it lets anybody else run."""
    many = 5000
    above = Above()
    listener = Listener(pki, above)
    taking = asyncio.create_task(listener.take())
    context = pki.credentials("client").client_context()
    behind = many if when == "behind the handshake" else 0
    caller = await Caller.connect(listener.port, context, tmp_path / "keys", behind=behind)
    await taking
    flood = b"".join(caller.keys.updated() for _ in range(many - behind))
    if when == "while nothing is read":
        above.made.pause_reading()
        caller.writer.write(flood)
        await until(lambda: len(above.made._records) >= READ_AHEAD_BYTES)
        above.made.resume_reading()
    elif when == "while it closes":
        above.made.close()
        caller.writer.write(flood)
    else:
        caller.writer.write(flood)
    async with asyncio.timeout(PATIENCE_S):
        error = await above.lost
    assert above.made.get_write_buffer_size() < 16 * 1024
    assert not above.data
    if when != "while it closes":
        assert isinstance(error, ConnectionAbortedError)
        assert len(above.made._records) > 10_000
    caller.writer.transport.abort()


async def test_the_end_is_told_when_it_is_read(pki: Pki) -> None:
    """A peer that has gone while nothing was read of it: first what it said, then that it has gone."""
    async with met(pki) as (above, _, writer):
        above.made.pause_reading()
        writer.write(b"last words")
        await until(lambda: len(above.made._records) > 0)
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        await until(lambda: above.made._is_at_end)
        assert above.log == ["made"]
        above.made.resume_reading()
        async with asyncio.timeout(PATIENCE_S):
            await above.lost
        assert above.log == ["made", "data", "eof", "lost"]
        assert bytes(above.data) == b"last words"


async def test_what_was_written_arrives_before_the_end(pki: Pki) -> None:
    """Closing loses nothing, though the buffers are full and the peer still sends."""
    sent = random.Random(4).randbytes(5_000_000)
    async with met(pki) as (above, reader, writer):
        writer.write(b"x" * 1000)
        above.made.set_write_buffer_limits(high=100_000)
        above.made.write(sent)
        assert above.is_full
        above.made.close()
        assert above.made.is_closing()
        writer.write(b"y" * 1000)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read(-1) == sent
            await above.lost


async def test_who_goes_on_sending_is_cut(pki: Pki) -> None:
    """While this end closes it takes in what was on its way, but not for ever."""
    above = Above()
    listener = Listener(pki, above)
    taking = asyncio.create_task(listener.take())
    context = pki.credentials("client").client_context()
    closed = threading.Event()

    def send_without_end() -> None:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", listener.port))) as caller:
            caller.settimeout(PATIENCE_S)
            closed.wait(PATIENCE_S)
            while True:
                caller.sendall(b"z" * 10_000)

    sending = asyncio.get_running_loop().run_in_executor(None, send_without_end)
    await taking
    above.made.close()
    closed.set()
    with pytest.raises((ConnectionError, ssl.SSLEOFError)):
        await sending
    async with asyncio.timeout(PATIENCE_S):
        await above.lost
    assert above.made._unwanted_bytes > UNWANTED_BYTES
    assert above.log == ["made", "lost"]


async def test_what_is_changed_on_the_way_ends_it(pki: Pki) -> None:
    """A record that was tampered with, or noise between records, is no data, and the reason is told once."""
    async with met(pki) as (above, _, writer):
        cast("Any", writer.transport)._ssl_protocol._transport.write(bytes.fromhex("1703030020") + bytes(32))
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(await above.lost, ssl.SSLError)
        assert above.log == ["made", "lost"]
        assert above.made.is_closing()


@pytest.mark.parametrize("what", ["nothing", "noise", "end", "half"])
async def test_a_handshake_that_fails_is_told_to_who_waits_only(pki: Pki, what: str) -> None:
    """The protocol above hears nothing of it."""
    above = Above()
    listener = Listener(pki, above, timeout=0.2 if what in ("nothing", "half") else PATIENCE_S)
    taking = asyncio.create_task(listener.take())
    with socket.create_connection(("127.0.0.1", listener.port)) as caller:
        if what == "noise":
            caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
        elif what == "half":
            caller.sendall(bytes.fromhex("160301"))
        elif what == "end":
            caller.shutdown(socket.SHUT_WR)
        expected = {"noise": ssl.SSLError, "end": ConnectionResetError}.get(what, ConnectionAbortedError)
        with pytest.raises(expected):
            await asyncio.wait_for(taking, PATIENCE_S)
        caller.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            while caller.recv(1000):
                pass
    assert above.log == []


async def test_a_handshake_is_given_up(pki: Pki) -> None:
    """Who waits for it and is cancelled leaves no connection behind."""
    above = Above()
    listener = Listener(pki, above)
    taking = asyncio.create_task(listener.take())
    with socket.create_connection(("127.0.0.1", listener.port)) as caller:
        caller.settimeout(PATIENCE_S)
        await asyncio.sleep(0.05)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.get_running_loop().run_in_executor(None, caller.recv, 1) == b""
    assert above.log == []


async def test_nobody_need_be_left_to_hear_of_a_failure(pki: Pki) -> None:
    """Who connects may be cancelled between TCP and TLS; the log has no line of asyncio's for it then."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    stream = TlsStream(Above(), pki.credentials("server").server_context(), server_side=True)
    stream.connection_lost(ConnectionResetError())
    await asyncio.sleep(0)
    del stream
    gc.collect()
    assert complaints == []
