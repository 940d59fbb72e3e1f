"""Who leaves the group of managers, and when not; and how managers come by the cluster's timing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import attrs
import pytest
from manager_world import ROOT, MovedClock

from swarmpy.errors import ConnectionFailed, FailedPrecondition, Unavailable
from swarmpy.manager.manager import Manager
from swarmpy.manager.membership import Membership
from swarmpy.manager.operations import update_cluster, update_node
from swarmpy.model import codec
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, ManagerStatus, Node
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Role
from swarmpy.ports import Channel
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    HardState,
    Member,
    Message,
    MessageType,
    Snapshot,
)
from swarmpy.raft.storage import BOOTSTRAP_INDEX, MemoryStorage, bootstrap
from swarmpy.security import tokens
from swarmpy.store.memory import Store
from swarmpy.wire.router import Router

FAST = RaftConfig(tick_ns=20_000_000)
DEADLINE_S = 20.0


def member(raft_id: int) -> Member:
    return Member(raft_id=raft_id, node_id=f"node{raft_id}", address=f"10.0.0.{raft_id}:2377")


def node(raft_id: int) -> Node:
    status = ManagerStatus(raft_id=raft_id, address=member(raft_id).address)
    return Node(id=NodeId(f"node{raft_id}"), spec=NodeSpec(role=Role.MANAGER), role=Role.MANAGER, manager=status)


class Managers:
    """Drivers with real stores, over a network that is a function call; the leader's membership loop runs."""

    def __init__(self, *ids: int) -> None:
        self.ids = ids
        self.stores: dict[int, Store] = {}
        self.drivers: dict[int, RaftDriver] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.loops: list[asyncio.Task[None]] = []
        self.drop: Callable[[Message], bool] = lambda message: False

    async def __aenter__(self) -> Self:
        conf = ConfState(voters=tuple(member(i) for i in self.ids))
        for raft_id in self.ids:
            storage = MemoryStorage()
            await storage.save_snapshot(Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=conf), 2)
            await storage.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
            self.start(raft_id, storage)
        leader = await self.leader()
        await self.stores[leader].update(self._found)
        return self

    def start(self, raft_id: int, storage: MemoryStorage) -> None:
        """Switch one on."""
        self.stores[raft_id] = Store(MovedClock())
        self.drivers[raft_id] = RaftDriver(
            raft_id=raft_id,
            storage=storage,
            transport=self,
            state_machine=self.stores[raft_id],
            random=random.Random(raft_id),
            config=FAST,
        )
        self.tasks[raft_id] = asyncio.create_task(self.drivers[raft_id].run())

    async def __aexit__(self, *exc: object) -> None:
        for task in (*self.loops, *self.tasks.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _found(self, tx) -> None:
        join_tokens = tokens.make_tokens(ROOT.cert_digest, random.Random(1))
        tx.create(Cluster(id=ClusterId("c"), root_ca=ROOT, join_tokens=join_tokens, schema=codec.SCHEMA_VERSION))
        for raft_id in self.ids:
            tx.create(node(raft_id))

    def send(self, to: Member, messages: Sequence[Message]) -> None:
        """See ``RaftTransport``."""
        for message in messages:
            if message.to in self.tasks and message.source in self.tasks and not self.drop(message):
                asyncio.get_running_loop().call_soon(self.drivers[to.raft_id].receive, message)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.001)

    async def leader(self) -> int:
        """Wait for one, and put its store and its membership loop in office."""
        await self.until(lambda: any(self.drivers[i].is_leader_ready for i in self.tasks))
        leader = next(i for i in self.tasks if self.drivers[i].is_leader_ready)
        self.stores[leader].set_proposer(self.drivers[leader])
        return leader

    def membership(self, leader: int) -> Membership:
        return Membership(store=self.stores[leader], raft=self.drivers[leader])

    def look_after(self, leader: int) -> None:
        """Run the loop of the leader."""
        self.loops.append(asyncio.create_task(self.membership(leader).run()))

    async def kill(self, *ids: int) -> None:
        for raft_id in ids:
            self.tasks.pop(raft_id).cancel()
        await self.until(
            lambda: all(not self.drivers[i].is_leader_ready or not self._answers(i, ids) for i in self.tasks)
        )

    def _answers(self, leader: int, ids: Sequence[int]) -> bool:
        progress = self.drivers[leader].status().progress
        return any(progress[i].active for i in ids)

    async def demote(self, leader: int, raft_id: int) -> None:
        """As a user asks for it."""
        store = self.stores[leader]
        node = store.view().node(NodeId(f"node{raft_id}"))
        await update_node(
            store,
            node.id,
            node.meta.version,
            attrs.evolve(node.spec, role=Role.WORKER),
            check_demotion=self.membership(leader).check_demotion,
        )

    async def demand(self, leader: int, *ids: int) -> None:
        """Write the role without asking whether it can be."""

        def write(tx) -> None:
            for raft_id in ids:
                node = tx.node(NodeId(f"node{raft_id}"))
                tx.update(attrs.evolve(node, spec=attrs.evolve(node.spec, role=Role.WORKER)))

        await self.stores[leader].update(write)

    def voters(self, leader: int) -> list[int]:
        return [m.raft_id for m in self.drivers[leader].status().conf.voters]


async def test_a_demotion_that_would_cost_the_quorum_is_refused() -> None:
    """With one of three away the other cannot be demoted, and the user hears why; the one that is away can."""
    async with Managers(1, 2, 3) as managers:
        leader = await managers.leader()
        present, away = [i for i in managers.ids if i != leader]
        await managers.kill(away)
        with pytest.raises(FailedPrecondition, match="1 of 2 managers that are left answer, 2 are needed"):
            await managers.demote(leader, present)
        with pytest.raises(FailedPrecondition, match="1 of 2 managers that are left answer"):
            await managers.demote(leader, leader)
        node = managers.stores[leader].view().node(NodeId(f"node{present}"))
        assert node.spec.role is Role.MANAGER
        await managers.demote(leader, away)
        managers.look_after(leader)
        await managers.until(lambda: away not in managers.voters(leader))


