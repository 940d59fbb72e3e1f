"""Docker Engines of a bench's own, each with its data and its network, and what their containers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import attrs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine"))

from images import ensure_images

START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 40.0
CALL_TIMEOUT_S = 120.0
Json = dict[str, Any]


class Api:
    """Requests in the shapes of the Docker Engine API to a unix socket."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            "http://d/", connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(CALL_TIMEOUT_S)
        )

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()

    async def ask(self, method: str, path: str, body: Json | None = None, **query: str) -> Any:
        """What it answers. Ends the bench when it refuses."""
        async with self._session.request(method, path, json=body, params=query) as response:
            text = await response.text()
            if response.status >= 300:
                raise SystemExit(f"{method} {path}: {response.status} {text}")
            return json.loads(text) if text.startswith(("{", "[")) else text

    async def events(self) -> AsyncIterator[Json]:
        """Those of containers, as they happen."""
        query = {"filters": json.dumps({"type": ["container"]})}
        async with self._session.get("events", params=query, timeout=aiohttp.ClientTimeout()) as response:
            while line := await response.content.readline():
                yield json.loads(line)


@attrs.frozen
class Happened:
    """One event of a container."""

    what: str
    container: str
    at: float
    """As :func:`time.time`."""


class Engine:
    """One engine that runs."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.api = Api(socket)
        self.happened: list[Happened] = []
        self._news = asyncio.Event()

    async def follow(self) -> None:
        """Take note of all that happens, until cancelled."""
        async for event in self.api.events():
            self.happened.append(Happened(event["Action"], event["Actor"]["ID"], event["timeNano"] / 1e9))
            self._news.set()

    async def until(self, count: int, what: str, since: float, timeout: float = 120) -> float:
        """When the last of ``count`` containers has done that, as :func:`time.time`."""
        async with asyncio.timeout(timeout):
            while True:
                self._news.clear()
                found = {h.container: h.at for h in self.happened if h.what == what and h.at >= since}
                if len(found) >= count:
                    return max(found.values())
                await self._news.wait()

    async def clear(self) -> None:
        """Remove every container."""
        for left in await self.api.ask("GET", "containers/json", all="true"):
            await self.api.ask("DELETE", f"containers/{left['Id']}", force="true")

    async def empty(self) -> None:
        """Wait until there is no container."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while await self.api.ask("GET", "containers/json", all="true"):
            if time.monotonic() > deadline:
                raise SystemExit("containers are left")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running_engine(*options: str, images: bool = True) -> AsyncIterator[Engine]:
    """A Docker Engine of its own, in a network of its own; without a trace at the end. Needs root and ``dockerd``."""
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-bench-docker-"))
    socket = directory / "docker.sock"
    places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid", "--config-file": "config.json"}
    (directory / "config.json").write_text("{}")
    arguments = [word for option, name in places.items() for word in (option, str(directory / name))]
    arguments += ["--host", f"unix://{socket}", "--shutdown-timeout", "2", *options]
    # A second engine in the same network would take the bridge of the first for its own, or remove it.
    script = 'ip link set lo up && exec dockerd "$@"'
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--net", "sh", "-c", script, "sh", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        await _answers(socket, lambda: process.returncode is None, directory / "log")
        if images:
            await ensure_images(str(socket))
        engine = Engine(socket)
        following = asyncio.create_task(engine.follow())
        try:
            yield engine
        finally:
            following.cancel()
            await asyncio.wait([following])
            with contextlib.suppress(aiohttp.ClientError, SystemExit):
                await engine.clear()
            await engine.api.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _answers(socket: Path, lives: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while lives() and time.monotonic() < deadline:
        api = Api(socket)
        try:
            await api.ask("GET", "_ping")
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(0.1)
        else:
            return
        finally:
            await api.close()
    raise SystemExit(f"dockerd did not come up: {(await asyncio.to_thread(log.read_text))[-500:]}")
