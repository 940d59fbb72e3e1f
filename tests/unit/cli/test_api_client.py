"""The API client against real sockets: what goes wrong, and what it is called."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli import client as client_module
from swarmpy.cli.answers import error_of
from swarmpy.cli.client import ApiClient
from swarmpy.errors import (
    AlreadyExists,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    NotInCluster,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolViolation,
    RuntimeUnavailable,
    SwarmpyError,
    Unavailable,
    VersionConflict,
)


@pytest.mark.parametrize(
    ("status", "message", "code", "kind"),
    [
        (400, "bad", "", InvalidArgument),
        (403, "no", "", PermissionDenied),
        (404, "service x not found", "", NotFound),
        (409, "taken", "", AlreadyExists),
        (500, "rpc error: code = Unknown desc = update out of sequence", "", VersionConflict),
        (500, "broken", "", SwarmpyError),
        (503, "no leader", "", Unavailable),
        (503, "This node is not a swarm manager", "not_in_cluster", NotInCluster),
        (503, "no engine", "runtime_unavailable", RuntimeUnavailable),
        (418, "", "", SwarmpyError),
    ],
)
def test_answers_are_errors(status: int, message: str, code: str, kind: type[SwarmpyError]) -> None:
    """Each answer is the error that the daemon raised; the message is one line and never empty."""
    error = error_of(status, message + "\n", code)
    assert type(error) is kind
    assert str(error) == (message or "the daemon answered with status 418")


async def test_no_daemon(tmp_path: Path) -> None:
    """Without a daemon the message tells how to get one."""
    with pytest.raises(ConnectionFailed) as caught:
        await ApiClient(tmp_path / "none.sock").get("/info")
    assert str(caught.value) == (
        f'cannot reach the swarmpy daemon at {tmp_path}/none.sock: start it with "swarmpy node run" or create a '
        'cluster with "swarmpy swarm init"'
    )


@contextlib.asynccontextmanager
async def answer(socket: Path, raw: bytes) -> AsyncIterator[None]:
    """A server that gives the same answer to everybody, and none when ``raw`` is empty."""
    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        await reader.readuntil(b"\r\n\r\n")
        if raw:
            writer.write(raw)
        else:
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(handle, str(socket))
    try:
        yield
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*handlers), 10)


def http(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("raw", "result"),
    [
        (http(b'{"a": 1}\n'), {"a": 1}),
        (http(b"OK", "text/plain"), "OK"),
        (http(b""), None),
        (http(b"null"), None),
    ],
)
async def test_answers(tmp_path: Path, raw: bytes, result: Any) -> None:
    """JSON is data, text is text, and nothing is None."""
    async with answer(tmp_path / "s", raw):
        assert await ApiClient(tmp_path / "s").get("/x") == result


async def test_answers_that_are_none(tmp_path: Path) -> None:
    """What is no JSON, or JSON of another shape, is the daemon's fault and said to be."""
    async with answer(tmp_path / "a", http(b"<html>")):
        with pytest.raises(ProtocolViolation, match="no JSON"):
            await ApiClient(tmp_path / "a").info()
    async with answer(tmp_path / "b", http(b"{}")):
        with pytest.raises(ProtocolViolation, match="no list"):
            await ApiClient(tmp_path / "b").nodes()
    async with answer(tmp_path / "c", http(b"[]")):
        with pytest.raises(ProtocolViolation, match="no object"):
            await ApiClient(tmp_path / "c").info()
    async with answer(tmp_path / "d", http(b"broken", "text/plain", "500 Oops")):
        with pytest.raises(SwarmpyError, match=r"^broken$"):
            await ApiClient(tmp_path / "d").info()


async def test_silence_is_bounded(tmp_path: Path) -> None:
    """A daemon that does not answer is given up; of a write nobody knows whether it was done."""
    async with answer(tmp_path / "s", b""):
        client = ApiClient(tmp_path / "s", timeout=0.05)
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.05 s"):
            await client.get("/x")
        with pytest.raises(OutcomeUnknown, match="look whether the change was made"):
            await client.post("/x", {})


async def test_a_broken_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks again and again is an error of its own for reads and for writes."""
    monkeypatch.setattr(client_module, "REPEAT_PAUSES_S", (0.0, 0.0))
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
    async with answer(tmp_path / "s", half), ApiClient(tmp_path / "s") as client:
        with pytest.raises(ConnectionFailed, match="broke"):
            await client.get("/x")
        with pytest.raises(OutcomeUnknown, match="broke"):
            await client.delete("/x")


async def test_a_write_whose_connection_breaks_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same key is sent until there is an answer; a write of the node itself is sent once, without one."""
    monkeypatch.setattr(client_module, "REPEAT_PAUSES_S", (0.0, 0.0))
    answers = [b"", http(b"{}", status="503 Not Yet"), http(b'{"ID": "made"}'), b""]
    keys: list[str | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        keys.append(next((line for line in head.split("\r\n") if line.startswith("Idempotency-Key: ")), None))
        writer.write(answers[len(keys) - 1])
        writer.close()

    server = await asyncio.start_unix_server(handle, str(tmp_path / "s"))
    client = ApiClient(tmp_path / "s")
    assert await client.create_service({}) == "made"
    with pytest.raises(OutcomeUnknown, match="broke"):
        await client.post("/swarm/leave")
    server.close()
    assert keys[0] is not None
    assert keys == [keys[0]] * 3 + [None]
