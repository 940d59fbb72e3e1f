"""``swarmpy service``: list, look into, read the logs of, scale and remove services.

To create and change them is in :mod:`swarmpy.cli.service_change`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from swarmpy.cli import listings
from swarmpy.cli.client import ApiClient
from swarmpy.cli.deploy import change
from swarmpy.cli.lazy import LazyGroup
from swarmpy.cli.logs import LogsWanted, log_options, print_logs
from swarmpy.cli.progress import make_view, unfinished, wait_for_services
from swarmpy.cli.render import format_option, quiet_option, show, show_ids, show_json
from swarmpy.cli.service_pretty import pretty
from swarmpy.cli.settings import SECONDS, Settings, pass_settings
from swarmpy.cli.task_table import show_tasks
from swarmpy.control.validate import MAX_REPLICAS
from swarmpy.errors import InvalidArgument

SCALE_TIMEOUT_S = 300.0


_LAZY = {
    "create": ("swarmpy.cli.service_change:create", "Create a service"),
    "update": ("swarmpy.cli.service_change:update", "Change a service"),
    "rollback": ("swarmpy.cli.service_change:rollback", "Put a service back to before its last update"),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def service() -> None:
    """Manage services."""


@service.command()
@format_option
@quiet_option
@pass_settings
def ls(settings: Settings, output_format: str, quiet: bool) -> None:
    """List services."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            found = await client.services()
            if quiet:
                show_ids(found)
            else:
                show(listings.services_listing(found), output_format)

    asyncio.run(work())


@service.command()
@format_option
@quiet_option
@click.option("--no-trunc", is_flag=True, help="Do not cut ids and errors.")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@pass_settings
def ps(settings: Settings, output_format: str, quiet: bool, no_trunc: bool, names: tuple[str, ...]) -> None:
    """List the tasks of services."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            found = [await client.service(name) for name in names]
            tasks = [task for item in found for task in await client.tasks(service=item["ID"])]
            services = {item["ID"]: listings.service_name(item) for item in found}
            await show_tasks(client, tasks, services, output_format=output_format, quiet=quiet, no_trunc=no_trunc)

    asyncio.run(work())


@service.command()
@click.option("--pretty", "is_pretty", is_flag=True, help="For people to read.")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@pass_settings
def inspect(settings: Settings, is_pretty: bool, names: tuple[str, ...]) -> None:
    """Show all about services, as JSON."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            found = [await client.service(name) for name in names]
            if not is_pretty:
                show_json(found)
                return
            counted = [each for item in found for each in await client.services(ids=(item["ID"],))]
            now = datetime.now(UTC)
            click.echo("\n\n".join(pretty(item, now) for item in counted))

    asyncio.run(work())


@service.command()
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the tasks run.")
@click.option("--timeout", type=SECONDS, default=SCALE_TIMEOUT_S, show_default=True, help="Seconds.")
@click.argument("scales", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@pass_settings
def scale(settings: Settings, detach: bool, timeout: float, scales: tuple[str, ...]) -> None:
    """Set how many tasks replicated services have; of jobs: how many are to complete."""
    wanted = parse_scales(scales)

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            waited_for: dict[str, Mapping[str, Any] | None] = {}
            for name, replicas in wanted.items():
                service_id, before = await _scale(client, name, replicas)
                waited_for[service_id] = before
                click.echo(f"{name} scaled to {replicas}")
            if detach:
                return
            with unfinished('Scaling goes on without you: "swarmpy service ls" shows how far it is.'):
                await wait_for_services(client, waited_for, view=make_view(), timeout=timeout)

    asyncio.run(work())


def parse_scales(scales: tuple[str, ...]) -> dict[str, int]:
    """``SERVICE=REPLICAS`` arguments. Raises InvalidArgument."""
    out = {}
    for text in scales:
        name, equals, digits = text.rpartition("=")
        if not equals or not name:
            raise InvalidArgument(f"{text!r} is not SERVICE=REPLICAS")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and int(digits) <= MAX_REPLICAS):
            raise InvalidArgument(f"{text!r}: the number of replicas must be from 0 to {MAX_REPLICAS}")
        out[name] = int(digits)
    return out


async def _scale(client: ApiClient, name: str, replicas: int) -> tuple[str, Mapping[str, Any]]:
    async def write(current: dict[str, Any]) -> None:
        mode = current["Spec"].get("Mode", {})
        if "Replicated" in mode:
            mode = {"Replicated": {"Replicas": replicas}}
        elif "ReplicatedJob" in mode:
            mode = {"ReplicatedJob": {**mode["ReplicatedJob"], "TotalCompletions": replicas}}
        else:
            raise InvalidArgument(f"service {name} cannot be scaled: it is global, with one task on each node")
        spec = {**current["Spec"], "Mode": mode}
        await client.update_service(current["ID"], current["Version"]["Index"], spec)

    found = await change(lambda: client.service(name), write)
    return found["ID"], found.get("UpdateStatus") or {}


@service.command(name="logs")
@log_options
@click.argument("name", metavar="SERVICE|TASK")
@pass_settings
def show_logs(settings: Settings, name: str, wanted: LogsWanted) -> None:
    """Show what the tasks of a service, or one task, have written on all nodes."""
    asyncio.run(print_logs(settings.endpoint, name, wanted))


@service.command()
@click.argument("names", nargs=-1, required=True, metavar="SERVICE...")
@pass_settings
def rm(settings: Settings, names: tuple[str, ...]) -> None:
    """Remove services."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            for name in names:
                await client.remove_service(name)
                click.echo(name)

    asyncio.run(work())
