"""Secrets and configs by way of the API, on real stores: Docker's answers, and what is Docker's no more."""

from __future__ import annotations

import base64
import json
from typing import Any

import attrs
import pytest
from api_world import VIEWER as WATCHER
from api_world import World, api_of, ask, decoded, request

from swarmpy.api import data
from swarmpy.api.api import Api
from swarmpy.api.audit import AuditEntry
from swarmpy.api.callers import Door
from swarmpy.api.request import StreamedResponse
from swarmpy.model import codec

VIEWER = attrs.evolve(WATCHER, door=Door.SOCKET)
"""Whom no certificate has to be known of."""
BOTH = pytest.mark.parametrize("word", ["secret", "config"])
DATA = b"hunter2, and nobody is to see it"


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


def body(name: str, content: bytes = DATA, **fields: Any) -> dict[str, Any]:
    """What clients send."""
    return {"Name": name, "Labels": {}, "Data": b64(content), **fields}


@pytest.fixture
async def world() -> World:
    """One manager that leads."""
    world = World("m1", "m2")
    world.elect("m1")
    await world.found(schema=codec.SCHEMA_VERSION)
    return world


@pytest.fixture
def api(world: World) -> Api:
    """The leader's API."""
    return world.apis["m1"]


def spec(name: str, *references: tuple[str, str, str, str], **container: Any) -> dict[str, Any]:
    """A service spec with references ``(word, id, name, target)``."""
    found: dict[str, Any] = {"Image": "busybox", **container}
    for word, object_id, object_name, target in references:
        kind = word.capitalize()
        file = {"Name": target, "UID": "0", "GID": "0", "Mode": 0o440}
        reference = {"File": file, f"{kind}ID": object_id, f"{kind}Name": object_name}
        found.setdefault(f"{kind}s", []).append(reference)
    return {"Name": name, "TaskTemplate": {"ContainerSpec": found}}


async def create(api: Api, word: str, name: str, content: bytes = DATA, **fields: Any) -> str:
    status, answer = await ask(api, "POST", f"/{word}s/create", body(name, content, **fields))
    assert status == 201, answer
    return str(answer["ID"])


@BOTH
async def test_the_life_of_a_secret_or_config(api: Api, word: str) -> None:
    """Created, found by id, name and id prefix in this order, listed, relabelled, removed."""
    path = f"/{word}s"
    assert await ask(api, "GET", path) == (200, [])
    made = await create(api, word, "token", Labels={"a": "b"}, Templating={"Name": "golang"})
    named_like_an_id = await create(api, word, made[:5])
    _, shown = await ask(api, "GET", f"{path}/{made}")
    wanted = {"Name": "token", "Labels": {"a": "b"}, "Templating": {"Name": "golang"}}
    assert shown["Spec"] == (wanted if word == "secret" else {**wanted, "Data": b64(DATA)})
    assert shown["ID"] == made
    assert (await ask(api, "GET", f"{path}/token"))[1] == shown
    assert (await ask(api, "GET", f"{path}/{made[:7]}"))[1] == shown
    assert (await ask(api, "GET", f"{path}/{made[:5]}"))[1]["ID"] == named_like_an_id
    assert await ask(api, "GET", f"{path}/tok") == (404, {"message": f"{word} tok not found"})
    version = str(shown["Version"]["Index"])
    relabelled = {**body("token"), "Labels": {"c": "d"}}
    assert await ask(api, "POST", f"{path}/{made}/update", relabelled, version=version) == (200, None)
    assert await ask(api, "POST", f"{path}/{made}/update", relabelled, version=version) == (
        500,
        {"message": "update out of sequence"},
    )
    _, listed = await ask(api, "GET", path)
    assert [(item["ID"], item["Spec"]["Labels"]) for item in listed] == [(made, {"c": "d"}), (named_like_an_id, {})]
    assert await ask(api, "DELETE", f"{path}/token") == (204, None)
    assert await ask(api, "DELETE", f"{path}/token") == (404, {"message": f"{word} token not found"})


