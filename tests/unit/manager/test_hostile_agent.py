"""An agent in the wrong hands: it has a node's certificate and says what it likes.

What it says of others counts for nothing, what it says of itself is bounded, and nobody else is worse off.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manager_world import FakeAgent, InstantProposer, MovedClock, make_service, make_store, make_task

from swarmpy.errors import FailedPrecondition, InvalidArgument, ProtocolViolation, SwarmpyError, Unavailable
from swarmpy.manager import claims
from swarmpy.manager.dispatcher import COMPLAINTS, EDITS, Dispatcher
from swarmpy.model import codec
from swarmpy.model.assignments import Heartbeat, SessionRequest, StatusReport, TaskStatusUpdate
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import ContainerStatus, NodeDescription, Platform, Plugin, PortStatus, Task, TaskStatus
from swarmpy.model.specs import GenericResource, Resources
from swarmpy.model.states import Role, TaskState
from swarmpy.network.endpoints import ingress_table
from swarmpy.ports import Peer
from swarmpy.store.memory import Store

MAX_TASK_BYTES = 8 * 1024
"""More than a task of these tests takes in the log, however much is said of it."""


@attrs.define
class World:
    """A leader with two workers, one of which is hostile."""

    store: Store
    proposer: InstantProposer
    clock: MovedClock
    dispatcher: Dispatcher
    bad: FakeAgent
    good: FakeAgent

    def task(self, name: str) -> Task:
        """A task as stored."""
        task = self.store.view().task(TaskId(name))
        assert task is not None
        return task

    async def says(self, *updates: TaskStatusUpdate, agent: FakeAgent | None = None) -> None:
        """The hostile agent reports."""
        agent = agent or self.bad
        report = StatusReport(session_id=agent.session_id, updates=updates)
        await self.dispatcher.report(agent.peer, codec.unpack(codec.pack(codec.to_plain(report))))


def told(task: str, state: TaskState, **more: Any) -> TaskStatusUpdate:
    """A status of a task."""
    return TaskStatusUpdate(task_id=TaskId(task), status=TaskStatus(state=state, **more))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Each worker has a task that is about to run."""
    clock = MovedClock()
    store, proposer = await make_store(clock, "bad", "good")

    def write(tx: Any) -> None:
        tx.create(make_service())
        tx.create(make_task("its-own", "bad", TaskState.STARTING))
        tx.create(make_task("others", "good", TaskState.STARTING))

    await store.update(write)
    dispatcher = Dispatcher(store=store, clock=clock, random=random.Random(1), managers=tuple)
    running = asyncio.create_task(dispatcher.run())
    await asyncio.sleep(0)
    bad, good = FakeAgent(dispatcher, "bad"), FakeAgent(dispatcher, "good")
    await bad.open()
    await good.open()
    yield World(store, proposer, clock, dispatcher, bad, good)
    await bad.close()
    await good.close()
    running.cancel()
    await asyncio.wait([running])


# -- tasks of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(TaskState))
async def test_it_has_nothing_to_say_of_the_tasks_of_others(world: World, state: TaskState) -> None:
    """Whatever state it reports, alone or among its own."""
    before = world.task("others")
    await world.says(told("others", state, err="gone"), told("no-such-task", state))
    assert world.task("others") == before


async def test_it_cannot_keep_others_from_being_heard(world: World) -> None:
    """Reports of one moment are written together: one of the same task by somebody else takes the place of none."""
    await asyncio.gather(
        world.says(told("others", TaskState.RUNNING), agent=world.good),
        world.says(told("others", TaskState.ORPHANED)),
        world.says(*(told("others", state) for state in TaskState)),
    )
    assert world.task("others").status.state is TaskState.RUNNING


