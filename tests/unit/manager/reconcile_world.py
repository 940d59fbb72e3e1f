"""A reconciler at work on a store of its own, and what a test does to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
from manager_world import InstantProposer, MovedClock, at_work, make_store

from swarmpy.control import orchestrator
from swarmpy.manager.reconcile import Reconciler
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, RestartPolicy, ServiceSpec, TaskSpec
from swarmpy.model.states import TaskState
from swarmpy.store.memory import Store

IDLE = ContainerSpec(image="x")


@attrs.frozen
class World:
    clock: MovedClock
    store: Store
    proposer: InstantProposer
    reconciler: Reconciler

    def tasks(self, desired: TaskState = TaskState.RUNNING) -> list[Task]:
        return [t for t in self.store.view().tasks() if t.desired_state is desired]

    async def create(self, replicas: int, **policy: int) -> None:
        task = TaskSpec(container=IDLE, restart=RestartPolicy(**policy))
        spec = ServiceSpec(name="web", replicas=replicas, task=task)
        await self.store.update(lambda tx: tx.create(Service(id=ServiceId("s1"), spec=spec)))

    async def create_idle_service(self) -> None:
        spec = ServiceSpec(name="idle", replicas=1, task=TaskSpec(container=IDLE))
        await self.store.update(lambda tx: tx.create(Service(id=ServiceId("s2"), spec=spec)))

    async def observe(self, task: Task, state: TaskState) -> None:
        def write(tx: object) -> None:
            current = tx.task(task.id)  # type: ignore[attr-defined]
            status = TaskStatus(state=state, timestamp_ns=self.clock.time_ns())
            tx.update(attrs.evolve(current, status=status, applied_at_ns=self.clock.time_ns()))  # type: ignore[attr-defined]

        await self.store.update(write)


@asynccontextmanager
async def reconciling(*nodes: str) -> AsyncIterator[World]:
    clock = MovedClock()
    store, proposer = await make_store(clock, *nodes)
    reconciler = Reconciler(store=store, clock=clock, random=random.Random(5))
    async with at_work(reconciler):
        yield World(clock, store, proposer, reconciler)


async def quiet(world: World) -> None:
    """Wait until nothing has been written for a while."""
    while True:
        before = world.proposer.entries
        await asyncio.sleep(0.05)  # several turns of a loop that has anything to do
        if world.proposer.entries == before:
            return


def decisions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The services that are decided on from now on, one for each decision."""
    decided: list[str] = []

    class Noted(orchestrator.Look):
        def __init__(self, slots, view, service_id, *rest, **more):
            decided.append(service_id)
            super().__init__(slots, view, service_id, *rest, **more)

    monkeypatch.setattr(orchestrator, "Look", Noted)
    return decided
