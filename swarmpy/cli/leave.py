"""``swarm leave`` and ``node drain``: this node's tasks move to other nodes, for good or until it is started again.

The daemon does the waiting; this shows how far it is. A command that is given up ends alone: the node goes on.
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
TIMEOUT_HELP = "Most seconds that tasks have to move  [default: 30 and the longest stop grace period of them]."
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
    help=TIMEOUT_HELP,
)
@data_dir_option
@pass_settings
def swarm_leave(settings: Settings, force: bool, timeout: float | None) -> None:
    """Leave the cluster: this node's tasks move to other nodes, and it forgets the cluster."""
    asyncio.run(_leave(settings, force=force, timeout=timeout))


async def _leave(settings: Settings, *, force: bool, timeout: float | None) -> None:
    query = {"force": "1"} if force else {}
    hint = 'The node goes on leaving without you; "swarmpy swarm leave --force" ends the waiting.'
    await _shown(settings, "/swarm/leave", _with_timeout(query, timeout), hint, "lost", is_shown=not force)
    click.echo("Node left the swarm.")


@click.command("drain")
@click.option("--timeout", type=click.FloatRange(min=0, max=MOST_TIMEOUT_S), help=TIMEOUT_HELP)
@click.option("--undo", is_flag=True, help="Let it have tasks again.")
@data_dir_option
@pass_settings
def node_drain(settings: Settings, timeout: float | None, undo: bool) -> None:
    """Move this node's tasks to other nodes, until its daemon is started again: before a reboot.

    On any node, also a worker. To drain one for longer, use "node update --availability drain" on a manager.
    """
    query = {"undo": "1"} if undo else {}
    hint = 'The drain goes on without you; "swarmpy node drain --undo" takes it back.'
    asyncio.run(
        _shown(settings, "/node/drain", _with_timeout(query, timeout), hint, "not elsewhere", is_shown=not undo)
    )


def _with_timeout(query: dict[str, str], timeout: float | None) -> dict[str, str]:
    return query if timeout is None else {**query, "timeout": f"{timeout:g}"}


async def _shown(settings: Settings, path: str, query: dict[str, str], hint: str, word: str, *, is_shown: bool) -> None:
    """Ask the daemon for it and, if wanted, show meanwhile how far it is; its warnings begin with ``word``."""
    client = ApiClient(settings.endpoint)
    watching = asyncio.create_task(_watch(client, make_view())) if is_shown else None
    try:
        with unfinished(hint):
            answer = await client.post(path, query=query, timeout=GO_TIMEOUT_S + MOST_TIMEOUT_S)
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
    for warning in (answer or {}).get("Warnings") or ():
        click.echo(f"{word}: {printable(str(warning))}", err=True)


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
