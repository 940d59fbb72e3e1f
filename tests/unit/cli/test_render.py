"""Tables and lines."""

from __future__ import annotations

import io
import json

from rich.console import Console

from swarmpy.cli.render import Listing, json_lines, plain_table, rich_table, style_of, to_json

LISTING = Listing(
    headings=("ID", "NAME", "CURRENT STATE"),
    rows=(("abc", "web.1", "Running 3 seconds ago"), ("abcdef", "db\n1", "Failed 1 minute ago")),
)


def test_plain_tables_are_aligned() -> None:
    """Columns are as wide as their longest cell; a cell is one line and nothing trails."""
    assert plain_table(LISTING) == (
        "ID       NAME    CURRENT STATE\nabc      web.1   Running 3 seconds ago\nabcdef   db 1    Failed 1 minute ago"
    )


def test_an_indent_stays() -> None:
    """Earlier attempts of a task are set in under the one that counts."""
    assert plain_table(Listing(headings=("A",), rows=(("x",), (" \\_ x",)))) == "A\nx\n \\_ x"


def test_json_is_an_object_a_line() -> None:
    """Scripts get one object for each row, with the columns' names in Docker's spelling."""
    rows = [json.loads(line) for line in json_lines(LISTING).splitlines()]
    assert rows[0] == {"ID": "abc", "Name": "web.1", "CurrentState": "Running 3 seconds ago"}


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    """What a node, an image or a task says of itself moves no cursor and hides nothing."""
    evil = Listing(headings=("A",), rows=(("web\x1b[2J\x1b]0;x\x07\x9b31m\u202eabc\r",),))
    assert plain_table(evil) == "A\nweb?[2J?]0;x??31m?abc"
    for text in (json_lines(evil), to_json({"a": evil.rows[0]}, indent=4)):
        assert text.replace("\n", "").isprintable()
    assert json.loads(json_lines(evil)) == {"A": evil.rows[0][0]}
    assert to_json("ü€😀\x7f") == '"ü€😀\\u007f"'


def test_an_empty_table_has_its_headings() -> None:
    """Nothing to list still shows what would be listed."""
    assert plain_table(Listing(headings=("A", "B"), rows=())) == "A   B"


def rendered(width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(rich_table(LISTING))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_rich_tables_fit_the_terminal() -> None:
    """On a wide terminal nothing is cut, on a narrow one long cells are folded."""
    assert rendered(80) == (
        "ID       NAME    CURRENT STATE\nabc      web.1   Running 3 seconds ago\nabcdef   db 1    Failed 1 minute ago"
    )
    assert max(len(line) for line in rendered(30).splitlines()) <= 30
    assert "seconds ago" in " ".join(rendered(30).split())


def test_states_are_coloured() -> None:
    """What is wrong is red; a name that only looks like markup is left alone."""
    assert style_of("Running 3 seconds ago") == "green"
    assert style_of("Failed 1 minute ago") == "red"
    assert style_of("web.1") == ""
    out = io.StringIO()
    Console(file=out, width=40, color_system=None).print(rich_table(Listing(headings=("A",), rows=(("[red]x[/]",),))))
    assert "[red]x[/]" in out.getvalue()
