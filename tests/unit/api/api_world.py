"""Managers with real stores that share one log, and nodes around them: what the API is tested on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from swarmpy.api.api import Api
from swarmpy.api.audit import Auditor
from swarmpy.api.backend import InitRequest, JoinRequest, LeavingNode, RestoreRequest
from swarmpy.api.callers import Access, Caller, Door
from swarmpy.api.request import ApiRequest, ApiResponse
from swarmpy.errors import ConnectionFailed, FailedPrecondition, InvalidArgument, NoQuorum, NotLocked
from swarmpy.manager.operations import create_service
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.codec import BASE_VERSION
from swarmpy.model.ids import ClusterId, NodeId, TaskId, encode_id
from swarmpy.model.images import RegistryImage
from swarmpy.model.objects import (
    Cluster,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeStatus,
    Platform,
    RootCA,
    Service,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import ContainerSpec, NodeSpec, Resources, ServiceSpec, TaskSpec
from swarmpy.model.states import NodeState, Role, TaskState
from swarmpy.ports import Clock as ClockPort
from swarmpy.ports import Peer
from swarmpy.raft.messages import ConfState, Member
from swarmpy.raft.state import RaftRole
from swarmpy.raft.status import RaftStatus
from swarmpy.security.ca import create_root_ca
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.tokens import make_token, make_tokens
from swarmpy.store.memory import Store
from swarmpy.store.view import View

START_NS = 1_790_000_000_123_456_000
RANDOM = random.Random(7)
ROOT = create_root_ca(START_NS)


class Clock:
    """A wall clock that moves a millisecond a look."""

    def __init__(self) -> None:
        self.now_ns = START_NS

    def time_ns(self) -> int:
        """The next millisecond."""
        self.now_ns += 1_000_000
        return self.now_ns

    def monotonic(self) -> float:
        """The same in seconds."""
        return self.now_ns / 1e9


@attrs.frozen
class Done:
    """A proposal that is committed already."""

    index: int
    done: asyncio.Future[None]


class SharedLog:
    """Commits at once, on the stores of all managers."""

    def __init__(self) -> None:
        self.stores: list[Store] = []
        self.index = 0

    def propose(self, data: bytes) -> Done:
        """Apply at the next index everywhere."""
        self.index += 1
        for store in self.stores:
            store.apply(self.index, data)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return Done(self.index, done)


class BenchManager:
    """A manager whose leadership is decided by the test."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.address = f"{node_id}:2377"
        self.store = Store(world.clock)
        self.believes: str | None = None
        """Whom this manager takes for the leader."""
        self.barriers = 0
        self.calls = 0
        self.on_call: Callable[[Any], Awaitable[Any]] | None = None
        """Instead of the way to the leader."""

    @property
    def is_leader(self) -> bool:
        """True when the world says so."""
        return self.world.leader_id == self.node_id

    def leader(self) -> tuple[str, str] | None:
        """The believed leader."""
        return None if self.believes is None else (self.believes, f"{self.believes}:2377")

    async def read_barrier(self, timeout: float) -> None:
        """Passes whenever there is a leader."""
        self.barriers += 1
        if self.world.leader_id is None:
            raise NoQuorum("no leader to ask")

    async def call_leader(self, method: str, payload: Any, timeout: float) -> Any:
        """To the believed leader's API, if it lives."""
        self.calls += 1
        assert method == "api.request"
        if self.on_call is not None:
            return await self.on_call(payload)
        if self.believes not in self.world.apis:
            raise ConnectionFailed(f"{self.believes} does not answer")
        peer = Peer(node_id=NodeId(self.node_id), role=Role.MANAGER)
        return await self.world.apis[self.believes].on_forwarded(peer, payload)

    @property
    def term(self) -> int:
        """Always the same."""
        return self.raft_status().term

    def raft_status(self) -> RaftStatus:
        """A status."""
        role = RaftRole.LEADER if self.is_leader else RaftRole.FOLLOWER
        members = [
            Member(raft_id=number, node_id=node_id, address=f"{node_id}:2377")
            for number, node_id in enumerate(self.world.nodes, start=1)
        ]
        return RaftStatus(
            raft_id=1,
            role=role,
            term=3,
            commit=self.store.version,
            applied=self.store.version,
            conf=ConfState(
                voters=tuple(m for m in members if m.node_id not in self.world.learners),
                learners=tuple(m for m in members if m.node_id in self.world.learners),
            ),
        )

    async def raft_report(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def reachable_managers(self) -> Mapping[str, bool | None]:
        """Those whose API lives."""
        return {node_id: node_id in self.world.apis for node_id in self.world.nodes}

    def check_demotion(self, view: View, node: Node) -> None:
        """Nothing speaks against it."""

    def new_id(self) -> str:
        """A fresh identifier."""
        return encode_id(RANDOM.randbytes(16))

    def new_join_token(self, ca_digest: str) -> str:
        """A fresh token."""
        return make_token(ca_digest, RANDOM)


class BenchNode:
    """A node, a manager or not."""

    def __init__(self, node_id: str, manager: BenchManager | None = None, local_state: str = "active") -> None:
        self.node_id = node_id
        self.node_address = "127.0.0.1" if node_id else ""
        self.cluster_id = "thecluster" if node_id else ""
        self.local_state = local_state
        self.error = ""
        self.manager = manager
        self.version = "0.1.0"
        self.description = description(node_id or "lonely")
        self.inits: list[InitRequest] = []
        self.restores: list[RestoreRequest] = []
        self.joins: list[JoinRequest] = []
        self.leaves: list[tuple[bool, float | None]] = []
        self.drains: list[tuple[float | None, bool]] = []
        self.losses: tuple[str, ...] = ()
        self.is_leaving: LeavingNode | None = None
        self.troubles: tuple[str, ...] = ()
        self.registry: Callable[[str, bytes], RegistryImage] | None = None
        """What its engine hears of registries; None: it has no engine."""
        self.may_rejoin = False
        self.unlock_key = UnlockKey(b"k" * 32)

    def manager_addresses(self) -> tuple[ManagerAddress, ...]:
        """One manager."""
        return (ManagerAddress(node_id=NodeId("m1"), address="m1:2377"),) if self.cluster_id else ()

    def problems(self) -> tuple[str, ...]:
        """What the test says."""
        return self.troubles

    def task_states(self) -> tuple[TaskState, ...]:
        """One task that runs and one that has ended."""
        return (TaskState.RUNNING, TaskState.FAILED) if self.cluster_id else ()

    async def find_image(self, image: str, auth: bytes) -> RegistryImage:
        """What the test says."""
        if self.registry is None:
            raise FailedPrecondition("no engine")
        return self.registry(image, auth)

    async def init(self, request: InitRequest) -> str:
        """Remember the request."""
        self.inits.append(request)
        return "newnodeid"

    async def join(self, request: JoinRequest) -> None:
        """Remember the request."""
        self.joins.append(request)

    async def restore(self, request: RestoreRequest) -> str:
        """Remember the request."""
        self.restores.append(request)
        return "restorednodeid"

    def leaving(self) -> LeavingNode | None:
        """What the test says."""
        return self.is_leaving

    async def drain(self, *, timeout: float | None = None, undo: bool = False) -> tuple[str, ...]:
        """Remember the request."""
        self.drains.append((timeout, undo))
        return self.losses

    async def leave(self, *, force: bool, timeout: float | None = None) -> tuple[str, ...]:
        """Remember the request."""
        self.leaves.append((force, timeout))
        return self.losses

    async def unlock(self, key: UnlockKey) -> None:
        """Compare it with the one that the node waits for."""
        if self.local_state != "locked":
            raise NotLocked("swarm is not locked")
        if key.secret != self.unlock_key.secret:
            raise InvalidArgument("swarm could not be unlocked: invalid key provided")
        self.local_state = "active"


def description(hostname: str) -> NodeDescription:
    """A machine."""
    return NodeDescription(
        hostname=hostname,
        platform=Platform(architecture="x86_64"),
        resources=Resources(nano_cpus=2_000_000_000, memory_bytes=4 << 30),
        runtime="simulated",
        engine_version="0.1.0",
        engine_labels={"disk": "ssd"},
    )


class World:
    """A cluster of managers."""

    def __init__(self, *names: str, clock: ClockPort | None = None) -> None:
        self.clock: Any = clock or Clock()
        self.log = SharedLog()
        self.leader_id: str | None = None
        self.learners: set[str] = set()
        self.nodes = {name: BenchNode(name, BenchManager(self, name)) for name in names}
        self.log.stores = [self.manager(name).store for name in names]
        self.apis = {name: Api(node, self.clock) for name, node in self.nodes.items()}

    def manager(self, name: str) -> BenchManager:
        """The manager on a node."""
        found = self.nodes[name].manager
        assert found is not None
        return found

    def elect(self, name: str | None) -> None:
        """Make ``name`` the leader; everybody hears of it."""
        self.leader_id = name
        for node in self.nodes:
            self.manager(node).believes = name
            self.manager(node).store.set_proposer(self.log if node == name else None)

    def kill(self, name: str) -> None:
        """The leader dies; nobody has noticed yet."""
        del self.apis[name]
        self.leader_id = None
        self.manager(name).store.set_proposer(None)

    @property
    def leader(self) -> BenchManager:
        """The manager that leads."""
        assert self.leader_id is not None
        return self.manager(self.leader_id)

    async def found(self, *, schema: int = BASE_VERSION, root: RootCA = ROOT) -> None:
        """The cluster object, a node for each manager, one worker."""

        def create(tx: Any) -> None:
            tokens = make_tokens(root.cert_digest, RANDOM)
            tx.create(Cluster(id=ClusterId("thecluster"), root_ca=root, join_tokens=tokens, schema=schema))
            for number, name in enumerate(self.nodes, start=1):
                tx.create(member(name, manager=ManagerStatus(raft_id=number, address=f"{name}:2377")))
            tx.create(member("w1"))

        await self.leader.store.update(create)

    async def service(self, name: str, **fields: Any) -> Service:
        """A service that runs busybox."""
        spec = ServiceSpec(name=name, task=TaskSpec(container=ContainerSpec(image="busybox")), **fields)
        return await create_service(self.leader.store, spec, self.leader.new_id)

    async def task(self, service: Service, slot: int = 1, **fields: Any) -> Task:
        """A task of ``service`` that runs on w1, unless ``fields`` says otherwise."""
        status = TaskStatus(state=TaskState.RUNNING, message="started", timestamp_ns=START_NS)
        given: dict[str, Any] = {
            "id": TaskId(self.leader.new_id()),
            "service_id": service.id,
            "service_name": service.spec.name,
            "service_labels": service.spec.labels,
            "spec": service.spec.task,
            "spec_version": service.spec_version,
            "slot": slot,
            "node_id": NodeId("w1"),
            "status": status,
        }
        task = Task(**{**given, **fields})
        await self.leader.store.update(lambda tx: tx.create(task))
        return task


def member(name: str, manager: ManagerStatus | None = None) -> Node:
    """A node that is ready."""
    role = Role.WORKER if manager is None else Role.MANAGER
    return Node(
        id=NodeId(name),
        spec=NodeSpec(role=role),
        role=role,
        description=description(f"host-{name}"),
        status=NodeStatus(state=NodeState.READY, address="127.0.0.1"),
        manager=manager,
    )


def api_of(node: BenchNode, audit: Auditor | None = None) -> Api:
    """The API of a node."""
    return Api(node, Clock(), audit)


ADMIN = Caller(access=Access.ADMIN, door=Door.SOCKET, address="/s", pid=7, uid=0)
VIEWER = Caller(access=Access.VIEWER, door=Door.TCP, address="192.0.2.7:5000", name="watcher", serial="1f")


def request(method: str, target: str, body: object = None, caller: Caller | None = ADMIN, **query: str) -> ApiRequest:
    """A request; ``body`` becomes JSON unless it is bytes."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return ApiRequest(method=method, path=target, caller=caller, query=query, body=raw)


async def ask(api: Api, method: str, target: str, body: object = None, **query: str) -> tuple[int, Any]:
    """The status and the decoded body of an answer."""
    return decoded(await api.handle(request(method, target, body, **query)))


def decoded(response: ApiResponse) -> tuple[int, Any]:
    """The status and the decoded body."""
    return response.status, json.loads(response.body) if response.body else None
