"""Cutting bytes into frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import ProtocolViolation
from swarmpy.wire.frames import Decoder, Kind, decode_body, encode

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def whole(decoder: Decoder) -> Iterator[list[Any]]:
    """The frames that are complete."""
    while (frame := decoder.next()) is not None:
        yield frame


@given(payloads=st.lists(PLAIN, max_size=5), cuts=st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_frames_survive_any_cut(payloads: list[Any], cuts: list[int]) -> None:
    """However the bytes arrive, the same frames come out."""
    data = b"".join(encode(Kind.CALL, number, "m", payload) for number, payload in enumerate(payloads))
    decoder = Decoder()
    frames: list[Any] = []
    position, turn = 0, 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        decoder.add(data[position : position + size])
        frames.extend(whole(decoder))
        position, turn = position + size, turn + 1
    assert frames == [[Kind.CALL, number, "m", payload] for number, payload in enumerate(payloads)]


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_violation_or_waits(data: bytes) -> None:
    """Arbitrary bytes yield well-formed frames, wait for more, or raise ProtocolViolation; nothing else."""
    try:
        decoder = Decoder(max_frame_bytes=1000)
        decoder.add(data)
        for frame in whole(decoder):
            assert Kind(frame[0])
    except ProtocolViolation:
        pass


@given(PLAIN)
def test_any_plain_body_is_checked(body: Any) -> None:
    """A body of plain data that is no frame raises ProtocolViolation, never anything else."""
    encoded = encode(Kind.RESULT, 0, body)
    assert decode_body(encoded[4:]) == [Kind.RESULT, 0, body]


def test_length_is_checked_before_the_bytes_come() -> None:
    """A frame that announces too much is refused on its first four bytes."""
    decoder = Decoder(max_frame_bytes=1000)
    decoder.add((1001).to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match="1001 bytes is larger than the limit of 1000"):
        decoder.next()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x90",
        b"\xc0",
        b"\x91\x63",
        b"\x91\xff",
        b"\x91\xc3",
        b"\x92\x01\x01",
        b"\x94\x01\xa1a\xa1m\xc0",
        b"\x94\x01\xc3\xa1m\xc0",
        b"\x94\x01\x01\xc4\x01m\xc0",
        b"\x91" * 5000,
        b"\x93\x04\x01\xd9\x01\xff",
        b"\x93\x04\x01\x81\x01\x02",
        b"\x93\x04\x01\xdf\xff\xff\xff\xff",
        b"\x92\x09\xc0",
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    """Wrong shapes, kinds, types, depths and lengths raise ProtocolViolation."""
    with pytest.raises(ProtocolViolation):
        decode_body(body)
