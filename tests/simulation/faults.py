"""What goes wrong: hosts, networks, clocks and disks. Each seed switches on a few kinds of it.

The mix differs between universes on purpose: with everything at once most runs look alike, and some defects show only
where one kind of fault meets a long quiet (Groce et al., "Swarm Testing", 2012).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import attrs
from disk import DiskOptions, SimDisk
from film import Film
from knobs import Knobs
from net import Host, SimNetwork
from network_faults import NetworkFaults

FAULT_SHARE = 0.4
PAUSE_MEAN_S = 0.7
REPAIR_S = (0.05, 3.0)
JUMP_S = 1.0
"""The same as the knobs of these names, where there are none."""
STANDSTILL_S = (0.1, 5.0)
"""Shorter than a connection lives in silence."""
LOOP_S = 0.3
"""The most between two crashes of a loop of them."""


class Nemesis:
    """Breaks things at random, and repairs them.

    A world calls :meth:`run` and is then as new - or ``run(seconds, heal=False)``, which leaves everything as broken as
    it is, then :meth:`heal_quorum`, under which there must be progress, and :meth:`stop`, after which all must be well.
    ``disks`` and the hosts of ``net`` may grow meanwhile (:meth:`adopt` a new host); ``leader`` tells the node id of
    who leads, for the faults that aim at it.
    """

    def __init__(
        self,
        net: SimNetwork,
        disks: Mapping[str, SimDisk],
        *,
        film: Film | None = None,
        knobs: Knobs | None = None,
        leader: Callable[[], str | None] | None = None,
    ) -> None:
        self.net = net
        self._disks = disks
        self.random = net.loop.random
        self.film = film or Film()
        self._leader = leader
        self.is_running = False
        self._pause_s = knobs.fault_pause_s if knobs else PAUSE_MEAN_S
        self._jump_s = knobs.jump_s if knobs else JUMP_S
        self.repair_s = knobs.repair_s if knobs else REPAIR_S
        """How long a fault lasts."""
        self.left_out: set[str] = set()
        """Hosts that :meth:`heal_quorum` left down or cut off."""
        self.retired: set[str] = set()
        """Hosts that are for ever off: nothing is done to them any more."""
        self._good_net = attrs.evolve(net.options)
        self._good_disks: dict[str, DiskOptions] = {}
        self._undo: dict[int, Callable[[], None]] = {}
        """What ends each fault that still lasts."""
        self._last = 0
        kinds = self._kinds()
        share = knobs.fault_share if knobs else FAULT_SHARE
        chosen = [kind for kind in sorted(kinds) if self.random.random() < share]
        self.kinds = chosen or [sorted(kinds)[self.random.randrange(len(kinds))]]
        """The kinds of faults of this universe."""
        self._faults = [kinds[kind] for kind in self.kinds]
        for host in net.hosts.values():
            self.adopt(host)

    def _kinds(self) -> dict[str, Callable[[], None]]:
        aimed = {"crash leader": self._crash_leader, "pause leader": self._pause_leader}
        return {
            "crash": self._crash_one,
            "crash all": self._crash_all,
            "crash loop": self._crash_loop,
            "pause": self._pause_one,
            "clock jump": self._jump_clock,
            **NetworkFaults(self).kinds(),
            "slow disk": self._slow_disk,
            "stalling disk": self._stall_disk,
            "full disk": self._fill_disk,
            "failing disk": self._fail_disk,
            **(aimed if self._leader is not None else {}),
        }

    # -- the course of things -----------------------------------------------------------------------------------------

    async def run(self, seconds: float, *, heal: bool = True) -> None:
        """Break something now and then, for so many (virtual) seconds; then repair it all, unless told to leave it."""
        loop = self.net.loop
        self.is_running = True
        self.film.tell("nemesis", f"begins with {', '.join(self.kinds)}")
        end = loop.now + seconds
        while loop.now < end:
            await asyncio.sleep(self.random.expovariate(1 / self._pause_s))
            self._faults[self.random.randrange(len(self._faults))]()
        self.is_running = False
        if heal:
            self.stop()

    def stop(self) -> None:
        """No more faults, and everything as new again."""
        self.is_running = False
        self.left_out.clear()
        self._repair()
        for host in self.net.hosts.values():
            self._restart(host)
        self.film.tell("nemesis", "all repaired")

    def heal_quorum(self, voters: Sequence[str]) -> list[str]:
        """No more faults; of ``voters`` (node ids) a random majority is as new again, and whatever is no voter. The
        others stay down or cut off until :meth:`stop`. Returns the majority."""
        self.is_running = False
        healed = self.random.randrange(len(voters) // 2 + 1, len(voters) + 1)
        shuffled = self.random.sample(list(voters), len(voters))
        self.left_out = set(shuffled[healed:])
        self._repair()
        for name in shuffled[healed:]:
            if self.random.random() < 0.5:
                self.net.hosts[name].crash()
            else:
                self.net.isolate(name)
        for host in self.net.hosts.values():
            self._restart(host)
        left = ", ".join(f"{name} {'cut off' if self.net.hosts[name].is_up else 'down'}" for name in shuffled[healed:])
        self.film.tell("nemesis", f"a quorum is healed: {', '.join(sorted(shuffled[:healed]))}; left: {left or 'none'}")
        return sorted(shuffled[:healed])

    def adopt(self, host: Host) -> None:
        """Restart this host too when its daemon fails; only a daemon whose disk has failed may."""
        host.on_failure = lambda error: self._ended(host, error)

    def _repair(self) -> None:
        undo, self._undo = list(self._undo.values()), {}
        for end in undo:
            end()
        self.net.options = attrs.evolve(self._good_net)
        self.net.straighten()
        self.net.heal()

    def lasts(self, undo: Callable[[], None], seconds: float | None = None) -> None:
        """The fault that was just begun ends by ``undo``, after a while or when all is repaired."""
        self._last += 1
        number = self._last
        self._undo[number] = undo
        self.net.later(self.random.uniform(*self.repair_s) if seconds is None else seconds, self._end, number)

    def _end(self, number: int) -> None:
        if number in self._undo:
            self._undo.pop(number)()

    def hosts(self) -> list[Host]:
        return [host for host in self.net.hosts.values() if host.node_id not in self.retired]

    def one(self) -> Host:
        hosts = self.hosts()
        return hosts[self.random.randrange(len(hosts))]

    def some(self) -> list[Host]:
        hosts = self.hosts()
        return self.random.sample(hosts, self.random.randrange(1, len(hosts) + 1))

    def leading(self) -> Host | None:
        return self.net.hosts.get(self._leader() or "") if self._leader is not None else None

    # -- hosts ------------------------------------------------------------------------------------------------------

    def _crash_one(self) -> None:
        self._crash(self.one(), "crash")

    def _crash_leader(self) -> None:
        if (host := self.leading()) is not None:
            self._crash(host, "crash leader")

    def _crash_all(self) -> None:
        for host in self.hosts():
            self._crash(host, "crash all")

    def _crash_loop(self) -> None:
        host, times = self.one(), self.random.randrange(2, 8)
        self._crash(host, "crash loop", self.random.uniform(0.001, LOOP_S))
        at = 0.0
        for _ in range(times):
            at += self.random.uniform(0.001, 2 * LOOP_S)
            self.net.later(at, self._crash_again, host)

    def _crash_again(self, host: Host) -> None:
        if self.is_running:
            self._crash(host, "crash loop", self.random.uniform(0.001, LOOP_S))

    def _crash(self, host: Host, kind: str, seconds: float | None = None) -> None:
        if host.is_up:
            self.film.fault(kind, host.node_id, "crashes")
            host.crash()
            self.lasts(lambda: self._restart(host), seconds)

    def _restart(self, host: Host) -> None:
        out = host.node_id in self.left_out or host.node_id in self.retired
        if not host.is_up and host.life is not None and not out:
            self.film.tell(host.node_id, "restarts")
            host.restart()

    def _ended(self, host: Host, error: BaseException) -> None:
        disk = self._disks.get(host.node_id)
        if disk is None or not disk.has_failed:
            self.net.loop.problems.append(f"{self.net.loop.now:.3f} s: {host.node_id} ended: {error!r}")
        self.film.tell(host.node_id, f"ended: {error!r}")
        host.crash()
        if self.is_running:
            self.lasts(lambda: self._restart(host))
        else:
            self._restart(host)

    def _pause_one(self) -> None:
        self._pause(self.one(), "pause")

    def _pause_leader(self) -> None:
        if (host := self.leading()) is not None:
            self._pause(host, "pause leader")

    def _pause(self, host: Host, kind: str) -> None:
        if host.is_up and not host.is_paused:
            seconds = self.random.uniform(*STANDSTILL_S)
            self.film.fault(kind, host.node_id, f"stands still for {seconds:.3f} s")
            host.pause()
            self.lasts(lambda: self._resume(host), seconds)

    def _resume(self, host: Host) -> None:
        self.film.tell(host.node_id, "goes on")
        host.resume()

    def _jump_clock(self) -> None:
        host, seconds = self.one(), self.random.uniform(-self._jump_s, self._jump_s)
        self.film.fault("clock jump", host.node_id, f"its wall clock jumps by {seconds:.3f} s")
        host.clock.jump(seconds)
        self.lasts(host.clock.correct)

    # -- disks --------------------------------------------------------------------------------------------------------

    def _one_disk(self) -> tuple[str, SimDisk]:
        disks = [(name, disk) for name, disk in self._disks.items() if name not in self.retired]
        name, disk = disks[self.random.randrange(len(disks))]
        self._good_disks.setdefault(name, attrs.evolve(disk.options))
        self.lasts(lambda: self._calm_disk(name, disk))
        return name, disk

    def _slow_disk(self) -> None:
        name, disk = self._one_disk()
        self.film.fault("slow disk", name, "half of all syncs take a hundred times as long")
        disk.options.slow = 0.5

    def _stall_disk(self) -> None:
        name, disk = self._one_disk()
        self.film.fault("stalling disk", name, "some syncs take seconds")
        disk.options.stall = 0.2

    def _fill_disk(self) -> None:
        name, disk = self._one_disk()
        self.film.fault("full disk", name, "nothing can be written")
        disk.options.full = True

    def _fail_disk(self) -> None:
        name, disk = self._one_disk()
        self.film.fault("failing disk", name, "every fifth sync fails")
        disk.options.failure = 0.2

    def _calm_disk(self, name: str, disk: SimDisk) -> None:
        disk.options = attrs.evolve(self._good_disks[name])
