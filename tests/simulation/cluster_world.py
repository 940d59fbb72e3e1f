"""The world of a whole cluster: managers, dispatcher, agents and simulated runtimes, and an operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster import Cluster
from cluster_faults import CRASH_S, ClusterNemesis
from cluster_operator import Operator
from film import Film
from knobs import Knobs
from loop import SimLoop

WRITE_S = 20.0
"""Virtual seconds from the healing of a quorum to a write, with the slowest network and elections."""
SETTLE_S = 60.0
"""Virtual seconds of peace after which everything runs as it should: down nodes, restart delays, updates."""
HISTORY_S = 1.0
"""The last of the history may be on its way out when all else has settled."""
QUIET_S = 15.0


async def play(loop: SimLoop, knobs: Knobs, film: Film, *, operator: Callable[[Cluster], Operator] = Operator) -> None:
    """From founding to peace; raises when a law is broken or peace does not come."""
    cluster = Cluster(loop, knobs=knobs, film=film)
    await cluster.start()
    nemesis, at_work = ClusterNemesis(cluster, knobs), operator(cluster)
    try:
        await _trouble(loop, nemesis, at_work, knobs.trouble_s)
        await _heal_quorum(cluster, nemesis, at_work)
        await _heal_all(cluster, nemesis, at_work)
    except BaseException as error:
        error.add_note("\n".join(["the last entries of the log:", *cluster.laws.story()]))
        raise


async def _trouble(loop: SimLoop, nemesis: ClusterNemesis, operator: Operator, seconds: float) -> None:
    working = loop.create_task(operator.run())
    await nemesis.run(seconds, heal=False)
    await nemesis.finish()
    working.cancel()
    await asyncio.wait([working])
    if not working.cancelled():
        working.result()


async def _heal_quorum(cluster: Cluster, nemesis: ClusterNemesis, operator: Operator) -> None:
    """With a majority of the managers there is progress, whatever the others do."""
    nemesis.heal_quorum([machine.name for machine in cluster.managers])
    healed = [name for name in cluster.machines if name not in nemesis.left_out]
    await operator.write(WRITE_S)
    cluster.film.checked("progress with a quorum")
    # Tasks that were started in the trouble may still crash.
    await asyncio.sleep(CRASH_S)
    await operator.repair(healed)
    await cluster.settle(SETTLE_S, healed)
    cluster.film.checked("what is reachable converges")


async def _heal_all(cluster: Cluster, nemesis: ClusterNemesis, operator: Operator) -> None:
    """With everybody back, everything runs as it should and nobody writes any more."""
    nemesis.stop()
    await operator.repair(list(cluster.machines))
    await cluster.settle(SETTLE_S)
    cluster.film.checked("all converge")
    await quiet(cluster)
    cluster.film.checked("a quiet cluster writes nothing")


async def quiet(cluster: Cluster) -> None:
    """A cluster in which nothing happens writes nothing. Raises AssertionError."""
    await asyncio.sleep(HISTORY_S)
    leader = await cluster.wait_leader()
    before = leader.raft_status()
    await asyncio.sleep(QUIET_S)
    after = leader.raft_status()
    assert (after.term, after.last_index) == (before.term, before.last_index), "a quiet cluster writes"
    assert not cluster.unsettled(leader)
