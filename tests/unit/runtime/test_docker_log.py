"""The Engine's log streams, taken apart whatever the pieces in which they come."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import RuntimeUnavailable
from swarmpy.model.logs import LINE_BYTES, LogLine
from swarmpy.runtime.docker_log import Read, frames, plain

STAMP = b"2026-11-29T10:33:41.12Z "
AT = 1795948421_120000000


def frame(stream: int, text: bytes) -> bytes:
    """As the engine sends a line."""
    return struct.pack(">BxxxI", stream, len(text)) + text


async def taken(take: Callable[[Read], AsyncGenerator[LogLine, None]], data: bytes, piece: int) -> list[LogLine]:
    """The lines of a stream that comes in pieces of so many bytes."""
    at = 0

    async def read(most: int) -> bytes:
        nonlocal at
        found = data[at : at + min(most, piece)]
        at += len(found)
        return found

    return [line async for line in take(read)]


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50))), st.integers(1, 80))
async def test_frames_come_whole(sent: list[tuple[int, bytes]], piece: int) -> None:
    """Each with its stream, its time and its bytes."""
    data = b"".join(frame(stream, STAMP + text) for stream, text in sent)
    assert await taken(frames, data, piece) == [LogLine(stream, AT, text) for stream, text in sent]


async def test_a_terminal_has_lines_only() -> None:
    """The last one may have no end."""
    assert await taken(plain, STAMP + b"a\r\n" + STAMP + b"b", 3) == [LogLine(1, AT, b"a\r\n"), LogLine(1, AT, b"b")]


@pytest.mark.parametrize("added", [b"", b"A=1+2,x=q%2Cz"])
async def test_what_a_log_driver_adds_is_no_part_of_the_line(added: bytes) -> None:
    """It may be nothing; lines may begin with a blank."""
    expected = [LogLine(1, AT, b" hi there\n", added)]
    assert await taken(partial(frames, details=True), frame(1, STAMP + added + b"  hi there\n"), 7) == expected
    assert await taken(partial(plain, details=True), STAMP + added + b"  hi there\n", 7) == expected


@pytest.mark.parametrize("data", [frame(1, STAMP)[:-1], struct.pack(">BxxxI", 1, 2**31) + bytes(3 * LINE_BYTES)])
async def test_what_breaks_off_or_is_too_long_is_told(data: bytes) -> None:
    """Nothing is made up, and not everything is taken in."""
    with pytest.raises(RuntimeUnavailable):
        await taken(frames, data, 1 << 20)
