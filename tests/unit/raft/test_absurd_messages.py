"""Messages that are well formed and make no sense: a member drops them, goes on, and its group can still decide.

What is not tested is a manager that lies well. It could do anything anyway.
"""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_cluster import Cluster, conf_of, core_of, drain, elect, entries_of, member

from swarmpy.errors import ProtocolViolation
from swarmpy.model import codec
from swarmpy.raft.core import RaftCore
from swarmpy.raft.encoding import MAX_MESSAGES, decode_messages, encode_conf_change, encode_messages
from swarmpy.raft.messages import (
    NO_ONE,
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    Message,
    MessageType,
    Snapshot,
)
from swarmpy.raft.plausible import MAX_TERM_STEP, absurdity
from swarmpy.raft.state import RaftRole

EXAMPLES = int(os.environ.get("SWARMPY_FUZZ_EXAMPLES", "80"))
MOST = (1 << 63) - 1
LARGE = st.sampled_from([MOST, MOST - 1, 1 << 62, MAX_TERM_STEP, MAX_TERM_STEP + 9])
NUMBER = st.integers(0, 8) | LARGE | st.integers(0, MOST)
IDS = st.sampled_from([0, 1, 2, 3, 4, 99, MOST])
CHANGE = encode_conf_change(ConfChange(kind=ConfChangeKind.REMOVE, member=member(3)))


@st.composite
def conf_states(draw: Any) -> ConfState:
    """A membership, which may contradict itself."""
    groups = [tuple(member(i) for i in draw(st.lists(IDS, max_size=4))) for _ in range(3)]
    return ConfState(voters=groups[0], learners=groups[1], removed=groups[2])


@st.composite
def messages(draw: Any) -> Message:
    """Any message that can be decoded."""
    index = draw(NUMBER)
    entries = tuple(
        Entry(term=draw(NUMBER), index=index + n, kind=kind, data=CHANGE if kind is EntryKind.CONF_CHANGE else b"x")
        for n, kind in enumerate(draw(st.lists(st.sampled_from(EntryKind), max_size=3)), 1)
        if index + n <= MOST
    )
    snapshot = st.builds(Snapshot, index=NUMBER, term=NUMBER, conf=conf_states(), data=st.binary(max_size=4))
    return Message(
        type=draw(st.sampled_from(MessageType)),
        to=1,
        source=draw(IDS),
        term=draw(NUMBER),
        index=index,
        log_term=draw(NUMBER),
        entries=entries,
        commit=draw(NUMBER),
        reject=draw(st.booleans()),
        hint=draw(NUMBER),
        hint_term=draw(NUMBER),
        context=draw(NUMBER),
        force=draw(st.booleans()),
        sender=draw(st.none() | st.builds(member, IDS)),
        snapshot=draw(st.none() | snapshot),
        offset=draw(NUMBER),
        total=draw(NUMBER),
        digest=draw(st.binary(max_size=32)),
    )


def core_in(role: RaftRole) -> RaftCore:
    """Member 1 of three in some role, with a log of some entries."""
    core = core_of(1, 1, 2, 3, terms=(1, 2, 2), term=3, commit=3)
    drain(core)
    if role is RaftRole.LEADER:
        elect(core)
    elif role is not RaftRole.FOLLOWER:
        core.campaign()
        if role is RaftRole.CANDIDATE:
            for source in (2, 3):
                core.step(Message(type=MessageType.PRE_VOTE_RESPONSE, to=1, source=source, term=core.term + 1))
    drain(core)
    assert core.role is role
    return core


def all_is_storable(core: RaftCore) -> None:
    """What the core wants written and sent fits the log and the wire, and its own laws hold."""
    for ready in drain(core):
        for entry in ready.entries:
            assert 0 <= entry.term <= MOST
            assert 0 < entry.index <= MOST
        if ready.hard_state is not None:
            assert 0 <= ready.hard_state.term <= MOST
        sent = [m for m in (*ready.messages, *ready.messages_after_persist) if m.snapshot is None]
        assert decode_messages(codec.unpack(codec.pack(encode_messages(sent)))) == sent
    log = core.log
    assert log.applied <= log.committed <= log.last_index
    terms = [log.term_at(index) for index in range(log.first_index, min(log.last_index, log.first_index + 20) + 1)]
    assert terms == sorted(terms)  # type: ignore[type-var]
    assert max([0, *terms]) <= core.term  # type: ignore[type-var]


