"""What ``swarm leave`` shows of a node that waits for its tasks."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.leave import observe

WEB = {"service": "web", "left": 2, "missing": 1, "reasons": ["waits: web may miss at most 1 task"]}


def leaving(left: int | None, *services: dict[str, Any]) -> dict[str, Any]:
    """As a status has it."""
    return {"waited_s": 0.1, "timeout_s": 40.0, "left": left, "services": list(services)}


@pytest.mark.parametrize(
    ("status", "lines", "is_there"),
    [
        (leaving(None), ["this node  waits for a manager"], False),
        (leaving(0), ["this node  no tasks left"], True),
        (leaving(2, WEB), ["this node  2 tasks left", "web  2 tasks left, 1 not running elsewhere yet"], False),
        (
            leaving(0, {"service": "db", "left": 0, "missing": 1, "reasons": ["starting"]}),
            ["this node  no tasks left", "db  1 not running elsewhere yet"],
            True,
        ),
    ],
)
def test_observe(status: dict[str, Any], lines: list[str], is_there: bool) -> None:
    """The node first, then the services of which something is left or missing."""
    picture = observe(status)
    assert [item.line() for item in picture] == lines
    assert all(item.is_there for item in picture) is is_there


def test_reasons_are_shown_as_text() -> None:
    """They come from others: no control character reaches the terminal."""
    _, service = observe(leaving(1, {**WEB, "reasons": ["a\x1b[31m"], "service": "w\x07b"}))
    assert "\x1b" not in service.reasons[0]
    assert "\x07" not in service.line()
