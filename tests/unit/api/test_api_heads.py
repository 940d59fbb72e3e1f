"""The meter of request heads: it says the same however the bytes come in pieces, and bounds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.api.heads import Head, HeadMeter

GOOD = b"GET /info HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"


def meter(*, most_bytes: int = 1000, most_lines: int = 20) -> HeadMeter:
    return HeadMeter(most_bytes=most_bytes, most_lines=most_lines)


def fed(pieces: list[bytes], **bounds: int) -> list[Head]:
    made = meter(**bounds)
    return [made.feed(piece) for piece in pieces]


def test_a_head_from_nothing_to_its_end() -> None:
    """A head that comes whole is complete at once, one in pieces with its last byte; then the next may come."""
    assert meter().state is Head.NONE
    assert fed([GOOD]) == [Head.COMPLETE]
    assert fed([GOOD[:-1], GOOD[-1:]]) == [Head.BEGUN, Head.COMPLETE]
    made = meter()
    assert made.feed(GOOD + b"what follows") is Head.COMPLETE
    assert made.feed(b"x" * 5000) is Head.COMPLETE
    made.reset()
    assert made.state is Head.NONE
    assert made.feed(GOOD[:10]) is Head.BEGUN


@given(st.data())
def test_pieces_make_no_difference(data: st.DataObject) -> None:
    """Whatever the bytes, the last state is that of the same bytes in one piece, unless the end came earlier."""
    alphabet = st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"a", b"GET / HTTP/1.1", b"x" * 40])
    stream = b"".join(data.draw(st.lists(alphabet, max_size=12)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, parted = meter(most_bytes=100, most_lines=4), meter(most_bytes=100, most_lines=4)
    whole.feed(stream)
    for piece in pieces:
        parted.feed(piece)
    assert parted.state is whole.state


@pytest.mark.parametrize(
    ("stream", "state"),
    [
        (b"GET /" + b"a" * 2000, Head.TOO_LARGE),
        (b"GET /" + b"a" * 2000 + b"\r\n\r\n", Head.TOO_LARGE),
        (b"\r\n" * 600, Head.TOO_LARGE),
        (b"\r\n" * 100 + GOOD, Head.COMPLETE),
        (b"\n\r\n", Head.BEGUN),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 18 + b"\r\n", Head.COMPLETE),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 19 + b"\r\n", Head.TOO_LARGE),
        (b"GET / HTTP/1.1\n\n" * 11, Head.TOO_LARGE),
    ],
)
def test_bounds(stream: bytes, state: Head) -> None:
    """Of all bytes together, blank ones before the request too, and of the lines."""
    made = meter()
    for at in range(0, len(stream), 7):
        made.feed(stream[at : at + 7])
    assert made.state is state
    assert fed([stream]) == [state]


def test_what_follows_a_head_is_not_counted() -> None:
    """A body that came with it is nobody's head."""
    assert fed([GOOD + b"x" * 5000, b"x" * 5000]) == [Head.COMPLETE, Head.COMPLETE]