@given(role=st.sampled_from(RaftRole), coming=st.lists(messages() | st.just(None), min_size=1, max_size=12))
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_message_ends_a_member(role: RaftRole, coming: list[Message | None]) -> None:
    """Whatever comes, in whatever role, with time (None) in between: nothing is raised, and nothing is made up."""
    core = core_in(role)
    for message in coming:
        if message is None:
            core.tick()
        else:
            core.step(decode_messages(codec.unpack(codec.pack(encode_messages([message]))))[0])
        all_is_storable(core)


@given(coming=st.lists(messages(), min_size=1, max_size=8), victim=st.sampled_from([1, 2, 3]))
@settings(max_examples=EXAMPLES // 4, deadline=None)
def test_a_group_that_was_lied_to_can_still_decide(coming: list[Message], victim: int) -> None:
    """Nonsense that a stranger sends one member, the leader perhaps, does not keep the others from electing."""
    cluster = Cluster(1, 2, 3)
    cluster.elect(1)
    term = cluster[1].term
    for message in coming:
        # In a member's name only that member's node can speak. What is in a snapshot is looked at by others.
        cluster[victim].step(attrs.evolve(message, to=victim, source=99, sender=None, snapshot=None))
    cluster.settle()
    for _ in range(100):
        if any(cluster[i].is_leader and cluster[i].has_committed_in_term for i in cluster.nodes):
            break
        cluster.tick()
    else:
        raise AssertionError([(node.core.role, node.core.term) for node in cluster.nodes.values()])
    assert max(node.core.term for node in cluster.nodes.values()) <= term + 8 * MAX_TERM_STEP + 100


ABSURD = {
    "a term that cannot be stored": Message(type=MessageType.HEARTBEAT, to=1, source=2, term=MOST),
    "a vote in such a term": Message(type=MessageType.VOTE, to=1, source=2, term=MOST, index=99, force=True),
    "a refusal in such a term": Message(type=MessageType.VOTE_RESPONSE, to=1, source=2, term=MOST, reject=True),
    "from nobody": Message(type=MessageType.APPEND, to=1, source=NO_ONE, term=3),
    "from itself": Message(type=MessageType.APPEND, to=1, source=1, term=3),
    "entries of the future": Message(
        type=MessageType.APPEND, to=1, source=2, term=3, index=4, log_term=2, entries=entries_of(9, first=5)
    ),
    "entries whose terms fall": Message(
        type=MessageType.APPEND, to=1, source=2, term=3, index=4, log_term=2, entries=entries_of(3, 2, first=5)
    ),
    "a snapshot without members": Message(
        type=MessageType.SNAPSHOT, to=1, source=2, term=3, snapshot=Snapshot(index=9, term=3, conf=ConfState())
    ),
    "a snapshot of members that contradict each other": Message(
        type=MessageType.SNAPSHOT,
        to=1,
        source=2,
        term=3,
        snapshot=Snapshot(index=9, term=3, conf=ConfState(voters=(member(1), member(1)))),
    ),
    "a snapshot of the past": Message(
        type=MessageType.SNAPSHOT, to=1, source=2, term=3, snapshot=Snapshot(index=9, term=1, conf=conf_of(1, 2, 3))
    ),
    "a snapshot of nowhere": Message(
        type=MessageType.SNAPSHOT, to=1, source=2, term=3, snapshot=Snapshot(index=MOST, term=3, conf=conf_of(1, 2, 3))
    ),
    "removed, says a stranger": Message(type=MessageType.REMOVED, to=1, source=99, term=3),
}


@pytest.mark.parametrize("message", ABSURD.values(), ids=ABSURD.keys())
def test_what_nobody_would_send_changes_nothing(message: Message) -> None:
    """It is dropped with a reason."""
    core = core_in(RaftRole.FOLLOWER)
    before = (core.term, core.vote, core.leader, core.log.last_index, core.log.committed, core.conf, core.is_removed)
    assert absurdity(core, message)
    core.step(message)
    assert core.absurdity == absurdity(core, message)
    after = (core.term, core.vote, core.leader, core.log.last_index, core.log.committed, core.conf, core.is_removed)
    assert after == before
    assert drain(core) == []


def test_a_leader_does_not_hear_of_another_in_its_term() -> None:
    """Not from a member, and not in the name of one: it leads on."""
    core = core_in(RaftRole.LEADER)
    for kind in (MessageType.APPEND, MessageType.HEARTBEAT):
        core.step(Message(type=kind, to=1, source=2, term=core.term, index=4, log_term=2))
        assert core.absurdity == f"term {core.term} has a leader already: 1"
    assert core.is_leader


def test_later_terms_are_believed_as_far_as_they_are_likely() -> None:
    """A century of elections is."""
    core = core_in(RaftRole.FOLLOWER)
    core.step(Message(type=MessageType.HEARTBEAT, to=1, source=2, term=3 + MAX_TERM_STEP))
    assert (core.term, core.leader) == (3 + MAX_TERM_STEP, 2)


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


JUNK = [nested(900), "x" * 1_000_000, b"x", 2**64 - 1, -1, 1.5, float("nan"), True, None, {}, [], {"a": nested(900)}]
GOOD = Message(
    type=MessageType.APPEND,
    to=1,
    source=2,
    term=3,
    index=4,
    entries=entries_of(3, first=5),
    sender=member(2),
    snapshot=Snapshot(index=3, term=2, conf=conf_of(1, 2), data=b"x"),
)


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: type(junk).__name__)
def test_junk_in_any_place_is_refused_in_a_line(junk: Any) -> None:
    """A value of any type anywhere in a message gives messages or one short line, never another error."""
    row = codec.unpack(codec.pack(encode_messages([GOOD])))[0]
    rows: list[Any] = [junk, [junk]]
    rows += [[*row[:place], junk, *row[place + 1 :]] for place in range(len(row))]
    for outer in (12, 13, 14):  # the entries, the sender, the snapshot
        rows += [
            [*row[:outer], [*row[outer][:place], junk, *row[outer][place + 1 :]], *row[outer + 1 :]]
            for place in range(len(row[outer]))
        ]
    for place in range(4):
        rows.append([*row[:12], [[*row[12][0][:place], junk, *row[12][0][place + 1 :]]], *row[13:]])
    for plain in ([row] for row in rows):
        try:
            decoded = decode_messages(plain)
        except ProtocolViolation as error:
            assert len(error.message) < 300, error.message[:80]  # noqa: PT017  # either is fine
        else:
            all_of = [m for m in decoded if isinstance(m, Message)]
            assert len(all_of) == len(decoded)


