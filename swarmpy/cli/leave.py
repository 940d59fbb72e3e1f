"""``swarm leave``: this node's tasks move to other nodes, and then it forgets the cluster.

The daemon does the waiting; this shows how far it is. Only the command that gives up waiting ends early: the node goes
on leaving.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import attrs
import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.progress import POLL_S, View, make_view, unfinished
from swarmpy.cli.settings import Settings, data_dir_option, pass_settings
from swarmpy.errors import SwarmpyError
from swarmpy.model.grammar import printable

GO_TIMEOUT_S = 60.0
"""Most seconds for all else than waiting for tasks: what the node forwards, containers, telling the managers."""
MOST_TIMEOUT_S = 3600.0
NAME = "this node"


@attrs.frozen(kw_only=True)
class Leave:
    """One line of the picture: the node itself, or a service that has something there."""

    name: str
    running: int
    """How many tasks are left."""
    text: str
    reasons: tuple[str, ...] = ()
    has_failed: bool = False

    @property
    def is_there(self) -> bool:
        """True when nothing is left."""
        return not self.running

    def line(self) -> str:
        """``web  1 task left``."""
        return f"{self.name}  {self.text}"


def observe(leaving: Mapping[str, Any]) -> list[Leave]:
    """What to show of the ``leaving`` of a status."""
    left = leaving.get("left")
    if left is None:
        return [Leave(name=NAME, running=1, text="waits for a manager")]
    picture = [Leave(name=NAME, running=int(left), text=_left(int(left)))]
    for service in leaving.get("services") or ():
        missing = int(service.get("missing", 0))
        parts = [_left(count) for count in [int(service.get("left", 0))] if count]
        parts += [f"{missing} not running elsewhere yet"] if missing else []
        picture.append(
            Leave(
                name=printable(str(service.get("service", ""))),
                running=int(service.get("left", 0)),
                text=", ".join(parts),
                reasons=tuple(printable(str(reason)) for reason in service.get("reasons") or ()),
            )
        )
    return picture


def _left(count: int) -> str:
    return f"{count or 'no'} task{'' if count == 1 else 's'} left"


@click.command("leave", short_help="Take this node out of its cluster")
@click.option("-f", "--force", is_flag=True, help="Leave at once, without moving the tasks; also as a manager.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=MOST_TIMEOUT_S),
    help="Most seconds that tasks have to move  [default: 30 and the longest stop grace period of them].",
)
@data_dir_option
@pass_settings
def swarm_leave(settings: Settings, force: bool, timeout: float | None) -> None:
    """Leave the cluster: this node's tasks move to other nodes, and it forgets the cluster."""
    asyncio.run(_leave(settings, force=force, timeout=timeout))


async def _leave(settings: Settings, *, force: bool, timeout: float | None) -> None:
    query = {"force": "1"} if force else {}
    if timeout is not None:
        query["timeout"] = f"{timeout:g}"
    client = ApiClient(settings.endpoint)
    most = GO_TIMEOUT_S + MOST_TIMEOUT_S
    watching = None if force else asyncio.create_task(_watch(client, make_view()))
    hint = 'The node goes on leaving without you; "swarmpy swarm leave --force" ends the waiting.'
    try:
        with unfinished(hint):
            answer = await client.post("/swarm/leave", query=query, timeout=most)
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
    for warning in (answer or {}).get("Warnings") or ():
        click.echo(f"lost: {printable(str(warning))}", err=True)
    click.echo("Node left the swarm.")


async def _watch(client: ApiClient, view: View) -> None:
    try:
        while True:
            # The view is an extra: whether the node leaves, the other request tells.
            with contextlib.suppress(SwarmpyError):
                leaving = (await client.status()).get("leaving")
                if leaving:
                    view.update(observe(leaving))
            await asyncio.sleep(POLL_S)
    finally:
        view.close()
