"""Autolock in the API: the key, who is shown it, and a node that is locked."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from api_world import BenchNode, World, api_of, ask

from swarmpy.api.api import Api
from swarmpy.model import codec
from swarmpy.security.sealing import UnlockKey

LOCKED = (
    'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.'
)


@pytest.fixture
async def world() -> World:
    """One manager, which leads, of a cluster whose managers read the newest schema version."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    await world.manager("m1").store.update(
        lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=codec.SCHEMA_VERSION))
    )
    return world


@pytest.fixture
def api(world: World) -> Api:
    """Its API."""
    return world.apis["m1"]


@pytest.fixture
def locked() -> BenchNode:
    """A manager that was started and has its keys sealed."""
    return BenchNode("m1", local_state="locked")


async def update(api: Api, body: Any, **query: str) -> None:
    """``POST /swarm/update``."""
    _, swarm = await ask(api, "GET", "/swarm")
    assert (await ask(api, "POST", "/swarm/update", body, version=str(swarm["Version"]["Index"]), **query))[0] == 200


async def key(api: Api) -> str:
    """``GET /swarm/unlockkey``."""
    status, answer = await ask(api, "GET", "/swarm/unlockkey")
    assert (status, list(answer)) == (200, ["UnlockKey"])
    return str(answer["UnlockKey"])


async def test_autolock_needs_managers_that_read_it() -> None:
    """One of the version before would start without a key."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    api = world.apis["m1"]
    _, swarm = await ask(api, "GET", "/swarm")
    body = {"EncryptionConfig": {"AutoLockManagers": True}}
    status, answer = await ask(api, "POST", "/swarm/update", body, version=str(swarm["Version"]["Index"]))
    assert (status, "this needs schema version 7" in answer["message"]) == (400, True)


async def test_the_key_comes_with_autolock_and_goes_with_it(world: World, api: Api) -> None:
    """It stays over other changes, is replaced when that is asked for, and is another one when autolock comes back."""
    assert await key(api) == ""
    await update(api, {}, rotateManagerUnlockKey="true")
    assert await key(api) == "", "as with Docker: there is none to replace"
    await update(api, {"EncryptionConfig": {"AutoLockManagers": True}})
    first = await key(api)
    assert UnlockKey.parse(first).text == first
    assert (await ask(api, "GET", "/swarm"))[1]["Spec"]["EncryptionConfig"] == {"AutoLockManagers": True}
    await update(api, {"Labels": {"a": "b"}})
    assert await key(api) == first
    await update(api, {}, rotateManagerUnlockKey="true")
    second = await key(api)
    await update(api, {"EncryptionConfig": {"AutoLockManagers": False}})
    assert await key(api) == ""
    await update(api, {"EncryptionConfig": {"AutoLockManagers": True}})
    assert len({first, second, await key(api)}) == 3
    assert first not in str(await ask(api, "GET", "/swarm"))
    assert "UnlockKey" not in repr(world.manager("m1").store.view().cluster())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nodes"), ("GET", "/swarm"), ("GET", "/swarm/unlockkey"), ("GET", "/services/x"), ("GET", "/secrets"),
        ("POST", "/swarm/init"), ("POST", "/swarm/join"), ("POST", "/swarm/restore"), ("POST", "/swarm/update"),
        ("POST", "/services/create"), ("GET", "/swarm/backup"),
    ],
)  # fmt: skip
async def test_a_locked_node_does_nothing_else(locked: BenchNode, method: str, path: str) -> None:
    """In Docker's words."""
    status, answer = await ask(api_of(locked), method, path, {} if method == "POST" else None)
    assert (status, answer["message"]) == (503, LOCKED)


async def test_a_locked_node_says_so(locked: BenchNode) -> None:
    """Where clients look for it."""
    assert (await ask(api_of(locked), "HEAD", "/_ping"))[0] == 200
    assert (await ask(api_of(locked), "GET", "/version"))[0] == 200
    swarm = (await ask(api_of(locked), "GET", "/info"))[1]["Swarm"]
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"]) == ("locked", False)


async def test_leaving_a_locked_swarm(locked: BenchNode) -> None:
    """Only by force."""
    status, answer = await ask(api_of(locked), "POST", "/swarm/leave")
    assert (status, answer["message"]) == (
        503,
        "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.",
    )
    assert (await ask(api_of(locked), "POST", "/swarm/leave", force="1"))[0] == 200
    assert locked.leaves == [(True, None)]


async def test_unlocking(locked: BenchNode) -> None:
    """With what is no key, with another one, with the right one, and once more."""
    for text, status, words in (
        ("", 400, "invalid key"),
        ("SWMKEY-1-short", 400, "invalid key"),
        (UnlockKey(bytes(32)).text, 400, "swarm could not be unlocked: invalid key provided"),
        (locked.unlock_key.text, 200, ""),
        (locked.unlock_key.text, 409, "swarm is not locked"),
    ):
        found, answer = await ask(api_of(locked), "POST", "/swarm/unlock", {"UnlockKey": text})
        assert found == status
        assert words in (answer or {"message": ""})["message"]
        assert not text or text not in str(answer)


async def test_founding_with_autolock() -> None:
    """As the docker CLI asks for it, and as its spec does."""
    alone = BenchNode("", local_state="inactive")
    for body in ({"AutoLockManagers": True}, {"Spec": {"EncryptionConfig": {"AutoLockManagers": True}}}, {}):
        await ask(api_of(alone), "POST", "/swarm/init", {"ListenAddr": "0.0.0.0:2377", **body})
    assert [asked.spec.autolock_managers for asked in alone.inits] == [True, True, False]
