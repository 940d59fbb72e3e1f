"""Which messages of other managers a manager takes for what they say they are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from manager_world import MovedClock

from swarmpy.errors import ConnectionFailed
from swarmpy.manager.manager import Manager
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Channel, Peer
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.encoding import encode_messages
from swarmpy.raft.messages import ConfState, HardState, Member, Message, MessageType, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX, MemoryStorage
from swarmpy.wire.router import Router


class NoNetwork:
    """Implements ``Dialer`` for a manager that is alone."""

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        raise ConnectionFailed(f"{address} is not there")


def member(raft_id: int) -> Member:
    return Member(raft_id=raft_id, node_id=f"node{raft_id}", address=f"10.0.0.{raft_id}:2377")


@pytest.fixture
async def running() -> AsyncIterator[tuple[Router, RaftDriver]]:
    """Manager 1 of three, while it runs: where messages go in, and what comes of them."""
    storage = MemoryStorage()
    conf = ConfState(voters=(member(1), member(2), member(3)))
    await storage.save_snapshot(Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=conf), 2)
    await storage.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
    router = Router()
    manager = Manager(
        node_id=NodeId("node1"),
        cluster_id=ClusterId("c"),
        raft_id=1,
        address=member(1).address,
        storage=storage,
        dialer=NoNetwork(),
        router=router,
        clock=MovedClock(),
        random=random.Random(1),
        config=RaftConfig(election_tick=50),
    )
    task = asyncio.create_task(manager.run())
    await manager.wait_loaded()
    yield router, manager.raft
    task.cancel()
    await asyncio.wait([task])


async def beat(router: Router, *, peer: str, source: int, term: int) -> None:
    """A heartbeat of ``source``, brought by the node ``peer``."""
    message = Message(type=MessageType.HEARTBEAT, to=1, source=source, term=term, sender=member(source))
    sender = Peer(node_id=NodeId(peer), role=Role.MANAGER, cluster_id=ClusterId("c"), address="10.0.0.9:1")
    router.dispatch_notify(sender, "raft.messages", encode_messages([message]))
    for _ in range(20):
        await asyncio.sleep(0)


async def test_nobody_speaks_for_another_member(running) -> None:
    """A message in the name of a member comes from that member's node, or counts for nothing."""
    router, raft = running
    await beat(router, peer="node3", source=2, term=5)
    assert raft.status().term == 1
    await beat(router, peer="node2", source=2, term=5)
    assert (raft.status().term, raft.status().leader_id) == (5, 2)


async def test_a_member_that_came_back_under_a_new_id_is_heard(running) -> None:
    """A manager that is behind follows a leader whose new raft id it has not heard of, though it knows its old one."""
    router, raft = running
    await beat(router, peer="node3", source=7, term=6)
    assert raft.status().leader_id == 7
