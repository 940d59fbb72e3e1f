"""The calling end of a connection: many calls and streams at once over one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from swarmpy.errors import (
    ConnectionFailed,
    InvalidArgument,
    OutcomeUnknown,
    ProtocolViolation,
    SwarmpyError,
    Unavailable,
    from_code,
)
from swarmpy.ports import Peer
from swarmpy.wire.connection import Connection, Identify, RpcConfig
from swarmpy.wire.frames import LENGTH_BYTES, Kind, encode

log = structlog.get_logger(__name__)


class RpcChannel(Connection):
    """Implements ``ports.Channel``. ``address`` is the one that was dialled.

    ``recheck`` is asked again and again whether the peer is still to be talked to, and raises why not.
    """

    def __init__(self, config: RpcConfig, identify: Identify, address: str, recheck: Callable[[Peer], None]) -> None:
        super().__init__(config, identify)
        self.address = address
        self._recheck = recheck
        self._last_id = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, RpcStream] = {}

    async def call(self, method: str, payload: Any, *, timeout: float) -> Any:
        """One request, one answer. See ``ports.Channel``.

        Raises InvalidArgument too, for a request above the frame limit. A caller that is cancelled or out of time
        takes its request back: the handler is cancelled.
        """
        frame_id = self._next_id()
        frame = self._request(Kind.CALL, frame_id, method, payload)
        try:
            async with asyncio.timeout(timeout):
                await self.wait_writable()
                self._check_open(method)
                answer: asyncio.Future[Any] = self._loop.create_future()
                self._calls[frame_id] = answer
                self.send(frame)
                return await answer
        except TimeoutError:
            if frame_id not in self._calls:
                raise ConnectionFailed(f"{method} to {self.address}: not sent within {timeout:g} s") from None
            raise OutcomeUnknown(f"{method} to {self.address}: no answer within {timeout:g} s") from None
        finally:
            if self._calls.pop(frame_id, None) is not None:
                self.send(encode(Kind.CANCEL, frame_id))

    def notify(self, method: str, payload: Any) -> bool:
        """Send without an answer, best effort. False when it was dropped."""
        if not self.is_open or self.unsent_bytes() > self.config.write_buffer_bytes:
            return False
        frame = encode(Kind.NOTIFY, method, payload)
        if not self._fits(frame):
            log.warning("notification_too_large", method=method, address=self.address, bytes=len(frame))
            return False
        self.send(frame)
        return True

    def stream(self, method: str, payload: Any) -> RpcStream:
        """One request, many answers. The request is sent at once; errors are raised by the iteration."""
        frame_id = self._next_id()
        frame = self._request(Kind.STREAM, frame_id, method, payload)
        stream = RpcStream(self, frame_id, method)
        if not self.is_open:
            stream.end(ConnectionFailed(f"{method} to {self.address}: {self._why_closed()}"))
        elif self.unsent_bytes() > self.config.write_buffer_bytes:
            stream.end(ConnectionFailed(f"{method} to {self.address}: the send buffer is full"))
        else:
            self._streams[frame_id] = stream
            self.send(frame)
        return stream

    def forget_stream(self, frame_id: int) -> None:
        """Take a stream's request back, unless it has ended."""
        if self._streams.pop(frame_id, None) is not None:
            self.send(encode(Kind.CANCEL, frame_id))

    def on_frame(self, kind: Kind, frame: list[Any]) -> None:
        """An answer, or part of one. Answers to requests that were taken back are ignored."""
        frame_id = frame[1] if len(frame) > 1 else 0
        if kind is Kind.RESULT:
            answer = self._calls.pop(frame_id, None)
            if answer is not None and not answer.done():
                answer.set_result(frame[2])
        elif kind is Kind.ITEM:
            stream = self._streams.get(frame_id)
            if stream is not None and not stream.put(frame[2]):
                self.forget_stream(frame_id)
        elif kind is Kind.ERROR:
            self._end(frame_id, from_code(frame[2], frame[3], frame[4]))
        elif kind is Kind.END:
            self._end(frame_id, None)
        else:
            raise ProtocolViolation(f"unexpected {kind.name} frame from a server")

    def on_tick(self) -> None:
        """A peer whose certificate does not count any more is hung up on."""
        self._recheck(self.peer)

    def on_lost(self, reason: str) -> None:
        """Every request in progress ends with OutcomeUnknown."""
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(OutcomeUnknown(f"{self.address}: {reason} before the answer came"))
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.end(OutcomeUnknown(f"{stream.method} to {self.address}: {reason}"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS stands. Begins at once: HELLO goes out together with the end of the handshake."""
        super().connection_made(transport)
        self.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self.error is None and not self._greeted.done():
            # asyncio's TLS server closes on a certificate it does not accept without sending the alert that says so.
            self.error = ConnectionFailed(
                f"{self.address} closed the connection during the handshake: it is stopping, or it does not accept "
                "this node's certificate (expired, or of another cluster)"
            )
        super().connection_lost(exc)

    def _end(self, frame_id: int, error: SwarmpyError | None) -> None:
        answer = self._calls.pop(frame_id, None)
        if answer is not None and not answer.done():
            answer.set_exception(error or ProtocolViolation(f"{self.address} ended a call without an answer"))
        stream = self._streams.pop(frame_id, None)
        if stream is not None:
            stream.end(error)

    def _request(self, kind: Kind, frame_id: int, method: str, payload: Any) -> bytes:
        frame = encode(kind, frame_id, method, payload)
        if not self._fits(frame):
            raise InvalidArgument(
                f"{method}: a request of {len(frame)} bytes is larger than the limit of {self.config.max_frame_bytes}"
            )
        return frame

    def _fits(self, frame: bytes) -> bool:
        return len(frame) - LENGTH_BYTES <= self.config.max_frame_bytes

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _check_open(self, method: str) -> None:
        if not self.is_open:
            raise ConnectionFailed(f"{method} to {self.address}: {self._why_closed()}")

    def _why_closed(self) -> str:
        return self.error.message if self.error is not None else "the connection is closed"


class RpcStream(AsyncIterator[Any]):
    """The answers of one stream, in order. Close it with :meth:`aclose` when they are not wanted any more."""

    def __init__(self, channel: RpcChannel, frame_id: int, method: str) -> None:
        self.method = method
        self._channel = channel
        self._frame_id = frame_id
        self._items: deque[Any] = deque()
        self._error: SwarmpyError | None = None
        self._is_ended = False
        self._wake = asyncio.Event()

    def put(self, item: Any) -> bool:
        """Queue an answer. False, and the end of the stream, when the reader is too far behind."""
        if len(self._items) >= self._channel.config.stream_queue:
            self.end(Unavailable(f"{self.method}: more than {len(self._items)} answers unread, gave up the stream"))
            return False
        self._items.append(item)
        self._wake.set()
        return True

    def end(self, error: SwarmpyError | None) -> None:
        """No more answers; ``error`` is raised after the queued ones."""
        self._is_ended = True
        self._error = error
        self._wake.set()

    async def __anext__(self) -> Any:
        while not self._items:
            if self._is_ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._items.popleft()

    async def aclose(self) -> None:
        """Take the request back: the handler on the other side is cancelled. Idempotent."""
        self._items.clear()
        if not self._is_ended:
            self.end(None)
        self._channel.forget_stream(self._frame_id)
