"""The world of a whole cluster whose services have secrets and configs, and whose operator gives these other data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import cluster_world
from cluster import Cluster
from cluster_operator import SECOND_NS, Operator
from film import Film
from knobs import Knobs
from loop import SimLoop

from swarmpy.control.versions import CONFIGS, FAMILIES, SECRETS, Family, Stored, behind, is_needed
from swarmpy.manager import secrets
from swarmpy.manager.credentials import credentials_of
from swarmpy.manager.manager import Manager
from swarmpy.manager.operations import create_service, update_service
from swarmpy.model.data_checks import GOLANG
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.objects import Config, Kind, Secret, Service
from swarmpy.model.references import references
from swarmpy.model.specs import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    RestartPolicy,
    SecretReference,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import UpdateState
from swarmpy.store.view import View
from swarmpy.store.watch import Event

MAX_NAMES = 2


async def play(loop: SimLoop, knobs: Knobs, film: Film) -> None:
    """As in the world of a cluster; in most universes services follow one by one."""
    moved_at_once = secrets.MOVED_AT_ONCE
    secrets.MOVED_AT_ONCE = loop.random.choice((1, 1, moved_at_once))
    try:
        await cluster_world.play(loop, knobs, film, operator=SecretsOperator)
    finally:
        secrets.MOVED_AT_ONCE = moved_at_once


class SecretsOperator(Operator):
    """Asks for secrets, configs, new versions of them, and services that have them, too."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        cluster.also_unsettled = unsettled
        cluster.laws.also = VersionLaws(cluster.laws.fail, partial(cluster.film.checked, "versions")).check

    def actions(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """See ``Operator``."""
        new = [self._create_data, self._create_referring, self._create_referring]
        versions = [self._new_version, self._new_version, self._new_version]
        back = [self._go_back, self._go_back, self._relabel, self._relabel, self._relabel]
        return [*new, *versions, *back, self._give_credentials, self._remove_data, *super().actions()]

    def first(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """See ``Operator``."""
        return [
            self._create_secret,
            self._create_data,
            self._create_referring,
            self._create_referring,
            self._new_version,
        ]

    def _data(self, target: str) -> bytes:
        """Other data each time, from which a task makes what it has at ``target``: whose file it is."""
        self._last += 1
        return f"{target} of {{{{.Task.ID}}}}{{{{/* {self._last} */}}}}".encode()

    async def _create_data(self, leader: Manager) -> None:
        await self._one((self._create_secret, self._create_config))(leader)

    async def _create_secret(self, leader: Manager) -> None:
        name = f"d{self._random.randrange(MAX_NAMES)}"
        self._tell(f"create secret {name}")
        spec = SecretSpec(name=name, data=self._data(name), templating=GOLANG)
        await secrets.create(leader.store, SECRETS, spec, leader.new_id)

    async def _create_config(self, leader: Manager) -> None:
        name = f"d{self._random.randrange(MAX_NAMES)}"
        self._tell(f"create config {name}")
        spec = ConfigSpec(name=name, data=self._data(_config_target(name)), templating=GOLANG)
        await secrets.create(leader.store, CONFIGS, spec, leader.new_id)

    async def _create_referring(self, leader: Manager) -> None:
        view = leader.store.view()
        if len(view.services()) > 5 or not secrets.named(view, SECRETS):
            return
        self._last += 1
        container = ContainerSpec(
            image=self._image(),
            stop_grace_period_ns=SECOND_NS,
            secrets=tuple(
                SecretReference(secret_id=SecretId(s.id), secret_name=s.spec.name, file=FileTarget(name=s.spec.name))
                for s in secrets.named(view, SECRETS)
            ),
            configs=tuple(
                ConfigReference(config_id=ConfigId(c.id), config_name=c.spec.name, file=_config_file(c))
                for c in secrets.named(view, CONFIGS)
            ),
        )
        change = UpdateConfig(monitor_ns=SECOND_NS // 2, failure_action=self._one(("continue", "rollback", "rollback")))
        spec = ServiceSpec(
            name=f"r{self._last}",
            task=TaskSpec(container=container, restart=RestartPolicy(delay_ns=SECOND_NS // 10)),
            replicas=self._random.randrange(3),
            update=change,
            rollback=UpdateConfig(monitor_ns=SECOND_NS // 2, failure_action="continue"),
        )
        self._tell(f"create {spec.name} with {len(container.secrets)} secrets and {len(container.configs)} configs")
        await create_service(leader.store, spec, leader.new_id, registry_auth=self._data(spec.name))

    def _some(self, leader: Manager) -> tuple[Family, Stored] | None:
        view = leader.store.view()
        found = [(family, obj) for family in (SECRETS, CONFIGS) for obj in secrets.named(view, family)]
        return self._one(found) if found else None

    async def _new_version(self, leader: Manager) -> None:
        if (some := self._some(leader)) is not None:
            family, obj = some
            self._tell(f"other data for {family.word} {obj.spec.name}, which is version {obj.number}")
            target = obj.spec.name if family is SECRETS else _config_target(obj.spec.name)
            await secrets.new_version(leader.store, family, obj.spec.name, self._data(target), leader.new_id)

    async def _go_back(self, leader: Manager) -> None:
        """A service that has followed lately goes back to the version before."""
        services = [s for s in leader.store.view().services() if not s.pending_delete and _has_followed(s)]
        if services:
            service = self._one(services)
            self._tell(f"take {service.spec.name} back")
            await update_service(leader.store, service.id, service.meta.version, None, rollback=True)

    async def _remove_data(self, leader: Manager) -> None:
        if (some := self._some(leader)) is not None:
            self._tell(f"remove {some[0].word} {some[1].spec.name}")
            await secrets.remove(leader.store, some[0], some[1].spec.name)

    async def _relabel(self, leader: Manager) -> None:
        if (some := self._some(leader)) is not None:
            family, obj = some
            self._tell(f"label {family.word} {obj.spec.name}")
            self._last += 1
            await secrets.update_labels(
                leader.store,
                family,
                obj.id,
                obj.meta.version,
                name=obj.spec.name,
                labels={"touched": str(self._last)},
                data=None,
            )

    async def _give_credentials(self, leader: Manager) -> None:
        service = self._service(leader)
        if service is not None:
            self._tell(f"other credentials for {service.spec.name}")
            credentials = credentials_of(self._data(service.spec.name), leader.new_id)
            await update_service(leader.store, service.id, service.meta.version, service.spec, credentials=credentials)


def _config_target(name: str) -> str:
    return f"/etc/{name}"


def _config_file(config: Stored) -> FileTarget:
    return FileTarget(name=_config_target(config.spec.name))


def unsettled(view: View) -> str:
    """What is not yet as it should be with secrets and configs, or ""."""
    for family in FAMILIES.values():
        for obj in family.all(view):
            if not is_needed(view, obj):
                return f"{family.word} {obj.spec.name or obj.id}: version {obj.number} is there, and nobody needs it"
            if obj.spec.name and (late := behind(view, family, obj.spec.name)):
                return f"service {late[0].spec.name} has not followed to {family.word} {obj.spec.name}"
    return ""


class VersionLaws:
    """What must hold of versions whenever an entry is applied."""

    def __init__(self, fail: Callable[[str], None], checked: Callable[[], None]) -> None:
        self._fail = fail
        self._checked = checked
        self._followed: set[tuple[str, str]] = set()
        """The services and versions for which one has followed to the other."""

    def check(self, view: View, events: list[Event]) -> None:
        """Look at what an entry has changed."""
        for event in events:
            new, old = event.object, event.old
            if isinstance(new, Service):
                self._check_service(view, new, old if isinstance(old, Service) else None)
            elif new is None and isinstance(old, Secret | Config):
                self._check_removed(view, event.kind, old)
            elif isinstance(new, Secret | Config) and isinstance(old, Secret | Config) and _fixed(new) != _fixed(old):
                self._fail(f"{event.kind} {new.id} is edited")
        self._checked()

    def _check_service(self, view: View, new: Service, old: Service | None) -> None:
        ids = references(new.spec.task)
        before = () if old is None else references(old.spec.task)
        if ids == before or new.pending_delete:
            return
        for object_id in ids:
            found = view.secret(object_id) or view.config(object_id)
            if found is None:
                self._fail(f"service {new.spec.name} is given {object_id}, which is not there")
            elif object_id not in before and old is not None and not _goes_back(new) and found.spec.name:
                self._check_followed(view, new, found)

    def _check_followed(self, view: View, service: Service, version: Stored) -> None:
        family = FAMILIES[Kind.SECRET if isinstance(version, Secret) else Kind.CONFIG]
        latest = family.latest(view, version.spec.name)
        if latest is None or latest.id != version.id:
            self._fail(f"service {service.spec.name} follows to {version.id}, which is not the latest")
        if (service.id, version.id) in self._followed:
            self._fail(f"service {service.spec.name} went back from {version.id}, and follows to it again")
        self._followed.add((service.id, version.id))
        if service.previous_spec is None or version.id in references(service.previous_spec.task):
            self._fail(f"service {service.spec.name} follows to {version.id} and cannot go back")

    def _check_removed(self, view: View, kind: Kind, old: Stored) -> None:
        users = [s for s in view.services() if not s.pending_delete and old.id in references(s.spec.task)]
        if users:
            self._fail(f"{kind} {old.id} is removed, and service {users[0].spec.name} refers to it")
        is_left = not old.spec.name or FAMILIES[kind].latest(view, old.spec.name) is not None
        if is_left and (view.services_referring(old.id) or view.tasks_referring(old.id)):
            self._fail(f"{kind} {old.id} is removed by nobody, and something refers to it")


def _fixed(version: Stored) -> tuple[object, ...]:
    return version.spec.name, version.spec.data, version.number, version.made_at


def _has_followed(service: Service) -> bool:
    previous = service.previous_spec
    return previous is not None and references(previous.task) != references(service.spec.task)


def _goes_back(service: Service) -> bool:
    status = service.update_status
    return status is not None and status.state is UpdateState.ROLLBACK_STARTED
