"""Durations, sizes, cores and numbers in text."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.compose.units import number_text, parse_cpus, parse_duration, parse_size

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("30s", 30 * SECOND),
        ("1m30s", 90 * SECOND),
        ("1h", 3600 * SECOND),
        ("1.5s", SECOND * 3 // 2),
        (".5s", SECOND // 2),
        ("500ms", SECOND // 2),
        ("10us", 10_000),
        ("10µs", 10_000),
        ("7ns", 7),
        ("+1s", SECOND),
        ("-0s", 0),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    """A duration is a sequence of numbers with units."""
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1d", "1 s", "-1s", "1s2", "1..5s", "1e3s", "999999999999999999h", "१s"]
)
def test_bad_durations_are_refused(text: str) -> None:
    """A number without a unit and units such as days are refused."""
    with pytest.raises(ValueError, match=r"duration|negative|too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("10", 10),
        ("10b", 10),
        ("1k", 1024),
        ("512kb", 512 * 1024),
        ("64M", 64 << 20),
        ("1GiB", 1 << 30),
        ("2 GB", 2 << 30),
        ("1.5g", 3 << 29),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Units are binary, whatever their case."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1X", "1 2", "1,5G", "9" * 18 + "p"])
def test_bad_sizes_are_refused(text: str) -> None:
    """What is no size is refused, and so is more than any machine has."""
    with pytest.raises(ValueError):
        parse_size(text)


def test_cpus() -> None:
    """Cores are counted in billionths."""
    assert parse_cpus("0.5") == 500_000_000
    assert parse_cpus(".25") == 250_000_000
    assert parse_cpus("2") == 2_000_000_000
    for text in ("", "x", "-1", "0.0000000001", "1e3", "nan"):
        with pytest.raises(ValueError):
            parse_cpus(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (0.5, "0.5"),
        (-2.25, "-2.25"),
        (100000.0, "100000"),
        (1000000.0, "1e+06"),
        (123456789.0, "1.23456789e+08"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (0.0, "0"),
        (float("inf"), "+Inf"),
    ],
)
def test_numbers_in_text(number: float, text: str) -> None:
    """A number in an environment is printed the way the field's tools print it."""
    assert number_text(number) == text


@given(st.text(max_size=20))
def test_any_text_is_an_amount_or_a_value_error(text: str) -> None:
    """No text makes a parser fail in another way."""
    for parse in (parse_duration, parse_size, parse_cpus):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
