"""The HTTP server of one listening socket: aiohttp's parser, between our bounds on one side and our answers.

It knows no route. What comes out of a request is a plain record, and nothing in it is a character that is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import structlog
from aiohttp import web

from swarmpy.api.callers import Caller
from swarmpy.api.connection import Connection, Identify, Limits
from swarmpy.api.listener import Context, Listener
from swarmpy.api.negotiation import server_headers
from swarmpy.api.request import (
    HEADERS,
    ApiRequest,
    ApiResponse,
    StreamedResponse,
    error_response,
    message_response,
)
from swarmpy.errors import PermissionDenied

log = structlog.get_logger(__name__)

CLOSE_TIMEOUT_S = 2.0
"""How long requests in progress may go on when a server is closed."""
BACKLOG = 1024
LARGE_BYTES = 64 * 1024
"""Bodies and answers from this size on are counted against the memory that all clients share."""

Answer = Callable[["HttpRequest"], Awaitable[ApiResponse]]


@attrs.define(kw_only=True)
class HttpRequest:
    """A request as it came, and whose it is. Not to be changed; frozen it would cost more."""

    http: web.BaseRequest
    caller: Caller
    read_body: Callable[[], Awaitable[bytes | ApiResponse]]

    def plain(self, path: str) -> ApiRequest:
        """The same without its server, asking for ``path``."""
        query: dict[str, str] = {}
        for name, value in self.http.query.items():
            query.setdefault(name, value)
        headers = {name: value for key, value in self.http.headers.items() if (name := key.lower()) in HEADERS}
        return ApiRequest(method=self.http.method, path=path, caller=self.caller, query=query, headers=headers)


class _Budget:
    """So much of something, of all clients together."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, amount: int) -> bool:
        """True when there was so much left."""
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def give_back(self, amount: int) -> None:
        """What was taken is free again."""
        self._left += amount


