"""One end of a connection, whichever: frames in and out, the HELLO exchange, keepalive, closing.

A connection never waits forever for its peer: a peer that says nothing is given up after ``dead_after_s``, one that
does not take what is sent fills a bounded buffer, one that breaks the protocol is told so once and cut off.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from typing import Any, cast

import attrs
import structlog

from swarmpy.errors import ConnectionFailed, PeerError, ProtocolViolation, SwarmpyError, from_code
from swarmpy.ports import Peer
from swarmpy.wire.bounded_log import Tell
from swarmpy.wire.frames import MAX_FRAME_BYTES, OLDEST_VERSION, PROTOCOL_VERSION, Decoder, Kind, encode

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_S = 1.0
"""How long a closing connection may take to flush before it is cut."""
MAX_MESSAGE_CHARS = 4096
FLUSH_BYTES = 64 * 1024
"""Who waits until it can send has so much handed to the transport at once; less goes with what else is sent."""
FRAMES_AT_ONCE = 64
"""Frames of one connection that are dealt with before others get their turn on the loop."""
_CLOSED_WITHOUT_REASON = "the connection was closed"


@attrs.frozen(kw_only=True)
class RpcConfig:
    """Bounds of one connection. Both ends should agree on the frame size and on the keepalive times."""

    max_frame_bytes: int = MAX_FRAME_BYTES
    max_requests: int = 1024
    """Calls and streams in progress at once; more are refused with Unavailable."""
    stream_queue: int = 1024
    """Answers of a stream that wait for their reader; one more ends the stream."""
    write_buffer_bytes: int = 8 * 1024 * 1024
    """Above this, notifications are dropped and calls wait."""
    ping_interval_s: float = 2.0
    """After this long without sending anything, send a ping."""
    dead_after_s: float = 6.0
    """After this long without hearing anything, the peer is gone."""
    handshake_timeout_s: float = 5.0
    """For TLS, and again for the HELLO exchange."""


Identify = Callable[[ssl.SSLObject, str], Peer]
"""Who is on the other end of a TLS connection from this address. Raises SwarmpyError to refuse it."""


class Connection(asyncio.Protocol):
    """What both ends have in common. A subclass says what to do with frames (:meth:`on_frame`)."""

    def __init__(self, config: RpcConfig, identify: Identify) -> None:
        self.config = config
        self.peer = Peer()
        self.error: SwarmpyError | None = None
        """Why the connection is gone, if it is for a reason."""
        self._identify = identify
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(config.max_frame_bytes)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._is_closing = False
        self._is_full = False
        """The peer does not take what is sent."""
        self._is_held = False
        """Nothing is read until the timer "hold" has run."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._heard_at = self._sent_at = self._loop.time()

    # -- for subclasses ---------------------------------------------------------------------------------------------

    def on_frame(self, kind: Kind, frame: list[Any]) -> None:
        """A frame after HELLO has come in. Raises ProtocolViolation to end the connection."""
        raise ProtocolViolation(f"unexpected {kind.name} frame of {len(frame)} fields")

    def on_lost(self, reason: str) -> None:
        """The connection is gone; called once."""

    def on_tick(self) -> None:
        """Called at least once in a ping interval. Raises SwarmpyError to end the connection."""

    def handle_one(self) -> float | None:
        """Deal with the next frame. Returns the seconds until another one may be; None when there is none."""
        if (frame := self._decoder.next()) is None:
            return None
        self._handle(Kind(frame[0]), frame)
        return 0.0

    def tell(self, tell: Tell, event: str, **fields: Any) -> None:
        """Log something about the other end."""
        tell(event, address=self.peer.address, node=self.peer.node_id, **fields)

    # -- sending ----------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """True while frames can be sent."""
        return not self._is_closing and self._transport is not None

    def send(self, frame: bytes) -> None:
        """Queue a frame; all frames of one iteration of the event loop go out together."""
        if not self.is_open:
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)
        self._out_bytes += len(frame)

    def unsent_bytes(self) -> int:
        """Bytes queued here and in the transport."""
        return self._out_bytes + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    async def wait_writable(self) -> None:
        """Return when the peer has taken enough of what was sent, or the connection is closed."""
        if self._out_bytes >= FLUSH_BYTES:
            # Or a sender that never waits for anything else would never have to wait for the peer either.
            self._flush()
        while not self._writable.is_set():
            await self._writable.wait()

    def _flush(self) -> None:
        if not self._out:
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        if self._transport is not None and not self._transport.is_closing():
            self._sent_at = self._loop.time()
            self._transport.write(data)

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands. Learn who the peer is; do not read before :meth:`start`."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.pause_reading()
        self._transport.set_write_buffer_limits(high=self.config.write_buffer_bytes // 4)
        address = format_address(transport.get_extra_info("peername"))
        self.peer = Peer(address=address)
        try:
            self.peer = self._identify(transport.get_extra_info("ssl_object"), address)
        except SwarmpyError as error:
            self.fail(error)

    def start(self) -> None:
        """Say HELLO and begin to read."""
        if not self.is_open or self._transport is None:
            return
        self.send(encode(Kind.HELLO, PROTOCOL_VERSION, OLDEST_VERSION))
        self._heard_at = self._loop.time()
        self._timer("hello", self.config.handshake_timeout_s, self._on_no_hello)
        self._set_tick(self._heard_at)
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes have come in."""
        self._heard_at = self._loop.time()
        self._decoder.add(data)
        if not self._is_held:
            self._read_frames()

    def _read_frames(self) -> None:
        was_held, self._is_held = self._is_held, False
        try:
            delay = self._handle_some()
        except ProtocolViolation as error:
            self.fail(error)
        except Exception as defect:  # noqa: BLE001  # it is told, though not always
            # The boundary to the peer: asyncio would tell a defect as its own, and leave the connection as it is.
            self.tell(log.error, "connection_failed_unexpectedly", exc_info=defect)
            self.fail(SwarmpyError("internal error"))
        else:
            if delay is not None:
                self._hold(delay)
            elif was_held and self._transport is not None:
                self._heard_at = self._loop.time()
                # In this order: should the peer have closed, it is known before anything is written.
                self._transport.resume_reading()
                self._let_write()

    def _handle_some(self) -> float | None:
        """Deal with what has come. Returns the seconds after which to go on; None when there is no more."""
        for _ in range(FRAMES_AT_ONCE):
            if self._is_closing or (delay := self.handle_one()) is None:
                return None
            if delay > 0:
                return delay
        return 0.0

    def _hold(self, delay: float) -> None:
        """Read nothing for a while: what the peer sends waits on its side."""
        if self._is_closing or self._transport is None:
            return
        self._is_held = True
        self._writable.clear()
        self._transport.pause_reading()
        self._timer("hold", delay, self._read_frames)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._is_full = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        self._is_full = False
        self._let_write()

    def _let_write(self) -> None:
        # Who is not read from is not answered either: it may have closed, which nobody hears of before it is read from,
        # and asyncio would complain of each answer.
        if not self._is_full and not self._is_held:
            self._writable.set()

    def eof_received(self) -> bool:
        """The peer has closed. Whatever is written from now on is lost; asyncio would tell when all before is sent."""
        self._begin_close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._is_closing = True
        for timer in self._timers.values():
            timer.cancel()
        if self.error is None and exc is not None:
            self.error = _transport_error(self.peer.address, exc)
        self._writable.set()
        if not self._greeted.done():
            self._greeted.set_result(None)
        if not self._closed.done():
            self._closed.set_result(None)
        self.on_lost(self.error.message if self.error else _CLOSED_WITHOUT_REASON)

    # -- closing ----------------------------------------------------------------------------------------------------

    def fail(self, error: SwarmpyError) -> None:
        """Tell the peer why, close, and log the reason."""
        if self._is_closing:
            return
        self.tell(log.warning if isinstance(error, PeerError) else log.info, "connection_failed", reason=error.message)
        self.error = error
        self.send(encode(Kind.GOODBYE, error.code, error.message[:MAX_MESSAGE_CHARS]))
        self._begin_close()

    async def close(self) -> None:
        """Close, within a bounded time. Idempotent."""
        self._begin_close()
        if self._transport is not None:
            await self.wait_closed()

    def abort(self) -> None:
        """Cut the connection without flushing."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the connection is gone."""
        await asyncio.shield(self._closed)

    async def wait_greeted(self) -> None:
        """Return when the peer's HELLO is in. Raises why the connection ended, if it did."""
        await asyncio.shield(self._greeted)
        if self._is_closing:
            raise self.error or ConnectionFailed(f"{self.peer.address}: {_CLOSED_WITHOUT_REASON}")

    def _begin_close(self) -> None:
        if self._is_closing:
            return
        self._flush()
        self._is_closing = True
        if self._transport is not None:
            self._timer("abort", CLOSE_TIMEOUT_S, self._transport.abort)
            # Close once only: a second close() makes asyncio's TLS transport forget its connection.
            self._transport.close()

    # -- incoming ---------------------------------------------------------------------------------------------------

    def _handle(self, kind: Kind, frame: list[Any]) -> None:
        if kind is Kind.GOODBYE:
            self.error = from_code(frame[1], f"{self.peer.address}: {frame[2][:MAX_MESSAGE_CHARS]}")
            self._begin_close()
        elif not self._greeted.done():
            self._on_hello(kind, frame)
        elif kind is not Kind.PING:
            self.on_frame(kind, frame)

    def _on_hello(self, kind: Kind, frame: list[Any]) -> None:
        if kind is not Kind.HELLO:
            raise ProtocolViolation(f"the first frame is {kind.name}, not HELLO")
        newest, oldest = frame[1], frame[2]
        if oldest > PROTOCOL_VERSION or newest < OLDEST_VERSION:
            raise ProtocolViolation(
                f"protocol versions {oldest} to {newest} offered, {OLDEST_VERSION} to {PROTOCOL_VERSION} spoken here: "
                f"upgrade the {'node that refuses' if oldest > PROTOCOL_VERSION else 'node that was refused'}"
            )
        self._timers.pop("hello").cancel()
        self._greeted.set_result(None)

    # -- timers -----------------------------------------------------------------------------------------------------

    def _timer(self, name: str, delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
        self._timers[name] = self._loop.call_later(delay_s, callback, *args)

    def _on_no_hello(self) -> None:
        self.fail(ConnectionFailed(f"no HELLO within {self.config.handshake_timeout_s:g} s"))

    def _set_tick(self, now: float) -> None:
        """Look again when a ping may be due, or the peer has been silent for too long."""
        due = min(self._sent_at + self.config.ping_interval_s, self._heard_at + self.config.dead_after_s)
        if due <= now:
            due = now + self.config.ping_interval_s
        # A little later, but together with those of other connections: being woken is what costs.
        step = self.config.ping_interval_s / 4
        due = math.ceil(due / step) * step
        self._timers["tick"] = self._loop.call_at(due, self._on_tick, due)

    def _on_tick(self, due: float) -> None:
        now = self._loop.time()
        # A tick that comes late says that this process stood still: what the peer sent meanwhile is still unread.
        is_late = now - due > self.config.dead_after_s / 2
        if now - self._heard_at >= self.config.dead_after_s and not is_late and not self._is_held:
            self.tell(log.info, "peer_silent")
            self.error = ConnectionFailed(f"{self.peer.address}: nothing heard for {self.config.dead_after_s:g} s")
            self.abort()
            return
        try:
            self.on_tick()
        except SwarmpyError as error:
            self.fail(error)
            return
        if now - self._sent_at >= self.config.ping_interval_s:
            self.send(encode(Kind.PING))
            self._sent_at = now
        self._set_tick(now)


def format_address(peername: Any) -> str:
    """``host:port`` of a socket's address; an IPv6 host is in brackets."""
    if not isinstance(peername, tuple) or len(peername) < 2:
        return ""
    host, port = peername[0], peername[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _transport_error(address: str, exc: Exception) -> SwarmpyError:
    return ConnectionFailed(f"{address}: {str(exc) or type(exc).__name__}")
