"""A clock, proposers and objects for the tests of the store."""

from __future__ import annotations

import asyncio

import attrs

from swarmpy.errors import NotLeader, OutcomeUnknown
from swarmpy.model import codec
from swarmpy.model.ids import ClusterId, ConfigId, NodeId, SecretId, ServiceId, TaskId
from swarmpy.model.objects import Cluster, Config, JoinTokens, Node, RootCA, Secret, Service, Task
from swarmpy.model.specs import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    SecretReference,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.store.memory import Store


class FixedClock:
    """A wall clock that stands where it is put."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def time_ns(self) -> int:
        """The time it was put at."""
        return self.now_ns

    def monotonic(self) -> float:
        """The same in seconds."""
        return self.now_ns / 1e9


@attrs.frozen
class Pending:
    """A proposal as the store sees it."""

    index: int
    done: asyncio.Future[None]


class InstantProposer:
    """Commits and applies within ``propose``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def propose(self, data: bytes) -> Pending:
        """Apply at the next index."""
        index = self.store.version + 1
        self.store.apply(index, data)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return Pending(index, done)


class LateProposer:
    """Keeps proposals until told to commit, or loses its leadership with them."""

    def __init__(self, *stores: Store) -> None:
        self.stores = stores
        self.pending: list[tuple[Pending, bytes]] = []
        self.log: list[tuple[int, bytes]] = []
        self.leads = True
        self.last = stores[0].version

    def propose(self, data: bytes) -> Pending:
        """Append, without committing."""
        if not self.leads:
            raise NotLeader
        self.last += 1
        proposal = Pending(self.last, asyncio.get_running_loop().create_future())
        self.pending.append((proposal, data))
        return proposal

    def commit(self, count: int = 1) -> None:
        """Apply the oldest ``count`` proposals on every store."""
        for _ in range(min(count, len(self.pending))):
            proposal, data = self.pending.pop(0)
            self.log.append((proposal.index, data))
            for store in self.stores:
                store.apply(proposal.index, data)
            proposal.done.set_result(None)

    def lose(self, kept: int = 0) -> None:
        """Lose leadership; another leader commits the oldest ``kept`` proposals, the others are gone."""
        self.leads = False
        lost, self.pending = self.pending, []
        for proposal, _ in lost:
            proposal.done.set_exception(OutcomeUnknown("leadership lost"))
        for proposal, data in lost[:kept]:
            self.log.append((proposal.index, data))
            for store in self.stores:
                store.apply(proposal.index, data)


def node(name: str, **fields: object) -> Node:
    """A node."""
    return Node(id=NodeId(name), **fields)  # type: ignore[arg-type]


def service(name: str, image: str = "nginx", object_id: str = "", **spec: object) -> Service:
    """A service that runs ``image``."""
    task = TaskSpec(container=ContainerSpec(image=image))
    return Service(id=ServiceId(object_id or f"id-{name}"), spec=ServiceSpec(name=name, task=task, **spec))  # type: ignore[arg-type]


def task(name: str, owner: str, slot: int = 1, image: str = "nginx", **fields: object) -> Task:
    """A task of the service ``owner``."""
    spec = TaskSpec(container=ContainerSpec(image=image))
    return Task(id=TaskId(name), service_id=ServiceId(owner), slot=slot, spec=spec, **fields)  # type: ignore[arg-type]


def cluster(schema: int = codec.SCHEMA_VERSION) -> Cluster:
    """A cluster whose managers read everything."""
    root_ca = RootCA(cert_pem=b"", key_pem=b"", cert_digest="")
    tokens = JoinTokens(worker="w", manager="m")
    return Cluster(id=ClusterId("c"), root_ca=root_ca, join_tokens=tokens, schema=schema)


def secret(object_id: str, name: str, number: int = 1, data: bytes = b"data", **spec: object) -> Secret:
    """A version of the secret ``name``."""
    return Secret(id=SecretId(object_id), number=number, spec=SecretSpec(name=name, data=data, **spec))  # type: ignore[arg-type]


def config(object_id: str, name: str, number: int = 1, data: bytes = b"data", **spec: object) -> Config:
    """A version of the config ``name``."""
    return Config(id=ConfigId(object_id), number=number, spec=ConfigSpec(name=name, data=data, **spec))  # type: ignore[arg-type]


def with_references(spec: TaskSpec, *, secrets: tuple[str, ...] = (), configs: tuple[str, ...] = ()) -> TaskSpec:
    """``spec`` with files of these ids."""
    container = attrs.evolve(
        spec.container,
        secrets=tuple(
            SecretReference(secret_id=SecretId(i), secret_name=f"name-{i}", file=FileTarget(name=i)) for i in secrets
        ),
        configs=tuple(
            ConfigReference(config_id=ConfigId(i), config_name=f"name-{i}", file=FileTarget(name=i)) for i in configs
        ),
    )
    return attrs.evolve(spec, container=container)


def content(store: Store) -> dict[str, object]:
    """All committed objects by id."""
    view = store.view()
    found = (view.nodes(), view.services(), view.tasks(), view.secrets(), view.configs())
    return {obj.id: obj for objects in found for obj in objects}
