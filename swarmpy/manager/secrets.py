"""What a user can ask of secrets and configs, as transactions on the leader's store (see ``manager.operations``).

What is said of secrets holds for configs: a :class:`~swarmpy.control.versions.Family` says which of both is meant.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import attrs

from swarmpy.control.versions import SECRETS, Family, Stored, behind, has_to_follow, is_latest, moved, services_using
from swarmpy.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, VersionConflict
from swarmpy.model import codec
from swarmpy.model.data_checks import (
    check_config,
    check_config_data,
    check_data_labels,
    check_secret,
    check_secret_data,
)
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.objects import Config, Meta, Secret, Service
from swarmpy.model.requests import RequestId
from swarmpy.model.specs import ConfigSpec, SecretSpec
from swarmpy.store.memory import MAX_ENTRY_BYTES, Store
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

Spec = SecretSpec | ConfigSpec

MOVED_AT_ONCE = 100
"""Services that follow in one entry: a few milliseconds of the loop."""
RESERVED_BYTES = 128 * 1024
"""Of an entry, for all that is in it beside data and services: labels, most of all."""


def named(view: View, family: Family) -> tuple[Stored, ...]:
    """The latest version of each name."""
    latest: dict[str, Stored] = {}
    for obj in family.all(view):
        name = obj.spec.name
        if name and (name not in latest or latest[name].number < obj.number):
            latest[name] = obj
    return tuple(latest.values())


def find(view: View, family: Family, reference: str) -> Stored:
    """The version of that id, else the latest of that name, else the latest one whose id starts so.

    Raises NotFound, InvalidArgument.
    """
    found = family.get(view, reference)
    if found is not None and found.spec.name:
        return found
    latest = family.latest(view, reference) if reference else None
    if latest is not None:
        return latest
    prefixed = [obj for obj in named(view, family) if reference and obj.id.startswith(reference)]
    if not prefixed:
        raise NotFound(f"{family.word} {reference} not found")
    if len(prefixed) > 1:
        raise InvalidArgument(f"{family.word} {reference} is ambiguous ({len(prefixed)} matches found)")
    return prefixed[0]


async def create(
    store: Store, family: Family, spec: Spec, new_id: Callable[[], str], *, request: RequestId | None = None
) -> str:
    """Create a secret; returns its id. Raises InvalidArgument, AlreadyExists."""
    if isinstance(spec, SecretSpec):
        check_secret(spec)
        made: Stored = Secret(id=SecretId(new_id()), spec=spec)
    else:
        check_config(spec)
        made = Config(id=ConfigId(new_id()), spec=spec)

    def make(tx: Tx) -> str:
        if family.latest(tx, spec.name) is not None:
            raise AlreadyExists(f"{family.word} {spec.name} already exists")
        tx.create(made)
        return made.id

    return await store.update(make, request=request)


async def update_labels(
    store: Store,
    family: Family,
    reference: str,
    version: int,
    *,
    name: str,
    labels: dict[str, str],
    data: bytes | None,
    request: RequestId | None = None,
) -> None:
    """Replace the labels of a secret. Its ``name`` and, where given, its ``data`` must be what they are.

    Raises NotFound, VersionConflict, InvalidArgument.
    """
    check_data_labels(labels, family.word)

    def update(tx: Tx) -> None:
        current = find(tx, family, reference)
        if current.meta.version != version:
            raise VersionConflict
        same_data = data is None or hmac.compare_digest(data, current.spec.data)
        if name != current.spec.name or not same_data:
            raise InvalidArgument("only updates to Labels are allowed")
        tx.update(_with_labels(current, labels))

    await store.update(update, request=request)


async def remove(store: Store, family: Family, reference: str, *, request: RequestId | None = None) -> None:
    """Remove a secret, with all its versions. Raises NotFound, FailedPrecondition (in use, or an earlier version)."""

    def drop(tx: Tx) -> None:
        found = find(tx, family, reference)
        if not is_latest(tx, found):
            raise FailedPrecondition(
                f"{family.word} '{found.spec.name}': {found.id} is its version {found.number}, which goes away by "
                f"itself when nothing refers to it any more; all versions are removed by the name"
            )
        versions = family.versions(tx, found.spec.name)
        names = [service.spec.name for service in services_using(tx, versions)]
        if names:
            raise FailedPrecondition(
                f"{family.word} '{found.spec.name}' is in use by the following "
                f"service{'s' if len(names) > 1 else ''}: {', '.join(names)}"
            )
        for version in versions:
            tx.delete(version)

    await store.update(drop, request=request)


# -- versions ---------------------------------------------------------------------------------------------------------


async def new_version(
    store: Store,
    family: Family,
    reference: str,
    data: bytes,
    new_id: Callable[[], str],
    *,
    labels: dict[str, str] | None = None,
    templating: str | None = None,
    request: RequestId | None = None,
) -> tuple[str, int]:
    """Give a secret other data: a version under the same name, to which the services that use it follow.

    Returns the version's id and number. Data that is what it is already makes no new version. As many services as go
    into one entry follow in it; for the others the leader's control loop sees to it (:mod:`manager.following`).
    ``labels`` and ``templating``: None for what they are. Raises NotFound, InvalidArgument.
    """
    (check_secret_data if family is SECRETS else check_config_data)(data)
    if labels is not None:
        check_data_labels(labels, family.word)
    version_id = new_id()

    def make(tx: Tx) -> list[str | int]:
        found = find(tx, family, reference)
        current = family.latest(tx, found.spec.name) or found
        wanted = current.spec.templating if templating is None else templating
        if hmac.compare_digest(data, current.spec.data) and wanted == current.spec.templating:
            if labels is not None and labels != current.spec.labels:
                tx.update(_with_labels(current, labels))
            return [current.id, current.number]
        version = _version(current, version_id, data, current.spec.labels if labels is None else labels, wanted)
        users = services_using(tx, family.versions(tx, current.spec.name))
        tx.create(version)
        _move(tx, family, version, users)
        return [version.id, version.number]

    made_id, number = await store.update(make, request=request)
    return str(made_id), int(number)


def _version(current: Stored, version_id: str, data: bytes, labels: dict[str, str], templating: str) -> Stored:
    new = {"meta": Meta(), "number": current.number + 1, "made_at": 0}
    if isinstance(current, Secret):
        spec = attrs.evolve(current.spec, data=data, labels=labels, templating=templating)
        check_secret(spec)
        return attrs.evolve(current, id=SecretId(version_id), spec=spec, **new)  # type: ignore[arg-type]
    config_spec = attrs.evolve(current.spec, data=data, labels=labels, templating=templating)
    check_config(config_spec)
    return attrs.evolve(current, id=ConfigId(version_id), spec=config_spec, **new)  # type: ignore[arg-type]


def _move(tx: Tx, family: Family, version: Stored, users: tuple[Service, ...]) -> None:
    """Have those of ``users`` that go into one entry with ``version`` follow to it."""
    earlier: dict[str, str] = {
        old.id: version.id for old in family.versions(tx, version.spec.name) if old.id != version.id
    }
    left = MAX_ENTRY_BYTES - RESERVED_BYTES - len(version.spec.data)
    for service in users[:MOVED_AT_ONCE]:
        following = moved(service, earlier)
        left -= _bytes_of(following)
        if left < 0:
            return
        tx.update(following)


async def follow(store: Store, family: Family, name: str) -> int:
    """Have some of the services that are behind follow to the latest version of ``name``; returns how many did."""

    def move(tx: Tx) -> int:
        count, left = 0, MAX_ENTRY_BYTES - RESERVED_BYTES
        for service in behind(tx, family, name)[:MOVED_AT_ONCE]:
            following = moved(service, has_to_follow(tx, service))
            left -= _bytes_of(following)
            if left < 0 and count:
                break
            tx.update(following)
            count += 1
        return count

    return await store.update(move)


def _bytes_of(service: Service) -> int:
    return len(codec.pack(codec.packable(service)))


def _with_labels(current: Stored, labels: dict[str, str]) -> Stored:
    if isinstance(current, Secret):
        return attrs.evolve(current, spec=attrs.evolve(current.spec, labels=labels))
    return attrs.evolve(current, spec=attrs.evolve(current.spec, labels=labels))