@BOTH
async def test_only_labels_may_be_updated(api: Api, word: str) -> None:
    """Who sends the same data again, as stack deploy does, or none, is let through."""
    made = await create(api, word, "token")

    async def update(sent: dict[str, Any]) -> tuple[int, Any]:
        _, shown = await ask(api, "GET", f"/{word}s/{made}")
        return await ask(api, "POST", f"/{word}s/{made}/update", sent, version=str(shown["Version"]["Index"]))

    refused = (400, {"message": "only updates to Labels are allowed"})
    assert await update(body("token")) == (200, None)
    assert await update({"Name": "token", "Labels": {"x": "y"}}) == (200, None)
    assert await update(body("token", b"other")) == refused
    assert await update(body("token", DATA + b"!")) == refused
    assert await update(body("other")) == refused
    assert await update({}) == refused


@BOTH
async def test_lists_are_filtered(api: Api, word: str) -> None:
    """By id and name prefix, whole name and labels."""
    one = await create(api, word, "web-token", Labels={"stack": "web"})
    two = await create(api, word, "web-token-2", Labels={"stack": "db"})

    async def ids(filters: dict[str, Any]) -> set[str]:
        status, found = await ask(api, "GET", f"/{word}s", filters=json.dumps(filters))
        assert status == 200, found
        return {item["ID"] for item in found}

    assert await ids({"name": ["web"]}) == {one, two}
    assert await ids({"name": {"web-token-2": True}}) == {two}
    assert await ids({"names": ["web-token"]}) == {one}
    assert await ids({"id": [one[:8]]}) == {one}
    assert await ids({"label": ["stack=db"]}) == {two}
    assert await ids({"label": ["stack"], "name": ["none"]}) == set()
    status, answer = await ask(api, "GET", f"/{word}s", filters='{"zz":["a"]}')
    assert (status, answer["message"].partition(" (")[0]) == (400, "Invalid filter 'zz'")


@pytest.mark.parametrize(
    ("word", "sent", "message"),
    [
        ("secret", body("s", b""), "secret data must be larger than 0 and less than 512000 bytes"),
        ("secret", body("s", bytes(512_000)), "secret data must be larger than 0 and less than 512000 bytes"),
        ("secret", {"Name": "s"}, "secret data must be larger than 0 and less than 512000 bytes"),
        ("config", body("c", b""), "config data must be larger than 0 and at most 1024000 bytes"),
        ("config", body("c", bytes(1_024_001)), "config data must be larger than 0 and at most 1024000 bytes"),
        ("secret", {"Name": "s", "Data": "a?b="}, "illegal base64 data at input byte 1"),
        ("secret", {"Name": "s", "Data": "aGkhaGk"}, "illegal base64 data at input byte 4"),
        ("secret", {"Name": "s", "Data": 5}, "Data: expected string, got number"),
        ("secret", body(""), "name must be provided"),
        ("config", body("-x"), ("invalid name '-x', only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end "
         "character must be [a-zA-Z0-9]")),
        ("config", body("a" * 65), (f"invalid name '{'a' * 57}...', only 64 [a-zA-Z0-9-_.] characters allowed, and the "
         "start and end character must be [a-zA-Z0-9]")),
        ("secret", body("s", Driver={"Name": "vault"}), ("secret driver 'vault': secrets of drivers are not supported: "
         "create the secret with its data")),
        ("config", body("c", Templating={"Name": "jinja"}), ("config c: unknown template driver jinja: use golang, or "
         "none")),
        ("secret", body("s", Labels={"": "x"}), "secret labels: a label has an empty name"),
        ("secret", body("s", Labels={"x": "y" * 70_000}), ("secret labels: they have 70001 bytes, at most 65536 are "
         "possible")),
    ],
)  # fmt: skip
async def test_what_cannot_be_created(api: Api, word: str, sent: dict[str, Any], message: str) -> None:
    """In Docker's words where it has some; nothing of the data is in the answer."""
    assert await ask(api, "POST", f"/{word}s/create", sent) == (400, {"message": message})
    assert await ask(api, "GET", f"/{word}s") == (200, [])


