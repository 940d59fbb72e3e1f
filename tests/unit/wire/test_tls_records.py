"""The stream of TLS cut into its records."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.wire.tls_records import ENOUGH, MAX_BYTES, MAX_IDLE, Records


def record(size: int, kind: int = 23) -> bytes:
    """One of so many bytes behind its head."""
    return bytes([kind, 3, 3]) + size.to_bytes(2, "big") + b"x" * size


@given(
    sizes=st.lists(st.integers(0, 300), max_size=40),
    most=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_however_it_comes_it_is_handed_on_in_order(sizes: list[int], most: int, seed: int) -> None:
    """In whole records, so many at most, whatever the pieces that it comes in."""
    sent, cuts = b"".join(map(record, sizes)), random.Random(seed)
    records, got, count, at = Records(), b"", 0, 0
    buffer = bytearray(200)
    while at < len(sent):
        piece = sent[at : at + cuts.randint(1, 200)]
        buffer[: len(piece)] = piece
        records.add(memoryview(buffer)[: len(piece)])
        at += len(piece)
        while (found := records.next(most))[1]:
            assert 0 < found[1] <= most
            got, count = got + bytes(found[0]), count + found[1]
            assert got == sent[: len(got)]
        if cuts.random() < 0.3:
            # Something else may be added before all was asked for.
            records.add(memoryview(b""))
        records.keep()
    assert (got, count, len(records)) == (sent, len(sizes), 0)


def test_one_that_comes_alone_need_not_wait() -> None:
    """Only if it is whole, of data, and nothing came before it."""
    records = Records()
    assert records.is_next(memoryview(record(300)))
    assert not records.is_next(memoryview(record(300)[:-1]))
    assert not records.is_next(memoryview(record(300) + b"\x17"))
    assert not records.is_next(memoryview(record(300, kind=22)))
    assert not records.is_next(memoryview(b""))
    records.add(record(3))
    assert not records.is_next(memoryview(record(300)))
    records.next()
    assert records.is_next(memoryview(record(300)))


def test_a_record_that_is_not_whole_waits() -> None:
    """The largest, too; OpenSSL gets nothing before."""
    records, whole = Records(), record(MAX_BYTES - 5)
    records.add(whole[:-1])
    assert records.next() == (b"", 0)
    records.add(whole[-1:] + b"\x17\x03")
    assert records.next() == (whole, 1)
    assert records.next() == (b"", 0)
    assert len(records) == 2


@pytest.mark.parametrize(
    "words", [b"G", b"GET / HTTP/1.1\r\n", b"\x16\x02", b"\x80\x2e\x01", record(MAX_BYTES), b"\x17\x03\x03\xff\xff"]
)
def test_what_is_no_record_is_handed_on_at_once(words: bytes) -> None:
    """OpenSSL is to say what is wrong with it, rather than nobody."""
    records = Records()
    records.add(record(3) + words)
    assert records.next() == (record(3) + words, 2)


def test_records_without_data_are_few() -> None:
    """Some in a row, and some again after enough that have data."""
    records = Records()
    assert records.gave(MAX_IDLE, 0)
    assert not records.gave(1, 0)
    records = Records()
    for _ in range(3):
        assert records.gave(MAX_IDLE, 0)
        assert records.gave(ENOUGH, ENOUGH)
    assert not records.gave(MAX_IDLE + 1, 0)
