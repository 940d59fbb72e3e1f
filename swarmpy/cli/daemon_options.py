"""The options of a daemon, which every command has that may start one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarmpy.cli.settings import Settings

if TYPE_CHECKING:
    from swarmpy.node.config import NodeConfig

RUNTIMES = ("auto", "docker", "process")

_OPTIONS = (
    click.option(
        "--runtime",
        type=click.Choice(RUNTIMES),
        help="Where tasks run: on Docker, as plain processes, or on Docker if an engine answers  [default: auto].",
    ),
    click.option(
        "--status-addr",
        default="127.0.0.1:2378",
        show_default=True,
        metavar="HOST:PORT",
        help='The read-only status page, on loopback; "" for none.',
    ),
    click.option(
        "--group-socket",
        default="",
        metavar="PATH",
        help="A second socket of the API, for the group swarmpy or else docker: its members rule the cluster.",
    ),
    click.option(
        "--api-addr",
        default="",
        metavar="HOST[:PORT]",
        help='Serve the API over TLS to holders of client certificates, as "swarm client-cert" makes them.',
    ),
    click.option(
        "--api-san",
        multiple=True,
        metavar="NAME",
        help="Another name or address that clients call this machine by; may be repeated.",
    ),
    click.option("--hostname", metavar="NAME", help="What the node is called  [default: the machine's]."),
    click.option(
        "--generic-resource",
        multiple=True,
        metavar="KIND=COUNT|NAME",
        help='Something that this machine has for tasks to reserve, such as "gpu=2" or "gpu=UUID1"; may be repeated.',
    ),
    click.option("-d", "--detach", is_flag=True, help="Run the daemon in the background."),
)
listen_option = click.option(
    "--listen-addr", default="0.0.0.0:2377", show_default=True, metavar="HOST:PORT", help="Where managers listen."
)
advertise_option = click.option(
    "--advertise-addr", default="", metavar="HOST[:PORT]", help="What other nodes reach this one at."
)


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``detach`` and what :func:`node_config` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def node_config(
    settings: Settings,
    *,
    runtime: str | None,
    status_addr: str,
    group_socket: str,
    api_addr: str,
    api_san: tuple[str, ...],
    hostname: str | None,
    generic_resource: tuple[str, ...] = (),
    listen_addr: str = "",
    advertise_addr: str = "",
    manager_addr: tuple[str, ...] = (),
) -> NodeConfig:
    """How the daemon is to be started. Raises InvalidArgument."""
    from swarmpy.model import generic
    from swarmpy.node.config import NodeConfig

    return NodeConfig(
        data_dir=settings.data_dir.absolute(),
        hostname=hostname or socket.gethostname(),
        runtime=runtime,
        status_address=status_addr,
        api_address=api_addr,
        api_names=api_san,
        generic_resources=generic.parse(generic_resource),
        group_socket=Path(group_socket).absolute() if group_socket else None,
        listen_address=listen_addr,
        advertise_address=advertise_addr,
        manager_addresses=manager_addr,
    )


def as_arguments(**options: str | tuple[str, ...] | None) -> list[str]:
    """The same options as words of a command line."""
    words: list[str] = []
    for name, given in options.items():
        values = () if given is None else (given,) if isinstance(given, str) else given
        words += [word for value in values for word in (f"--{name.replace('_', '-')}", value)]
    return words
