"""Idempotency-Key: a write is done once, whatever becomes of its answers and whoever leads."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from api_world import World, ask, decoded, request

from swarmpy.api import forward
from swarmpy.errors import ConnectionFailed, OutcomeUnknown
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer

PEER = Peer(node_id=NodeId("m2"), role=Role.MANAGER)
SPEC = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}


@pytest.fixture
async def world() -> World:
    """Three managers; m1 leads."""
    world = World("m1", "m2", "m3")
    world.elect("m1")
    await world.found()
    return world


async def keyed(
    world: World, name: str, key: str, method: str, target: str, body: object = None, **query: str
) -> tuple[int, Any]:
    """The answer of a manager to a request with a key."""
    asked = attrs.evolve(request(method, target, body, **query), headers={"idempotency-key": key})
    return decoded(await world.apis[name].handle(asked))


async def create(world: World, name: str, key: str, spec: object = SPEC) -> tuple[int, Any]:
    """The answer of a manager to the creation of a service."""
    return await keyed(world, name, key, "POST", "/services/create", spec)


def names(world: World) -> list[str]:
    """Of all services."""
    return sorted(s.spec.name for s in world.manager("m3").store.view().services())


async def test_the_same_key_gives_the_same_answer(world: World) -> None:
    """Through any manager and under any leader there is one service, and its id is the first one."""
    first = await create(world, "m1", "k")
    assert first[0] == 201
    assert await create(world, "m2", "k") == first
    world.elect("m3")
    for name in ("m1", "m2", "m3"):
        assert await create(world, name, "k") == first
    assert (await create(world, "m1", "another"))[0] == 409
    assert names(world) == ["web"]


async def test_a_service_without_a_name_is_created_once(world: World) -> None:
    """Its name is made from the first id."""
    spec = {"TaskTemplate": SPEC["TaskTemplate"]}
    first, second = await create(world, "m1", "k", spec), await create(world, "m2", "k", spec)
    assert first == second
    assert names(world) == [f"service-{first[1]['ID'][:8]}"]


async def test_every_write_can_be_repeated(world: World) -> None:
    """Update, rollback, removal, node and cluster: the repetition is answered as the first was, and does nothing."""
    created = (await create(world, "m1", "create"))[1]["ID"]
    store = world.manager("m1").store
    service = store.view().service(created)
    node = store.view().node("w1")
    assert service is not None
    assert node is not None
    drained = {"Role": "worker", "Availability": "drain"}
    swarm = (await ask(world.apis["m1"], "GET", "/swarm"))[1]
    writes: list[tuple[str, str, object, dict[str, str]]] = [
        ("POST", f"/services/{created}/update", {**SPEC, "Labels": {"a": "b"}}, {"version": str(service.meta.version)}),
        ("POST", "/nodes/w1/update", drained, {"version": str(node.meta.version)}),
        (
            "POST",
            "/swarm/update",
            swarm["Spec"],
            {"version": str(swarm["Version"]["Index"]), "rotateWorkerToken": "true"},
        ),
        ("DELETE", f"/services/{created}", None, {}),
        ("DELETE", "/nodes/w1", None, {"force": "true"}),
    ]
    for i, (method, target, body, query) in enumerate(writes):
        first = await keyed(world, "m1", f"key-{i}", method, target, body, **query)
        assert first[0] == 200
        version = store.version
        world.elect("m2" if world.leader_id == "m1" else "m1")
        assert await keyed(world, "m3", f"key-{i}", method, target, body, **query) == first
        assert store.version == version
        assert (await ask(world.apis["m3"], method, target, body, **query))[0] >= 400


async def test_a_key_is_for_one_request(world: World) -> None:
    """The same key with another body, path or query is refused with a message that says why."""
    await create(world, "m1", "k")
    for method, target, body in (
        ("POST", "/services/create", {**SPEC, "Name": "other"}),
        ("DELETE", "/services/web", None),
    ):
        status, answer = await keyed(world, "m2", "k", method, target, body)
        assert status == 400
        assert "use a new key" in answer["message"]
    assert names(world) == ["web"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "caf\u00e9", "a\tb"])
async def test_keys_that_are_none(world: World, key: str) -> None:
    """400, on the manager that was asked, and nothing is done."""
    for name in ("m1", "m2"):
        status, answer = await create(world, name, key)
        assert status == 400
        assert "Idempotency-Key: give 1 to 255 visible ASCII characters" in answer["message"]
    assert names(world) == []
    assert world.manager("m2").calls == 0


async def test_all_visible_characters_make_a_key(world: World) -> None:
    """255 of them, too."""
    key = "".join(map(chr, range(33, 127)))
    assert (await create(world, "m2", key))[0] == 201
    assert (await create(world, "m2", (key * 3)[:255], {**SPEC, "Name": "second"}))[0] == 201


@pytest.mark.parametrize("key", ["k", None])
@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_answer_is_asked_for_again(world: World, done: bool, key: str | None) -> None:
    """The leader dies with the answer: the next one is asked with the same key, be it the client's or a made-up one."""
    follower = world.manager("m2")
    ids = []

    async def dying(payload: Any) -> Any:
        follower.on_call = None
        if done:
            ids.append((await world.apis["m1"].on_forwarded(PEER, payload))["body"])
        world.kill("m1")
        raise OutcomeUnknown("m1: the connection broke before the answer came")

    follower.on_call = dying
    creating = create(world, "m2", key) if key else ask(world.apis["m2"], "POST", "/services/create", SPEC)
    running = asyncio.ensure_future(creating)
    async with asyncio.timeout(5):
        while follower.calls < 3:
            await asyncio.sleep(0)
    world.elect("m3")
    status, answer = await running
    assert status == 201
    assert names(world) == ["web"]
    service = follower.store.view().service_by_name("web")
    assert service is not None
    assert answer == {"ID": service.id}
    assert all(answer["ID"].encode() in body for body in ids)


async def test_a_write_whose_leader_is_deposed_under_it_is_repeated(world: World) -> None:
    """The manager that was asked was the leader, lost its office with the write in flight, and asks the next one."""
    store = world.manager("m1").store
    first = True

    class Losing:
        """The leader's log at the moment it stops leading: the entry came through, the news did not."""

        def propose(self, data: bytes) -> Any:
            nonlocal first
            assert first, "proposed again by the old leader"
            first = False
            done = world.log.propose(data)
            lost = asyncio.get_running_loop().create_future()
            lost.set_exception(OutcomeUnknown("this manager stopped leading"))
            world.elect("m2")
            return attrs.evolve(done, done=lost)

    store.set_proposer(Losing())
    status, answer = await create(world, "m1", "k")
    assert status == 201
    assert names(world) == ["web"]
    assert await create(world, "m3", "k") == (status, answer)


async def test_giving_up_says_whether_anything_was_done(world: World) -> None:
    """After one lost answer nobody knows, whatever came then; the message names the key to ask again with."""
    manager = world.manager("m2")
    calls = 0

    async def lost(payload: Any) -> Any:
        nonlocal calls
        calls += 1
        raise OutcomeUnknown("the answer was lost") if calls == 1 else ConnectionFailed("refused")

    manager.on_call = lost
    asked = request("POST", "/services/create", SPEC).keyed("k")
    with pytest.raises(
        OutcomeUnknown, match=r"may or may not have happened \(the answer was lost\).*Idempotency-Key k"
    ):
        await forward.write(manager, asked, _never, timeout=0.1)
    assert calls > 1


async def _never(_request: Any) -> Any:
    raise AssertionError("not the leader")
