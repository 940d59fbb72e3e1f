"""What happens to a whole cluster: its operator changes what should run, and everything that can break breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
from cluster import CALM, Cluster, Machine, calm
from faults import REPAIR_S, Nemesis

from swarmpy.errors import SwarmpyError
from swarmpy.manager.manager import Manager
from swarmpy.manager.operations import (
    create_service,
    live_services,
    remove_service,
    update_node,
    update_service,
)
from swarmpy.model.objects import Service
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    PortConfig,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import Availability, ServiceMode, UpdateState

T = TypeVar("T")

SECOND_NS = 1_000_000_000
GOOD = "web"
BAD = (
    "exit-after:2s",
    "crash-after:1s",
    "fail-to-start",
    "fail-to-prepare",
    "never-healthy:1s",
    "unhealthy-after:2s",
)
ODD = ("slow-start:1s", "ignores-stop")
MAX_SERVICES = 5
PAUSE_MEAN_S = 0.6
CLEAN_LOOKS = 3
CRASH_S = 4.0
"""A task that is to crash by chance does so within this time."""


class Operator:
    """Asks for changes at random, of whoever leads."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._random = cluster.net.loop.random
        self._last = 0
        self.story: list[str] = []
        """What was asked for and what came of it, a line each."""
        self.done = 0

    async def run(self) -> None:
        """Until cancelled."""
        actions: list[Callable[[Manager], Awaitable[None]]] = [
            self._create,
            self._scale,
            self._scale,
            self._update,
            self._update,
            self._roll_back,
            self._remove,
            self._set_availability,
        ]
        await self._try(self._create)
        while True:
            await self._try(self._one(actions))
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_MEAN_S))

    async def repair(self) -> None:
        """Ask for nothing that cannot be: good images, unpaused updates, and nodes that may take tasks."""
        clean = 0
        while clean < CLEAN_LOOKS:
            asked_for = len(self.story)
            await self._try(self._repair_all)
            # What was in flight when the trouble ended may still come.
            clean = clean + 1 if len(self.story) == asked_for else 0
            await asyncio.sleep(0.5)

    async def _try(self, action: Callable[[Manager], Awaitable[None]]) -> bool:
        leader = await self._cluster.wait_leader(60)
        try:
            await action(leader)
        except SwarmpyError as error:
            self._tell(f"  refused: {error!r}")
            return False
        self.done += 1
        return True

    def _tell(self, what: str) -> None:
        self.story.append(f"{self._cluster.net.loop.time():8.3f} {what}")

    def _one(self, choices: Sequence[T]) -> T:
        return choices[self._random.randrange(len(choices))]

    # -- services -----------------------------------------------------------------------------------------------------

    async def _create(self, leader: Manager) -> None:
        if len(live_services(leader.store.view())) >= MAX_SERVICES:
            return
        self._last += 1
        is_global = self._random.random() < 0.25
        seconds = self._one((0, 0, 1))
        change = UpdateConfig(
            parallelism=self._one((0, 1, 2)),
            delay_ns=seconds * SECOND_NS // 2,
            monitor_ns=SECOND_NS // 2,
            failure_action=self._one(("pause", "continue", "rollback")),
            order=self._one(("stop-first", "start-first")),
        )
        spec = ServiceSpec(
            name=f"s{self._last}",
            task=TaskSpec(
                container=ContainerSpec(image=self._image(), stop_grace_period_ns=SECOND_NS),
                restart=RestartPolicy(delay_ns=self._one((0, SECOND_NS // 10, SECOND_NS))),
            ),
            mode=ServiceMode.GLOBAL if is_global else ServiceMode.REPLICATED,
            replicas=None if is_global else self._random.randrange(5),
            update=change,
            rollback=attrs.evolve(change, failure_action=self._one(("pause", "continue"))),
            endpoint=self._endpoint(),
        )
        self._tell(f"create {spec.name} {spec.task.container.image} {spec.mode} {spec.replicas} {change.order}")
        await create_service(leader.store, spec, leader.new_id)

    def _image(self) -> str:
        self._last += 1
        kind = self._random.random()
        if kind < 0.6:
            return f"{GOOD}:v{self._last}"
        return self._one(BAD) if kind < 0.85 else self._one(ODD)

    def _endpoint(self) -> EndpointSpec | None:
        if self._random.random() < 0.2:
            return None
        published = self._one((0, 8001, 8002, 8003, 8004))
        return EndpointSpec(ports=(PortConfig(target_port=80, published_port=published),))

    def _service(self, leader: Manager) -> Service | None:
        services = live_services(leader.store.view())
        return self._one(services) if services else None

    async def _scale(self, leader: Manager) -> None:
        service = self._service(leader)
        if service is not None and service.spec.mode is ServiceMode.REPLICATED:
            replicas = self._random.randrange(7)
            self._tell(f"scale {service.spec.name} to {replicas}")
            await update_service(
                leader.store, service.id, service.meta.version, attrs.evolve(service.spec, replicas=replicas)
            )

    async def _update(self, leader: Manager) -> None:
        service = self._service(leader)
        if service is None:
            return
        spec = _with_image(service.spec, self._image())
        if self._random.random() < 0.2:
            spec = attrs.evolve(spec, endpoint=self._endpoint())
        self._tell(f"update {service.spec.name} to {spec.task.container.image}")
        await update_service(leader.store, service.id, service.meta.version, spec)

    async def _roll_back(self, leader: Manager) -> None:
        service = self._service(leader)
        if service is not None and service.previous_spec is not None:
            self._tell(f"roll {service.spec.name} back")
            await update_service(leader.store, service.id, service.meta.version, None, rollback=True)

    async def _remove(self, leader: Manager) -> None:
        service = self._service(leader)
        if service is not None:
            self._tell(f"remove {service.spec.name}")
            await remove_service(leader.store, service.id)

    async def _repair_all(self, leader: Manager) -> None:
        for service in live_services(leader.store.view()):
            paused = service.update_status is not None and service.update_status.state in (
                UpdateState.PAUSED,
                UpdateState.ROLLBACK_PAUSED,
            )
            bad = [service.spec.task.container.image, *(s.task.container.image for s in [service.previous_spec] if s)]
            if paused or any(image in BAD for image in bad):
                self._last += 1
                self._tell(f"repair {service.spec.name}")
                good = _with_image(service.spec, f"{GOOD}:v{self._last}")
                await update_service(leader.store, service.id, service.meta.version, good)
                repaired = leader.store.view().service(service.id)
                if repaired is not None:
                    # Twice: so that there is nothing bad to go back to either.
                    await update_service(leader.store, service.id, repaired.meta.version, good)
        for node in leader.store.view().nodes():
            is_first = node.id == self._cluster.agents[0].name
            if node.spec.availability is Availability.PAUSE or (
                is_first and node.spec.availability is Availability.DRAIN
            ):
                self._tell(f"{node.id} is to be active")
                spec = attrs.evolve(node.spec, availability=Availability.ACTIVE)
                await update_node(leader.store, node.id, node.meta.version, spec)

    # -- nodes --------------------------------------------------------------------------------------------------------

    async def _set_availability(self, leader: Manager) -> None:
        node = leader.store.view().node(self._one(self._cluster.agents).name)
        assert node is not None
        availability = self._one((Availability.ACTIVE, Availability.PAUSE, Availability.DRAIN))
        self._tell(f"{node.id} is to {availability}")
        spec = attrs.evolve(node.spec, availability=availability)
        await update_node(leader.store, node.id, node.meta.version, spec)


def _with_image(spec: ServiceSpec, image: str) -> ServiceSpec:
    return attrs.evolve(spec, task=attrs.evolve(spec.task, container=attrs.evolve(spec.task.container, image=image)))


class ClusterNemesis(Nemesis):
    """Beside what goes wrong among managers: leaders, daemons, engines and tasks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        super().__init__(cluster.net, cluster.disks)
        self._stopping: list[asyncio.Task[None]] = []
        # Long ones let nodes be given up, short ones only disturb.
        self.repair_s = (REPAIR_S, (0.5, 9.0))[self._random.randrange(2)]
        loses_power = (0.0, 0.5, 1.0)[self._random.randrange(3)]
        for machine in cluster.machines.values():
            machine.loses_power = loses_power

    def _kinds(self) -> list[Callable[[], None]]:
        return [
            *super()._kinds(),
            self._crash_one,
            self._crash_leader,
            self._isolate_leader,
            self._isolate_one,
            self._partition_two,
            self._stop_daemon,
            self._move_leader,
            self._fail_tasks,
            self._kill_task,
            self._engine_away,
            self._fail_routing,
        ]

    async def finish(self) -> None:
        """No more faults; return when nothing that was begun is still going on."""
        if self._stopping:
            await asyncio.wait(self._stopping)
        self.stop()
        for machine in self._cluster.machines.values():
            calm(machine)

    def _an_agent(self) -> Machine:
        return self._cluster.agents[self._random.randrange(len(self._cluster.agents))]

    def _leading(self) -> Machine | None:
        return next((machine for machine in self._cluster.managers if machine.is_leader), None)

    def _crash_leader(self) -> None:
        if (machine := self._leading()) is not None:
            self._crash(machine.host)

    def _isolate_leader(self) -> None:
        if (machine := self._leading()) is not None:
            self._tell(f"isolate the leader {machine.name}")
            self._net.isolate(machine.name)
            self._later(self._heal)

    def _stop_daemon(self) -> None:
        machine = self._cluster.machines[self._one().node_id]
        if machine.host.is_up:
            self._tell(f"stop {machine.name}")
            self._stopping.append(asyncio.create_task(self._stop(machine)))

    async def _stop(self, machine: Machine) -> None:
        await machine.stop()
        await asyncio.sleep(self._random.uniform(*self.repair_s))
        self._restart(machine.host)

    def _move_leader(self) -> None:
        if (machine := self._leading()) is not None:
            self._tell(f"move the leadership away from {machine.name}")
            self._stopping.append(asyncio.create_task(self._move(machine)))

    async def _move(self, machine: Machine) -> None:
        try:
            assert machine.manager is not None
            await machine.manager.raft.transfer_leadership(None, timeout=2.0)
        except SwarmpyError as error:
            self._tell(f"not moved: {error}")

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _fail_tasks(self) -> None:
        machine = self._an_agent()
        self._tell(f"tasks fail on {machine.name}")
        machine.runtime.behaviour = attrs.evolve(
            CALM,
            prepare_failure=self._random.uniform(0, 0.5),
            start_failure=self._random.uniform(0, 0.5),
            crash=self._random.uniform(0, 0.8),
            crash_seconds=(0.0, CRASH_S),
        )
        self._later(lambda: calm(machine))

    def _kill_task(self) -> None:
        machine = self._an_agent()
        running = machine.runtime.running_tasks()
        if running:
            task_id = running[self._random.randrange(len(running))]
            self._tell(f"kill task {task_id} on {machine.name}")
            machine.runtime.crash(task_id)

    def _engine_away(self) -> None:
        machine = self._an_agent()
        self._tell(f"the engine of {machine.name} is away")
        machine.runtime.set_away(True)
        self._later(lambda: calm(machine))

    def _fail_routing(self) -> None:
        machine = self._an_agent()
        self._tell(f"routing fails on {machine.name}")
        machine.routing_failure = 0.7
        self._later(lambda: calm(machine))