async def test_what_is_made_of_many_small_things_is_not_even_looked_at(world: World) -> None:
    """A quarter of a megabyte holds a quarter of a million values. To make them into objects would take the leader
    longer than its followers wait for it; to refuse them takes less than it took to unpack them."""
    many: list[Any] = [""] * 250_000
    session_id = world.bad.session_id
    said = {
        "heartbeat": (world.dispatcher.heartbeat, {"session_id": session_id, "problems": many}),
        "report": (world.dispatcher.report, {"session_id": session_id, "updates": many}),
        "dependencies": (
            world.dispatcher.dependencies,
            {"session_id": session_id, "task_id": "its-own", "secrets": many},
        ),
        "log": (world.dispatcher.log, {"session_id": session_id, "id": "x", "task_id": "its-own", "more": [many]}),
    }
    for method, payload in said.values():
        raw = codec.pack(payload)
        began = time.thread_time()
        plain = codec.unpack(raw)
        unpacked = time.thread_time()
        with pytest.raises(ProtocolViolation, match="values"):
            await method(world.bad.peer, plain)
        assert time.thread_time() - unpacked < unpacked - began
    with pytest.raises(ProtocolViolation, match="values"):
        await anext(
            world.dispatcher.session(world.bad.peer, {"address": "127.0.0.1", "description": {"engine_labels": many}})
        )


async def test_a_node_reports_so_many_statuses(world: World) -> None:
    """More of them than there could be tasks: it has to wait, and another node does not."""
    updates = [told("its-own", TaskState.RUNNING)] * 2000
    for _ in range(3):
        await world.says(*updates)
    with pytest.raises(Unavailable, match="node bad reports too many statuses: again in"):
        await world.says(*updates)
    await world.says(told("others", TaskState.RUNNING), agent=world.good)
    world.clock.seconds += 60
    await world.says(told("its-own", TaskState.RUNNING))
    assert {world.task(name).status.state for name in ("others", "its-own")} == {TaskState.RUNNING}


async def test_reports_of_tasks_that_are_none_take_no_room(world: World) -> None:
    """What is not the node's waits for nothing, so it cannot fill what all reports wait in."""
    entries = world.proposer.entries
    for _ in range(30):
        await world.says(*(told(f"none-{number}", TaskState.RUNNING) for number in range(2000)))
        world.clock.seconds += 1
    assert world.proposer.entries == entries
    await world.says(told("others", TaskState.RUNNING), agent=world.good)
    assert world.task("others").status.state is TaskState.RUNNING


async def test_a_session_is_its_nodes_alone(world: World) -> None:
    """With the id of another's session, or of an old one of its own, it is not heard."""
    stolen = StatusReport(session_id=world.good.session_id, updates=(told("its-own", TaskState.RUNNING),))
    old = attrs.evolve(stolen, session_id=world.bad.session_id)
    await world.bad.open()
    for report in (stolen, old):
        with pytest.raises(FailedPrecondition, match="this session has ended"):
            await world.dispatcher.report(world.bad.peer, codec.to_plain(report))
        beat = codec.to_plain(Heartbeat(session_id=report.session_id))
        with pytest.raises(FailedPrecondition, match="this session has ended"):
            await world.dispatcher.heartbeat(world.bad.peer, beat)
    assert world.task("its-own").status.state is TaskState.STARTING
    await world.good.beat()


# -- its own tasks ----------------------------------------------------------------------------------------------------


