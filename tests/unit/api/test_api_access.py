"""Who may ask for what: the table of routes, what viewers do not get to see, and what the audit log is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from api_world import ADMIN, VIEWER, BenchNode, World, api_of, ask, decoded, request

from swarmpy.api.api import Api
from swarmpy.api.audit import AuditEntry
from swarmpy.api.callers import NOBODY, Access, Caller, Door
from swarmpy.api.request import ApiRequest
from swarmpy.api.router import Scope
from swarmpy.manager.operations import update_service
from swarmpy.model.ids import NodeId
from swarmpy.model.images import RegistryImage
from swarmpy.model.objects import ClientCertificate
from swarmpy.model.specs import ContainerSpec, LogDriver, Mount, ServiceSpec, TaskSpec
from swarmpy.model.states import ApiRole, Role
from swarmpy.ports import Peer

DOCUMENT = Path(__file__).parents[3] / "docs" / "api-access.md"
SPEC = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}


class Kept:
    """An auditor that a test can look into."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def record(self, entry: AuditEntry) -> None:
        """Keep it."""
        self.entries.append(entry)


@pytest.fixture
async def world() -> World:
    """Two managers; m1 leads. A service whose spec is full of secrets, and a task of it."""
    world = World("m1", "m2")
    world.elect("m1")
    await world.found(schema=6)
    watcher = ClientCertificate(name="watcher", role=ApiRole.VIEWER, issued_at_ns=0, not_after_ns=1 << 62)
    await world.leader.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), clients={VIEWER.serial: watcher})))
    container = ContainerSpec(
        image="busybox",
        env=("PASSWORD=hunter2", "EMPTY=", "BARE"),
        mounts=(Mount(target="/d", volume_driver="nfs", volume_driver_opts={"o": "password=hunter2"}),),
    )
    task = TaskSpec(container=container, log_driver=LogDriver(name="splunk", options={"splunk-token": "hunter2"}))
    service = await world.service("secretive")
    for _ in range(2):  # so that there is a previous spec with secrets as well
        store = world.leader.store
        await update_service(store, service.id, service.meta.version, ServiceSpec(name="secretive", task=task))
        service = store.view().service(service.id) or service
    await world.task(service)
    return world


def as_rows(api: Api) -> list[str]:
    """The table of routes as it is in the documentation."""
    rows: dict[tuple[str, Access, Scope, bool], list[str]] = {}
    for route in api.table():
        key = (route.pattern, route.access, route.scope, route.is_audited)
        rows.setdefault(key, []).append(route.method)
    return [
        f"| {', '.join(methods)} | `{pattern}` | {access.name.lower()} | {scope.value} | {'yes' if audited else ''} |"
        for (pattern, access, scope, audited), methods in rows.items()
    ]


def test_the_table_of_routes_is_the_documented_one() -> None:
    """A route that is new, or open to others than before, is seen in the documentation, or this fails."""
    rows = as_rows(api_of(BenchNode("w1")))
    written = DOCUMENT.read_text()
    _, found, rest = written.partition("<!-- routes: begin -->\n")
    assert found
    table = rest.partition("<!-- routes: end -->")[0]
    header = "| method | path | least role | answered by | audited |\n|---|---|---|---|---|\n"
    assert table == header + "\n".join(rows) + "\n", "write it anew:\n" + header + "\n".join(rows)


def test_nothing_that_changes_anything_is_open_to_less_than_admins() -> None:
    """And every write is audited, as is whatever tells secrets."""
    for route in api_of(BenchNode("w1")).table():
        if route.method not in ("GET", "HEAD"):
            assert route.access is Access.ADMIN, route
            assert route.is_audited, route
        if route.scope is Scope.WRITE:
            assert not route.is_read, route
    open_to_all = {r.pattern for r in api_of(BenchNode("w1")).table() if r.access is Access.ANYBODY}
    assert open_to_all == {"/status", "/healthz", "/readyz"}