async def test_the_largest_ones(api: Api) -> None:
    """A secret of one byte less than 500 KiB, a config of 1000 KiB; base64 in lines, as some write it."""
    await create(api, "secret", "s", bytes(range(256)) * 1999 + b"x" * 255)
    made = await create(api, "config", "c", bytes(range(256)) * 4000)
    _, shown = await ask(api, "GET", f"/configs/{made}")
    assert base64.b64decode(shown["Spec"]["Data"]) == bytes(range(256)) * 4000
    lines = base64.encodebytes(b"x" * 200).decode()
    assert lines.count("\n") > 1
    assert (await ask(api, "POST", "/configs/create", {"Name": "lines", "Data": lines}))[0] == 201
    assert (await ask(api, "GET", "/configs/lines"))[1]["Spec"]["Data"] == b64(b"x" * 200)


@BOTH
async def test_a_name_is_taken_once(api: Api, word: str) -> None:
    """A secret and a config may share one; a repeated request makes one."""
    await create(api, "secret", "token")
    await create(api, "config", "token")
    assert await ask(api, "POST", f"/{word}s/create", body("token")) == (
        409,
        {"message": f"{word} token already exists"},
    )
    twice = attrs.evolve(request("POST", f"/{word}s/create", body("once")), headers={"idempotency-key": "k"})
    first, second = decoded(await api.handle(twice)), decoded(await api.handle(twice))
    assert first == second
    assert first[0] == 201


# -- services that refer to them --------------------------------------------------------------------------------------


