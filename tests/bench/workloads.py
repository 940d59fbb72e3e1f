"""What a hosted daemon can be told to do in its own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from swarmpy.manager.events import drain
from swarmpy.manager.manager import Manager
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import ContainerStatus, Kind, NodeDescription, NodeStatus, Service, Task, TaskStatus
from swarmpy.model.objects import Node as NodeObject
from swarmpy.model.specs import ContainerSpec, ResourceRequirements, Resources, ServiceSpec, TaskSpec
from swarmpy.model.states import TaskState
from swarmpy.node.daemon import Node
from swarmpy.store.transaction import Tx
from swarmpy.store.watch import Event
from tests.bench.attribution import Attribution, attributed
from tests.bench.figures import distribution

STEP_S = 0.005


def manager_of(node: Node) -> Manager:
    """The manager half of a node."""
    assert node.manager is not None, "this node is no manager"
    return node.manager


async def updates(node: Node, *, clients: int, seconds: float, is_alone: bool = False) -> dict[str, Any]:
    """So many clients change a small service each, one change after the other, at the leader's store.

    With ``is_alone`` each change has a commit of its own: what there would be without group commit.
    """
    alone = asyncio.Lock() if is_alone else contextlib.nullcontext()
    manager = manager_of(node)
    names = [manager.new_id() for _ in range(clients)]

    def create(tx: Tx) -> None:
        for name in names:
            tx.create(Service(id=ServiceId(name), spec=ServiceSpec(name=f"bench-{name}", replicas=0)))

    await manager.store.update(create)
    latencies: list[float] = []
    stop_at = time.perf_counter() + seconds

    async def client(name: str) -> None:
        count = 0

        def change(tx: Tx) -> None:
            service = tx.service(name)
            assert service is not None
            tx.update(attrs.evolve(service, spec=attrs.evolve(service.spec, labels={"n": str(count)})))

        while (began := time.perf_counter()) < stop_at:
            count += 1
            async with alone:
                await manager.store.update(change)
            latencies.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(name) for name in names))
    took = time.perf_counter() - began
    return {
        "clients": clients,
        "per_s": round(len(latencies) / took),
        "leader_cpu_us": round((time.process_time() - cpu) / len(latencies) * 1e6),
        **distribution(latencies),
    }


async def reads(node: Node, *, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients read by read-index on this manager."""
    manager = manager_of(node)
    latencies: list[float] = []
    stop_at = time.perf_counter() + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < stop_at:
            await manager.read_barrier()
            manager.store.view().cluster()
            latencies.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    return {
        "clients": clients,
        "per_s": round(len(latencies) / took),
        "cpu_us": round((time.process_time() - cpu) / len(latencies) * 1e6),
        **distribution(latencies),
    }


