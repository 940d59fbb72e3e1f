"""Who follows a log: it goes on over changes of leader, with every line once, and never hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from cluster import Cluster
from cluster_machine import Machine
from film import Film
from loop import SimLoop, run

from swarmpy.errors import Unavailable
from swarmpy.manager.log_reader import CALL_TIMEOUT_S, LEADER_WAIT_S, LogReader
from swarmpy.manager.operations import create_service
from swarmpy.model.ids import TaskId
from swarmpy.model.logs import LogOptions, LogQuestion
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec

REPLICAS = 3
LINES = 20


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    with Film().rolling():
        yield


class Follower:
    """Reads the log of a service through a manager, as its API does, until that has no more or says why it cannot."""

    def __init__(self, machine: Machine, service_id: str) -> None:
        assert machine.manager is not None
        question = LogQuestion(service_id=service_id, options=LogOptions(follow=True))
        self._reader = LogReader(machine.manager.call_leader, question)
        self.heard: dict[TaskId, list[bytes]] = {}
        self.notices: list[str] = []
        self.reading = asyncio.create_task(self._read(), name="follower")

    async def _read(self) -> None:
        await self._reader.open()
        async for part, lines in self._reader.parts():
            self.heard.setdefault(part.task_id, []).extend(line.data for line in lines)
            if part.notice:
                self.notices.append(part.notice)

    async def close(self) -> None:
        """As when the client is gone."""
        self.reading.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)


async def followed(loop: SimLoop) -> tuple[Cluster, Machine, Machine, str]:
    """A cluster with a service; its leader, another manager, and the service's id."""
    cluster = Cluster(loop)
    await cluster.start()
    leader = await cluster.wait_leader()
    spec = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="web")), replicas=REPLICAS)
    service = await create_service(leader.store, spec, leader.new_id)
    await cluster.settle(15)
    leading = next(machine for machine in cluster.managers if machine.manager is leader)
    asked = next(machine for machine in cluster.managers if machine is not leading)
    return cluster, leading, asked, service.id


def write(cluster: Cluster, number: int) -> None:
    """One more line of each task."""
    for machine in cluster.agents:
        for task_id in machine.runtime.running_tasks():
            machine.runtime.write(task_id, b"%d\n" % number)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", ["crash", "pause", "isolate"])
def test_a_follower_goes_on_with_the_next_leader(seed: int, fault: str) -> None:
    """The leader is killed, stopped or cut off while tasks write: every line is heard, in order, and none twice."""

    async def main(loop: SimLoop) -> None:
        cluster, leading, asked, service_id = await followed(loop)
        follower = Follower(asked, service_id)
        for number in range(LINES):
            if number == LINES // 3:
                match fault:
                    case "crash":
                        leading.host.crash()
                    case "pause":
                        leading.host.pause()
                    case _:
                        cluster.net.isolate(leading.name)
            write(cluster, number)
            await asyncio.sleep(loop.random.uniform(0, 1))
        all_lines = [b"%d\n" % number for number in range(LINES)]

        def is_heard() -> bool:
            return len(follower.heard) == REPLICAS and all(said == all_lines for said in follower.heard.values())

        await cluster.wait_for(is_heard, timeout=2 * CALL_TIMEOUT_S)
        assert not follower.reading.done()
        await follower.close()

    run(seed, main)


@pytest.mark.parametrize("seed", range(3))
def test_a_follower_at_a_manager_without_a_leader_is_told(seed: int) -> None:
    """The manager that is asked is cut off: what comes is broken off with the reason, in bounded time."""

    async def main(loop: SimLoop) -> None:
        cluster, _, asked, service_id = await followed(loop)
        follower = Follower(asked, service_id)
        write(cluster, 0)
        await cluster.wait_for(lambda: len(follower.heard) == REPLICAS, timeout=10.0)
        cluster.net.isolate(asked.name)
        began = loop.time()
        with pytest.raises(Unavailable):
            await follower.reading
        assert loop.time() - began < LEADER_WAIT_S + 2 * CALL_TIMEOUT_S

    run(seed, main)
