"""A leader's store, an agent's end of a session, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import attrs

from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.reconcile import Reconciler
from swarmpy.model import codec
from swarmpy.model.assignments import (
    AGENT_LEVEL,
    Heartbeat,
    SessionMessage,
    SessionRequest,
    StatusReport,
    TaskStatusUpdate,
)
from swarmpy.model.ids import ClusterId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import (
    Cluster,
    Node,
    NodeDescription,
    NodeStatus,
    PortStatus,
    Service,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import ContainerSpec, PortConfig, ServiceSpec, TaskSpec
from swarmpy.model.states import NodeState, Role, TaskState
from swarmpy.ports import Peer
from swarmpy.security import ca, tokens
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx

ROOT = ca.create_root_ca(1_790_000_000 * 10**9)
PORT = PortConfig(target_port=80, published_port=8080)
W = TypeVar("W", bound="TwoAgents")


class MovedClock:
    """Monotonic time moves only when the test says so; the wall clock can be set apart from it."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.wall_ahead = 0.0

    def time_ns(self) -> int:
        return int((self.seconds + self.wall_ahead) * 1e9)

    def monotonic(self) -> float:
        return self.seconds


@attrs.define
class Committed:
    """A proposal that is applied as soon as the loop gets round to it."""

    index: int
    done: asyncio.Future[None]


class InstantProposer:
    """A log of one: every proposal is committed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = store.version + 1
        self.entries = 0

    def propose(self, data: bytes) -> Committed:
        index, self._next = self._next, self._next + 1
        self.entries += 1
        loop = asyncio.get_running_loop()
        proposal = Committed(index, loop.create_future())
        loop.call_soon(self._commit, proposal, data)
        return proposal

    def _commit(self, proposal: Committed, data: bytes) -> None:
        self._store.apply(proposal.index, data)
        proposal.done.set_result(None)


async def make_store(clock: MovedClock, *nodes: str) -> tuple[Store, InstantProposer]:
    """A store with a cluster and ready workers."""
    store = Store(clock)
    proposer = InstantProposer(store)
    store.set_proposer(proposer)
    cluster = Cluster(
        id=ClusterId("c" * 25), root_ca=ROOT, join_tokens=tokens.make_tokens(ROOT.cert_digest, random.Random(1))
    )

    def write(tx: Any) -> None:
        tx.create(cluster)
        for name in nodes:
            tx.create(Node(id=NodeId(name), status=NodeStatus(state=NodeState.READY, address="127.0.0.1")))

    await store.update(write)
    return store, proposer


def make_service(name: str = "web") -> Service:
    """A service that publishes 8080."""
    return Service(id=ServiceId(f"s-{name}"), spec=ServiceSpec(name=name), ports=(PORT,))


def make_task(task_id: str, node: str, state: TaskState = TaskState.RUNNING, service: str = "web") -> Task:
    """A task of the service on the node."""
    ports = (PortStatus(target_port=80, published_port=8080, host_address="127.0.0.1", host_port=30000),)
    return Task(
        id=TaskId(task_id),
        spec=TaskSpec(container=ContainerSpec(image="x")),
        service_id=ServiceId(f"s-{service}"),
        service_name=service,
        slot=1,
        node_id=NodeId(node),
        status=TaskStatus(state=state, ports=ports if state >= TaskState.RUNNING else ()),
        ports=(PORT,),
    )


class FakeAgent:
    """The other end of a session: keeps what it was told."""

    def __init__(self, dispatcher: Dispatcher, node_id: str) -> None:
        self.peer = Peer(node_id=NodeId(node_id), role=Role.WORKER)
        self.tasks: dict[TaskId, Task] = {}
        self.messages: list[SessionMessage] = []
        self.session_id = ""
        self.incarnation = 0
        self.level = AGENT_LEVEL
        self.endpoints_version = 0
        self._dispatcher = dispatcher
        self._stream: AsyncIterator[Any] | None = None

    async def open(self) -> None:
        """Open a session and take in its first message."""
        description = NodeDescription(hostname=str(self.peer.node_id))
        request = SessionRequest(
            description=description, address="127.0.0.1", incarnation=self.incarnation, level=self.level
        )
        self._stream = self._dispatcher.session(self.peer, codec.to_plain(request))
        await self.take()
        self.session_id = self.messages[0].session_id

    async def take(self, timeout: float = 5) -> SessionMessage:
        """The next message."""
        assert self._stream is not None
        async with asyncio.timeout(timeout):
            plain = codec.unpack(codec.pack(await anext(self._stream)))
        message = codec.from_plain(SessionMessage, plain)
        self.messages.append(message)
        if message.assignments is not None:
            if message.assignments.base_sequence == 0:
                self.tasks = {}
            self.tasks.update({task.id: task for task in message.assignments.tasks})
            for task_id in message.assignments.removed:
                self.tasks.pop(task_id, None)
        if message.endpoints is not None:
            self.endpoints_version = message.endpoints.version
        return message

    async def beat(
        self,
        *,
        applied: int | None = None,
        problems: tuple[str, ...] = (),
        engine_away: bool = False,
        leaving: bool = False,
    ) -> Any:
        """A heartbeat; by default the last endpoint table is in force."""
        version = self.endpoints_version if applied is None else applied
        beat = Heartbeat(
            session_id=self.session_id,
            endpoints_version=version,
            problems=problems,
            engine_away=engine_away,
            leaving=leaving,
        )
        return await self._dispatcher.heartbeat(self.peer, codec.to_plain(beat))

    async def report(self, task_id: str, state: TaskState, err: str = "") -> None:
        """Report a task's state."""
        update = TaskStatusUpdate(task_id=TaskId(task_id), status=TaskStatus(state=state, err=err, timestamp_ns=1))
        report = StatusReport(session_id=self.session_id, updates=(update,))
        await self._dispatcher.report(self.peer, codec.to_plain(report))

    async def close(self) -> None:
        """Drop the session."""
        if self._stream is not None:
            await self._stream.aclose()  # type: ignore[attr-defined]


@attrs.define
class TwoAgents:
    """A leader, and an agent on each of the nodes ``good`` and ``bad``."""

    store: Store
    clock: MovedClock
    dispatcher: Dispatcher
    good: FakeAgent
    bad: FakeAgent


@contextlib.asynccontextmanager
async def two_agents(write: Callable[[Tx], None], world: type[W]) -> AsyncIterator[W]:
    """Such a world, with what ``write`` puts into the store."""
    clock = MovedClock()
    store, _ = await make_store(clock, "good", "bad")
    await store.update(write)
    dispatcher = Dispatcher(store=store, clock=clock, random=random.Random(1), managers=tuple)
    running = asyncio.create_task(dispatcher.run())
    await asyncio.sleep(0)
    good, bad = FakeAgent(dispatcher, "good"), FakeAgent(dispatcher, "bad")
    await good.open()
    await bad.open()
    yield world(store, clock, dispatcher, good, bad)
    await good.close()
    await bad.close()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def at_work(reconciler: Reconciler) -> AsyncIterator[None]:
    """It decides meanwhile, and has not failed at the end."""
    running = asyncio.create_task(reconciler.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled(), running.exception()


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
