"""The leader's sessions with agents."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from manager_world import FakeAgent, InstantProposer, MovedClock, make_service, make_store, make_task

from swarmpy.control.leaving import departure
from swarmpy.errors import FailedPrecondition, NodeRemoved, NotLeader, PermissionDenied
from swarmpy.manager import dispatcher, messages
from swarmpy.manager.dispatcher import DEPARTURES, Dispatcher
from swarmpy.manager.messages import PART_BYTES
from swarmpy.model import codec
from swarmpy.model.assignments import Departure, HeartbeatReply, SessionMessage
from swarmpy.model.ids import NodeId, SecretId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.privileges import Privileges
from swarmpy.model.specs import ContainerSpec, FileTarget, SecretReference, TaskSpec
from swarmpy.model.states import Availability, Cause, NodeState, Role, TaskState
from swarmpy.ports import Peer
from swarmpy.store.memory import Store
from swarmpy.store.view import View
from swarmpy.wire.frames import MAX_FRAME_BYTES


@attrs.frozen
class World:
    clock: MovedClock
    store: Store
    proposer: InstantProposer
    dispatcher: Dispatcher
    running: asyncio.Task[None]

    async def desire(self, task_id: str, desired: TaskState) -> None:
        def write(tx: object) -> None:
            task = tx.task(task_id)  # type: ignore[attr-defined]
            tx.update(attrs.evolve(task, desired_state=desired))  # type: ignore[attr-defined]

        await self.store.update(write)


@asynccontextmanager
async def serving(*nodes: str) -> AsyncIterator[World]:
    clock = MovedClock()
    store, proposer = await make_store(clock, *nodes)
    async with leading(store, clock, proposer) as world:
        yield world


@asynccontextmanager
async def leading(store: Store, clock: MovedClock, proposer: InstantProposer) -> AsyncIterator[World]:
    """A term of office."""
    dispatcher = Dispatcher(store=store, clock=clock, random=random.Random(3), managers=tuple)
    running = asyncio.create_task(dispatcher.run())
    await asyncio.sleep(0)
    try:
        yield World(clock, store, proposer, dispatcher, running)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_first_message_carries_everything() -> None:
    """A new session is told all its tasks, the endpoint table, the managers and its role; no task of another node."""
    async with serving("a", "b") as world:
        await world.store.update(lambda tx: tx.create(make_service()))
        await world.store.update(lambda tx: tx.create(make_task("t1", "a")))
        await world.store.update(lambda tx: tx.create(make_task("t2", "b")))
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        first = agent.messages[0]
        assert first.session_id
        assert first.heartbeat_period_ns > 0
        assert list(agent.tasks) == ["t1"]
        assert first.role is Role.WORKER
        await agent.close()


async def test_changes_are_increments() -> None:
    """A task that is added or removed later comes as an increment on what was sent."""
    async with serving("a") as world:
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        await world.store.update(lambda tx: tx.create(make_task("t1", "a", TaskState.ASSIGNED)))
        message = await agent.take()
        assert message.assignments is not None
        assert message.assignments.base_sequence == 1
        assert list(agent.tasks) == ["t1"]
        await world.store.update(lambda tx: tx.delete(tx.task("t1")))
        await agent.take()
        assert not agent.tasks
        await agent.close()


async def test_a_task_leaves_the_mesh_before_it_is_told_to_stop() -> None:
    """The order to stop waits until every node with a session routes by a table without the task."""
    async with serving("a", "b") as world:
        await world.store.update(lambda tx: tx.create(make_service()))
        await world.store.update(lambda tx: tx.create(make_task("t1", "a")))
        one, two = FakeAgent(world.dispatcher, "a"), FakeAgent(world.dispatcher, "b")
        await one.open()
        await two.open()
        while one.endpoints_version != two.endpoints_version or one.endpoints_version == 0:
            await (one if one.endpoints_version < two.endpoints_version else two).take()
        await one.beat()
        await two.beat()
        await world.desire("t1", TaskState.SHUTDOWN)
        for agent in (one, two):
            message = await agent.take()
            assert message.assignments is None
            assert message.endpoints is not None
            assert all(not endpoints for _, endpoints in message.endpoints.ports)
        await one.beat()
        assert one.tasks[TaskId("t1")].desired_state is TaskState.RUNNING
        await two.beat()
        await one.take()
        assert one.tasks[TaskId("t1")].desired_state is TaskState.SHUTDOWN
        await one.close()
        await two.close()


async def test_a_node_that_has_not_found_the_leader_yet_is_waited_for() -> None:
    """A new leader tells no task to stop while a node that is not down may route to it by an earlier leader's table."""
    async with serving("a", "b") as earlier:
        await earlier.store.update(lambda tx: tx.create(make_service()))
        await earlier.store.update(lambda tx: tx.create(make_task("t1", "a")))
        agents = [FakeAgent(earlier.dispatcher, name) for name in ("a", "b")]
        for agent in agents:
            await agent.open()
            await agent.close()
    async with leading(earlier.store, earlier.clock, earlier.proposer) as world:
        one, two = FakeAgent(world.dispatcher, "a"), FakeAgent(world.dispatcher, "b")
        await one.open()
        await world.desire("t1", TaskState.SHUTDOWN)
        while not any(m.endpoints and m.endpoints.ports and not m.endpoints.ports[0][1] for m in one.messages):
            await one.take()
        await one.beat()
        told = asyncio.create_task(one.take())
        await asyncio.sleep(0.1)
        assert not told.done()
        await two.open()
        assert all(not endpoints for m in two.messages if m.endpoints for _, endpoints in m.endpoints.ports)
        await two.beat()
        await told
        assert one.tasks[TaskId("t1")].desired_state is TaskState.SHUTDOWN
        await one.close()
        await two.close()


