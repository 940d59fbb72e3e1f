"""``swarmpy task``: single tasks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import click

from swarmpy.cli import listings
from swarmpy.cli.client import ApiClient
from swarmpy.cli.logs import LogsWanted, log_options, print_logs
from swarmpy.cli.render import JSON, TABLE, show_json
from swarmpy.cli.settings import Settings, pass_settings
from swarmpy.cli.task_pretty import pretty
from swarmpy.errors import NotFound


@click.group()
def task() -> None:
    """Look into tasks, and read their logs."""


@task.command()
@log_options
@click.argument("name", metavar="TASK")
@pass_settings
def logs(settings: Settings, name: str, wanted: LogsWanted) -> None:
    """Show what a task has written."""
    asyncio.run(print_logs(settings.endpoint, name, wanted))


@task.command(short_help="Show what a task runs, and what became of it")
@click.option(
    "--format", "output_format", type=click.Choice((TABLE, JSON)), default=TABLE, help="For people, or as JSON."
)
@click.argument("names", nargs=-1, required=True, metavar="TASK...")
@pass_settings
def inspect(settings: Settings, output_format: str, names: tuple[str, ...]) -> None:
    """Show what a task runs, where, and what became of it: its states with their times, and who stopped it and why."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            found = [await _task(client, name) for name in names]
            if output_format == JSON:
                show_json(found)
            else:
                click.echo("\n\n".join([await _told(client, item) for item in found]))

    asyncio.run(work())


async def _task(client: ApiClient, name: str) -> dict[str, Any]:
    try:
        return await client.task(name)
    except NotFound as error:
        # What lists show as NAME is that of a slot, which has had many tasks.
        raise NotFound(f'{error}: give its id, as "swarmpy service ps SERVICE" shows it') from error


async def _told(client: ApiClient, found: dict[str, Any]) -> str:
    service_id, node_id = str(found.get("ServiceID", "")), str(found.get("NodeID", ""))
    try:
        service = listings.service_name(await client.service(service_id))
    except NotFound:
        service = service_id
    try:
        node = listings.node_hostname(await client.node(node_id)) if node_id else ""
    except NotFound:
        node = node_id
    name = listings.task_name(found, {service_id: service}, {node_id: node})
    return pretty(found, name=name, service=service, node=node, now=datetime.now(UTC))
