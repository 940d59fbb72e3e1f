"""How lines of a log look to a client, and what it is told when there can be no more."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from api_world import World, ask, request

from swarmpy.api.logs import log_options
from swarmpy.api.request import StreamedResponse
from swarmpy.errors import InvalidArgument
from swarmpy.model import codec
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.logs import STDERR, STDOUT, LogLine, LogPart, LogParts, pack_lines

LINES = pack_lines([LogLine(STDOUT, 1, b"out\n"), LogLine(STDERR, 2, b"err\r\n")])
PART = LogPart(task_id=TaskId("t"), node_id=NodeId("w1"), service_id="s", lines=LINES)


async def log_of(
    world: World, monkeypatch: pytest.MonkeyPatch, *answers: LogParts | None, tty: bool, **asked: str
) -> bytes:
    """The whole log of a service for which the leader gives these answers; None: the node is no manager any more."""
    node, given = world.nodes["m1"], iter(answers)

    async def call_leader(method: str, payload: Any, timeout: float) -> Any:
        if method == "logs.open":
            return "subscription"
        answer = next(given)
        if answer is None:
            node.manager = None
            return codec.to_plain(LogParts())
        return codec.to_plain(answer)

    await ask(
        world.apis["m1"],
        "POST",
        "/services/create",
        {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox", "TTY": tty}}},
    )
    monkeypatch.setattr(world.manager("m1"), "call_leader", call_leader)
    response = await world.apis["m1"].handle(
        request("GET", "/services/web/logs", stdout="1", stderr="1", follow="1", **asked)
    )
    assert isinstance(response, StreamedResponse)
    return b"".join([chunk async for chunk in response.chunks])


@pytest.fixture
async def world() -> World:
    """One manager that leads."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    return world


@pytest.mark.parametrize(
    ("tty", "expected"),
    [(False, b"\1\0\0\0\0\0\0\4out\n\2\0\0\0\0\0\0\5err\r\n"), (True, b"out\nerr\r\n")],
)
async def test_frames_are_for_those_without_a_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch, tty: bool, expected: bytes
) -> None:
    """Each line is a frame with its stream; of a terminal the bytes come as they are."""
    assert await log_of(world, monkeypatch, LogParts(parts=(PART,), ended=True), tty=tty) == expected


@pytest.mark.parametrize("tail", ["foo", "-1", "1.5", "9" * 20])
def test_a_tail_is_a_number_of_lines(tail: str) -> None:
    """Or all; a slip of the hand is not answered with a whole log."""
    with pytest.raises(InvalidArgument, match='tail value must be a positive integer or "all"'):
        log_options(request("GET", "/services/web/logs", stdout="1", tail=tail))


async def test_details_are_the_clusters_and_the_log_drivers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by name, as Docker's; what a container's labels say of itself does not stand in for what is so."""
    ids = b"com.docker.swarm.node.id=w1,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t"
    lines = pack_lines(
        [
            LogLine(STDOUT, 1, b"plain\n"),
            LogLine(STDOUT, 2, b"more\n", b"x=q%2Cz,A=1+2,com.docker.swarm.task.id=other"),
        ]
    )
    part = attrs.evolve(PART, lines=lines)
    said = await log_of(world, monkeypatch, LogParts(parts=(part,), ended=True), tty=True, details="1")
    assert said == ids + b" plain\nA=1+2," + ids + b",x=q%2Cz more\n"


@pytest.mark.parametrize("tty", [False, True])
async def test_a_log_ends_with_the_manager_that_was_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    """A node that is made a worker says so at once, as the last line, and does not wait for a leader."""
    said = await log_of(world, monkeypatch, LogParts(parts=(PART,)), None, tty=tty)
    assert b"the log was broken off: This node is not a swarm manager" in said
    assert said.count(b"out\n") == 1
