"""A whole cluster under crashes, partitions, failing tasks and an operator who changes his mind; then peace."""

from __future__ import annotations

import asyncio
import logging

import pytest
import structlog
from cluster import Cluster
from cluster_faults import ClusterNemesis, Operator
from loop import SimLoop, run, seeds

from swarmpy.errors import SwarmpyError
from swarmpy.manager.operations import create_service
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec

TROUBLE_S = 15.0
SETTLE_S = 60.0
"""Virtual seconds after the last fault in which everything runs as it should: down nodes, restart delays, updates."""
QUIET_S = 30.0


@pytest.fixture(autouse=True)
def _quiet_logs() -> None:
    # Writing log lines takes most of the time of a simulation that nobody looks at.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


async def trouble(loop: SimLoop) -> tuple[int, int, int]:
    """One universe; returns what tells it from others: digest, steps, entries of the log."""
    cluster = Cluster(loop)
    await cluster.start()
    nemesis, operator = ClusterNemesis(cluster), Operator(cluster)
    try:
        working = loop.create_task(operator.run())
        await nemesis.run(TROUBLE_S)
        await nemesis.finish()
        working.cancel()
        await asyncio.wait([working])
        if not working.cancelled():
            working.result()
        await operator.repair()
        await cluster.settle(SETTLE_S)
        await quiet(cluster)
    except BaseException as error:
        for line in sorted([*nemesis.story, *operator.story, *cluster.laws.story()]):
            error.add_note(line)
        raise
    return loop.digest, loop.steps, cluster.laws.entries_seen


async def quiet(cluster: Cluster) -> None:
    """A cluster in which nothing happens writes nothing."""
    leader = await cluster.wait_leader()
    before = leader.raft_status()
    await asyncio.sleep(QUIET_S)
    after = leader.raft_status()
    assert (after.term, after.last_index) == (before.term, before.last_index), "a quiet cluster writes"
    assert not cluster.unsettled(leader)


@pytest.mark.parametrize("seed", seeds(15))
def test_a_cluster_survives(seed: int) -> None:
    """In every universe the laws hold at every step; after the trouble everything runs as it should and is quiet."""
    run(seed, trouble)


def test_a_leader_that_cannot_hand_over_leads_on() -> None:
    """While a hand-over to a manager that is away goes on nothing is written, and nothing spins; then all goes on."""

    async def main(loop: SimLoop) -> None:
        cluster = Cluster(loop, together=False)
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


def test_a_whole_cluster_repeats_itself() -> None:
    """The same seed plays the same story, step by step."""
    assert run(1, trouble) == run(1, trouble)
