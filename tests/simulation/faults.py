"""What goes wrong: crashes, partitions, a bad network, bad disks. Each seed switches on a few kinds of it.

The mix differs between universes on purpose: with everything at once most runs look alike, and some defects show only
where one kind of fault meets a long quiet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from disk import SimDisk
from net import Host, SimNetwork

PAUSE_MEAN_S = 0.7
REPAIR_S = (0.05, 3.0)
"""How long a fault lasts."""


class Nemesis:
    """Breaks things at random until :meth:`stop`, which repairs everything."""

    def __init__(self, net: SimNetwork, disks: Mapping[str, SimDisk]) -> None:
        self._net = net
        self._disks = disks
        self._random = net.loop.random
        self._running = False
        self.repair_s = REPAIR_S
        self.story: list[str] = []
        """What it did, a line each."""
        kinds = self._kinds()
        self._faults = [kind for kind in kinds if self._random.random() < 0.5] or kinds[:1]
        for host in net.hosts.values():
            host.on_failure = lambda error, host=host: self._ended(host, error)

    def _kinds(self) -> list[Callable[[], None]]:
        return [
            self._crash_one,
            self._crash_all,
            self._isolate_one,
            self._partition_two,
            self._lose_messages,
            self._slow_disk,
            self._fail_disk,
        ]

    async def run(self, seconds: float) -> None:
        """Break something now and then, for so long; then repair it all."""
        loop = self._net.loop
        self._running = True
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_MEAN_S))
            self._faults[self._random.randrange(len(self._faults))]()
        self.stop()

    def stop(self) -> None:
        """No more faults, and everything as new again."""
        self._running = False
        self._calm_network()
        for disk in self._disks.values():
            self._calm_disk(disk)
        self._net.heal()
        for host in self._net.hosts.values():
            self._restart(host)
        self._tell("all repaired")

    def _tell(self, what: str) -> None:
        self.story.append(f"{self._net.loop.time():8.3f} {what}")

    def _later(self, fn: Callable[[], None]) -> None:
        self._net.later(self._random.uniform(*self.repair_s), fn)

    def _one(self) -> Host:
        hosts = list(self._net.hosts.values())
        return hosts[self._random.randrange(len(hosts))]

    # -- hosts ------------------------------------------------------------------------------------------------------

    def _crash_one(self) -> None:
        self._crash(self._one())

    def _crash_all(self) -> None:
        for host in self._net.hosts.values():
            self._crash(host)

    def _crash(self, host: Host) -> None:
        if host.is_up:
            self._tell(f"crash {host.node_id}")
            host.crash()
            self._later(lambda: self._restart(host))

    def _restart(self, host: Host) -> None:
        if not host.is_up:
            self._tell(f"restart {host.node_id}")
            host.restart()

    def _ended(self, host: Host, error: BaseException) -> None:
        disk = self._disks.get(host.node_id)
        if disk is None or not disk.has_failed:
            self._net.loop.problems.append(f"{host.node_id} ended: {error!r}")
        self._tell(f"{host.node_id} ended: {error!r}")
        self._crash(host)
        if not self._running:
            self._restart(host)

    # -- the network --------------------------------------------------------------------------------------------------

    def _isolate_one(self) -> None:
        host = self._one()
        self._tell(f"isolate {host.node_id}")
        self._net.isolate(host.node_id)
        self._later(self._heal)

    def _partition_two(self) -> None:
        one, other = self._one(), self._one()
        if one is not other:
            one_way = self._random.random() < 0.5
            self._tell(f"partition {one.node_id} {'->' if one_way else '<->'} {other.node_id}")
            self._net.partition(one.node_id, other.node_id, one_way=one_way)
            self._later(self._heal)

    def _heal(self) -> None:
        self._tell("heal")
        self._net.heal()

    def _lose_messages(self) -> None:
        self._tell("lose messages")
        self._net.options.notify_loss = self._random.uniform(0.01, 0.4)
        self._net.options.notify_overtake = self._random.uniform(0, 0.3)
        self._later(self._calm_network)

    def _calm_network(self) -> None:
        self._net.options.notify_loss = 0.0
        self._net.options.notify_overtake = 0.0

    # -- disks --------------------------------------------------------------------------------------------------------

    def _one_disk(self) -> tuple[str, SimDisk]:
        disks = list(self._disks.items())
        return disks[self._random.randrange(len(disks))]

    def _slow_disk(self) -> None:
        node_id, disk = self._one_disk()
        self._tell(f"slow disk {node_id}")
        disk.options.slow = 0.5
        self._later(lambda: self._calm_disk(disk))

    def _fail_disk(self) -> None:
        node_id, disk = self._one_disk()
        self._tell(f"failing disk {node_id}")
        disk.options.failure = 0.2
        self._later(lambda: self._calm_disk(disk))

    def _calm_disk(self, disk: SimDisk) -> None:
        disk.options.slow = 0.01
        disk.options.failure = 0.0