@given(states=st.lists(st.sampled_from(list(TaskState)), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10, deadline=None)
async def test_its_own_tasks_only_come_further(world: World, states: list[TaskState]) -> None:
    """Whatever it says in whatever order: states rise, and only to where an agent may bring them."""
    await world.store.update(lambda tx: tx.update(make_task("its-own", "bad", TaskState.STARTING)))
    seen = [TaskState.STARTING]
    for state in states:
        await world.says(told("its-own", state))
        seen.append(world.task("its-own").status.state)
    assert seen == sorted(seen)
    assert not {TaskState.ORPHANED, TaskState.REMOVE, TaskState.NEW, TaskState.PENDING} & set(seen)


async def test_what_it_says_is_cut(world: World) -> None:
    """Texts and numbers without end are stored within bounds, and none of them does anything to a terminal."""
    huge = "\x1b[2J\x07" + "x" * 500_000
    await world.says(
        told(
            "its-own",
            TaskState.RUNNING,
            timestamp_ns=2**64 - 1,
            message=huge,
            err=huge,
            container=ContainerStatus(container_id=huge, pid=-(2**63), exit_code=2**64 - 1),
        )
    )
    status = world.task("its-own").status
    assert status.state is TaskState.RUNNING
    assert len(codec.pack(codec.to_plain(world.task("its-own")))) < MAX_TASK_BYTES
    assert status.err.endswith("x…")
    assert "\x1b" not in status.err + status.message
    assert status.container is not None
    assert (status.container.pid, status.container.exit_code) == (0, 2**31 - 1)


PORTS = {
    "loopback of every node": PortStatus(target_port=80, published_port=8080, host_address="127.0.0.2", host_port=22),
    "the cloud's": PortStatus(target_port=80, published_port=8080, host_address="169.254.169.254", host_port=80),
    "no address": PortStatus(target_port=80, published_port=8080, host_address="a" * 300, host_port=80),
    "with a null": PortStatus(target_port=80, published_port=8080, host_address="127.0.0.1\x00", host_port=80),
    "no port": PortStatus(target_port=80, published_port=8080, host_address="127.0.0.1", host_port=0),
    "port too high": PortStatus(target_port=80, published_port=8080, host_address="127.0.0.1", host_port=65536),
    "not of the task": PortStatus(target_port=81, published_port=8080, host_address="127.0.0.1", host_port=80),
    "of another service": PortStatus(target_port=80, published_port=8081, host_address="127.0.0.1", host_port=80),
    "another mode": PortStatus(
        target_port=80, published_port=8080, host_address="127.0.0.1", host_port=80, publish_mode="host"
    ),
    "another protocol": PortStatus(
        target_port=80, published_port=8080, host_address="127.0.0.1", host_port=80, protocol="x"
    ),
}


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS.keys())
async def test_requests_are_sent_nowhere_but_to_the_node_itself(world: World, port: PortStatus) -> None:
    """A port that is not the task's, or not on its node, is no place for anybody's requests."""
    await world.says(told("its-own", TaskState.RUNNING, ports=(port,)))
    assert world.task("its-own").status.ports == ()
    assert not any(ingress_table(world.store.view()).values())


async def test_one_task_is_one_endpoint(world: World) -> None:
    """It does not get more than its share by being in the table a thousand times."""
    ports = tuple(
        PortStatus(target_port=80, published_port=8080, host_address="127.0.0.1", host_port=number)
        for number in range(1, 3000)
    )
    await world.says(told("its-own", TaskState.RUNNING, ports=ports))
    assert world.task("its-own").status.ports == ports[:1]
    (endpoints,) = ingress_table(world.store.view()).values()
    assert len(endpoints) == 1


async def test_the_log_grows_by_so_much(world: World) -> None:
    """Saying something else of a task again and again is refused after a while, and others are heard all the same."""
    await world.says(told("its-own", TaskState.RUNNING))
    before = world.store.version
    most = int(EDITS.burst) - 5
    await world.says(*(told("its-own", TaskState.RUNNING, message=f"{number}") for number in range(most)))
    refused = 0
    for number in range(20):
        try:
            await world.says(told("its-own", TaskState.RUNNING, message=f"{most + number}"))
        except Unavailable:
            refused += 1
    assert refused == 15
    assert world.store.version - before == 6
    await world.says(told("others", TaskState.RUNNING), agent=world.good)
    await world.says(told("others", TaskState.RUNNING, message="well"), agent=world.good)
    assert world.task("others").status.message == "well"
    world.clock.seconds += 1
    await world.says(*(told("its-own", TaskState.RUNNING, message=f"{number}") for number in range(3000)))
    with pytest.raises(Unavailable, match="too often"):
        await world.says(told("its-own", TaskState.RUNNING, message="again"))
    # How far a task has come is never held back: it cannot be said without end.
    await world.says(told("its-own", TaskState.FAILED))
    assert world.task("its-own").status.state is TaskState.FAILED


# -- its node ---------------------------------------------------------------------------------------------------------


