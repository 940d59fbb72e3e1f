"""Times as Docker writes them: RFC 3339 in UTC with as many digits of the second as are needed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from swarmpy.model.objects import Meta

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: "never"."""

_SECOND_NS = 1_000_000_000
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999, after which the form has no more digits."""


def rfc3339_nano(time_ns: int) -> str:
    """Nanoseconds since the epoch as ``2026-11-22T20:57:31.0123Z``; 0 is Go's zero time."""
    if time_ns <= 0:
        return ZERO
    seconds, fraction = divmod(time_ns, _SECOND_NS)
    text = datetime.fromtimestamp(min(seconds, _LAST_SECOND), tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def meta_to_json(meta: Meta) -> dict[str, Any]:
    """The three fields that every object of the cluster starts with after its ID."""
    return {
        "Version": {"Index": meta.version},
        "CreatedAt": rfc3339_nano(meta.created_at_ns),
        "UpdatedAt": rfc3339_nano(meta.updated_at_ns),
    }