async def test_a_node_that_is_down_or_removed_is_not_waited_for() -> None:
    """Its table does no harm: a task stops as soon as all others have confirmed."""

    def lose(tx: Any) -> None:
        down = tx.node(NodeId("b"))
        tx.update(attrs.evolve(down, status=attrs.evolve(down.status, state=NodeState.DOWN)))
        tx.delete(tx.node(NodeId("c")))

    async with serving("a", "b", "c") as world:
        await world.store.update(lambda tx: tx.create(make_service()))
        await world.store.update(lambda tx: tx.create(make_task("t1", "a")))
        one = FakeAgent(world.dispatcher, "a")
        await one.open()
        before = world.clock.seconds
        await world.store.update(lose)
        await world.desire("t1", TaskState.SHUTDOWN)
        while one.tasks[TaskId("t1")].desired_state is TaskState.RUNNING:
            await one.take()
            await one.beat()
        assert world.clock.seconds == before
        await one.close()


async def test_who_comes_before_the_term_has_begun_is_told_the_whole_table() -> None:
    """An agent that waited for the leader may be the first to run: it must not be told that no port is published."""
    async with serving("a") as earlier:
        await earlier.store.update(lambda tx: tx.create(make_service()))
        await earlier.store.update(lambda tx: tx.create(make_task("t1", "a")))
        first = FakeAgent(earlier.dispatcher, "a")
        await first.open()
        await first.close()
    dispatcher = Dispatcher(store=earlier.store, clock=earlier.clock, random=random.Random(3), managers=tuple)
    agent = FakeAgent(dispatcher, "a")
    opening = asyncio.create_task(agent.open())
    running = asyncio.create_task(dispatcher.run())
    await opening
    table = agent.messages[0].endpoints
    assert table is not None
    assert [[e.task_id for e in endpoints] for _, endpoints in table.ports] == [["t1"]]
    await agent.close()
    running.cancel()
    await asyncio.wait([running])


