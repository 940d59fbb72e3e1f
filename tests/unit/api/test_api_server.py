"""The API over a real unix socket, and the status pages over real loopback connections."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api_world import BenchNode, World, api_of

from swarmpy.api.api import Api
from swarmpy.api.app import ApiServer, StatusServer
from swarmpy.api.browsers import host_allowed
from swarmpy.api.connection import Limits
from swarmpy.cli.client import ApiClient
from swarmpy.errors import ConnectionFailed, FailedPrecondition, InvalidArgument, NotFound
from swarmpy.store.backup import Reader

JSON = {"Content-Type": "application/json"}


@contextlib.asynccontextmanager
async def serving(path: Path, api: Api | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """An API server on ``path`` and a client of it."""
    if api is None:
        world = World("m1")
        world.elect("m1")
        await world.found()
        api = world.apis["m1"]
    server = ApiServer(api, path)
    await server.start()
    connector = aiohttp.UnixConnector(path=str(path))
    try:
        async with aiohttp.ClientSession("http://docker", connector=connector) as client:
            yield client
    finally:
        await server.close()


async def test_the_api_answers_over_its_socket(tmp_path: Path) -> None:
    """With and without a version, headers on every answer, HEAD without a body, keep-alive."""
    async with serving(tmp_path / "s") as client:
        async with client.head("/_ping") as answer:
            assert (answer.status, await answer.read()) == (200, b"")
            assert answer.headers["Api-Version"] == "1.41"
            assert answer.headers["Ostype"] == "linux"
        async with client.post("/v1.41/services/create", json=_spec()) as answer:
            assert answer.status == 201
            assert answer.headers["Api-Version"] == "1.41"
        async with client.get("/v1.41/services?filters=%7B%22name%22%3A%5B%22web%22%5D%7D&status=true") as answer:
            assert [service["Spec"]["Name"] for service in await answer.json()] == ["web"]
        async with client.get("/v9.99/services") as answer:
            assert answer.status == 400
        async with client.get("/nosuch") as answer:
            assert (answer.status, await answer.json()) == (404, {"message": "page not found"})
            assert (await answer.text()).endswith("\n")


async def test_the_socket_belongs_to_its_owner_and_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode 0600 from the first moment, whatever the mask: nobody need change it. No file after close."""
    path = tmp_path / "s"
    changed: list[object] = []
    monkeypatch.setattr(os, "chmod", lambda *args, **_: changed.append(args))
    before = os.umask(0)
    try:
        async with serving(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert changed == []
    assert not path.exists()


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    """A dead daemon's file does not matter; a living daemon is left alone."""
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with serving(path) as client:
        second = ApiServer(api_of(BenchNode("w1")), path)
        with pytest.raises(FailedPrecondition, match="another daemon listens"):
            await second.start()
        await second.close()
        async with client.get("/_ping") as answer:
            assert answer.status == 200


async def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    """A file in the way stays; a path that is too long, or in no directory, is said so."""
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="is no socket"):
        await ApiServer(api_of(BenchNode("w1")), path).start()
    assert path.read_text() == "precious"
    with pytest.raises(InvalidArgument, match="longer than 107 bytes"):
        await ApiServer(api_of(BenchNode("w1")), tmp_path / ("x" * 120)).start()
    with pytest.raises(FailedPrecondition, match="No such file or directory"):
        await ApiServer(api_of(BenchNode("w1")), tmp_path / "no" / "s").start()


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """413 whether the length is announced or not; the server goes on."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(Limits().body_bytes // 65536 + 2):
            yield b" " * 65536

    async with serving(tmp_path / "s") as client:
        for body in (io.BytesIO(b" " * (Limits().body_bytes + 1)), endless()):
            with contextlib.suppress(aiohttp.ClientOSError):
                async with client.post("/services/create", data=body, headers=JSON) as answer:
                    assert answer.status == 413
        async with client.get("/_ping") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x00\xff\r\n\r\n",
    ],
)
async def test_what_is_no_http_does_no_harm(tmp_path: Path, raw: bytes) -> None:
    """The connection ends with an error of the client's; others are served."""
    path = tmp_path / "s"
    async with serving(path) as client:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(raw)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer == b"" or answer.split()[1] in (b"400", b"431")
        writer.close()
        async with client.get("/_ping") as ping:
            assert ping.status == 200


