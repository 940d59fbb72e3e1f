"""The leader's control loop on a real store."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from manager_world import until
from reconcile_world import IDLE, decisions, quiet, reconciling

from swarmpy.control import enforcer, orchestrator
from swarmpy.manager import reconcile
from swarmpy.manager.events import drain
from swarmpy.model import codec
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Kind, Service, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, MaxUnavailable, NodeSpec, Placement, ServiceSpec, TaskSpec
from swarmpy.model.states import NodeState, TaskState
from swarmpy.store.transaction import Tx
from swarmpy.store.watch import Event


@pytest.fixture(autouse=True, params=[False, True], ids=["", "in short slices"])
def slices(request, monkeypatch) -> None:
    """A small service is decided on as a large one is, too."""
    if request.param:
        monkeypatch.setattr(reconcile, "KEPT_TASKS", 0)
        monkeypatch.setattr(orchestrator, "SLICE_SLOTS", 2)
        monkeypatch.setattr(orchestrator, "SLICE_TASKS", 1)


async def test_nothing_is_written_while_nothing_changes() -> None:
    """Not even where tasks cannot be placed, and the loop looks again because of other things."""
    async with reconciling("a") as world:
        task = TaskSpec(container=IDLE, placement=Placement(constraints=("node.role==manager",)))
        spec = ServiceSpec(name="web", replicas=5, task=task)
        await world.store.update(lambda tx: tx.create(Service(id=ServiceId("s1"), spec=spec)))
        await until(lambda: len([t for t in world.tasks() if t.status.err]) == 5)
        quiet = world.proposer.entries
        service = world.store.view().service("s1")
        assert service is not None
        labelled = attrs.evolve(service, spec=attrs.evolve(service.spec, labels={"a": "b"}))
        await world.store.update(lambda tx: tx.update(labelled))
        await world.create_idle_service()
        await until(lambda: len([t for t in world.tasks() if t.status.state is TaskState.ASSIGNED]) == 1)
        assert world.proposer.entries - quiet <= 5


async def test_a_service_becomes_assigned_tasks() -> None:
    """A new service goes through orchestrator, allocator and scheduler without anybody calling them."""
    async with reconciling("a", "b") as world:
        await world.create(4)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 4)
        assert sorted(str(t.node_id) for t in world.tasks()) == ["a", "a", "b", "b"]


async def test_tasks_with_a_large_spec_take_more_entries() -> None:
    """Two hundred of them do not fit one entry of the log."""
    async with reconciling("a", "b") as world:
        task = TaskSpec(container=ContainerSpec(image="x", env=("A=" + "x" * 20_000,)))
        spec = ServiceSpec(name="web", replicas=200, task=task)
        await world.store.update(lambda tx: tx.create(Service(id=ServiceId("s1"), spec=spec)))
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 200)


async def test_a_node_that_is_relabelled_loses_what_does_not_belong_there() -> None:
    """The tasks are told to stop and are replaced on the node that fits."""
    async with reconciling("a", "b") as world:

        async def label(name: str, zone: str) -> None:
            node = world.store.view().node(name)
            assert node is not None
            spec = attrs.evolve(node.spec, labels={"zone": zone})
            await world.store.update(lambda tx: tx.update(attrs.evolve(node, spec=spec)))

        await label("a", "eu")
        await label("b", "us")
        task = TaskSpec(container=IDLE, placement=Placement(constraints=("node.labels.zone==eu",)))
        spec = ServiceSpec(name="web", replicas=3, task=task)
        await world.store.update(lambda tx: tx.create(Service(id=ServiceId("s1"), spec=spec)))
        await until(lambda: [t.node_id for t in world.tasks() if t.node_id] == ["a"] * 3)
        await label("b", "eu")
        await label("a", "us")
        await until(lambda: [t.node_id for t in world.tasks(TaskState.READY)] == ["b"] * 3)
        stopping = world.tasks(TaskState.SHUTDOWN)
        assert [t.node_id for t in stopping] == ["a"] * 3
        for each in stopping:
            await world.observe(each, TaskState.SHUTDOWN)
        await until(lambda: [t.node_id for t in world.tasks()] == ["b"] * 3)


async def test_a_node_that_does_not_fit_is_looked_at_again_when_its_service_has_changed() -> None:
    """One task leaves it at once, as one may be missing; the next when another runs elsewhere. The rest may stay."""
    async with reconciling("a", "b") as world:
        store = world.store

        async def label(name: str, zone: str) -> None:
            node = store.view().node(name)
            assert node is not None
            await store.update(lambda tx: tx.update(attrs.evolve(node, spec=NodeSpec(labels={"zone": zone}))))

        def waiting() -> list[Task]:
            return [task for task in world.tasks() if enforcer.is_held_up(task)]

        async def settle_down() -> None:
            """Agents obey."""
            for task in store.view().tasks():
                if task.status.state is TaskState.ASSIGNED and task.desired_state is TaskState.RUNNING:
                    await world.observe(task, TaskState.RUNNING)
                elif task.status.state is TaskState.RUNNING and task.desired_state is TaskState.SHUTDOWN:
                    await world.observe(task, TaskState.SHUTDOWN)

        cluster = attrs.evolve(store.view().cluster(), schema=codec.SCHEMA_VERSION)
        await store.update(lambda tx: tx.update(cluster))
        await label("a", "x")
        task = TaskSpec(container=IDLE, placement=Placement(constraints=("node.labels.zone==x",)))
        spec = ServiceSpec(name="web", replicas=4, task=task, max_unavailable=MaxUnavailable(amount=1))
        await store.update(lambda tx: tx.create(Service(id=ServiceId("s1"), spec=spec)))
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 4)
        await settle_down()
        await label("a", "y")
        await until(lambda: len(waiting()) == 3)
        await label("b", "x")
        await until(lambda: [t.node_id for t in world.tasks()].count("b") == 4)
        assert len(waiting()) == 3, "none of those on b runs yet"
        freed = next(task for task in world.tasks() if task.node_id == "b" and task.slot == waiting()[0].slot)
        await world.observe(freed, TaskState.RUNNING)
        await until(lambda: len(waiting()) == 2)
        service = store.view().service("s1")
        assert service is not None
        anywhere = attrs.evolve(task, placement=Placement())
        await store.update(lambda tx: tx.update(attrs.evolve(service, spec=attrs.evolve(spec, task=anywhere))))
        await until(lambda: not waiting() and sorted(str(t.node_id) for t in world.tasks()) == ["a", "a", "b", "b"])


async def test_what_was_never_started_leaves_a_node_whose_engine_is_away() -> None:
    """Nobody has to say that it has stopped: that engine could not."""
    async with reconciling("a") as world:
        spec = ServiceSpec(name="web", replicas=2, task=TaskSpec(container=IDLE))
        await world.store.update(lambda tx: tx.create(Service(id=ServiceId("s1"), spec=spec)))
        await until(lambda: [t.node_id for t in world.tasks() if t.node_id] == ["a"] * 2)
        schema = codec.SERVICES_VERSION
        await world.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=schema)))
        runs, waits = world.tasks()
        await world.observe(runs, TaskState.RUNNING)
        await world.observe(waits, TaskState.PREPARING)
        a = world.store.view().node("a")
        assert a is not None
        b = attrs.evolve(a, id=NodeId("b"))
        await world.store.update(lambda tx: tx.create(b))
        away = attrs.evolve(a.status, engine_away=True)
        await world.store.update(lambda tx: tx.update(attrs.evolve(tx.node("a"), status=away)))
        await until(lambda: sorted(str(t.node_id) for t in world.tasks(TaskState.RUNNING)) == ["a", "b"])
        assert [t.id for t in world.tasks(TaskState.SHUTDOWN)] == [waits.id]


async def test_a_task_without_a_node_says_why_and_goes_on_when_one_comes() -> None:
    """With no node ready the reason is on the task; a node that turns ready gets it."""
    async with reconciling("a") as world:
        node = world.store.view().node("a")
        assert node is not None
        down = attrs.evolve(node, status=attrs.evolve(node.status, state=NodeState.DOWN))
        await world.store.update(lambda tx: tx.update(down))
        await world.create(1)
        await until(lambda: any(t.status.err.startswith("no suitable node") for t in world.tasks()))
        ready = attrs.evolve(node, status=attrs.evolve(node.status, state=NodeState.READY))
        await world.store.update(lambda tx: tx.update(ready))
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED])


async def test_a_restart_waits_for_its_delay() -> None:
    """The replacement of a task that ended is told to run when the delay is over, and not before."""
    async with reconciling("a") as world:
        await world.create(1, delay_ns=1_000_000_000)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED])
        first = world.tasks()[0]
        await world.observe(first, TaskState.FAILED)
        await until(lambda: len(world.tasks(TaskState.READY)) == 1)
        replacement = world.tasks(TaskState.READY)[0]
        assert replacement.not_before_ns == world.clock.time_ns() + 1_000_000_000
        world.clock.seconds += 1.1
        await until(lambda: [t.id for t in world.tasks()] == [replacement.id])


async def test_a_clock_that_is_set_does_not_hold_a_restart_back() -> None:
    """The leader's clock is an hour behind the one that the delay was counted by, when the reconciler looks at it."""
    async with reconciling("a") as world:
        await world.create(1, delay_ns=200_000_000)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED])
        await world.observe(world.tasks()[0], TaskState.FAILED)
        await until(lambda: len(world.tasks(TaskState.READY)) == 1)
        replacement = world.tasks(TaskState.READY)[0]
        world.clock.wall_ahead = -3600.0
        await world.observe(replacement, TaskState.ASSIGNED)  # it looks again, with that clock
        await asyncio.sleep(0)
        world.clock.seconds += 0.3
        await until(lambda: [t.id for t in world.tasks()] == [replacement.id])


