"""What the audit log says of a request. It never holds a body, a token, a header or an answer.

Making an entry is all that happens on the loop; writing it down is the affair of whoever implements :class:`Auditor`.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import json.encoder
import re
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from swarmpy.api.callers import Caller, Door

QUERY_SHOWN = ("version", "force", "rollback", "rotateWorkerToken", "rotateManagerToken", "rotateManagerUnlockKey")
"""The parameters that say what was done. No others: a client may have put anything into them."""
MAX_TEXT_CHARS = 256
"""Of everything in an entry that a client chose."""
_SECRET = re.compile(r"SWM(?:TKN|KEY)-[0-9A-Za-z+/-]*")
"""Somebody may have put a token where a name belongs."""


@attrs.define(kw_only=True)
class AuditEntry:
    """One request that changes something, or that asked for a secret. Not to be changed; frozen it would cost more."""

    time_ns: int
    """When it came."""
    caller: Caller
    on_behalf_of: Caller | None = None
    """Whom the manager that forwarded it asks for, by its own word."""
    method: str
    path: str
    query: dict[str, str] = attrs.Factory(dict)
    """Of QUERY_SHOWN only."""
    about: dict[str, str] = attrs.Factory(dict)
    """The object: ``id`` and ``name`` of what was made, or the ``reference`` that was asked for."""
    status: int
    """Of the answer; 0: there was none, as the client or this daemon went away."""
    version: int = 0
    """The version of the state right after a write that was done; 0: not known."""
    duration_s: float


class Auditor(Protocol):
    """Takes entries. Never waits, never raises."""

    def record(self, entry: AuditEntry) -> None:
        """Keep the entry."""


class NoAudit:
    """An :class:`Auditor` that keeps nothing."""

    def record(self, entry: AuditEntry) -> None:
        """Forget it."""


def shown_query(query: dict[str, str]) -> dict[str, str]:
    """What an entry says of the parameters of a request."""
    if not query:
        return query
    return {name: query[name][:MAX_TEXT_CHARS] for name in QUERY_SHOWN if name in query}


# -- how it is written ----------------------------------------------------------------------------------------------


def as_line(entry: AuditEntry, user_name: Callable[[int], str]) -> str:
    """The entry as one line of JSON, without its end. ``user_name`` finds a user's name and may block."""
    parts = [
        f'"time": "{_time(entry.time_ns)}"',
        f'"who": {_who(entry.caller, user_name)}',
        f'"from": {_quoted(entry.caller.address)}',
    ]
    if entry.on_behalf_of is not None:
        parts.append(f'"for": {_who(entry.on_behalf_of, _no_name, with_address=True)}')
    parts += (f'"method": {_quoted(entry.method)}', f'"path": {_quoted(entry.path)}')
    if entry.query:
        parts.append(f'"query": {_shown_map(entry.query)}')
    if entry.about:
        parts.append(f'"object": {_shown_map(entry.about)}')
    parts.append(f'"status": {entry.status}')
    if entry.version:
        parts.append(f'"version": {entry.version}')
    parts.append(f'"ms": {entry.duration_s * 1000:.1f}')
    return f"{{{', '.join(parts)}}}"


def lost_line(time_ns: int, count: int) -> str:
    """The line that stands for entries that could not be kept."""
    return f'{{"time": "{_time(time_ns)}", "lost": {count}}}'


def _time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000_000:03}Z"


@functools.lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")


@functools.lru_cache(maxsize=1024)
def _who(caller: Caller, user_name: Callable[[int], str], *, with_address: bool = False) -> str:
    """A connection asks many times: what is said of it is made once."""
    out: dict[str, Any] = {"door": str(caller.door)}
    match caller.door:
        case Door.SOCKET:
            # Of another machine, a number says nothing of a name here.
            name = "" if caller.uid is None else user_name(caller.uid)
            out.update({"user": name} if name else {}, uid=caller.uid, pid=caller.pid)
        case Door.TCP:
            out.update(name=_shown(caller.name), role=caller.access.name.lower(), serial=caller.serial)
        case Door.FORWARDED:
            out.update(node=caller.node_id)
        case Door.STATUS:
            pass
    if with_address:
        out["from"] = _shown(caller.address)
    return json.dumps(out)


def _no_name(_uid: int) -> str:
    return ""


def _shown_map(texts: dict[str, str]) -> str:
    return json.dumps({name: _shown(text) for name, text in texts.items()})


def _quoted(text: str) -> str:
    return json.encoder.encode_basestring_ascii(_shown(text))


def _shown(text: str) -> str:
    if len(text) <= MAX_TEXT_CHARS and "SWM" not in text:
        return text
    return _SECRET.sub("(hidden)", text[: 2 * MAX_TEXT_CHARS])[:MAX_TEXT_CHARS]
