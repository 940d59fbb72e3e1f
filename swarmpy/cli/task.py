"""``swarmpy task``: single tasks."""

from __future__ import annotations

import asyncio

import click

from swarmpy.cli.logs import LogsWanted, log_options, print_logs
from swarmpy.cli.settings import Settings, pass_settings


@click.group()
def task() -> None:
    """Read the logs of tasks."""


@task.command()
@log_options
@click.argument("name", metavar="TASK")
@pass_settings
def logs(settings: Settings, name: str, wanted: LogsWanted) -> None:
    """Show what a task has written."""
    asyncio.run(print_logs(settings.endpoint, name, wanted))