async def test_complaints_are_few_and_short(world: World) -> None:
    """New words with every heartbeat are written down now and then; each heartbeat counts as one."""
    entries = world.proposer.entries
    for number in range(200):
        await world.bad.beat(problems=(f"{number}", "y" * 300_000))
    node = world.store.view().node(NodeId("bad"))
    assert node is not None
    assert len(node.status.message) <= claims.MAX_PROBLEMS_CHARS
    assert world.proposer.entries - entries == COMPLAINTS.burst
    world.clock.seconds += 2
    await world.bad.beat(problems=("at last",))
    node = world.store.view().node(NodeId("bad"))
    assert node is not None
    assert node.status.message == "at last"


async def open_as(world: World, description: NodeDescription, address: str = "127.0.0.1", seen: str = "") -> None:
    """Introduce a node; the first message comes, or an error."""
    peer = Peer(node_id=NodeId("bad"), role=Role.WORKER, address=seen)
    request = SessionRequest(description=description, address=address)
    stream = world.dispatcher.session(peer, codec.unpack(codec.pack(codec.to_plain(request))))
    try:
        await anext(stream)
    finally:
        await stream.aclose()


DESCRIPTIONS = {
    "hostname": NodeDescription(hostname="h" * 256),
    "hostname does things": NodeDescription(hostname="a\r\nb"),
    "architecture": NodeDescription(platform=Platform(architecture="x" * 129)),
    "operating system": NodeDescription(platform=Platform(os="\x1b[0m")),
    "runtime": NodeDescription(runtime="x" * 129),
    "engine": NodeDescription(engine_version="x" * 100_000),
    "many labels": NodeDescription(engine_labels={str(number): "" for number in range(257)}),
    "long labels": NodeDescription(engine_labels={"a": "x" * (16 * 1024)}),
    "more processors than there are": NodeDescription(resources=Resources(nano_cpus=2**63)),
    "plugins": NodeDescription(plugins=(Plugin(type="volume", name="x"),) * 257),
    "plugin": NodeDescription(plugins=(Plugin(type="volume", name="x" * 129),)),
    "kind of resource": NodeDescription(resources=Resources(generic=(GenericResource(kind="a\nb", count=1),))),
    "resources of one kind": NodeDescription(resources=Resources(generic=(GenericResource(kind="gpu", count=1),) * 2)),
    "named resources": NodeDescription(
        resources=Resources(generic=(GenericResource(kind="gpu", names=tuple(map(str, range(1025)))),))
    ),
    "less of a resource than none": NodeDescription(
        resources=Resources(generic=(GenericResource(kind="gpu", count=-1),))
    ),
    "less than none": NodeDescription(resources=Resources(memory_bytes=-1)),
}


