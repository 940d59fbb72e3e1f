"""Identifiers: 25 characters, from 16 bytes, one to one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.model.ids import ID_BYTES, ID_LENGTH, base36, encode_id

RAW = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)


@given(RAW)
def test_an_id_has_the_form_of_one(raw: bytes) -> None:
    """Any 16 bytes give an identifier, which is the number they are in base 36."""
    text = encode_id(raw)
    assert len(text) == ID_LENGTH
    assert int(text, 36) == int.from_bytes(raw, "big")


@given(RAW, RAW)
def test_ids_sort_as_their_bytes(one: bytes, other: bytes) -> None:
    """Equal length makes the order of texts that of the bytes; so different bytes give different ids."""
    assert (encode_id(one) < encode_id(other)) == (one < other)


def test_the_ends_of_the_range() -> None:
    """The smallest and the largest id are of full length."""
    assert encode_id(bytes(16)) == "0" * ID_LENGTH
    assert encode_id(b"\xff" * 16) == "f5lxx1zz5pnorynqglhzmsp33"
    assert base36(b"\x24", 3) == "010"


def test_another_number_of_bytes_is_refused() -> None:
    """A short or long input is a programming error, not a shorter id."""
    with pytest.raises(ValueError, match="16 bytes, not 15"):
        encode_id(bytes(15))
