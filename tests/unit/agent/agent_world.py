"""A small world around one agent: a network in memory, managers that follow a script, an engine and a data plane."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import attrs

from swarmpy.agent.agent import Agent
from swarmpy.agent.local import MemoryLocalState
from swarmpy.agent.rest_of_node import RestOfNode
from swarmpy.errors import (
    ConnectionFailed,
    FailedPrecondition,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    RuntimeUnavailable,
    SwarmpyError,
)
from swarmpy.model import codec
from swarmpy.model.assignments import (
    AssignmentUpdate,
    Departure,
    Endpoint,
    EndpointUpdate,
    Heartbeat,
    HeartbeatReply,
    ManagerAddress,
    PublishedPort,
    SessionMessage,
    SessionRequest,
    StatusReport,
)
from swarmpy.model.dependencies import NO_DEPENDENCIES, Content, Dependencies, DependenciesReply, DependenciesRequest
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.images import RegistryImage
from swarmpy.model.logs import LogLine, LogOptions
from swarmpy.model.objects import ContainerStatus, NodeDescription, PortStatus, Task, TaskStatus
from swarmpy.model.specs import TaskSpec
from swarmpy.model.states import Role, TaskState
from swarmpy.ports import Peer, RunningTask, TaskExit, Told, unheard

PERIOD_NS = 50_000_000


async def eventually(condition: Callable[[], Any], within: float = 5.0) -> None:
    """Return when ``condition`` holds; fail after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.002)


def make_task(name: str, *, desired: TaskState = TaskState.RUNNING, state: TaskState = TaskState.ASSIGNED) -> Task:
    """A task as a manager assigns it."""
    return Task(
        id=TaskId(name),
        spec=TaskSpec(),
        service_id=ServiceId("web"),
        node_id=NodeId("node"),
        desired_state=desired,
        status=TaskStatus(state=state),
    )


def make_table(port: int, *tasks: str) -> tuple[tuple[PublishedPort, tuple[Endpoint, ...]], ...]:
    """The entry of one published port."""
    endpoints = tuple(
        Endpoint(task_id=TaskId(name), node_id=NodeId("node"), address="10.0.0.1", port=1000) for name in tasks
    )
    return ((PublishedPort(port=port), endpoints),)


class WallClock:
    """The clock of this machine."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


@attrs.define
class Container:
    """What the engine keeps of a task."""

    running: bool = False
    ended: asyncio.Event = attrs.Factory(asyncio.Event)
    exit: TaskExit = attrs.Factory(lambda: TaskExit(exit_code=0))


class Engine:
    """A runtime whose containers outlive the agent."""

    name = "simulated"

    def __init__(self) -> None:
        self.containers: dict[TaskId, Container] = {}
        self.calls: list[tuple[str, TaskId]] = []
        self.written: dict[TaskId, list[LogLine]] = {}
        self.given: dict[TaskId, Dependencies] = {}
        self.told: dict[TaskId, Told] = {}
        """Who hears how far a task's preparation is."""
        self.errors: dict[str, SwarmpyError | Exception] = {}
        self.away = False
        self.disturbed = asyncio.Event()
        """Set: its event stream broke."""
        self.prepare_gate: asyncio.Event | None = None
        self.healthy: asyncio.Event | None = None
        self.preparing = 0
        self.most_preparing = 0
        self.closed = False
        self.description = NodeDescription(hostname="node", runtime="simulated")
        self.address = "10.0.0.1"

    def _called(self, call: str, task_id: TaskId) -> None:
        self.calls.append((call, task_id))
        if self.away:
            raise RuntimeUnavailable("the engine is away")
        if (error := self.errors.get(call)) is not None:
            raise error

    def running(self, task_id: TaskId) -> RunningTask:
        port = PortStatus(target_port=80, host_address=self.address, host_port=30000)
        return RunningTask(container=ContainerStatus(container_id=f"c-{task_id}", pid=7), ports=(port,))

    def end(self, name: str, exit_code: int = 0, error: str = "") -> None:
        container = self.containers[TaskId(name)]
        container.running = False
        container.exit = TaskExit(exit_code=exit_code, error=error)
        container.ended.set()

    async def open(self) -> None:
        if self.away:
            raise RuntimeUnavailable("the engine is away")

    async def close(self) -> None:
        self.closed = True

    async def describe(self) -> NodeDescription:
        if self.away:
            raise RuntimeUnavailable("the engine is away")
        return self.description

    async def wait_disturbed(self) -> None:
        await self.disturbed.wait()
        self.disturbed.clear()

    async def logs(self, task: Task, options: LogOptions) -> AsyncGenerator[LogLine, None]:
        for line in self.written.get(task.id, ()):
            if options.wants(line):
                yield line
        if options.follow:
            await self.containers[task.id].ended.wait()

    async def list_tasks(self) -> Mapping[TaskId, RunningTask | None]:
        if self.away:
            raise RuntimeUnavailable("the engine is away")
        return {i: self.running(i) if c.running else None for i, c in self.containers.items()}

    async def prepare(self, task: Task, needed: Dependencies = NO_DEPENDENCIES, told: Told = unheard) -> None:
        self._called("prepare", task.id)
        self.told[task.id] = told
        self.given[task.id] = needed
        self.preparing += 1
        self.most_preparing = max(self.most_preparing, self.preparing)
        try:
            if self.prepare_gate is not None:
                await self.prepare_gate.wait()
        finally:
            self.preparing -= 1
        self.containers.setdefault(task.id, Container())

    async def find_image(self, image: str, auth: bytes = b"") -> RegistryImage:
        raise FailedPrecondition(f"nobody knows {image} here")

    async def start(self, task: Task) -> RunningTask:
        self._called("start", task.id)
        self.containers[task.id].running = True
        if self.healthy is not None:
            await self.healthy.wait()
        return self.running(task.id)

    async def wait(self, task: Task) -> TaskExit:
        self._called("wait", task.id)
        container = self.containers[task.id]
        await container.ended.wait()
        return container.exit

    async def stop(self, task: Task) -> None:
        self._called("stop", task.id)
        if task.id in self.containers and self.containers[task.id].running:
            self.end(task.id, 143)

    async def remove(self, task_id: TaskId) -> None:
        self._called("remove", task_id)
        self.containers.pop(task_id, None)


