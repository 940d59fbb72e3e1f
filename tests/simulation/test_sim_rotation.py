"""The root CA of a simulated cluster is changed: in peace, in trouble, and while nodes are away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from certified import CertifiedCluster, CertifiedMachine
from cluster_faults import CRASH_S, ClusterNemesis
from cluster_world import SETTLE_S
from film import Film
from knobs import Knobs
from loop import SimLoop, run, seeds

from swarmpy.control.rotation import Wanted
from swarmpy.errors import SwarmpyError
from swarmpy.manager.manager import Manager
from swarmpy.manager.operations import create_service
from swarmpy.model.objects import Cluster
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec

OVER_S = 30.0
"""Virtual seconds of peace within which a change of the root is over."""
AFTER_TROUBLE_S = 180.0
"""The same where nodes have asked for so many certificates that they have to wait for the next one."""


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    with Film().rolling():
        yield


async def started(loop: SimLoop, knobs: Knobs | None = None, film: Film | None = None) -> CertifiedCluster:
    """A cluster with a service, at work."""
    cluster = CertifiedCluster(loop, knobs=knobs, film=film)
    await cluster.start()
    leader = await cluster.wait_leader()
    spec = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="web")), replicas=6)
    await create_service(leader.store, spec, leader.new_id)
    await cluster.settle(SETTLE_S)
    return cluster


def is_over(cluster: CertifiedCluster) -> bool:
    """True when all nodes live by one root, and nothing is remembered of another."""
    leader = cluster.leader()
    if leader is None:
        return False
    view = leader.store.view()
    found = view.cluster()
    wanted = Wanted.of(found)
    agents = {machine.name for machine in cluster.agents} | {machine.name for machine in cluster.managers}
    nodes = [node for node in view.nodes() if node.id in agents]
    return (
        found.rotation is None and not found.former_roots and all(map(wanted.is_met_by, nodes)) and not cluster.behind()
    )


def state(leader: Manager) -> Cluster:
    """The cluster as the leader has it."""
    return leader.store.view().cluster()


def sessions(leader: Manager) -> dict[str, str]:
    """The session of each node."""
    assert leader.office.dispatcher is not None
    return {node_id: session.id for node_id, session in leader.office.dispatcher._sessions.items()}


def test_nobody_notices_a_change_in_peace() -> None:
    """Sessions, tasks and leadership are the same ones after three changes; tokens and root are not."""

    async def main(loop: SimLoop) -> None:
        cluster = await started(loop)
        leader = await cluster.wait_leader()
        tasks = {task.id: task.status for task in leader.store.view().tasks()}
        before, term = sessions(leader), leader.raft_status().term
        roots, worker_tokens = {state(leader).root_ca.cert_digest}, {state(leader).join_tokens.worker}
        for _ in range(3):
            await cluster.rotate(leader)
            await cluster.wait_for(lambda: is_over(cluster), OVER_S)
            roots.add(state(leader).root_ca.cert_digest)
            worker_tokens.add(state(leader).join_tokens.worker)
        assert (len(roots), len(worker_tokens)) == (4, 4)
        assert {task.id: task.status for task in leader.store.view().tasks()} == tasks
        assert (sessions(leader), leader.raft_status().term) == (before, term)
        assert cluster.film.checks["members accept each other"] > 50

    run(0, main)


@pytest.mark.parametrize("seed", range(4))
def test_who_was_away_follows(seed: int) -> None:
    """A worker, and a manager that the others need for their quorum when it is back; neither is waited for."""

    async def main(loop: SimLoop) -> None:
        cluster = await started(loop)
        leader = await cluster.wait_leader()
        away = [next(m for m in cluster.managers if m.manager is not leader), cluster.machines["w1"]]
        for machine in away:
            machine.host.crash()
        await cluster.settle(SETTLE_S, [name for name in cluster.machines if cluster.machines[name] not in away])
        for _ in range(2):
            await cluster.rotate(leader)
            await cluster.wait_for(lambda: state(leader).rotation is None, OVER_S)
        names = {machine.name for machine in away}
        await cluster.wait_for(lambda: set(cluster.behind()) == names, OVER_S)
        assert len(state(leader).former_roots) == 2
        cluster.attack()
        # One of the two that moved goes, and the one that knows nothing of it makes the majority.
        gone = next(m for m in cluster.managers if m.manager is not leader and m not in away)
        gone.host.crash()
        for machine in away:
            machine.host.restart()
        leader = await cluster.wait_leader()
        await cluster.settle(SETTLE_S, [name for name in cluster.machines if name != gone.name])
        await cluster.wait_for(lambda: set(cluster.behind()) <= {gone.name}, OVER_S)
        gone.host.restart()
        await cluster.settle(SETTLE_S)
        await cluster.wait_for(lambda: is_over(cluster), OVER_S)

    run(seed, main)


@pytest.mark.parametrize("seed", seeds(6))
def test_the_root_is_changed_in_trouble(seed: int) -> None:
    """Whatever breaks meanwhile, no member is refused, no stranger let in, and in the end all live by the last root."""

    async def main(loop: SimLoop) -> None:
        film = Film()
        cluster = await started(loop, Knobs.draw(loop.random, "cluster"), film)
        nemesis = ClusterNemesis(cluster)
        working = [loop.create_task(work(cluster)) for work in (change, renew, attack)]
        await nemesis.run(12.0, heal=False)
        await nemesis.finish()
        for task in working:
            task.cancel()
        await asyncio.wait(working)
        nemesis.stop()
        await asyncio.sleep(CRASH_S)
        await cluster.settle(SETTLE_S)
        await cluster.wait_for(lambda: is_over(cluster), AFTER_TROUBLE_S)
        cluster.attack()
        await cluster.settle(SETTLE_S)
        assert film.operations["change of the root"]

    run(seed, main)


async def change(cluster: CertifiedCluster) -> None:
    """Now and then, until cancelled."""
    while True:
        if (leader := cluster.leader()) is not None:
            with contextlib.suppress(SwarmpyError):
                await cluster.rotate(leader)
        await asyncio.sleep(cluster.net.loop.random.expovariate(1 / 2.0))


async def renew(cluster: CertifiedCluster) -> None:
    """Nodes renew their certificates now and then, until cancelled."""
    random, machines = cluster.net.loop.random, list(cluster.machines.values())
    while True:
        await asyncio.sleep(random.expovariate(1 / 0.6))
        machine = machines[random.randrange(len(machines))]
        if machine.host.is_up:
            machine.host.spawn(_renew(machine))


async def _renew(machine: CertifiedMachine) -> None:
    with contextlib.suppress(SwarmpyError):
        await machine.renew()


async def attack(cluster: CertifiedCluster) -> None:
    """Now and then, until cancelled."""
    while True:
        await asyncio.sleep(cluster.net.loop.random.expovariate(1 / 0.5))
        cluster.attack()