@pytest.mark.parametrize(
    ("change", "is_decided"),
    [
        (lambda spec: attrs.evolve(spec, raft=attrs.evolve(spec.raft, snapshot_interval=77)), False),
        (lambda spec: attrs.evolve(spec, task_history_limit=1), True),
    ],
    ids=["Raft's", "the history's"],
)
async def test_which_settings_have_all_services_decided_anew(monkeypatch, change, is_decided) -> None:
    """Those that a decision looks at, and no others: there may be thousands of services."""
    decided = decisions(monkeypatch)
    async with reconciling("a") as world:
        await world.create(1)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED])
        await asyncio.sleep(0.1)  # time for the last decision about that
        decided.clear()
        cluster = world.store.view().cluster()
        await world.store.update(lambda tx: tx.update(attrs.evolve(cluster, spec=change(cluster.spec))))
        node = world.store.view().node("a")
        assert node is not None
        if is_decided:
            await until(lambda: decided == ["s1"])
        else:
            await asyncio.sleep(0.1)  # the time that nothing is decided in
            assert decided == []
            # It goes on to listen: a node that goes has its service decided.
            away = attrs.evolve(node, status=attrs.evolve(node.status, state=NodeState.DOWN))
            await world.store.update(lambda tx: tx.update(away))
            await until(lambda: "s1" in decided)


