"""What becomes of connections that come at a bad moment, or that bring a defect to light."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from raw_client import GET, Raw
from structlog.testing import capture_logs

from swarmpy.api import http_server
from swarmpy.api.callers import NOBODY
from swarmpy.api.connection import Visitor
from swarmpy.api.http_server import Answer, HttpRequest, HttpServer
from swarmpy.api.request import ApiResponse, StreamedResponse


async def answer(_request: HttpRequest) -> ApiResponse:
    """Of nothing."""
    return ApiResponse()


async def serving(path: Path, answer: Answer = answer) -> HttpServer:
    """A server on a unix socket."""
    server = HttpServer(answer, "1", lambda _: Visitor(admit=lambda: NOBODY))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    await server.start(listening)
    return server


@pytest.mark.parametrize("turns", range(6))
async def test_connections_that_come_at_the_end(tmp_path: Path, turns: int) -> None:
    """However far they are when the server is closed: they end, and nothing is left that fails."""
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    server = await serving(tmp_path / "sock")
    comers = [await Raw.open(tmp_path / "sock") for _ in range(20)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await server.close()
    for comer in comers:
        assert await comer.rest() == b""
        comer.close()
    await asyncio.sleep(0)
    assert failed == []


async def test_a_defect_costs_one_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the next one is served."""
    server = await serving(tmp_path / "sock")
    make, defects = server._listener._make, ["one"]  # type: ignore[union-attr]

    def fail_once(*arguments: object) -> object:
        if defects:
            raise KeyError(defects.pop())
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(server._listener, "_make", fail_once)
    with capture_logs() as logged:
        first = await Raw.open(tmp_path / "sock")
        assert await first.rest() == b""
    first.close()
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["connection_failed_unexpectedly"]
    second = await Raw.open(tmp_path / "sock")
    await second.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (await second.rest()).startswith(b"HTTP/1.1 200 ")
    second.close()
    await server.close()


class Held:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def answer(self, _request: HttpRequest) -> ApiResponse:
        """Of nothing, in the end."""
        self.asked.set()
        await self.go.wait()
        return ApiResponse()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the HTTP server took for a defect."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_is_being_answered_as_the_server_is_closed_comes_to_its_end(tmp_path: Path) -> None:
    """And no more after it: the connection is ended, though its client would go on."""
    held = Held()
    server = await serving(tmp_path / "sock", held.answer)
    with await Raw.open(tmp_path / "sock") as client:
        await client.send(GET)
        await held.asked.wait()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        await client.send(GET)
        held.go.set()
        assert (await client.rest()).count(b"HTTP/1.1 200 ") == 1
        await closing


async def test_an_answer_that_is_ready_when_it_is_waited_for_no_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same moment, as on a machine that stood still until both were due: that is no defect."""
    monkeypatch.setattr(http_server, "CLOSE_TIMEOUT_S", 0.05)
    held = Held()
    server = await serving(tmp_path / "sock", held.answer)
    with await Raw.open(tmp_path / "sock") as client:
        await client.send(GET)
        await held.asked.wait()
        asyncio.get_running_loop().call_later(0.05, held.go.set)
        closing = asyncio.create_task(server.close())
        for _ in range(5):
            await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - the loop stands still, as it would with the process
        await closing
        await client.rest()
    assert errors(caplog) == []


async def test_a_closing_that_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Just when what it waited for is ready: that is no defect, either, and the server can be closed again."""
    held = Held()
    server = await serving(tmp_path / "sock", held.answer)
    with await Raw.open(tmp_path / "sock") as client:
        await client.send(GET)
        await held.asked.wait()
        closing = asyncio.create_task(server.close())
        for _ in range(5):
            await asyncio.sleep(0)
        held.go.set()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await server.close()
        await client.answer()
    assert errors(caplog) == []


async def test_an_answer_without_an_end_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes it hears of it, before the server is closed; its client sees that it is not whole."""
    monkeypatch.setattr(http_server, "CLOSE_TIMEOUT_S", 0.1)
    ended: list[str] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("made no more")

    async def answer(_request: HttpRequest) -> ApiResponse:
        return StreamedResponse(chunks=chunks())

    server = await serving(tmp_path / "sock", answer)
    with await Raw.open(tmp_path / "sock") as client:
        await client.send(GET)
        while b"first" not in client.received:
            assert await client.more()
        await asyncio.wait_for(server.close(), 10)
        assert ended == ["made no more"]
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
    assert errors(caplog) == []
