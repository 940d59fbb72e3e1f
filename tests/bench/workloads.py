"""What a hosted daemon can be told to do in its own event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from swarmpy.manager.manager import Manager
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service
from swarmpy.model.specs import ServiceSpec
from swarmpy.node.daemon import Node
from swarmpy.store.transaction import Tx
from tests.bench.figures import distribution


def manager_of(node: Node) -> Manager:
    """The manager half of a node."""
    assert node.manager is not None, "this node is no manager"
    return node.manager


async def updates(node: Node, *, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients change a small service each, one change after the other, at the leader's store."""
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


WORKLOADS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {"updates": updates, "reads": reads}
