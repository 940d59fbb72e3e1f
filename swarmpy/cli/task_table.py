"""The tasks of services, printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from swarmpy.cli import listings
from swarmpy.cli.client import ApiClient, Json
from swarmpy.cli.render import show, show_ids


async def show_tasks(
    client: ApiClient,
    tasks: Sequence[Json],
    services: Mapping[str, str],
    *,
    output_format: str,
    quiet: bool,
    no_trunc: bool,
) -> None:
    """Print them with the names of their ``services`` (by id) and nodes; only their ids where it is to be ``quiet``."""
    if quiet:
        show_ids(tasks)
        return
    nodes = {node["ID"]: listings.node_hostname(node) for node in await client.nodes()}
    now = datetime.now(UTC)
    show(listings.tasks_listing(tasks, services=services, nodes=nodes, now=now, truncate=not no_trunc), output_format)
