"""``swarm init``, ``swarm leave``, ``node join``, ``node run``: this machine's daemon, and its first request.

Founding and joining are calls of the daemon's API. Where no daemon answers, the command becomes one (or, with
``--detach``, leaves one behind).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.daemon_options import advertise_option, as_arguments, daemon_options, listen_option, node_config
from swarmpy.cli.deploy import change
from swarmpy.cli.leave import swarm_leave
from swarmpy.cli.settings import Settings, data_dir_option, pass_settings
from swarmpy.cli.swarm_spec import SPEC_OPTIONS, edited, spec_options, swarm_update, unlock_advice
from swarmpy.errors import (
    ConnectionFailed,
    DataDirMismatch,
    DeadlineExceeded,
    FailedPrecondition,
    PermissionDenied,
    RuntimeUnavailable,
    StorageError,
    SwarmpyError,
    Unavailable,
)
from swarmpy.node.datadir import unusable
from swarmpy.security.private_files import append_privately, make_private_directory

START_TIMEOUT_S = 30.0
JOIN_TIMEOUT_S = 60.0
POLL_S = 0.05
STARTING_ONLY = ("runtime", "hostname", "group_socket", "api_addr", "api_san", "generic_resource")
PR_SET_PDEATHSIG = 1
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_KINDS: Mapping[int, type[SwarmpyError]] = {
    kind.exit_code: kind for kind in (RuntimeUnavailable, StorageError, DataDirMismatch, Unavailable)
}
"""What a daemon ended of, by its exit code."""

Action = Callable[[ApiClient], Awaitable[None]]

_availability_option = click.option(
    "--availability",
    type=click.Choice(("active", "pause", "drain")),
    default="active",
    show_default=True,
    help="Whether the node takes tasks: pause takes no new ones, drain none at all.",
)


# -- commands -------------------------------------------------------------------------------------------------------


@click.group()
def swarm() -> None:
    """Create, change, back up, restore or leave a cluster."""


@swarm.command("init", short_help="Make this machine the first manager of a cluster")
@listen_option
@advertise_option
@_availability_option
@daemon_options
@click.option(
    "--force-new-cluster",
    is_flag=True,
    help="Begin this manager's cluster anew with all its state and without the other managers, when they are lost.",
)
@spec_options
@data_dir_option
@pass_settings
def swarm_init(
    settings: Settings,
    listen_addr: str,
    advertise_addr: str,
    availability: str,
    force_new_cluster: bool,
    **options: Any,
) -> None:
    """Make this machine the first manager of a new cluster."""
    given = {name: options.pop(name) for name in SPEC_OPTIONS}
    if force_new_cluster and any(value is not None for value in given.values()):
        raise click.UsageError('--force-new-cluster keeps the settings: change them with "swarm update" afterwards')
    spec = edited({}, **given)

    async def init(client: ApiClient) -> None:
        body = {
            "ListenAddr": listen_addr,
            "AdvertiseAddr": advertise_addr,
            "ForceNewCluster": force_new_cluster,
            "Availability": availability,
            "Spec": spec,
        }
        node_id = await client.post("/swarm/init", body, timeout=JOIN_TIMEOUT_S)
        click.echo(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
        for role in ("worker", "manager"):
            await _echo_join_command(client, role)
        if given["autolock"]:
            click.echo(await unlock_advice(client))

    with_daemon(settings, init, **options)


swarm.add_command(swarm_update)
swarm.add_command(swarm_leave)


@swarm.command("join-token")
@click.argument("role", type=click.Choice(("worker", "manager")))
@click.option("--rotate", is_flag=True, help="Replace the token: with the one before nobody joins any more.")
@click.option("-q", "--quiet", is_flag=True, help="Only the token.")
@data_dir_option
@pass_settings
def swarm_join_token(settings: Settings, role: str, rotate: bool, quiet: bool) -> None:
    """Show how a machine joins as a worker or manager."""

    async def show() -> None:
        client = ApiClient(settings.endpoint)
        if rotate:
            await _rotate_token(client, role)
            if not quiet:
                click.echo(f"Successfully rotated {role} join token.\n")
        if quiet:
            click.echo(await _join_token(client, role))
        else:
            await _echo_join_command(client, role)

    asyncio.run(show())


@click.command("join")
@click.option("--token", required=True, metavar="TOKEN", help='As shown by "swarm init" or "swarm join-token".')
@click.argument("manager", metavar="HOST:PORT")
@listen_option
@advertise_option
@_availability_option
@daemon_options
@data_dir_option
@pass_settings
def node_join(
    settings: Settings,
    token: str,
    manager: str,
    listen_addr: str,
    advertise_addr: str,
    availability: str,
    **daemon: Any,
) -> None:
    """Make this machine a node of the cluster that the manager at HOST:PORT belongs to.

    On a node of that cluster whose certificate has expired: bring it back as the node that it is.
    """

    async def join(client: ApiClient) -> None:
        body = {
            "ListenAddr": listen_addr,
            "AdvertiseAddr": advertise_addr,
            "Availability": availability,
            "RemoteAddrs": [manager],
            "JoinToken": token,
        }
        await client.post("/swarm/join", body, timeout=JOIN_TIMEOUT_S)
        role = "manager" if (await client.info())["Swarm"]["ControlAvailable"] else "worker"
        click.echo(f"This node joined a swarm as a {role}.")

    with_daemon(settings, join, **daemon)


@click.command("run")
@daemon_options
@click.option("--listen-addr", default="", metavar="HOST:PORT", help="Where to listen from now on.")
@click.option("--advertise-addr", default="", metavar="HOST[:PORT]", help="What others reach it at from now on.")
@click.option(
    "--manager-addr",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Where a manager is now, should all that this node knows have moved; may be repeated.",
)
@click.option("--exit-with-parent", is_flag=True, hidden=True)
@data_dir_option
@pass_settings
def node_run(settings: Settings, exit_with_parent: bool, detach: bool, **daemon: Any) -> None:
    """Run this node's daemon; it goes on in its cluster, or waits to be told to found or join one.

    A node whose address has changed is started with --listen-addr or --advertise-addr once; it remembers them.
    """
    _ = settings.local_socket
    if exit_with_parent:
        _die_with_parent()
    if detach:
        _detach(settings, **daemon)
        click.echo(f"The daemon runs: {settings.local_socket}")
    else:
        asyncio.run(_serve(settings, None, **daemon))


async def _join_token(client: ApiClient, role: str) -> str:
    token = str((await client.get("/swarm"))["JoinTokens"][role.capitalize()])
    if not token:
        raise PermissionDenied("join tokens are shown to admins only, and this client certificate is a viewer's")
    return token


async def _rotate_token(client: ApiClient, role: str) -> None:
    async def write(swarm: Mapping[str, Any]) -> None:
        query = {"version": str(swarm["Version"]["Index"]), f"rotate{role.capitalize()}Token": "true"}
        await client.post("/swarm/update", swarm["Spec"], query=query)

    await change(lambda: client.get("/swarm"), write)


async def _echo_join_command(client: ApiClient, role: str) -> None:
    token = await _join_token(client, role)
    address = next(
        (m["Addr"] for m in (await client.info())["Swarm"].get("RemoteManagers") or []), "<manager's address>:2377"
    )
    click.echo(f"To add a {role} to this swarm, run the following command:\n")
    click.echo(f"    swarmpy node join --token {token} {address}\n")


# -- daemons --------------------------------------------------------------------------------------------------------


def with_daemon(settings: Settings, action: Action, *, detach: bool, **daemon: Any) -> None:
    """Do ``action`` on the daemon that answers, or become (or leave behind) one and do it there."""
    _ = settings.local_socket
    if asyncio.run(_answers(settings)):
        if given := [name for name in STARTING_ONLY if daemon[name]]:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            click.echo(f"the daemon runs already, which {names} would only be for starting", err=True)
        asyncio.run(_act(settings, action))
    elif detach:
        _detach(settings, **daemon)
        asyncio.run(_act(settings, action))
        click.echo(f"The daemon runs in the background; its log: {settings.data_dir / 'daemon.log'}")
    else:
        asyncio.run(_serve(settings, action, **daemon))


async def _answers(settings: Settings) -> bool:
    try:
        await ApiClient(settings.endpoint).get("/_ping", timeout=5)
    except (ConnectionFailed, DeadlineExceeded):
        return False
    return True


async def _act(settings: Settings, action: Action) -> None:
    await action(ApiClient(settings.endpoint))


async def _serve(settings: Settings, action: Action | None, **options: Any) -> None:
    """Be the daemon until a signal comes; after ``action`` fails, no longer."""
    from swarmpy.node.clock import SystemClock
    from swarmpy.node.daemon import Node
    from swarmpy.node.garbage import freeze
    from swarmpy.node.logs import configure

    config = node_config(settings, **options)
    configure(settings.log_level)
    freeze()  # all modules are there by now
    stop, started = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in END_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    node = asyncio.create_task(Node(config, SystemClock(), random.SystemRandom()).run(stop, started))
    try:
        if action is not None:
            waiting = asyncio.create_task(started.wait())
            await asyncio.wait({node, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if started.is_set():
                await _act(settings, action)
        await node
    finally:
        stop.set()
        with contextlib.suppress(SwarmpyError):
            await node
        # The loop's handlers go with the loop: one signal more, and an end in good order would be a death by signal.
        for number in END_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _detach(settings: Settings, **options: Any) -> None:
    """Start ``node run`` in a session of its own and wait until its API answers."""
    arguments = ["--data-dir", str(settings.data_dir.absolute()), "--log-level", settings.log_level, "node", "run"]
    arguments += as_arguments(**options)
    log_path = settings.data_dir / "daemon.log"
    try:
        make_private_directory(settings.data_dir)
        log = append_privately(log_path)
    except OSError as error:
        raise unusable(settings.data_dir, error) from error
    with log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module  # nosec B603
            [sys.executable, "-m", "swarmpy", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    asyncio.run(_wait_started(settings, process))


async def _wait_started(settings: Settings, process: subprocess.Popen[bytes]) -> None:
    log_path = settings.data_dir / "daemon.log"
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await _answers(settings):
                if process.poll() is not None:
                    lines = log_path.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                    kind = _KINDS.get(process.returncode, FailedPrecondition)
                    raise kind(f"the daemon did not start: {lines[-1].removeprefix('swarmpy: ')}")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise DeadlineExceeded(f"the daemon did not start within {START_TIMEOUT_S:g} s: see {log_path}") from None


def _die_with_parent() -> None:
    """Have the kernel end this daemon when the process that started it is gone, however it went."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise FailedPrecondition(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() == 1:
        raise FailedPrecondition("the process that started this daemon is gone")