async def test_a_viewer_is_refused_every_write_in_one_clear_line(world: World) -> None:
    """Whatever the route and whoever answers; nothing is done."""
    for name in ("m1", "m2"):
        for route in world.apis[name].table():
            path = route.pattern.replace("{id}", "secretive").replace("{id...}", "x").replace("{name...}", "x")
            answer = await world.apis[name].handle(request(route.method, path, SPEC, caller=VIEWER))
            if route.access is Access.ADMIN:
                message = json.loads(answer.body)["message"]
                assert answer.status == 403, route
                assert message == f"{route.method} {path} is for admins only: the certificate of watcher is a viewer's"
            else:
                assert answer.status != 403, route
    services = world.leader.store.view().services()
    assert [(s.spec.name, s.pending_delete) for s in services] == [("secretive", False)]


async def test_a_viewer_asks_no_registry(world: World) -> None:
    """A read, but one that makes the node's engine connect to where the name says."""
    asked: list[str] = []

    def registry(image: str, auth: bytes) -> RegistryImage:
        asked.append(image)
        return RegistryImage(digest="sha256:" + "5" * 64)

    world.nodes["m1"].registry = registry
    for caller, expected in ((VIEWER, 403), (ADMIN, 200)):
        question = attrs.evolve(request("GET", "/distribution/10.0.0.1:22/x/json"), caller=caller)
        assert (await world.apis["m1"].handle(question)).status == expected
    assert asked == ["10.0.0.1:22/x"]


async def test_a_viewer_sees_no_secrets(world: World) -> None:
    """Join tokens are empty; of the environment and of drivers' options only the names are there."""
    api = world.apis["m1"]
    tokens = world.leader.store.view().cluster().join_tokens
    service = world.leader.store.view().services()[0]
    task = world.leader.store.view().tasks()[0]
    for path in ("/swarm", "/services", f"/services/{service.id}", "/tasks", f"/tasks/{task.id}", "/info", "/status"):
        for query in ({}, {"status": "true"}, {"insertDefaults": "true"}):
            seen = (await api.handle(request("GET", path, caller=VIEWER, **query))).body.decode()
            for secret in ("hunter2", tokens.worker, tokens.manager):
                assert secret not in seen, (path, secret)
    _, shown = decoded(await api.handle(request("GET", f"/services/{service.id}", caller=VIEWER)))
    template = shown["Spec"]["TaskTemplate"]
    assert template["ContainerSpec"]["Env"] == ["PASSWORD=(hidden)", "EMPTY=(hidden)", "BARE"]
    assert template["LogDriver"] == {"Name": "splunk", "Options": {"splunk-token": "(hidden)"}}
    assert "hunter2" in json.dumps((await ask(api, "GET", "/services"))[1])
    assert (await ask(api, "GET", "/swarm"))[1]["JoinTokens"] == {"Worker": tokens.worker, "Manager": tokens.manager}
    _, swarm = decoded(await api.handle(request("GET", "/swarm", caller=VIEWER)))
    assert swarm["JoinTokens"] == {"Worker": "", "Manager": ""}


@pytest.mark.parametrize("caller", [None, NOBODY])
async def test_who_is_not_known_finds_only_the_status_pages(world: World, caller: Caller | None) -> None:
    """The rest is not there for them, which is also what a door gives away that forgets to say who asks."""
    for route in world.apis["m1"].table():
        path = route.pattern.replace("{id}", "x").replace("{id...}", "x").replace("{name...}", "x")
        answer = await world.apis["m1"].handle(request(route.method, path, caller=caller))
        assert (answer.status == 404) is (route.access is not Access.ANYBODY), route


async def test_a_body_is_not_read_of_who_may_not_send_it(world: World) -> None:
    """Nor for a path that is not there."""

    async def never() -> bytes:
        raise AssertionError("it was read")

    for method, path, caller, status in (
        ("POST", "/services/create", VIEWER, 403),
        ("POST", "/services/create", NOBODY, 404),
        ("POST", "/nothing", ADMIN, 404),
    ):
        assert (await world.apis["m1"].handle(request(method, path, caller=caller), never)).status == status


