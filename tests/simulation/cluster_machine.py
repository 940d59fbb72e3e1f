"""A machine of a simulated cluster: the real manager and agent, over a simulated disk, runtime and data plane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from disk import SimDisk
from net import Host

from swarmpy.agent import rest_of_node as agent_side
from swarmpy.agent.agent import Agent
from swarmpy.agent.local import Changes, MemoryLocalState, Remembered
from swarmpy.manager import rest_of_node as manager_side
from swarmpy.manager.manager import Manager
from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.dependencies import NO_DEPENDENCIES, Dependencies
from swarmpy.model.ids import ClusterId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.states import Role
from swarmpy.ports import Told, unheard
from swarmpy.raft.status import RaftStatus
from swarmpy.runtime.simulated import Behaviour, SimulatedRuntime

if TYPE_CHECKING:
    from cluster import Cluster

CALM = Behaviour(prepare_seconds=(0.0, 0.2), start_seconds=(0.0, 0.3), stop_seconds=(0.0, 0.3))
FORGETS = 0.3
"""How likely an agent's local state does not survive a crash: it is a memory aid only."""
LAGS = 0.3
"""How likely the last that was saved of it does not."""
KEEPS = 0.5
"""How likely the containers of a machine that lost its power are still there, ended."""
Ports = Mapping[PublishedPort, tuple[Endpoint, ...]]


