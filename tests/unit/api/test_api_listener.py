"""What becomes of connections that come at a bad moment, or that bring a defect to light."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from raw_client import GET, Raw
from structlog.testing import capture_logs

from swarmpy.api.callers import NOBODY
from swarmpy.api.connection import Visitor
from swarmpy.api.http_server import HttpRequest, HttpServer
from swarmpy.api.request import ApiResponse


async def answer(_request: HttpRequest) -> ApiResponse:
    """Of nothing."""
    return ApiResponse()


async def serving(path: Path) -> HttpServer:
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
