"""One service of very many tasks: how long the leader's loop is held while it is deployed, updated and scaled down.

The leader's parts as they are (control loop, dispatcher, reports), on a store without Raft; nodes are told nothing, and
report at once what they would. Each measurement is made in a process of its own. Steps of the loop are measured in
processor time: what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import sys
import time
from collections.abc import Callable
from random import SystemRandom
from typing import Any

import attrs

from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.reconcile import Reconciler
from swarmpy.manager.statuses import StatusBuffer
from swarmpy.model.assignments import ManagerAddress, TaskStatusUpdate
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Cluster, Kind, Service, Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec, UpdateConfig
from swarmpy.model.states import TaskState
from swarmpy.node.garbage import freeze, keep_collections_short
from swarmpy.store.memory import Store
from swarmpy.store.watch import Resync
from tests.bench.figures import emit
from tests.bench.scheduler import NoRaft, SystemTime, a_cluster, a_node

NODES = 1_000
SERVICE = ServiceId("l" * 25)
GIVE_UP_S = 1200.0
LONG_STEP_S = 0.02
OWN = ("bench", "nodes")
"""What no leader does."""


async def large_bench(options: argparse.Namespace) -> None:
    """With as many tasks as were asked for."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.large", json.dumps({"tasks": options.tasks})
    )
    if await process.wait():
        raise SystemExit(f"bench: large ended with exit code {process.returncode}")


class Steps:
    """The steps of a loop: how long each held it."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.which = ""
        self.long_ones = 0

    def install(self) -> None:
        """Measure the steps of all loops of this process from now on."""
        run: Callable[[Any], None] = asyncio.Handle._run

        def measured(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            spent = time.thread_time() - began
            if _name(handle) in OWN:
                return
            if spent > LONG_STEP_S:
                self.long_ones += 1
            if spent > self.longest_s:
                self.longest_s, self.which = spent, _name(handle)

        asyncio.Handle._run = measured  # type: ignore[method-assign]

    def begin(self) -> None:
        """Forget what was."""
        self.longest_s, self.which, self.long_ones = 0.0, "", 0


def _name(handle: asyncio.Handle) -> str:
    owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return owner.get_name() if isinstance(owner, asyncio.Task) else str(handle._callback)  # type: ignore[attr-defined]


class Nodes:
    """All nodes: each task that they are given runs at once, each that is to stop has stopped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._statuses = StatusBuffer(store, SystemTime())

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._statuses.run(), name="statuses")
            with self._store.watch((Kind.TASK,), limit=1 << 30) as watch:
                while await watch.wait():
                    told: dict[NodeId, list[TaskStatusUpdate]] = collections.defaultdict(list)
                    for event in watch.poll():
                        assert not isinstance(event, Resync)
                        if isinstance(event.object, Task) and (state := _next(event.object)) is not None:
                            status = TaskStatus(state=state, timestamp_ns=time.time_ns())
                            update = TaskStatusUpdate(task_id=event.object.id, status=status)
                            told[event.object.node_id or NodeId("")].append(update)
                    for node_id, updates in told.items():
                        group.create_task(self._statuses.add(node_id, updates), name="report")
                    await asyncio.sleep(0)


def _next(task: Task) -> TaskState | None:
    if not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        return None
    if not task.desired_state.is_wanted:
        return TaskState.SHUTDOWN
    wanted = min(task.desired_state, TaskState.RUNNING)
    return wanted if wanted > task.status.state else None


async def measure(count: int) -> None:
    """Deploy, update, scale down."""
    steps, clock = Steps(), SystemTime()
    if (task := asyncio.current_task()) is not None:
        task.set_name("bench")
    store = Store(clock)
    store.set_proposer(NoRaft(store))
    await store.update(lambda tx: tx.create(_cluster()))
    await store.batch(range(NODES), lambda tx, number: tx.create(a_node(number)))
    freeze()
    steps.install()
    random, managers = SystemRandom(), tuple[ManagerAddress, ...]
    parts = {
        "reconciler": Reconciler(store=store, clock=clock, random=random),
        "dispatcher": Dispatcher(store=store, clock=clock, random=random, managers=managers),
        "nodes": Nodes(store),
    }
    running = [asyncio.create_task(part.run(), name=name) for name, part in parts.items()]
    running.append(asyncio.create_task(keep_collections_short(lambda: store.written), name="garbage"))
    await asyncio.sleep(0.5)
    for what, spec in (
        ("deploy", _spec(count, "none:1")),
        ("update", _spec(count, "none:2")),
        ("second update", _spec(count, "none:3")),
        ("scale down", _spec(count // 2, "none:3")),
    ):
        steps.begin()
        began, cpu_began = time.perf_counter(), time.process_time()
        await store.update(lambda tx, spec=spec: _put(tx, spec))  # type: ignore[misc]
        async with asyncio.timeout(GIVE_UP_S):
            while not _is_there(store, spec):
                await asyncio.sleep(0.1)
        emit(
            bench="large",
            what=what,
            tasks=count,
            nodes=NODES,
            seconds=round(time.perf_counter() - began, 2),
            cpu_us_per_task=round((time.process_time() - cpu_began) / count * 1e6),
            longest_step_cpu_ms=round(steps.longest_s * 1e3, 1),
            longest_step_of=steps.which,
            steps_over_20_ms=steps.long_ones,
        )
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _cluster() -> Cluster:
    """One that waits for no heartbeats."""
    cluster = a_cluster()
    dispatcher = attrs.evolve(cluster.spec.dispatcher, heartbeat_period_ns=10**15)
    return attrs.evolve(cluster, spec=attrs.evolve(cluster.spec, dispatcher=dispatcher))


def _spec(count: int, image: str) -> ServiceSpec:
    return ServiceSpec(
        name="large",
        replicas=count,
        task=TaskSpec(container=ContainerSpec(image=image)),
        update=UpdateConfig(parallelism=count // 10, monitor_ns=1),
    )


def _put(tx: Any, spec: ServiceSpec) -> None:
    service = tx.service(SERVICE)
    if service is None:
        tx.create(Service(id=SERVICE, spec=spec))
    else:
        tx.update(attrs.evolve(service, spec=spec, previous_spec=service.spec, update_status=None))


def _is_there(store: Store, spec: ServiceSpec) -> bool:
    view = store.view()
    found = 0
    for task in view.tasks_of_service(SERVICE):
        is_up = task.status.state is TaskState.RUNNING
        if is_up and not task.desired_state.is_wanted:
            return False
        found += is_up and task.spec.container.image == spec.task.container.image
    return found == spec.desired_replicas


if __name__ == "__main__":
    asyncio.run(measure(count=json.loads(sys.argv[1])["tasks"]))
