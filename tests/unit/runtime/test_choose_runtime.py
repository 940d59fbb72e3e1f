"""Which runtime a node uses, and how an engine that does not answer is dealt with. No engine is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from swarmpy.errors import InvalidArgument, RuntimeUnavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.specs import GenericResource
from swarmpy.ports import Runtime
from swarmpy.runtime.choose import choose_runtime
from swarmpy.runtime.docker_engine import Engine, EngineError, probe_engine


async def choose(kind: str, directory: Path, url: str | None) -> tuple[Runtime, str]:
    return await choose_runtime(
        kind, node_id=NodeId("n"), node_address="127.0.0.1", hostname="h", directory=directory / "tasks", url=url
    )


async def serve(path: Path, handler: Any) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    return runner


async def test_auto_falls_back_to_processes(tmp_path: Path) -> None:
    """Without an engine, auto takes the process runtime and says why."""
    runtime, reason = await choose("auto", tmp_path, f"unix://{tmp_path}/none.sock")
    assert runtime.name == "process"
    assert reason == f"no Docker Engine answers at unix://{tmp_path}/none.sock (No such file or directory)"


async def test_docker_without_an_engine_is_an_error(tmp_path: Path) -> None:
    """Asking for docker where none answers says what to do."""
    what_to_do = "it must run, and this user must be allowed to use it; or use --runtime process"
    with pytest.raises(RuntimeUnavailable, match=f"no Docker Engine answers .*: {what_to_do}$"):
        await choose("docker", tmp_path, f"unix://{tmp_path}/none.sock")


async def test_a_known_engine_may_be_away(tmp_path: Path) -> None:
    """A node that knows its runtime to be docker gets it also while the engine is away; the reason tells."""
    runtime, reason = await choose_runtime(
        "docker", node_id=NodeId("n"), node_address="127.0.0.1", hostname="h", directory=tmp_path,
        url=f"unix://{tmp_path}/none.sock", may_be_away=True,
    )  # fmt: skip
    assert runtime.name == "docker"
    assert reason.startswith("asked for, but no Docker Engine answers at ")


async def test_a_node_offers_what_its_daemon_was_given(tmp_path: Path) -> None:
    """Beside processors and memory."""
    generic = (GenericResource(kind="gpu", names=("a", "b")),)
    runtime, _ = await choose_runtime(
        "process", node_id=NodeId("n"), node_address="127.0.0.1", hostname="h", directory=tmp_path, generic=generic
    )
    assert (await runtime.describe()).resources.generic == generic


async def test_process_asks_no_engine(tmp_path: Path) -> None:
    """The process runtime is taken as asked for."""
    runtime, reason = await choose("process", tmp_path, "not even an address")
    assert (runtime.name, reason) == ("process", "asked for")


@pytest.mark.parametrize(
    ("kind", "url"),
    [("podman", None), ("docker", "ftp://x"), ("docker", "tcp://"), ("docker", "nonsense"), ("auto", "nonsense")],
)
async def test_nonsense_is_refused(tmp_path: Path, kind: str, url: str | None) -> None:
    """An unknown kind or an address that is none is named, and no plain processes run in its place."""
    with pytest.raises(InvalidArgument, match=kind if url is None else f"'{url}' .DOCKER_HOST. is not understood"):
        await choose(kind, tmp_path, url)


async def test_an_engine_that_hangs_is_given_up(tmp_path: Path) -> None:
    """An engine that accepts and says nothing is unavailable when the time is over."""
    hung_up = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_unix_server(hang, tmp_path / "hangs.sock")
    with pytest.raises(RuntimeUnavailable, match=r"did not tell its version within 0 s"):
        await probe_engine(f"unix://{tmp_path}/hangs.sock", 0.2)
    await asyncio.wait_for(hung_up.wait(), 10)
    server.close()


async def test_the_engines_failures_are_told_apart(tmp_path: Path) -> None:
    """A failing engine is unavailable, a refused change is an EngineError, a missing container is None."""
    statuses = {"json": 404, "create": 400, "info": 500, "plugins": 403}

    async def handler(request: web.Request) -> web.Response:
        tail = request.path.rpartition("/")[2]
        if tail == "version":
            return web.json_response({"ApiVersion": "1.41", "Version": "1"})
        return web.json_response({"message": f"no\n{tail}"}, status=statuses[tail])

    runner = await serve(tmp_path / "fake.sock", handler)
    engine = Engine(f"unix://{tmp_path}/fake.sock")
    await engine.open()
    assert await engine.inspect("x") is None
    with pytest.raises(RuntimeUnavailable, match="could not describe itself: no info"):
        await engine.info()
    assert await engine.plugins() is None, "a proxy may let nobody ask"
    statuses["plugins"] = 500
    with pytest.raises(RuntimeUnavailable, match="could not list its plugins: no plugins"):
        await engine.plugins()
    with pytest.raises(EngineError, match="no create") as caught:
        await engine.create("x", {})
    assert caught.value.status == 400
    await engine.close()
    with pytest.raises(RuntimeUnavailable, match="not connected"):
        await engine.info()
    await runner.cleanup()
