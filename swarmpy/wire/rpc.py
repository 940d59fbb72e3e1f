"""RPC over mutual TLS: the listener and the dialler."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable

import attrs
import structlog

from swarmpy.errors import BadCertificate, ConnectionFailed, InvalidArgument, Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.rates import Buckets
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.tls import Credentials, check_peer, peer_identity
from swarmpy.wire.accepting import accept
from swarmpy.wire.bounded_log import BoundedLog
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.connection import RpcConfig, format_address
from swarmpy.wire.entrance import Entrance, Room
from swarmpy.wire.origins import origin_of
from swarmpy.wire.router import Router
from swarmpy.wire.serving import ServerConfig, ServerConnection
from swarmpy.wire.tls_stream import accepted, connected

log = structlog.get_logger(__name__)

ACCEPT_RETRY_S = 1.0
BACKLOG = 1024
TURNED_AWAY_AT_ONCE = 64
TURNED_AWAY_PAUSE_S = 0.01
"""After so many that are turned away, those who connect have to wait so long."""
BEGIN_PAUSE_S = 0.002
"""Between the beginnings of two handshakes. It takes about as long to check a certificate."""
MAX_PACES = 4096
MAX_HOST_CHARS = 253
MAX_LABEL_CHARS = 63
"""Of a host name, and of the parts between its dots (RFC 1035)."""
_RESET = struct.pack("ii", 1, 0)


@attrs.define(eq=False, kw_only=True)
class _Guest:
    """Somebody who has connected and is not through the handshake yet."""

    sock: socket.socket
    address: str
    origin: str
    task: asyncio.Task[None] | None = None

    def over(self, _: object) -> None:
        """Nothing is to be done for it any more."""
        self.sock.close()

    def turn_away(self) -> None:
        """Nothing is done for it. With a reset: an orderly end is kept by the kernel for a minute."""
        if self.task is not None:
            self.task.cancel()
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()


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
        self._entrance: Entrance[_Guest] = Entrance(self._config.entrance)
        self._connections: set[ServerConnection] = set()
        self._of_node: Counter[NodeId] = Counter()
        self._anonymous: Room[ServerConnection] = Room(self._config.max_anonymous)
        self._worker_paces: Buckets[str] = Buckets(self._config.worker_rate, most=MAX_PACES)
        self._anonymous_paces: Buckets[str] = Buckets(self._config.anonymous_rate, most=MAX_PACES)
        self._bounded = BoundedLog(lambda: asyncio.get_running_loop().time())
        self._came = asyncio.Event()
        self._main: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def address(self) -> str:
        """``host:port`` it listens on."""
        return format_address((self._host, self._port))

    @property
    def connections(self) -> int:
        """Connections that are served."""
        return len(self._connections)

    @property
    def waiting(self) -> int:
        """Connections whose handshake has not begun."""
        return self._entrance.waiting

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
                group.create_task(self._let_in(group))
                for sock in sockets:
                    group.create_task(self._accept(sock))
        finally:
            for sock in sockets:
                sock.close()
            for guest in self._entrance.clear():
                guest.turn_away()

    # -- coming in --------------------------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket) -> None:
        turned_away = 0
        while True:
            try:
                sock, peername = await accept(listening)
            except OSError as error:
                # Out of file descriptors, mostly: connections that end will free some.
                reason = error.strerror or str(error)
                self._bounded.tell(log.warning, "accept_failed", "", address=self.address, reason=reason)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            address = format_address(peername)
            turned_away += self._arrive(_Guest(sock=sock, address=address, origin=origin_of(address)))
            # While connections wait to be accepted, accept itself never lets anybody else run. And those that
            # are turned away must not cost more than a share of the processor, however many there are.
            await asyncio.sleep(TURNED_AWAY_PAUSE_S if turned_away >= TURNED_AWAY_AT_ONCE else 0)
            turned_away %= TURNED_AWAY_AT_ONCE

    def _arrive(self, guest: _Guest) -> bool:
        """True when somebody was turned away."""
        is_full = len(self._connections) >= self._config.max_connections
        out = guest if is_full else self._entrance.arrive(guest, asyncio.get_running_loop().time())
        if out is not guest:
            self._came.set()
        if out is not None:
            out.turn_away()
            counts = {"open": len(self._connections), "waiting": self._entrance.waiting}
            self._bounded.tell(log.warning, "connection_turned_away", out.origin, address=out.address, **counts)
        return out is not None

    async def _let_in(self, group: asyncio.TaskGroup) -> None:
        while True:
            guest, out = self._entrance.next(asyncio.get_running_loop().time())
            if out is not None:
                out.turn_away()
            if guest is not None:
                guest.task = group.create_task(self._receive(guest))
                # Also when it is cancelled before it begins.
                guest.task.add_done_callback(guest.over)
            elif out is None:
                self._came.clear()
                await self._came.wait()
            # One at a time, with room for others between: what it costs is paid as soon as the peer's bytes are there.
            await asyncio.sleep(BEGIN_PAUSE_S if guest is not None else 0)

    async def _receive(self, guest: _Guest) -> None:
        connection = ServerConnection(self._router, self._config, self._identify, self._bounded)
        try:
            if await self._shake_hands(guest, connection):
                await self._serve(connection)
        except Exception as defect:  # noqa: BLE001  # it is told, though not always
            # The boundary to the peer: whatever one connection brings about, the port stays open for the others.
            event = "connection_failed_unexpectedly"
            self._bounded.tell(log.error, event, guest.origin, address=guest.address, exc_info=defect)

    async def _shake_hands(self, guest: _Guest, connection: ServerConnection) -> bool:
        """True when TLS stands."""
        loop = asyncio.get_running_loop()
        try:
            context, timeout = self._credentials.server_context(), self._config.rpc.handshake_timeout_s
            await accepted(guest.sock, connection, context, timeout=timeout)
        except (OSError, TimeoutError) as error:
            # A port check connects and goes away; that is nothing to tell an operator about.
            level = log.debug if isinstance(error, ConnectionError) else log.info
            reason = _tls_reason(error)
            self._bounded.tell(level, "tls_handshake_failed", guest.origin, address=guest.address, reason=reason)
            return False
        finally:
            self._entrance.passed(guest, connection.peer.node_id, loop.time())
            self._came.set()
        return True

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _serve(self, connection: ServerConnection) -> None:
        node_id = connection.peer.node_id
        self._connections.add(connection)
        try:
            if node_id is not None:
                self._of_node[node_id] += 1
            self._take_in(connection)
            await connection.serve()
        finally:
            self._connections.discard(connection)
            self._anonymous.leave(connection)
            if node_id is not None:
                self._of_node[node_id] -= 1
                if not self._of_node[node_id]:
                    del self._of_node[node_id]

    def _take_in(self, connection: ServerConnection) -> None:
        """Give the connection its share, or end it."""
        loop = asyncio.get_running_loop()
        peer, config, now = connection.peer, self._config, loop.time()
        if peer.node_id is None:
            connection.on_vouched = lambda: self._entrance.vouched(connection.origin, loop.time())
            connection.pace = self._anonymous_paces.of(connection.origin, now)
            out = self._anonymous.enter(connection) if connection.is_open else None
            if out is not None:
                out.fail(Unavailable("too many callers without a certificate are connected: try again in a minute"))
            return
        most = config.max_of_manager
        if peer.role is Role.WORKER:
            most = config.max_of_worker
            connection.pace = self._worker_paces.of(peer.node_id, now)
        if self._of_node[peer.node_id] > most:
            connection.fail(Unavailable(f"node {peer.node_id} has {most} connections already: close some"))

    def _identify(self, ssl_object: ssl.SSLObject, address: str) -> Peer:
        peer = peer_identity(ssl_object, self._credentials.identity.cluster_id, address=address)
        self._router.admit(peer)
        return peer


class RpcDialer:
    """Implements ``ports.Dialer``.

    ``context`` is a member's (``Credentials.client_context``, asked anew for every connection), a joiner's or, to fetch
    the root CA, the unverified one; then the peer is anonymous. ``cluster_id`` "" is for a joiner, who cannot know it.
    Only managers listen, so a verified peer of another role is refused (``role`` None: any). ``guard`` raises what
    speaks against a peer's certificate, though TLS has verified it; it is asked as long as the connection lasts.
    ``source`` is the address to connect from; "" leaves it to the system.
    """

    def __init__(
        self,
        context: ssl.SSLContext | Callable[[], ssl.SSLContext],
        cluster_id: str = "",
        *,
        config: RpcConfig | None = None,
        role: Role | None = Role.MANAGER,
        guard: Callable[[Peer], None] = lambda _: None,
        source: str = "",
    ) -> None:
        self._context = context
        self._guard = guard
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
            self._guard(peer)
            return peer

        channel = RpcChannel(self._config, identify, address, self._guard)
        try:
            async with asyncio.timeout(timeout):
                await connected(host, port, channel, context, source=self._source)
                await channel.wait_greeted()
        except ssl.SSLCertVerificationError as error:
            raise BadCertificate(f"{address} is not of this cluster: {error.verify_message}") from error
        except TimeoutError:
            channel.abort()
            raise ConnectionFailed(f"{address} does not answer within {timeout:g} s") from None
        except (OSError, UnicodeError) as error:
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
    is_port = colon and port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536
    # Also what a resolver would fail over rather than find nobody.
    is_host = 0 < len(host) <= MAX_HOST_CHARS and host.isprintable() and " " not in host
    if not is_port or not is_host or any(len(label) > MAX_LABEL_CHARS for label in host.split(".")):
        raise InvalidArgument(f"{address[:80]!r} is not host:port")
    return host, int(port)


def _tls_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
