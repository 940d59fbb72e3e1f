"""The bounds of a connection and of a listener, over real sockets, with bounds made small."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_world import World, ask
from raw_client import GET, Raw, connected, exchanged, serving

from swarmpy.api import api, forward
from swarmpy.api.listener import LOOK_S
from swarmpy.security.sealing import UnlockKey

HEAD = b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLACK_S = LOOK_S + 5.0
"""Time limits are kept to a second; the rest is for machines that are busy."""
OK = b"HTTP/1.1 200 "


async def ends_within(raw: Raw, least: float, most: float) -> bytes:
    """What comes until the server ends the connection, which it must do between ``least`` and ``most`` seconds."""
    began = time.monotonic()
    said = await raw.rest()
    assert least <= time.monotonic() - began <= most + SLACK_S
    return said


@contextlib.asynccontextmanager
async def dripping(raw: Raw, drop: bytes) -> AsyncIterator[None]:
    """Sends ``drop`` ten times a second."""

    async def drip() -> None:
        while True:
            await raw.send(drop)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_head_that_drips_is_cut_and_others_are_served(tmp_path: Path) -> None:
    """A line every now and then does not keep a connection: what counts is when the head began."""
    async with connected(tmp_path / "s", head_s=1.0) as raw:
        await raw.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n")
        async with dripping(raw, b"a: b\r\n"):
            assert (await exchanged(tmp_path / "s", GET)).startswith(OK)
            assert (await ends_within(raw, 0.5, 1.0)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("first", [b"", b"\r\n", b"\r\n\r\n\r\n\r\n"])
async def test_a_connection_that_rests_is_ended(tmp_path: Path, first: bytes) -> None:
    """One that never says a word as well as one that was answered; blank lines are the beginning of a head."""
    async with connected(tmp_path / "s", idle_s=1.0, head_s=1.0) as raw:
        await raw.send(first)
        said = await ends_within(raw, 0.9, 1.0)
        assert said.startswith(b"HTTP/1.1 408 ") if first else said == b""
        with await Raw.open(tmp_path / "s") as another:
            await another.send(GET)
            assert await another.status() == 200
            assert await ends_within(another, 0.9, 1.0) == b""


async def test_a_kept_connection_is_measured_anew_for_each_request(tmp_path: Path) -> None:
    """A head's time and size are its own; the last request is begun and no more."""
    async with connected(tmp_path / "s", head_s=1.0, head_bytes=200) as raw:
        for _ in range(20):
            await raw.send(GET)
            assert await raw.status() == 200
        await raw.send(b"GET")
        assert (await ends_within(raw, 0.9, 1.0)).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(60)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"v" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 1000,
        b"\r\n" * 2000,
        b"GET / HTTP/1.1\r\nHost: x\r\na:" + b" v\r\n" * 1000,
    ],
)
async def test_a_head_that_is_too_large_is_refused(tmp_path: Path, head: bytes) -> None:
    """In bytes or in lines, in one piece or many, at once: nothing more of it is read."""
    async with connected(tmp_path / "s", head_bytes=2000, head_lines=50) as raw:
        assert (await exchanged(tmp_path / "s", head)).split()[1] in (b"431", b"400")
        for at in range(0, len(head), 500):
            await raw.send(head[at : at + 500])
        assert (await raw.rest()).split()[1] in (b"431", b"400")
        assert (await exchanged(tmp_path / "s", GET)).startswith(OK)


async def test_a_body_that_drips_is_cut(tmp_path: Path) -> None:
    """The client is told, and the connection ends though it sends on."""
    async with connected(tmp_path / "s", body_s=1.0, head_s=1.0) as raw:
        await raw.send(HEAD + b"Content-Length: 1000\r\n\r\n{")
        async with dripping(raw, b" "):
            said = await ends_within(raw, 0.9, 2.0)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 1 s" in said
    assert b"connection: close" in said.lower()


async def test_large_bodies_share_a_bound(tmp_path: Path) -> None:
    """One too many is refused, until another is done with."""
    announced = HEAD + b"Content-Length: 100000\r\n\r\n"
    async with connected(tmp_path / "s", bodies_bytes=150_000) as first:
        await first.send(announced + b"{")
        assert b"too many large requests" in await answered_with(503, tmp_path / "s", announced)
        first.close()
        # There is room again, and the body is found to be no JSON.
        assert b"invalid JSON" in await answered_with(400, tmp_path / "s", announced + b"{" * 100_000)


async def answered_with(status: int, path: Path, data: bytes) -> bytes:
    """The answer to ``data`` as soon as it has that status: the server notices at its own pace what others do."""
    async with asyncio.timeout(30):
        while True:
            with await Raw.open(path) as raw:
                await raw.send(data)
                if (answer := await raw.answer()).split()[1:2] == [b"%d" % status]:
                    return answer
            await asyncio.sleep(0.02)


