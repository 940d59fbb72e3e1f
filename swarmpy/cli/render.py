"""Tables for people and lines for scripts. Pure: rows in, text out; the terminal only decides which."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import click

from swarmpy.model.grammar import printable

TABLE, JSON = "table", "json"
_GAP = "   "

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def table_or_json(what: str) -> Decorator:
    """``--format``, as ``output_format``; ``what`` is what both are."""
    choice = click.Choice((TABLE, JSON))
    return click.option("--format", "output_format", type=choice, default=TABLE, show_default=True, help=what)


format_option = table_or_json("A table, or one JSON object a line.")
quiet_option: Decorator = click.option("-q", "--quiet", is_flag=True, help="Only the ids.")


@attrs.frozen(kw_only=True)
class Listing:
    """Rows of text under headings; the first column identifies a row."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def plain_table(listing: Listing) -> str:
    """Aligned columns, as wide as their longest cell, in Docker's style; no cell is cut."""
    lines = [listing.headings, *(tuple(_one_line(cell) for cell in row) for row in listing.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(listing.headings))]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


Rows = list[tuple[str, object]]
"""What is told of one thing: words and what they are; lists have a line for each item."""


def rows_text(rows: Rows) -> str:
    """The rows with their values in a column; those without a value stay out."""
    told = [(word, value if isinstance(value, list) else [value]) for word, value in rows if value]
    width = max((len(word) for word, _ in told), default=0) + 1
    return "\n".join(
        f"{f'{word}:' if word and not index else '':<{width}} {_one_line(str(item))}".rstrip()
        for word, items in told
        for index, item in enumerate(items)
    )


def json_lines(listing: Listing) -> str:
    """One JSON object for each row, with Docker's names of the columns."""
    keys = [_json_key(heading) for heading in listing.headings]
    return "\n".join(to_json(dict(zip(keys, row, strict=True))) for row in listing.rows)


def _json_key(heading: str) -> str:
    return heading if heading == "ID" else "".join(word.capitalize() for word in heading.split())


def _one_line(cell: str) -> str:
    """The cell without line breaks or anything else that a terminal obeys: it may come from a node or an image."""
    indent = len(cell) - len(cell.lstrip(" "))
    return " " * indent + printable(" ".join(cell.split()))


def to_json(value: Any, indent: int | None = None) -> str:
    """Data as JSON for a terminal: readable in every language, with all that does not show itself escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "\n".join(_shown_json(line) for line in text.split("\n"))


def _shown_json(line: str) -> str:
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def show(listing: Listing, output_format: str = TABLE) -> None:
    """Prints a listing: JSON lines, a coloured table on a terminal, a plain one elsewhere."""
    if output_format == JSON:
        if listing.rows:
            click.echo(json_lines(listing))
    elif sys.stdout.isatty():
        _show_rich(listing)
    else:
        click.echo(plain_table(listing))


def show_ids(objects: Iterable[Mapping[str, Any]]) -> None:
    """Prints the ids of the API's objects, one a line."""
    click.echo("".join(f"{item['ID']}\n" for item in objects), nl=False)


def _show_rich(listing: Listing) -> None:
    from rich.console import Console

    Console(highlight=False).print(rich_table(listing))


def rich_table(listing: Listing) -> Any:
    """The listing as a borderless :class:`rich.table.Table` that fits the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in listing.headings:
        is_tight = heading in _TIGHT
        table.add_column(heading, no_wrap=is_tight, overflow="fold" if not is_tight else "ellipsis")
    for row in listing.rows:
        table.add_row(*(Text(_one_line(cell), style=style_of(cell)) for cell in row))
    return table


_TIGHT = frozenset({"ID", "NAME", "HOSTNAME", "STATUS", "AVAILABILITY", "MODE", "REPLICAS", "DESIRED STATE"})

_STYLES = {
    "Ready": "green",
    "Leader": "green",
    "Down": "red",
    "Unreachable": "red",
    "Disconnected": "red",
    "Unknown": "yellow",
    "Drain": "yellow",
    "Pause": "yellow",
}
_STATE_STYLES = {"Running": "green", "Failed": "red", "Rejected": "red", "Orphaned": "red", "Pending": "yellow"}


def style_of(cell: str) -> str:
    """The rich style of a cell: states are coloured, everything else is left alone."""
    return _STYLES.get(cell) or _STATE_STYLES.get(cell.partition(" ")[0], "")


def show_json(value: Any) -> None:
    """Prints data as indented JSON."""
    click.echo(to_json(value, indent=4))
