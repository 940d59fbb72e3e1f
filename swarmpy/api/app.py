"""The doors of a node: the whole API on its unix sockets, the status pages on loopback. A thin layer over :class:`Api`.

Access to a unix socket is access to the cluster: it is guarded by the permissions of its file. The loopback server
can be reached by every local user and, through a browser, by every web page: so it shows only the status pages, only
to GET and HEAD, and only when the Host header is a loopback name (no DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from pathlib import Path

import structlog

from swarmpy.api import browsers
from swarmpy.api.api import Api
from swarmpy.api.callers import NOBODY, Access, Caller, Door
from swarmpy.api.connection import Limits, Visitor
from swarmpy.api.http_server import HttpRequest, HttpServer
from swarmpy.api.negotiation import negotiate
from swarmpy.api.request import ApiResponse, message_response
from swarmpy.api.router import READ_METHODS
from swarmpy.errors import FailedPrecondition, InvalidArgument

log = structlog.get_logger(__name__)

STATUS_LIMITS = Limits(connections=64, answers_bytes=64 * 1024 * 1024)
"""Every local user may ask for the page; it is not to cost more than a page should."""

_MAX_SOCKET_PATH_BYTES = 107
_PEER = struct.Struct("3i")
"""``struct ucred``: process, user, group."""


class ApiServer:
    """The whole API on the unix socket ``path``. Its file is its owner's, and also of ``group`` (name and number)."""

    def __init__(
        self, api: Api, path: Path, *, group: tuple[str, int] | None = None, limits: Limits | None = None
    ) -> None:
        self._api = api
        self._path = path
        self._group = group
        self._inode: int | None = None
        self._http = HttpServer(self._answer, api.node.version, self._identify, limits)

    async def start(self) -> None:
        """Listen. A socket file that nobody listens on is replaced.

        Raises FailedPrecondition when another daemon answers on it, the path is no socket or the file cannot be given
        to the group; InvalidArgument for a path that no socket can have.
        """
        if len(os.fsencode(self._path)) > _MAX_SOCKET_PATH_BYTES:
            raise InvalidArgument(
                f"the socket path {self._path} is longer than {_MAX_SOCKET_PATH_BYTES} bytes: "
                "use a shorter data directory"
            )
        _clear(self._path)
        listener = _bind_unix(self._path, self._group)
        self._inode = self._path.stat().st_ino
        await self._http.start(listener)
        log.info("api_listening", socket=str(self._path))

    async def close(self) -> None:
        """Stop listening and remove the socket file, unless another daemon has put its own there. Idempotent."""
        await self._http.close()
        with contextlib.suppress(FileNotFoundError):
            if self._inode is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._inode = None

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return self._http.open_connections

    def _identify(self, transport: asyncio.Transport) -> Visitor:
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, uid, _ = _PEER.unpack(peer)
        caller = Caller(access=Access.ADMIN, door=Door.SOCKET, address=str(self._path), pid=pid, uid=uid)
        return Visitor(admit=lambda: caller)

    async def _answer(self, request: HttpRequest) -> ApiResponse:
        path = negotiate(request.http.path)
        if isinstance(path, ApiResponse):
            return path
        return await self._api.handle(request.plain(path), request.read_body)


class StatusServer:
    """The status pages on ``host:port``, plain HTTP. ``port`` 0: any free one."""

    def __init__(self, api: Api, host: str, port: int, *, limits: Limits | None = None) -> None:
        self._api = api
        self._host = host
        self._port = port
        self._http = HttpServer(
            self._answer,
            api.node.version,
            lambda _: Visitor(admit=lambda: NOBODY),
            limits or STATUS_LIMITS,
            browsers.NOT_FOR_PAGES,
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises FailedPrecondition when the address cannot be had."""
        listener = bind_tcp(self._host, self._port, "serve the status page")
        self._port = listener.getsockname()[1]
        await self._http.start(listener)
        log.info("status_listening", address=f"{self._host}:{self._port}")

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        await self._http.close()

    async def _answer(self, request: HttpRequest) -> ApiResponse:
        if not browsers.host_allowed(request.http.headers.get("Host", ""), self._host):
            return message_response(
                403, "this page is served to loopback names only: use http://localhost or 127.0.0.1"
            )
        if request.http.method not in READ_METHODS:
            return message_response(405, "this page can only be read: use GET")
        return await self._api.handle(request.plain(request.http.path))


def bind_tcp(host: str, port: int, purpose: str) -> socket.socket:
    """A bound socket. Raises FailedPrecondition when the address cannot be had; ``purpose`` is what it was for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise FailedPrecondition(
            f"cannot {purpose} on {host}:{port}: {error.strerror}; choose another address"
        ) from error
    return listener


def _clear(path: Path) -> None:
    """Remove a socket file that a daemon left behind. Raises FailedPrecondition for anything else that is there."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FailedPrecondition(f"{path} is in the way: it is no socket; move it or use another data directory")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1.0)
    try:
        probe.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FailedPrecondition(f"cannot tell whether another daemon listens on {path}: {error}") from error
    else:
        raise FailedPrecondition(f"another daemon listens on {path} already: stop it or use another data directory")
    finally:
        probe.close()


def _bind_unix(path: Path, group: tuple[str, int] | None) -> socket.socket:
    """A bound socket whose file never had more permissions than it should."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise FailedPrecondition(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    if group is not None:
        try:
            os.chown(path, -1, group[1], follow_symlinks=False)
            path.chmod(0o660)
        except OSError as error:
            listener.close()
            path.unlink(missing_ok=True)
            raise FailedPrecondition(
                f"cannot give {path} to the group {group[0]}: {error.strerror}; run the daemon as root or as a member"
            ) from error
    return listener
