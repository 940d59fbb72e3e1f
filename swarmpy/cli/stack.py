"""``swarmpy stack``: deploy, list, look into and remove stacks of services."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import click

from swarmpy.cli import listings
from swarmpy.cli.client import ApiClient
from swarmpy.cli.deploy import deploy_service, stack_services
from swarmpy.cli.listings import NAMESPACE_LABEL
from swarmpy.cli.pinning import CHOICES, ImagePins
from swarmpy.cli.progress import make_view, unfinished, wait_for_removal, wait_for_services
from swarmpy.cli.registry_auth import DockerConfig, read_docker_config
from swarmpy.cli.render import format_option, quiet_option, show, show_ids
from swarmpy.cli.settings import SECONDS, Settings, pass_settings
from swarmpy.cli.stack_data import deploy_data, remove_data, resolved, stack_data
from swarmpy.cli.task_table import show_tasks
from swarmpy.compose.convert import check_stack_name, convert
from swarmpy.compose.load import StackFile, load
from swarmpy.errors import NotFound

DEPLOY_TIMEOUT_S = 300.0
REMOVE_TIMEOUT_S = 120.0


@click.group()
def stack() -> None:
    """Deploy and manage stacks of services."""


@stack.command()
@click.option(
    "-c",
    "--compose-file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help='A stack file; "-" is standard input.  May be repeated, later ones over earlier.',
)
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the services run.")
@click.option("--prune", is_flag=True, help="Remove services of the stack that are not in the file any more.")
@click.option(
    "--with-registry-auth", is_flag=True, help="Send the registries' credentials of the docker command to the cluster."
)
@click.option(
    "--resolve-image",
    type=click.Choice(CHOICES),
    default="always",
    show_default=True,
    help="When to ask an image's registry for the digest that its tag stands for.",
)
@click.option("--timeout", type=SECONDS, default=DEPLOY_TIMEOUT_S, show_default=True, help="Seconds.")
@click.argument("name")
@pass_settings
def deploy(
    settings: Settings,
    files: tuple[str, ...],
    detach: bool,
    prune: bool,
    with_registry_auth: bool,
    resolve_image: str,
    timeout: float,
    name: str,
) -> None:
    """Create or update the stack NAME from a compose file.

    Waits until all its services run; Ctrl-C ends the waiting, not the deployment.
    """
    stack_file = load_stack([Path(file) for file in files], name)
    for warning in stack_file.warnings:
        click.echo(warning, err=True)
    docker = read_docker_config(os.environ) if with_registry_auth else None

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            with unfinished(f'The deployment goes on without you: "swarmpy stack ps {name}" shows how far it is.'):
                await deploy_stack(
                    client,
                    stack_file,
                    name,
                    prune=prune,
                    detach=detach,
                    timeout=timeout,
                    docker=docker,
                    resolve_image=resolve_image,
                )

    asyncio.run(work())


def load_stack(files: Sequence[Path], name: str) -> StackFile:
    """What stack files ask for under the name ``name``, with this process's environment.

    Raises ComposeError, and InvalidArgument for a name that cannot be one.
    """
    check_stack_name(name)
    return convert(load(files, os.environ), name)


async def deploy_stack(
    client: ApiClient,
    stack_file: StackFile,
    name: str,
    *,
    prune: bool = False,
    detach: bool = False,
    timeout: float = DEPLOY_TIMEOUT_S,
    docker: DockerConfig | None = None,
    resolve_image: str = "never",
) -> None:
    """Creates and updates all of a stack, and waits until its services run, for at most ``timeout`` seconds.

    ``docker``: where the credentials for the images' registries are; None: none are sent. ``resolve_image``: see
    ``pinning.CHOICES``.
    """
    images = {spec.task.container.image for spec in stack_file.services}
    auths = {image: await docker.header(image) for image in images} if docker else {}
    ids = await deploy_data(client, stack_file, click.echo)
    existing = await stack_services(client, name)
    kept = {spec.name for spec in stack_file.services}
    for service_name, service in existing.items() if prune else ():
        if service_name not in kept:
            click.echo(f"Removing service {service_name}")
            await client.remove_service(service["ID"])
    pins = ImagePins(client, resolve_image, lambda text: click.echo(text, err=True))
    specs = await pins.pin(stack_file.services, existing, auths)
    deployed = [
        await deploy_service(
            client,
            resolved(spec, ids),
            existing.get(spec.name),
            click.echo,
            registry_auth=auths.get(written.task.container.image),
        )
        for written, spec in zip(stack_file.services, specs, strict=True)
    ]
    if not detach:
        waited_for = {service.id: service.before for service in deployed}
        await wait_for_services(client, waited_for, view=make_view(), timeout=timeout)


@stack.command()
@format_option
@pass_settings
def ls(settings: Settings, output_format: str) -> None:
    """List stacks."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            show(listings.stacks_listing(await client.services(labels=(NAMESPACE_LABEL,))), output_format)

    asyncio.run(work())


@stack.command()
@format_option
@quiet_option
@click.argument("name")
@pass_settings
def services(settings: Settings, output_format: str, quiet: bool, name: str) -> None:
    """List the services of the stack NAME."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            found = await stack_services(client, name)
            if not found:
                click.echo(f"Nothing found in stack: {name}", err=True)
            elif quiet:
                show_ids(found.values())
            else:
                show(listings.services_listing(found.values()), output_format)

    asyncio.run(work())


@stack.command()
@format_option
@quiet_option
@click.option("--no-trunc", is_flag=True, help="Do not cut ids and errors.")
@click.argument("name")
@pass_settings
def ps(settings: Settings, output_format: str, quiet: bool, no_trunc: bool, name: str) -> None:
    """List the tasks of the stack NAME."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            tasks = await client.tasks(label=f"{NAMESPACE_LABEL}={name}")
            if not tasks:
                raise NotFound(f"Nothing found in stack: {name}")
            services = {} if quiet else await stack_services(client, name)
            names = {service["ID"]: key for key, service in services.items()}
            await show_tasks(client, tasks, names, output_format=output_format, quiet=quiet, no_trunc=no_trunc)

    asyncio.run(work())


@stack.command()
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the tasks have stopped.")
@click.option("--timeout", type=SECONDS, default=REMOVE_TIMEOUT_S, show_default=True, help="Seconds.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@pass_settings
def rm(settings: Settings, detach: bool, timeout: float, names: tuple[str, ...]) -> None:
    """Remove stacks."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            removed = [name for name in names if await _remove(client, name)]
            for name in () if detach else removed:
                await wait_for_removal(client, f"{NAMESPACE_LABEL}={name}", timeout=timeout)

    asyncio.run(work())


async def _remove(client: ApiClient, name: str) -> bool:
    found, data = await stack_services(client, name), await stack_data(client, name)
    if not found and not data:
        click.echo(f"Nothing found in stack: {name}", err=True)
        return False
    for service_name, service in found.items():
        click.echo(f"Removing service {service_name}")
        await client.remove_service(service["ID"])
    await remove_data(client, data, click.echo)
    return True
