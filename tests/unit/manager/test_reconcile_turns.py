"""The leader's control loop among large services: who has a turn, what is kept of them, and for how long."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from manager_world import until
from reconcile_world import IDLE, World, quiet, reconciling

from swarmpy.control import orchestrator
from swarmpy.manager import reconcile
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service, Task, TaskStatus
from swarmpy.model.specs import TaskSpec
from swarmpy.model.states import TaskState


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service of some tasks is a large one."""
    monkeypatch.setattr(reconcile, "KEPT_TASKS", 10)
    monkeypatch.setattr(orchestrator, "SLICE_SLOTS", 2)
    monkeypatch.setattr(orchestrator, "SLICE_TASKS", 1)


async def settled(world: World, count: int) -> None:
    await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * count)
    await quiet(world)


async def with_large_and_small(world: World) -> None:
    """``s1`` has sixty tasks, ``s2`` one."""
    await world.create(60)
    await world.create_idle_service()
    await settled(world, 61)


async def change(world: World, **changed: object) -> None:
    """The large service is to be another one."""
    service = world.store.view().service("s1")
    assert service is not None
    spec = attrs.evolve(service.spec, **changed)
    await world.store.update(lambda tx: tx.update(attrs.evolve(service, spec=spec)))


async def test_one_decision_about_a_large_service_does_not_hold_up_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that fails while all slots of the large one are looked at is replaced some slices later."""
    looks = 0
    failed_at = replaced_at = 0
    reports: list[asyncio.Task[None]] = []
    look = orchestrator.Look._look

    def counted(self: orchestrator.Look, draft: object) -> bool:
        nonlocal looks, failed_at, replaced_at
        looks += 1
        tasks = world.store.view().tasks_of_service("s2")
        if looks == 5:
            failed_at = looks
            reports.append(asyncio.create_task(world.observe(tasks[0], TaskState.FAILED)))
        if len(tasks) > 1 and not replaced_at:
            replaced_at = looks
        return look(self, draft)  # type: ignore[arg-type]

    monkeypatch.setattr(reconcile, "TURN_SLICES", 4)
    async with reconciling("a") as world:
        await with_large_and_small(world)
        monkeypatch.setattr(orchestrator.Look, "_look", counted)
        await change(world, task=TaskSpec(container=attrs.evolve(IDLE, image="y")))
        await until(lambda: replaced_at > 0)
        await asyncio.gather(*reports)
        assert replaced_at - failed_at <= 3 * reconcile.TURN_SLICES
        # What was interrupted is brought to its end.
        await until(lambda: any(t.spec.container.image == "y" for t in world.tasks(TaskState.READY) + world.tasks()))


async def test_an_interrupted_decision_counts_what_has_changed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service becomes smaller, then larger, while it is decided on in turns of one slice."""
    monkeypatch.setattr(reconcile, "TURN_SLICES", 1)
    async with reconciling("a") as world:
        await world.create(30)
        await until(lambda: len(world.tasks()) > 10)
        await change(world, replicas=12)
        await until(lambda: len(world.tasks()) == 12)
        await change(world, replicas=20)
        # Where one is to stop, the next waits for that.
        await until(lambda: len(world.tasks() + world.tasks(TaskState.READY)) == 20)
        await quiet(world)
        assert sorted(task.slot for task in world.tasks() + world.tasks(TaskState.READY)) == list(range(1, 21))


async def test_what_waited_is_forgotten_with_its_service() -> None:
    """A service that is removed while a restart delay is not over leaves nothing behind."""
    async with reconciling("a") as world:
        await world.create(1, delay_ns=10**12)
        await settled(world, 1)
        await world.observe(world.tasks()[0], TaskState.FAILED)
        await until(lambda: len(world.tasks(TaskState.READY)) == 1)
        await quiet(world)
        assert list(world.reconciler._waits) == ["s1"]
        await world.store.update(lambda tx: tx.update(attrs.evolve(tx.service("s1"), pending_delete=True)))
        await until(lambda: world.store.view().service("s1") is None or bool(world.tasks(TaskState.REMOVE)))
        for task in world.tasks(TaskState.REMOVE):
            await world.observe(task, TaskState.SHUTDOWN)
        await until(lambda: world.store.view().service("s1") is None)
        await quiet(world)
        left = world.reconciler
        assert [left._waits, left._wake_at, left._slots, left._begun, left._holding] == [{}] * 5


async def lose(world: World, changed: Task) -> None:
    """It is written, and nobody is told."""
    world.store._hub, hub = type(world.store._hub)(), world.store._hub
    await world.store.update(lambda tx: tx.update(changed))
    world.store._hub = hub


async def poke(world: World) -> None:
    """Something else changes."""
    cluster = world.store.view().cluster()
    raft = attrs.evolve(cluster.spec.raft, snapshot_interval=cluster.spec.raft.snapshot_interval + 1)
    spec = attrs.evolve(cluster.spec, raft=raft)
    await world.store.update(lambda tx: tx.update(attrs.evolve(cluster, spec=spec)))


async def test_what_was_missed_of_a_large_service_is_found_after_a_while() -> None:
    """A change that nobody heard of is seen when the service is read anew, ten minutes later."""
    async with reconciling("a") as world:
        await world.create(20)
        await settled(world, 20)
        await lose(world, attrs.evolve(world.tasks()[0], status=TaskStatus(state=TaskState.FAILED)))
        await poke(world)
        await quiet(world)
        assert not world.tasks(TaskState.READY), "it would be seen without that, too"
        world.clock.seconds += reconcile.RENEW_S
        await poke(world)
        await until(lambda: len(world.tasks(TaskState.READY)) == 1)


async def test_one_large_service_at_a_time_is_read_anew_and_nothing_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its turn in ten minutes, in a cluster in which nothing happens."""
    read: list[str] = []
    async with reconciling("a") as world:
        await world.create(20)
        await settled(world, 20)
        spec = attrs.evolve(world.store.view().services()[0].spec, name="api")
        await world.store.update(lambda tx: tx.create(Service(id=ServiceId("s2"), spec=spec)))
        await world.store.update(lambda tx: tx.create(Service(id=ServiceId("s3"), spec=attrs.evolve(spec, name="x"))))
        await settled(world, 60)
        once = reconcile.Reconciler._read

        async def noted(self: reconcile.Reconciler, service_id: ServiceId) -> object:
            read.append(service_id)
            return await once(self, service_id)

        monkeypatch.setattr(reconcile.Reconciler, "_read", noted)
        for number in range(1, 7):
            # The first turn was set when there was one service.
            world.clock.seconds += reconcile.RENEW_S if number == 1 else reconcile.RENEW_S / 3 + 1
            entries = world.proposer.entries
            await poke(world)
            await until(lambda number=number: len(read) == number)  # type: ignore[misc]
            await quiet(world)
            assert world.proposer.entries == entries + 1
        assert read[:3] == read[3:]
        assert sorted(read[:3]) == ["s1", "s2", "s3"]
