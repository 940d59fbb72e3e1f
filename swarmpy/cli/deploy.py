"""Bringing services to what a stack file says: create, update or leave alone, one request each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from swarmpy.api.docker_json import service_spec_from_json, service_spec_to_json
from swarmpy.api.service_json import MAX_UNAVAILABLE
from swarmpy.cli.client import ApiClient
from swarmpy.cli.listings import NAMESPACE_LABEL, service_name
from swarmpy.errors import VersionConflict
from swarmpy.model.specs import EndpointSpec, ServiceSpec

Json = dict[str, Any]

UPDATE_ATTEMPTS = 8
"""The orchestrator writes to a service while it updates it, so that a version may be out of date when it is used."""
UPDATE_BACKOFF_S = 0.05


@attrs.frozen(kw_only=True)
class Deployed:
    """A service after it was created or updated."""

    id: str
    before: Mapping[str, Any] | None
    """Its UpdateStatus from before, None for a new service."""


async def deploy_service(
    client: ApiClient,
    spec: ServiceSpec,
    existing: Json | None,
    say: Callable[[str], None],
    *,
    registry_auth: str | None = None,
) -> Deployed:
    """Creates the service, or updates the ``existing`` one if it differs. Raises what the API raises.

    With ``registry_auth`` (see ``ApiClient.create_service``) it is sent in any case: what the service has is not shown.
    """
    if existing is None:
        say(f"Creating service {spec.name}")
        made = await client.create_service(service_spec_to_json(spec), registry_auth=registry_auth)
        return Deployed(id=made, before=None)
    service_id = str(existing["ID"])
    current = existing
    for attempt in range(UPDATE_ATTEMPTS):
        wanted = _keep_forced(spec, current)
        is_same = comparable(wanted) == comparable(service_spec_from_json(current["Spec"]))
        if attempt == 0:
            say(
                f"Service {spec.name} is up to date (id: {service_id})"
                if is_same
                else f"Updating service {spec.name} (id: {service_id})"
            )
        if is_same and registry_auth is None:
            break
        try:
            await client.update_service(
                service_id,
                int(current["Version"]["Index"]),
                # Left out it would stay: a stack file without it means none.
                {MAX_UNAVAILABLE: None, **service_spec_to_json(wanted)},
                registry_auth=registry_auth,
            )
            break
        except VersionConflict:
            if attempt == UPDATE_ATTEMPTS - 1:
                raise
            await asyncio.sleep(UPDATE_BACKOFF_S * 2**attempt)
            current = await client.service(service_id)
    return Deployed(id=service_id, before=existing.get("UpdateStatus") or {})


def _keep_forced(spec: ServiceSpec, existing: Json) -> ServiceSpec:
    """A stack file says nothing of the counter of forced updates; lowering it would replace every task."""
    forced = int(existing["Spec"].get("TaskTemplate", {}).get("ForceUpdate", 0))
    return attrs.evolve(spec, task=attrs.evolve(spec.task, force_update=forced))


def comparable(spec: ServiceSpec) -> ServiceSpec:
    """The spec as the API gives it back, so that two specs that mean the same are equal."""
    echoed = service_spec_from_json(service_spec_to_json(spec))
    return attrs.evolve(echoed, endpoint=echoed.endpoint or EndpointSpec())


async def stack_services(client: ApiClient, stack: str) -> dict[str, Json]:
    """The services of a stack by name."""
    services = await client.services(labels=(f"{NAMESPACE_LABEL}={stack}",))
    return {service_name(service): service for service in sorted(services, key=service_name)}


async def change(read: Callable[[], Any], write: Callable[[Json], Any], *, attempts: int = UPDATE_ATTEMPTS) -> Json:
    """Reads an object and writes it changed, again if somebody else wrote it meanwhile; returns the object as read."""
    for attempt in range(attempts - 1):
        current: Json = await read()
        try:
            await write(current)
            return current
        except VersionConflict:
            await asyncio.sleep(UPDATE_BACKOFF_S * 2**attempt)
    current = await read()
    await write(current)
    return current
