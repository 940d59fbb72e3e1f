"""Writes through a manager that does not lead, over changes of leadership."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from api_world import World, ask, request

from swarmpy.api import forward
from swarmpy.errors import (
    BadCertificate,
    CertificateRevoked,
    ConnectionFailed,
    DeadlineExceeded,
    NodeRemoved,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    SwarmpyError,
    Unavailable,
)
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer

SPEC = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}


@pytest.fixture
async def world() -> World:
    """Three managers; m1 leads."""
    world = World("m1", "m2", "m3")
    world.elect("m1")
    await world.found()
    return world


async def test_a_follower_forwards_a_write(world: World) -> None:
    """What is written through a follower is there on every manager, and errors come back as they are."""
    assert (await ask(world.apis["m2"], "POST", "/services/create", SPEC))[0] == 201
    for name in ("m1", "m2", "m3"):
        assert (await ask(world.apis[name], "GET", "/services/web"))[0] == 200
    status, answer = await ask(world.apis["m3"], "POST", "/services/create", SPEC)
    assert (status, answer["message"].split(":")[0]) == (409, "name conflicts with an existing object")
    assert world.manager("m2").calls == 1


async def test_a_read_waits_for_the_barrier_and_is_not_forwarded(world: World) -> None:
    """Reads are answered from this manager's own state, made current first."""
    await ask(world.apis["m2"], "GET", "/services")
    assert (world.manager("m2").barriers, world.manager("m2").calls) == (1, 0)


async def test_a_write_waits_for_the_next_leader(world: World) -> None:
    """After the leader's death a write through a follower is done as soon as another one leads."""
    world.kill("m1")
    writing = asyncio.ensure_future(ask(world.apis["m2"], "POST", "/services/create", SPEC))
    deadline = asyncio.get_running_loop().time() + 5
    while world.manager("m2").calls < 2:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)
    world.elect("m3")
    elected_at = asyncio.get_running_loop().time()
    assert (await writing)[0] == 201
    assert asyncio.get_running_loop().time() - elected_at < 0.5
    assert world.manager("m2").store.view().service_by_name("web") is not None


async def test_the_follower_itself_may_become_the_leader(world: World) -> None:
    """A write that waits on the manager that is elected is done there."""
    world.kill("m1")
    writing = asyncio.ensure_future(ask(world.apis["m2"], "POST", "/services/create", SPEC))
    await asyncio.sleep(0)
    world.elect("m2")
    assert (await writing)[0] == 201


async def test_a_leader_that_is_deposed_before_it_proposes_passes_the_write_on(world: World) -> None:
    """NotLeader from the store means that nothing was done: the new leader does it."""
    world.manager("m1").store.set_proposer(None)
    writing = asyncio.ensure_future(ask(world.apis["m1"], "POST", "/services/create", SPEC))
    await asyncio.sleep(0)
    world.elect("m2")
    assert (await writing)[0] == 201


@pytest.mark.parametrize(
    "error", [NotLeader(), ConnectionFailed("refused"), NoQuorum("none"), Unavailable("too much in flight")]
)
async def test_a_write_is_tried_again_when_surely_nothing_was_done(world: World, error: Unavailable) -> None:
    """The second try succeeds."""
    manager = world.manager("m2")

    async def once(payload: Any) -> Any:
        manager.on_call = None
        raise error

    manager.on_call = once
    assert (await ask(world.apis["m2"], "POST", "/services/create", SPEC))[0] == 201
    assert manager.calls == 2


@pytest.mark.parametrize("error", [CertificateRevoked("revoked"), NodeRemoved("removed"), BadCertificate("old")])
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_manager_that_is_none_any_more_says_so(world: World, error: SwarmpyError, is_first: bool) -> None:
    """The client did nothing wrong: he is to ask another manager. An earlier try may have been done all the same."""
    manager = world.manager("m2")
    answers: list[SwarmpyError] = [error] if is_first else [OutcomeUnknown("lost"), error]

    async def refuse(payload: Any) -> Any:
        raise answers.pop(0)

    manager.on_call = refuse
    status, answer = await ask(world.apis["m2"], "POST", "/services/create", SPEC)
    assert (status, answers) == (503, [])
    begins = "the write was not done: " if is_first else "the write may or may not have happened (lost), and now "
    assert answer["message"].startswith(begins)
    assert str(error) in answer["message"]


