"""Accepts the connections of one listening socket, no more of them than its limits say.

Where there is no room, the connection that has kept us waiting longest makes room; where all are being answered, the
new one is told so. A flood therefore costs its own connections, and somebody who asks at once is served.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator

import structlog

from swarmpy.api.connection import Connection, Limits
from swarmpy.api.sparing import Sparing
from swarmpy.api.tls_alerts import telling
from swarmpy.wire.accepting import accept

log = structlog.get_logger(__name__)

ACCEPT_RETRY_S = 1.0
ACCEPT_AT_ONCE = 64
LOOK_S = 1.0
"""How exactly the time limits of connections are kept."""
TLS_CLOSE_S = 2.0
TIME_TO_SPEAK_S = 0.1
"""A connection that has just been made is not made to go: its request may be on its way."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b'Content-Length: 53\r\n\r\n{"message":"too many connections: try again shortly"}'
)

Context = Callable[[], ssl.SSLContext | None]
"""The TLS context for the next connection; None: nobody is let in at the moment."""


class Rate:
    """So many a second, and twice as many at once after a rest."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._left = 2 * per_s
        self._at = now

    def take(self, now: float) -> bool:
        """True when there may be one more."""
        self._left = min(2 * self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Listener:
    """Owns a listening socket and its connections. ``make`` makes the protocol of one."""

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[Callable[[Connection], None]], Connection],
        limits: Limits,
        context: Context | None = None,
    ) -> None:
        self._listening = listening
        self._make = make
        self._limits = limits
        self._context = context
        self._connections: set[Connection] = set()
        self._handshakes = 0
        self._rate = Rate(limits.handshakes_per_s, asyncio.get_running_loop().time())
        self._full = Sparing()
        self._failed = Sparing()
        self._looking: asyncio.TimerHandle | None = None
        self._main: asyncio.Task[None] | None = None

    @property
    def connections(self) -> frozenset[Connection]:
        """Those that are open."""
        return frozenset(self._connections)

    def start(self) -> None:
        """Begin to accept. The socket must be listening already."""
        assert self._main is None, "started twice"
        self._listening.setblocking(False)
        self._main = asyncio.create_task(self._run(), name="api-listener")

    async def stop_accepting(self) -> None:
        """Accept no more. Idempotent."""
        main, self._main = self._main, None
        if main is not None:
            main.cancel()
            await asyncio.wait([main])
        # Here: one that is ended before it began to run closes nothing.
        self._listening.close()

    def end_idle(self) -> None:
        """End those that wait for their client."""
        for connection in [c for c in self._connections if not c.is_busy]:
            connection.abort()

    def end_connections(self) -> None:
        """End all that are open."""
        for connection in list(self._connections):
            connection.abort()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    sock, _ = await accept(self._listening)
                    self._take_in(sock, group)
                    # A flood must not fill the queue behind the socket faster than it is looked at.
                    for sock in self._waiting():
                        self._take_in(sock, group)
                except OSError as error:
                    # Out of file descriptors, mostly: connections that end will free some.
                    log.warning("accept_failed", reason=error.strerror or str(error))
                    await asyncio.sleep(ACCEPT_RETRY_S)

    def _waiting(self) -> Iterator[socket.socket]:
        """The connections that wait to be accepted, so many at most as are taken in one go. Raises OSError."""
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            yield sock

    def _take_in(self, sock: socket.socket, group: asyncio.TaskGroup) -> None:
        if self._context is not None and not self._rate.take(asyncio.get_running_loop().time()):
            sock.close()
            return
        context = self._present_context()
        if self._context is not None and context is None:
            sock.close()
            return
        if not self._has_room():
            _turn_away(sock, in_words=context is None)
            return
        self._handshakes += 1
        opening = group.create_task(self._open(sock, context))
        opening.add_done_callback(lambda _: self._opened(opening, sock))

    def _opened(self, opening: asyncio.Task[None], sock: socket.socket) -> None:
        self._handshakes -= 1
        if opening.cancelled():
            # Perhaps before it began.
            sock.close()

    def _present_context(self) -> ssl.SSLContext | None:
        try:
            return None if self._context is None else self._context()
        except Exception:
            # The boundary: a defect in there costs this connection, not all that come after it.
            log.exception("no_tls_context")
            return None

    def _has_room(self) -> bool:
        limits = self._limits
        may_shake_hands = self._context is None or self._handshakes < limits.handshakes
        has_room = may_shake_hands and (
            len(self._connections) + self._handshakes < limits.connections or self._make_room()
        )
        if not has_room and (count := self._full.count(asyncio.get_running_loop().time())):
            log.warning(
                "api_connections_full", open=len(self._connections), handshakes=self._handshakes, turned_away=count
            )
        return has_room

    def _make_room(self, client: str = "") -> bool:
        """End the connection (of ``client``, if given) that has waited for its client longest; False: none is left."""
        waiting = [c for c in self._connections if not c.is_busy and _is_of(c, client)]
        if not waiting:
            return False
        longest = min(waiting, key=lambda connection: connection.since)
        if asyncio.get_running_loop().time() - longest.since < TIME_TO_SPEAK_S:
            return False
        longest.abort("made_room")
        self._connections.discard(longest)
        return True

    async def _open(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            connection = self._make(self._lost)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=None if context is None else telling(context, sock),
                ssl_handshake_timeout=None if context is None else self._limits.handshake_s,
                ssl_shutdown_timeout=None if context is None else TLS_CLOSE_S,
            )
        except (OSError, TimeoutError) as error:
            sock.close()
            log.debug("api_handshake_failed", reason=" ".join(str(error).split()))
            return
        except Exception:
            # The boundary: whatever one connection brings about, the door stays open for the others.
            sock.close()
            if count := self._failed.count(asyncio.get_running_loop().time()):
                log.exception("connection_failed_unexpectedly", count=count)
            return
        if connection.transport is None:
            return
        client = "" if connection.visitor is None else connection.visitor.client
        of_client = sum(_is_of(c, client) for c in self._connections) if client else 0
        if of_client >= self._limits.per_client and not self._make_room(client):
            connection.abort("too_many_of_one_client")
            return
        self._connections.add(connection)
        self._begin_looking()

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _begin_looking(self) -> None:
        # Only while there is something to look at: an idle daemon is woken by nothing.
        if self._looking is None and self._connections:
            self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._connections):
            connection.look(now)
        self._begin_looking()


def _is_of(connection: Connection, client: str) -> bool:
    return not client or (connection.visitor is not None and connection.visitor.client == client)


def _turn_away(sock: socket.socket, *, in_words: bool) -> None:
    """End a connection for which there is no room; one without TLS is told why, if that takes no waiting."""
    with sock:
        if in_words:
            sock.setblocking(False)
            try:
                sock.send(_FULL)
            except OSError:
                return
