"""Credentials for the registries of services' images: nameless secrets, each of which belongs to services only.

They come with a request, are stored beside the service in the same entry, and go with the last reference to them
(:mod:`manager.following`). Nothing shows them.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import attrs

from swarmpy.errors import FailedPrecondition
from swarmpy.model.ids import SecretId
from swarmpy.model.objects import Secret, Service
from swarmpy.model.specs import SecretSpec, ServiceSpec
from swarmpy.store.transaction import Tx


@attrs.frozen(kw_only=True)
class Credentials:
    """What a request says of the credentials of a service."""

    secret: Secret | None = None
    """New ones. None: those that the service has."""
    are_none: bool = False
    """The request says that there are none."""
    of_previous_spec: bool = False
    """Those that the service had before, instead of those that it has."""


def credentials_of(data: bytes, new_id: Callable[[], str]) -> Credentials:
    """The credentials that are ``data``, the JSON object of Docker's ``AuthConfig``; b"" for none."""
    if not data:
        return Credentials(are_none=True)
    return Credentials(secret=Secret(id=SecretId(new_id()), spec=SecretSpec(data=data)))


def with_credentials(tx: Tx, spec: ServiceSpec, credentials: Credentials, service: Service | None) -> ServiceSpec:
    """``spec`` with the credentials that it is to have, which are stored if they are new.

    Raises FailedPrecondition when those of the previous spec are asked for, and there is none.
    """
    pull_secret_id = _pull_secret_id(tx, credentials, service)
    if pull_secret_id == spec.task.container.pull_secret_id:
        return spec
    container = attrs.evolve(spec.task.container, pull_secret_id=pull_secret_id)
    return attrs.evolve(spec, task=attrs.evolve(spec.task, container=container))


def _pull_secret_id(tx: Tx, credentials: Credentials, service: Service | None) -> SecretId | None:
    if credentials.are_none:
        return None
    if credentials.secret is None:
        return None if service is None else _kept(credentials, service)
    current = None if service is None else service.spec.task.container.pull_secret_id
    known = None if current is None else tx.secret(current)
    if known is not None and hmac.compare_digest(known.spec.data, credentials.secret.spec.data):
        # Deployed again: nothing has changed, and nothing is to.
        return known.id
    tx.create(credentials.secret)
    return credentials.secret.id


def _kept(credentials: Credentials, service: Service) -> SecretId | None:
    if not credentials.of_previous_spec:
        return service.spec.task.container.pull_secret_id
    if service.previous_spec is None:
        raise FailedPrecondition(f"service {service.spec.name} does not have a previous spec")
    return service.previous_spec.task.container.pull_secret_id
