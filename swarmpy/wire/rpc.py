"""RPC over mutual TLS: the listener and the dialler."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import structlog

from swarmpy.errors import BadCertificate, ConnectionFailed, InvalidArgument, Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.tls import Credentials, check_peer, peer_identity
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.connection import CLOSE_TIMEOUT_S, RpcConfig, format_address
from swarmpy.wire.router import Router
from swarmpy.wire.serving import ServerConfig, ServerConnection

log = structlog.get_logger(__name__)

ACCEPT_RETRY_S = 1.0
BACKLOG = 1024


class RpcServer:
    """Listens on the cluster port. ``start`` and ``stop`` it; ``port`` 0 picks a free one."""

    def __init__(
        self, router: Router, credentials: Credentials, *, host: str, port: int, config: ServerConfig | None = None
    ) -> None:
        self._router = router
        self._credentials = credentials
        self._host = host
        self._port = port
        self._config = config or ServerConfig()
        self._connections: set[ServerConnection] = set()
        self._handshakes = 0
        self._is_full = False
        self._main: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def address(self) -> str:
        """``host:port`` it listens on."""
        return format_address((self._host, self._port))

    async def start(self) -> None:
        """Listen. Raises InvalidArgument when the address cannot be listened on."""
        assert self._main is None, "started twice"
        sockets = await self._bind()
        self._main = asyncio.create_task(self._run(sockets), name=f"rpc-server {self.address}")
        log.info("cluster_port_open", address=self.address)

    async def stop(self) -> None:
        """Stop listening, cancel handlers, close every connection. Idempotent."""
        main, self._main = self._main, None
        if main is not None:
            main.cancel()
            await asyncio.wait([main])

    async def _bind(self) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        sockets: list[socket.socket] = []
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, proto, _, where in dict.fromkeys(found):
                sock = socket.socket(family, kind, proto)
                sockets.append(sock)
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((where[0], self._port, *where[2:]))
                sock.listen(BACKLOG)
                self._port = sock.getsockname()[1]
        except OSError as error:
            for sock in sockets:
                sock.close()
            raise InvalidArgument(
                f"cannot listen on {self.address}: {(error.strerror or str(error)).lower()}; choose another address"
            ) from error
        return sockets

    async def _run(self, sockets: list[socket.socket]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for sock in sockets:
                    group.create_task(self._accept(sock, group))
        finally:
            for sock in sockets:
                sock.close()

    async def _accept(self, listening: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peername = await loop.sock_accept(listening)
            except OSError as error:
                # Out of file descriptors, mostly: connections that end will free some.
                log.warning("accept_failed", address=self.address, reason=error.strerror or str(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if not self._has_room():
                sock.close()
                continue
            self._handshakes += 1
            group.create_task(self._serve(sock, format_address(peername)))

    def _has_room(self) -> bool:
        config = self._config
        is_full = len(self._connections) >= config.max_connections or self._handshakes >= config.max_handshakes
        if is_full and not self._is_full:
            log.warning("too_many_connections", open=len(self._connections), handshakes=self._handshakes)
        self._is_full = is_full
        return not is_full

    async def _serve(self, sock: socket.socket, address: str) -> None:
        connection = ServerConnection(self._router, self._config, self._identify)
        try:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection,
                    sock,
                    ssl=self._credentials.server_context(),
                    ssl_handshake_timeout=self._config.rpc.handshake_timeout_s,
                    ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
                )
            finally:
                self._handshakes -= 1
        except (OSError, TimeoutError) as error:
            sock.close()
            # A port check connects and goes away; that is nothing to tell an operator about.
            level = log.debug if isinstance(error, ConnectionError) else log.info
            level("tls_handshake_failed", address=address, reason=_tls_reason(error))
            return
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    def _identify(self, ssl_object: ssl.SSLObject, address: str) -> Peer:
        peer = peer_identity(ssl_object, self._credentials.identity.cluster_id, address=address)
        self._router.check_peer(peer)
        if peer.is_anonymous:
            anonymous = sum(1 for connection in self._connections if connection.peer.is_anonymous)
            if anonymous >= self._config.max_anonymous:
                raise Unavailable("too many callers without a certificate are connected: try again in a minute")
        return peer


class RpcDialer:
    """Implements ``ports.Dialer``.

    ``context`` is a member's (``Credentials.client_context``, asked anew for every connection), a joiner's or, to fetch
    the root CA, the unverified one; then the peer is anonymous. ``cluster_id`` "" is for a joiner, who cannot know it.
    Only managers listen, so a verified peer of another role is refused (``role`` None: any). ``source`` is the address
    to connect from; "" leaves it to the system.
    """

    def __init__(
        self,
        context: ssl.SSLContext | Callable[[], ssl.SSLContext],
        cluster_id: str = "",
        *,
        config: RpcConfig | None = None,
        role: Role | None = Role.MANAGER,
        source: str = "",
    ) -> None:
        self._context = context
        self._cluster_id = cluster_id
        self._config = config or RpcConfig()
        self._role = role
        self._source = source

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> RpcChannel:
        """Connect. See ``ports.Dialer``; raises InvalidArgument for an address that is not ``host:port``."""
        host, port = parse_address(address)
        context = self._context if isinstance(self._context, ssl.SSLContext) else self._context()
        role = None if context.verify_mode is ssl.CERT_NONE else self._role

        def identify(ssl_object: ssl.SSLObject, _: str) -> Peer:
            peer = peer_identity(ssl_object, self._cluster_id, address=address)
            check_peer(peer, node_id=expect, role=role)
            return peer

        channel = RpcChannel(self._config, identify, address)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: channel,
                    host,
                    port,
                    local_addr=(self._source, 0) if self._source else None,
                    ssl=context,
                    ssl_handshake_timeout=max(timeout, 0.001),
                    ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
                )
                channel.start()
                await channel.wait_greeted()
        except ssl.SSLCertVerificationError as error:
            raise BadCertificate(f"{address} is not of this cluster: {error.verify_message}") from error
        except TimeoutError:
            channel.abort()
            raise ConnectionFailed(f"{address} does not answer within {timeout:g} s") from None
        except OSError as error:
            raise ConnectionFailed(f"cannot connect to {address}: {_tls_reason(error)}") from error
        except BaseException:
            channel.abort()
            raise
        return channel


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[host]:port``. Raises InvalidArgument."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{address!r} is not host:port")
    return host, int(port)


def _tls_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