class HttpServer:
    """One listening socket whose requests are answered by ``answer``."""

    def __init__(
        self,
        answer: Answer,
        version: str,
        identify: Identify,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``headers`` are on every answer, beside those that say what this server is."""
        self._answer = answer
        self._headers = {**server_headers(version), **(headers or {})}
        self._identify = identify
        self._limits = limits or Limits()
        self._by_http: dict[Any, Connection] = {}
        self._streaming: dict[Any, asyncio.Task[Any]] = {}
        """Answers that are made while they are sent, by whom they are sent to."""
        self._answering: dict[Any, asyncio.Task[Any]] = {}
        """The requests that are being answered, until their answers are sent, by whom they are sent to."""
        self._streams = _Budget(self._limits.streams)
        self._bodies = _Budget(self._limits.bodies_bytes)
        self._answers = _Budget(self._limits.answers_bytes)
        self._server: web.Server | None = None
        self._listener: Listener | None = None

    async def start(self, listening: socket.socket, context: Context | None = None) -> None:
        """Serve on a bound socket, which is this server's from now on."""
        limits = self._limits
        self._server = web.Server(
            self._respond,
            access_log=None,
            logger=_http_log(),
            # Of its own accord aiohttp ends a connection only when we should have done so long ago.
            keepalive_timeout=2 * (limits.idle_s + limits.head_s),
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            lingering_time=limits.head_s,
            auto_decompress=False,
        )
        listening.listen(BACKLOG)
        self._listener = Listener(listening, self._make, limits, context)
        self._listener.start()

    async def close(self) -> None:
        """Stop listening; what is being answered has CLOSE_TIMEOUT_S to come to its end. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        try:
            # First: those who have just come need the server.
            await listener.stop_accepting()
            server, self._server = self._server, None
            assert server is not None, "there is one as long as there is a listener"
            # aiohttp would wait for them, too.
            listener.end_idle()
            await self._finish()
            await server.shutdown(CLOSE_TIMEOUT_S)
        finally:
            listener.end_connections()

    async def _finish(self) -> None:
        """Wait for what is being answered, and give up what takes too long.

        Not left to aiohttp, which fails where an answer is ready in the moment in which it stops waiting for it.
        """
        if not self._answering:
            return
        _, late = await asyncio.wait(self._answering.values(), timeout=CLOSE_TIMEOUT_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CLOSE_TIMEOUT_S)

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return 0 if self._listener is None else len(self._listener.connections)

    def _make(self, on_lost: Callable[[Connection], None]) -> Connection:
        assert self._server is not None
        http = self._server()

        def lost(connection: Connection) -> None:
            self._by_http.pop(http, None)
            self._answering.pop(http, None)
            # An answer that has nothing to send for long would never notice.
            if (streaming := self._streaming.pop(http, None)) is not None:
                streaming.cancel()
            on_lost(connection)

        clock = asyncio.get_running_loop().time
        connection = Connection(http, self._limits, clock, self._identify, lost)
        self._by_http[http] = connection
        return connection

    # -- one request --------------------------------------------------------------------------------------------------

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._by_http.get(request.protocol)
        if connection is None:
            # It was lost before its turn came: nobody will read this.
            return web.Response(status=503)
        task = asyncio.current_task()
        assert task is not None, "requests are answered in tasks of their own"
        self._answering[request.protocol] = task
        task.add_done_callback(functools.partial(self._answer_sent, request.protocol))
        connection.request_started(has_body_to_come=not request.content.is_eof())
        held = 0

        async def read_body() -> bytes | ApiResponse:
            nonlocal held
            claimed = self._claim(request)
            if isinstance(claimed, ApiResponse):
                return claimed
            held = claimed
            body = await _collect(request, self._limits)
            connection.body_read()
            return body

        try:
            answer = await self._answered(request, connection, read_body)
            return await self._sent(request, answer)
        finally:
            self._bodies.give_back(held)
            connection.request_finished(was_read=request.content.is_eof())

    def _answer_sent(self, http: Any, task: asyncio.Task[Any]) -> None:
        if self._answering.get(http) is task:
            del self._answering[http]

    async def _answered(
        self, request: web.BaseRequest, connection: Connection, read_body: Callable[[], Awaitable[bytes | ApiResponse]]
    ) -> ApiResponse:
        try:
            if (malformed := _malformed(request)) is not None:
                return malformed
            assert connection.visitor is not None, "it has begun"
            caller = connection.visitor.admit()
            return await self._answer(HttpRequest(http=request, caller=caller, read_body=read_body))
        except PermissionDenied as error:
            return error_response(error)
        except Exception:
            # The boundary: whatever is wrong in here, the client gets an answer and the daemon goes on.
            log.exception("request_failed", method=request.method, path=request.path)
            return message_response(500, f"internal error while answering {request.method} {request.path}; see the log")

    async def _sent(self, request: web.BaseRequest, answer: ApiResponse) -> web.StreamResponse:
        if isinstance(answer, StreamedResponse):
            if self._streams.take(1):
                task = asyncio.current_task()
                assert task is not None, "requests are answered in tasks"
                self._streaming[request.protocol] = task
                try:
                    return await self._stream(request, answer)
                finally:
                    self._streaming.pop(request.protocol, None)
                    self._streams.give_back(1)
            await answer.chunks.aclose()
            answer = message_response(503, f"{self._limits.streams} answers are being sent already: try again shortly")
        size = len(answer.body)
        if size < LARGE_BYTES:
            return self._response(request, answer)
        if not self._answers.take(size):
            return self._response(
                request, message_response(503, "too many answers wait to be taken: try again shortly")
            )
        try:
            response = self._response(request, answer)
            await response.prepare(request)
            await response.write_eof()
            return response
        finally:
            self._answers.give_back(size)

    def _response(self, request: web.BaseRequest, answer: ApiResponse) -> web.Response:
        response = web.Response(status=answer.status, body=answer.body, headers=self._all_headers(answer))
        if self._server is None or not request.content.is_eof():
            response.force_close()
        return response

    def _all_headers(self, answer: ApiResponse) -> dict[str, str]:
        headers = {**self._headers, **answer.headers}
        if answer.content_type:
            headers["Content-Type"] = answer.content_type
        return headers

    async def _stream(self, request: web.BaseRequest, answer: StreamedResponse) -> web.StreamResponse:
        """Send an answer as it is made. One that cannot be made to its end is broken off: nobody takes it for whole."""
        response = web.StreamResponse(status=answer.status, headers=self._all_headers(answer))
        await response.prepare(request)
        try:
            async with contextlib.aclosing(answer.chunks) as chunks:
                async for chunk in chunks:
                    async with asyncio.timeout(self._limits.take_s):
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

    def _claim(self, request: web.BaseRequest) -> int | ApiResponse:
        """Claim room for a body that is still to come; the bytes claimed, or the answer to who asks for too much."""
        most, length = self._limits.body_bytes, request.content_length
        if length is not None and length > most:
            return _too_large(most)
        if request.content.is_eof():
            return 0
        # Of an unknown length it may become as large as any.
        claimed = most if length is None else length
        if claimed < LARGE_BYTES:
            return 0
        if not self._bodies.take(claimed):
            return message_response(503, "too many large requests at a time: try again shortly")
        return claimed


def _too_large(most: int) -> ApiResponse:
    return message_response(413, f"the request body is larger than {most} bytes")


async def _collect(request: web.BaseRequest, limits: Limits) -> bytes | ApiResponse:
    """The whole body, or the answer to one that is too large, too slow or broken."""
    if request.content.is_eof() and request.content.exception() is None:
        # It came with the headers, as small ones do: nothing is waited for.
        whole = request.content.read_nowait(-1)
        return _too_large(limits.body_bytes) if len(whole) > limits.body_bytes else whole
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limits.body_bytes:
                    return _too_large(limits.body_bytes)
    except TimeoutError:
        return message_response(408, f"the request body did not arrive within {limits.body_s:g} s")
    except (web.RequestPayloadError, ConnectionError) as error:
        return message_response(400, f"the request body is broken: {error}")
    return bytes(body)


def _malformed(request: web.BaseRequest) -> ApiResponse | None:
    """The answer to what the parser lets pass and nobody means well with; None for a request in good order."""
    if not request.raw_path.startswith("/"):
        return message_response(400, "only a path on this server can be asked for")
    if not request.path.isprintable() or not _is_text(request.query_string):
        return message_response(400, "malformed path: it has characters that no name has")
    if request.version >= (1, 1) and len(request.headers.getall("Host", ())) != 1:
        return message_response(400, "malformed request: it needs one Host header")
    if "Content-Encoding" in request.headers:
        return message_response(400, "malformed request: send the body as it is, without Content-Encoding")
    return None


def _is_text(text: str) -> bool:
    """False for what has half characters, or NUL, in it."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


class _Quiet(logging.Filter):
    """aiohttp tells each malformed request with a traceback: anybody could fill the log with them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say in one line, to who wants to know, what a client did wrong; let defects pass."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, web.HTTPException) or error is None or not type(error).__module__.startswith("aiohttp."):
            return True
        log.debug("request_malformed", reason=" ".join(str(error).split())[:200])
        return False


def _http_log() -> logging.Logger:
    found = logging.getLogger(__name__)
    if not any(isinstance(known, _Quiet) for known in found.filters):
        found.addFilter(_Quiet())
    return found
