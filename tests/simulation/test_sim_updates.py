"""An update that makes no progress, in a cluster whose leaders come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import attrs
import pytest
from cluster import Cluster
from film import Film
from loop import SimLoop, run
from update_laws import CLOCK_RATE, SLACK_S

from swarmpy.manager.operations import create_service, update_service
from swarmpy.model.specs import ContainerSpec, Placement, ServiceSpec, TaskSpec, UpdateConfig
from swarmpy.model.states import UpdateState

DEADLINE_S = 5


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    with Film().rolling():
        yield


def state(cluster: Cluster) -> UpdateState | None:
    """How far the update of the only service is, as the leader knows it."""
    leader = cluster.leader()
    services = leader.store.view().services() if leader is not None else ()
    status = services[0].update_status if services else None
    return None if status is None else status.state


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("action", ["pause", "rollback"])
@pytest.mark.parametrize("what", ["no place", "never healthy"])
def test_an_update_without_progress_is_given_up(seed: int, action: str, what: str) -> None:
    """Within its deadline after the last change of leaders; what it replaced runs again after a rollback."""

    async def main(loop: SimLoop) -> None:
        cluster = Cluster(loop)
        await cluster.start()
        leader = await cluster.wait_leader()
        update = UpdateConfig(
            progress_deadline_ns=DEADLINE_S * 10**9, failure_action=action, monitor_ns=10**8, parallelism=0
        )
        spec = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="web")), replicas=3, update=update)
        made = await create_service(leader.store, spec, leader.new_id)
        await cluster.settle(20)
        bad = TaskSpec(container=ContainerSpec(image="slow-start:1000s"))
        if what == "no place":
            bad = TaskSpec(container=ContainerSpec(image="web:2"), placement=Placement(constraints=("node.id==x",)))
        version = (await cluster.wait_leader()).store.view().services()[0].meta.version
        leader = await cluster.wait_leader()
        await update_service(leader.store, made.id, version, attrs.evolve(spec, task=bad))
        for _ in range(loop.random.randrange(3)):
            await asyncio.sleep(loop.random.uniform(0.5, DEADLINE_S - 1))
            machine = next(m for m in cluster.managers if m.is_leader)
            machine.host.crash()
            await asyncio.sleep(2)
            machine.host.restart()
            assert state(cluster) in (UpdateState.UPDATING, None)
        ends = (UpdateState.PAUSED,) if action == "pause" else (UpdateState.ROLLBACK_COMPLETED,)
        await cluster.wait_for(lambda: state(cluster) in ends, timeout=DEADLINE_S * CLOCK_RATE + SLACK_S)
        if action == "rollback":
            await cluster.settle(20)
        assert cluster.film.checks["no update beyond its deadline"] > 0

    run(seed, main)