async def test_a_leader_that_changes_is_not_waited_for(world: World) -> None:
    """A frozen leader holds a write only until another one is known: that one is asked, the call is cancelled."""
    manager = world.manager("m2")
    ended: list[bool] = []

    async def frozen(payload: Any) -> Any:
        manager.on_call = None
        world.elect("m3")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    manager.on_call = frozen
    assert (await asyncio.wait_for(ask(world.apis["m2"], "POST", "/services/create", SPEC), 5))[0] == 201
    assert ended == [True]


async def test_without_a_leader_writes_and_reads_end_in_time(world: World) -> None:
    """Both give up with 503 and say what is needed."""
    world.elect(None)
    manager = world.manager("m2")
    with pytest.raises(NoQuorum, match="more than half of the managers are online"):
        await forward.write(manager, request("POST", "/x"), _never, timeout=0.1)
    with pytest.raises(NoQuorum, match="more than half of the managers are online"):
        await forward.read_barrier(manager, timeout=0.1)
    assert manager.calls == 0


async def test_a_read_waits_for_the_next_leader(world: World) -> None:
    """A read during an election is answered after it."""
    world.elect(None)
    reading = asyncio.ensure_future(ask(world.apis["m2"], "GET", "/services"))
    await asyncio.sleep(0)
    world.elect("m3")
    assert await reading == (200, [])


async def test_a_cancelled_write_leaves_nothing_running(world: World) -> None:
    """When the client goes away, the call to the leader ends too."""
    manager = world.manager("m2")
    started, ended = asyncio.Event(), asyncio.Event()

    async def slow(payload: Any) -> Any:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    manager.on_call = slow
    writing = asyncio.ensure_future(ask(world.apis["m2"], "POST", "/services/create", SPEC))
    await started.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert ended.is_set()


async def test_the_leader_answers_forwarded_writes_only(world: World) -> None:
    """Reads, local calls and unknown paths are not executed for others; a follower refuses with NotLeader."""
    peer = Peer(node_id=NodeId("m2"), role=Role.MANAGER)
    for method, path in (("GET", "/services"), ("POST", "/swarm/leave"), ("POST", "/zzz")):
        answer = await world.apis["m1"].on_forwarded(peer, request(method, path).to_plain())
        assert answer["status"] == 404
    with pytest.raises(NotLeader):
        await world.apis["m3"].on_forwarded(peer, request("POST", "/services/create", SPEC).to_plain())
    assert world.nodes["m1"].leaves == []


async def test_a_node_that_stopped_managing_refuses_forwarded_writes(world: World) -> None:
    """A demoted manager sends the caller on to the next leader."""
    world.nodes["m1"].manager = None
    with pytest.raises(NotLeader):
        await world.apis["m1"].on_forwarded(Peer(), request("POST", "/services/create", SPEC).to_plain())


async def test_a_refusal_of_a_leader_that_leads_no_more_is_no_answer(world: World) -> None:
    """Deposed while it looked: the next leader is asked, which may know better."""
    manager = world.manager("m1")
    barriers = 0

    async def overtaken(timeout: float) -> None:
        nonlocal barriers
        barriers += 1
        world.elect("m3")

    manager.read_barrier = overtaken  # type: ignore[method-assign]
    status, _ = await ask(world.apis["m1"], "DELETE", "/services/none")
    assert (status, barriers, manager.calls) == (404, 1, 1)


async def test_a_refusal_waits_for_a_majority(world: World) -> None:
    """A leader that cannot tell whether it still leads refuses nothing; what is malformed needs no majority."""
    manager = world.manager("m1")
    waiting = asyncio.Event()

    async def cut_off(timeout: float) -> None:
        waiting.set()
        raise DeadlineExceeded("no majority")

    manager.read_barrier = cut_off  # type: ignore[method-assign]
    assert (await ask(world.apis["m1"], "POST", "/services/create", b"{"))[0] == 400
    assert not waiting.is_set()
    refusing = asyncio.ensure_future(ask(world.apis["m1"], "DELETE", "/services/none"))
    await waiting.wait()
    await asyncio.sleep(0)
    assert not refusing.done()
    world.elect("m2")
    assert (await refusing)[0] == 404


async def _never(_request: Any) -> Any:
    raise AssertionError("not the leader")
