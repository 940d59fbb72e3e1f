"""``swarmpy audit``: who asked this node's API for what, from the files in its data directory."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from swarmpy.cli.render import JSON, Listing, show, table_or_json
from swarmpy.cli.settings import Settings, data_dir_option, pass_settings
from swarmpy.compose.units import parse_duration
from swarmpy.errors import NotFound, PermissionDenied
from swarmpy.node.audit_log import FILE, FILES, numbered

Entry = dict[str, Any]


@click.command()
@click.option("--since", metavar="DURATION", help="Only what is not older: 10m, 24h  [default: all there is].")
@table_or_json("A table, or the lines as they are in the log.")
@data_dir_option
@pass_settings
def audit(settings: Settings, since: str | None, output_format: str) -> None:
    """Show who asked this node's API for what: every write, and every look at a secret, refused ones too."""
    after = "" if since is None else _moment_before(since)
    entries = [entry for entry in read(settings.data_dir / FILE) if str(entry.get("time", "")) >= after]
    if output_format == JSON:
        for entry in entries:
            click.echo(json.dumps(entry))
        return
    show(
        Listing(
            headings=("TIME", "WHO", "FROM", "REQUEST", "OBJECT", "STATUS", "VERSION"),
            rows=tuple(row(entry) for entry in entries),
        )
    )


def _moment_before(duration: str) -> str:
    try:
        ago_ns = parse_duration(duration)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error
    moment = dt.datetime.fromtimestamp((time.time_ns() - ago_ns) / 1e9, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read(path: Path) -> Iterator[Entry]:
    """All entries, oldest first. A line that is not whole, as a crash leaves it, is passed over.

    Raises NotFound when there is no log, PermissionDenied when it is not this user's.
    """
    files = [*(numbered(path, number) for number in range(FILES, 0, -1)), path]
    is_there = False
    for file in files:
        try:
            lines = file.open("rb")
        except FileNotFoundError:
            continue
        except PermissionError:
            raise PermissionDenied(f"cannot read {file}: run this as the daemon's user") from None
        is_there = True
        with lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry
    if not is_there:
        raise NotFound(f"there is no audit log in {path.parent}: is it the data directory of a daemon that was used?")


def row(entry: Entry) -> tuple[str, ...]:
    """An entry as a row of the table."""
    return tuple("".join(char if char.isprintable() else "?" for char in cell) for cell in _cells(entry))


def _cells(entry: Entry) -> tuple[str, ...]:
    if "lost" in entry:
        return (str(entry.get("time", "")), "-", "-", f"{entry['lost']} entries were lost here", "", "", "")
    about = entry.get("object") or {}
    return (
        str(entry.get("time", "")),
        who(entry.get("who") or {}) + (f" for {who(entry['for'])}" if "for" in entry else ""),
        str(entry.get("from", "")),
        f"{entry.get('method', '')} {entry.get('path', '')}",
        str(about.get("name") or about.get("reference") or about.get("id") or ""),
        str(entry.get("status", "")),
        str(entry.get("version", "")),
    )


def who(caller: Entry) -> str:
    """Who asked, in a few characters."""
    match caller.get("door"):
        case "socket":
            return f"{caller.get('user') or caller.get('uid')} (pid {caller.get('pid')})"
        case "tcp":
            return f"{caller.get('name')} ({caller.get('role')})"
        case "forwarded":
            return f"manager {caller.get('node')}"
        case _:
            return str(caller.get("door", "?"))
