"""What a peer tells is taken as it is or not at all, whatever it is: it costs little, and is one short line."""

from __future__ import annotations

import math
import tracemalloc
from types import NoneType
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.api.request import ApiRequest, ApiResponse
from swarmpy.errors import ProtocolViolation
from swarmpy.manager.joining import Certified, JoinCall
from swarmpy.manager.raft_report import MemberReport
from swarmpy.model import codec
from swarmpy.model.assignments import Heartbeat, HeartbeatReply, SessionMessage, SessionRequest, StatusReport
from swarmpy.model.objects import NodeDescription, TaskStatus
from swarmpy.wire.frames import decode_body

TOLD = (
    ApiRequest,
    ApiResponse,
    Certified,
    Heartbeat,
    HeartbeatReply,
    JoinCall,
    NodeDescription,
    SessionMessage,
    SessionRequest,
    StatusReport,
    TaskStatus,
)
MAX_LINE = 400


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from([nested(900), "9" * 5000, "x" * 100_000, msgpack.Timestamp(0)]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def taken(cls: type[Any], data: Any) -> Any:
    """What is made of the data; None when it is refused, in one short line."""
    try:
        return codec.from_plain(cls, data)
    except ProtocolViolation as error:
        return None if len(error.message) <= MAX_LINE else error


def one_line(caught: pytest.ExceptionInfo[ProtocolViolation]) -> str:
    """The message, which is short and is one line."""
    line = caught.value.message
    assert len(line) <= MAX_LINE
    assert "\n" not in line
    return line


@pytest.mark.parametrize("size", [2**33, 2**63 - 1, -1])
def test_a_number_is_no_bytes(size: int) -> None:
    """A number where bytes belong is refused, and is not taken for how many bytes there shall be."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation, match="malformed JoinCall: TypeError: bytes expected, int found"):
            codec.from_plain(JoinCall, {"token": "x", "csr_pem": size})
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [math.inf, -math.inf, math.nan, 1.0, "7", "9" * 4000, True, None, [7], b"7"])
def test_only_an_int_is_an_int(version: Any) -> None:
    """Nothing is converted to a number."""
    with pytest.raises(ProtocolViolation, match="int expected") as caught:
        codec.from_plain(Heartbeat, {"session_id": "s", "endpoints_version": version})
    one_line(caught)


@pytest.mark.parametrize("text", [7, [1, 2], b"s", None, nested(900), {"a": 1}])
def test_only_a_text_is_a_text(text: Any) -> None:
    """Nothing is converted to a text."""
    with pytest.raises(ProtocolViolation, match="str expected") as caught:
        codec.from_plain(Heartbeat, {"session_id": text})
    one_line(caught)


def test_what_is_wrong_is_said_in_few_words() -> None:
    """However large the wrong value is."""
    with pytest.raises(ProtocolViolation) as caught:
        codec.from_plain(JoinCall, {"token": "x", "csr_pem": b"", "availability": "x" * 1_000_000})
    assert "JoinCall" in one_line(caught)
    with pytest.raises(ProtocolViolation) as caught:
        codec.unpack(b"\xdb\x00\x0f\xff\xff" + b"\xff" * 0xFFFFF)
    assert "utf-8" in one_line(caught)


@given(data=JUNK, cls=st.sampled_from(TOLD))
@settings(deadline=None)
def test_junk_is_a_protocol_violation(data: Any, cls: type[Any]) -> None:
    """Whatever is told gives an object or ProtocolViolation."""
    assert isinstance(taken(cls, data), (cls, NoneType))


@given(data=JUNK, cls=st.sampled_from(TOLD), draw=st.data())
@settings(deadline=None)
def test_junk_in_a_field_is_a_protocol_violation(data: Any, cls: type[Any], draw: st.DataObject) -> None:
    """The same where the outside is right."""
    names = [a.name for a in cls.__attrs_attrs__]
    fields = draw.draw(st.dictionaries(st.sampled_from(names), JUNK, max_size=len(names)))
    found = taken(cls, {**fields, names[0]: data})
    assert isinstance(found, (cls, NoneType))
    if found is not None:
        # What was taken is plain again: it can be stored and sent on.
        assert codec.from_plain(cls, codec.unpack(codec.pack(codec.to_plain(found)))) is not None


def test_a_list_of_reports_is_checked_as_well() -> None:
    """A tuple type has no fields of its own to be wrong about."""
    for junk in (None, 7, "abc", [1], nested(900), {"a": 1}):
        with pytest.raises(ProtocolViolation):
            codec.from_plain(tuple[MemberReport, ...], junk)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xdb\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\x00\xff\xff\xff" + b"\x90" * 1000,
        b"\x91" * 100_000 + b"\x90",
        b"\x81\xa1a" * 100_000,
        b"\x81\x90\x01",
        b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01",
        b"\xd4\x05\x00",
        b"\xd7\xff" + b"\xff" * 8,
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\xc1",
        b"\x90\x90",
        b"\xa2\xc3\x28",
        b"\xa3\xed\xa0\x80",
        b"",
    ],
    ids=lambda data: data[:6].hex() or "nothing",
)
def test_bombs_and_garbage_are_refused_before_they_are_big(data: bytes) -> None:
    """Headers that claim gigabytes, nesting without end, keys that are none, extensions, broken texts."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation) as caught:
            codec.unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    one_line(caught)


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    """As everywhere; what is checked is what is used, for there is one parser only."""
    assert codec.unpack(b"\x82\xa1a\x01\xa1a\x02") == {"a": 2}


@pytest.mark.parametrize("kind", [nested(900), "x" * 1_000_000, {"a": 1}, 2**63, -1, 1.0, True, None, b"\x00"])
def test_a_frame_of_any_kind_is_refused_in_a_line(kind: Any) -> None:
    """The kind is not trusted to be one, nor to be small."""
    with pytest.raises(ProtocolViolation, match="unknown kind") as caught:
        decode_body(codec.pack([kind, 1]))
    assert len(one_line(caught)) < 100
