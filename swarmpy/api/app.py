"""The HTTP servers: the whole API on a unix socket, the status pages on loopback. A thin layer over :class:`Api`.

Access to the unix socket is access to the cluster: it is guarded by the permissions of its file. The loopback server
can be reached by every local user and, through a browser, by every web page: so it shows only the status pages, only
to GET and HEAD, and only when the Host header is a loopback name (no DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

from swarmpy.api.api import Api
from swarmpy.api.negotiation import negotiate, server_headers
from swarmpy.api.request import ApiRequest, ApiResponse, StreamedResponse, message_response
from swarmpy.errors import FailedPrecondition, InvalidArgument

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Largest request body; a service spec is a few kilobytes."""
BODY_TIMEOUT_S = 30.0
KEEPALIVE_S = 75.0
CLOSE_TIMEOUT_S = 2.0
"""How long requests in progress may go on when a server is closed."""
CHUNK_TIMEOUT_S = 30.0
"""How long a client may take for one piece of an answer that is made while it is sent."""
MAX_HEADER_BYTES = 16 * 1024
STATUS_PATHS = frozenset({"/status", "/healthz", "/readyz"})

_Answer = Callable[[web.BaseRequest], Awaitable[ApiResponse]]
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]{1,5})?")
_MAX_SOCKET_PATH_BYTES = 107


class _HttpServer:
    """One listening socket whose requests are answered by ``answer``."""

    def __init__(self, answer: _Answer, version: str) -> None:
        self._answer = answer
        self._headers = server_headers(version)
        self._runner: web.ServerRunner | None = None

    async def start(self, listener: socket.socket) -> None:
        server = web.Server(
            self._respond,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=CLOSE_TIMEOUT_S)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            answer = await self._answer(request)
        except Exception:
            # The boundary: whatever is wrong in here, the client gets an answer and the daemon goes on.
            log.exception("request_failed", method=request.method, path=request.path)
            answer = message_response(
                500, f"internal error while answering {request.method} {request.path}; see the log"
            )
        headers = {**self._headers, **answer.headers}
        if answer.content_type:
            headers["Content-Type"] = answer.content_type
        if isinstance(answer, StreamedResponse):
            return await _stream(request, answer, headers)
        return web.Response(status=answer.status, body=answer.body, headers=headers)


async def _stream(request: web.BaseRequest, answer: StreamedResponse, headers: dict[str, str]) -> web.StreamResponse:
    """Send an answer as it is made. One that cannot be made to its end is broken off, so that nobody takes it whole."""
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    try:
        async with contextlib.aclosing(answer.chunks) as chunks:
            async for chunk in chunks:
                async with asyncio.timeout(CHUNK_TIMEOUT_S):
                    await response.write(chunk)
        await response.write_eof()
    except (OSError, TimeoutError) as error:
        log.info("answer_broken_off", path=request.path, reason=str(error) or "the client takes nothing")
        _abort(request)
    except Exception:
        # The boundary, as above: its status has gone out already, so the client must see it end too soon.
        log.exception("request_failed", method=request.method, path=request.path)
        _abort(request)
    return response


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


class ApiServer:
    """The whole API on the unix socket ``path``."""

    def __init__(self, api: Api, path: Path, mode: int = 0o600) -> None:
        self._api = api
        self._path = path
        self._mode = mode
        self._inode: int | None = None
        self._http = _HttpServer(self._answer, api.node.version)

    async def start(self) -> None:
        """Listen. A socket file that nobody listens on is replaced.

        Raises FailedPrecondition when another daemon answers on it or the path is no socket, InvalidArgument for a
        path that no socket can have.
        """
        if len(os.fsencode(self._path)) > _MAX_SOCKET_PATH_BYTES:
            raise InvalidArgument(
                f"the socket path {self._path} is longer than {_MAX_SOCKET_PATH_BYTES} bytes: "
                "use a shorter data directory"
            )
        _clear(self._path)
        listener = _bind_unix(self._path, self._mode)
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

    async def _answer(self, request: web.BaseRequest) -> ApiResponse:
        path = negotiate(request.path)
        if isinstance(path, ApiResponse):
            return path
        body = await _read_body(request)
        if isinstance(body, ApiResponse):
            return body
        return await self._api.handle(_api_request(request, path, body))


class StatusServer:
    """The status pages on ``host:port``, plain HTTP. ``port`` 0: any free one."""

    def __init__(self, api: Api, host: str, port: int) -> None:
        self._api = api
        self._host = host
        self._port = port
        self._http = _HttpServer(self._answer, api.node.version)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises FailedPrecondition when the address cannot be had."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            listener.listen()
        except OSError as error:
            listener.close()
            raise FailedPrecondition(
                f"cannot serve the status page on {self._host}:{self._port}: {error.strerror}; choose another address"
            ) from error
        self._port = listener.getsockname()[1]
        await self._http.start(listener)
        log.info("status_listening", address=f"{self._host}:{self._port}")

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        await self._http.close()

    async def _answer(self, request: web.BaseRequest) -> ApiResponse:
        if not host_allowed(request.headers.get("Host", ""), self._host):
            return message_response(
                403, "this page is served to loopback names only: use http://localhost or 127.0.0.1"
            )
        if request.path not in STATUS_PATHS:
            return message_response(404, "page not found")
        if request.method not in ("GET", "HEAD"):
            return message_response(405, "this page can only be read: use GET")
        return await self._api.handle(_api_request(request, request.path, b""))


def host_allowed(header: str, bound: str) -> bool:
    """True when a Host header names loopback or the address ``bound`` itself, with or without a port."""
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    host = match[1].strip("[]").lower()
    if host == "localhost" or host == bound.lower():
        return bool(host)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _api_request(request: web.BaseRequest, path: str, body: bytes) -> ApiRequest:
    query: dict[str, str] = {}
    for name, value in request.query.items():
        query.setdefault(name, value)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return ApiRequest(method=request.method, path=path, query=query, headers=headers, body=body)


async def _read_body(request: web.BaseRequest) -> bytes | ApiResponse:
    """The whole body, or the answer to one that is too large, too slow or broken."""
    body = bytearray()
    too_large = message_response(413, f"the request body is larger than {MAX_BODY_BYTES} bytes")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        return too_large
    if request.content.is_eof() and request.content.exception() is None:
        # It came with the headers, as small ones do: nothing is waited for.
        whole = request.content.read_nowait(-1)
        return too_large if len(whole) > MAX_BODY_BYTES else whole
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return too_large
    except TimeoutError:
        return message_response(408, f"the request body did not arrive within {BODY_TIMEOUT_S:g} s")
    except web.RequestPayloadError as error:
        return message_response(400, f"the request body is broken: {error}")
    return bytes(body)


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


def _bind_unix(path: Path, mode: int) -> socket.socket:
    """A listening socket whose file never had more permissions than ``mode``."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise FailedPrecondition(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    path.chmod(mode)
    listener.listen(128)
    return listener
