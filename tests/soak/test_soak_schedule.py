"""The schedule of faults: the same for the same seed, and within what a cluster must bear or is told to bear."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from schedule import LEADER, MOST_CLOCK_JUMP_S, Cast, Kind, draw_storm

CAST = Cast(
    managers=("m1", "m2", "m3", "m4", "m5"),
    workers=("w1", "w2", "w3"),
    small_disks=("m4", "m5"),
    spared=frozenset({"m1", "w3"}),
)
KILLS = {Kind.KILL, Kind.KILL_SEVERAL, Kind.KILL_MAJORITY, Kind.RESTART, Kind.DISK_FULL, Kind.DISK_LOST}


@given(seed=st.integers(0, 1 << 32), number=st.integers(0, 100))
def test_a_storm_is_drawn_from_its_seed(seed: int, number: int) -> None:
    """Again the same; in order and in time; of nodes that are there; ending no process that is spared."""
    storm = draw_storm(seed, number, CAST, list(Kind), 30)
    assert storm == draw_storm(seed, number, CAST, list(reversed(Kind)), 30)
    assert [fault.at for fault in storm] == sorted(fault.at for fault in storm)
    for fault in storm:
        assert 0 < fault.at < 30
        assert 0 < fault.duration < 15
        assert abs(fault.amount) <= MOST_CLOCK_JUMP_S
        assert fault.targets
        assert len(set(fault.targets)) == len(fault.targets)
        assert set(fault.targets) <= {LEADER, *CAST.nodes}
        if fault.kind in KILLS:
            assert not set(fault.targets) & CAST.spared


def test_only_kinds_that_are_possible() -> None:
    """Where no disk can be filled, none is."""
    kinds = [kind for kind in Kind if kind is not Kind.DISK_FULL]
    for number in range(50):
        assert all(fault.kind in kinds for fault in draw_storm(1, number, CAST, kinds, 60))


def test_every_kind_has_its_turn() -> None:
    """In a soak of an hour."""
    drawn = {fault.kind for number in range(140) for fault in draw_storm(1, number, CAST, list(Kind), 25)}
    assert drawn == set(Kind)


def test_a_majority_is_killed_when_it_says_so_only() -> None:
    """Several are a minority of the managers, a majority is one."""
    for number in range(200):
        for fault in draw_storm(7, number, CAST, [Kind.KILL_SEVERAL, Kind.KILL_MAJORITY], 25):
            killed = len(set(fault.targets) & set(CAST.managers))
            assert (killed >= CAST.majority) == (fault.kind is Kind.KILL_MAJORITY)