async def fill(node: Node, *, services: int, tasks: int) -> dict[str, Any]:
    """Services with so many running tasks each, on nodes that have no agents. Returns what they weigh."""
    manager = manager_of(node)
    hosts = [NodeId(manager.new_id()) for _ in range(max(1, services * tasks // 100))]
    gc.collect()
    at_start = _resident_bytes()
    await manager.store.batch(hosts, lambda tx, host: tx.create(_host(host)))
    before = _resident_bytes()
    for number in range(services):
        await manager.store.update(lambda tx, number=number: _deploy(tx, manager, number, tasks, hosts))
    return {
        "services": services,
        "nodes": len(hosts),
        "bytes_per_node": round((before - at_start) / len(hosts)),
        "bytes_per_task": round((_resident_bytes() - before) / (services * tasks)),
    }


def _host(node_id: NodeId) -> NodeObject:
    # UNKNOWN: of one that never had a session nobody decides that it is down.
    description = NodeDescription(hostname=f"host-{node_id[:8]}")
    return NodeObject(id=node_id, description=description, status=NodeStatus(address="10.0.0.1"))


def _deploy(tx: Tx, manager: Manager, number: int, count: int, hosts: Sequence[NodeId]) -> None:
    """One service as a stack makes it, all of whose tasks run."""
    now = tx.now_ns
    spec = TaskSpec(
        container=ContainerSpec(
            image="registry.example.com/shop/web:1.25@sha256:" + "a" * 64,
            env=("MODE=production", "LEVEL=info"),
            labels={"com.docker.stack.namespace": "shop"},
        ),
        resources=ResourceRequirements(reservations=Resources(nano_cpus=10**8, memory_bytes=1 << 26)),
    )
    service = Service(
        id=ServiceId(manager.new_id()),
        spec=ServiceSpec(
            name=f"shop_web-{number}", labels={"com.docker.stack.namespace": "shop"}, replicas=count, task=spec
        ),
    )
    tx.create(service)
    for slot in range(1, count + 1):
        status = TaskStatus(
            state=TaskState.RUNNING,
            timestamp_ns=now,
            message="started",
            container=ContainerStatus(container_id=(manager.new_id() * 3)[:64], pid=1000 + slot),
        )
        tx.create(
            Task(
                id=TaskId(manager.new_id()),
                spec=spec,
                # As the store will stamp the service: the index of this very entry is not known yet.
                spec_version=0,
                service_id=service.id,
                service_name=service.spec.name,
                service_labels=service.spec.labels,
                slot=slot,
                node_id=hosts[(number * count + slot) % len(hosts)],
                status=status,
                applied_at_ns=now,
                started_at_ns=now,
            )
        )


_enough = asyncio.Event()


async def listen(_node: Node, *, seconds: float = 3600.0) -> dict[str, Any]:
    """How late the loop is, asked every few milliseconds, for so long or until :func:`enough`."""
    loop = asyncio.get_running_loop()
    stop_at = loop.time() + seconds
    lags: list[float] = []
    _enough.clear()
    while loop.time() < stop_at and not _enough.is_set():
        due = loop.time() + STEP_S
        await asyncio.sleep(STEP_S)
        lags.append(loop.time() - due)
    return {"loop_lag": distribution(lags), "samples": len(lags)}


async def enough(_node: Node) -> dict[str, Any]:
    """Let whoever listens come to an end."""
    _enough.set()
    return {}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def attribute(_node: Node, *, seconds: float) -> dict[str, float]:
    """Which layer the processor's time goes to."""
    return await attributed(seconds)


async def attribute_until_enough(_node: Node) -> dict[str, float]:
    """The same, until :func:`enough`."""
    attribution = Attribution()
    await _enough.wait()
    return attribution.stop()


async def until_running(
    node: Node, *, service: str, count: int, image: str = "", without: Sequence[str] = ()
) -> dict[str, Any]:
    """Return when so many tasks of the service run, of that image and on other nodes than those ``without``."""
    lost = frozenset(without)

    def counts(task: object) -> bool:
        if not isinstance(task, Task) or task.service_id != service or task.node_id in lost:
            return False
        is_of = not image or task.spec.container.image == image
        return is_of and task.status.state is TaskState.RUNNING and task.desired_state.is_wanted

    store = manager_of(node).store
    with store.watch({Kind.TASK}, limit=1_000_000) as watch:
        there = {task.id for task in store.view().tasks_of_service(service) if counts(task)}
        while len(there) < count:
            await watch.wait()
            for event in drain(watch):
                assert isinstance(event, Event), "too many events at once"
                (there.add if counts(event.object) else there.discard)(TaskId(event.id))
    return {"running": len(there)}


async def tasks_on(node: Node, *, nodes: Sequence[str]) -> dict[str, Any]:
    """How many tasks are on these nodes and meant to run."""
    view = manager_of(node).store.view()
    found = [task for node_id in nodes for task in view.tasks_on_node(node_id) if task.desired_state.is_wanted]
    return {"tasks": len(found)}


WORKLOADS: dict[str, Callable[..., Awaitable[Any]]] = {
    "updates": updates,
    "until_running": until_running,
    "tasks_on": tasks_on,
    "reads": reads,
    "fill": fill,
    "listen": listen,
    "enough": enough,
    "attributed": attribute,
    "attributed_until_enough": attribute_until_enough,
}
