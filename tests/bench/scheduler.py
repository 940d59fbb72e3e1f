"""How fast tasks are placed: the shapes of SwarmKit's own benchmarks, through the store and without Raft.

Nodes and waiting tasks are there; measured is the time until all tasks have a node in the store. ``decide_cpu_s`` of it
is the scheduler alone, with what it knows of the store kept up to date; the rest is writing: transactions, encoded as
entries of the log and applied at once. Where others want the processor too, ``cpu_s`` says more than ``seconds``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sys
import time
from pathlib import Path

import attrs

from swarmpy.control import scheduler
from swarmpy.control.loads import Loads
from swarmpy.manager.events import drain
from swarmpy.manager.placing import follow
from swarmpy.model.ids import ClusterId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import (
    Cluster,
    JoinTokens,
    Kind,
    Node,
    NodeDescription,
    NodeStatus,
    RootCA,
    Task,
    TaskStatus,
)
from swarmpy.model.schema import SCHEMA_VERSION
from swarmpy.model.specs import ContainerSpec, NodeSpec, Placement, Resources, TaskSpec
from swarmpy.model.states import NodeState, TaskState
from swarmpy.node.garbage import freeze
from swarmpy.store.memory import Store
from swarmpy.store.watch import Event
from tests.bench.figures import emit

GIB = 1 << 30


@attrs.frozen
class Shape:
    """One measurement."""

    nodes: int
    tasks: int
    grouped: bool
    constraints: bool = False


SHAPES = (
    *(Shape(1_000, tasks, grouped) for tasks in (1_000, 10_000, 100_000) for grouped in (True, False)),
    Shape(5_000, 100_000, True, constraints=True),
    Shape(100_000, 1_000, True),
    Shape(100_000, 100_000, True),
    Shape(100_000, 1_000_000, True),
)


async def scheduler_bench(options: argparse.Namespace) -> None:
    """Each shape in a process of its own, so that the peak of its memory is its own."""
    for shape in SHAPES:
        if shape.tasks <= options.most_tasks and shape.nodes <= options.most_nodes:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.bench.scheduler", json.dumps(attrs.asdict(shape))
            )
            if await process.wait():
                raise SystemExit(f"bench: {shape} ended with exit code {process.returncode}")


class SystemTime:
    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


class _Applied:
    """A proposal that is applied as soon as the loop comes to it, as with a log of one manager."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class NoRaft:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = store.version
        self.written_bytes = 0

    def propose(self, data: bytes) -> _Applied:
        self._index += 1
        self.written_bytes += len(data)
        proposal = _Applied(self._index)
        asyncio.get_running_loop().call_soon(self._apply, proposal, data)
        return proposal

    def _apply(self, proposal: _Applied, data: bytes) -> None:
        self._store.apply(proposal.index, data)
        proposal.done.set_result(None)


async def measure(shape: Shape) -> None:
    """Fill a store, and place."""
    store = Store(SystemTime())
    log = NoRaft(store)
    store.set_proposer(log)
    await store.update(lambda tx: tx.create(a_cluster()))
    await store.batch(range(shape.nodes), lambda tx, number: tx.create(a_node(number)))
    empty_mb = _resident_mb()
    constraints = ("node.labels.third==0",) if shape.constraints else ()
    spec = TaskSpec(container=ContainerSpec(image="nginx:1"), placement=Placement(constraints=constraints))
    await store.batch(range(shape.tasks), lambda tx, number: tx.create(_task(number, spec, shape.grouped)))
    freeze()
    log.written_bytes = 0
    began = time.perf_counter()
    cpu_began = time.process_time()
    decide_s, slice_s = await _place(store)
    cpu_s, took = time.process_time() - cpu_began, time.perf_counter() - began
    counts: dict[str, int] = dict.fromkeys((node.id for node in store.view().nodes()), 0)
    for task in store.view().tasks():
        assert task.node_id is not None, task
        counts[task.node_id] += 1
    levels = [count for number, count in enumerate(counts.values()) if not (constraints and number % 3)]
    assert max(levels) - min(levels) <= 1, (min(levels), max(levels))
    emit(
        bench="scheduler",
        **attrs.asdict(shape),
        seconds=round(took, 3),
        cpu_s=round(cpu_s, 3),
        decide_cpu_s=round(decide_s, 3),
        longest_slice_cpu_ms=round(slice_s * 1e3, 1),
        peak_rss_mb=_peak_mb(),
        log_bytes_per_task=round(log.written_bytes / shape.tasks),
        bytes_per_task=round((_resident_mb() - empty_mb) * (1 << 20) / shape.tasks),
    )


async def _place(store: Store) -> tuple[float, float]:
    """Decide and write until nothing waits: processor seconds of deciding, and the most without giving way."""
    longest = 0.0
    began = time.process_time()
    loads = Loads.of(store.view())
    gc.freeze()  # as a manager does
    deciding = time.process_time() - began
    slices = scheduler.Scheduler(loads).slices(time.time_ns())
    with store.watch((Kind.NODE, Kind.TASK)) as watch:
        while True:
            began = time.process_time()
            follow(loads, [event for event in drain(watch) if isinstance(event, Event)])
            decision = next(slices, None)
            spent = time.process_time() - began
            deciding, longest = deciding + spent, max(longest, spent)
            if decision is None:
                return deciding, longest
            assert not decision.changes
            for assigned in decision.assigned:
                await store.patch(assigned.tasks, assigned.patch)


def a_cluster() -> Cluster:
    """One whose managers read all that this version writes, as a new one is."""
    return Cluster(
        id=ClusterId("c" * 25),
        root_ca=RootCA(cert_pem=b"", key_pem=b"", cert_digest=""),
        join_tokens=JoinTokens(worker="", manager=""),
        schema=SCHEMA_VERSION,
    )


def a_node(number: int) -> Node:
    return Node(
        id=NodeId(f"{number:025d}"),
        spec=NodeSpec(labels={"third": str(number % 3)}),
        description=NodeDescription(
            hostname=f"node-{number}", resources=Resources(nano_cpus=64 * 10**9, memory_bytes=256 * GIB)
        ),
        status=NodeStatus(state=NodeState.READY, address="10.0.0.1"),
    )


def _task(number: int, spec: TaskSpec, grouped: bool) -> Task:
    return Task(
        id=TaskId(f"{number:025d}"),
        spec=spec,
        spec_version=1 if grouped else number + 1,
        service_id=ServiceId("s" * 25),
        service_name="web",
        slot=number + 1,
        status=TaskStatus(state=TaskState.PENDING, message="pending task scheduling"),
        desired_state=TaskState.RUNNING,
    )


def _peak_mb() -> int:
    # Not that of getrusage: a process begins with its parent's there.
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


if __name__ == "__main__":
    asyncio.run(measure(Shape(**json.loads(sys.argv[1]))))
