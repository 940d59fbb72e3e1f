"""What the audit log says of a request. It never holds a body, a token, a header or an answer.

Making an entry is all that happens on the loop; writing it down is the affair of whoever implements :class:`Auditor`.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from swarmpy.api.callers import Caller, Door

QUERY_SHOWN = ("version", "force", "rollback", "rotateWorkerToken", "rotateManagerToken")
"""The parameters that say what was done. No others: a client may have put anything into them."""
MAX_TEXT_CHARS = 256
"""Of everything in an entry that a client chose."""
_SECRET = re.compile(r"SWM(?:TKN|KEY)-[0-9A-Za-z-]*")
"""Somebody may have put a token where a name belongs."""


@attrs.frozen(kw_only=True)
class AuditEntry:
    """One request that changes something, or that asked for a secret."""

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
    moment = dt.datetime.fromtimestamp(entry.time_ns / 1e9, dt.UTC)
    out: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "who": _who(entry.caller, user_name),
        "from": entry.caller.address,
        "method": _shown(entry.method),
        "path": _shown(entry.path),
    }
    if entry.on_behalf_of is not None:
        out["for"] = {**_who(entry.on_behalf_of, lambda _: ""), "from": _shown(entry.on_behalf_of.address)}
    if entry.query:
        out["query"] = {name: _shown(value) for name, value in entry.query.items()}
    if entry.about:
        out["object"] = {name: _shown(value) for name, value in entry.about.items()}
    out["status"] = entry.status
    if entry.version:
        out["version"] = entry.version
    out["ms"] = round(entry.duration_s * 1000, 1)
    return json.dumps(out)


def lost_line(time_ns: int, count: int) -> str:
    """The line that stands for entries that could not be kept."""
    moment = dt.datetime.fromtimestamp(time_ns / 1e9, dt.UTC)
    return json.dumps({"time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "lost": count})


def _who(caller: Caller, user_name: Callable[[int], str]) -> dict[str, Any]:
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
    return out


def _shown(text: str) -> str:
    return _SECRET.sub("(hidden)", text[: 2 * MAX_TEXT_CHARS])[:MAX_TEXT_CHARS]
