"""The operator of a simulated cluster: asks for changes at random, of whoever leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import attrs
from cluster import Cluster

from swarmpy.control.versions import SECRETS
from swarmpy.errors import OutcomeUnknown, SwarmpyError
from swarmpy.manager import secrets
from swarmpy.manager.manager import Manager
from swarmpy.manager.operations import (
    create_service,
    live_services,
    remove_service,
    update_node,
    update_service,
)
from swarmpy.model.data_checks import GOLANG
from swarmpy.model.ids import SecretId
from swarmpy.model.objects import Service
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    FileTarget,
    MaxUnavailable,
    PortConfig,
    RestartPolicy,
    SecretReference,
    SecretSpec,
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
BOUNDS = (None, MaxUnavailable(amount=1), MaxUnavailable(amount=50, is_percentage=True), None, MaxUnavailable(amount=2))
DEADLINES_NS = (None, 5 * SECOND_NS, 10 * SECOND_NS)
MAX_SERVICES = 5
PAUSE_MEAN_S = 0.6
CLEAN_LOOKS = 3


class Operator:
    """Asks for changes until told to stop, and in the end for nothing that cannot be."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._random = cluster.net.loop.random
        self._last = 0
        self._asked = 0

    def actions(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """What it asks for, each as likely as the others."""
        return [
            self._create,
            self._scale,
            self._scale,
            self._update,
            self._update,
            self._roll_back,
            self._remove,
            self._set_availability,
        ]

    def first(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """What it asks for before anything else."""
        return [self._create]

    async def run(self) -> None:
        """Until cancelled."""
        actions = self.actions()
        for action in self.first():
            await self._try(action)
        while True:
            await self._try(self._one(actions))
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_MEAN_S))

    async def repair(self, names: Collection[str]) -> None:
        """Ask for nothing that cannot be: good images, unpaused updates, and a node of these that may take tasks."""
        clean = 0
        while clean < CLEAN_LOOKS:
            asked = self._asked
            await self._try(lambda leader: self._repair_all(leader, names))
            # What was in flight when the trouble ended may still come.
            clean = clean + 1 if self._asked == asked else 0
            await asyncio.sleep(0.5)

    async def write(self, timeout: float) -> None:
        """Change something, within so many seconds. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while not await self._try(self._touch):
                await asyncio.sleep(0.1)

    async def _try(self, action: Callable[[Manager], Awaitable[None]]) -> bool:
        film = self._cluster.film
        leader = await self._cluster.wait_leader(60)
        asked = self._asked
        try:
            await action(leader)
        except OutcomeUnknown as error:
            film.did("operator: unknown")
            film.tell("operator", f"does not know: {error}")
            return False
        except SwarmpyError as error:
            film.did("operator: refused")
            film.tell("operator", f"is refused: {error}")
            return False
        if self._asked != asked:
            film.did("operator: done")
        return True

    def _tell(self, what: str) -> None:
        self._asked += 1
        self._cluster.film.tell("operator", what)

    async def _touch(self, leader: Manager) -> None:
        node = leader.store.view().nodes()[0]
        self._last += 1
        self._tell(f"labels {node.id}")
        spec = attrs.evolve(node.spec, labels={"touched": str(self._last)})
        await update_node(leader.store, node.id, node.meta.version, spec)

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
            progress_deadline_ns=DEADLINES_NS[self._last % len(DEADLINES_NS)],
        )
        spec = ServiceSpec(
            name=f"s{self._last}",
            task=TaskSpec(
                container=ContainerSpec(
                    image=self._image(), stop_grace_period_ns=SECOND_NS, secrets=await self._secrets(leader)
                ),
                restart=RestartPolicy(delay_ns=self._one((0, SECOND_NS // 10, SECOND_NS))),
            ),
            mode=ServiceMode.GLOBAL if is_global else ServiceMode.REPLICATED,
            replicas=None if is_global else self._random.randrange(5),
            update=change,
            rollback=attrs.evolve(change, failure_action=self._one(("pause", "continue"))),
            endpoint=self._endpoint(),
            max_unavailable=BOUNDS[self._last % len(BOUNDS)],
        )
        self._tell(f"create {spec.name} {spec.task.container.image} {spec.mode} {spec.replicas} {change.order}")
        await create_service(leader.store, spec, leader.new_id)

    async def _secrets(self, leader: Manager) -> tuple[SecretReference, ...]:
        """For half of the services: a new secret and an older one, which tell the task that has them."""
        if self._random.random() < 0.5:
            return ()
        view = leader.store.view()
        self._last += 1
        name = f"secret{self._last}"
        spec = SecretSpec(name=name, data=f"{name} of {{{{.Task.ID}}}}".encode(), templating=GOLANG)
        new = await secrets.create(leader.store, SECRETS, spec, leader.new_id)
        older = secrets.named(view, SECRETS)
        chosen = {new: name, **({found.id: found.spec.name for found in [self._one(older)]} if older else {})}
        return tuple(
            SecretReference(secret_id=SecretId(i), secret_name=n, file=FileTarget(name=n)) for i, n in chosen.items()
        )

    def _image(self) -> str:
        self._last += 1
        kind = self._random.random()
        if kind < 0.6:
            return f"{GOOD}:v{self._last}"
        return self._one(BAD) if kind < 0.85 else self._one(ODD)

    def _endpoint(self) -> EndpointSpec | None:
        if self._random.random() < 0.2:
            return None
        if self._random.random() < 0.2:
            published = self._one((9001, 9002))
            return EndpointSpec(ports=(PortConfig(target_port=80, published_port=published, publish_mode="host"),))
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

    async def _repair_all(self, leader: Manager, names: Collection[str]) -> None:
        first = next(machine.name for machine in self._cluster.agents if machine.name in names)
        for service in live_services(leader.store.view()):
            if service.spec.mode.is_job:
                continue
            paused = service.update_status is not None and service.update_status.state in (
                UpdateState.PAUSED,
                UpdateState.ROLLBACK_PAUSED,
            )
            bad = [service.spec.task.container.image, *(s.task.container.image for s in [service.previous_spec] if s)]
            ports = service.spec.endpoint.ports if service.spec.endpoint else ()
            exclusive = any(port.publish_mode == "host" for port in ports)
            if paused or exclusive or any(image in BAD for image in bad):
                self._last += 1
                self._tell(f"repair {service.spec.name}")
                good = _with_image(service.spec, f"{GOOD}:v{self._last}")
                if exclusive:
                    # There may be more replicas than machines that have the port.
                    good = attrs.evolve(good, endpoint=None)
                await update_service(leader.store, service.id, service.meta.version, good)
                repaired = leader.store.view().service(service.id)
                if repaired is not None:
                    # Twice: so that there is nothing bad to go back to either.
                    await update_service(leader.store, service.id, repaired.meta.version, good)
        for node in leader.store.view().nodes():
            is_first = node.id == first
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
