"""A stream that opens with an unlock key, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import SealBroken, WrongUnlockKey
from swarmpy.security.sealed_stream import about_backup, opened_stream, sealed_stream
from swarmpy.security.sealing import UnlockKey
from swarmpy.store.backup import Header

KEY = UnlockKey(b"k" * 32)
HEADER = Header(cluster_id="c", index=7, term=2, time_ns=1, swarmpy="1", holds={})


async def _each(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def frames(parts: Sequence[bytes]) -> list[bytes]:
    """The stream, as it comes."""

    async def collected() -> list[bytes]:
        return [frame async for frame in sealed_stream(KEY, b"x", _each(parts))]

    return asyncio.run(collected())


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_what_went_in_comes_out(parts: list[bytes]) -> None:
    """However it was cut; nothing of it is readable, and each stream has a key of its own."""
    assert opened_stream(KEY, b"x", b"".join(frames(parts))) == b"".join(parts)
    stream = b"".join(frames([b"a planted word", *parts]))
    assert b"planted" not in stream
    assert stream != b"".join(frames([b"a planted word", *parts]))


def test_another_key_or_another_backup() -> None:
    """Neither opens it."""
    stream = b"".join(frames([b"a", b"b"]))
    for key, about in ((UnlockKey(bytes(32)), b"x"), (KEY, b"y")):
        with pytest.raises(WrongUnlockKey):
            opened_stream(key, about, stream)


def test_pieces_that_are_missing_or_moved() -> None:
    """At the end, in the middle, swapped, twice, or from another stream."""
    first, *pieces = frames([b"a", b"b", b"c"])
    _, *others = frames([b"a", b"b", b"c"])
    assert opened_stream(KEY, b"x", b"".join([first, *pieces])) == b"abc"
    for wrong in (
        [first],
        [first, *pieces[:-1]],
        [first, *pieces[1:]],
        [first, pieces[1], pieces[0], pieces[2]],
        [first, *pieces, pieces[-1]],
        [first, pieces[0], others[1], pieces[2]],
        [first, *pieces[:-1], pieces[-1][:-1]],
        [first, *pieces, b"\0\0"],
        [],
    ):
        with pytest.raises(SealBroken):
            opened_stream(KEY, b"x", b"".join(wrong))


@pytest.mark.parametrize("field", ["cluster_id", "index", "term", "time_ns", "incarnation"])
def test_what_a_backup_is_bound_to(field: str) -> None:
    """A header cannot be put before another's payload."""
    other = attrs.evolve(HEADER, **{field: "d" if field == "cluster_id" else 99})
    assert about_backup(other) != about_backup(HEADER)