@pytest.mark.parametrize("description", DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
async def test_a_node_is_described_within_bounds(world: World, description: NodeDescription) -> None:
    """A description that is none is refused with what is wrong, and nothing of it is stored."""
    before = world.store.view().node(NodeId("bad"))
    with pytest.raises(InvalidArgument, match="node has"):
        await open_as(world, description)
    assert world.store.view().node(NodeId("bad")) == before


async def test_what_older_managers_do_not_read_is_not_written_of_a_node(world: World) -> None:
    """While there are some, a node that tells its plugins and generic resources is taken without."""
    told = NodeDescription(
        hostname="h",
        plugins=(Plugin(type="log", name="gelf"),),
        resources=Resources(nano_cpus=1, generic=(GenericResource(kind="gpu", names=("a",)),)),
    )
    for schema, written in (
        (codec.SECRETS_VERSION - 1, attrs.evolve(told, plugins=(), resources=Resources(nano_cpus=1))),
        (codec.SECRETS_VERSION, told),
    ):
        await world.store.update(lambda tx, schema=schema: tx.update(attrs.evolve(tx.cluster(), schema=schema)))
        await open_as(world, told)
        node = world.store.view().node("bad")
        assert node is not None
        assert node.description == written


async def test_labels_of_an_engine_do_nothing_to_a_terminal(world: World) -> None:
    """They are an operator's words, so no node is turned away for them; the docker command prints them as they are."""
    labels = {"a\x1b[2J": "b\r\nnone", "plain": "x=1, \N{GREEK SMALL LETTER PI}", "odd\u202e": ""}
    await open_as(world, NodeDescription(hostname="h", engine_labels=labels))
    node = world.store.view().node("bad")
    assert node is not None
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert node.description.engine_labels == {
        f"a{replaced}[2J": f"b{replaced}{replaced}none",
        "plain": "x=1, \N{GREEK SMALL LETTER PI}",
        f"odd{replaced}": "",
    }


@pytest.mark.parametrize(
    ("address", "seen", "is_taken"),
    [
        ("10.0.0.7", "10.0.0.7:4000", True),
        ("10.0.0.7", "192.168.1.1:4000", True),
        ("worker-3.example.org", "10.0.0.7:4000", False),
        ("worker-3", "worker-3", True),
        ("2001:db8::7", "[2001:db8::7]:4000", True),
        ("127.0.0.1", "127.0.0.1:4000", True),
        ("127.0.3.7", "127.0.3.7:4000", True),
        ("::1", "127.0.0.1:4000", True),
        ("127.0.0.1", "somewhere", True),
        ("127.0.0.1", "10.0.0.7:4000", False),
        ("::ffff:127.0.0.1", "10.0.0.7:4000", False),
        ("::1", "10.0.0.7:4000", False),
        ("localhost", "10.0.0.7:4000", False),
        ("a.localhost.", "10.0.0.7:4000", False),
        ("0.0.0.0", "127.0.0.1:4000", False),
        ("::", "10.0.0.7:4000", False),
        ("169.254.169.254", "10.0.0.7:4000", False),
        ("169.254.169.254", "127.0.0.1:4000", False),
        ("fe80::1", "10.0.0.7:4000", False),
        ("fe80::1", "[fe80::2%eth0]:4000", True),
        ("224.0.0.1", "10.0.0.7:4000", False),
        ("255.255.255.255", "10.0.0.7:4000", False),
        ("10.0.0.7%.names.example.org", "10.0.0.7:4000", False),
        ("2001:db8::7%.names.example.org", "10.0.0.7:4000", False),
        ("fe80::1%names.example.org", "[fe80::2%eth0]:4000", False),
        ("fe80::1%eth0", "[fe80::2%eth0]:4000", True),
        ("", "10.0.0.7:4000", False),
        ("a b", "10.0.0.7:4000", False),
        ("a\x00", "10.0.0.7:4000", False),
        ("x" * 256, "10.0.0.7:4000", False),
        ("user@host/path", "10.0.0.7:4000", False),
    ],
)
async def test_an_address_means_the_node_to_everybody(world: World, address: str, seen: str, is_taken: bool) -> None:
    """What would lead each node's clients to that node's own services, or its cloud's, is refused."""
    before = world.store.view().node(NodeId("bad"))
    if is_taken:
        await open_as(world, NodeDescription(hostname="bad"), address, seen)
        node = world.store.view().node(NodeId("bad"))
        assert node is not None
        assert node.status.address == address
    else:
        with pytest.raises(InvalidArgument, match="advertise-addr"):
            await open_as(world, NodeDescription(hostname="bad"), address, seen)
        assert world.store.view().node(NodeId("bad")) == before


# -- junk -------------------------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["session_id", "updates", "problems", "description", "address", "task_id", "status", "state"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(payload=JUNK, method=st.sampled_from(["report", "heartbeat", "session"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
async def test_junk_is_refused_by_type_and_changes_nothing(world: World, payload: Any, method: str) -> None:
    """Whatever is sent to an agent's methods."""
    before = world.store.version
    asked = getattr(world.dispatcher, method)(world.bad.peer, payload)
    with pytest.raises(SwarmpyError):
        await (anext(asked) if method == "session" else asked)
    assert world.store.version == before


async def test_malformed_reports_are_refused_whole(world: World) -> None:
    """One update that is none spoils the report; nothing of it is taken."""
    report = codec.to_plain(
        StatusReport(session_id=world.bad.session_id, updates=(told("its-own", TaskState.RUNNING),))
    )
    for junk in (None, {"task_id": "its-own"}, {"task_id": "its-own", "status": {"state": 513}}, "x", [1]):
        with pytest.raises(ProtocolViolation):
            await world.dispatcher.report(world.bad.peer, {**report, "updates": [*report["updates"], junk]})
    assert world.task("its-own").status.state is TaskState.STARTING
