"""What the scheduler knows follows the store, also when events are lost."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from manager_world import MovedClock, make_store

from swarmpy.control.decision import Decision
from swarmpy.control.loads import Loads
from swarmpy.manager import placing
from swarmpy.manager.placing import KINDS, Placing
from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.specs import ResourceRequirements, Resources, TaskSpec
from swarmpy.model.states import Availability, NodeState, TaskState
from swarmpy.store.memory import Store
from swarmpy.store.watch import Watch


def waiting(number: int) -> Task:
    """A task that waits for a node."""
    status = TaskStatus(state=TaskState.PENDING)
    return Task(id=TaskId(f"t{number:05d}"), spec=TaskSpec(), service_id=ServiceId("s"), status=status)


class World:
    """A store with nodes, and what is written to it by whom."""

    def __init__(self, store: Store, clock: MovedClock, watch: Watch) -> None:
        self.store = store
        self.placing = Placing(store, watch, clock)
        self.meanwhile: list[Any] = []

    async def apply(self, decision: Decision) -> int:
        """Write a decision; then what others write next."""
        for assigned in decision.assigned:
            await self.store.patch(assigned.tasks, assigned.patch)
        await self.store.update(lambda tx: tx.apply(decision.changes))
        if self.meanwhile:
            await self.meanwhile.pop(0)()
        return len(decision.changes) + sum(len(assigned.tasks) for assigned in decision.assigned)

    async def create(self, numbers: range) -> None:
        await self.store.batch(numbers, lambda tx, number: tx.create(waiting(number)))

    async def take_down(self, name: str) -> None:
        node = self.store.view().node(name)
        assert node is not None
        down = attrs.evolve(node, status=attrs.evolve(node.status, state=NodeState.DOWN))
        await self.store.update(lambda tx: tx.update(down))

    def on(self, name: str) -> int:
        return len(self.store.view().tasks_on_node(name))


async def test_a_node_that_goes_down_during_a_round_gets_no_more() -> None:
    """The slices after the event go elsewhere."""
    clock = MovedClock()
    store, _ = await make_store(clock, "a", "b")
    with store.watch(KINDS) as watch:
        world = World(store, clock, watch)
        await world.create(range(3_000))
        world.meanwhile.append(lambda: world.take_down("a"))
        assert await world.placing.settle(world.apply) == 3_000
        assert (world.on("a"), world.on("b")) == (500, 2_500)
        assert await world.placing.settle(world.apply) == 0


async def test_lost_events_are_made_up_for() -> None:
    """Everything is read anew, and nothing is placed by what was known before."""
    clock = MovedClock()
    store, _ = await make_store(clock, "a", "b")
    with store.watch(KINDS, limit=50) as watch:
        world = World(store, clock, watch)
        await world.create(range(40))
        world.meanwhile.append(lambda: world.create(range(40, 200)))
        while await world.placing.settle(world.apply):
            pass
        assert (world.on("a"), world.on("b")) == (100, 100)


async def test_a_decision_that_could_not_be_written_leaves_no_trace() -> None:
    """Its tasks do not count on their nodes, and are placed by the next round."""
    clock = MovedClock()
    store, _ = await make_store(clock, "a", "b")
    with store.watch(KINDS) as watch:
        world = World(store, clock, watch)
        await world.create(range(10))

        async def fail(decision: Decision) -> int:
            return 0

        await world.placing.settle(fail)
        loads = world.placing._loads
        assert loads is not None
        assert [load.total for load in loads.nodes()] == [0, 0]
        assert await world.placing.settle(world.apply) == 10
        assert (world.on("a"), world.on("b")) == (5, 5)
        assert loads.waiting == {}
        assert loads.by_node == Loads.of(store.view()).by_node


async def test_reading_everything_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written between its slices is known at the end."""
    monkeypatch.setattr(placing, "BUILD_SLICE", 10)
    clock = MovedClock()
    store, _ = await make_store(clock, "a")
    with store.watch(KINDS) as watch:
        world = World(store, clock, watch)
        await world.create(range(100))
        late = asyncio.create_task(store.update(lambda tx: tx.create(waiting(500))))
        assert await world.placing.settle(world.apply) == 101
        await late


async def test_how_much_is_free_is_not_told_at_every_change() -> None:
    """A reason in which only that differs is written when its task has rested; another reason is written at once."""
    clock = MovedClock()
    store, _ = await make_store(clock, "a")
    with store.watch(KINDS) as watch:
        world = World(store, clock, watch)

        async def has(memory: int, availability: Availability = Availability.ACTIVE) -> str:
            node = store.view().node("a")
            assert node is not None
            resources = Resources(memory_bytes=memory)
            changed = attrs.evolve(
                node,
                description=attrs.evolve(node.description, resources=resources),
                spec=attrs.evolve(node.spec, availability=availability),
            )
            await store.update(lambda tx: tx.update(changed))
            while await world.placing.settle(world.apply):
                pass
            (task,) = store.view().tasks()
            return task.status.err

        reserved = ResourceRequirements(reservations=Resources(memory_bytes=9000))
        task = attrs.evolve(waiting(1), spec=TaskSpec(resources=reserved))
        await store.update(lambda tx: tx.create(task))
        clock.seconds += 60
        assert "largest free 3 B" in await has(3)
        clock.seconds += 1
        assert "largest free 3 B" in await has(4)
        assert world.placing.due == clock.seconds + 9
        clock.seconds += 9
        assert await world.placing.settle(world.apply) == 1
        assert "largest free 4 B" in store.view().tasks()[0].status.err
        assert world.placing.due is None
        assert await has(4, Availability.DRAIN) == "no suitable node (1 node drained)"
        assert "largest free 4 B" in await has(4)
