"""Which manager an agent tries next."""

from __future__ import annotations

import random

from swarmpy.agent.known_managers import DISBELIEF_S, MAX_REDIRECTS, KnownManagers


class StoppedClock:
    """Time moves only when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def time_ns(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds


def known(*seeds: str, clock: StoppedClock | None = None) -> KnownManagers:
    """Managers known from seeds only."""
    return KnownManagers(lambda: seeds, random.Random(1), clock or StoppedClock())


def test_a_round_asks_everybody_once() -> None:
    """Learned managers and seeds are each tried once a round, without doubles."""
    managers = known("a:1", "b:1")
    managers.learn(["b:1", "c:1"])
    for _ in range(3):
        tried = [managers.next() for _ in range(3)]
        assert sorted(map(str, tried)) == ["a:1", "b:1", "c:1"]
        assert managers.round_is_over


def test_nobody_known() -> None:
    """Without any manager there is nobody to try."""
    assert known().next() is None


def test_a_redirect_is_next() -> None:
    """The leader that a manager names is tried at once, though nobody knew it."""
    managers = known("a:1")
    managers.next()
    assert managers.redirect("z:1")
    assert managers.next() == "z:1"


def test_redirects_in_circles_end() -> None:
    """Managers that name each other are left alone for a moment after a few redirects."""
    managers = known("a:1", "b:1")
    followed = 0
    while managers.redirect("a:1"):
        managers.next()
        followed += 1
    assert followed == MAX_REDIRECTS


def test_no_redirect_is_no_redirect() -> None:
    """A manager that does not know the leader sends nowhere."""
    assert not known("a:1").redirect("")


def test_a_redirect_to_the_dead_waits_for_its_turn() -> None:
    """Followers still name a leader that died: it is not tried before the others have been."""
    managers = known("a:1", "b:1", "c:1")
    managers.lost("a:1", reachable=False)
    order = []
    for _ in range(3):
        address = managers.next()
        order.append(address)
        if address != "a:1":
            assert not managers.redirect("a:1")
    assert order[-1] == "a:1"
    assert managers.redirect("a:1")


def test_a_redirect_to_one_that_is_back_is_followed() -> None:
    """Managers that still name the one that did not answer, when they have had time to elect another, are right."""
    clock = StoppedClock()
    managers = known("a:1", "b:1", "c:1", clock=clock)
    managers.lost("a:1", reachable=False)
    managers.next()
    assert not managers.redirect("a:1")
    clock.seconds += DISBELIEF_S
    assert managers.redirect("a:1")
    assert managers.next() == "a:1"
    managers.unreachable("a:1")
    assert not managers.redirect("a:1")


def test_a_manager_that_only_ended_the_session_is_asked_first() -> None:
    """A session that ended for a reason is opened again with the same manager."""
    managers = known("a:1", "b:1", "c:1")
    managers.lost("b:1", reachable=True)
    assert managers.next() == "b:1"
