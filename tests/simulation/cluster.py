"""A whole cluster for simulations: machines with the real manager and the real agent on them, and what is said to be
well of a cluster that nobody disturbs.

Only the edges are simulated: network, disks, runtime, data plane, clock. In some universes managers and agents share
their machines, in others not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random

from clock import EPOCH_NS, SimClock
from cluster_laws import ClusterLaws
from disk import SimDisk
from loop import SimLoop
from net import Host, SimNetwork

from swarmpy.agent.agent import Agent
from swarmpy.agent.local import MemoryLocalState, Remembered
from swarmpy.manager.manager import Manager
from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.ids import ClusterId, NodeId, TaskId
from swarmpy.model.objects import Cluster as ClusterObject
from swarmpy.model.objects import JoinTokens, ManagerStatus, Node, RootCA, Service, Task
from swarmpy.model.specs import NodeSpec, RaftConfig
from swarmpy.model.states import Availability, NodeState, Role, ServiceMode, TaskState, UpdateState
from swarmpy.network.endpoints import ingress_table
from swarmpy.raft.messages import ConfState, HardState, Member, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX
from swarmpy.runtime.simulated import Behaviour, SimulatedRuntime
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

CALM = Behaviour(prepare_seconds=(0.0, 0.2), start_seconds=(0.0, 0.3), stop_seconds=(0.0, 0.3))
FORGETS = 0.4
"""How likely an agent's local state does not survive a crash: it is a memory aid only."""
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

    async def close(self) -> None:
        """It ends with the daemon."""
        self.in_force = {}

    def routes_to(self, task_id: TaskId) -> bool:
        """True when requests may be brought to the task."""
        return any(endpoint.task_id == task_id for endpoints in self.in_force.values() for endpoint in endpoints)


class SimRuntime(SimulatedRuntime):
    """Shows what it is asked to end."""

    machine: Machine

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


class Machine:
    """One machine; its disk, runtime and local state outlive its daemon."""

    def __init__(self, cluster: Cluster, name: str, address: str, *, raft_id: int = 0, has_agent: bool) -> None:
        net = cluster.net
        self.cluster = cluster
        self.name = name
        self.raft_id = raft_id
        self.has_agent = has_agent
        self.host = net.host(name, address, Role.MANAGER if raft_id else Role.WORKER)
        self.disk = SimDisk(net.loop)
        self.random = Random(net.loop.random.getrandbits(64))
        self.local = MemoryLocalState()
        self.runtime = SimRuntime(
            node_id=self.host.node_id,
            node_address=address.rsplit(":", 1)[0],
            hostname=name,
            random=self.random,
            behaviour=CALM,
        )
        self.runtime.machine = self
        self.routing_failure = 0.0
        self.skew_ns = int(self.random.uniform(-1, 1) * cluster.skew_s * 1e9)
        self.manager: Manager | None = None
        self.agent: Agent | None = None
        self.plane: SimDataPlane | None = None
        self.loses_power = 0.0
        """How likely a crash is one of the machine, not of the daemon alone."""
        self._daemon: asyncio.Task[None] | None = None
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
            self.runtime.power_off()
        if self.random.random() < FORGETS:
            self.local.remembered = Remembered()

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
        clock = SimClock(host.net.loop, self.skew_ns)
        async with asyncio.TaskGroup() as group:
            if self.raft_id:
                self.manager = self._new_manager(host, clock)
                group.create_task(self.manager.run())
            if self.has_agent:
                self.agent = self._new_agent(host, clock)
                group.create_task(self.agent.run())

    def _new_manager(self, host: Host, clock: SimClock) -> Manager:
        manager = Manager(
            node_id=host.node_id,
            cluster_id=ClusterId(host.cluster_id),
            raft_id=self.raft_id,
            address=host.address,
            ca_pem=b"",
            storage=self.disk,
            dialer=host.dialer,
            router=host.router,
            clock=clock,
            random=self.random,
            config=self.cluster.raft,
        )
        self.cluster.laws.observe(manager, self.raft_id)
        manager.raft.subscribe(
            lambda status: self.cluster.laws.led(status.term, self.raft_id) if status.is_leader else None
        )
        return manager

    def _new_agent(self, host: Host, clock: SimClock) -> Agent:
        self.plane = SimDataPlane(self, self.random)
        return Agent(
            node_id=host.node_id,
            address=host.address.rsplit(":", 1)[0],
            role=Role.MANAGER if self.raft_id else Role.WORKER,
            dialer=host.dialer,
            runtime=self.runtime,
            data_plane=self.plane,
            local=self.local,
            clock=clock,
            random=self.random,
            seeds=lambda: [machine.host.address for machine in self.cluster.managers],
            on_role_change=lambda role: self.cluster.laws.fail(f"{self.name} is told to be a {role}"),
        )