async def test_requests_sent_ahead_are_answered_in_their_order(tmp_path: Path) -> None:
    """As many as a client likes, while it takes the answers."""
    async with connected(tmp_path / "s") as raw:
        await raw.send(b"".join(b"GET /services/%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(100)))
        for number in range(100):
            assert b"service %d not found" % number in await raw.answer()


async def test_who_sends_far_ahead_of_an_answer_is_cut(tmp_path: Path) -> None:
    """What waits behind a request that is being answered takes memory, which is not to be had for nothing."""
    async with connected(tmp_path / "s", leads=False, ahead_bytes=10_000) as raw:
        await raw.send(b"GET /services HTTP/1.1\r\nHost: x\r\n\r\n")
        async with dripping(raw, GET[:-2] + b"a: " + b"b" * 3000 + b"\r\n\r\n"):
            assert await ends_within(raw, 0.1, 2.0) == b""


async def test_no_more_connections_than_are_allowed(tmp_path: Path) -> None:
    """Those that wait for their clients make room, the longest first; those that are being answered do not."""
    path = tmp_path / "s"
    async with serving(path, connections=8) as server:
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(await Raw.open(path)) for _ in range(8)]
            for raw in idle:
                await raw.send(GET)
                assert await raw.status() == 200
            await asyncio.sleep(0.2)  # they have had their time to speak
            assert (await exchanged(path, GET)).startswith(OK)
            assert await idle[0].rest() == b""
            await idle[-1].send(GET)
            assert await idle[-1].status() == 200
            assert server.open_connections <= 8
            for _ in range(8):
                busy = stack.enter_context(await Raw.open(path))
                await busy.send(HEAD + b"Content-Length: 5000\r\n\r\n{")
            async with asyncio.timeout(30):
                # As soon as all eight are being answered there is no room, and whoever comes is told or shut out.
                while (said := await exchanged(path, GET)).startswith(OK):
                    await asyncio.sleep(0.02)
            assert said == b"" or (said.startswith(b"HTTP/1.1 503 ") and b"too many connections" in said)
        await answered_with(200, path, GET)


async def test_a_flood_does_not_keep_others_out(tmp_path: Path) -> None:
    """Connections by the hundred that say half a request, while somebody asks again and again and is answered."""
    path = tmp_path / "s"
    async with serving(path, connections=32) as server:

        async def flood() -> None:
            with contextlib.ExitStack() as stack:
                while True:
                    with contextlib.suppress(OSError):
                        raw = stack.enter_context(await Raw.open(path))
                        await raw.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n")
                    await asyncio.sleep(0.005)

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(60):
            answered = 0
            while answered < 50:
                answered += (await exchanged(path, GET)).startswith(OK)
                assert server.open_connections <= 32
        flooding.cancel()
        await asyncio.wait([flooding])


async def test_an_answer_that_nobody_takes_is_given_up(tmp_path: Path) -> None:
    """A client that reads nothing holds its connection, and the memory of the answer, for a bounded time."""
    async with serving(tmp_path / "s", take_s=1.0) as server:
        with await Raw.open(tmp_path / "s") as raw:
            began = time.monotonic()
            # So many answers as fill the buffers of the socket.
            asking = asyncio.create_task(raw.send(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n" * 5000))
            async with asyncio.timeout(30):
                while not server.open_connections:
                    await asyncio.sleep(0.01)
                while server.open_connections:
                    await asyncio.sleep(0.01)
            assert time.monotonic() - began >= 0.9
            await asking


async def test_a_request_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its steps wait for; what has become of one that changes this node is open then."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    world.elect(None)
    monkeypatch.setattr(forward, "WRITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(forward.write, "__defaults__", (0.2,))
    monkeypatch.setattr(forward.read_barrier, "__defaults__", (0.2,))
    for method, path in (("GET", "/services"), ("DELETE", "/services/x")):
        async with asyncio.timeout(5):
            assert (await ask(world.apis["m1"], method, path))[0] == 503
    never = asyncio.Event()

    async def unlock(_key: UnlockKey) -> None:
        await never.wait()

    world.nodes["m1"].unlock = unlock  # type: ignore[method-assign]
    monkeypatch.setattr(api, "LOCAL_WRITE_TIMEOUT_S", 0.2)
    body = {"UnlockKey": world.nodes["m1"].unlock_key.text}
    status, answer = await ask(world.apis["m1"], "POST", "/swarm/unlock", body)
    assert (status, "took longer than 0.2 s" in answer["message"]) == (503, True)
