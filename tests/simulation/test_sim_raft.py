"""Three managers under crashes, partitions, loss and bad disks: what was acknowledged stays, and everyone agrees."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from faults import Nemesis
from loop import SimLoop, run, seeds
from managers import Managers, SimManager
from net import SimNetwork

from swarmpy.errors import AlreadyExists, OutcomeUnknown, SwarmpyError, Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node
from swarmpy.model.specs import NodeSpec
from swarmpy.store.transaction import Tx

COUNTER = "counter"
TROUBLE_S = 8.0


class Clients:
    """Write and read as users do, and remember what they were told."""

    def __init__(self, managers: Managers) -> None:
        self._managers = managers
        self._random = managers.net.loop.random
        self._last = 0
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.unknown: list[str] = []

    async def run(self) -> None:
        """A few clients at once, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(self._write_for_ever())
            group.create_task(self._read_for_ever())

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(10))
            manager = self._any_manager()
            if manager is not None:
                await self.write(manager)

    def _any_manager(self) -> SimManager | None:
        up = self._managers.up()
        if self._random.random() < 0.9:
            return self._managers.leader()
        return up[self._random.randrange(len(up))] if up else None

    async def write(self, manager: SimManager) -> None:
        """Add a node of a new name, and one to the counter, in one transaction."""
        self._last += 1
        name = f"w{self._last}"

        def fn(tx: Tx) -> None:
            tx.create(Node(id=NodeId(name)))
            counter = tx.node(COUNTER)
            if counter is None:
                tx.create(Node(id=NodeId(COUNTER), spec=NodeSpec(name="1")))
            else:
                tx.update(attrs.evolve(counter, spec=NodeSpec(name=str(int(counter.spec.name) + 1))))

        try:
            await manager.store.update(fn, timeout=5)
        except OutcomeUnknown:
            self.unknown.append(name)
        except Unavailable:
            self.refused.append(name)
        else:
            self.acknowledged.append(name)

    async def _read_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(5))
            up = self._managers.up()
            if up:
                await self._read(up[self._random.randrange(len(up))])

    async def _read(self, manager: SimManager) -> None:
        expected = len(self.acknowledged)
        try:
            await manager.driver.read_index(2)
        except SwarmpyError:
            return
        view = manager.store.view()
        missing = [name for name in self.acknowledged[:expected] if view.node(name) is None]
        assert not missing, f"a read on member {manager.member.raft_id} does not show {missing}"

    def check(self, manager: SimManager) -> None:
        """Everything acknowledged is there, nothing refused is, and every write was done once."""
        names = {node.id for node in manager.store.view().nodes()} - {COUNTER}
        assert set(self.acknowledged) <= names, f"lost: {sorted(set(self.acknowledged) - names)}"
        assert not names & set(self.refused), f"done though refused: {sorted(names & set(self.refused))}"
        counter = manager.store.view().node(COUNTER)
        assert counter is not None
        assert int(counter.spec.name) == len(names), "an update of the counter was lost"


async def trouble(loop: SimLoop) -> tuple[int, int, Clients]:
    """Three managers, clients, and everything that can go wrong; then peace, and a look at what is left."""
    net = SimNetwork(loop)
    managers = Managers(net)
    await managers.start()
    nemesis = Nemesis(net, managers.disks)
    clients = Clients(managers)
    await managers.wait_leader()
    try:
        working = loop.create_task(clients.run())
        await nemesis.run(TROUBLE_S)
        working.cancel()
        await asyncio.wait([working])
        if not working.cancelled():
            working.result()
        await quiet(managers, clients)
    except BaseException as error:
        error.add_note("\n".join(nemesis.story))
        raise
    return loop.digest, loop.steps, clients


async def quiet(managers: Managers, clients: Clients) -> None:
    """After repair somebody leads, writes succeed, and all managers hold the same bytes."""
    async with asyncio.timeout(30):
        before = len(clients.acknowledged)
        while len(clients.acknowledged) == before:
            await clients.write(await managers.wait_leader())
    await managers.wait_converged()
    snapshots = {await manager.store.snapshot() for manager in managers.up()}
    assert len(snapshots) == 1, "managers hold different states"
    for manager in managers.up():
        clients.check(manager)


@pytest.mark.parametrize("seed", seeds(20))
def test_nothing_acknowledged_is_lost(seed: int) -> None:
    """In every universe there is one leader a term, one entry an index, and every acknowledged write at the end."""
    _, _, clients = run(seed, trouble)
    assert clients.acknowledged


def test_a_cluster_repeats_itself() -> None:
    """The same seed plays the same story, step by step."""
    one, other = run(3, trouble), run(3, trouble)
    assert one[:2] == other[:2]
    assert one[2].acknowledged == other[2].acknowledged


def test_a_write_survives_the_loss_of_all_power() -> None:
    """What was acknowledged is there after every manager lost its power at once."""

    async def main(loop: SimLoop) -> None:
        managers = Managers(SimNetwork(loop))
        await managers.start()
        leader = await managers.wait_leader()
        await leader.store.update(lambda tx: tx.create(Node(id=NodeId("a"))))
        for host in managers.hosts:
            host.crash()
        await asyncio.sleep(1)
        for host in managers.hosts:
            host.restart()
        leader = await managers.wait_leader()
        with pytest.raises(AlreadyExists):
            await leader.store.update(lambda tx: tx.create(Node(id=NodeId("a"))))

    run(0, main)


def test_a_new_leader_is_there_within_a_second() -> None:
    """When the leader loses its power, the next write succeeds in little more than an election timeout."""
    times = []

    async def main(loop: SimLoop) -> None:
        managers = Managers(SimNetwork(loop))
        await managers.start()
        leader = await managers.wait_leader()
        await asyncio.sleep(1)
        managers.hosts[leader.member.raft_id - 1].crash()
        lost_at = loop.time()
        leader = await managers.wait_leader()
        await leader.store.update(lambda tx: tx.create(Node(id=NodeId("a"))))
        times.append(loop.time() - lost_at)

    for seed in range(20):
        run(seed, main)
    times.sort()
    assert times[10] < 1.0
    assert times[-1] < 2.5