class Cluster:
    """Three managers and three agents, on three machines or on six."""

    epoch_ns = EPOCH_NS

    def __init__(self, loop: SimLoop, *, together: bool | None = None) -> None:
        self.net = SimNetwork(loop)
        random = loop.random
        self.raft = RaftConfig(snapshot_interval=random.choice((50, 10_000)), log_entries_for_slow_followers=10)
        self.skew_s = random.choice((0.0, 1.0))
        """The most that the wall clock of a machine is off."""
        together = random.random() < 0.5 if together is None else together
        self.machines: dict[str, Machine] = {}
        self.laws = ClusterLaws(self)
        for n in range(1, 4):
            self._add(Machine(self, f"m{n}", f"10.0.0.{n}:2377", raft_id=n, has_agent=together))
        for n in range(1, 1 if together else 4):
            self._add(Machine(self, f"w{n}", f"10.0.1.{n}:2377", has_agent=True))

    def _add(self, machine: Machine) -> None:
        self.machines[machine.name] = machine

    @property
    def managers(self) -> list[Machine]:
        """The machines with a manager."""
        return [machine for machine in self.machines.values() if machine.raft_id]

    @property
    def agents(self) -> list[Machine]:
        """The machines with an agent."""
        return [machine for machine in self.machines.values() if machine.has_agent]

    @property
    def disks(self) -> dict[str, SimDisk]:
        """The disks that hold a log."""
        return {machine.name: machine.disk for machine in self.managers}

    async def start(self) -> None:
        """Switch everything on, and found the cluster."""
        members = tuple(Member(raft_id=m.raft_id, node_id=m.name, address=m.host.address) for m in self.managers)
        snapshot = Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=ConfState(voters=members))
        for machine in self.managers:
            await machine.disk.save_snapshot(snapshot, BOOTSTRAP_INDEX + 1)
            await machine.disk.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
        for machine in self.machines.values():
            machine.host.boot(machine.main)
        await (await self.wait_leader()).store.update(self._found)
        await self.wait_for(lambda: all(m.agent is not None and m.agent.manager for m in self.agents), 20)

    def _found(self, tx: Tx) -> None:
        root = RootCA(cert_pem=b"", key_pem=b"", cert_digest="")
        tx.create(ClusterObject(id=ClusterId("c"), root_ca=root, join_tokens=JoinTokens(worker="w", manager="m")))
        for machine in self.machines.values():
            role = machine.host.role or Role.WORKER
            manager = ManagerStatus(raft_id=machine.raft_id, address=machine.host.address) if machine.raft_id else None
            tx.create(Node(id=NodeId(machine.name), spec=NodeSpec(role=role), role=role, manager=manager))

    # -- who leads ----------------------------------------------------------------------------------------------------

    def leader(self) -> Manager | None:
        """The manager that thinks it leads, of the highest term."""
        leading = [machine.manager for machine in self.managers if machine.is_leader and machine.manager is not None]
        return max(leading, key=lambda manager: manager.raft_status().term, default=None)

    async def wait_leader(self, timeout: float = 30.0) -> Manager:
        """Wait until somebody leads."""
        async with asyncio.timeout(timeout):
            while True:
                leader = self.leader()
                if leader is not None:
                    return leader
                await asyncio.sleep(0.02)

    async def wait_for(self, condition: object, timeout: float) -> None:
        """Wait until ``condition()`` is true."""
        assert callable(condition)
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.05)

    # -- all is well --------------------------------------------------------------------------------------------------

    async def settle(self, timeout: float) -> Manager:
        """Wait until all is as its users want it; returns the leader."""
        deadline = self.net.loop.time() + timeout
        while True:
            leader = self.leader()
            unsettled = self.unsettled(leader) if leader is not None else "nobody leads"
            if leader is not None and not unsettled:
                return leader
            if self.net.loop.time() > deadline:
                raise AssertionError(f"after {timeout:g} s of peace: {unsettled}{self._listing(leader)}")
            await asyncio.sleep(0.1)

    def _listing(self, leader: Manager | None) -> str:
        if leader is None:
            return ""
        lines = []
        for service in leader.store.view().services():
            lines.append(f"{service.id} {service.spec.name} {service.update_status}")
            for task in leader.store.view().tasks_of_service(service.id):
                lines.append(
                    f"  {task.name} on {task.node_id}: {task.status.state.name}, desired {task.desired_state.name}, "
                    f"spec {task.spec_version}, {task.spec.container.image}: {task.status.message} {task.status.err}"
                )
        for node in leader.store.view().nodes():
            lines.append(f"{node.id} {node.status.state} {node.spec.availability} {node.status.message}")
        return "\n" + "\n".join(lines)

    def unsettled(self, leader: Manager) -> str:
        """What is not yet as it should be, or ""."""
        view = leader.store.view()
        for machine in self.managers:
            if machine.manager is None or machine.manager.store.version != leader.store.version:
                return f"{machine.name} lags behind"
        for service in view.services():
            if problem := _unsettled_service(view, service):
                return f"service {service.spec.name} {problem}"
        table = ingress_table(view)
        for node in view.nodes():
            if not self.machines[node.id].has_agent and node.status.state is not NodeState.DOWN:
                return f"{node.id}, where no agent is, is not down"
        for machine in self.agents:
            if problem := self._unsettled_agent(view, machine, leader, table):
                return f"{machine.name} {problem}"
        return ""

    def _unsettled_agent(self, view: View, machine: Machine, leader: Manager, table: Ports) -> str:
        agent, plane, node = machine.agent, machine.plane, view.node(machine.name)
        if agent is None or plane is None or node is None or agent.manager != leader.address:
            return "has no session with the leader"
        if node.status.state is not NodeState.READY or node.status.message or agent.problems():
            return f"is {node.status.state} with {agent.problems()}, its node says {node.status.message!r}"
        tasks = view.tasks_on_node(machine.name)
        wanted = {task.id for task in tasks if task.status.state is TaskState.RUNNING}
        running = set(machine.runtime.running_tasks())
        strangers = machine.runtime.known_tasks() - {task.id for task in tasks}
        if running != wanted or strangers:
            return f"runs {sorted(running)} and not {sorted(wanted)}, with strangers {sorted(strangers)}"
        return "" if plane.in_force == table else f"routes by {plane.in_force}, not by {table}"


