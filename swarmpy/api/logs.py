"""``/services/{id}/logs`` and ``/tasks/{id}/logs``: what tasks on all nodes have written, in Docker's stream format."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from swarmpy.api.access import require_manager
from swarmpy.api.backend import NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.request import ApiRequest, ApiResponse, StreamedResponse
from swarmpy.api.router import Route, Scope
from swarmpy.errors import InvalidArgument, SwarmpyError
from swarmpy.manager import operations
from swarmpy.manager.log_reader import LogReader
from swarmpy.model.grammar import printable
from swarmpy.model.logs import ALL_LINES, STDERR, LogLine, LogOptions, LogPart, LogQuestion

_HEAD = struct.Struct(">BxxxI")
_SYSTEM_ERROR = 3
"""The stream on which Docker tells that it cannot go on; clients end with it as an error."""
_NS = 1_000_000_000
_MAX_SINCE_DIGITS = 12
_MAX_TAIL_DIGITS = 9


class LogsApi:
    """Handlers of logs."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route("GET", "/services/{id}/logs", Scope.READ, Access.ADMIN, self.of_service),
            Route("GET", "/tasks/{id}/logs", Scope.READ, Access.ADMIN, self.of_task),
        ]

    async def of_service(self, request: ApiRequest) -> ApiResponse:
        """``GET /services/{id}/logs``."""
        options = log_options(request)
        service = operations.find_service(require_manager(self._node).store.view(), request.params["id"])
        question = LogQuestion(service_id=service.id, options=options)
        return await self._answer(request, question, tty=service.spec.task.container.tty)

    async def of_task(self, request: ApiRequest) -> ApiResponse:
        """``GET /tasks/{id}/logs``."""
        options = log_options(request)
        task = operations.find_task(require_manager(self._node).store.view(), request.params["id"])
        question = LogQuestion(task_id=task.id, options=options)
        return await self._answer(request, question, tty=task.spec.container.tty)

    async def _answer(self, request: ApiRequest, question: LogQuestion, *, tty: bool) -> ApiResponse:
        shape = Shape(timestamps=request.boolean("timestamps"), details=request.boolean("details"), tty=tty)
        reader = LogReader(self._call_leader, question)
        await reader.open()
        return StreamedResponse(chunks=_chunks(reader, shape))

    async def _call_leader(self, method: str, payload: Any, timeout: float) -> Any:
        """By the manager that this node has at the moment. Raises NotInCluster when it has none any more."""
        return await require_manager(self._node).call_leader(method, payload, timeout)


class Shape:
    """How a line looks to the client."""

    def __init__(self, *, timestamps: bool, details: bool, tty: bool) -> None:
        self._timestamps = timestamps
        self._details = details
        self._tty = tty

    def line(self, part: LogPart, line: LogLine) -> bytes:
        """A line with its time, where it comes from, and the frame around it, as asked for."""
        text = line.data
        if self._details:
            text = _details(part, line) + b" " + text
        if self._timestamps:
            text = _stamp(line.timestamp_ns) + b" " + text
        return self.frame(line.stream, text)

    def frame(self, stream: int, text: bytes) -> bytes:
        """Without a terminal each line is a frame of its own."""
        return text if self._tty else _HEAD.pack(stream, len(text)) + text


def log_options(request: ApiRequest) -> LogOptions:
    """What is asked for. Raises InvalidArgument."""
    if request.query.get("until", "") not in ("", "0"):
        raise InvalidArgument("until is not supported for the logs of services and tasks: it is for containers")
    options = LogOptions(
        stdout=request.boolean("stdout"),
        stderr=request.boolean("stderr"),
        follow=request.boolean("follow"),
        details=request.boolean("details"),
        since_ns=_since(request.query.get("since", "")),
        tail=_tail(request.query.get("tail", "")),
    )
    if not options.stdout and not options.stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return options


def _since(text: str) -> int:
    """Seconds since the Unix epoch, with up to nine decimals."""
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if not text:
        return 0
    if not (digits.isascii() and digits.isdecimal()) or len(whole) > _MAX_SINCE_DIGITS or len(fraction) > 9:
        raise InvalidArgument(f"invalid value {printable(text)[:64]!r} of since: give seconds since 1970-01-01")
    return int(whole or "0") * _NS + int(fraction.ljust(9, "0"))


def _tail(text: str) -> int:
    if text in ("", "all"):
        return ALL_LINES
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_TAIL_DIGITS:
        raise InvalidArgument(f'tail value must be a positive integer or "all": {printable(text)[:64]!r}')
    return int(text)


async def _chunks(reader: LogReader, shape: Shape) -> AsyncGenerator[bytes, None]:
    try:
        async with contextlib.aclosing(reader.parts()) as parts:
            async for part, lines in parts:
                if part.notice:
                    now_ns = int(datetime.now(UTC).timestamp() * _NS)
                    lines = [*lines, LogLine(STDERR, now_ns, f"swarmpy: {printable(part.notice)}\n".encode())]  # noqa: PLW2901
                chunk = b"".join(shape.line(part, line) for line in lines)
                if chunk:
                    yield chunk
    except SwarmpyError as error:
        yield shape.frame(_SYSTEM_ERROR, f"the log was broken off: {printable(error.message)}\n".encode())


def _details(part: LogPart, line: LogLine) -> bytes:
    """Where a line comes from, and what the log driver has added, as Docker's clients take it apart: sorted by name,
    each quoted as in an address."""
    ids = (("node.id", part.node_id), ("service.id", part.service_id), ("task.id", part.task_id))
    ours = {f"com.docker.swarm.{key}".encode(): quote(value, safe="").encode() for key, value in ids}
    if not line.details:
        return b",".join(name + b"=" + value for name, value in ours.items())
    # The driver may have picked the same names from the container's labels; what the cluster knows counts.
    pairs = {pair.partition(b"=")[0]: pair.partition(b"=")[2] for pair in line.details.split(b",")} | ours
    return b",".join(name + b"=" + value for name, value in sorted(pairs.items()))


def _stamp(time_ns: int) -> bytes:
    """RFC 3339 with nine digits."""
    seconds, rest = divmod(time_ns, _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z".encode()