async def test_demotions_count_together() -> None:
    """One that is to go already does not count for the next: together they must leave a quorum that answers."""
    async with Managers(1, 2, 3, 4) as managers:
        leader = await managers.leader()
        away, *others = [i for i in managers.ids if i != leader]
        await managers.kill(away)
        await managers.demote(leader, others[0])
        with pytest.raises(FailedPrecondition, match="1 of 2 managers"):
            await managers.demote(leader, others[1])
        await managers.demote(leader, away)
        await managers.demote(leader, others[1])


async def test_one_that_must_wait_holds_up_nobody() -> None:
    """A live manager that cannot go yet does not keep a dead one in the group, after whose removal it can go."""
    async with Managers(1, 2, 3) as managers:
        leader = await managers.leader()
        present, away = [i for i in managers.ids if i != leader]
        await managers.kill(away)
        await managers.demand(leader, present, away)
        managers.look_after(leader)
        await managers.until(lambda: managers.voters(leader) == [leader])


async def test_a_hand_over_that_fails_does_not_end_the_work() -> None:
    """What is asked for while a leader hands over in vain is done when it has given that up."""
    async with Managers(1, 2, 3) as managers:
        leader = await managers.leader()
        other = leader % 3 + 1
        managers.drop = lambda m: m.type is MessageType.TIMEOUT_NOW
        await managers.demand(leader, other)
        handing = asyncio.create_task(managers.drivers[leader].transfer_leadership(None, DEADLINE_S))
        await asyncio.sleep(0)
        managers.look_after(leader)
        await managers.until(lambda: other not in managers.voters(leader))
        handing.cancel()


async def test_a_new_leader_waits_to_hear_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demotion that a leader begins its office with waits for the answers it needs, and fails for no reason."""
    monkeypatch.setattr("swarmpy.manager.membership.RETRY_S", 10 * DEADLINE_S)
    async with Managers(1, 2, 3) as managers:
        old = await managers.leader()
        new, third = [i for i in managers.ids if i != old]
        await managers.demand(old, old)
        refused: list[Unavailable] = []
        change = managers.drivers[new].propose_conf_change

        async def noted(*args: Any, **kwargs: Any) -> None:
            try:
                await change(*args, **kwargs)
            except Unavailable as error:
                refused.append(error)
                raise

        monkeypatch.setattr(managers.drivers[new], "propose_conf_change", noted)
        managers.drop = lambda m: (m.source, m.to) == (third, new) and not refused
        await managers.drivers[old].transfer_leadership(new, DEADLINE_S)
        assert await managers.leader() == new
        managers.look_after(new)
        await managers.until(lambda: old not in managers.voters(new))
        assert "not heard of all managers yet" in str(refused[0])


async def test_a_learner_that_is_to_go_gets_no_vote() -> None:
    """One that was demoted, or whose node was removed, while it caught up is removed and not promoted first."""
    async with Managers(1, 2, 3) as managers:
        leader = await managers.leader()
        driver = managers.drivers[leader]
        for raft_id in (4, 5):
            managers.start(raft_id, MemoryStorage())
            learner = ConfChange(kind=ConfChangeKind.ADD_LEARNER, member=member(raft_id))
            await driver.propose_conf_change(learner, DEADLINE_S)
        await managers.stores[leader].update(lambda tx: tx.create(node(4)))
        await managers.demand(leader, 4)
        await managers.until(lambda: all(driver.status().progress[i].caught_up for i in (4, 5)))
        voted: set[int] = set()
        driver.subscribe(lambda status: voted.update(m.raft_id for m in status.conf.voters))
        managers.look_after(leader)
        await managers.until(lambda: not driver.status().conf.learners)
        assert voted == {1, 2, 3}


class NoNetwork:
    """Implements ``Dialer`` for a manager that is alone."""

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        raise ConnectionFailed(f"{address} is not there")


@pytest.fixture
async def alone() -> AsyncIterator[Manager]:
    """The only manager of a cluster that was founded with slow timing, in office."""
    storage = MemoryStorage()
    await bootstrap(storage, member(1))
    manager = Manager(
        node_id=NodeId("node1"),
        cluster_id=ClusterId("c"),
        raft_id=1,
        address=member(1).address,
        storage=storage,
        dialer=NoNetwork(),
        router=Router(),
        clock=MovedClock(),
        random=random.Random(1),
        config=RaftConfig(),
    )
    task = asyncio.create_task(manager.run())
    await manager.wait_leader(DEADLINE_S)
    join_tokens = tokens.make_tokens(ROOT.cert_digest, random.Random(1))
    await manager.store.update(lambda tx: tx.create(Cluster(id=ClusterId("c"), root_ca=ROOT, join_tokens=join_tokens)))
    yield manager
    task.cancel()
    await asyncio.wait([task])


async def test_timing_is_taken_over_live(alone: Manager) -> None:
    """A manager lives by another timing as soon as the change of the cluster is applied there."""
    config = RaftConfig().with_timing(heartbeat_ns=300_000_000, election_ns=3_000_000_000)
    version = alone.store.view().cluster().meta.version
    await update_cluster(
        alone.store, version, lambda spec: attrs.evolve(spec, raft=config), new_join_token=lambda digest: digest
    )
    async with asyncio.timeout(DEADLINE_S):
        while alone.raft._leading().timing.election != 40:
            await asyncio.sleep(0.001)
    assert alone.is_leader