async def test_a_silent_node_cannot_hold_a_stop_for_ever() -> None:
    """After a bounded wait a task is told to stop although a node has not confirmed the table."""
    async with serving("a", "b") as world:
        await world.store.update(lambda tx: tx.create(make_service()))
        await world.store.update(lambda tx: tx.create(make_task("t1", "a")))
        one, two = FakeAgent(world.dispatcher, "a"), FakeAgent(world.dispatcher, "b")
        await one.open()
        await two.open()
        await world.desire("t1", TaskState.SHUTDOWN)
        while not any(m.endpoints and m.endpoints.ports and not m.endpoints.ports[0][1] for m in one.messages):
            await one.take()
        assert one.tasks[TaskId("t1")].desired_state is TaskState.RUNNING
        world.clock.seconds += 2.1
        while one.tasks[TaskId("t1")].desired_state is TaskState.RUNNING:
            await one.take()
        await one.close()
        await two.close()


async def test_a_task_without_a_published_port_stops_at_once() -> None:
    """Nothing is routed to such a task, so nothing has to be waited for."""
    async with serving("a") as world:
        task = attrs.evolve(make_task("t1", "a"), ports=())
        await world.store.update(lambda tx: tx.create(task))
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        await world.desire("t1", TaskState.SHUTDOWN)
        await agent.take()
        assert agent.tasks[TaskId("t1")].desired_state is TaskState.SHUTDOWN
        await agent.close()


async def test_reports_are_written_and_only_rise() -> None:
    """A report moves a task on; one that arrives late, or is of another node's task, changes nothing."""
    async with serving("a", "b") as world:
        await world.store.update(lambda tx: tx.create(make_task("t1", "a", TaskState.ASSIGNED)))
        agent, other = FakeAgent(world.dispatcher, "a"), FakeAgent(world.dispatcher, "b")
        await agent.open()
        await other.open()
        await agent.report("t1", TaskState.RUNNING)
        await agent.report("t1", TaskState.PREPARING)
        await other.report("t1", TaskState.FAILED)
        task = world.store.view().task("t1")
        assert task is not None
        assert task.status.state is TaskState.RUNNING
        assert task.applied_at_ns > 0
        entries = world.proposer.entries
        await agent.report("t1", TaskState.RUNNING)
        assert world.proposer.entries == entries
        await agent.close()
        await other.close()


async def test_reports_have_nobody_look_at_all_the_tasks_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node said itself is no news for it; what is decided on the task is."""
    looks: list[str] = []
    node_tasks = messages.node_tasks
    monkeypatch.setattr(messages, "node_tasks", lambda view, *rest: looks.append(rest[0]) or node_tasks(view, *rest))
    async with serving("a") as world:
        without_ports = attrs.evolve(make_task("t1", "a", TaskState.ASSIGNED), ports=())
        await world.store.update(lambda tx: tx.create(without_ports))
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        told = asyncio.create_task(agent.take())
        await asyncio.sleep(5 * dispatcher.COLLECT_S)  # the session has been woken by what was before
        looks.clear()
        for state in (TaskState.ACCEPTED, TaskState.STARTING, TaskState.RUNNING):
            await agent.report("t1", state)
        await asyncio.sleep(5 * dispatcher.COLLECT_S)
        assert looks == []
        await world.desire("t1", TaskState.SHUTDOWN)
        await told
        assert agent.tasks[TaskId("t1")].desired_state is TaskState.SHUTDOWN
        await agent.close()


async def test_why_a_task_had_to_leave_outlives_its_end() -> None:
    """The node only says that it has stopped; what it says itself counts."""
    why = "node a is no place for this task any more: constraint node.labels.zone==eu is not met"
    async with serving("a") as world:
        await world.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=codec.SCHEMA_VERSION)))
        for name in ("t1", "t2"):
            task = make_task(name, "a", TaskState.RUNNING)
            task = attrs.evolve(task, cause=Cause.MISPLACED, desired_state=TaskState.SHUTDOWN)
            task = attrs.evolve(task, status=attrs.evolve(task.status, err=why))
            await world.store.update(lambda tx, task=task: tx.create(task))  # type: ignore[misc]
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        await agent.report("t1", TaskState.SHUTDOWN)
        await agent.report("t2", TaskState.FAILED, err="task: non-zero exit (3)")
        view = world.store.view()
        assert [task.status.err for task in (view.task("t1"), view.task("t2")) if task] == [
            why,
            "task: non-zero exit (3)",
        ]
        await agent.close()


async def test_a_task_that_ran_may_be_rejected_by_a_node_that_forgot_it() -> None:
    """It has ended, which is what counts: left to run in the cluster's eyes, nothing would ever take its place."""
    async with serving("a") as world:
        await world.store.update(lambda tx: tx.create(make_task("t1", "a", TaskState.RUNNING)))
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        await agent.report("t1", TaskState.REJECTED)
        task = world.store.view().task("t1")
        assert task is not None
        assert task.status.state is TaskState.FAILED
        await agent.close()


