"""The doors of this node's API: which are open, where, and to whom."""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import os
import stat
from pathlib import Path

import structlog

from swarmpy.api.api import Api
from swarmpy.api.app import ApiServer, StatusServer
from swarmpy.api.tcp import TcpServer
from swarmpy.errors import FailedPrecondition, InvalidArgument
from swarmpy.node import addresses
from swarmpy.node.config import NodeConfig
from swarmpy.node.own_names import names_of
from swarmpy.ports import Clock
from swarmpy.security.api_certificates import is_server_name
from swarmpy.security.private_files import OTHERS_MAY_WRITE

log = structlog.get_logger(__name__)

GROUPS = ("swarmpy", "docker")
"""Whose members may use the group's socket: the first of these that exists."""
STATUS_PORT = 2378
API_PORT = 2376
"""Docker's, for its API over TLS."""


async def open_doors(
    doors: contextlib.AsyncExitStack, api: Api, config: NodeConfig, socket: Path, clock: Clock
) -> None:
    """Open them; they are closed with ``doors``. Raises InvalidArgument and FailedPrecondition."""
    await _open(doors, ApiServer(api, socket))
    if config.group_socket is not None:
        make_room(config.group_socket)
        await _open(doors, ApiServer(api, config.group_socket, group=socket_group()))
    if config.api_address:
        await _open(doors, _tcp_server(api, config, clock))
    if config.status_address:
        await _open(doors, _status_server(api, config.status_address))


async def _open(doors: contextlib.AsyncExitStack, server: ApiServer | TcpServer | StatusServer) -> None:
    await server.start()
    doors.push_async_callback(server.close)


def _tcp_server(api: Api, config: NodeConfig, clock: Clock) -> TcpServer:
    host, port = addresses.parse(config.api_address, what="--api-addr", default_port=API_PORT)
    host = addresses.resolve(host, what="--api-addr")
    for name in config.api_names:
        if not is_server_name(name):
            raise InvalidArgument(f"--api-san: {name!r} is neither an IP address nor a DNS name")

    def names() -> list[str]:
        return names_of(host, *config.api_names, config.hostname, api.node.node_address)

    return TcpServer(api, clock, host, port, names)


def _status_server(api: Api, address: str) -> StatusServer:
    host, port = addresses.parse(address, what="--status-addr", default_port=STATUS_PORT)
    host = addresses.resolve(host, what="--status-addr")
    if not ipaddress.ip_address(host).is_loopback:
        raise InvalidArgument(
            f"--status-addr: {host} is not a loopback address, and anybody who reaches the page may read it: "
            "use one of 127.0.0.0/8"
        )
    return StatusServer(api, host, port)


def socket_group() -> tuple[str, int] | None:
    """The group that the group's socket is given to, by name and number; None when none of GROUPS exists."""
    for name in GROUPS:
        with contextlib.suppress(KeyError):
            return name, grp.getgrnam(name).gr_gid
    log.warning("no_group_for_socket", looked_for=" or ".join(GROUPS), consequence="only its owner can use the socket")
    return None


def make_room(socket: Path) -> None:
    """Make the directory of a socket that others than its owner use, if need be.

    Raises FailedPrecondition for a directory in which somebody else could put a socket of his own in its place.
    """
    directory = socket.parent
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o755)
            # What the mask takes away is what the members of the group need.
            directory.chmod(0o755)
        found = directory.stat()
    except OSError as error:
        raise FailedPrecondition(f"cannot use {directory} for {socket.name}: {error.strerror}") from error
    is_ours = found.st_uid in (0, os.geteuid())
    if not is_ours or stat.S_IMODE(found.st_mode) & OTHERS_MAY_WRITE:
        raise FailedPrecondition(
            f"{directory} can be changed by others, who could put a socket of their own at {socket}: choose a "
            "directory that belongs to root or to the daemon's user, and that only its owner may write to"
        )
