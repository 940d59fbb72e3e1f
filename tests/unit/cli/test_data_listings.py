"""Secrets and configs as tables and lines."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from swarmpy.cli.data_listings import counted, listing, pretty, some

NOW = datetime(2026, 11, 29, 10, 0, 30, tzinfo=UTC)


def item(name: str, **spec: Any) -> dict[str, Any]:
    """As the API shows one."""
    return {
        "ID": f"id-{name}",
        "CreatedAt": "2026-11-29T10:00:00Z",
        "UpdatedAt": "2026-11-29T10:00:20.5Z",
        "Spec": {"Name": name, "Labels": {}, **spec},
        "Number": 2,
        "Versions": [
            {"ID": "old", "Number": 1, "CreatedAt": "a", "Services": [], "PreviousOf": ["web"], "RunningTasks": 0},
            {"ID": "new", "Number": 2, "CreatedAt": "b", "Services": ["api", "web"], "PreviousOf": [],
             "RunningTasks": 7},
        ],
    }  # fmt: skip


def test_a_listing_is_sorted_by_name() -> None:
    """With the number of the latest version and the ages."""
    found = listing([item("b"), item("a")], now=NOW)
    assert found.rows == (
        ("id-a", "a", "2", "30 seconds ago", "9 seconds ago"),
        ("id-b", "b", "2", "30 seconds ago", "9 seconds ago"),
    )


def test_one_for_people() -> None:
    """Labels, template, versions with the latest first, and a config's data; nothing that a terminal obeys."""
    data = base64.b64encode("ä\n\x1b[2J\tx\n".encode()).decode()
    shown = pretty(item("cfg", Labels={"b": "2", "a": "\x1b1"}, Templating={"Name": "golang"}, Data=data))
    assert shown.splitlines() == [
        "ID:          id-cfg",
        "Name:        cfg",
        "Labels:",
        " - a=?1",
        " - b=2",
        "Template:    golang",
        "Version:     2",
        "Created at:  2026-11-29T10:00:00Z",
        "Updated at:  2026-11-29T10:00:20.5Z",
        "Versions:",
        " NUMBER   ID    CREATED AT   SERVICES   RUNNING TASKS   KEPT FOR A ROLLBACK OF",
        " 2        new   b            api, web   7",
        " 1        old   a                       0               web",
        "Data:",
        "ä",
        "?[2J    x",
    ]
    assert "Data" not in pretty(item("tok"))


def test_many_names_are_some() -> None:
    """The first few, and how many more."""
    names = [f"s{number}" for number in range(8)]
    assert (counted(names, "service"), some(names)) == ("8 services", "s0, s1, s2, s3, s4 and 3 more")
    assert (counted(["a"], "service"), some(["a"])) == ("1 service", "a")
