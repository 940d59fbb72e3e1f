"""A whole cluster under crashes, partitions, failing tasks and an operator who changes his mind; then peace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import attrs
import pytest
from cluster import Cluster, is_silent
from film import Film
from knobs import Knobs
from loop import SimLoop, run, seeds
from universe import play

from swarmpy.control.explain import why_not_running
from swarmpy.errors import SwarmpyError
from swarmpy.manager.operations import create_service
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import ServiceMode, TaskState


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    with Film().rolling():
        yield


@pytest.mark.parametrize("seed", seeds(5))
def test_a_cluster_survives(seed: int) -> None:
    """In every universe the laws hold at every step; after the trouble everything runs as it should and is quiet."""
    play(seed, world="cluster")


def test_a_leader_that_cannot_hand_over_leads_on() -> None:
    """While a hand-over to a manager that is away goes on nothing is written, and nothing spins; then all goes on."""

    async def main(loop: SimLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.wait_leader()
        other = next(machine for machine in cluster.managers if machine.manager is not leader)
        cluster.net.isolate(other.name)
        spec = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="web")), replicas=3)
        await create_service(leader.store, spec, leader.new_id)
        steps = loop.steps
        with pytest.raises(SwarmpyError):
            await leader.raft.transfer_leadership(other.raft_id, timeout=5.0)
        assert loop.steps - steps < 10_000
        cluster.net.heal()
        await cluster.settle(15)

    run(0, main)


async def with_service(loop: SimLoop, replicas: int = 6, knobs: Knobs | None = None) -> Cluster:
    """A settled cluster, of six machines without knobs, with one published service."""
    cluster = Cluster(loop, knobs=knobs)
    await cluster.start()
    leader = await cluster.wait_leader()
    spec = ServiceSpec(
        name="web",
        task=TaskSpec(container=ContainerSpec(image="web")),
        replicas=replicas,
        endpoint=EndpointSpec(ports=(PortConfig(target_port=80, published_port=8080),)),
    )
    await create_service(leader.store, spec, leader.new_id)
    await cluster.settle(15)
    return cluster


IMPOSSIBLE = {
    "nowhere": ServiceSpec(
        task=TaskSpec(placement=Placement(constraints=("node.labels.disk==none",))), mode=ServiceMode.REPLICATED
    ),
    "contradicting": ServiceSpec(
        task=TaskSpec(placement=Placement(constraints=("node.role==worker", "node.role==manager"))), replicas=2
    ),
    "large": ServiceSpec(
        task=TaskSpec(resources=ResourceRequirements(reservations=Resources(memory_bytes=1 << 60))), replicas=2
    ),
    "crowded": ServiceSpec(
        task=TaskSpec(),
        replicas=9,
        endpoint=EndpointSpec(ports=(PortConfig(target_port=80, published_port=9000, publish_mode="host"),)),
    ),
}


def test_what_cannot_run_says_why() -> None:
    """At rest no task is silent: what keeps one from its node, or from running, is written on it or can be told."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop)
        leader = await cluster.wait_leader()
        for name, spec in IMPOSSIBLE.items():
            task = attrs.evolve(spec.task, container=ContainerSpec(image="web"))
            await create_service(leader.store, attrs.evolve(spec, name=name, task=task), leader.new_id)
        await asyncio.sleep(20)
        view = leader.store.view()
        waiting = [task for task in view.tasks() if task.status.state is not TaskState.RUNNING]
        assert {task.service_name for task in waiting} == set(IMPOSSIBLE)
        assert not [task for task in waiting if is_silent(view, task)]
        assert all(task.status.err.startswith("no suitable node (") for task in waiting)
        for service in view.services():
            assert bool(why_not_running(view, service)) is (service.spec.name in IMPOSSIBLE)

    run(0, main)


def running(cluster: Cluster) -> set[str]:
    """Every task that runs anywhere."""
    return {task_id for machine in cluster.agents for task_id in machine.runtime.running_tasks()}


@pytest.mark.parametrize("seed", range(5))
def test_tasks_of_a_lost_machine_run_elsewhere_within_five_seconds(seed: int) -> None:
    """Counted from the loss of power to the last replacement in the store, however the connections broke."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop)
        lost, *others = cluster.agents
        lost.loses_power = 1.0
        lost.host.crash()
        await cluster.wait_for(
            lambda: sum(len(machine.runtime.running_tasks()) for machine in others) == 6, timeout=5.0
        )
        lost.host.restart()
        await cluster.settle(15)

    run(seed, main)


@pytest.mark.parametrize("seed", range(5))
def test_losing_managers_disturbs_no_task(seed: int) -> None:
    """The leader, and then all managers at once, lose their power: every task runs on where it was."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop)
        before = running(cluster)
        for lost in ([m for m in cluster.managers if m.is_leader], cluster.managers):
            for machine in lost:
                machine.host.crash()
            await asyncio.sleep(loop.random.uniform(1, 10))
            assert running(cluster) == before
            for machine in lost:
                machine.host.restart()
            await cluster.settle(15)
            assert running(cluster) == before

    run(seed, main)


@pytest.mark.parametrize("seed", range(5))
def test_a_daemon_that_comes_back_takes_its_tasks_over(seed: int) -> None:
    """Killed or stopped, with or without its memory: what it finds running is its own, and runs on."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop)
        before = running(cluster)
        for machine in cluster.agents:
            if loop.random.random() < 0.5:
                machine.host.crash()
            else:
                await machine.stop()
            await asyncio.sleep(loop.random.uniform(0.1, 1.5))
            machine.host.restart()
            await cluster.settle(15)
            assert running(cluster) == before

    run(seed, main)


def quiet(managers: int) -> Knobs:
    """So many managers on machines of their own, with clocks in order."""
    return attrs.evolve(Knobs.draw(Random(0)), managers=managers, together=False, drift=0.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("whom", ["managers", "machines"])
@pytest.mark.parametrize("managers", [1, 3])
def test_managers_that_stood_still_blame_nobody_for_it(seed: int, whom: str, managers: int) -> None:
    """All managers, or all machines, are stopped for a while, as by a hypervisor: nobody was silent but they."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop, knobs=quiet(managers))
        before = running(cluster)
        stopped = cluster.managers if whom == "managers" else list(cluster.machines.values())
        for machine in stopped:
            machine.host.pause()
        await asyncio.sleep(loop.random.uniform(1, 20))
        for machine in stopped:
            machine.host.resume()
        await cluster.settle(15)
        assert running(cluster) == before

    run(seed, main)


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_that_is_lost_in_a_standstill_is_missed_all_the_same(seed: int) -> None:
    """The leader waits for it as long as for one that looks for it now and then, and no longer."""

    async def main(loop: SimLoop) -> None:
        cluster = await with_service(loop, knobs=quiet(1))
        [manager], [lost, *others] = cluster.managers, cluster.agents
        manager.host.pause()
        lost.loses_power = 1.0
        lost.host.crash()
        await asyncio.sleep(loop.random.uniform(1, 20))
        manager.host.resume()
        await cluster.wait_for(
            lambda: sum(len(machine.runtime.running_tasks()) for machine in others) == 6, timeout=11.0
        )
        lost.host.restart()
        await cluster.settle(15)

    run(seed, main)
