"""How long a leader waits by its own measure."""

from __future__ import annotations

from swarmpy.control.waiting import Waits

S = 1_000_000_000


class Steady:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_wait_ends_by_the_clock_or_when_it_has_been_long_enough() -> None:
    """Whatever comes first."""
    steady = Steady()
    waits = Waits(steady)
    assert waits.left_ns("a", 1000 * S, 997 * S, 5 * S) == 3 * S
    assert waits.left_ns("b", 9000 * S, 997 * S, 5 * S) == 5 * S
    waits.decided()
    steady.now += 4
    assert waits.left_ns("a", 1000 * S, 999 * S, 5 * S) == S
    assert waits.left_ns("b", 9000 * S, 999 * S, 5 * S) == S
    waits.decided()
    steady.now += 1
    assert waits.left_ns("a", 1000 * S, 1001 * S, 5 * S) == 0
    assert waits.left_ns("b", 9000 * S, 1001 * S, 5 * S) == 0
    assert waits.pending is True


def test_what_is_asked_for_anew_begins_anew() -> None:
    """Another time is another wait, and so is one that was not asked for in between."""
    steady = Steady()
    waits = Waits(steady)
    assert waits.left_ns("a", 9000 * S, 0, 5 * S) == 5 * S
    waits.decided()
    steady.now += 4
    assert waits.left_ns("a", 9001 * S, 0, 5 * S) == 5 * S
    waits.decided()
    waits.decided()
    assert waits.pending is False
    assert waits.left_ns("a", 9001 * S, 0, 5 * S) == 5 * S
