"""``service logs`` and ``task logs``: what tasks have written, each line with the task and the node that it is of."""

from __future__ import annotations

import contextlib
import functools
import re
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import attrs
import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.endpoint import TcpEndpoint
from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound, ProtocolViolation, Unavailable

_HEAD = struct.Struct(">BxxxI")
_STDERR = 2
_SYSTEM_ERROR = 3
_MAX_FRAME_BYTES = 1 << 20
_ID_CHARS = 12
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_PREFIX = "com.docker.swarm."


@attrs.frozen(kw_only=True)
class LogsWanted:
    """The options of Docker's command."""

    follow: bool
    tail: str
    since: str
    timestamps: bool
    details: bool
    raw: bool
    no_task_ids: bool
    no_trunc: bool


def _check_tail(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdecimal()):
        raise click.BadParameter(f"{text!r} is neither a number of lines nor all")
    return text


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command Docker's options for logs, as ``wanted``."""

    @functools.wraps(command)
    def wrapped(**values: Any) -> Any:
        wanted = LogsWanted(**{field.name: values.pop(field.name) for field in attrs.fields(LogsWanted)})
        return command(**values, wanted=wanted)

    chosen: Callable[..., Any] = wrapped
    for option in reversed(
        (
            click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on."),
            click.option(
                "-n",
                "--tail",
                default="all",
                show_default=True,
                metavar="NUMBER|all",
                callback=_check_tail,
                help="So many last lines of each task.",
            ),
            click.option(
                "--since",
                default="",
                metavar="TIME",
                help="Only since a time (2026-11-29T10:00:00Z), or for so long (10m).",
            ),
            click.option("-t", "--timestamps", is_flag=True, help="Show when each line was written."),
            click.option("--details", is_flag=True, help="Show what the log driver has added to each line."),
            click.option("--raw", is_flag=True, help="Show the lines as they are."),
            click.option("--no-task-ids", is_flag=True, help="Show no ids of tasks."),
            click.option("--no-trunc", is_flag=True, help="Do not cut ids."),
        )
    ):
        chosen = option(chosen)
    return chosen


def since_of(text: str, now: float) -> str:
    """A time or a duration as the API takes it: seconds since the epoch. Raises InvalidArgument."""
    if not text:
        return ""
    if text.replace(".", "", 1).isdecimal():
        return text
    match = _DURATION.fullmatch(text)
    if match is not None and any(match.groups()):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return f"{max(0.0, now - 3600 * hours - 60 * minutes - seconds):.9f}"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"--since {text!r}: give a time (2026-11-29T10:00:00Z) or a duration (1h30m)") from None
    return f"{(at if at.tzinfo else at.astimezone(UTC)).timestamp():.9f}"


async def print_logs(endpoint: Path | TcpEndpoint, name: str, wanted: LogsWanted) -> None:
    """Print the logs of a service or task. Raises NotFound when it is neither."""
    async with ApiClient(endpoint) as client:
        path, tty = await _find(client, name)
        if tty and not wanted.raw:
            raise FailedPrecondition(f"{name} has a terminal: its log can be read with --raw only")
        query = {
            "stdout": "1",
            "stderr": "1",
            "details": "0" if wanted.raw and not wanted.details else "1",
            "follow": str(int(wanted.follow)),
            "timestamps": str(int(wanted.timestamps)),
            "tail": wanted.tail,
            "since": since_of(wanted.since, time.time()),
        }
        names = _Names(client, wanted)
        async with contextlib.aclosing(client.stream(path, query)) as pieces:
            if tty:
                async for piece in pieces:
                    _write(piece, err=False)
                return
            async for stream, text in _frames(pieces):
                if stream == _SYSTEM_ERROR:
                    raise Unavailable(text.decode(errors="replace").strip())
                line = text if wanted.raw else await names.before(text)
                _write(line, err=stream == _STDERR)


async def _find(client: ApiClient, name: str) -> tuple[str, bool]:
    for kind, place in (("services", ("Spec", "TaskTemplate", "ContainerSpec")), ("tasks", ("Spec", "ContainerSpec"))):
        path = f"/{kind}/{quote(name, safe='')}"
        try:
            found = await client.get(path)
        except NotFound:
            continue
        for key in place:
            found = found.get(key) or {}
        return f"{path}/logs", bool(found.get("TTY"))
    raise NotFound(f"no such task or service: {name}")


async def _frames(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[tuple[int, bytes]]:
    buffer = bytearray()
    async for piece in pieces:
        buffer += piece
        while len(buffer) >= _HEAD.size:
            stream, size = _HEAD.unpack_from(buffer)
            if size > _MAX_FRAME_BYTES:
                raise ProtocolViolation("the daemon sent a log that is none")
            if len(buffer) < _HEAD.size + size:
                break
            text = bytes(buffer[_HEAD.size : _HEAD.size + size])
            del buffer[: _HEAD.size + size]
            yield stream, text


class _Names:
    """Of tasks and nodes; each is asked for once."""

    def __init__(self, client: ApiClient, wanted: LogsWanted) -> None:
        self._client = client
        self._wanted = wanted
        self._known: dict[tuple[str, str], str] = {}

    async def before(self, text: bytes) -> bytes:
        """The line with what Docker's command puts before it."""
        stamp, rest = b"", text
        if self._wanted.timestamps:
            stamp, _, rest = text.partition(b" ")
        details, _, line = rest.partition(b" ")
        pairs = {
            unquote_plus(name): unquote_plus(value)
            for name, _, value in (pair.partition("=") for pair in details.decode(errors="replace").split(","))
        }
        ids = {key: pairs.pop(f"{_PREFIX}{key}.id", "") for key in ("task", "node", "service")}
        label = (ids["task"], ids["node"])
        if label not in self._known:
            self._known[label] = await self._label(*label)
        width = max(map(len, self._known.values()))
        shown = f"{self._known[label]:<{width}}    | "
        if self._wanted.details:
            # As Docker's command: for people, so not quoted.
            shown += ",".join(f"{name}={value}" for name, value in sorted(pairs.items())) + " "
        return (stamp + b" " if stamp else b"") + shown.encode() + line

    async def _label(self, task_id: str, node_id: str) -> str:
        cut = None if self._wanted.no_trunc else _ID_CHARS
        name, host = task_id[:cut], node_id[:cut]
        with contextlib.suppress(NotFound):
            host = (await self._client.node(node_id)).get("Description", {}).get("Hostname") or host
        with contextlib.suppress(NotFound):
            task = await self._client.get(f"/tasks/{quote(task_id, safe='')}")
            service = await self._client.service(task["ServiceID"])
            slot = task.get("Slot") or node_id[:cut]
            name = f"{service['Spec']['Name']}.{slot}"
            if not self._wanted.no_task_ids:
                name += f".{task_id[:cut]}"
        return f"{name}@{host}"


def _write(data: bytes, *, err: bool) -> None:
    """As it is: what programs write need be no text."""
    click.echo(data, nl=False, err=err)
