"""A simulated connection: two pipes, the serving end over a router, the calling end as a channel.

It does what the real one does, down to which error says what; see :mod:`swarmpy.ports` for the meaning.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from swarmpy.errors import (
    BadCertificate,
    ConnectionFailed,
    NotLeader,
    OutcomeUnknown,
    SwarmpyError,
    Unavailable,
    from_code,
)
from swarmpy.model import codec
from swarmpy.model.ids import NodeId
from swarmpy.ports import Channel, Peer

if TYPE_CHECKING:
    from net import Host, SimNetwork

STREAM_QUEUE = 1024
"""Answers of a stream that wait for their reader, as on a real connection."""
APART = 5
"""Times the usual latency for what travels outside the order of its connection."""
Deliver = Callable[[], None]


def carried(payload: Any) -> Any:
    """``payload`` as it comes out at the other end; raises for what cannot travel."""
    return codec.unpack(codec.pack(payload))


class Pipe:
    """One direction of a connection: in order; held up by the link, and by a host at the end that stands still."""

    def __init__(self, net: SimNetwork, source: Host, target: Host) -> None:
        self._net = net
        self._source = source
        self._target = target
        self._link = net.link(source.node_id, target.node_id)
        self._queue: deque[Deliver] = deque()
        self._held = 0

    def __len__(self) -> int:
        return len(self._queue)

    def send(self, deliver: Deliver) -> None:
        """Call ``deliver`` at the other end, after everything sent before."""
        self._queue.append(deliver)
        self._net.messages += 1
        self._net.later(self._net.latency(self._link), self._deliver_next)

    def send_apart(self, deliver: Deliver) -> None:
        """Call ``deliver`` at the other end, outside the order and late; it is lost where it would be held up."""
        self._net.messages += 1
        self._net.later(self._net.latency(self._link) * APART, self._deliver_apart, deliver)

    def release(self) -> None:
        """Let through what was held up, unless it still is."""
        if self._held and not self._is_held:
            held, self._held = self._held, 0
            for _ in range(held):
                self._net.later(self._net.latency(self._link), self._deliver_next)

    def cut(self) -> None:
        """Nothing more comes through."""
        self._queue.clear()

    @property
    def _is_held(self) -> bool:
        return self._link.is_held or self._target.is_paused

    def _deliver_apart(self, deliver: Deliver) -> None:
        if not self._is_held:
            deliver()

    def _deliver_next(self) -> None:
        if self._is_held:
            self._held += 1
        elif self._queue:
            self._queue.popleft()()


class Connection:
    """A connection between two lives: requests one way, answers the other."""

    def __init__(self, net: SimNetwork, client: Host, server: Host, client_seen: Peer, server_seen: Peer) -> None:
        assert client.life is not None
        assert server.life is not None
        self.net = net
        self.client, self.server = client, server
        self.up, self.down = Pipe(net, client, server), Pipe(net, server, client)
        self.is_open = True
        self.closed: asyncio.Future[None] = net.loop.create_future()
        self.calls: dict[int, asyncio.Future[Any]] = {}
        self.streams: dict[int, SimStream] = {}
        self.client_seen, self.server_seen = client_seen, server_seen
        """Who they are to each other."""
        self._router = server.router
        self._server_life = server.life
        self._requests: dict[int, asyncio.Task[None]] = {}

    def lose(self, reason: str) -> None:
        """Both ends notice that it is gone."""
        if not self.is_open:
            return
        self.is_open = False
        self.net.forget(self)
        self.up.cut()
        self.down.cut()
        for task in self._requests.values():
            task.cancel()
        self._requests.clear()
        for answer in self.calls.values():
            if not answer.done():
                answer.set_exception(OutcomeUnknown(f"{self.server.address}: {reason} before the answer came"))
        self.calls.clear()
        for stream in self.streams.values():
            stream.end(OutcomeUnknown(f"{stream.method} to {self.server.address}: {reason}"))
        self.streams.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    # -- the serving end --------------------------------------------------------------------------------------------

    def begin(self, request: int, method: str, work: Coroutine[Any, Any, None]) -> None:
        """Answer a request in the server's life."""
        if not self._server_life.is_alive:
            work.close()
            return
        self._requests[request] = self.server.spawn(self._guard(request, method, work), name=f"serve {method}")

    def cancel(self, request: int) -> None:
        """The caller has taken its request back."""
        task = self._requests.pop(request, None)
        if task is not None and self._server_life.is_alive:
            task.cancel()

    def notified(self, method: str, payload: Any) -> None:
        """A notification arrives."""
        if not self.is_open or not self._server_life.is_alive:
            return
        try:
            self.server.call(self._router.dispatch_notify, self.client_seen, method, payload)
        except SwarmpyError:
            # As on a real connection: refused, and nobody is told.
            return
        except Exception as error:
            self.net.loop.problems.append(f"{method} on {self.server.node_id}: {error!r}")

    async def serve_call(self, request: int, method: str, payload: Any) -> None:
        """One answer."""
        result = carried(await self._router.dispatch_call(self.client_seen, method, payload))
        if self.net.chance(self.net.options.answer_loss):
            self.lose("connection reset by peer")
            return
        self.down.send(partial(self._on_result, request, result))

    async def serve_stream(self, request: int, method: str, payload: Any) -> None:
        """Many answers."""
        items = self._router.dispatch_stream(self.client_seen, method, payload)
        try:
            async for item in items:
                self.down.send(partial(self._on_item, request, carried(item)))
                while len(self.down) > STREAM_QUEUE:
                    await asyncio.sleep(self.net.options.latency_mean_s)
        finally:
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()
        self.down.send(partial(self._on_end, request, None))

    async def _guard(self, request: int, method: str, work: Coroutine[Any, Any, None]) -> None:
        error: SwarmpyError = Unavailable(f"{method}: the handler was cancelled")
        try:
            await work
            self._requests.pop(request, None)
        except SwarmpyError as raised:
            detail = raised.leader if isinstance(raised, NotLeader) else ""
            error = from_code(raised.code, raised.message, detail)
        except Exception as defect:
            self.net.loop.problems.append(f"{method} on {self.server.node_id}: {defect!r}")
            error = SwarmpyError("internal error")
        finally:
            if self._requests.pop(request, None) is not None and self.is_open:
                self.down.send(partial(self._on_end, request, error))

    # -- the calling end --------------------------------------------------------------------------------------------

    def _on_result(self, request: int, result: Any) -> None:
        answer = self.calls.pop(request, None)
        if answer is not None and not answer.done():
            answer.set_result(result)

    def _on_item(self, request: int, item: Any) -> None:
        stream = self.streams.get(request)
        if stream is not None and not stream.put(item):
            del self.streams[request]
            self.up.send(partial(self.cancel, request))

    def _on_end(self, request: int, error: SwarmpyError | None) -> None:
        answer = self.calls.pop(request, None)
        if answer is not None and not answer.done() and error is not None:
            answer.set_exception(error)
        stream = self.streams.pop(request, None)
        if stream is not None:
            stream.end(error)


