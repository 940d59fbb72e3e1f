"""Whose silence a leader counts, and when it is its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import attrs
import pytest
from manager_world import MovedClock, make_store

from swarmpy.manager.silence import LONGEST_SEARCH_S, NEW_LEADER_EXTRA_S, RECOVERY_GRACE_S, Silence
from swarmpy.model.ids import NodeId
from swarmpy.model.states import NodeState
from swarmpy.store.memory import Store

A, B = NodeId("a"), NodeId("b")
NEW_LEADER_S = 3 + NEW_LEADER_EXTRA_S


class World:
    """Two nodes, and a heartbeat a second."""

    def __init__(self, clock: MovedClock, store: Store) -> None:
        self.clock = clock
        self.store = store
        self.silence = Silence(store, clock)

    async def change(self, node_id: NodeId, state: NodeState, *, incarnation: int = 0) -> None:
        """The node is in that state, of a cluster that was begun anew or not."""

        def write(tx: Any) -> None:
            node, cluster = tx.node(node_id), tx.cluster()
            tx.update(attrs.evolve(node, status=attrs.evolve(node.status, state=state)))
            tx.update(attrs.evolve(cluster, incarnation=incarnation))

        await self.store.update(write)

    def given(self) -> dict[NodeId, float]:
        """The seconds that each node has left; -1.0 for one that is not waited for."""
        start, left = self.clock.seconds, {A: -1.0, B: -1.0}
        while (pause := self.silence.next_in(otherwise=-1.0)) >= 0:
            self.clock.seconds += pause
            for node_id in self.silence.too_long():
                left[node_id] = self.clock.seconds - start
                self.silence.forget(node_id)
        self.clock.seconds = start
        return left


@pytest.fixture
async def world() -> World:
    clock = MovedClock()
    store, _ = await make_store(clock, A, B)
    return World(clock, store)


async def test_three_periods_and_more_from_a_new_leader(world: World) -> None:
    """Who is heard has three heartbeats until the next; whoever has yet to find the leader has a second more."""
    world.silence.expect_all()
    world.silence.heard(A)
    assert world.given() == pytest.approx({A: 3.0, B: NEW_LEADER_S})


async def test_nobody_waits_for_who_is_down(world: World) -> None:
    """Not even when all are waited for anew."""
    await world.change(B, NodeState.DOWN)
    world.silence.expect_all()
    assert world.given() == pytest.approx({A: NEW_LEADER_S, B: -1.0})


async def test_the_longer_nobody_was_heard_the_longer_is_waited(world: World) -> None:
    """Agents try less and less often. There is an end to it; a short standstill does not shorten a longer wait."""
    world.silence.expect_all(2.5)
    assert world.given()[A] == pytest.approx(3 + 2.5)
    world.silence.expect_all(3600.0)
    assert world.given()[A] == pytest.approx(3 + LONGEST_SEARCH_S)
    world.silence.expect_all(3600.0)
    world.clock.seconds += 1
    world.silence.expect_all(0.6)
    assert world.given()[A] == pytest.approx(2 + LONGEST_SEARCH_S)


async def test_a_minute_for_nodes_not_heard_of_since_the_cluster_was_begun_anew(world: World) -> None:
    """Also after a standstill, but not in a cluster that was never begun anew."""
    await world.change(A, NodeState.UNKNOWN)
    world.silence.expect_all()
    assert world.given()[A] == pytest.approx(NEW_LEADER_S)
    await world.change(A, NodeState.UNKNOWN, incarnation=7)
    world.silence.expect_all(5.0)
    assert world.given() == pytest.approx({A: RECOVERY_GRACE_S, B: 3 + 5.0})


async def test_a_sleep_that_is_over_too_late_is_a_standstill(world: World) -> None:
    """The process did nothing for longer than half a heartbeat: nobody could be heard."""
    world.silence.heard(A)
    sleeping = asyncio.create_task(world.silence.sleep(0.3))
    await asyncio.sleep(0.01)
    time.sleep(1.0)  # noqa: ASYNC251  # the loop stands still, as it would with the process
    await sleeping
    assert world.given() == pytest.approx({A: NEW_LEADER_S, B: NEW_LEADER_S})