async def test_the_leader_checks_what_is_forwarded_too(world: World) -> None:
    """A manager that forwards a viewer's write is refused; one of an older version says not whose it is, and is not."""
    peer = Peer(node_id=NodeId("m2"), role=Role.MANAGER, address="192.0.2.2:1")
    write = attrs.evolve(request("POST", "/services/create", SPEC, caller=VIEWER), headers={"idempotency-key": "k"})
    assert (await world.apis["m1"].on_forwarded(peer, write.to_plain()))["status"] == 403
    plain = write.to_plain()
    del plain["caller"]
    assert (await world.apis["m1"].on_forwarded(peer, plain))["status"] == 201
    assert ApiRequest.from_plain(write.to_plain()) == write


# -- what the audit log is told -------------------------------------------------------------------------------------


async def test_a_write_is_told_where_it_was_asked_and_where_it_was_done(world: World) -> None:
    """With the result, the object and the version; the leader knows by whose word."""
    kept = {name: Kept() for name in ("m1", "m2")}
    world.apis = {name: api_of(world.nodes[name], kept[name]) for name in kept}
    assert (await ask(world.apis["m2"], "POST", "/services/create", SPEC))[0] == 201
    service = next(s for s in world.leader.store.view().services() if s.spec.name == "web")
    (asked,), (done,) = kept["m2"].entries, kept["m1"].entries
    for entry in (asked, done):
        assert (entry.method, entry.path, entry.status) == ("POST", "/services/create", 201)
        assert entry.about == {"id": service.id, "name": "web"}
        assert entry.version == service.meta.version
    assert (asked.caller, asked.on_behalf_of) == (ADMIN, None)
    assert (done.caller.door, done.caller.node_id, done.on_behalf_of) == (Door.FORWARDED, "m2", ADMIN)


async def test_what_is_refused_is_told_as_well(world: World) -> None:
    """A viewer's try, a bad body, a name that is not there, a page in a browser."""
    kept = Kept()
    api = api_of(world.nodes["m1"], kept)
    await api.handle(request("DELETE", "/services/secretive", caller=VIEWER))
    await ask(api, "POST", "/services/create", b"{")
    await ask(api, "POST", "/services/nosuch/update", SPEC, version="1", registryAuthFrom="hunter2")
    await api.handle(attrs.evolve(request("DELETE", "/services/x"), headers={"origin": "https://evil.example"}))
    told = [(entry.caller.name, entry.path, entry.status, entry.query, entry.about) for entry in kept.entries]
    assert told == [
        ("watcher", "/services/secretive", 403, {}, {"reference": "secretive"}),
        ("", "/services/create", 400, {}, {}),
        ("", "/services/nosuch/update", 400, {"version": "1"}, {"reference": "nosuch"}),
        ("", "/services/x", 403, {}, {"reference": "x"}),
    ]


async def test_who_reads_secrets_is_told_and_who_looks_around_is_not(world: World) -> None:
    """Join tokens and backups; not lists."""
    kept = Kept()
    api = api_of(world.nodes["m1"], kept)
    for path in ("/swarm", "/swarm/unlockkey", "/services", "/nodes", "/info", "/_ping", "/status"):
        await api.handle(request("GET", path))
    backup = await api.handle(request("GET", "/swarm/backup"))
    await backup.chunks.aclose()  # type: ignore[attr-defined]
    assert [entry.path for entry in kept.entries] == ["/swarm", "/swarm/unlockkey", "/swarm/backup"]


async def test_a_defect_is_told_as_one(world: World) -> None:
    """The audit log has what could not be answered, too."""
    kept = Kept()
    api = api_of(world.nodes["m1"], kept)

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    world.manager("m1").store.update = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await ask(api, "DELETE", "/services/secretive")
    assert [entry.status for entry in kept.entries] == [500]