async def test_a_quiet_cluster_writes_nothing() -> None:
    """When everything is as wanted, no entry is added to the log."""
    async with reconciling("a") as world:
        await world.create(2)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 2)
        for task in world.tasks():
            await world.observe(task, TaskState.RUNNING)
        await asyncio.sleep(0.1)  # time for the last decision; nothing may come after it
        entries = world.proposer.entries
        await asyncio.sleep(0.3)  # the time that is quiet
        assert world.proposer.entries == entries


async def test_a_removed_service_goes_when_its_tasks_have_stopped() -> None:
    """The service object outlives its removal until the last task is gone."""
    async with reconciling("a") as world:
        await world.create(1)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED])
        await world.observe(world.tasks()[0], TaskState.RUNNING)

        def remove(tx: object) -> None:
            service = tx.service("s1")  # type: ignore[attr-defined]
            tx.update(attrs.evolve(service, pending_delete=True))  # type: ignore[attr-defined]

        await world.store.update(remove)
        await until(lambda: len(world.tasks(TaskState.REMOVE)) == 1)
        assert world.store.view().service("s1") is not None
        await world.observe(world.tasks(TaskState.REMOVE)[0], TaskState.SHUTDOWN)
        await until(lambda: world.store.view().service("s1") is None)
        assert not world.store.view().tasks()


