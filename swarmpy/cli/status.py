"""``swarmpy status``: the cluster at a glance."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.render import JSON, Listing, show, show_json, table_or_json
from swarmpy.cli.settings import Settings, pass_settings
from swarmpy.errors import SwarmpyError
from swarmpy.model.grammar import printable

Json = Mapping[str, Any]


@click.command()
@table_or_json("Tables or JSON.")
@click.option("--raft", "in_full", is_flag=True, help="The consensus in full: log, snapshot, every manager.")
@pass_settings
def status(settings: Settings, output_format: str, *, in_full: bool) -> None:
    """Show the cluster at a glance: consensus, nodes, services."""
    answer = asyncio.run(_ask(settings, in_full=in_full))
    if output_format == JSON:
        show_json(answer)
        return
    lines = [*summary(answer), *(log_summary(answer["raft"]) if in_full else ())]
    click.echo("\n".join(map(printable, lines)))
    tables = (members_listing(answer["raft"]),) if in_full else (nodes_listing(answer), services_listing(answer))
    for listing in tables:
        if listing.rows:
            click.echo()
            show(listing)
    remarks = [f"problem: {problem}" for problem in answer.get("problems") or ()]
    remarks += [f"advice: {line}" for line in answer.get("advice") or ()]
    if remarks:
        click.echo("\n" + "\n".join(map(printable, remarks)))


async def _ask(settings: Settings, *, in_full: bool) -> Json:
    """The status; on a manager with what the leader advises, and ``in_full`` with its whole report under ``raft``."""
    async with ApiClient(settings.endpoint) as client:
        answer = dict(await client.status())
        if in_full or answer.get("raft"):
            try:
                report = await client.raft_status()
            except SwarmpyError:
                if in_full:
                    raise
                return answer
            # Managers that are far behind are known to the leader only.
            answer["advice"] = list(dict.fromkeys([*answer.get("advice", ()), *report["advice"]]))
            if in_full:
                answer["raft"] = report
        return answer


def summary(answer: Json) -> list[str]:
    """The lines above the tables."""
    if not answer.get("cluster_id"):
        return [
            'This node is in no cluster: create one with "swarmpy swarm init" or join one with "swarmpy node join".'
        ]
    lines = [f"cluster  {answer['cluster_id']}"]
    if answer.get("state") == "locked":
        return [*lines, 'This node is a manager and locked: "swarmpy swarm unlock" lets it go on.']
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


def log_summary(report: Json) -> list[str]:
    """The lines on this manager's log, and on where the table of members comes from."""
    log, snapshot = report["log"], report["snapshot"]
    age = f", taken {_ago(snapshot['age_s'])} ago" if snapshot.get("age_s") is not None else ""
    lines = [
        f"log      {log['entries']} entries, {log['bytes']} bytes since the snapshot at {snapshot['index']}{age}",
    ]
    schema = report["schema"]
    waits = f", version {schema['read']} when all managers read it" if schema["written"] < schema["read"] else ""
    lines.append(f"schema   version {schema['written']} is written{waits}")
    if report.get("note"):
        lines.append(f"members  as this manager knows them; the leader was not heard: {report['note']}")
    return lines


def members_listing(report: Json) -> Listing:
    """The managers, as the leader sees them."""
    rows = []
    for member in report["members"]:
        state = "leader" if member["leader"] else _or_dash(member["state"])
        contact = member["last_contact_s"]
        rows.append(
            (
                str(member["hostname"] or member["node_id"]),
                str(member["role"]),
                f"{state}, unreachable" if member["reachable"] is False else state,
                _or_dash(member["match"]),
                _or_dash(member["lag"]),
                "-" if contact is None else f"{_ago(contact)} ago",
                str(member["address"]),
            )
        )
    return Listing(headings=("MANAGER", "ROLE", "STATE", "MATCH", "LAG", "LAST CONTACT", "ADDRESS"), rows=tuple(rows))


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


_REACHABILITY = {True: "Reachable", False: "Unreachable", None: "Unknown"}


def nodes_listing(answer: Json) -> Listing:
    """The nodes of a status."""
    rows = []
    for node in answer.get("nodes") or ():
        standing = ""
        if node.get("role") == "manager":
            standing = "Leader" if node.get("leader") else _REACHABILITY[node.get("reachable")]
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


def _replicas(service: Json) -> str:
    completed = f" ({service['completed']} completed)" if "completed" in service else ""
    return f"{service.get('running', 0)}/{service.get('desired', 0)}{completed}"


def services_listing(answer: Json) -> Listing:
    """The services of a status; why one is not as it should be is among the problems."""
    return Listing(
        headings=("NAME", "MODE", "REPLICAS", "PORTS"),
        rows=tuple(
            (
                str(service.get("name", "")),
                str(service.get("mode", "")),
                _replicas(service),
                ", ".join(str(port) for port in service.get("ports") or ()),
            )
            for service in answer.get("services") or ()
        ),
    )