class Mesh:
    """A data plane that remembers what it was told."""

    def __init__(self) -> None:
        self.tables: list[dict[PublishedPort, tuple[Endpoint, ...]]] = []
        self.gate: asyncio.Semaphore | None = None
        """Each table waits for one release."""
        self.error: Exception | None = None
        self.lines: tuple[str, ...] = ()
        self.closed = False

    async def apply(self, ports: Mapping[PublishedPort, tuple[Endpoint, ...]]) -> None:
        if self.gate is not None:
            await self.gate.acquire()
        if self.error is not None:
            raise self.error
        self.tables.append(dict(ports))

    def problems(self) -> tuple[str, ...]:
        return self.lines

    async def drain(self) -> None:
        assert not self.closed

    async def close(self) -> None:
        self.closed = True


class Manager:
    """A manager that says what the test makes it say, and remembers what it hears."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.alive = True
        self.redirect: str | None = None
        """Set: this one does not lead; the leader's address or ""."""
        self.first = SessionMessage(assignments=AssignmentUpdate(sequence=1))
        self.asked = 0
        self.requests: list[SessionRequest] = []
        self.beats: list[Heartbeat] = []
        self.reports: list[StatusReport] = []
        self.states: dict[str, TaskStatus] = {}
        self.history: dict[str, list[TaskState]] = {}
        self.lose_reports = 0
        """Answers to this many reports get lost after they were recorded."""
        self.departure: Departure | None = None
        """What it says to who is leaving."""
        self.deaf = False
        """Heartbeats are never answered."""
        self.channels: list[MemoryChannel] = []
        self.serial = ""
        """Of its certificate."""
        self.contents: dict[str, Content] = {}
        """The secrets and configs that there are, by id."""
        self.questions: list[DependenciesRequest] = []
        self.refusal: SwarmpyError | None = None
        """Of every question for secrets and configs."""
        self.refused: set[str] = set()
        """What nobody is given."""
        self.at_once = 100
        """Most objects of one answer."""
        self._queue: asyncio.Queue[SessionMessage | SwarmpyError | None] | None = None

    @property
    def session_id(self) -> str:
        return f"{self.address}#{len(self.requests)}"

    def tell(self, **fields: Any) -> None:
        """Send one more message in the present session."""
        assert self._queue is not None
        self._queue.put_nowait(SessionMessage(**fields))

    def end_session(self, error: SwarmpyError | None = None) -> None:
        """End the present session's stream."""
        assert self._queue is not None
        self._queue.put_nowait(error)

    def die(self) -> None:
        """Cut all connections and answer no more."""
        self.alive = False
        for channel in self.channels:
            channel.cut()

    def _check(self) -> None:
        if self.redirect is not None:
            raise NotLeader(leader=self.redirect)

    async def session(self, payload: Any) -> AsyncIterator[Any]:
        self.asked += 1
        self._check()
        self.requests.append(codec.from_plain(SessionRequest, payload))
        queue = self._queue = asyncio.Queue()
        yield codec.to_plain(attrs.evolve(self.first, session_id=self.session_id, heartbeat_period_ns=PERIOD_NS))
        while True:
            message = await queue.get()
            if isinstance(message, SwarmpyError):
                raise message
            if message is None:
                return
            yield codec.to_plain(message)

    async def call(self, method: str, payload: Any) -> Any:
        self._check()
        if method == "dispatcher.heartbeat":
            beat = codec.from_plain(Heartbeat, payload)
            if beat.session_id != self.session_id:
                raise FailedPrecondition("this session has ended")
            self.beats.append(beat)
            told = self.departure if beat.leaving else None
            return codec.to_plain(HeartbeatReply(period_ns=PERIOD_NS, departure=told))
        if method == "dispatcher.dependencies":
            return codec.to_plain(self._answer(codec.from_plain(DependenciesRequest, payload)))
        assert method == "dispatcher.report"
        report = codec.from_plain(StatusReport, payload)
        self.reports.append(report)
        for update in report.updates:
            self.states[update.task_id] = update.status
            self.history.setdefault(update.task_id, []).append(update.status.state)
        if self.lose_reports:
            self.lose_reports -= 1
            raise OutcomeUnknown("the answer was lost")
        return None

    def _answer(self, request: DependenciesRequest) -> DependenciesReply:
        self.questions.append(request)
        if self.refusal is not None:
            raise self.refusal
        assert request.session_id == self.session_id
        if self.refused.intersection((*request.secrets, *request.configs)):
            raise PermissionDenied("not for this node")
        secrets = {i: self.contents[i] for i in request.secrets if i in self.contents}
        configs = {i: self.contents[i] for i in request.configs if i in self.contents}
        secrets = dict(list(secrets.items())[: self.at_once])
        return DependenciesReply(
            secrets=secrets,
            configs=dict(list(configs.items())[: self.at_once - len(secrets)]),
            missing=tuple(i for i in (*request.secrets, *request.configs) if i not in self.contents),
        )