async def goes_down(world: World, name: str) -> None:
    """Time goes on until the node is: a loop that a busy machine held up waits for all nodes anew."""

    def is_down() -> bool:
        world.clock.seconds += 0.05
        return world.store.view().node(name).status.state is NodeState.DOWN  # type: ignore[union-attr]

    await until(is_down)


async def test_silence_makes_a_node_down_and_a_session_makes_it_ready() -> None:
    """A node that misses three heartbeats is down; when it opens a session again it is ready."""
    async with serving("a") as world:
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        world.clock.seconds += 2
        await agent.beat()
        world.clock.seconds += 2
        await asyncio.sleep(0.3)  # longer than a check: the node must not be down yet
        node = world.store.view().node("a")
        assert node is not None
        assert node.status.state is NodeState.READY
        world.clock.seconds += 2
        await goes_down(world, "a")
        again = FakeAgent(world.dispatcher, "a")
        await again.open()
        node = world.store.view().node("a")
        assert node is not None
        assert node.status.state is NodeState.READY
        await again.close()
        await agent.close()


async def test_a_node_that_never_comes_is_down_after_a_change_of_leader() -> None:
    """A new leader gives every node a grace to find it, and no longer."""
    async with serving("a") as world:
        world.clock.seconds += 3.5
        await asyncio.sleep(0.3)  # longer than a check
        assert world.store.view().node("a").status.state is NodeState.READY  # type: ignore[union-attr]
        world.clock.seconds += 1
        await goes_down(world, "a")


async def test_a_new_session_ends_the_old_one() -> None:
    """Two sessions of one node are never served at once; calls of the old one are refused."""
    async with serving("a") as world:
        old, new = FakeAgent(world.dispatcher, "a"), FakeAgent(world.dispatcher, "a")
        await old.open()
        await new.open()
        with pytest.raises(StopAsyncIteration):
            await old.take()
        with pytest.raises(FailedPrecondition):
            await old.beat()
        await new.beat()
        await new.close()


async def test_strangers_and_the_anonymous_have_no_session() -> None:
    """Only a node of the cluster has a session."""
    async with serving("a") as world:
        with pytest.raises(NodeRemoved):
            await FakeAgent(world.dispatcher, "stranger").open()
        nobody = FakeAgent(world.dispatcher, "x")
        nobody.peer = Peer()
        with pytest.raises(PermissionDenied):
            await nobody.open()


async def test_every_agent_hears_which_certificates_are_revoked() -> None:
    """At once, those that have nothing else to do with it, too; and once only."""
    async with serving("a", "b") as world:
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        assert agent.messages[0].revoked is None

        def revoke(tx: Any) -> None:
            tx.update(attrs.evolve(tx.cluster(), schema=codec.SCHEMA_VERSION, revoked={"b": 4}))

        await world.store.update(revoke)
        assert (await agent.take()).revoked == {"b": 4}
        late = FakeAgent(world.dispatcher, "b")
        await late.open()
        assert late.messages[0].revoked == {"b": 4}
        await world.store.update(lambda tx: tx.create(make_task("t", "a")))
        assert (await agent.take()).revoked is None
        await agent.close()
        await late.close()


async def test_sessions_end_with_the_term_of_office() -> None:
    """When leadership ends, agents are told to look for the leader."""
    async with serving("a") as world:
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        world.running.cancel()
        await asyncio.wait([world.running])
        with pytest.raises(NotLeader):
            await agent.take()


