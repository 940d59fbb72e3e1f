"""Bytes that no client in its right mind sends, to a real server: a clean refusal or the end of the connection.

Whatever comes, nobody is answered with an internal error, two requests are never made of what one server and another
would read differently, and the next client is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import serving
from structlog.testing import capture_logs

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
HOST = b"Host: x\r\n"
LINE = b"GET /_ping HTTP/1.1\r\n"
POST = b"POST /services/create HTTP/1.1\r\n" + HOST


class Server:
    """The API of a leader in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with serving(self.path, head_s=1.0, body_s=1.0, idle_s=1.0):
            self._ready.set()
            await self._stop.wait()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def says(self, *pieces: bytes) -> list[int]:
        """The statuses of all answers to these bytes, until it ends the connection."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(self.path))
            received = b""
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    sock.sendall(piece)
            with contextlib.suppress(ConnectionError):
                while piece := sock.recv(65536):
                    received += piece
        return [int(status) for status in STATUS_LINE.findall(received)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of this file, which has logged no defect when they are over."""
    with capture_logs() as logs:
        made = Server(tmp_path_factory.mktemp("hostile") / "s")
        try:
            yield made
            assert made.says(LINE + HOST + b"Connection: close\r\n\r\n") == [200]
        finally:
            made.close()
    assert [line for line in logs if line["event"] == "request_failed"] == []


REFUSED = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunks that are not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "an unknown transfer encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "a plus before the length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length beyond all bounds": POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{}",
    "a length that is too large": POST + b"Content-Length: 99999999999\r\n\r\n{}",
    "a folded header": LINE + HOST + b"A: b\r\n c\r\n\r\n",
    "a folded first header": LINE + b" Host: x\r\n\r\n",
    "a header without a colon": LINE + HOST + b"nonsense\r\n\r\n",
    "a header without a name": LINE + HOST + b": x\r\n\r\n",
    "NUL in a header": LINE + HOST + b"A: b\0c\r\n\r\n",
    "NUL in the path": b"GET /_ping\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the path, escaped": b"GET /services/%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a new line in the path, escaped": b"GET /services/a%0d%0ab HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the query, escaped": b"GET /services?filters=%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path that is not UTF-8": b"GET /services/\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "an absolute URL": b"GET http://evil.example/_ping HTTP/1.1\r\n" + HOST + b"\r\n",
    "a host to connect to": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "no path": b"GET  HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": LINE + b"\r\n",
    "two hosts": LINE + HOST + b"Host: y\r\n\r\n",
    "HTTP/0.9": b"GET /_ping\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET /_ping HTTP/3.7\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("16030100f8010000f40303") + bytes(200),
    "lines without carriage returns": b"GET /_ping HTTP/1.1\nHost: x\n\n",
    "a carriage return of its own": b"GET /_ping HTTP/1.1\rHost: x\r\r",
    "a megabyte of escapes": b"GET /" + b"%41" * 350_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a megabyte of one header": LINE + HOST + b"A: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "a thousand headers": LINE + HOST + b"".join(b"A%d: b\r\n" % n for n in range(1000)) + b"\r\n",
    "a method of a megabyte": b"A" * 1_000_000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    "chunks that are none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk beyond all bounds": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n",
    "an unknown method": b"BREW /_ping HTTP/1.1\r\n" + HOST + b"\r\n",
}
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
WELL_FRAMED = {
    "an encoded body": POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "a chunk extension of a megabyte": CHUNKED + b"2;" + b"a" * 1_000_000 + b"\r\n{}\r\n0\r\n\r\n",
    "JSON that is nested too deep": POST + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000,
}


@pytest.mark.parametrize("name", [*REFUSED, *WELL_FRAMED])
def test_what_is_malformed_is_refused(server: Server, name: str) -> None:
    """With a client's error, or without a word; never with a success or an internal error."""
    statuses = server.says({**REFUSED, **WELL_FRAMED}[name])
    assert all(400 <= status < 500 for status in statuses), statuses


@pytest.mark.parametrize("name", [name for name, data in REFUSED.items() if data.startswith(POST)])
def test_a_body_is_not_taken_for_another_request(server: Server, name: str) -> None:
    """What follows a request whose end is in doubt is not answered: a proxy in front might have read it otherwise."""
    smuggled = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    statuses = server.says(REFUSED[name] + smuggled)
    assert 404 not in statuses, statuses
    assert len(statuses) <= 1, statuses


def test_an_upgrade_is_not_made(server: Server) -> None:
    """To HTTP/2, web sockets or raw TCP: the request is answered as it is, and so is the next one."""
    for kind in (b"h2c", b"websocket", b"tcp"):
        upgrade = LINE + HOST + b"Connection: Upgrade\r\nUpgrade: " + kind + b"\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(server.path))
            for request in (upgrade, LINE + HOST + b"Connection: close\r\n\r\n"):
                sock.sendall(request)
                assert sock.recv(65536).startswith(b"HTTP/1.1 200 "), kind


ATOMS = st.sampled_from(
    [
        b"GET ", b"POST ", b"DELETE ", b"/_ping", b"/services", b"/services/create", b"/v1.41/nodes/x", b"?filters=",
        b"%7B", b"%00", b"%ff", b"%", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: x\r\n", b"Content-Length: 5\r\n",
        b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
        b"Upgrade: tcp\r\n", b"Expect: 100-continue\r\n", b"Content-Type: application/json\r\n", b"Origin: null\r\n",
        b"Idempotency-Key: a\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b":", b" ", b"5\r\nhello\r\n0\r\n\r\n",
        b"hello", b"{}", b"0", b"\xff\xfe", b"\xed\xa0\x80", b"a" * 200,
    ]
)  # fmt: skip
PIECES = st.lists(st.one_of(ATOMS, ATOMS, ATOMS, st.binary(max_size=20)), max_size=30)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=PIECES, split=st.booleans())
def test_any_bytes_at_all(server: Server, pieces: list[bytes], split: bool) -> None:
    """Parts of requests in any order, and noise: the connection ends in bounded time without an internal error."""
    end = b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"
    statuses = server.says(*pieces, end) if split else server.says(b"".join(pieces) + end)
    assert all(status in (200, 201) or 400 <= status < 500 or status == 501 for status in statuses), statuses


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(target=st.text(st.characters(exclude_categories=["Cs"]), max_size=60), escaped=st.binary(max_size=20))
def test_any_path_and_query(server: Server, target: str, escaped: bytes) -> None:
    """Characters of all kinds, escaped or not."""
    escapes = b"".join(b"%%%02x" % byte for byte in escaped)
    for line in (target.encode() + escapes, b"services/" + escapes, b"services?filters=" + escapes + target.encode()):
        statuses = server.says(b"GET /" + line + b" HTTP/1.0\r\n\r\n")
        assert all(status == 200 or 400 <= status < 500 for status in statuses), statuses
