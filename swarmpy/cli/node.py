"""``swarmpy node``: list, look into, change and remove nodes; ``drain``, ``join`` and ``run`` are about this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click

from swarmpy.cli import listings
from swarmpy.cli.client import ApiClient
from swarmpy.cli.deploy import change
from swarmpy.cli.drain import slots_to_move, wait_for_drain
from swarmpy.cli.lazy import LazyGroup
from swarmpy.cli.progress import make_view, unfinished
from swarmpy.cli.render import TABLE, format_option, quiet_option, show, show_ids, show_json
from swarmpy.cli.settings import SECONDS, Settings, pass_settings
from swarmpy.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from swarmpy.model.states import Availability, Role

DRAIN_TIMEOUT_S = 300.0

_LAZY = {
    "drain": ("swarmpy.cli.leave:node_drain", "Move this node's tasks away, before a reboot"),
    "join": ("swarmpy.cli.daemon:node_join", "Join this node to a cluster"),
    "run": ("swarmpy.cli.daemon:node_run", "Run this node's daemon"),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def node() -> None:
    """Manage nodes; drain, join and run this one."""


@node.command()
@format_option
@quiet_option
@pass_settings
def ls(settings: Settings, output_format: str, quiet: bool) -> None:
    """List nodes."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            nodes = await client.nodes()
            if quiet:
                show_ids(nodes)
                return
            own_id = str((await client.info()).get("Swarm", {}).get("NodeID", ""))
            show(listings.nodes_listing(nodes, own_id=own_id if output_format == TABLE else ""), output_format)

    asyncio.run(work())


@node.command()
@click.argument("names", nargs=-1, metavar="[NODE]...")
@pass_settings
def inspect(settings: Settings, names: tuple[str, ...]) -> None:
    """Show all about nodes, as JSON; without a name about this one."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            show_json([await client.node(name) for name in names or ("self",)])

    asyncio.run(work())


@node.command()
@click.option(
    "--availability",
    type=click.Choice([item.value for item in Availability]),
    help="Whether the node takes tasks: pause takes no new ones, drain moves those that it has, too.",
)
@click.option(
    "--role", type=click.Choice([item.value for item in Role]), help='As "node promote" and "node demote" do.'
)
@click.option("--label-add", "added", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--label-rm", "removed", multiple=True, metavar="KEY", help="May be repeated.")
@click.option(
    "--wait/--detach",
    "wait",
    default=False,
    help="With a drain: wait until the node's tasks have moved  [default: detach].",
)
@click.option("--timeout", type=SECONDS, help=f"Most seconds to wait  [default: {DRAIN_TIMEOUT_S:g}].")
@click.argument("name", metavar="NODE")
@pass_settings
def update(
    settings: Settings,
    availability: str | None,
    role: str | None,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    wait: bool,
    timeout: float | None,
    name: str,
) -> None:
    """Change what a node may do and which labels it has."""
    if wait and availability != Availability.DRAIN:
        raise click.UsageError("--wait waits for a drain: give --availability drain with it")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is of no use without --wait")
    if not (availability or role or added or removed):
        raise click.UsageError("nothing to change: give --availability, --role, --label-add or --label-rm")
    labels = parse_labels(added)

    def edit(spec: dict[str, Any]) -> dict[str, Any]:
        kept = dict(spec.get("Labels") or {})
        for key in removed:
            if key not in kept:
                raise InvalidArgument(f"node {name} has no label {key!r}")
            del kept[key]
        out = {**spec, "Labels": kept | labels}
        if availability:
            out["Availability"] = availability
        if role:
            out["Role"] = role
        return out

    if wait:
        asyncio.run(_drain(settings, name, edit, DRAIN_TIMEOUT_S if timeout is None else timeout))
        return
    asyncio.run(_edit(settings, (name,), edit))
    click.echo(name)


async def _drain(
    settings: Settings, name: str, edit: Callable[[dict[str, Any]], dict[str, Any]], timeout: float
) -> None:
    async with ApiClient(settings.endpoint) as client:
        found = await client.node(name)
        node_id = str(found["ID"])
        slots = await slots_to_move(client, found)
        await _edit_one(client, node_id, edit)
        click.echo(name)
        hint = f'The drain goes on without you; "swarmpy node update {name} --availability active" takes it back.'
        try:
            with unfinished(hint):
                left = await wait_for_drain(client, node_id, slots, view=make_view(), timeout=timeout)
        except DeadlineExceeded as error:
            # The managers have answered all the time: it is the node that is not what was asked for.
            raise FailedPrecondition(str(error)) from error
        if left.is_down:
            click.echo(f"node {left.name} is down: whether its tasks have stopped cannot be seen", err=True)


def parse_labels(texts: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` or ``KEY`` arguments. Raises InvalidArgument."""
    out = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key or key != key.strip():
            raise InvalidArgument(f"{text!r} is not KEY=VALUE")
        out[key] = value
    return out


async def _edit(settings: Settings, names: tuple[str, ...], edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    async with ApiClient(settings.endpoint) as client:
        for name in names:
            await _edit_one(client, name, edit)


async def _edit_one(client: ApiClient, name: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    async def read() -> dict[str, Any]:
        return await client.node(name)

    async def write(current: dict[str, Any]) -> None:
        await client.update_node(current["ID"], current["Version"]["Index"], edit(current["Spec"]))

    await change(read, write)


@node.command()
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
@pass_settings
def promote(settings: Settings, names: tuple[str, ...]) -> None:
    """Make nodes managers."""
    asyncio.run(_give_role(settings, names, Role.MANAGER, "Node {} promoted to a manager in the cluster."))


@node.command()
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
@pass_settings
def demote(settings: Settings, names: tuple[str, ...]) -> None:
    """Make managers workers."""
    asyncio.run(_give_role(settings, names, Role.WORKER, "Manager {} demoted in the cluster."))


async def _give_role(settings: Settings, names: tuple[str, ...], role: Role, done: str) -> None:
    async with ApiClient(settings.endpoint) as client:
        for name in names:
            if (await client.node(name))["Spec"].get("Role") == role.value:
                click.echo(f"Node {name} is already a {role.value}.")
                continue
            await _edit_one(client, name, lambda spec: {**spec, "Role": role.value})
            click.echo(done.format(name))


@node.command()
@click.option("-f", "--force", is_flag=True, help="Even when the node is not down.")
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
@pass_settings
def rm(settings: Settings, force: bool, names: tuple[str, ...]) -> None:
    """Remove nodes from the cluster."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            for name in names:
                await client.remove_node(name, force=force)
                click.echo(name)

    asyncio.run(work())
