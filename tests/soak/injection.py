"""Does what the schedule says, and undoes it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from checks import Interval, has_majority
from machines import Machine
from network import Blocked, Network, around
from report import Report
from schedule import LEADER, Cast, Fault, Kind

from swarmpy.errors import SwarmpyError

OPERATOR_TIMEOUT_S = 60.0


class Injector:
    """The faults of a cluster; knows at every moment whether a majority of the managers is left alone."""

    def __init__(self, machines: Mapping[str, Machine], cast: Cast, network: Network, report: Report) -> None:
        self._machines = machines
        self._cast = cast
        self._network = network
        self._report = report
        self._cuts: list[Blocked] = []
        self._demoted: set[str] = set()
        self._without_log: set[str] = set()
        """Managers whose log was lost: they have no vote before they are members anew, which takes a leader."""
        self._intervals: list[Interval] = []
        self._majority_since: float | None = None
        self.disk_exits = 0

    # -- who can do what ----------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something became better or worse for somebody."""
        blocked = frozenset().union(*self._cuts)
        voters = set(self._cast.managers) - self._demoted - self._without_log
        well = {name for name in voters if self._machines[name].is_well}
        now = time.monotonic()
        if has_majority(self._cast.managers, well, blocked):
            self._majority_since = now if self._majority_since is None else self._majority_since
        elif self._majority_since is not None:
            self._intervals.append((self._majority_since, now))
            self._majority_since = None

    def majority_intervals(self) -> list[Interval]:
        """When more than half of the managers were up and connected."""
        if self._majority_since is None:
            return list(self._intervals)
        return [*self._intervals, (self._majority_since, time.monotonic())]

    async def leader(self) -> str | None:
        """The leader, as the manager with the newest term knows it; None when nobody knows one."""
        best = (-1, "")
        for name in self._cast.managers:
            if self._machines[name].is_well:
                with contextlib.suppress(SwarmpyError):
                    status = await self._machines[name].client.get("/status", timeout=2)
                    if status["leader"] and status["raft"]:
                        best = max(best, (status["raft"]["term"], status["leader"]["address"]))
        for name in self._cast.managers:
            if self._network.addresses(name).advertise == best[1]:
                return name
        return None

    # -- storm and calm -----------------------------------------------------------------------------------------------

    async def storm(self, faults: list[Fault], seconds: float) -> None:
        """Do all of them, each at its time, for so many seconds; what is not over then goes on."""
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for fault in faults:
                    group.create_task(self._at(began + fault.at, fault))
                await asyncio.sleep(seconds + 1)

    async def calm(self) -> None:
        """Undo everything; returns when all daemons run and answer."""
        self._cut()
        for machine in self._machines.values():
            machine.resume()
            machine.empty_disk()
            machine.clock.set(0)
        await asyncio.gather(*(machine.start() for machine in self._machines.values()))
        for name in sorted(self._demoted):
            if not await self._set_role(name, "manager"):
                self._report.violation(f"{name} could not be promoted within {OPERATOR_TIMEOUT_S:g} s")
        self._demoted.clear()
        self._without_log.clear()
        self.changed()

    async def supervise(self) -> None:
        """Start what has ended, as an init system would: a daemon may meet its full disk when the trouble is over."""
        while True:
            await asyncio.gather(*(machine.start() for machine in self._machines.values()))
            await asyncio.sleep(0.5)

    async def _at(self, moment: float, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        kind, targets = fault.kind, list(fault.targets)
        if targets == [LEADER]:
            leader = await self.leader()
            if leader is None:
                self._report.line("fault_skipped", fault=kind, reason="nobody knows a leader")
                return
            targets = [leader]
        if kind in (Kind.KILL_LEADER, Kind.RESTART_LEADER) and targets[0] in self._cast.spared:
            kind = Kind.PAUSE_LEADER  # so that another one leads next time
        machines = [self._machines[name] for name in targets]
        if kind not in (Kind.CLOCK, Kind.DEMOTE) and not any(machine.is_running for machine in machines):
            self._report.line("fault_skipped", fault=kind, targets=targets, reason="they do not run")
            return
        amount = {"amount": fault.amount} if fault.amount else {}
        self._report.line("fault", fault=kind, targets=targets, seconds=fault.duration, **amount)
        self._report.faults[kind] += 1
        await self._do(kind, machines, fault)

    async def _do(self, kind: Kind, machines: list[Machine], fault: Fault) -> None:
        names = [machine.name for machine in machines]
        match kind:
            case Kind.KILL | Kind.KILL_LEADER | Kind.KILL_SEVERAL | Kind.KILL_MAJORITY:
                await asyncio.gather(*(machine.kill() for machine in machines))
                await asyncio.sleep(fault.duration)
                await asyncio.gather(*(machine.start() for machine in machines))
            case Kind.RESTART | Kind.RESTART_LEADER:
                if not machines[0].is_paused:
                    await machines[0].stop()
                    await machines[0].start()
            case Kind.PAUSE | Kind.PAUSE_LEADER:
                process = machines[0].pause()
                await asyncio.sleep(fault.duration)
                machines[0].resume(process)
            case Kind.ISOLATE | Kind.ISOLATE_LEADER | Kind.SPLIT:
                await self._cut_for(around(frozenset(names), self._cast.nodes), fault.duration)
            case Kind.ONE_WAY:
                await self._cut_for({(names[0], name) for name in names[1:]}, fault.duration)
            case Kind.LINK:
                await self._cut_for({(names[0], names[1]), (names[1], names[0])}, fault.duration)
            case Kind.DISK_FULL:
                await self._fill(machines[0], fault.duration)
            case Kind.DISK_LOST:
                await self._lose(machines[0], fault.duration)
            case Kind.CLOCK:
                machines[0].clock.set(fault.amount)
            case Kind.DEMOTE:
                await self._demote(names[0], fault.duration)

    async def _cut_for(self, blocked: Blocked, seconds: float) -> None:
        self._cuts.append(blocked)
        self._apply()
        await asyncio.sleep(seconds)
        if blocked in self._cuts:
            self._cuts.remove(blocked)
            self._apply()

    def _cut(self) -> None:
        self._cuts.clear()
        self._apply()

    def _apply(self) -> None:
        self._network.block(frozenset().union(*self._cuts))
        self.changed()

    async def _fill(self, machine: Machine, seconds: float) -> None:
        """Until it has ended of that, or its time is over: one that is cut off writes nothing."""
        process = machine.process
        await asyncio.to_thread(machine.fill_disk)
        deadline = time.monotonic() + seconds
        while process is not None and process.returncode is None and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        if process is not None and process.returncode == 74:
            self.disk_exits += 1
            self._report.line("disk_full_exit", node=machine.name)
        machine.empty_disk()
        await machine.start()

    async def _lose(self, machine: Machine, seconds: float) -> None:
        if self._without_log:
            return
        self._without_log.add(machine.name)
        await machine.kill()
        await asyncio.to_thread(machine.lose_log)
        await asyncio.sleep(seconds)
        await machine.start()

    # -- roles --------------------------------------------------------------------------------------------------------

    async def _demote(self, name: str, seconds: float) -> None:
        if self._demoted:
            return  # one at a time: the others must stay a majority of all
        self._demoted.add(name)
        self.changed()
        await self._set_role(name, "worker", timeout=10)
        await asyncio.sleep(seconds)
        await self._set_role(name, "manager", timeout=20)

    async def _set_role(self, name: str, role: str, timeout: float = OPERATOR_TIMEOUT_S) -> bool:
        """What an operator does, through any manager, until it is done; False when it is not within ``timeout``."""
        deadline = time.monotonic() + timeout
        why = "no manager was well"
        while time.monotonic() < deadline:
            for machine in self._machines.values():
                if not machine.is_manager or not machine.is_well or machine.name == name:
                    continue
                try:
                    node = await machine.client.node(name)
                    if node["Spec"]["Role"] != role:
                        spec = {**node["Spec"], "Role": role}
                        await machine.client.update_node(node["ID"], node["Version"]["Index"], spec)
                    self._report.line("role_set", node=name, role=role)
                    return True
                except SwarmpyError as error:
                    why = f"{machine.name}: {error}"
            await asyncio.sleep(0.5)
        self._report.line("role_not_set", node=name, role=role, why=why[:300])
        return False
