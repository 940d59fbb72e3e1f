"""``swarmpy service create``, ``update`` and ``rollback``: a spec is made or changed, and its tasks are waited for."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.data_client import DataClient
from swarmpy.cli.deploy import change
from swarmpy.cli.pinning import ImagePins
from swarmpy.cli.progress import SilentView, make_view, unfinished, wait_for_services
from swarmpy.cli.registry_auth import read_docker_config
from swarmpy.cli.settings import SECONDS, Settings
from swarmpy.cli.spec_container import CONTAINER
from swarmpy.cli.spec_options import Json, SpecCommand, field_at
from swarmpy.cli.spec_table import TABLE
from swarmpy.compose import shortforms
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.images import pinned
from swarmpy.model.networks import PREDEFINED, networks_warning

TIMEOUT_S = 300.0


@attrs.frozen(kw_only=True)
class Waiting:
    """How a command waits for the tasks of a service."""

    is_detached: bool
    is_quiet: bool
    timeout: float

    async def until_there(
        self, client: ApiClient, service_id: str, before: Mapping[str, Any] | None, *, is_rollback: bool = False
    ) -> None:
        """Shows how far the service has come, until it has. Raises as :func:`wait_for_services`."""
        if self.is_detached:
            return
        view = SilentView() if self.is_quiet else make_view()
        with unfinished('It goes on without you: "swarmpy service ls" shows how far it is.'):
            await wait_for_services(
                client, {service_id: before}, view=view, timeout=self.timeout, is_rollback=is_rollback
            )


def _waiting_options() -> list[click.Parameter]:
    return [
        click.Option(["-d", "--detach"], is_flag=True, help="Do not wait until the tasks run."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Wait, and show no progress."),
        click.Option(["--timeout"], type=SECONDS, default=TIMEOUT_S, show_default=True, help="Seconds to wait."),
    ]


def _auth_option() -> click.Option:
    text = "Send the registry's credentials of the docker command to the cluster."
    return click.Option(["--with-registry-auth"], is_flag=True, help=text)


def _no_resolve_option() -> click.Option:
    text = "Do not ask the image's registry for the digest that its tag stands for."
    return click.Option(["--no-resolve-image"], is_flag=True, help=text)


def _spec_options(*, is_new: bool) -> list[click.Parameter]:
    return [parameter for row in TABLE for parameter in row.parameters(is_new=is_new)]


def apply(spec: Json, given: Mapping[str, Any]) -> Json:
    """``spec`` with what the options of the command line ask for. Raises InvalidArgument, UsageError."""
    health = [name for name, value in given.items() if name.startswith("health_") and value is not None]
    if given.get("no_healthcheck") and health:
        raise click.UsageError(f"--no-healthcheck and --{health[0].replace('_', '-')} exclude each other")
    changed = copy.deepcopy(spec)
    for row in TABLE:
        for text in row.apply(changed, given):
            click.echo(text, err=True)
    _warn_of_networks(changed, given)
    return changed


def _warn_of_networks(spec: Json, given: Mapping[str, Any]) -> None:
    if given.get("network") or given.get("network_add"):
        attached = [str(item.get("Target", "")) for item in spec["TaskTemplate"].get("Networks") or ()]
        if missing := [name for name in attached if name not in PREDEFINED]:
            click.echo(networks_warning(missing), err=True)


async def resolve(client: ApiClient, spec: Json) -> None:
    """Gives the references to secrets and configs that only have a name their ids. Raises NotFound."""
    container = field_at(spec, CONTAINER)["ContainerSpec"]
    for word in ("secret", "config"):
        title = word.capitalize()
        for reference in container.get(f"{title}s") or ():
            if not reference.get(f"{title}ID"):
                reference[f"{title}ID"] = await _data_id(client, word, reference[f"{title}Name"])


async def _data_id(client: ApiClient, word: str, name: str) -> str:
    for item in await DataClient(client, word).list({"names": [name]}):
        return str(item["ID"])
    raise NotFound(f'{word} not found: {name}: create it first, with "swarmpy {word} create"')


async def _registry_auth(given: Mapping[str, Any], spec: Json) -> str | None:
    if not given.get("with_registry_auth"):
        return None
    return await read_docker_config(os.environ).header(str(field_at(spec, (*CONTAINER, "Image")).get("Image", "")))


async def pin(client: ApiClient, spec: Json, given: Mapping[str, Any], auth: str | None) -> None:
    """Puts what the image's registry says of it into the spec: its digest, and the platforms that it exists for."""
    template = field_at(spec, CONTAINER)
    container = template["ContainerSpec"]
    # Platforms of an image before say nothing of this one.
    (template.get("Placement") or {}).pop("Platforms", None)
    how = "never" if given.get("no_resolve_image") else "always"
    found = await ImagePins(client, how, lambda text: click.echo(text, err=True)).find(container["Image"], auth)
    if found is not None:
        container["Image"] = pinned(container["Image"], found.digest)
        platforms = [{"Architecture": p.architecture, "OS": p.os} for p in found.placement]
        template["Placement"] = {**(template.get("Placement") or {}), "Platforms": platforms}


