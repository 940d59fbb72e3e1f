"""Keys, and what they seal."""

from __future__ import annotations

import base64
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument, SealBroken, WrongUnlockKey
from swarmpy.security.sealing import OVERHEAD_BYTES, PIECE_BYTES, PLAIN, DataKey, KeyRing, UnlockKey, names_of

KEY, OTHER = DataKey(1, bytes(32)), DataKey(2, b"\1" * 32)
RING = KeyRing((KEY, OTHER))


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_what_is_sealed_is_opened(data: bytes, about: bytes) -> None:
    """With the key of that number and what it was bound to; twice the same never looks the same."""
    sealed = RING.seal(data, about)
    assert len(sealed) == len(data) + OVERHEAD_BYTES
    assert RING.open(2, sealed, about) == data
    assert RING.seal(data, about) != sealed
    for number, what in ((1, about), (2, about + b"x"), (3, about), (PLAIN, about)):
        with pytest.raises(SealBroken):
            RING.open(number, sealed, what)


@given(st.binary(max_size=60), st.data())
def test_every_bit_counts(data: bytes, choice: st.DataObject) -> None:
    """Of the nonce, the data and the tag; nor is anything opened that was cut short."""
    sealed = bytearray(RING.seal(data, b"x"))
    cut = choice.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(SealBroken):
        RING.open(2, bytes(sealed[:cut]), b"x")
    bit = choice.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealBroken):
        RING.open(2, bytes(sealed), b"x")


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_long_data_is_sealed_in_pieces_that_know_their_place(size: int) -> None:
    """Pieces that are swapped, left out at the end or added are noticed."""
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    pieces = list(RING.seal_long(data, b"x"))
    assert RING.open_long(2, b"".join(pieces), b"x") == data
    for wrong in (pieces[:-1], [*pieces, pieces[-1]], pieces[::-1], [pieces[-1], *pieces[1:]]):
        if wrong != pieces:
            with pytest.raises(SealBroken):
                RING.open_long(2, b"".join(wrong), b"x")


def test_what_was_never_sealed_is_taken_only_where_that_is_said() -> None:
    """Or who can write to the disk would just leave the seal away."""
    with pytest.raises(SealBroken, match="not sealed"):
        RING.open(PLAIN, b"data", b"x")
    with pytest.raises(SealBroken, match="not sealed"):
        RING.open_long(PLAIN, b"data", b"x")
    assert KeyRing((KEY,), takes_plain=True).open(PLAIN, b"data", b"x") == b"data"


def test_an_unlock_key_is_written_as_dockers() -> None:
    """A prefix and 32 bytes in base64 without padding."""
    key = UnlockKey.new()
    assert key.text == "SWMKEY-1-" + base64.b64encode(key.secret).decode().rstrip("=")
    assert UnlockKey.parse(f" {key.text}\n").secret == key.secret
    assert UnlockKey.parse("SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8").text.endswith("Zu8")


@pytest.mark.parametrize(
    "text",
    ["", "SWMKEY-1-", "x", "7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8", "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGt",
     "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu9", "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8=",
     "SWMKEY-1-SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8", "SWMKEY-1-\xe4" + "7" * 42],
)  # fmt: skip
def test_what_is_no_unlock_key(text: str) -> None:
    """It is refused without being repeated: it may be one with a slip of the hand."""
    with pytest.raises(InvalidArgument, match="invalid key") as refused:
        UnlockKey.parse(text)
    assert len(text) < 20 or text[9:] not in str(refused.value)


def test_the_wrong_unlock_key_opens_nothing() -> None:
    """Nor does the right one open what is bound to something else."""
    key = UnlockKey.new()
    sealed = key.seal(b"keys", b"vault")
    assert key.open(sealed, b"vault") == b"keys"
    for other, about in ((UnlockKey.new(), b"vault"), (key, b"another")):
        with pytest.raises(WrongUnlockKey, match="invalid key provided"):
            other.open(sealed, about)
    with pytest.raises(SealBroken):
        key.open(b"short", b"vault")


def test_keys_are_never_shown() -> None:
    """Not in what objects say of themselves, nor in a traceback with its locals."""
    unlock, data = UnlockKey(b"K" * 32), DataKey(3, b"D" * 32)
    shown = [repr(unlock), str(unlock), repr(data), repr(KeyRing((data,)))]
    try:
        unlock.open(bytes(40), b"")
    except WrongUnlockKey as error:
        shown += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    for text in shown:
        assert "KKKK" not in text
        assert "DDDD" not in text


def test_parts_are_not_taken_for_each_other() -> None:
    """However they are cut."""
    assert len({names_of("ab", "c"), names_of("a", "bc"), names_of("abc"), names_of("abc", ""), names_of(1, 2)}) == 5
