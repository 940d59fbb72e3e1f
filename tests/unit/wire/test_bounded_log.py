"""Strangers can cause so many lines of a kind, and hide nobody else's among them."""

from __future__ import annotations

from typing import Any

from swarmpy.wire.bounded_log import ALL, EACH, MAX_TEXT_CHARS, BoundedLog


class Lines:
    """What was told, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.log = BoundedLog(lambda: self.now)

    def tell(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))


def test_one_origin_gets_few_lines_and_others_theirs() -> None:
    """A thousand lines of one are five; the one of another is told, with how many were left out."""
    lines = Lines()
    for number in range(1000):
        lines.log.tell(lines.tell, "refused", "bad", number=number)
    assert lines.told == [("refused", {"number": number}) for number in range(int(EACH.burst))]
    lines.log.tell(lines.tell, "refused", "good", number=7)
    assert lines.told[-1] == ("refused", {"number": 7, "left_out": 995})
    lines.log.tell(lines.tell, "other", "bad")
    assert lines.told[-1] == ("other", {})


def test_many_origins_get_few_lines_together() -> None:
    """In an hour of ten origins a second: the burst, and one line a second."""
    lines = Lines()
    for number in range(36_000):
        lines.now = number / 10
        lines.log.tell(lines.tell, "refused", f"o{number}")
    assert len(lines.told) <= ALL.burst + 3600 * ALL.per_s + 1
    assert len(lines.told) > 3000
    left_out = sum(fields.get("left_out", 0) for _, fields in lines.told)
    assert 36_000 - 11 < left_out + len(lines.told) <= 36_000


def test_texts_are_cut() -> None:
    """A line is a line."""
    lines = Lines()
    lines.log.tell(lines.tell, "refused", "bad", reason="x" * 10_000_000, count=3)
    assert lines.told == [("refused", {"reason": "x" * MAX_TEXT_CHARS, "count": 3})]
