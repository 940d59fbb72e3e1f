"""Secrets and configs as the API answers, as rows of tables and lines. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from swarmpy.cli.listings import age
from swarmpy.cli.render import Listing, plain_table
from swarmpy.model.grammar import printable

Json = Mapping[str, Any]

SHOWN_NAMES = 5


def listing(found: Iterable[Json], *, now: datetime) -> Listing:
    """Sorted by name."""
    return Listing(
        headings=("ID", "NAME", "VERSION", "CREATED", "UPDATED"),
        rows=tuple(
            (
                str(item.get("ID", "")),
                _name(item),
                str(item.get("Number", 1)),
                age(str(item.get("CreatedAt", "")), now),
                age(str(item.get("UpdatedAt", "")), now),
            )
            for item in sorted(found, key=_name)
        ),
    )


def pretty(item: Json) -> str:
    """One for people: with its labels, its versions and who runs which, and a config's data."""
    spec = item.get("Spec", {})
    lines = [f"ID:          {item.get('ID', '')}", f"Name:        {_name(item)}"]
    labels = spec.get("Labels") or {}
    lines += ["Labels:", *(f" - {key}={value}" for key, value in sorted(labels.items()))] if labels else []
    if spec.get("Templating"):
        lines.append(f"Template:    {spec['Templating'].get('Name', '')}")
    lines.append(f"Version:     {item.get('Number', 1)}")
    lines.append(f"Created at:  {item.get('CreatedAt', '')}")
    lines.append(f"Updated at:  {item.get('UpdatedAt', '')}")
    lines = [printable(line) for line in lines]
    versions = item.get("Versions") or ()
    if versions:
        lines += ["Versions:", *(f" {line}" for line in plain_table(versions_listing(versions)).splitlines())]
    if "Data" in spec:
        lines += ["Data:", _text(str(spec["Data"]))]
    return "\n".join(lines)


def versions_listing(versions: Sequence[Json]) -> Listing:
    """The versions, the latest first."""
    return Listing(
        headings=("NUMBER", "ID", "CREATED AT", "SERVICES", "RUNNING TASKS", "KEPT FOR A ROLLBACK OF"),
        rows=tuple(
            (
                str(version.get("Number", "")),
                str(version.get("ID", "")),
                str(version.get("CreatedAt", "")),
                ", ".join(version.get("Services") or ()),
                str(version.get("RunningTasks", 0)),
                ", ".join(version.get("PreviousOf") or ()),
            )
            for version in reversed(versions)
        ),
    )


def counted(names: Sequence[str], word: str) -> str:
    """``2 services``."""
    return f"{len(names)} {word}{'' if len(names) == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    left = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {left} more" if left > 0 else "")


def _name(item: Json) -> str:
    return str(item.get("Spec", {}).get("Name", ""))


def _text(data: str) -> str:
    """A config's data, with nothing that a terminal obeys but the ends of its lines."""
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""
    return "\n".join(printable(line.expandtabs()) for line in text.splitlines())