def test_numbers_that_cannot_be_stored_are_refused() -> None:
    """In every place of a message."""
    row = codec.unpack(codec.pack(encode_messages([GOOD])))[0]
    for place in (1, 2, 3, 4, 5, 6, 8, 9, 10, 15, 16):
        for number in (MOST + 1, 2**64 - 1, -1):
            with pytest.raises(ProtocolViolation):
                decode_messages([[*row[:place], number, *row[place + 1 :]]])


def test_messages_without_number_are_refused_at_once() -> None:
    """A frame of nothing but beginnings of messages costs nothing."""
    with pytest.raises(ProtocolViolation, match="in one frame"):
        decode_messages([[1]] * (MAX_MESSAGES + 1))


@pytest.mark.parametrize(
    "data", [b"", b"x", b"[" * 100_000, b"[1]", b"[99999,[1,2]]", b'[3,{"a":1}]', b"[NaN,[]]", b"\xff"]
)
def test_a_change_of_members_that_is_none_never_gets_into_the_log(data: bytes) -> None:
    """Once committed, nobody could go on over it."""
    entry = Entry(term=3, index=5, kind=EntryKind.CONF_CHANGE, data=data)
    row = encode_messages([attrs.evolve(GOOD, entries=(entry,))])
    if data == b"[99999,[1,2]]":  # of a newer version: who applies it says so
        assert decode_messages(row)[0].entries == (entry,)
        return
    with pytest.raises(ProtocolViolation, match="no membership change"):
        decode_messages(row)
