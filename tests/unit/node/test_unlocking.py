"""How long the next unlock key has to wait."""

from __future__ import annotations

from swarmpy.node.unlocking import MOST_WAIT_S, Attempts


def test_each_wrong_key_makes_the_next_one_wait_longer() -> None:
    """Twice as long each time, up to a bound; time that has passed counts."""
    attempts = Attempts()
    assert attempts.wait_s(5.0) == 0
    assert [attempts.failed(100.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert attempts.wrong == 7
    assert attempts.wait_s(110.0) == MOST_WAIT_S - 10
    assert attempts.wait_s(200.0) == 0
    attempts.succeeded()
    assert (attempts.wrong, attempts.wait_s(100.0)) == (0, 0)
