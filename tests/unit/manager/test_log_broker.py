"""The leader brings logs together: from whom, how much, and what becomes of nodes that are gone or mean no good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from manager_world import FakeAgent, TwoAgents, make_service, make_task, two_agents

from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, SwarmpyError, Unavailable
from swarmpy.manager.log_broker import ABSENT_S, BUFFER_BYTES, FORGET_S, MAX_SUBSCRIPTIONS, PUBLISHED, SILENT_S
from swarmpy.model import codec
from swarmpy.model.ids import TaskId
from swarmpy.model.logs import (
    BATCH_BYTES,
    LogBatch,
    LogBatchReply,
    LogLine,
    LogOptions,
    LogOrder,
    LogParts,
    LogQuestion,
    pack_lines,
    unpack_lines,
)
from swarmpy.model.states import Role, TaskState


@attrs.define
class World(TwoAgents):
    """Both nodes have a task of the service."""

    def open(self, **options: Any) -> str:
        """Read the logs of the service."""
        return self.dispatcher.logs.open(LogQuestion(service_id="s-web", options=LogOptions(**options)))

    async def more(self, subscription: str) -> LogParts:
        """What has come, through bytes."""
        plain = codec.to_plain(await self.dispatcher.logs.more(subscription))
        return codec.from_plain(LogParts, codec.unpack(codec.pack(plain)))

    async def send(self, agent: FakeAgent, subscription: str, task: str, number: int = 1, **more: Any) -> LogBatchReply:
        """A batch, through bytes as on a connection."""
        batch = LogBatch(session_id=agent.session_id, id=subscription, task_id=TaskId(task), number=number, **more)
        plain = await self.dispatcher.log(agent.peer, codec.unpack(codec.pack(codec.to_plain(batch))))
        return codec.from_plain(LogBatchReply, plain)

    async def orders(self, agent: FakeAgent) -> tuple[LogOrder, ...]:
        """What the node is told next of logs."""
        while (message := await agent.take()).logs is None:
            continue
        return message.logs


def lines(*texts: bytes, at: int = 1) -> bytes:
    """Lines of standard output, a nanosecond apart."""
    return pack_lines(LogLine(1, at + i, text) for i, text in enumerate(texts))


def texts(parts: LogParts) -> list[bytes]:
    """All lines."""
    return [line.data for part in parts.parts for line in unpack_lines(part.lines)]


def notices(parts: LogParts) -> list[str]:
    """What is said about logs that cannot be had."""
    return [part.notice for part in parts.parts if part.notice]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    def write(tx: Any) -> None:
        tx.create(make_service())
        tx.create(make_task("t-good", "good"))
        tx.create(make_task("t-bad", "bad"))

    async with two_agents(write, World) as made:
        yield made


async def test_nodes_are_asked_and_what_they_send_is_read(world: World) -> None:
    """Each for its own task; it ends when all have come to their end."""
    found = world.open(tail=5)
    (order,) = await world.orders(world.good)
    assert (order.id, order.task_id, order.options.tail) == (found, "t-good", 5)
    assert await world.send(world.good, found, "t-good", lines=lines(b"a\n", b"b\n")) == LogBatchReply()
    assert await world.send(world.good, found, "t-good", number=2, ended=True) == LogBatchReply()
    parts = await world.more(found)
    assert (texts(parts), parts.ended) == ([b"a\n", b"b\n"], False)
    assert (parts.parts[0].node_id, parts.parts[0].task_id, parts.parts[0].service_id) == ("good", "t-good", "s-web")
    await world.send(world.bad, found, "t-bad", lines=lines(b"c\n"), ended=True)
    parts = await world.more(found)
    assert (texts(parts), parts.ended) == ([b"c\n"], True)
    with pytest.raises(NotFound):
        await world.more(found)


async def test_a_worker_sends_for_what_it_was_asked_only(world: World) -> None:
    """Not for tasks of others, not in the session of another, not for what nobody reads; and no junk."""
    found = world.open(follow=True)
    for task in ("t-good", "t-none"):
        with pytest.raises(PermissionDenied):
            await world.send(world.bad, found, task, lines=lines(b"forged\n"))
    assert not (await world.send(world.bad, "x" * 25, "t-bad", lines=lines(b"forged\n"))).wanted
    world.bad.session_id, own = world.good.session_id, world.bad.session_id
    with pytest.raises(FailedPrecondition):
        await world.send(world.bad, found, "t-bad", lines=lines(b"forged\n"))
    world.bad.session_id = own
    lying = pack_lines([LogLine(1, 1, b"x", b"a=b com.docker.swarm.task.id=t-good")])
    for junk in (b"\xff" * 100, b"\x01", pack_lines([LogLine(3, 1, b"x")]), bytes(4 * BATCH_BYTES), lying):
        with pytest.raises(InvalidArgument):
            await world.send(world.bad, found, "t-bad", lines=junk)
    for plain in (None, [], {"session_id": own, "id": 7}):
        with pytest.raises(SwarmpyError):
            await world.dispatcher.log(world.bad.peer, plain)
    assert texts(await world.more(found)) == []


async def test_a_slow_reader_slows_its_sources(world: World) -> None:
    """What it does not take is turned away beyond a bound, and comes whole and once when it takes again."""
    found = world.open(follow=True)
    world.good.peer = attrs.evolve(world.good.peer, role=Role.MANAGER)  # without the rate of workers
    sent = number = 0
    while (await world.send(world.good, found, "t-good", number + 1, lines=lines(b"x" * 60_000, at=number))).accepted:
        number += 1
        sent += 60_000
    assert BUFFER_BYTES <= sent < BUFFER_BYTES + BATCH_BYTES
    assert len(texts(await world.more(found))) == number
    for _ in range(2):  # the answer to the first may have been lost
        assert (await world.send(world.good, found, "t-good", number + 1, lines=lines(b"last", at=number))).accepted
    assert texts(await world.more(found)) == [b"last"]


async def test_a_worker_has_a_rate(world: World) -> None:
    """Beyond what it may send it is held back, and then turned away."""
    found = world.open(follow=True)
    taken = 0
    refused = ""
    while not refused:
        try:
            await world.send(world.bad, found, "t-bad", taken, lines=lines(b"x" * 60_000, at=taken))
        except Unavailable as error:
            refused = error.message
        else:
            assert texts(await world.more(found)) == [b"x" * 60_000]
            taken += 60_000
    assert "sends too much at once" in refused
    assert PUBLISHED.burst <= taken <= PUBLISHED.burst + 2 * PUBLISHED.per_s


async def test_a_node_that_is_gone_costs_a_line(world: World) -> None:
    """One that is away, one that says nothing, one of an older version: the reader is told why."""
    found = world.open()
    await world.bad.close()
    await world.send(world.good, found, "t-good", lines=lines(b"here\n"), ended=True)
    parts = await world.more(found)
    assert (texts(parts), parts.ended) == ([b"here\n"], False)
    world.clock.seconds += ABSENT_S + 0.1
    parts = await world.more(found)
    assert parts.ended
    assert notices(parts) == ["the log of task t-bad cannot be had: its node bad has no session with the leader"]
    mute = world.open()
    world.clock.seconds += SILENT_S + 0.1
    assert any("did not answer within" in notice for notice in notices(await world.more(mute)))
    world.bad.level = 1
    await world.bad.open()
    old = world.open()
    assert any("t-bad" in notice and "upgrade it" in notice for notice in notices(await world.more(old)))


async def test_a_node_that_comes_back_goes_on_where_it_was(world: World) -> None:
    """Who follows hears of the absence, and of nothing twice."""
    found = world.open(follow=True, tail=10)
    await world.send(world.bad, found, "t-bad", lines=lines(b"one\n", at=41))
    await world.more(found)
    await world.bad.close()
    world.clock.seconds += ABSENT_S + 1
    assert len(notices(await world.more(found))) == 1
    assert notices(await world.more(found)) == []
    world.bad.messages.clear()
    await world.bad.open()
    (order,) = world.bad.messages[-1].logs or await world.orders(world.bad)
    assert order.options.after_ns == 41
    assert (await world.send(world.bad, found, "t-bad", lines=lines(b"two\n", at=42))).wanted
    assert texts(await world.more(found)) == [b"two\n"]


async def test_the_end_of_one_log_does_not_hold_the_loop(world: World) -> None:
    """While the reader waits for the other one, everything else has its turn."""
    found = world.open()
    await world.send(world.good, found, "t-good", ended=True)
    waiting = asyncio.create_task(world.more(found))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    await world.send(world.bad, found, "t-bad", lines=lines(b"x"), ended=True)
    assert (await waiting).ended


async def test_tasks_that_come_later_are_read_from_their_first_line(world: World) -> None:
    """``tail`` is for what there was."""
    world.open(follow=True, tail=1)
    await world.orders(world.good)
    await world.store.update(lambda tx: tx.create(make_task("t-new", "good", TaskState.STARTING)))
    subscription = next(iter(world.dispatcher.logs._subscriptions))
    await world.more(subscription)
    orders = {order.task_id: order for order in await world.orders(world.good)}
    assert orders[TaskId("t-new")].options.tail == -1


async def test_subscriptions_are_few_and_end_with_their_readers(world: World) -> None:
    """Too many are refused; those that nobody asks for are dropped, and the nodes told."""
    for _ in range(MAX_SUBSCRIPTIONS):
        first = world.open(follow=True)
    with pytest.raises(Unavailable, match="logs are being read already"):
        world.open()
    assert len(await world.orders(world.good)) == MAX_SUBSCRIPTIONS
    world.clock.seconds += FORGET_S + 1
    found = world.open()
    assert [order.id for order in await world.orders(world.good)] == [found]
    with pytest.raises(NotFound):
        await world.more(first)
    with pytest.raises(NotFound):
        world.dispatcher.logs.open(LogQuestion(service_id="s-none", options=LogOptions()))
