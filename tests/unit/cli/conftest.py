"""A stand-in for the daemon: a real HTTP server on a real unix socket, with the state of a tiny cluster in it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from swarmpy.api.request import ERROR_HEADER
from swarmpy.cli.main import main


class FakeDaemon:
    """Answers the part of the API that the command line uses; its tasks run as soon as their service exists."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.requests: list[str] = []
        self.queries: list[dict[str, str]] = []
        self.services: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.swarm: dict[str, Any] = {"Version": {"Index": 5}, "Spec": {"Name": "default"}, "JoinTokens": {}}
        self.inits: list[dict[str, Any]] = []
        self.on_swarm: Callable[[], None] = lambda: None
        """Called when somebody looks at the swarm."""
        self.conflicts = 0
        self.update_statuses: list[dict[str, Any]] = []
        """What becomes of the next updates."""
        self.data: dict[str, list[dict[str, Any]]] = {}
        """Secrets and configs by the word of their path."""
        self.local_state = "active"
        self.unlock_key = ""
        self.unlocks: list[str] = []
        self.task_state = "running"
        self.task_error = ""
        self.digests: dict[str, str] = {}
        """What a registry has, by image."""
        self.has_engine = False
        self.asked: list[tuple[str, str]] = []
        """Images that the registry was asked for, and the credentials shown to it."""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._recorded])
        app.add_routes(
            [
                web.get("/_ping", self._ping),
                web.get("/info", self._info),
                web.get("/swarm", self._swarm),
                web.post("/swarm/init", self._init),
                web.post("/swarm/update", self._update_swarm),
                web.get("/swarm/unlockkey", self._unlock_key),
                web.post("/swarm/unlock", self._unlock),
                web.get("/services", self._list_services),
                web.post("/services/create", self._create),
                web.get("/{table:services|nodes}/{key}", self._found),
                web.post("/{table:services|nodes}/{key}/update", self._update),
                web.delete("/{table:services|nodes}/{key}", self._remove),
                web.get("/tasks", self._list_tasks),
                web.get("/distribution/{image}/json", self._distribution),
                web.get("/nodes", self._list_nodes),
                web.get("/{word:secrets|configs}", self._list_data),
            ]
        )
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    @web.middleware
    async def _recorded(self, request: web.Request, handler: Any) -> Any:
        self.requests.append(f"{request.method} {request.path}")
        self.queries.append(dict(request.query))
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.json_response({"message": "page not found"}, status=404)

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response({"Swarm": {"NodeID": "n0", "LocalNodeState": self.local_state}})

    async def _unlock_key(self, _: web.Request) -> web.Response:
        return web.json_response({"UnlockKey": self.unlock_key})

    async def _unlock(self, request: web.Request) -> web.Response:
        self.unlocks.append((await request.json())["UnlockKey"])
        return web.Response()

    async def _swarm(self, _: web.Request) -> web.Response:
        self.on_swarm()
        return web.json_response({**self.swarm, "JoinTokens": {"Worker": "W", "Manager": "M"}})

    async def _init(self, request: web.Request) -> web.Response:
        self.inits.append(await request.json())
        return web.json_response("n0")

    async def _update_swarm(self, request: web.Request) -> web.Response:
        return await self._write(self.swarm, request)

    async def _list_services(self, request: web.Request) -> web.Response:
        return web.json_response([s for s in self.services.values() if _selected(s, _filters(request))])

    async def _list_data(self, request: web.Request) -> web.Response:
        names = _filters(request).get("names")
        found = self.data.get(request.match_info["word"], [])
        return web.json_response([item for item in found if not names or item["Spec"]["Name"] in names])

    async def _distribution(self, request: web.Request) -> web.Response:
        image = request.match_info["image"]
        self.asked.append((image, request.headers.get("X-Registry-Auth", "")))
        if not self.has_engine:
            return web.json_response(
                {"message": "no engine"}, status=400, headers={ERROR_HEADER: "failed_precondition"}
            )
        if image not in self.digests:
            return web.json_response({"message": f"image {image}: reg:5000 does not answer"}, status=503)
        answer = {
            "Descriptor": {"digest": self.digests[image]},
            "Platforms": [{"architecture": "amd64", "os": "linux"}],
        }
        return web.json_response(answer)

    async def _list_nodes(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.nodes.values()))

    async def _list_tasks(self, request: web.Request) -> web.Response:
        return web.json_response(self._tasks(_filters(request)))

    async def _create(self, request: web.Request) -> web.Response:
        service_id = f"id{len(self.services)}"
        self.services[service_id] = {"ID": service_id, "Version": {"Index": 1}, "Spec": await request.json()}
        return web.json_response({"ID": service_id}, status=201)

    def _table(self, request: web.Request) -> dict[str, dict[str, Any]]:
        return self.services if request.match_info["table"] == "services" else self.nodes

    async def _remove(self, request: web.Request) -> web.Response:
        self._table(request).pop(request.match_info["key"])
        return web.Response()

    async def _found(self, request: web.Request) -> web.Response:
        name = request.match_info["key"]
        for key, item in self._table(request).items():
            if name in (key, item["Spec"].get("Name"), item.get("Description", {}).get("Hostname")):
                return web.json_response(item)
        return web.json_response({"message": f"service {name} not found"}, status=404)

    async def _update(self, request: web.Request) -> web.Response:
        return await self._write(self._table(request)[request.match_info["key"]], request)

    async def _write(self, item: dict[str, Any], request: web.Request) -> web.Response:
        if self.conflicts:
            self.conflicts -= 1
            item["Version"]["Index"] += 1
        if int(request.query["version"]) != item["Version"]["Index"]:
            return web.json_response({"message": "update out of sequence"}, status=500)
        before, item["Spec"] = item["Spec"], await request.json()
        if request.query.get("rollback"):
            item["Spec"] = item["PreviousSpec"]
        item["PreviousSpec"] = before
        item["Version"]["Index"] += 1
        if self.update_statuses:
            item["UpdateStatus"] = self.update_statuses.pop(0)
        return web.json_response({"Warnings": None})

    def _tasks(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
        wanted = filters.get("service")
        return [
            {
                "ID": f"{service['ID']}t{slot}",
                "ServiceID": service["ID"],
                "NodeID": "n0",
                "Slot": slot,
                "CreatedAt": "",
                "DesiredState": "running",
                "Spec": {},
                "Status": {"State": self.task_state, "Err": self.task_error},
            }
            for service in self.services.values()
            if (not wanted or service["ID"] in wanted) and _selected(service, {"label": filters.get("label", [])})
            for slot in range(1, service["Spec"]["Mode"]["Replicated"]["Replicas"] + 1)
        ]


def _filters(request: web.Request) -> dict[str, Any]:
    filters: dict[str, Any] = json.loads(request.query.get("filters", "{}"))
    return filters


def _selected(service: dict[str, Any], filters: dict[str, Any]) -> bool:
    labels = service["Spec"].get("Labels", {})
    for label in filters.get("label", []):
        key, _, value = label.partition("=")
        if key not in labels or (value and labels[key] != value):
            return False
    return not filters.get("id") or service["ID"] in filters["id"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A daemon that answers on a socket of its own."""
    with FakeDaemon(tmp_path / "swarmpy.sock") as running:
        running.nodes["n0"] = {
            "ID": "n0",
            "Version": {"Index": 7},
            "Spec": {"Role": "worker", "Availability": "active", "Labels": {"old": "1"}},
            "Description": {"Hostname": "host"},
            "Status": {"State": "ready"},
        }
        yield running


class Outcome:
    """What a command said and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def swarmpy(daemon: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line against the daemon."""

    def run(*arguments: str | Path) -> Outcome:
        code = main(["--socket", str(daemon.socket), *map(str, arguments)])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
