"""Managers of two clusters with one identity: who tells whom, and what a leader of the earlier one refuses."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import attrs
import pytest
from manager_world import FakeAgent, MovedClock, make_store

from swarmpy.control.recovery import LOST, UNHEARD, begun_anew, next_incarnation
from swarmpy.errors import Superseded
from swarmpy.manager import incarnations
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.incarnations import METHOD, Incarnations, check_incarnation
from swarmpy.manager.silence import RECOVERY_GRACE_S
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import ManagerStatus, Node, NodeDescription
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import NodeState, Role
from swarmpy.ports import Peer
from swarmpy.raft.messages import ConfState, Member, Message, MessageType
from swarmpy.store.memory import Store

ME = Member(raft_id=9, node_id="a", address="10.0.0.1:2377")
LOST_ONE = Member(raft_id=2, node_id="b", address="10.0.0.2:2377")
PEER = Peer(node_id=NodeId("b"), role=Role.MANAGER)


class Raft:
    """What is asked of the Raft driver."""

    def __init__(self) -> None:
        self.conf = ConfState(voters=(ME,), removed=(LOST_ONE,))


@attrs.define
class World:
    clock: MovedClock
    store: Store
    told: incarnations.Incarnations
    sent: list[tuple[str, Any]]
    later: list[tuple[int, str]]

    async def set_incarnation(self, number: int) -> None:
        await self.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), incarnation=number)))


@pytest.fixture
async def world() -> World:
    """A manager whose cluster has nodes a, b and c, and incarnation 5."""
    clock = MovedClock()
    store, _ = await make_store(clock, "a", "b", "c")
    sent: list[tuple[str, Any]] = []
    later: list[tuple[int, str]] = []

    def send(address: str, method: str, payload: Any) -> None:
        assert method == METHOD
        sent.append((address, payload["incarnation"]))

    told = Incarnations(
        address=ME.address,
        store=store,
        raft=Raft(),  # type: ignore[arg-type]
        clock=clock,
        random=random.Random(1),
        send=send,
        on_superseded=lambda *told: later.append(told),
    )
    made = World(clock, store, told, sent, later)
    await made.set_incarnation(5)
    return made


async def test_the_later_one_counts(world: World) -> None:
    """A manager that hears of a later incarnation says so to its node; it answers one that is of an earlier one."""
    world.told.heard(PEER, {"incarnation": 5, "address": "10.0.0.2:2377"})
    assert (world.sent, world.later) == ([], [])
    world.told.heard(PEER, {"incarnation": 4, "address": "10.0.0.2:2377"})
    assert world.sent == [("10.0.0.2:2377", 5)]
    world.told.heard(PEER, {"incarnation": 6, "address": "10.0.0.2:2377"})
    assert world.later == [(6, "10.0.0.2:2377")]
    assert len(world.sent) == 1


@pytest.mark.parametrize("payload", [None, {}, {"incarnation": "9", "address": "x"}, {"incarnation": 9}, [9]])
async def test_nonsense_changes_nothing(world: World, payload: Any) -> None:
    """What is no incarnation with an address is the earliest of all, and is not answered."""
    world.told.heard(PEER, payload)
    assert (world.sent, world.later) == ([], [])


async def test_messages_for_the_member_of_before_are_answered(world: World) -> None:
    """By the address that the membership or the message tells; once a second, however many come."""
    message = Message(type=MessageType.HEARTBEAT, to=1, source=2, term=7)
    for _ in range(20):
        world.told.misdirected(message)
    assert world.sent == [(LOST_ONE.address, 5)]
    world.clock.seconds += 1
    stranger = Member(raft_id=3, node_id="d", address="10.0.0.3:2377")
    world.told.misdirected(message)
    world.told.misdirected(attrs.evolve(message, source=3, sender=stranger))
    world.told.misdirected(attrs.evolve(message, source=4))
    assert world.sent[1:] == [(LOST_ONE.address, 5), (stranger.address, 5)]


async def test_a_cluster_as_founded_tells_nobody(world: World) -> None:
    """A manager that lost its log has another raft id, too, and nobody is of an earlier incarnation."""
    await world.set_incarnation(0)
    world.told.misdirected(Message(type=MessageType.HEARTBEAT, to=1, source=2, term=7))
    assert world.sent == []


async def test_the_leader_calls_at_the_lost_until_they_are_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be silent for they cannot reach it; one that has a session is a worker and has been told."""
    monkeypatch.setattr(incarnations, "CALL_S", 0.01)
    monkeypatch.setattr(incarnations, "TELL_S", 0.0)

    async def state(state: NodeState) -> None:
        def write(tx: Any) -> None:
            node = tx.node("b")
            tx.update(attrs.evolve(node, status=attrs.evolve(node.status, state=state)))

        await world.store.update(write)

    await state(NodeState.DOWN)
    calling = asyncio.create_task(world.told.run())
    async with asyncio.timeout(5):
        while len(world.sent) < 3:
            await asyncio.sleep(0.01)
    assert set(world.sent) == {(LOST_ONE.address, 5)}
    await state(NodeState.READY)
    await asyncio.sleep(0.05)
    sent = len(world.sent)
    await asyncio.sleep(0.1)
    assert len(world.sent) == sent
    calling.cancel()
    await asyncio.wait([calling])