async def test_a_service_refers_to_secrets_and_configs(api: Api) -> None:
    """What was sent comes back; who is referred to cannot be removed, and is told by whom."""
    secret, config = await create(api, "secret", "tok"), await create(api, "config", "cfg")
    sent = spec("web", ("secret", secret, "tok", "tok"), ("config", config, "cfg", "/etc/cfg"))
    assert (await ask(api, "POST", "/services/create", sent))[0] == 201
    _, shown = await ask(api, "GET", "/services/web")
    container = shown["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert container["Secrets"] == sent["TaskTemplate"]["ContainerSpec"]["Secrets"]
    assert container["Configs"] == sent["TaskTemplate"]["ContainerSpec"]["Configs"]
    in_use = "secret 'tok' is in use by the following service: web"
    assert await ask(api, "DELETE", "/secrets/tok") == (400, {"message": in_use})
    await ask(api, "POST", "/services/create", {**sent, "Name": "api"})
    in_use = "config 'cfg' is in use by the following services: api, web"
    assert await ask(api, "DELETE", f"/configs/{config}") == (400, {"message": in_use})
    version = str(shown["Version"]["Index"])
    assert (await ask(api, "POST", "/services/web/update", spec("web"), version=version))[0] == 200
    assert (await ask(api, "DELETE", "/services/api"))[0] == 200
    assert await ask(api, "DELETE", "/configs/cfg") == (204, None)
    assert await ask(api, "DELETE", "/secrets/tok") == (204, None)
    _, shown = await ask(api, "GET", "/services/web")
    status, answer = await ask(
        api, "POST", "/services/web/update", version=str(shown["Version"]["Index"]), rollback="previous"
    )
    assert (status, answer["message"]) == (
        400,
        "service web cannot be rolled back: its previous spec refers to what was removed: tok, cfg",
    )


async def test_references_that_cannot_be(api: Api) -> None:
    """In swarmkit's words."""
    one, two = await create(api, "secret", "one"), await create(api, "secret", "two")
    config = await create(api, "config", "cfg")

    async def refused(*references: tuple[str, str, str, str]) -> str:
        status, answer = await ask(api, "POST", "/services/create", spec("web", *references))
        assert status == 400, answer
        return str(answer["message"])

    assert await refused(("secret", "nope", "one", "t")) == "secret not found: one"
    assert await refused(("secret", one, "two", "t")) == "secret not found: two"
    assert await refused(("config", one, "a", "t"), ("config", two, "b", "u")) == "configs not found: a, b"
    assert await refused(("secret", one, "one", "t"), ("secret", two, "two", "t")) == (
        "secret references 'one' and 'two' have a conflicting target: 't'"
    )
    assert await refused(("secret", one, "one", "t"), ("secret", two, "two", "/run/secrets/./t")) == (
        "secret references 'one' and 'two' have a conflicting target: '/run/secrets/./t'"
    )
    assert await refused(("secret", one, "one", "t"), ("config", config, "cfg", "run/secrets/t")) == (
        "secret and config references 'one' and 'cfg' have a conflicting target: 'run/secrets/t'"
    )
    assert await refused(("secret", one, "", "t")) == (
        "malformed secret reference: it needs the id and the name of a secret"
    )
    assert await refused(("config", config, "cfg", "")) == (
        "malformed file config reference, invalid target file name provided"
    )
    assert "write it without '..'" in await refused(("secret", one, "one", "../../etc/passwd"))
    assert "256 are possible" in await refused(*(("secret", one, "one", f"t{n}") for n in range(257)))
    bare = spec("web")
    bare["TaskTemplate"]["ContainerSpec"]["Secrets"] = [{"SecretID": one, "SecretName": "one"}]
    status, answer = await ask(api, "POST", "/services/create", bare)
    assert (status, answer["message"]) == (400, "malformed secret reference, no target provided")
    bare["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["File"] = {"Name": "x", "UID": "root"}
    status, answer = await ask(api, "POST", "/services/create", bare)
    assert (status, answer["message"]) == (
        400,
        "malformed file secret reference, invalid target of one: UID: 'root' is not the number of a user or group",
    )


# -- versions ---------------------------------------------------------------------------------------------------------


async def inspect(api: Api, path: str) -> dict[str, Any]:
    status, shown = await ask(api, "GET", path)
    assert status == 200, shown
    return dict(shown)


def versions(shown: dict[str, Any]) -> list[tuple[int, list[str], list[str]]]:
    return [(v["Number"], v["Services"], v["PreviousOf"]) for v in shown["Versions"]]


@BOTH
async def test_a_new_version_is_an_update_of_the_services_that_use_it(api: Api, word: str) -> None:
    """In one entry of the log; each keeps what it was. Lists and names show the latest, an old id its version."""
    old = await create(api, word, "tok", Labels={"a": "b"})
    for name in ("web", "api"):
        await ask(api, "POST", "/services/create", spec(name, (word, old, "tok", "tok")))
    await ask(api, "POST", "/services/create", spec("other"))
    before = await inspect(api, "/services/other")
    status, made = await ask(api, "POST", f"/{word}s/tok/versions", {"Data": b64(b"new")})
    assert (status, made["Number"]) == (201, 2)
    written = []
    for name in ("web", "api"):
        service = await inspect(api, f"/services/{name}")
        (new,) = service["Spec"]["TaskTemplate"]["ContainerSpec"][f"{word.capitalize()}s"]
        (previous,) = service["PreviousSpec"]["TaskTemplate"]["ContainerSpec"][f"{word.capitalize()}s"]
        assert (new[f"{word.capitalize()}ID"], previous[f"{word.capitalize()}ID"]) == (made["ID"], old)
        written.append(service["Version"]["Index"])
    assert written[0] == written[1]
    assert await inspect(api, "/services/other") == before
    shown = await inspect(api, f"/{word}s/tok")
    assert shown["Version"]["Index"] == written[0]
    assert (shown["ID"], shown["Number"], shown["Spec"]["Labels"]) == (made["ID"], 2, {"a": "b"})
    assert versions(shown) == [(1, [], ["api", "web"]), (2, ["api", "web"], [])]
    assert [item["ID"] for item in (await ask(api, "GET", f"/{word}s"))[1]] == [made["ID"]]
    assert (await inspect(api, f"/{word}s/{old}"))["Number"] == 1
    in_use = f"{word} 'tok' is in use by the following services: api, web"
    assert await ask(api, "DELETE", f"/{word}s/tok") == (400, {"message": in_use})
    status, answer = await ask(api, "DELETE", f"/{word}s/{old}")
    assert status == 400
    assert "is its version 1, which goes away by itself" in answer["message"]


@BOTH
async def test_the_same_data_is_no_new_version(api: Api, word: str) -> None:
    """So that who does it twice rolls nothing twice; other labels are written."""
    made = await create(api, word, "tok")
    answer = (201, {"ID": made, "Number": 1})
    assert await ask(api, "POST", f"/{word}s/tok/versions", {"Data": b64(DATA)}) == answer
    assert await ask(api, "POST", f"/{word}s/tok/versions", {"Data": b64(DATA), "Labels": {"x": "y"}}) == answer
    shown = await inspect(api, f"/{word}s/tok")
    assert (shown["Number"], shown["Spec"]["Labels"]) == (1, {"x": "y"})
    status, answer_ = await ask(api, "POST", f"/{word}s/none/versions", {"Data": b64(DATA)})
    assert (status, answer_["message"]) == (404, f"{word} none not found")
    assert (await ask(api, "POST", f"/{word}s/tok/versions", {"Data": ""}))[0] == 400


async def test_who_went_back_stays_there(api: Api) -> None:
    """After a rollback, and whatever else is changed of the service then, until there is the next version."""
    old = await create(api, "secret", "tok")
    await ask(api, "POST", "/services/create", spec("web", ("secret", old, "tok", "tok")))
    await ask(api, "POST", "/secrets/tok/versions", {"Data": b64(b"second")})
    service = await inspect(api, "/services/web")
    version = str(service["Version"]["Index"])
    assert (await ask(api, "POST", "/services/web/update", version=version, rollback="previous"))[0] == 200
    assert versions(await inspect(api, "/secrets/tok")) == [(1, ["web"], []), (2, [], ["web"])]
    service = await inspect(api, "/services/web")
    changed = {**service["Spec"], "Labels": {"x": "y"}, "Mode": {"Replicated": {"Replicas": 3}}}
    changed["TaskTemplate"]["ContainerSpec"]["Env"] = ["A=1"]
    version = str(service["Version"]["Index"])
    assert (await ask(api, "POST", "/services/web/update", changed, version=version))[0] == 200
    assert versions(await inspect(api, "/secrets/tok")) == [(1, ["web"], []), (2, [], [])]
    _, made = await ask(api, "POST", "/secrets/tok/versions", {"Data": b64(b"third")})
    assert versions(await inspect(api, "/secrets/tok")) == [(1, [], ["web"]), (2, [], []), (3, ["web"], [])]
    assert made["Number"] == 3


async def test_a_superseded_version_is_for_those_who_have_it(api: Api) -> None:
    """A service that did not refer to it cannot begin to."""
    old = await create(api, "secret", "tok")
    await ask(api, "POST", "/services/create", spec("web", ("secret", old, "tok", "tok")))
    _, made = await ask(api, "POST", "/secrets/tok/versions", {"Data": b64(b"second")})
    refused = f"secret tok: {old} is its version 1, and version 2 is the latest: refer to {made['ID']}"
    status, answer = await ask(api, "POST", "/services/create", spec("api", ("secret", old, "tok", "tok")))
    assert (status, answer["message"]) == (400, refused)
    service = await inspect(api, "/services/web")
    back = spec("web", ("secret", old, "tok", "tok"))
    version = str(service["Version"]["Index"])
    assert (await ask(api, "POST", "/services/web/update", back, version=version))[0] == 200
    assert versions(await inspect(api, "/secrets/tok")) == [(1, ["web"], []), (2, [], ["web"])]


async def test_removing_a_name_removes_its_versions(api: Api) -> None:
    """And the name is free again."""
    await create(api, "config", "cfg")
    for number in range(3):
        await ask(api, "POST", "/configs/cfg/versions", {"Data": b64(b"v%d" % number)})
    assert len((await inspect(api, "/configs/cfg"))["Versions"]) == 4
    assert await ask(api, "DELETE", "/configs/cfg") == (204, None)
    assert await ask(api, "GET", "/configs") == (200, [])
    made = await create(api, "config", "cfg")
    assert versions(await inspect(api, f"/configs/{made}")) == [(1, [], [])]


# -- who sees what ----------------------------------------------------------------------------------------------------


class Kept:
    """An auditor that a test can look into."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def record(self, entry: AuditEntry) -> None:
        """Keep it."""
        self.entries.append(entry)


async def test_the_data_of_a_secret_never_comes_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """In no answer, no error, no line of the audit log, no log; nor do credentials for a registry."""
    audit = Kept()
    api = api_of(world.nodes["m1"], audit)
    auth = {"username": "bob", "password": "pa55word-of-bob"}
    header = {"x-registry-auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}
    answers: list[Any] = []

    async def told(method: str, path: str, sent: object = None, **query: str) -> Any:
        response = await api.handle(attrs.evolve(request(method, path, sent, **query), headers=header))
        answers.append((response.status, response.headers, response.body))
        return decoded(response)[1]

    made = (await told("POST", "/secrets/create", body("tok")))["ID"]
    await told("POST", "/secrets/create", body("tok"))
    await told("POST", "/secrets/create", body("-bad"))
    await told("POST", "/secrets/create", {"Name": "x", "Data": b64(DATA) + "?"})
    await told("POST", "/services/create", spec("web", ("secret", made, "tok", "tok")))
    await told("POST", "/secrets/tok/versions", {"Data": b64(DATA + b" at all")})
    await told("POST", "/secrets/tok/update", body("tok", b"hunter2 again"), version="1")
    for path in ("/secrets", "/secrets/tok", f"/secrets/{made}", "/services", "/services/web", "/status", "/info"):
        await told("GET", path)
    await told("DELETE", "/secrets/tok")
    store = world.leader.store
    everything = repr((answers, audit.entries, store.view().secrets(), capsys.readouterr()))
    assert store.view().secret(made) is not None
    for text in (b"hunter2", b"pa55word", b"unter2", b64(DATA)[:12].encode(), b64(b"hunter2")[:8].encode()):
        assert text.decode() not in everything
    assert {entry.path for entry in audit.entries} >= {"/secrets/create", "/secrets/tok/versions"}


async def test_a_viewer_sees_which_configs_there_are_and_not_what_is_in_them(api: Api) -> None:
    """As with the environment: what people put there is often secret."""
    made = await create(api, "config", "cfg", DATA)
    for path in ("/configs", f"/configs/{made}", "/configs/cfg"):
        answer = await api.handle(request("GET", path, caller=VIEWER))
        assert answer.status == 200
        text = answer.body.decode()
        assert b64(DATA) not in text
        assert b64(b"(hidden)") in text
        assert '"Name": "cfg"' in text


async def test_a_long_list_of_configs_is_made_while_it_is_sent(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """All configs of a cluster may be more than there is memory for."""
    monkeypatch.setattr(data, "MAX_AT_ONCE", 100)
    made = [await create(api, "config", f"c{number}", b"x" * 60) for number in range(3)]
    answer = await api.handle(request("GET", "/configs"))
    assert isinstance(answer, StreamedResponse)
    whole = b"".join([chunk async for chunk in answer.chunks])
    assert [item["ID"] for item in json.loads(whole)] == made
    assert not isinstance(await api.handle(request("GET", "/configs", caller=VIEWER)), StreamedResponse)
    one = await api.handle(request("GET", "/configs", filters='{"name":["c1"]}'))
    assert [item["ID"] for item in json.loads(one.body)] == [made[1]]


# -- credentials for registries ---------------------------------------------------------------------------------------


def with_auth(method: str, path: str, sent: object, auth: object, **query: str) -> Any:
    text = auth if isinstance(auth, str) else base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()
    return attrs.evolve(request(method, path, sent, **query), headers={"x-registry-auth": text})


BOB = {"username": "bob", "password": "one", "serveraddress": "r.example"}


async def test_credentials_of_a_registry_belong_to_the_service(world: World, api: Api) -> None:
    """Stored as a nameless secret; kept by updates that bring none, replaced by those that do, never shown."""
    view = world.leader.store.view
    status, made = decoded(await api.handle(with_auth("POST", "/services/create", spec("web"), BOB)))
    assert status == 201

    def pull() -> tuple[str | None, str | None]:
        service = view().services()[0]
        previous = service.previous_spec
        return (service.spec.task.container.pull_secret_id, previous and previous.task.container.pull_secret_id)

    async def update(auth: object = None, **query: str) -> int:
        shown = await inspect(api, "/services/web")
        sent = spec("web", Env=[f"V={shown['Version']['Index']}"])
        query["version"] = str(shown["Version"]["Index"])
        if auth is None:
            return (await ask(api, "POST", f"/services/{made['ID']}/update", sent, **query))[0]
        return (await api.handle(with_auth("POST", f"/services/{made['ID']}/update", sent, auth, **query))).status

    (secret,) = view().secrets()
    assert (secret.spec.name, json.loads(secret.spec.data)) == ("", BOB)
    assert pull() == (secret.id, None)
    assert await update() == 200
    assert pull() == (secret.id, secret.id)
    assert await update(BOB) == 200
    assert pull() == (secret.id, secret.id)
    assert await update({**BOB, "password": "two"}) == 200
    now, before = pull()
    assert (now != secret.id, before) == (True, secret.id)
    assert await update(registryAuthFrom="previous-spec") == 200
    assert pull() == (secret.id, now)
    assert await update(registryAuthFrom="spec") == 200
    assert pull() == (secret.id, secret.id)
    assert await update({}) == 200
    assert pull() == (None, secret.id)
    assert await update(registryAuthFrom="elsewhere") == 400
    assert await ask(api, "GET", "/secrets") == (200, [])
    assert (await ask(api, "GET", f"/secrets/{secret.id}"))[0] == 404
    assert (await ask(api, "GET", f"/secrets/{secret.id[:8]}"))[0] == 404
    assert (await ask(api, "DELETE", f"/secrets/{secret.id}"))[0] == 404
    status, answer = await ask(api, "POST", "/services/create", spec("api", ("secret", secret.id, "", "t")))
    assert status == 400
    assert "malformed secret reference" in answer["message"]


@pytest.mark.parametrize("auth", ["???", "bm8=", "W10=", base64.b64encode(b'{"username": 5}').decode()])
async def test_a_header_that_is_none_is_refused(api: Api, auth: str) -> None:
    """Without a word of what is in it."""
    status, answer = decoded(await api.handle(with_auth("POST", "/services/create", spec("web"), auth)))
    assert status == 400
    assert answer["message"].startswith("invalid X-Registry-Auth header: it is no ")


async def test_credentials_come_by_another_manager_too(world: World) -> None:
    """A request is forwarded with them, and one that is repeated with others is another one."""
    for number, auth in enumerate((BOB, {**BOB, "password": "two"})):
        asked = with_auth("POST", "/services/create", spec("web"), auth)
        asked = attrs.evolve(asked, headers={**asked.headers, "idempotency-key": "same"})
        status, answer = decoded(await world.apis["m2"].handle(asked))
        assert status == (201, 400)[number], answer
    (secret,) = world.leader.store.view().secrets()
    assert json.loads(secret.spec.data) == BOB
