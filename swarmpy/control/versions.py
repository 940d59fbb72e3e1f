"""Secrets, configs and their versions: who follows to a new one, and which are needed no more.

A new version is an object of its own under the same name. The services that refer to an earlier one follow to it, once:
their specs are changed to refer to the new version, as by an update of their users, and they keep what they were for a
rollback. Whether a service still has to follow is seen by the log: if what its tasks are made from was changed after
the version was made, by a rollback or by its user, it stays as it is until there is the next version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.objects import Config, Kind, Secret, Service
from swarmpy.model.references import references
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec
from swarmpy.model.states import UpdateState
from swarmpy.store.view import View

Stored = Secret | Config


@attrs.frozen(kw_only=True)
class Family:
    """Secrets, or configs: how they are read."""

    kind: Kind
    get: Callable[[View, str], Stored | None]
    all: Callable[[View], tuple[Stored, ...]]
    versions: Callable[[View, str], tuple[Stored, ...]]
    """Those of a name, the latest at the end."""
    latest: Callable[[View, str], Stored | None]

    @property
    def word(self) -> str:
        """``secret`` or ``config``."""
        return str(self.kind)


SECRETS = Family(
    kind=Kind.SECRET,
    get=View.secret,
    all=View.secrets,
    versions=View.secret_versions,
    latest=View.secret_by_name,
)
CONFIGS = Family(
    kind=Kind.CONFIG,
    get=View.config,
    all=View.configs,
    versions=View.config_versions,
    latest=View.config_by_name,
)
FAMILIES: Mapping[Kind, Family] = {Kind.SECRET: SECRETS, Kind.CONFIG: CONFIGS}


def is_latest(view: View, obj: Stored) -> bool:
    """False for a version that a later one has superseded."""
    latest = FAMILIES[Kind.SECRET if isinstance(obj, Secret) else Kind.CONFIG].latest(view, obj.spec.name)
    return latest is not None and latest.id == obj.id


# -- what specs refer to ----------------------------------------------------------------------------------------------


def check_referred(view: View, spec: ServiceSpec, current: Service | None = None) -> None:
    """Raise InvalidArgument for a reference to what is not there, or not of that name, or superseded.

    What ``current`` refers to already may be superseded: clients send specs back as they have read them, and a service
    may have gone back to an earlier version.
    """
    container = spec.task.container
    _check_family(view, SECRETS, [(r.secret_id, r.secret_name) for r in container.secrets], _known(current, SECRETS))
    _check_family(view, CONFIGS, [(r.config_id, r.config_name) for r in container.configs], _known(current, CONFIGS))


def _known(service: Service | None, family: Family) -> frozenset[str]:
    specs = () if service is None else (service.spec, service.previous_spec)
    return frozenset(i for spec in specs if spec is not None for i in _ids(spec.task.container, family))


def _ids(container: ContainerSpec, family: Family) -> tuple[str, ...]:
    if family is SECRETS:
        return tuple(reference.secret_id for reference in container.secrets)
    return tuple(reference.config_id for reference in container.configs)


def _check_family(view: View, family: Family, referred: list[tuple[str, str]], known: frozenset[str]) -> None:
    missing = []
    for object_id, name in referred:
        found = family.get(view, object_id)
        if found is None or found.spec.name != name:
            missing.append(name)
    if missing:
        raise InvalidArgument(f"{family.word}{'s' if len(missing) > 1 else ''} not found: {', '.join(missing)}")
    for object_id, name in referred:
        found, latest = family.get(view, object_id), family.latest(view, name)
        if found is not None and latest is not None and found.id != latest.id and object_id not in known:
            raise InvalidArgument(
                f"{family.word} {name}: {object_id} is its version {found.number}, and version {latest.number} is the "
                f"latest: refer to {latest.id}"
            )


def missing_of(view: View, spec: TaskSpec) -> tuple[str, ...]:
    """The names of secrets and configs that tasks of ``spec`` would wait for in vain."""
    container = spec.container
    secrets = [r.secret_name for r in container.secrets if view.secret(r.secret_id) is None]
    return (*secrets, *(r.config_name for r in container.configs if view.config(r.config_id) is None))


def services_using(view: View, versions: Iterable[Stored]) -> tuple[Service, ...]:
    """The services whose specs refer to one of these, by name. Those that are being removed do not count."""
    found: dict[str, Service] = {}
    for version in versions:
        for service in view.services_referring(version.id):
            if not service.pending_delete and version.id in references(service.spec.task):
                found[service.id] = service
    return tuple(sorted(found.values(), key=lambda service: service.spec.name))


# -- following --------------------------------------------------------------------------------------------------------


def has_to_follow(view: View, service: Service) -> dict[str, str]:
    """The versions that the service refers to and should not, and for each the one to refer to instead."""
    container = service.spec.task.container
    found: dict[str, str] = {}
    for family in (SECRETS, CONFIGS):
        for object_id in _ids(container, family):
            version = family.get(view, object_id)
            latest = None if version is None else family.latest(view, version.spec.name)
            if latest is not None and latest.id != object_id and service.spec_version < latest.made_at:
                found[object_id] = latest.id
    return found


def moved(service: Service, to: Mapping[str, str]) -> Service:
    """The service once it is updated to refer to other versions."""
    spec = referring(service.spec, to)
    return attrs.evolve(service, spec=spec, previous_spec=way_back(service), update_status=None)


def way_back(service: Service) -> ServiceSpec:
    """The spec that a rollback of an update that begins now goes back to.

    That is the present one, unless the service is only just following to other versions and has not come there: who
    changes a secret and then a config, or the image, has made one change, and means to go back to what was before it.
    """
    status, previous = service.update_status, service.previous_spec
    is_under_way = status is None or status.state in (UpdateState.UPDATING, UpdateState.PAUSED)
    if previous is not None and is_under_way and _without_versions(previous) == _without_versions(service.spec):
        return previous
    return service.spec


def _without_versions(spec: ServiceSpec) -> ServiceSpec:
    return referring(spec, dict.fromkeys(references(spec.task), ""))


def referring(spec: ServiceSpec, to: Mapping[str, str]) -> ServiceSpec:
    """``spec`` with the ids that ``to`` has replaced by what it has for them."""
    container = spec.task.container
    secrets = tuple(
        attrs.evolve(r, secret_id=SecretId(to[r.secret_id])) if r.secret_id in to else r for r in container.secrets
    )
    configs = tuple(
        attrs.evolve(r, config_id=ConfigId(to[r.config_id])) if r.config_id in to else r for r in container.configs
    )
    container = attrs.evolve(container, secrets=secrets, configs=configs)
    return attrs.evolve(spec, task=attrs.evolve(spec.task, container=container))


def behind(view: View, family: Family, name: str) -> tuple[Service, ...]:
    """The services that still have to follow to the latest version of that name, by name."""
    earlier = family.versions(view, name)[:-1]
    return tuple(service for service in services_using(view, earlier) if has_to_follow(view, service))


# -- what is needed no more -------------------------------------------------------------------------------------------


def is_needed(view: View, obj: Stored) -> bool:
    """False for a superseded version, or credentials, that no service and no task refers to that is not over."""
    if obj.spec.name and is_latest(view, obj):
        return True
    return view.is_referred_to(obj.id)
