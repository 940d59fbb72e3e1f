"""What tasks have written, on its way from the node that runs them to whoever reads it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

import attrs

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import NodeId, TaskId

STDOUT = 1
STDERR = 2
"""As in Docker's stream format."""
LINE_BYTES = 64 * 1024
"""The longest line, or part of one, that is passed on; Docker's own drivers cut at 16 KiB."""
DETAILS_BYTES = 4 * 1024
"""The longest details of a line that are passed on: they come with each line again."""
BATCH_BYTES = 64 * 1024
"""When a batch is full: small enough not to hold up the heartbeats behind it."""
MAX_BATCH_BYTES = BATCH_BYTES + LINE_BYTES + DETAILS_BYTES + 1024
"""What a batch has at most: it is full when a last line makes it so."""
ALL_LINES = -1

_HEAD = struct.Struct(">BqHI")
HEAD_BYTES = _HEAD.size
_DETAILS = re.compile(rb"[!-~]*")


@attrs.frozen(kw_only=True)
class LogOptions:
    """What is wanted of a task's output."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since_ns: int = 0
    """Only what was written at this time or later; nanoseconds since the Unix epoch."""
    tail: int = ALL_LINES
    """The last lines of what there is; ALL_LINES: all."""
    details: bool = False
    """Also what the log driver picked of the container's labels and environment."""
    after_ns: int = 0
    """Where a reader goes on that was interrupted: only what was written after this. ``tail`` counts no more then."""

    def wants(self, line: LogLine) -> bool:
        """True when the line is of a stream and a time that are asked for."""
        is_of_stream = self.stdout if line.stream == STDOUT else self.stderr
        return is_of_stream and line.timestamp_ns >= self.since_ns and line.timestamp_ns > self.after_ns


@attrs.frozen
class LogLine:
    """A line with its newline, or a part of a long one."""

    stream: int
    timestamp_ns: int
    data: bytes = attrs.field(repr=False)
    details: bytes = attrs.field(default=b"", repr=False)
    """``name=value,name=value``, each quoted as in an address: what the log driver has added."""

    def bounded(self) -> LogLine:
        """The line as long as lines may be. Details are whole or not there: half a value would be another one."""
        if len(self.data) <= LINE_BYTES and len(self.details) <= DETAILS_BYTES:
            return self
        details = self.details if len(self.details) <= DETAILS_BYTES else b""
        return LogLine(self.stream, self.timestamp_ns, self.data[:LINE_BYTES], details)

    @property
    def size(self) -> int:
        """Its bytes in a batch."""
        return HEAD_BYTES + len(self.details) + len(self.data)


@attrs.frozen(kw_only=True)
class LogOrder:
    """A manager wants the log of a task of this node."""

    id: str
    """Of the subscription."""
    task_id: TaskId
    options: LogOptions


@attrs.frozen(kw_only=True)
class LogBatch:
    """What an agent sends for an order."""

    session_id: str
    id: str
    task_id: TaskId
    number: int = 0
    """From 1 on, in the session: one whose answer was lost is sent again."""
    lines: bytes = attrs.field(default=b"", repr=False)
    """As :func:`pack_lines` makes them."""
    ended: bool = False
    """There is no more."""
    error: str = ""
    """Why there is no more, where that is not the end of the log."""


@attrs.frozen(kw_only=True)
class LogBatchReply:
    """``accepted``: False when the reader has not taken what came before: send it again. ``wanted``: False when
    nobody reads it any more."""

    accepted: bool = True
    wanted: bool = True


@attrs.frozen(kw_only=True)
class LogQuestion:
    """A manager asks the leader for the log of a service (as long as it has tasks) or of a task."""

    service_id: str = ""
    task_id: str = ""
    options: LogOptions
    after: dict[str, int] = attrs.Factory(dict)
    """By task: where a reader goes on that had another leader before."""


@attrs.frozen(kw_only=True)
class LogPart:
    """Some lines of a task, or (``notice``) why there are none."""

    task_id: TaskId
    node_id: NodeId
    service_id: str = ""
    lines: bytes = attrs.field(default=b"", repr=False)
    notice: str = ""


@attrs.frozen(kw_only=True)
class LogParts:
    """The answer of the leader to one question for more."""

    parts: tuple[LogPart, ...] = ()
    ended: bool = False


def pack_lines(lines: Iterable[LogLine]) -> bytes:
    """Lines as bytes: of each its stream, its time, the lengths of its details and of the line, and both."""
    return b"".join(
        _HEAD.pack(line.stream, line.timestamp_ns, len(line.details), len(line.data)) + line.details + line.data
        for line in lines
    )


def unpack_lines(data: bytes) -> Iterator[LogLine]:
    """What :func:`pack_lines` made. Raises InvalidArgument where it is something else."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise InvalidArgument("a batch of a log ends within a line")
        stream, timestamp_ns, before, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        is_too_long = before > DETAILS_BYTES or size > LINE_BYTES or before + size > len(data) - at
        details = data[at : at + before]
        # A blank would end them for the client: what follows would pass for the line.
        if stream not in (STDOUT, STDERR) or is_too_long or timestamp_ns < 0 or not _DETAILS.fullmatch(details):
            raise InvalidArgument("a batch of a log has a line that is none")
        at += before
        yield LogLine(stream, timestamp_ns, data[at : at + size], details)
        at += size