async def test_problems_of_a_node_are_recorded_once() -> None:
    """What does not work on a node is in its status; an unchanged heartbeat writes nothing."""
    async with serving("a") as world:
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        await agent.beat(problems=("published port 8080: address already in use",))
        assert "8080" in world.store.view().node(NodeId("a")).status.message  # type: ignore[union-attr]
        entries = world.proposer.entries
        await agent.beat(problems=("published port 8080: address already in use",))
        assert world.proposer.entries == entries
        await agent.beat()
        assert world.store.view().node(NodeId("a")).status.message == ""  # type: ignore[union-attr]
        await agent.close()


async def test_an_engine_that_is_away_is_recorded_when_all_managers_read_it() -> None:
    """Not before: until then it is only among the problems. A new session does not make it answer; a heartbeat does."""
    async with serving("a") as world:
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()

        def is_away() -> bool:
            node = world.store.view().node(NodeId("a"))
            assert node is not None
            return node.status.engine_away

        for schema, expected in ((codec.SECRETS_VERSION, False), (codec.SERVICES_VERSION, True)):
            await world.store.update(
                lambda tx, schema=schema: tx.update(attrs.evolve(tx.cluster(), schema=schema))  # type: ignore[misc]
            )
            await agent.beat(problems=("the docker engine does not answer",), engine_away=True)
            assert is_away() is expected
        again = FakeAgent(world.dispatcher, "a")
        await again.open()
        assert is_away()
        await again.beat()
        assert not is_away()
        await agent.close()
        await again.close()


async def test_a_node_that_leaves_is_emptied_when_all_managers_know_how() -> None:
    """Not before: until then it is told nothing, and goes by itself. One that says so no more stays."""
    async with serving("a", "b") as world:
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()

        async def beat(*, leaving: bool) -> tuple[bool, Departure | None]:
            reply = codec.from_plain(HeartbeatReply, await agent.beat(leaving=leaving))
            node = world.store.view().node(NodeId("a"))
            assert node is not None
            assert node.status.leaving == (node.availability is Availability.DRAIN)
            return node.status.leaving, reply.departure

        for schema, expected in (
            (codec.SECRETS_VERSION, (False, None)),
            (codec.SERVICES_VERSION, (True, Departure(begun=True))),
        ):
            await world.store.update(
                lambda tx, schema=schema: tx.update(attrs.evolve(tx.cluster(), schema=schema))  # type: ignore[misc]
            )
            assert await beat(leaving=True) == expected
        other = world.store.view().node(NodeId("b"))
        assert other is not None
        assert not other.status.leaving, "a node speaks for itself"
        assert await beat(leaving=False) == (False, None)
        await agent.close()


