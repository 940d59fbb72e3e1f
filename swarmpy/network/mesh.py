"""The routing mesh without privileges: this process listens on every published port and forwards TCP connections.

Implements ``ports.DataPlane``. A connection is refused (reset) at once when nobody answers on its port; it is never
moved once a byte may have reached a task. UDP is not forwarded.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import socket
from collections import Counter
from collections.abc import Mapping

import structlog

from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.wildcards import ANY_IPV4, ANY_IPV6
from swarmpy.network.balancer import Balancer
from swarmpy.network.draining import DRAIN_S, Drain
from swarmpy.network.forward import Side, tie
from swarmpy.network.listening import Listener, listening_socket
from swarmpy.ports import Random
from swarmpy.wire.bounded_log import BoundedLog

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 10_000
SHARE_OF_ORIGIN = 0.8
"""What one address may have of them: there is always room for others."""
CONNECT_TIMEOUT_S = 1.0
"""For one endpoint, where no other answers in half of that: one of a dead machine should not keep a client waiting."""
GIVE_UP_AFTER_S = 5.0
"""No further endpoint is tried for a connection that has waited this long."""
ACCEPT_RETRY_S = 1.0
CLOSE_TIMEOUT_S = 1.0
DRAIN_POLL_S = 0.005
"""How often a draining mesh looks for connections that have come to a pause."""


class UserspaceMesh:
    """Listens on ``host``; with ``0.0.0.0`` on all IPv6 addresses too, where there are any."""

    def __init__(
        self,
        host: str,
        random: Random,
        *,
        max_connections: int = MAX_CONNECTIONS,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._host = host
        self._random = random
        self._max_connections = max_connections
        self._connect_timeout_s = connect_timeout_s
        self._balancers: dict[PublishedPort, Balancer] = {}
        self._listeners: dict[PublishedPort, list[Listener]] = {}
        self._problems: dict[PublishedPort, str] = {}
        self._lock = asyncio.Lock()
        self._sides: set[Side] = set()
        self._of_clients: set[Side] = set()
        self._clients: Counter[str] = Counter()
        self.accepted = 0
        """Client connections so far."""
        self._connecting: set[asyncio.Task[None]] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._bounded = BoundedLog(lambda: asyncio.get_running_loop().time())
        self._is_closed = False
        self._is_draining = False

    @property
    def connections(self) -> int:
        """Client connections that are open."""
        return self._clients.total()

    @property
    def sides(self) -> frozenset[Side]:
        """Every connection that is open, of clients and to tasks."""
        return frozenset(self._sides)

    async def apply(self, ports: Mapping[PublishedPort, tuple[Endpoint, ...]]) -> None:
        """Make the whole table current. See ``ports.DataPlane``; open connections go on in any case.

        Applied again, it tries again to listen on the ports of :meth:`problems`.
        """
        async with self._lock:
            for port in [port for port in self._balancers if port not in ports]:
                self._balancers.pop(port).replace(())
                self._problems.pop(port, None)
                await self._stop_listening(port)
            for port, endpoints in ports.items():
                balancer = self._balancers.get(port)
                if balancer is None:
                    self._balancers[port] = Balancer(self._random, endpoints)
                else:
                    balancer.replace(endpoints)
            await self._listen_on_all()

    def problems(self) -> tuple[str, ...]:
        """One line for each published port that does not work on this node, by port."""
        return tuple(self._problems[port] for port in sorted(self._problems))

    async def drain(self) -> None:
        """Listen no more, and return when nobody is in the middle of anything. See ``ports.DataPlane``."""
        loop = asyncio.get_running_loop()
        self._is_draining = True
        async with self._lock:
            stopping = [self._stop_listening(port, gently=True) for port in list(self._listeners)]
            await asyncio.gather(*stopping)
        if self.connections:
            log.info("connections_waited_for", count=self.connections, at_most_s=DRAIN_S)
        drain = Drain(loop.time())
        while self._sides or self._connecting:
            is_over = drain.over(loop.time())
            for client in drain.idle(self._of_clients, loop.time()):
                client.close()
            if is_over:
                log.warning("connections_not_drained", count=self.connections)
                return
            await asyncio.sleep(DRAIN_POLL_S)

    async def close(self) -> None:
        """Stop listening and cut what is left. Idempotent."""
        self._is_closed = True
        async with self._lock:
            for port in list(self._listeners):
                await self._stop_listening(port)
            for balancer in self._balancers.values():
                balancer.replace(())
        for task in self._connecting:
            task.cancel()
        if self._connecting:
            await asyncio.wait(self._connecting)
        for side in list(self._sides):
            side.reset()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._all_gone.wait()
        except TimeoutError:
            log.warning("connections_left", count=len(self._sides))

    # -- listening --------------------------------------------------------------------------------------------------

    async def _listen_on_all(self) -> None:
        for port in sorted(self._balancers):
            if port in self._listeners or self._is_closed or self._is_draining:
                continue
            if port.protocol != "tcp":
                what = f"published port {port.port}/{port.protocol}"
                self._report(port, f"{what}: only tcp is forwarded: publish it with mode host")
                continue
            try:
                sockets = self._bind(port.port)
            except OSError as error:
                self._report(port, f"published port {port.port}: {_reason(error)} on {self._host}")
                continue
            self._problems.pop(port, None)
            take, refused = functools.partial(self._take, port), functools.partial(self._not_accepted, port)
            self._listeners[port] = [Listener(sock, take, refused) for sock in sockets]

    def _report(self, port: PublishedPort, problem: str) -> None:
        if self._problems.get(port) != problem:
            log.warning("published_port_problem", problem=problem)
        self._problems[port] = problem

    def _bind(self, port: int) -> list[socket.socket]:
        sockets = [listening_socket(self._host, port)]
        if self._host == ANY_IPV4:
            try:
                sockets.append(listening_socket(ANY_IPV6, port))
            except OSError as error:
                log.debug("no_ipv6", port=port, reason=_reason(error))
        return sockets

    async def _stop_listening(self, port: PublishedPort, *, gently: bool = False) -> None:
        await asyncio.gather(*(listener.stop(gently=gently) for listener in self._listeners.pop(port, ())))

    async def _not_accepted(self, port: PublishedPort, error: OSError) -> None:
        self._bounded.tell(log.warning, "accept_failed", "", port=port.port, reason=_reason(error))
        await asyncio.sleep(ACCEPT_RETRY_S)

    async def _take(self, port: PublishedPort, sock: socket.socket) -> None:
        self.accepted += 1
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(functools.partial(self._client, port), sock)
        except OSError as error:
            sock.close()
            log.debug("client_gone", port=port.port, reason=_reason(error))
        except BaseException:
            sock.close()
            raise

    # -- forwarding -------------------------------------------------------------------------------------------------

    def _client(self, port: PublishedPort) -> Side:
        return Side(on_made=functools.partial(self._accepted, port), on_lost=self._client_lost)

    def _accepted(self, port: PublishedPort, client: Side) -> None:
        self._add(client)
        self._of_clients.add(client)
        self._clients[client.origin] += 1
        balancer = self._balancers.get(port)
        if balancer is None or self._is_closed or not self._has_room(client.origin):
            client.reset()
            return
        task = asyncio.create_task(self._connect(client, balancer))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _has_room(self, origin: str) -> bool:
        most_of_origin = math.ceil(self._max_connections * SHARE_OF_ORIGIN)
        if self.connections <= self._max_connections and self._clients[origin] <= most_of_origin:
            return True
        counts = {"open": self.connections, "of_origin": self._clients[origin], "limit": self._max_connections}
        self._bounded.tell(log.warning, "too_many_connections", origin, origin=origin, **counts)
        return False

    async def _connect(self, client: Side, balancer: Balancer) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + GIVE_UP_AFTER_S
        tried: set[Endpoint] = set()
        silent: set[Endpoint] = set()
        timeout_s = self._connect_timeout_s / 2
        while loop.time() < give_up_at:
            endpoint = balancer.choose(loop.time(), tried)
            if endpoint is None:
                if not silent or timeout_s == self._connect_timeout_s:
                    break
                # Nobody else is left: those that did not refuse get the whole time.
                tried -= silent
                timeout_s = self._connect_timeout_s
                continue
            tried.add(endpoint)
            try:
                backend = await self._connect_to(endpoint, balancer, timeout_s)
            except TimeoutError:
                silent.add(endpoint)
                continue
            if backend is None:
                continue
            if client.is_lost:
                backend.close()
                return
            if endpoint in balancer:
                tie(client, backend)
                return
            # It left the table while the connection was made.
            backend.close()
        client.reset()

    async def _connect_to(self, endpoint: Endpoint, balancer: Balancer, timeout_s: float) -> Side | None:
        """A connection, released in the balancer when it ends; None, and released, when it was refused.

        Raises TimeoutError, released as well.
        """
        loop = asyncio.get_running_loop()
        backend = Side(on_made=self._add, on_lost=functools.partial(self._backend_lost, balancer, endpoint))
        try:
            async with asyncio.timeout(timeout_s):
                await loop.create_connection(lambda: backend, endpoint.address, endpoint.port)
        except (OSError, ValueError) as error:
            # ValueError, as UnicodeError, of an address that no resolver can make anything of.
            is_silent = isinstance(error, TimeoutError)
            log.debug("endpoint_refused", task=endpoint.task_id, address=endpoint.address, reason=_reason(error))
            balancer.avoid(endpoint, loop.time(), is_silent=is_silent)
            if is_silent:
                raise
            return None
        finally:
            if backend.transport is None:
                # Given up before it stood; should it stand by now, it is closing and counts no more.
                backend.on_made = backend.on_lost = None
                balancer.release(endpoint)
        return backend

    def _backend_lost(self, balancer: Balancer, endpoint: Endpoint, backend: Side) -> None:
        balancer.release(endpoint)
        self._remove(backend)

    def _client_lost(self, client: Side) -> None:
        self._of_clients.discard(client)
        self._clients[client.origin] -= 1
        if not self._clients[client.origin]:
            del self._clients[client.origin]
        self._remove(client)

    def _add(self, side: Side) -> None:
        self._sides.add(side)
        self._all_gone.clear()

    def _remove(self, side: Side) -> None:
        self._sides.discard(side)
        if not self._sides:
            self._all_gone.set()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return str(error)