class SimChannel:
    """Implements ``ports.Channel`` over a simulated connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._peer = connection.server_seen
        self._last = 0

    @property
    def peer(self) -> Peer:
        """The other end."""
        return self._peer

    async def call(self, method: str, payload: Any, *, timeout: float) -> Any:
        """See ``ports.Channel``."""
        connection, request = self._connection, self._next(method)
        answer: asyncio.Future[Any] = connection.net.loop.create_future()
        connection.calls[request] = answer
        work = partial(connection.serve_call, request, method, carried(payload))
        connection.up.send(lambda: connection.begin(request, method, work()))
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise OutcomeUnknown(f"{method} to {self._peer.address}: no answer within {timeout:g} s") from None
        finally:
            if connection.calls.pop(request, None) is not None and connection.is_open:
                connection.up.send(partial(connection.cancel, request))

    def notify(self, method: str, payload: Any) -> bool:
        """See ``ports.Channel``."""
        connection = self._connection
        net, options = connection.net, connection.net.options
        if not connection.is_open:
            return False
        if net.chance(options.notify_loss):
            return True
        deliver = partial(connection.notified, method, carried(payload))
        if net.chance(options.notify_overtake):
            connection.up.send_apart(deliver)
        else:
            connection.up.send(deliver)
        if net.chance(options.notify_duplicate):
            connection.up.send_apart(deliver)
        return True

    def stream(self, method: str, payload: Any) -> SimStream:
        """See ``ports.Channel``."""
        connection = self._connection
        self._last += 1
        request = self._last
        stream = SimStream(connection, request, method)
        if not connection.is_open:
            stream.end(ConnectionFailed(f"{method} to {self._peer.address}: the connection is closed"))
            return stream
        connection.streams[request] = stream
        work = partial(connection.serve_stream, request, method, carried(payload))
        connection.up.send(lambda: connection.begin(request, method, work()))
        return stream

    async def wait_closed(self) -> None:
        """Return when the connection is gone."""
        await asyncio.shield(self._connection.closed)

    async def close(self) -> None:
        """Close. Idempotent."""
        self._connection.lose("the connection was closed")

    def _next(self, method: str) -> int:
        if not self._connection.is_open:
            raise ConnectionFailed(f"{method} to {self._peer.address}: the connection is closed")
        self._last += 1
        return self._last


class SimStream(AsyncIterator[Any]):
    """The answers of one stream, in order."""

    def __init__(self, connection: Connection, request: int, method: str) -> None:
        self.method = method
        self._connection = connection
        self._request = request
        self._items: deque[Any] = deque()
        self._error: SwarmpyError | None = None
        self._is_ended = False
        self._wake = asyncio.Event()

    def put(self, item: Any) -> bool:
        """Queue an answer; False when the reader is too far behind."""
        if len(self._items) >= STREAM_QUEUE:
            self.end(Unavailable(f"{self.method}: more than {STREAM_QUEUE} answers unread"))
            return False
        self._items.append(item)
        self._wake.set()
        return True

    def end(self, error: SwarmpyError | None) -> None:
        """No more answers."""
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
        """Take the request back."""
        self._items.clear()
        if not self._is_ended:
            self.end(None)
        if self._connection.streams.pop(self._request, None) is not None and self._connection.is_open:
            self._connection.up.send(partial(self._connection.cancel, self._request))


class SimDialer:
    """Implements ``ports.Dialer`` with the identity of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        """See ``ports.Dialer``."""
        net, client = self._host.net, self._host
        server = net.at(address)
        handshake = 2 * (net.latency() + net.latency())
        if server is not None:
            handshake += 2 * (
                net.link(client.node_id, server.node_id).far_s + net.link(server.node_id, client.node_id).far_s
            )
        if server is None or self._is_cut(server) or handshake > timeout:
            await asyncio.sleep(timeout)
            raise ConnectionFailed(f"{address} does not answer within {timeout:g} s")
        await asyncio.sleep(handshake)
        if self._is_cut(server):
            await asyncio.sleep(timeout - handshake)
            raise ConnectionFailed(f"{address} does not answer within {timeout:g} s")
        if not server.is_up:
            raise ConnectionFailed(f"{address}: connection refused")
        if expect is not None and server.node_id != expect:
            raise BadCertificate(f"{address} is node {server.node_id}, not {expect}")
        return SimChannel(net.connect(client, server))

    def _is_cut(self, server: Host) -> bool:
        net = self._host.net
        return net.is_blocked(self._host, server) or net.is_blocked(server, self._host)