def _run(work: Callable[[ApiClient], Any]) -> None:
    settings = click.get_current_context().find_object(Settings)
    assert settings is not None, "the top group makes the settings"

    async def connected() -> None:
        async with ApiClient(settings.endpoint) as client:
            await work(client)

    asyncio.run(connected())


def _waiting(given: Mapping[str, Any]) -> Waiting:
    return Waiting(is_detached=given["detach"], is_quiet=given["quiet"], timeout=given["timeout"])


# -- create -----------------------------------------------------------------------------------------------------------


def _create(image: str, command: tuple[str, ...], **given: Any) -> None:
    """Create a service of IMAGE, whose tasks run COMMAND.

    Waits until they run; Ctrl-C ends the waiting, not the service.
    """
    try:
        container: Json = {"Image": shortforms.image_reference(image)}
    except ValueError as error:
        raise InvalidArgument(str(error)) from error
    if command:
        container["Args"] = list(command)
    mode = {"Mode": {"Replicated": {"Replicas": 1}}}
    spec = apply({"Labels": {}, "TaskTemplate": {"ContainerSpec": container}, **mode}, given)

    async def work(client: ApiClient) -> None:
        await resolve(client, spec)
        auth = await _registry_auth(given, spec)
        await pin(client, spec, given, auth)
        service_id = await client.create_service(spec, registry_auth=auth)
        click.echo(service_id)
        await _waiting(given).until_there(client, service_id, None)

    _run(work)


create = SpecCommand(
    "create",
    callback=_create,
    help=_create.__doc__,
    context_settings={"allow_interspersed_args": False},
    params=[
        *_spec_options(is_new=True),
        _auth_option(),
        _no_resolve_option(),
        *_waiting_options(),
        click.Argument(["image"], metavar="IMAGE"),
        click.Argument(["command"], nargs=-1, metavar="[COMMAND]..."),
    ],
)


# -- update and rollback ----------------------------------------------------------------------------------------------


def _update(name: str, rollback: bool, **given: Any) -> None:
    """Change what is given of SERVICE; all else stays as it is.

    Waits until its tasks are what they should be; Ctrl-C ends the waiting, not the update.
    """
    waiting = _waiting(given)
    if rollback:
        others = [key for key, value in given.items() if key not in ("detach", "quiet", "timeout") and value]
        if others:
            raise click.UsageError(
                f"--rollback puts back the spec before: --{others[0].replace('_', '-')} has no place"
            )
        _run(lambda client: roll_back(client, name, waiting))
        return

    async def write(client: ApiClient, current: Json) -> None:
        spec = apply(current["Spec"], given)
        await resolve(client, spec)
        auth = await _registry_auth(given, spec)
        if given.get("image"):
            await pin(client, spec, given, auth)
        await client.update_service(current["ID"], current["Version"]["Index"], spec, registry_auth=auth)

    async def work(client: ApiClient) -> None:
        found = await change(lambda: client.service(name), lambda current: write(client, current))
        click.echo(name)
        await waiting.until_there(client, found["ID"], found.get("UpdateStatus") or {})

    _run(work)


async def roll_back(client: ApiClient, name: str, waiting: Waiting) -> None:
    """Puts the spec from before the last update back in force. Raises FailedPrecondition where there is none."""
    found = await change(
        lambda: client.service(name),
        lambda current: client.roll_back_service(current["ID"], current["Version"]["Index"]),
    )
    click.echo(name)
    await waiting.until_there(client, found["ID"], found.get("UpdateStatus") or {}, is_rollback=True)


def _rollback(name: str, **given: Any) -> None:
    """Put SERVICE back to what it was before its last update."""
    waiting = _waiting(given)
    _run(lambda client: roll_back(client, name, waiting))


update = SpecCommand(
    "update",
    callback=_update,
    help=_update.__doc__,
    params=[
        *_spec_options(is_new=False),
        click.Option(["--rollback"], is_flag=True, help="Put back the spec before; as swarmpy service rollback."),
        _auth_option(),
        _no_resolve_option(),
        *_waiting_options(),
        click.Argument(["name"], metavar="SERVICE"),
    ],
)

rollback = click.Command(
    "rollback",
    callback=_rollback,
    help=_rollback.__doc__,
    params=[*_waiting_options(), click.Argument(["name"], metavar="SERVICE")],
)
