"""Real managers, connected by function calls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Self

import attrs
from manager_world import ROOT, MovedClock

from swarmpy.errors import ConnectionFailed
from swarmpy.manager.manager import Manager
from swarmpy.manager.rest_of_node import RestOfNode
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, ManagerStatus, Node
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Role
from swarmpy.ports import Channel, Peer
from swarmpy.raft.messages import ConfState, HardState, Member, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX, MemoryStorage
from swarmpy.security import tokens
from swarmpy.wire.router import Router

CONFIG = RaftConfig(tick_ns=20_000_000)
DEADLINE_S = 20.0


def member(raft_id: int) -> Member:
    """The manager of that id, where it was founded."""
    return Member(raft_id=raft_id, node_id=f"node{raft_id}", address=f"10.0.0.{raft_id}:2377")


def peer(raft_id: int) -> Peer:
    """Who it is to the others."""
    return Peer(node_id=NodeId(f"node{raft_id}"), role=Role.MANAGER, cluster_id=ClusterId("c"), address="10.0.0.9:1")


@attrs.define
class Wire:
    """Implements ``Channel``."""

    router: Router
    me: Peer
    peer: Peer
    _closed: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    async def call(self, method: str, payload: Any, *, timeout: float) -> Any:
        """The answer of the other end's router."""
        if self._closed.is_set():
            raise ConnectionFailed(f"the connection to {self.peer.node_id} is closed")
        async with asyncio.timeout(timeout):
            return await self.router.dispatch_call(self.me, method, payload)

    def notify(self, method: str, payload: Any) -> bool:
        """To the other end's router, a moment later."""
        if not self._closed.is_set():
            asyncio.get_running_loop().call_soon(self.router.dispatch_notify, self.me, method, payload)
        return not self._closed.is_set()

    def stream(self, method: str, payload: Any) -> Any:
        """Nobody streams here."""
        raise NotImplementedError

    async def wait_closed(self) -> None:
        """Until it is closed from this end, or the other one has stopped."""
        await self._closed.wait()

    async def close(self) -> None:
        """Take nothing any more."""
        self.cut()

    def cut(self) -> None:
        """The other end is gone."""
        self._closed.set()


class Wired:
    """Managers by id. Each can be started at any address, again and again with the same disk."""

    def __init__(self, *ids: int, schema: int) -> None:
        self.ids = ids
        self.schema = schema
        self.managers: dict[int, Manager] = {}
        self._storages = {raft_id: MemoryStorage() for raft_id in ids}
        self._listening: dict[str, tuple[Router, int]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._wires: dict[int, list[Wire]] = {raft_id: [] for raft_id in ids}
        """The connections to each manager's present life."""
        self.refuses: Callable[[int, str], Exception | None] = lambda raft_id, method: None
        """Asked for each call to the manager of an id: an error to be raised instead of its answer."""

    async def __aenter__(self) -> Self:
        conf = ConfState(voters=tuple(member(raft_id) for raft_id in self.ids))
        for storage in self._storages.values():
            await storage.save_snapshot(Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=conf), 2)
            await storage.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
        for raft_id in self.ids:
            self.start(raft_id)
        leader = await self.leader()
        await leader.store.update(self._found)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for raft_id in list(self._tasks):
            await self.stop(raft_id)

    def _found(self, tx: Any) -> None:
        join_tokens = tokens.make_tokens(ROOT.cert_digest, random.Random(1))
        tx.create(Cluster(id=ClusterId("c"), root_ca=ROOT, join_tokens=join_tokens, schema=self.schema))
        for raft_id in self.ids:
            status = ManagerStatus(raft_id=raft_id, address=member(raft_id).address)
            spec = NodeSpec(role=Role.MANAGER)
            tx.create(Node(id=NodeId(f"node{raft_id}"), spec=spec, role=Role.MANAGER, manager=status))

    def start(self, raft_id: int, address: str = "", hints: tuple[str, ...] = ()) -> Manager:
        """Start one, elsewhere than before if need be."""
        address = address or member(raft_id).address
        router = Router()
        manager = Manager(
            node_id=NodeId(f"node{raft_id}"),
            cluster_id=ClusterId("c"),
            raft_id=raft_id,
            address=address,
            storage=self._storages[raft_id],
            dialer=_Dialer(self, raft_id),
            router=router,
            clock=MovedClock(),
            random=random.Random(raft_id),
            config=CONFIG,
            rest=RestOfNode(manager_hints=hints),
        )
        self.managers[raft_id] = manager
        self._listening[address] = (router, raft_id)
        self._tasks[raft_id] = asyncio.create_task(manager.run())
        return manager

    async def stop(self, raft_id: int) -> None:
        """Switch one off."""
        manager = self.managers.pop(raft_id)
        self._listening.pop(manager.address, None)
        task = self._tasks.pop(raft_id)
        task.cancel()
        await asyncio.wait([task])
        while self._wires[raft_id]:
            self._wires[raft_id].pop().cut()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to become true."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def leader(self) -> Manager:
        """Wait for the one that leads."""
        await self.until(lambda: any(manager.is_leader for manager in self.managers.values()))
        return next(manager for manager in self.managers.values() if manager.is_leader)

    def connect(self, source: int, address: str) -> Channel:
        """A connection of the manager ``source``. Raises ConnectionFailed where nobody listens."""
        if address not in self._listening:
            raise ConnectionFailed(f"{address} is not there")
        router, raft_id = self._listening[address]
        wire = _Refusing(router=router, me=peer(source), peer=peer(raft_id), wired=self, raft_id=raft_id)
        self._wires[raft_id].append(wire)
        return wire


@attrs.define
class _Refusing(Wire):
    wired: Wired = attrs.field(kw_only=True)
    raft_id: int = attrs.field(kw_only=True)

    async def call(self, method: str, payload: Any, *, timeout: float) -> Any:
        refusal = self.wired.refuses(self.raft_id, method)
        if refusal is not None:
            raise refusal
        return await super().call(method, payload, timeout=timeout)


@attrs.frozen
class _Dialer:
    wired: Wired
    source: int

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        """See ``Dialer``."""
        return self.wired.connect(self.source, address)
