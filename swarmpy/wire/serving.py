"""The serving end of one connection: requests to the router, answers back.

Nothing here knows what a method does or who may call it: that is the router's table. What a handler raises on purpose
travels by its code; anything else is logged here and told to the peer as ``internal error``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import attrs
import structlog

from swarmpy.errors import (
    CertificateRevoked,
    DeadlineExceeded,
    FailedPrecondition,
    NotLeader,
    ProtocolViolation,
    SwarmpyError,
    Unavailable,
)
from swarmpy.model import codec
from swarmpy.model.rates import Bucket, Rate
from swarmpy.model.states import Role
from swarmpy.wire.bounded_log import BoundedLog, Tell
from swarmpy.wire.connection import FRAMES_AT_ONCE, MAX_MESSAGE_CHARS, Connection, Identify, RpcConfig
from swarmpy.wire.entrance import EntranceLimits
from swarmpy.wire.frames import LENGTH_BYTES, Kind, encode
from swarmpy.wire.origins import origin_of
from swarmpy.wire.router import Router, Standing

log = structlog.get_logger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]
"""Begun only when its task runs: a coroutine whose task is cancelled before that would never be awaited."""


WORKER_RATE = Rate(burst=4 * 1024 * 1024, per_s=1024 * 1024)
ANONYMOUS_RATE = Rate(burst=4 * 1024 * 1024, per_s=256 * 1024)
FRAME_COST_BYTES = 1024
"""What a frame is charged at least: dealing with the smallest costs as much as carrying so many bytes."""
PRICED_BYTES = 2048
"""Frames from this size on are charged for the time that they took as well."""
BYTES_PER_S = 64 * 1024 * 1024
"""What a second of the processor is charged at. A megabyte of text takes some microseconds to read, one of the smallest
values that there are a tenth of a second, and nobody else is heard meanwhile."""
MOST_PER_BYTE = 16
"""Times its size is what a frame is charged at most."""
MAX_ANONYMOUS_VALUES = 256
"""Of a frame of a caller without a certificate; to join takes ten."""


@attrs.frozen(kw_only=True)
class ServerConfig:
    """Bounds of a listener. Those of ``rpc`` are for managers, who are trusted with everything anyway."""

    rpc: RpcConfig = attrs.Factory(RpcConfig)
    worker_requests: int = 32
    """Of one connection of a worker, at once. An agent has three or four."""
    worker_frame_bytes: int = 256 * 1024
    """The largest frame that a worker may send: reading one holds up everybody else."""
    worker_rate: Rate = WORKER_RATE
    """Bytes that are read of one worker, whatever the number of its connections; FRAME_COST_BYTES a frame at least."""
    anonymous: RpcConfig = attrs.Factory(
        lambda: RpcConfig(max_frame_bytes=16 * 1024, max_requests=4, write_buffer_bytes=256 * 1024)
    )
    """Of a caller without a certificate, or with one that was revoked."""
    anonymous_rate: Rate = ANONYMOUS_RATE
    """As ``worker_rate``, for all callers of one origin that have no certificate."""
    max_connections: int = 8192
    max_of_worker: int = 16
    """Connections of one worker. Its agent has two at most, and opens another for a call now and then."""
    max_of_manager: int = 128
    max_anonymous: int = 64
    anonymous_life_s: float = 30.0
    entrance: EntranceLimits = attrs.Factory(EntranceLimits)


class ServerConnection(Connection):
    """The serving end of one connection."""

    def __init__(self, router: Router, config: ServerConfig, identify: Identify, bounded: BoundedLog) -> None:
        super().__init__(config.rpc, identify)
        self._router = router
        self._server_config = config
        self._bounded = bounded
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._is_tight = False
        self.pace: Bucket | None = None
        """What is read of the peer is taken from it; None: as much as comes."""
        self.on_vouched: Callable[[], None] = lambda: None
        """Called when the peer, a stranger so far, was answered as one that the cluster expects."""

    @property
    def origin(self) -> str:
        """Where the peer is."""
        return origin_of(self.peer.address)

    async def serve(self) -> None:
        """Answer until the connection is gone. Handlers that run then are cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    self._tighten()
                    self.start()
                    await self.wait_closed()
                finally:
                    self._group = None
                    for frame_id in list(self._requests):
                        self._cancel(frame_id)
        finally:
            await self.close()

    def on_frame(self, kind: Kind, frame: list[Any]) -> None:
        """A request, or the end of one."""
        if self._group is None:
            return
        if self._is_tight and not codec.has_at_most(frame, MAX_ANONYMOUS_VALUES):
            # To read another such frame costs the handshake of another connection.
            raise ProtocolViolation(
                f"a frame of more than {MAX_ANONYMOUS_VALUES} values from a caller without a certificate"
            )
        match kind:
            case Kind.CALL:
                self._begin(self._group, frame[1], frame[2], partial(self._answer, *frame[1:4]))
            case Kind.STREAM:
                self._begin(self._group, frame[1], frame[2], partial(self._answer_stream, *frame[1:4]))
            case Kind.NOTIFY:
                self._take_notification(frame[1], frame[2])
            case Kind.CANCEL:
                self._cancel(frame[1])
            case _:
                raise ProtocolViolation(f"unexpected {kind.name} frame from a client")

    def handle_one(self) -> float | None:
        """Deal with the next frame, which is paid for: who sent too much, over whichever connections, has to wait."""
        if self.pace is None:
            return super().handle_one()
        now = self._loop.time()
        if (wait_s := self.pace.wait_s(now, 0)) > 0:
            return wait_s
        self._decoder.size = 0
        began = time.thread_time()
        try:
            delay = super().handle_one()
        finally:
            # Also for one that ends the connection: the next connection is the same node's.
            wait_s = self._pay(self.pace, now, time.thread_time() - began)
        return None if delay is None else wait_s

    def _pay(self, pace: Bucket, now: float, spent_s: float) -> float:
        size = self._decoder.size
        if not size:
            return 0.0
        price = float(max(size, FRAME_COST_BYTES))
        if size >= PRICED_BYTES:
            # Not more than that: a collection of garbage that happens to come meanwhile is not the peer's affair.
            price = max(price, min(spent_s * BYTES_PER_S, size * MOST_PER_BYTE))
        return pace.owe(now, price)

    def tell(self, tell: Tell, event: str, **fields: Any) -> None:
        """Log something about the other end, which must not be able to flood the log."""
        self._bounded.tell(tell, event, self.origin, address=self.peer.address, node=self.peer.node_id, **fields)

    def on_tick(self) -> None:
        """A node that was removed while it is connected is cut off, streams and all; so is one with a certificate that
        was revoked meanwhile."""
        if self._is_tight:
            self._router.admit(self.peer)
        else:
            self._router.check_peer(self.peer)

    def _tighten(self) -> None:
        limits = self._server_config
        if self.peer.is_anonymous or self._router.standing(self.peer) is not Standing.GOOD:
            self._is_tight = True
            self.config = limits.anonymous
            self._decoder.max_frame_bytes = self.config.max_frame_bytes
            life = limits.anonymous_life_s
            over = DeadlineExceeded(f"a connection without a certificate that counts lasts {life:g} s")
            self._timer("life", life, self.fail, over)
        elif self.peer.role is Role.WORKER:
            self.config = attrs.evolve(limits.rpc, max_requests=min(limits.worker_requests, limits.rpc.max_requests))
            self._decoder.max_frame_bytes = min(limits.worker_frame_bytes, limits.rpc.max_frame_bytes)

    def _begin(self, group: asyncio.TaskGroup, frame_id: int, method: str, work: Work) -> None:
        if frame_id in self._requests:
            raise ProtocolViolation(f"request {frame_id} is in progress already")
        if len(self._requests) >= self.config.max_requests:
            if self.unsent_bytes() > self.config.write_buffer_bytes:
                raise ProtocolViolation("requests are sent and their answers are not read")
            limit = self.config.max_requests
            self._refuse(frame_id, Unavailable(f"{method[:64]}: {limit} requests are in progress on this connection"))
            return
        self._requests[frame_id] = group.create_task(self._guard(frame_id, method, work))

    async def _guard(self, frame_id: int, method: str, work: Work) -> None:
        error: SwarmpyError = Unavailable(f"{method[:64]}: the handler was cancelled")
        try:
            try:
                await work()
                self._requests.pop(frame_id, None)
                return
            except SwarmpyError as raised:
                error = raised
            except Exception as defect:  # noqa: BLE001  # it is told, though not always
                # The boundary to the peer: a defect of one handler must neither end the node nor show its inside.
                self.tell(log.error, "handler_failed", method=method, exc_info=defect)
                error = SwarmpyError("internal error")
            # As with any answer: who does not read must not make this end keep ever more for it.
            await self.wait_writable()
        finally:
            # Still there: it ended without an answer, and not because the caller or the connection went away.
            if self._requests.pop(frame_id, None) is not None:
                self._refuse(frame_id, error)

    async def _answer(self, frame_id: int, method: str, payload: Any) -> None:
        result = await self._router.dispatch_call(self.peer, method, payload)
        if self._router.vouches(method):
            self.on_vouched()
        frame = self._checked(encode(Kind.RESULT, frame_id, result), method)
        await self.wait_writable()
        self.send(frame)

    async def _answer_stream(self, frame_id: int, method: str, payload: Any) -> None:
        async with _closing(self._router.dispatch_stream(self.peer, method, payload)) as items:
            sent = 0
            async for item in items:
                # What is revoked while the stream goes on ends it here; the next tick may be a second away.
                self._router.check_peer(self.peer)
                self.send(self._checked(encode(Kind.ITEM, frame_id, item), method))
                await self.wait_writable()
                if not self.is_open:
                    return
                sent += 1
                if sent % FRAMES_AT_ONCE == 0:
                    # A handler that has always more to say, to a peer that is as fast: others want their turn.
                    await asyncio.sleep(0)
        self.send(encode(Kind.END, frame_id))

    def _take_notification(self, method: str, payload: Any) -> None:
        try:
            self._router.dispatch_notify(self.peer, method, payload)
        except CertificateRevoked as error:
            # A notification has no answer, and the caller must come to know it.
            self.fail(error)
        except SwarmpyError as error:
            self.tell(log.warning, "notification_refused", method=method[:64], reason=error.message)
        except Exception as defect:  # noqa: BLE001  # as in _guard
            self.tell(log.error, "handler_failed", method=method, exc_info=defect)

    def _checked(self, frame: bytes, method: str) -> bytes:
        if len(frame) - LENGTH_BYTES > self.config.max_frame_bytes:
            raise FailedPrecondition(
                f"{method}: an answer of {len(frame)} bytes is larger than the limit of {self.config.max_frame_bytes}"
            )
        return frame

    def _refuse(self, frame_id: int, error: SwarmpyError) -> None:
        detail = error.leader if isinstance(error, NotLeader) else ""
        self.send(encode(Kind.ERROR, frame_id, error.code, error.message[:MAX_MESSAGE_CHARS], detail))

    def _cancel(self, frame_id: int) -> None:
        task = self._requests.pop(frame_id, None)
        if task is not None:
            task.cancel()


@contextlib.asynccontextmanager
async def _closing(items: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    try:
        yield items
    finally:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            await aclose()
