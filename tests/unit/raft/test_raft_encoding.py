"""What goes over the wire comes back as it was; what does not belong there is refused."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_cluster import conf_of, member

from swarmpy.errors import DataDirMismatch, LogCorrupted, ProtocolViolation
from swarmpy.raft.encoding import (
    decode_conf_change,
    decode_messages,
    encode_conf_change,
    encode_messages,
)
from swarmpy.raft.messages import ConfChange, ConfChangeKind, Entry, EntryKind, Message, MessageType, Snapshot

NUMBER = st.integers(0, (1 << 63) - 1)


@st.composite
def messages(draw) -> Message:
    index = draw(st.integers(0, 1 << 40))
    kinds = draw(st.lists(st.sampled_from(EntryKind), max_size=4))
    change = encode_conf_change(ConfChange(kind=ConfChangeKind.REMOVE, member=member(7)))
    return Message(
        type=draw(st.sampled_from(MessageType)),
        to=draw(NUMBER),
        source=draw(NUMBER),
        term=draw(NUMBER),
        index=index,
        log_term=draw(NUMBER),
        commit=draw(NUMBER),
        reject=draw(st.booleans()),
        hint=draw(NUMBER),
        hint_term=draw(NUMBER),
        context=draw(NUMBER),
        force=draw(st.booleans()),
        entries=tuple(
            Entry(
                term=draw(NUMBER),
                index=index + n,
                kind=kind,
                data=draw(st.binary(max_size=20)) if kind is EntryKind.NORMAL else change,
            )
            for n, kind in enumerate(kinds, 1)
        ),
        sender=draw(st.none() | st.just(member(7))),
        snapshot=draw(st.none() | st.just(Snapshot(index=3, term=2, conf=conf_of(1, 2, learners=(3,)), data=b"x"))),
        offset=draw(NUMBER),
        total=draw(NUMBER),
        digest=draw(st.binary(max_size=4)),
    )


@given(st.lists(messages(), max_size=3))
def test_round_trip(batch) -> None:
    """Messages through msgpack are equal to what was sent."""
    wire = msgpack.packb(encode_messages(batch), use_bin_type=True)
    assert decode_messages(msgpack.unpackb(wire, raw=False)) == batch


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=18) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=40,
)


@given(PLAIN)
def test_garbage_is_a_protocol_violation(plain) -> None:
    """Whatever a peer sends is a list of messages or a ProtocolViolation, never another error."""
    try:
        decoded = decode_messages(plain)
    except ProtocolViolation:
        return
    assert all(isinstance(m, Message) for m in decoded)


@pytest.mark.parametrize("place", range(18))
def test_each_field_is_checked(place) -> None:
    """A value of the wrong type in any place is refused or harmless."""
    good = Message(type=MessageType.APPEND, to=1, index=4, entries=(Entry(term=1, index=5, data=b"x"),))
    row = encode_messages([good])[0]
    row[place] = {"not": "this"}
    if place in (7, 11):
        assert decode_messages([row])
    else:
        with pytest.raises(ProtocolViolation):
            decode_messages([row])


def test_entries_with_a_gap_are_refused() -> None:
    """Entries must follow the one they are appended to."""
    bad = Message(type=MessageType.APPEND, to=1, index=4, entries=(Entry(term=1, index=6),))
    with pytest.raises(ProtocolViolation):
        decode_messages(encode_messages([bad]))


def test_numbers_that_no_log_can_hold_are_refused() -> None:
    """A term that would not fit the disk does not get as far as the disk."""
    plain = encode_messages([Message(type=MessageType.HEARTBEAT, to=1, source=2, term=1 << 63)])
    with pytest.raises(ProtocolViolation):
        decode_messages(plain)


def test_newer_peers_are_understood() -> None:
    """Unknown message types are left out and fields added at the end are ignored."""
    row = encode_messages([Message(type=MessageType.HEARTBEAT, to=1, term=3)])[0]
    assert decode_messages([[99, *row[1:]], [*row, "new"]]) == [Message(type=MessageType.HEARTBEAT, to=1, term=3)]


def test_older_peers_are_understood() -> None:
    """A frame that ends before the digest is one of a member that does not tell it."""
    message = Message(type=MessageType.SNAPSHOT_ACK, to=1, source=2, term=3, index=4, offset=5, total=6)
    row = encode_messages([message])[0]
    assert decode_messages([row[:17]]) == [message]


def test_conf_change_round_trip() -> None:
    """A membership change survives the log; one that cannot be read is a corrupted log."""
    change = ConfChange(kind=ConfChangeKind.PROMOTE, member=member(4))
    data = encode_conf_change(change)
    assert decode_conf_change(Entry(term=1, index=2, kind=EntryKind.CONF_CHANGE, data=data)) == change
    for bad in (b"", b"[0,[1,2,3]]", b"[1]", b"\xff"):
        with pytest.raises(LogCorrupted):
            decode_conf_change(Entry(term=1, index=2, kind=EntryKind.CONF_CHANGE, data=bad))


@pytest.mark.parametrize("data", [b'[9,[1,"n","a:1"]]', b'[1,[1,"n","a:1"],"more"]'])
def test_a_membership_change_of_a_newer_version_is_refused(data: bytes) -> None:
    """It is not taken for one that is known, nor for damage that removing the log would mend."""
    with pytest.raises(DataDirMismatch, match=r"entry 2 of the raft log changes the managers in a way .* upgrade it"):
        decode_conf_change(Entry(term=1, index=2, kind=EntryKind.CONF_CHANGE, data=data))


def test_an_entry_of_a_newer_kind_is_refused() -> None:
    """It is not acknowledged, and the log says why."""
    entry = Entry(term=1, index=5, data=b"x")
    row = encode_messages([Message(type=MessageType.APPEND, to=1, source=2, term=1, index=4, entries=(entry,))])[0]
    row[12][0][2] = 7
    with pytest.raises(ProtocolViolation, match="entry 5 is of kind 7, which this swarmpy does not know: upgrade it"):
        decode_messages([row])