async def test_a_defect_is_answered_and_logged(tmp_path: Path) -> None:
    """An exception that is none of ours becomes a 500 without its text."""
    api = api_of(BenchNode("w1"))

    async def broken(_request: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    api.handle = broken  # type: ignore[method-assign]
    async with serving(tmp_path / "s", api) as client, client.get("/_ping") as answer:
        assert answer.status == 500
        text = await answer.text()
        assert "internal error while answering GET /_ping" in text
        assert "secret detail" not in text


# -- the status pages -----------------------------------------------------------------------------------------------


@pytest.fixture
async def status_url() -> AsyncIterator[str]:
    """The address of a status server of a worker."""
    server = StatusServer(api_of(BenchNode("w1")), "127.0.0.1", 0)
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


async def test_only_status_pages_are_served_and_only_read(status_url: str) -> None:
    """The rest of the API is not there, nothing can be posted, and no page invites other origins."""
    async with aiohttp.ClientSession(status_url) as client:
        for path in ("/status", "/healthz", "/readyz"):
            async with client.get(path, headers={"Origin": "http://evil.example"}) as answer:
                assert answer.status == 200
                assert "Access-Control-Allow-Origin" not in answer.headers
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            async with client.head(path) as answer:
                assert (answer.status, await answer.read()) == (200, b"")
            async with client.post(path) as answer:
                assert answer.status == 405
        for path in ("/services", "/v1.41/status", "/info", "/"):
            async with client.get(path) as answer:
                assert answer.status == 404


async def test_other_host_names_are_refused(status_url: str) -> None:
    """A page that points its own name at loopback gets nothing."""
    async with aiohttp.ClientSession(status_url) as client:
        async with client.get("/status", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403
        async with client.get("/status", headers={"Host": "localhost:2378"}) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    "header", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:80", "10.0.0.5:2378"]
)
def test_loopback_and_the_bound_address_are_allowed(header: str) -> None:
    """Names of this machine, with or without a port."""
    assert host_allowed(header, "10.0.0.5")


@pytest.mark.parametrize(
    "header",
    [
        "",
        ":80",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.6",
        "localhost:x",
        "[::1",
        "::1]x",
        "0.0.0.0",
    ],
)
def test_other_names_are_not_allowed(header: str) -> None:
    """Everything else is refused."""
    assert not host_allowed(header, "10.0.0.5")


async def test_a_taken_port_is_said(status_url: str) -> None:
    """The second server on a port names the address."""
    port = int(status_url.rpartition(":")[2])
    with pytest.raises(FailedPrecondition, match=f"127.0.0.1:{port}"):
        await StatusServer(api_of(BenchNode("w1")), "127.0.0.1", port).start()


def _spec() -> dict[str, Any]:
    return {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}


async def test_a_backup_is_streamed_and_no_more_than_two_at_a_time(tmp_path: Path) -> None:
    """Clients that take nothing hold their places, until they go away."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    async with serving(tmp_path / "s", world.apis["m1"]) as client:
        async with client.get("/swarm/backup") as answer:
            assert (answer.status, answer.content_type) == (200, "application/octet-stream")
            reader = Reader()
            for _ in reader.feed(await answer.read()):
                pass
        assert reader.finish().index == world.manager("m1").store.version

        parts = asyncio.Event()

        def never_ends() -> AsyncIterator[bytes]:
            async def pieces() -> AsyncIterator[bytes]:
                yield b"x" * (1 << 20)
                await parts.wait()

            return pieces()

        world.manager("m1").store.parts = never_ends  # type: ignore[method-assign]
        async with client.get("/swarm/backup") as one, client.get("/swarm/backup") as other:
            assert (one.status, other.status) == (200, 200)
            async with client.get("/swarm/backup") as third:
                assert third.status == 503
                assert "try again when one is finished" in (await third.json())["message"]
        parts.set()
        async with asyncio.timeout(5):
            while True:
                async with client.get("/swarm/backup") as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.02)


async def test_an_answer_that_fails_half_way_is_seen_to_be_broken(tmp_path: Path) -> None:
    """Its status has gone out already: so the connection is cut, and the client does not take it for the whole."""
    world = World("m1")
    world.elect("m1")
    await world.found()

    def fails() -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"x" * (1 << 20)
            raise RuntimeError("a defect")

        return pieces()

    world.manager("m1").store.parts = fails  # type: ignore[method-assign]
    async with serving(tmp_path / "s", world.apis["m1"]), ApiClient(tmp_path / "s") as client:
        with pytest.raises(ConnectionFailed, match="broke off"):
            async for _ in client.stream("/swarm/backup"):
                pass
        with pytest.raises(NotFound):
            async for _ in client.stream("/swarm/nothing"):
                pass