def _unsettled_service(view: View, service: Service) -> str:
    if service.pending_delete:
        return "is being removed"
    if service.update_status is not None and service.update_status.state in (
        UpdateState.UPDATING,
        UpdateState.ROLLBACK_STARTED,
    ):
        return "is being updated"
    running = 0
    for task in view.tasks_of_service(service.id):
        state, desired = task.status.state, task.desired_state
        if desired > TaskState.RUNNING:
            if not state.is_terminal:
                return f"has a task that does not end: {task.id}"
        elif desired < TaskState.RUNNING or state is not TaskState.RUNNING:
            return f"has a task that does not run: {task.id}"
        elif task.spec_version != service.spec_version and task.spec != service.spec.task:
            return f"has an outdated task: {task.id}"
        else:
            running += 1
    wanted = service.spec.desired_replicas
    if service.spec.mode is ServiceMode.GLOBAL:
        wanted = sum(
            node.status.state is NodeState.READY and node.spec.availability is Availability.ACTIVE
            for node in view.nodes()
        )
    return "" if running == wanted else f"has {running} tasks running and not {wanted}"


def calm(machine: Machine) -> None:
    """Runtime and data plane of the machine work."""
    machine.runtime.behaviour = CALM
    machine.runtime.set_away(False)
    machine.routing_failure = 0.0
