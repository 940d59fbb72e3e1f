"""``swarmpy status``: the cluster at a glance."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.render import JSON, TABLE, Listing, show, show_json
from swarmpy.cli.settings import Settings, pass_settings

Json = Mapping[str, Any]


@click.command()
@click.option(
    "--format",
    "output_format",
    type=click.Choice((TABLE, JSON)),
    default=TABLE,
    show_default=True,
    help="Tables or JSON.",
)
@pass_settings
def status(settings: Settings, output_format: str) -> None:
    """Show the cluster at a glance: consensus, nodes, services."""

    async def ask() -> Json:
        async with ApiClient(settings.socket) as client:
            return await client.status()

    answer = asyncio.run(ask())
    if output_format == JSON:
        show_json(answer)
        return
    click.echo("\n".join(summary(answer)))
    for listing in (nodes_listing(answer), services_listing(answer)):
        if listing.rows:
            click.echo()
            show(listing)
    problems = answer.get("problems") or ()
    if problems:
        click.echo("\n" + "\n".join(f"problem: {problem}" for problem in problems))


def summary(answer: Json) -> list[str]:
    """The lines above the tables."""
    if not answer.get("cluster_id"):
        return [
            'This node is in no cluster: create one with "swarmpy swarm init" or join one with "swarmpy node join".'
        ]
    lines = [f"cluster  {answer['cluster_id']}"]
    if answer.get("quorum") is None:
        managers = ", ".join(str(manager.get("address", "")) for manager in answer.get("manager_addresses") or ())
        return [*lines, f"managers {managers or 'unknown'}", "This node is a worker: ask a manager for more."]
    leader = answer.get("leader") or {}
    names = {node.get("id"): node.get("hostname") for node in answer.get("nodes") or ()}
    if leader.get("node_id"):
        shown = names.get(leader["node_id"]) or leader["node_id"]
        lines.append(f"leader   {shown} ({leader.get('address', '')})")
    else:
        lines.append("leader   none")
    quorum = answer["quorum"]
    lines.append(
        f"quorum   {'healthy' if quorum.get('healthy') else 'LOST'}: {quorum.get('reachable', 0)} of "
        f"{quorum.get('managers', 0)} managers reachable, {quorum.get('needed', 0)} needed"
    )
    raft = answer.get("raft") or {}
    if raft:
        lines.append(
            f"raft     {raft.get('role', '')} in term {raft.get('term', 0)}, commit {raft.get('commit', 0)}, "
            f"applied {raft.get('applied', 0)}"
        )
    return lines


def nodes_listing(answer: Json) -> Listing:
    """The nodes of a status."""
    rows = []
    for node in answer.get("nodes") or ():
        standing = ""
        if node.get("role") == "manager":
            standing = (
                "Leader" if node.get("leader") else "Unreachable" if node.get("reachable") is False else "Reachable"
            )
        rows.append(
            (
                str(node.get("hostname", "")),
                str(node.get("role", "")),
                str(node.get("state", "")).capitalize(),
                str(node.get("availability", "")).capitalize(),
                standing,
                str(node.get("address", "")),
            )
        )
    return Listing(
        headings=("HOSTNAME", "ROLE", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ADDRESS"), rows=tuple(rows)
    )


def services_listing(answer: Json) -> Listing:
    """The services of a status; why one is not as it should be is among the problems."""
    return Listing(
        headings=("NAME", "MODE", "REPLICAS", "PORTS"),
        rows=tuple(
            (
                str(service.get("name", "")),
                str(service.get("mode", "")),
                f"{service.get('running', 0)}/{service.get('desired', 0)}",
                ", ".join(str(port) for port in service.get("ports") or ()),
            )
            for service in answer.get("services") or ()
        ),
    )
