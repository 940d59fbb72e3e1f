"""One connection to the API: aiohttp's protocol with a watch kept over it, so that no client holds it for nothing.

aiohttp parses and answers. What it does not bound is bounded here: how long and how large the head of a request may be,
how long a connection may rest, how long a client may let an answer lie, and how much it may send ahead of an answer.
No timer is set for a request: each connection knows until when it may go on as it is, and the listener looks at all of
them once a second.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import attrs
import structlog

from swarmpy.api.callers import Caller
from swarmpy.api.heads import Head, HeadMeter

log = structlog.get_logger(__name__)

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of one listening socket; times in seconds."""

    connections: int = 256
    per_client: int = 64
    """Connections of one client certificate, where there are certificates."""
    handshakes: int = 64
    """TLS connections that are being made."""
    handshake_s: float = 5.0
    handshakes_per_s: float = 50.0
    """Each takes a millisecond or two of the loop that the whole manager lives by. Twice as many may come at once."""
    head_bytes: int = 32 * 1024
    head_lines: int = 102
    """A hundred headers."""
    line_bytes: int = 16 * 1024
    """Of the request line, and of each header."""
    head_s: float = 10.0
    """From a request's first byte to the end of its head."""
    idle_s: float = 75.0
    """Between two requests."""
    body_bytes: int = 4 * 1024 * 1024
    """A service spec is a few kilobytes."""
    body_s: float = 30.0
    take_s: float = 30.0
    """How long a client may take nothing of an answer that waits for it."""
    ahead_bytes: int = 64 * 1024
    """What a client may send behind a request that is not answered yet."""
    streams: int = 16
    """Answers that are made while they are sent."""
    bodies_bytes: int = 64 * 1024 * 1024
    """Large bodies of requests in memory, of all clients."""
    answers_bytes: int = 256 * 1024 * 1024
    """Large answers in memory, of all clients."""


@attrs.frozen(kw_only=True)
class Visitor:
    """Who is at the other end, as the door knows it from the connection."""

    admit: Callable[[], Caller]
    """Asked for each request anew: who may come in may change. Raises PermissionDenied."""
    client: str = ""
    """What connections of one client have in common; "" where that is not known."""


Identify = Callable[[asyncio.Transport], Visitor]


class Connection(asyncio.Protocol):
    """Stands between a transport and the protocol ``http`` that answers on it."""

    def __init__(
        self,
        http: asyncio.Protocol,
        limits: Limits,
        clock: Callable[[], float],
        identify: Identify,
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._http = http
        self._limits = limits
        self._clock = clock
        self._identify = identify
        self._on_lost = on_lost
        self._meter = HeadMeter(most_bytes=limits.head_bytes, most_lines=limits.head_lines)
        self._is_busy = False
        self._reads_body = False
        self._is_ending = False
        self._ahead = 0
        self._must_take_by = math.inf
        self.transport: asyncio.Transport | None = None
        self.visitor: Visitor | None = None
        """Set when it begins."""
        self.since = clock()
        """When it last began to wait for its client."""
        self.deadline = self.since + limits.idle_s

    @property
    def is_busy(self) -> bool:
        """True while a request is being answered."""
        return self._is_busy

    # -- what the transport calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.visitor = self._identify(transport)
        self._http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of a head, of a body, or ahead of time."""
        if self.transport is None or self.transport.is_closing():
            return
        if self._is_busy:
            if not self._reads_body and not self._is_within_ahead(data):
                return
        elif not self._is_ending:
            before = self._meter.state
            state = self._meter.feed(data)
            if state is Head.TOO_LARGE:
                self._refuse(_TOO_LARGE, "head_too_large")
                return
            if before is Head.NONE:
                self.since = self._clock()
                self.deadline = self.since + self._limits.head_s
        self._http.data_received(data)

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return self._http.eof_received()

    def pause_writing(self) -> None:
        """The client does not take what was sent."""
        self._must_take_by = self._clock() + self._limits.take_s
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """It took most of it."""
        self._must_take_by = math.inf
        self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.transport = None
        self._http.connection_lost(exc)
        self._on_lost(self)

    # -- what the server calls ------------------------------------------------------------------------------------

    def request_started(self, *, has_body_to_come: bool) -> None:
        """A request's head was read."""
        self._is_busy = True
        self._reads_body = has_body_to_come
        self.deadline = math.inf

    def body_read(self) -> None:
        """All of the request has come."""
        self._reads_body = False

    def request_finished(self, *, was_read: bool) -> None:
        """It is answered. What was not read of it is thrown away, and then the connection ends."""
        self._is_busy = self._reads_body = False
        self._ahead = 0
        self._meter.reset()
        self._is_ending = not was_read
        self.since = self._clock()
        self.deadline = self.since + (self._limits.idle_s if was_read else self._limits.head_s)

    def look(self, now: float) -> None:
        """End it if it is over time."""
        if now >= self._must_take_by:
            self.abort("answer_not_taken")
        elif now >= self.deadline:
            if self._meter.state is Head.NONE or self._is_ending:
                self.close()
            else:
                self._refuse(_TOO_SLOW, "head_too_slow")

    def close(self) -> None:
        """End it when what was written is sent."""
        if self.transport is not None:
            self.transport.close()

    def abort(self, reason: str = "") -> None:
        """End it at once."""
        if self.transport is not None:
            if reason:
                log.debug("connection_cut", reason=reason)
            self.transport.abort()

    def _is_within_ahead(self, data: bytes) -> bool:
        self._ahead += len(data)
        if self._ahead <= self._limits.ahead_bytes:
            return True
        self.abort("too_much_sent_ahead")
        return False

    def _refuse(self, answer: bytes, reason: str) -> None:
        log.debug("connection_refused", reason=reason)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