async def test_a_large_service_leaves_the_loop_to_others(monkeypatch) -> None:
    """Not all of it is begun before the next service has its turn."""
    monkeypatch.setattr(orchestrator, "SLICE_TASKS", 4)
    monkeypatch.setattr(reconcile, "STEPS", 2)
    async with reconciling("a") as world:
        spec = ServiceSpec(name="web", replicas=50, task=TaskSpec(container=IDLE))
        both = [
            Service(id=ServiceId("s1"), spec=spec),
            Service(id=ServiceId("s2"), spec=attrs.evolve(spec, name="api")),
        ]
        begun: list[str] = []

        def create(tx: Tx) -> None:
            for service in both:
                tx.create(service)

        with world.store.watch({Kind.TASK}) as watch:
            await world.store.update(create)
            await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 100)
            created = [event for event in drain(watch) if isinstance(event, Event) and event.old is None]
            begun += [event.object.service_id for event in created if isinstance(event.object, Task)]
        assert begun.index("s2") <= 10
        assert sorted(begun) == ["s1"] * 50 + ["s2"] * 50


async def test_a_decision_looks_at_what_has_changed(monkeypatch) -> None:
    """Of a large service nothing else is looked at, but when the service itself is another one."""
    monkeypatch.setattr(reconcile, "KEPT_TASKS", 10)
    looked: list[int] = []
    look = orchestrator.Look._look_at
    rest = orchestrator.Look._is_at_rest
    monkeypatch.setattr(orchestrator.Look, "_look_at", lambda self, d, key: looked.append(key) or look(self, d, key))
    monkeypatch.setattr(
        orchestrator.Look, "_is_at_rest", lambda self, d, key, tasks: looked.append(key) or rest(self, d, key, tasks)
    )
    async with reconciling("a") as world:
        await world.create(40)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 40)
        await quiet(world)
        looked.clear()
        await world.observe(world.tasks()[6], TaskState.FAILED)
        await until(lambda: len(world.tasks(TaskState.READY)) == 1)
        await quiet(world)
        assert set(looked) == {7}
        service = world.store.view().service("s1")
        assert service is not None
        wider = attrs.evolve(service, spec=attrs.evolve(service.spec, replicas=41))
        await world.store.update(lambda tx: tx.update(wider))
        await until(lambda: len(world.tasks()) == 40)
        assert set(looked) == set(range(1, 42))


async def test_lost_events_have_everything_read_anew(monkeypatch) -> None:
    """What is known of slots may miss something then."""
    monkeypatch.setattr(reconcile, "KEPT_TASKS", 0)
    async with reconciling("a") as world:
        await world.create(3)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 3)
        await quiet(world)
        failed = attrs.evolve(world.tasks()[0], status=TaskStatus(state=TaskState.FAILED))
        world.store._hub, hub = type(world.store._hub)(), world.store._hub
        await world.store.update(lambda tx: tx.update(failed))
        world.store._hub = hub
        hub.resync(world.store.version)
        await until(lambda: [t.slot for t in world.tasks(TaskState.READY)] == [failed.slot])


async def test_of_what_was_decided_only_what_has_changed_is_dropped(monkeypatch) -> None:
    """A report that is in flight while a decision is written costs its own slot a second look, and no other."""
    async with reconciling("a") as world:
        await world.create(3)
        await until(lambda: [t.status.state for t in world.tasks()] == [TaskState.ASSIGNED] * 3)
        await quiet(world)
        tasks = {task.slot: task for task in world.tasks()}
        failed = [attrs.evolve(task, status=TaskStatus(state=TaskState.FAILED)) for task in tasks.values()]
        gone_on = attrs.evolve(failed[1], status=TaskStatus(state=TaskState.FAILED, err="why"))
        batch = world.store.batch
        reports: list[asyncio.Task[None]] = []
        written_at_once: list[int] = []

        async def report_first(*args, **more):
            if not reports:
                reports.append(asyncio.create_task(world.store.update(lambda tx: tx.update(gone_on))))
                await asyncio.sleep(0)  # it is in flight
            await batch(*args, **more)
            written_at_once.append(len(world.tasks(TaskState.READY)))

        def fail(tx: Tx) -> None:
            for task in failed:
                tx.update(task)

        monkeypatch.setattr(world.store, "batch", report_first)
        await world.store.update(fail)
        await until(lambda: sorted(t.slot for t in world.tasks(TaskState.READY)) == [1, 2, 3])
        await asyncio.gather(*reports)
        if orchestrator.SLICE_TASKS > 3:
            assert written_at_once[0] == 2
        ended = [task for task in world.store.view().tasks() if task.status.state is TaskState.FAILED]
        assert sorted(task.status.err for task in ended) == ["", "", "why"]
        assert len(world.store.view().tasks()) == 6
