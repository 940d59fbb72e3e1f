"""Nodes that are drained, or die and come back, in a cluster where nothing else happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import attrs
import pytest
from cluster import Cluster
from cluster_machine import Machine
from film import Film
from loop import SimLoop, run

from swarmpy.manager.operations import create_service, update_node, update_service
from swarmpy.model.objects import Service
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    MaxUnavailable,
    Placement,
    PortConfig,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import Availability, TaskState

Begin = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    with Film().rolling():
        yield


async def with_service(loop: SimLoop, placement: Placement | None = None, **fields: object) -> Cluster:
    """A settled cluster of six machines, three of them agents, with a published service of six tasks."""
    cluster = Cluster(loop)
    await cluster.start()
    leader = await cluster.wait_leader()
    spec = ServiceSpec(
        name="web",
        task=TaskSpec(
            container=ContainerSpec(image="slow-start:500ms"),
            restart=RestartPolicy(delay_ns=100_000_000),
            placement=placement,
        ),
        replicas=6,
        endpoint=EndpointSpec(ports=(PortConfig(target_port=80, published_port=8080),)),
        update=UpdateConfig(order="start-first", monitor_ns=100_000_000),
    )
    await create_service(leader.store, attrs.evolve(spec, **fields), leader.new_id)
    await cluster.settle(20)
    return cluster


async def service(cluster: Cluster) -> Service:
    leader = await cluster.wait_leader()
    [found] = leader.store.view().services()
    return found


async def spread(cluster: Cluster) -> list[int]:
    """How many tasks run on each agent's machine, as the leader knows it."""
    leader = await cluster.wait_leader()
    return [
        sum(task.status.state is TaskState.RUNNING for task in leader.store.view().tasks_on_node(machine.name))
        for machine in cluster.agents
    ]


async def set_availability(cluster: Cluster, name: str, availability: Availability) -> None:
    leader = await cluster.wait_leader()
    node = leader.store.view().node(name)
    assert node is not None
    spec = attrs.evolve(node.spec, availability=availability)
    await update_node(leader.store, node.id, node.meta.version, spec)


@pytest.mark.parametrize("seed", range(5))
def test_a_node_that_comes_back_stops_what_was_replaced(seed: int) -> None:
    """Cut off it runs on; the tasks that replaced its own stay when it is back. A forced update spreads them again."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop, update=UpdateConfig(monitor_ns=100_000_000))
        lost, *others = cluster.agents
        old = lost.runtime.running_tasks()
        assert len(old) == 2
        cluster.net.isolate(lost.name)
        await cluster.wait_for(lambda: sum(len(m.runtime.running_tasks()) for m in others) == 6, timeout=10)
        assert lost.runtime.running_tasks() == old
        new = {task_id for machine in others for task_id in machine.runtime.running_tasks()}
        cluster.net.heal()
        await cluster.settle(20)
        assert not lost.runtime.running_tasks()
        assert {task_id for machine in others for task_id in machine.runtime.running_tasks()} == new
        found = await service(cluster)
        forced = attrs.evolve(found.spec, task=attrs.evolve(found.spec.task, force_update=1))
        await update_service((await cluster.wait_leader()).store, found.id, found.meta.version, forced)
        await cluster.settle(60)
        assert await spread(cluster) == [2, 2, 2]

    run(seed, main)


async def drain(cluster: Cluster, machine: Machine, *, back: bool = False) -> None:
    """An operator wants the node empty; ``back``: no more."""
    await set_availability(cluster, machine.name, Availability.ACTIVE if back else Availability.DRAIN)


async def leave(cluster: Cluster, machine: Machine, *, back: bool = False) -> None:
    """The node is about to leave, and waits until it is empty; ``back``: it stays."""
    assert machine.agent is not None
    if back:
        machine.agent.stay()
    else:
        leaving = asyncio.create_task(machine.agent.move_away())
        leaving.add_done_callback(lambda over: cluster.film.checked(f"may leave: {over.result().name}"))


async def relabel(cluster: Cluster, machine: Machine, *, back: bool = False) -> None:
    """The node becomes no place for the service; ``back``: it is one again."""
    leader = await cluster.wait_leader()
    node = leader.store.view().node(machine.name)
    assert node is not None
    labels = {} if back else {"closed": "yes"}
    await update_node(leader.store, node.id, node.meta.version, attrs.evolve(node.spec, labels=labels))


@pytest.mark.parametrize(
    ("seed", "begin", "law"),
    [
        *((seed, drain, "a drain starts first") for seed in range(5)),
        *((seed, leave, "a drain starts first") for seed in range(3)),
        *((seed, relabel, "a move starts first") for seed in range(3)),
    ],
)
def test_a_move_that_starts_first_never_has_fewer_tasks(seed: int, begin: Begin, law: str) -> None:
    """One node after the other, and two at once: six tasks are in every node's table all the time."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop, placement=Placement(constraints=("node.labels.closed!=yes",)))
        fewest = 6

        async def watch() -> None:
            nonlocal fewest
            while True:
                for machine in cluster.agents:
                    assert machine.plane is not None
                    [endpoints] = machine.plane.in_force.values()
                    fewest = min(fewest, len(endpoints))
                await asyncio.sleep(0.01)

        watching = loop.create_task(watch())
        machines = cluster.agents
        for emptied in (machines[:1], machines[1:2], machines[1:]):
            for machine in emptied:
                await begin(cluster, machine)
            # What asks the node itself reaches the leader with its next heartbeat.
            await asyncio.sleep(2)
            await cluster.settle(30)
            counts = dict(zip(machines, await spread(cluster), strict=True))
            assert (sum(counts.values()), [counts[machine] for machine in emptied]) == (6, [0] * len(emptied))
            for machine in emptied:
                await begin(cluster, machine, back=True)
            await asyncio.sleep(2)
        watching.cancel()
        await asyncio.wait([watching])
        assert fewest == 6
        assert cluster.film.checks[law] >= 6
        assert cluster.film.checks["may leave: EMPTY"] == (4 if begin is leave else 0)

    run(seed, main)


@pytest.mark.parametrize("seed", range(5))
def test_drains_beside_a_dead_node_take_no_more_than_they_may(seed: int) -> None:
    """Two nodes are drained while the third is lost: nothing can be placed, and one task at most is taken away."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop, max_unavailable=MaxUnavailable(amount=3), update=None)
        lost, *others = cluster.agents
        lost.loses_power = 1.0
        for machine in others:
            await set_availability(cluster, machine.name, Availability.DRAIN)
        await asyncio.sleep(loop.random.uniform(0, 3))
        lost.host.crash()
        await asyncio.sleep(20)
        counts = await spread(cluster)
        assert sum(counts[1:]) >= 3 or not any(counts[1:]), "what had moved before died with the node"
        lost.host.restart()
        await cluster.settle(60)
        assert await spread(cluster) == [6, 0, 0]

    run(seed, main)
