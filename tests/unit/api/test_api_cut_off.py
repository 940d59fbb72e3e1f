"""A manager that is cut off lets no client wait; the cluster's timing and its quorum are guarded at the door."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from api_world import World, ask

from swarmpy.errors import FailedPrecondition, OutcomeUnknown

SPEC = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
WELL_BELOW_S = 3.0
"""A tenth of a second is what it takes; ten are what an ordinary election is waited for."""


@pytest.fixture
async def world() -> World:
    """Three managers; m1 leads."""
    world = World("m1", "m2", "m3")
    world.elect("m1")
    await world.found()
    return world


def cut_off(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no leader any more, and the manager says that it is cut off."""
    world.elect(None)
    manager = world.manager(name)
    status = attrs.evolve(manager.raft_status(), cut_off=True)
    monkeypatch.setattr(manager, "raft_status", lambda: status)


@pytest.mark.parametrize(("method", "path"), [("GET", "/services"), ("POST", "/services/create")])
async def test_reads_and_writes_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """Neither is kept waiting for a leader, and the write was not done."""
    cut_off(world, "m2", monkeypatch)
    async with asyncio.timeout(WELL_BELOW_S):
        status, answer = await ask(world.apis["m2"], method, path, SPEC if method == "POST" else None)
    assert status == 503
    assert "no leader" in answer["message"]
    assert world.manager("m2").store.view().service_by_name("web") is None


async def test_a_write_without_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that may have been done says so, and with which key it can be repeated."""

    async def lost(_: Any) -> Any:
        cut_off(world, "m2", monkeypatch)
        raise OutcomeUnknown("the connection broke")

    world.manager("m2").on_call = lost
    async with asyncio.timeout(WELL_BELOW_S):
        status, answer = await ask(world.apis["m2"], "POST", "/services/create", SPEC)
    assert status == 503
    assert "may or may not have happened" in answer["message"]
    assert "Idempotency-Key" in answer["message"]


async def test_a_demotion_is_refused_with_the_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the managers say against a demotion is the answer, and the node's role stays."""

    def check(_view: Any, node: Any) -> None:
        raise FailedPrecondition(f"without {node.id} too few managers answer")

    monkeypatch.setattr(world.manager("m1"), "check_demotion", check)
    _, node = await ask(world.apis["m1"], "GET", "/nodes/m2")
    spec = {**node["Spec"], "Role": "worker"}
    version = str(node["Version"]["Index"])
    status, answer = await ask(world.apis["m1"], "POST", "/nodes/m2/update", spec, version=version)
    assert (status, answer["message"]) == (400, "without m2 too few managers answer")
    _, node = await ask(world.apis["m1"], "GET", "/nodes/m2")
    assert node["Spec"]["Role"] == "manager"
    drained = {**node["Spec"], "Availability": "drain"}
    assert (await ask(world.apis["m1"], "POST", "/nodes/m2/update", drained, version=version))[0] == 200


async def test_timing_can_be_changed_while_the_swarm_runs(world: World) -> None:
    """Ticks and their length are part of the swarm's settings; what is not given stays."""
    _, swarm = await ask(world.apis["m1"], "GET", "/swarm")
    assert swarm["Spec"]["Raft"]["TickInterval"] == 100_000_000
    body = {"Raft": {"TickInterval": 250_000_000, "ElectionTick": 8}}
    version = str(swarm["Version"]["Index"])
    assert (await ask(world.apis["m1"], "POST", "/swarm/update", body, version=version))[0] == 200
    config = world.manager("m1").store.view().cluster().spec.raft
    assert (config.heartbeat_ns, config.election_ns) == (250_000_000, 2_000_000_000)
