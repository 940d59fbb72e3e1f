"""Token buckets: never more than the burst and what time has brought."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.model.rates import Bucket, Buckets, Rate

RATE = Rate(burst=5, per_s=2)


@given(steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), max_size=60))
def test_never_more_than_the_burst_and_the_time(steps: list[tuple[float, int]]) -> None:
    """However the takers come: what they get in any stretch from the start is bounded by it."""
    bucket, now, taken = Bucket(RATE, 0.0), 0.0, 0
    for wait, amount in steps:
        now += wait
        taken += amount if bucket.take(now, amount) else 0
        assert taken <= RATE.burst + RATE.per_s * now + 1e-6


@given(steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), max_size=60))
def test_who_waits_as_long_as_told_owes_nothing(steps: list[tuple[float, int]]) -> None:
    """After the wait that is told there is no debt, however much was taken at once."""
    bucket, now = Bucket(RATE, 0.0), 0.0
    for wait, amount in steps:
        now += wait
        now += bucket.owe(now, amount)
        assert bucket.owe(now, 0) <= 1e-6


def test_what_is_refused_costs_nothing() -> None:
    """A refused one takes nothing, and is told when to come again."""
    bucket = Bucket(RATE, 0.0)
    assert bucket.take(0.0, 5)
    assert not bucket.take(0.1)
    assert bucket.wait_s(0.1) == pytest.approx(0.4)
    assert not bucket.take(0.4)
    assert bucket.take(0.5)


def test_a_clock_that_stands_still_or_goes_back_brings_nothing() -> None:
    """Time that has been counted is not counted again."""
    bucket = Bucket(RATE, 10.0)
    assert bucket.take(10.0, 5)
    assert not bucket.take(3.0)
    assert not bucket.take(10.0)
    assert bucket.take(10.5)


def test_what_is_given_back_is_there_again() -> None:
    """But never more than the burst."""
    bucket = Bucket(RATE, 0.0)
    assert bucket.take(0.0, 5)
    bucket.give_back(2)
    assert bucket.take(0.0, 2)
    bucket.give_back(100)
    assert bucket.take(0.0, 5)
    assert not bucket.take(0.0)


def test_what_is_drained_is_never_owed() -> None:
    """A penalty takes what is there, and time begins to fill it again at once."""
    bucket = Bucket(RATE, 0.0)
    bucket.drain(0.0, 3)
    assert bucket.take(0.0, 2)
    bucket.drain(0.0, 100)
    assert bucket.wait_s(0.0) == pytest.approx(0.5)
    bucket.owe(0.0, 2)
    bucket.drain(0.0, 100)
    assert bucket.wait_s(0.0) == pytest.approx(1.5)


def test_a_table_is_bounded() -> None:
    """The key that was used longest ago is forgotten, whoever else comes."""
    table: Buckets[str] = Buckets(RATE, most=3)
    assert table.of("a", 0.0).take(0.0, 5)
    for key in "bcd":
        table.of(key, 0.0)
        table.of("a", 0.0)
    assert len(table) == 3
    assert not table.of("a", 0.0).take(0.0)
    for key in "efg":
        table.of(key, 0.0)
    assert table.of("a", 0.0).take(0.0)