async def test_a_leader_refuses_those_who_know_better(world: World) -> None:
    """Sessions, certificates and memberships: nothing is given, and nothing is written, to who has seen a later one."""
    check_incarnation(world.store.view().cluster(), {"incarnation": 5})
    check_incarnation(world.store.view().cluster(), {})
    with pytest.raises(Superseded):
        check_incarnation(world.store.view().cluster(), {"incarnation": 6})
    dispatcher = Dispatcher(store=world.store, clock=world.clock, random=random.Random(3), managers=tuple)
    running = asyncio.create_task(dispatcher.run())
    version = world.store.version
    for node in ("c", "nobody"):
        agent = FakeAgent(dispatcher, node)
        agent.incarnation = 6
        with pytest.raises(Superseded):
            await agent.open()
    assert world.store.version == version
    agent.incarnation = 4
    agent = FakeAgent(dispatcher, "c")
    await agent.open()
    assert agent.messages[0].incarnation == 5
    await agent.close()
    running.cancel()
    await asyncio.wait([running])


async def test_a_node_not_heard_of_since_gets_a_minute(world: World) -> None:
    """The managers that it tries first may be gone. Where no cluster was begun anew it gets what all nodes get."""

    def unheard(tx: Any) -> None:
        node = tx.node("c")
        tx.update(attrs.evolve(node, status=attrs.evolve(node.status, state=NodeState.UNKNOWN)))

    await world.store.update(unheard)
    dispatcher = Dispatcher(store=world.store, clock=world.clock, random=random.Random(3), managers=tuple)
    running = asyncio.create_task(dispatcher.run())
    await asyncio.sleep(0.05)
    world.clock.seconds += RECOVERY_GRACE_S - 5

    def state(name: str) -> NodeState:
        node = world.store.view().node(name)
        assert node is not None
        return node.status.state

    async def goes_down(name: str) -> None:
        async with asyncio.timeout(30):
            while state(name) is not NodeState.DOWN:
                await asyncio.sleep(0.02)
                # Time goes on: a loop that a busy machine held up waits for all nodes anew.
                world.clock.seconds += 0.02

    await goes_down("a")
    assert state("c") is NodeState.UNKNOWN
    world.clock.seconds += 6
    await goes_down("c")
    running.cancel()
    await asyncio.wait([running])

    await world.set_incarnation(0)
    await world.store.update(unheard)
    dispatcher = Dispatcher(store=world.store, clock=world.clock, random=random.Random(3), managers=tuple)
    running = asyncio.create_task(dispatcher.run())
    await asyncio.sleep(0.05)
    world.clock.seconds += 10
    await goes_down("c")
    running.cancel()
    await asyncio.wait([running])


def test_incarnations_only_grow() -> None:
    """By the clock, so that two begun from one state differ; never back where the clock went back."""

    class Of:
        incarnation = 1000

    assert next_incarnation(Of(), 5_000_000_000) == 5000  # type: ignore[arg-type]
    assert next_incarnation(Of(), 3_000_000) == 1001  # type: ignore[arg-type]


async def test_only_who_manages_changes(world: World) -> None:
    """One manager is left; those that were are down, workers wait to be heard of; who is new is made."""

    def managers(tx: Any) -> None:
        for name, raft_id in (("a", 1), ("b", 2)):
            manager = ManagerStatus(raft_id=raft_id, address=f"{name}:1")
            spec = NodeSpec(role=Role.MANAGER)
            tx.update(attrs.evolve(tx.node(name), role=Role.MANAGER, spec=spec, manager=manager))
        tx.update(attrs.evolve(tx.node("c"), spec=NodeSpec(role=Role.MANAGER)))

    await world.store.update(managers)
    view = world.store.view()
    made = {c.id: c.object for c in begun_anew(view, NodeId("a"), ManagerStatus(raft_id=9, address="x:1"), 7)}
    a, b, c = made["a"], made["b"], made["c"]
    assert isinstance(a, Node)
    assert isinstance(b, Node)
    assert isinstance(c, Node)
    assert (a.role, a.spec.role, a.status.state) == (Role.MANAGER, Role.MANAGER, NodeState.UNKNOWN)
    assert a.manager == ManagerStatus(raft_id=9, address="x:1")
    assert (b.role, b.spec.role, b.manager) == (Role.WORKER, Role.WORKER, None)
    assert (b.status.state, b.status.message) == (NodeState.DOWN, LOST)
    assert (c.role, c.spec.role, c.status.state) == (Role.WORKER, Role.WORKER, NodeState.UNKNOWN)
    assert c.status.message == UNHEARD

    new = Node(id=NodeId("z"), description=NodeDescription(hostname="zeta"))
    found = begun_anew(view, NodeId("z"), ManagerStatus(raft_id=9, address="x:1"), 7, new=new)
    made = {c.id: c.object for c in found}
    z, a = made["z"], made["a"]
    assert isinstance(a, Node)
    assert isinstance(z, Node)
    assert (z.role, z.description.hostname, z.meta.created_at_ns) == (Role.MANAGER, "zeta", 7)
    assert (a.role, a.manager, a.status.state) == (Role.WORKER, None, NodeState.DOWN)