class SimDataPlane:
    """Implements ``ports.DataPlane``: takes its time, and shows the table in force."""

    def __init__(self, machine: Machine, random: Random) -> None:
        self.in_force: Ports = {}
        self._machine = machine
        self._random = random

    async def apply(self, ports: Ports) -> None:
        """See ``DataPlane``. Raises OSError by chance while the machine's ``routing_failure`` says so."""
        slowest = 0.02 if self._random.random() < 0.9 else 0.5
        await asyncio.sleep(self._random.uniform(0, slowest))
        if self._random.random() < self._machine.routing_failure:
            raise OSError("simulated failure to route")
        self.in_force = dict(ports)
        self._machine.cluster.laws.routed(self._machine, ports.values())

    def problems(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def drain(self) -> None:
        """Nobody is connected."""

    async def close(self) -> None:
        """It ends with the daemon."""
        self.in_force = {}

    def routes_to(self, task_id: TaskId) -> bool:
        """True when requests may be brought to the task."""
        return any(endpoint.task_id == task_id for endpoints in self.in_force.values() for endpoint in endpoints)


class SimRuntime(SimulatedRuntime):
    """Shows what it is asked to end."""

    machine: Machine

    async def prepare(self, task: Task, needed: Dependencies = NO_DEPENDENCIES, told: Told = unheard) -> None:
        """See ``Runtime``."""
        await super().prepare(task, needed, told)
        self.machine.cluster.laws.files(self.machine, task)

    async def stop(self, task: Task) -> None:
        """See ``Runtime``."""
        self._tell(task.id)
        await super().stop(task)

    async def remove(self, task_id: TaskId) -> None:
        """See ``Runtime``."""
        self._tell(task_id)
        await super().remove(task_id)

    def known_tasks(self) -> set[TaskId]:
        """What there is on the machine, running or not."""
        return {*self._prepared, *self._started}

    def _tell(self, task_id: TaskId) -> None:
        if not self._away and task_id in self.running_tasks():
            self.machine.cluster.laws.stopped(self.machine, task_id)


class FrailLocalState(MemoryLocalState):
    """May not have what was saved last, or anything, after a crash."""

    def __init__(self) -> None:
        super().__init__()
        self._earlier: deque[Remembered] = deque(maxlen=4)

    async def save(self, changes: Changes) -> None:
        """Keep ``changes``, and what was there before."""
        self._earlier.append(self.remembered)
        await super().save(changes)

    def crash(self, random: Random) -> None:
        """The daemon, or the machine, is gone."""
        drawn = random.random()
        if drawn < FORGETS:
            self.remembered = Remembered()
        elif drawn < FORGETS + LAGS and self._earlier:
            self.remembered = self._earlier[random.randrange(len(self._earlier))]
        self._earlier.clear()


class Machine:
    """One machine; its disk, runtime and local state outlive its daemon."""

    def __init__(self, cluster: Cluster, name: str, address: str, *, raft_id: int = 0, has_agent: bool) -> None:
        net = cluster.net
        self.cluster = cluster
        self.name = name
        self.raft_id = raft_id
        self.has_agent = has_agent
        self.host = net.host(name, address, Role.MANAGER if raft_id else Role.WORKER)
        self.disk = SimDisk(net.loop, cluster.disk_options())
        self.random = Random(net.loop.random.getrandbits(64))
        self.local = FrailLocalState()
        self.runtime = SimRuntime(
            node_id=self.host.node_id,
            node_address=address.rsplit(":", 1)[0],
            hostname=name,
            random=self.random,
            behaviour=CALM,
        )
        self.runtime.machine = self
        self.routing_failure = 0.0
        self.manager: Manager | None = None
        self.agent: Agent | None = None
        self.plane: SimDataPlane | None = None
        self.loses_power = 0.0
        """How likely a crash is one of the machine, not of the daemon alone."""
        self._daemon: asyncio.Task[None] | None = None
        self._seen: tuple[object, ...] = ()
        """What its Raft member said last: term, role, leader."""
        self.host.new_router = lambda: cluster.laws.router(self)
        self.host.on_crash.append(self._crashed)

    @property
    def is_leader(self) -> bool:
        """True when its manager is in office."""
        return self.host.is_up and self.manager is not None and self.manager.is_leader

    def _crashed(self) -> None:
        self.disk.crash()
        self.manager = self.agent = self.plane = None
        if self.random.random() < self.loses_power:
            self.runtime.power_off(keeps=self.random.random() < KEEPS)
        self.local.crash(self.random)

    async def stop(self) -> None:
        """End the daemon as an operator would, and wait for it."""
        if self._daemon is None or not self.host.is_up:
            return
        daemon, loses_power = self._daemon, self.loses_power
        daemon.cancel()
        _, running = await asyncio.wait([daemon], timeout=15)
        if running and self.host.life and self.host.life.is_alive and self._daemon is daemon:
            self.cluster.laws.fail(f"the daemon of {self.name} does not end")
        if self._daemon is daemon:
            self.loses_power = 0.0
            self.host.crash()
            self.loses_power = loses_power

    async def main(self, host: Host) -> None:
        """One life of the daemon."""
        self._daemon = asyncio.current_task()
        async with asyncio.TaskGroup() as group:
            if self.raft_id:
                self.manager = self._new_manager(host)
                group.create_task(self.manager.run())
            if self.has_agent:
                self.agent = self._new_agent(host)
                group.create_task(self.agent.run())

    def _new_manager(self, host: Host, **more: Any) -> Manager:
        manager = Manager(
            node_id=host.node_id,
            cluster_id=ClusterId(host.cluster_id),
            raft_id=self.raft_id,
            address=host.address,
            storage=self.disk,
            dialer=host.dialer,
            router=host.router,
            clock=host.clock,
            random=self.random,
            config=self.cluster.raft,
            rest=manager_side.RestOfNode(**more),
        )
        self.cluster.laws.observe(manager, self.raft_id)
        manager.raft.subscribe(self._on_status)
        return manager

    def _on_status(self, status: RaftStatus) -> None:
        seen = (status.term, status.role, status.leader_id)
        if seen != self._seen and not self.cluster.film.is_shown:  # the driver's own log says it too
            self.cluster.film.tell(
                self.name, f"term {status.term}: {status.role.value}, led by {status.leader_id or 'nobody'}"
            )
        self._seen = seen
        if status.is_leader:
            self.cluster.laws.led(status.term, self.raft_id)
            self.cluster.film.checked("one leader a term")

    def _new_agent(self, host: Host, **more: Any) -> Agent:
        self.plane = SimDataPlane(self, self.random)
        return Agent(
            node_id=host.node_id,
            address=host.address.rsplit(":", 1)[0],
            role=Role.MANAGER if self.raft_id else Role.WORKER,
            dialer=host.dialer,
            runtime=self.runtime,
            data_plane=self.plane,
            local=self.local,
            clock=host.clock,
            random=self.random,
            rest=agent_side.RestOfNode(
                seeds=lambda: [machine.host.address for machine in self.cluster.managers],
                on_role_change=lambda role: self.cluster.laws.fail(f"{self.name} is told to be a {role}"),
                **more,
            ),
        )


def calm(machine: Machine) -> None:
    """Runtime and data plane of the machine work."""
    machine.runtime.behaviour = CALM
    machine.runtime.set_away(False)
    machine.routing_failure = 0.0
