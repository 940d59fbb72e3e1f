"""A whole cluster for simulations: machines with the real manager and the real agent on them, and what is said to be
well of a cluster that nobody disturbs.

Only the edges are simulated: network, disks, runtime, data plane, clock. In some universes managers and agents share
their machines, in others not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping

import attrs
from cluster_laws import ClusterLaws
from cluster_machine import Machine
from disk import DiskOptions, SimDisk
from film import Film
from knobs import Knobs
from loop import SimLoop
from net import SimNetwork

from swarmpy.control.enforcer import misplaced
from swarmpy.control.explain import count_replicas, why_waiting
from swarmpy.errors import Unavailable
from swarmpy.manager.manager import Manager
from swarmpy.model import codec
from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.dependencies import has_files
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster as ClusterObject
from swarmpy.model.objects import JoinTokens, ManagerStatus, Node, RootCA, Service, Task
from swarmpy.model.references import references
from swarmpy.model.specs import NodeSpec, TaskSpec
from swarmpy.model.states import Availability, NodeState, Role, ServiceMode, TaskState, UpdateState
from swarmpy.network.endpoints import ingress_table
from swarmpy.raft.messages import ConfState, HardState, Member, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

AGENTS = 3
Ports = Mapping[PublishedPort, tuple[Endpoint, ...]]


class Cluster:
    """As many managers as the knobs say and at least three agents; three and three, on six machines, without knobs."""

    new_machine = Machine

    def __init__(self, loop: SimLoop, *, knobs: Knobs | None = None, film: Film | None = None) -> None:
        self.net = knobs.network(loop) if knobs else SimNetwork(loop)
        self.film = film or Film()
        self.raft = knobs.raft if knobs else RaftConfig(snapshot_interval=50, log_entries_for_slow_followers=10)
        self.disk_options = knobs.disk_options if knobs else DiskOptions
        together = knobs is not None and knobs.together
        managers = knobs.managers if knobs else 3
        self.machines: dict[str, Machine] = {}
        self.laws = ClusterLaws(self)
        for n in range(1, managers + 1):
            self._add(self.new_machine(self, f"m{n}", f"10.0.0.{n}:2377", raft_id=n, has_agent=together))
        for n in range(1, (max(0, AGENTS - managers) if together else AGENTS) + 1):
            self._add(self.new_machine(self, f"w{n}", f"10.0.1.{n}:2377", has_agent=True))

        self.also_unsettled: Callable[[View], str] = lambda _: ""
        """What else is not as it should be, or ""."""

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
        while (leader := await self.wait_leader()).store.cluster is None:
            # One that was elected a moment ago may be deposed by a candidate of the same moment.
            with contextlib.suppress(Unavailable):
                await leader.store.update(self._found)
        await self.wait_for(lambda: all(m.agent is not None and m.agent.manager for m in self.agents), 20)

    def _found(self, tx: Tx) -> None:
        tx.create(self.founded())
        for machine in self.machines.values():
            role = machine.host.role or Role.WORKER
            manager = ManagerStatus(raft_id=machine.raft_id, address=machine.host.address) if machine.raft_id else None
            tx.create(Node(id=NodeId(machine.name), spec=NodeSpec(role=role), role=role, manager=manager))

    def founded(self) -> ClusterObject:
        """What the cluster is at first."""
        root = RootCA(cert_pem=b"", key_pem=b"", cert_digest="")
        join_tokens = JoinTokens(worker="w", manager="m")
        return ClusterObject(id=ClusterId("c"), root_ca=root, join_tokens=join_tokens, schema=codec.SCHEMA_VERSION)

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

    async def settle(self, timeout: float, names: Collection[str] | None = None) -> Manager:
        """Wait until all is as its users want it, on these machines or on all; returns the leader."""
        deadline = self.net.loop.time() + timeout
        while True:
            leader = self.leader()
            unsettled = self.unsettled(leader, names) if leader is not None else "nobody leads"
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
            lines.append(f"{node.id} {node.status.state} {node.availability} {node.status.message}")
        return "\n" + "\n".join(lines)

    def unsettled(self, leader: Manager, names: Collection[str] | None = None) -> str:
        """What is not yet as it should be on these machines or on all, or ""."""
        view = leader.store.view()
        lost = set() if names is None else set(self.machines) - set(names)
        for machine in self.managers:
            if machine.name in lost:
                continue
            if machine.manager is None or machine.manager.store.version != leader.store.version:
                return f"{machine.name} lags behind"
        if problem := self.also_unsettled(view) or _unexplained(view) or _out_of_place(view, lost):
            return problem
        for service in view.services():
            if problem := _unsettled(view, service, lost):
                return f"service {service.spec.name} {problem}"
        table = ingress_table(view)
        for node in view.nodes():
            away = node.id in lost or not self.machines[node.id].has_agent
            if away and node.status.state is not NodeState.DOWN:
                return f"{node.id}, where no agent is in reach, is not down"
        for machine in self.agents:
            if machine.name in lost:
                continue
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
        with_secrets = {task.id for task in tasks if task.id in running and has_files(task)}
        if set(machine.runtime.files()) != with_secrets:
            return f"has secrets of {sorted(machine.runtime.files())} and not of {sorted(with_secrets)}"
        needed = {object_id for task in tasks if task.id in running for object_id in references(task.spec)}
        if not agent.held_dependencies <= needed:
            return f"holds secrets {sorted(agent.held_dependencies - needed)} that no task needs"
        return "" if plane.in_force == table else f"routes by {plane.in_force}, not by {table}"


def _unexplained(view: View) -> str:
    silent = next((task for task in view.tasks() if is_silent(view, task)), None)
    return "" if silent is None else f"task {silent.id} is {silent.status.state.name} and does not say why"


def _out_of_place(view: View, lost: Collection[str]) -> str:
    for node in view.nodes():
        if node.id not in lost and (found := misplaced(view, node)):
            return f"{node.id} has task {found[0][0].id}, for which it is no place: {found[0][1]}"
    return ""


def is_silent(view: View, task: Task) -> bool:
    """True for a task that is to run, does not, and does not say why: at rest there is none."""
    if not task.desired_state.is_wanted or task.status.state >= TaskState.RUNNING:
        return False
    return not (task.status.err or why_waiting(view, task))


def _unsettled(view: View, service: Service, lost: Collection[str]) -> str:
    if service.job is not None and not service.pending_delete:
        return _unsettled_job(view, service, lost)
    return _unsettled_service(view, service, lost)


def _unsettled_service(view: View, service: Service, lost: Collection[str]) -> str:
    tasks = [task for task in view.tasks_of_service(service.id) if task.node_id not in lost]
    if service.pending_delete:
        # Tasks that nobody can ask may run on, and the service waits for them.
        return "is being removed" if tasks or not lost else ""
    if service.update_status is not None and service.update_status.state in (
        UpdateState.UPDATING,
        UpdateState.ROLLBACK_STARTED,
    ):
        return "is being updated"
    running = 0
    for task in tasks:
        state, desired = task.status.state, task.desired_state
        if desired > TaskState.RUNNING:
            if not state.is_terminal:
                return f"has a task that does not end: {task.id}"
        elif desired < TaskState.RUNNING or state is not TaskState.RUNNING:
            return f"has a task that does not run: {task.id}"
        elif task.spec_version != service.spec_version and _wishes(task.spec) != _wishes(service.spec.task):
            return f"has an outdated task: {task.id}"
        else:
            running += 1
    wanted = service.spec.desired_replicas
    if service.spec.mode is ServiceMode.GLOBAL:
        wanted = sum(
            node.status.state is NodeState.READY and node.availability is Availability.ACTIVE for node in view.nodes()
        )
    return "" if running == wanted else f"has {running} tasks running and not {wanted}"


def _unsettled_job(view: View, service: Service, lost: Collection[str]) -> str:
    for task in view.tasks_of_service(service.id):
        if not task.status.state.is_terminal and task.node_id not in lost:
            return f"has a task that has not ended: {task.id}"
    replicas = count_replicas(view, service)
    return f"has {replicas.completed} completions, and {replicas.desired} tasks to run" if replicas.desired else ""


def _wishes(spec: TaskSpec) -> TaskSpec:
    """All but the credentials for a registry, as a task that runs has its image, and the place, which it has too."""
    return attrs.evolve(spec, container=attrs.evolve(spec.container, pull_secret_id=None), placement=None)