class MemoryChannel:
    """A connection to a manager; every payload goes through bytes."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._closed = asyncio.Event()

    @property
    def peer(self) -> Peer:
        manager = self._manager
        return Peer(node_id=NodeId("m"), role=Role.MANAGER, address=manager.address, serial=manager.serial)

    def cut(self) -> None:
        self._closed.set()

    async def _or_cut(self, work: asyncio.Future[Any]) -> Any:
        cut = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((work, cut), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise OutcomeUnknown("the connection broke")
            return work.result()
        finally:
            work.cancel()
            cut.cancel()
            await asyncio.wait((work, cut))

    async def call(self, method: str, payload: Any, *, timeout: float) -> Any:
        if self._closed.is_set():
            raise ConnectionFailed("closed")
        if self._manager.deaf and method == "dispatcher.heartbeat":
            await asyncio.sleep(timeout)
            raise OutcomeUnknown("no answer")
        answer = await self._or_cut(asyncio.ensure_future(self._manager.call(method, _through_bytes(payload))))
        return _through_bytes(answer)

    def notify(self, method: str, payload: Any) -> bool:
        return False

    async def stream(self, method: str, payload: Any) -> AsyncIterator[Any]:
        assert method == "dispatcher.session"
        async with contextlib.aclosing(self._manager.session(_through_bytes(payload))) as items:
            while True:
                try:
                    yield _through_bytes(await self._or_cut(asyncio.ensure_future(anext(items))))
                except StopAsyncIteration:
                    return

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def close(self) -> None:
        self._closed.set()


def _through_bytes(payload: Any) -> Any:
    return codec.unpack(codec.pack(payload))


class Network:
    """Dials the managers of a test."""

    def __init__(self, *managers: Manager) -> None:
        self.managers = {manager.address: manager for manager in managers}
        self.dialled: list[str] = []

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> MemoryChannel:
        self.dialled.append(address)
        await asyncio.sleep(0)
        manager = self.managers.get(address)
        if manager is None or not manager.alive:
            raise ConnectionFailed(f"nobody answers at {address}")
        channel = MemoryChannel(manager)
        manager.channels.append(channel)
        return channel


class Host:
    """One machine: its engine and its disk stay when the agent is stopped and started again."""

    def __init__(self, *managers: Manager, seeds: tuple[str, ...] | None = None) -> None:
        self.network = Network(*managers)
        self.seeds = tuple(self.network.managers) if seeds is None else seeds
        self.engine = Engine()
        self.mesh = Mesh()
        self.local = MemoryLocalState()
        self.roles: list[Role] = []
        self.later: list[tuple[int, str]] = []
        self.revocations = 0
        self.agent: Agent | None = None

    def _revoked(self) -> None:
        self.revocations += 1

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Agent]:
        """An agent that lives as long as the block."""
        agent = self.agent = Agent(
            node_id=NodeId("node"),
            address="10.0.0.1",
            role=Role.WORKER,
            dialer=self.network,
            runtime=self.engine,
            data_plane=self.mesh,
            local=self.local,
            clock=WallClock(),
            random=random.Random(1),
            rest=RestOfNode(
                seeds=lambda: self.seeds,
                on_role_change=self.roles.append,
                on_later_incarnation=lambda *later: self.later.append(later),
                on_revoked=self._revoked,
            ),
        )
        running = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def whole(*tasks: Task, sequence: int = 1) -> AssignmentUpdate:
    """A whole set of assignments."""
    return AssignmentUpdate(sequence=sequence, tasks=tasks)


def managers_at(*addresses: str) -> tuple[ManagerAddress, ...]:
    """A list of managers as a session tells it."""
    return tuple(ManagerAddress(node_id=NodeId(f"id-{a}"), address=a) for a in addresses)


def table_update(version: int, base: int, *entries: Any) -> EndpointUpdate:
    """An endpoint update."""
    return EndpointUpdate(version=version, base_version=base, ports=tuple(entries))
