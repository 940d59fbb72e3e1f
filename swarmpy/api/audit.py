"""What the audit log says of a request. It never holds a body, a token, a header or an answer.

Making an entry is all that happens on the loop; writing it down is the affair of whoever implements :class:`Auditor`.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from swarmpy.api.callers import Caller

QUERY_SHOWN = ("version", "force", "rollback", "rotateWorkerToken", "rotateManagerToken")
"""The parameters that say what was done. No others: a client may have put anything into them."""
MAX_TEXT_CHARS = 256
"""Of everything in an entry that a client chose."""


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