async def test_it_is_not_looked_at_with_every_heartbeat_how_far_a_node_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may send hundreds a second, and says that it leaves and stays as it likes."""
    looks = 0

    def counted(view: View, node_id: NodeId) -> Departure:
        nonlocal looks
        looks += 1
        return departure(view, node_id)

    monkeypatch.setattr(dispatcher, "departure", counted)
    async with serving("a") as world:
        await world.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=codec.SERVICES_VERSION)))
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        for number in range(200):
            reply = codec.from_plain(HeartbeatReply, await agent.beat(leaving=number % 50 != 0))
            assert (reply.departure is None) == (number % 50 == 0)
        assert looks <= DEPARTURES.burst + 1
        world.clock.seconds += 0.5
        await agent.beat(leaving=True)
        assert looks <= DEPARTURES.burst + 2
        await agent.close()


# -- more than a message takes ----------------------------------------------------------------------------------------


def large(name: str, node: str = "a", kilobytes: int = 120) -> Task:
    """A task with a spec of nearly the largest size."""
    spec = TaskSpec(container=ContainerSpec(image="x", env=(f"X={'x' * (kilobytes * 1000)}",)))
    return attrs.evolve(make_task(name, node, TaskState.ASSIGNED, service=name), spec=spec)


async def whole_set(agent: FakeAgent) -> list[SessionMessage]:
    """The messages until the whole set is there."""
    while agent.messages[-1].assignments is None or agent.messages[-1].assignments.more:
        await agent.take()
    return agent.messages


def bytes_of(message: SessionMessage) -> int:
    return len(codec.pack(codec.to_plain(message)))


async def test_a_large_set_comes_in_parts() -> None:
    """No message is too large for a frame; only the last says that it is all; what comes then are changes."""
    async with serving("a") as world:
        names = [f"t{number}" for number in range(60)]
        for name in names:
            await world.store.update(lambda tx, name=name: tx.create(large(name)))
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        messages = await whole_set(agent)
        assert len(messages) >= 7
        assert max(map(bytes_of, messages)) < PART_BYTES + 200_000 < MAX_FRAME_BYTES
        assert set(agent.tasks) == set(names)
        updates = [message.assignments for message in messages if message.assignments is not None]
        assert [update.more for update in updates] == [True] * (len(updates) - 1) + [False]
        assert [update.base_sequence for update in updates] == list(range(len(updates)))
        for number in range(20):
            await world.store.update(lambda tx, number=number: tx.create(large(f"more{number}")))
        while len(agent.tasks) < 80:
            message = await agent.take()
            assert bytes_of(message) < MAX_FRAME_BYTES
            assert message.assignments is None or not message.assignments.more
        await agent.close()


async def test_a_set_that_changes_while_it_is_told() -> None:
    """What goes meanwhile is removed or never told, what comes is told, and the end is told in any case."""
    async with serving("a") as world:
        for number in range(12):
            await world.store.update(lambda tx, number=number: tx.create(large(f"t{number}")))
        agent = FakeAgent(world.dispatcher, "a")
        await agent.open()
        assert agent.messages[0].assignments is not None
        assert agent.messages[0].assignments.more
        told = set(agent.tasks)

        def change(tx: Any) -> None:
            for number in range(12):
                if number == 0 or f"t{number}" not in told:
                    tx.delete(tx.task(f"t{number}"))

        await world.store.update(change)
        messages = await whole_set(agent)
        assert messages[-1].assignments is not None
        assert not messages[-1].assignments.more
        assert set(agent.tasks) == told - {"t0"}
        await agent.close()


async def test_an_agent_of_a_version_before_parts_gets_all_at_once() -> None:
    """It would take the first part for the whole, and stop the rest."""
    async with serving("a") as world:
        for number in range(20):
            await world.store.update(lambda tx, number=number: tx.create(large(f"t{number}")))
        agent = FakeAgent(world.dispatcher, "a")
        agent.level = 0
        await agent.open()
        assert len(agent.tasks) == 20
        await agent.close()


REFERENCE = SecretReference(secret_id=SecretId("s"), secret_name="s", file=FileTarget(name="s"))
RESTRICTED = Privileges(no_new_privileges=True)


@pytest.mark.parametrize(
    ("level", "container", "what"),
    [
        (0, ContainerSpec(image="x", secrets=(REFERENCE,)), "secrets and configs"),
        (2, ContainerSpec(image="x", privileges=RESTRICTED), "privileges, OOM scores and newer options of mounts and"),
    ],
)
async def test_an_agent_of_a_version_before_runs_no_task_without_what_it_asks_for(
    level: int, container: ContainerSpec, what: str
) -> None:
    """It is not told of such a task, which is rejected with the reason; others it gets."""
    async with serving("a") as world:

        def write(tx: Any) -> None:
            tx.update(attrs.evolve(tx.cluster(), schema=codec.SCHEMA_VERSION))
            tx.create(attrs.evolve(make_task("asking", "a", TaskState.ASSIGNED), spec=TaskSpec(container=container)))
            tx.create(make_task("plain", "a", TaskState.ASSIGNED))

        await world.store.update(write)
        agent = FakeAgent(world.dispatcher, "a")
        agent.level = level
        await agent.open()
        assert set(agent.tasks) == {"plain"}
        task = world.store.view().task("asking")
        assert task is not None
        assert task.status.state is TaskState.REJECTED
        assert f"gives tasks no {what}" in task.status.err
        assert task.status.err.endswith(": upgrade it")
        await agent.close()
