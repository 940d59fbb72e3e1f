"""How the records look as plain data: lists by position, for every field of every message is paid for in the hot path.

A list may grow at its end: readers ignore what they do not know, so an older member can be talked to. Nothing of a
peer is trusted here: whatever does not fit raises ProtocolViolation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from swarmpy.errors import DataDirMismatch, LogCorrupted, ProtocolViolation
from swarmpy.raft.messages import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    Member,
    Message,
    MessageType,
    Snapshot,
)

MAX_MESSAGES = 1 << 16
"""Of one frame: twice what a member keeps for all others together."""
MAX_MEMBER_CHARS = 512
"""Of a node's id and its address, which is a host name of 253 characters at most, and a port."""
MAX_REASON_CHARS = 200

_KINDS = {int(kind): kind for kind in EntryKind}
_MOST = (1 << 63) - 1
"""What a log can store."""
_TYPES = {int(kind): kind for kind in MessageType}


def encode_messages(messages: Sequence[Message]) -> list[Any]:
    """``messages`` as lists of int, bool, str, bytes and None."""
    return [
        [
            int(m.type),
            m.to,
            m.source,
            m.term,
            m.index,
            m.log_term,
            m.commit,
            m.reject,
            m.hint,
            m.hint_term,
            m.context,
            m.force,
            [[e.term, e.index, int(e.kind), e.data] for e in m.entries],
            None if m.sender is None else _member_to_plain(m.sender),
            None if m.snapshot is None else _snapshot_to_plain(m.snapshot),
            m.offset,
            m.total,
            m.digest,
        ]
        for m in messages
    ]


def decode_messages(plain: Any) -> list[Message]:
    """The messages that :func:`encode_messages` wrote; types of a newer version are left out.

    Raises ProtocolViolation.
    """
    try:
        if len(plain) > MAX_MESSAGES:
            raise ValueError(f"{len(plain)} in one frame")
        return [_message(row) for row in plain if row[0] in _TYPES]
    except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        # What is wrong may be megabytes.
        what = f"{type(error).__name__}: {str(error)[:MAX_REASON_CHARS]}"
        raise ProtocolViolation(f"malformed raft message: {what}") from error


def _message(row: Any) -> Message:
    (kind, to, source, term, index, log_term, commit, reject, hint, hint_term, context, force) = row[:12]
    entries, sender, snapshot, offset, total = row[12:17]
    digest = row[17] if len(row) > 17 else b""
    for number in (to, source, term, index, log_term, commit, hint, hint_term, context, offset, total):
        if type(number) is not int or not 0 <= number <= _MOST:
            raise _no_number(number)
    if type(digest) is not bytes:
        raise ValueError("the digest is not bytes")
    return Message(
        type=_TYPES[kind],
        to=to,
        source=source,
        term=term,
        index=index,
        log_term=log_term,
        commit=commit,
        reject=bool(reject),
        hint=hint,
        hint_term=hint_term,
        context=context,
        force=bool(force),
        entries=tuple([_entry(e, index + n) for n, e in enumerate(entries, 1)]) if entries else (),
        sender=None if sender is None else _member(sender),
        snapshot=None if snapshot is None else _snapshot(snapshot),
        offset=offset,
        total=total,
        digest=digest,
    )


def _natural(number: Any) -> None:
    if type(number) is not int or not 0 <= number <= _MOST:
        raise _no_number(number)


def _no_number(number: Any) -> ValueError:
    return ValueError(f"{number if type(number) is int else type(number).__name__} is no number of ours")


def _entry(row: Any, expected_index: int) -> Entry:
    term, index, kind, data = row[:4]
    _natural(term)
    _natural(index)
    if index != expected_index or type(data) is not bytes:
        raise ValueError(f"entry {index} where {expected_index} belongs")
    if kind not in _KINDS:
        _natural(kind)
        raise ProtocolViolation(f"entry {index} is of kind {kind}, which this swarmpy does not know: upgrade it")
    entry = Entry(term=term, index=index, kind=_KINDS[kind], data=data)
    if entry.kind is EntryKind.CONF_CHANGE:
        _check_conf_change(entry)
    return entry


def _check_conf_change(entry: Entry) -> None:
    """Once it is in the log nothing can be done about one that cannot be read. One of a newer version is no garbage."""
    try:
        decode_conf_change(entry)
    except LogCorrupted as error:
        raise ProtocolViolation(str(error)) from error
    except DataDirMismatch:
        return


def _member_to_plain(member: Member) -> list[Any]:
    return [member.raft_id, member.node_id, member.address]


def _member(row: Any) -> Member:
    raft_id, node_id, address = row[:3]
    _natural(raft_id)
    if not isinstance(node_id, str) or not isinstance(address, str) or len(node_id) + len(address) > MAX_MEMBER_CHARS:
        raise TypeError(f"member {raft_id} has no node id or address")
    return Member(raft_id=raft_id, node_id=node_id, address=address)


def conf_to_plain(conf: ConfState) -> list[Any]:
    """A membership as plain data."""
    return [[_member_to_plain(m) for m in group] for group in (conf.voters, conf.learners, conf.removed)]


def conf_from_plain(plain: Any) -> ConfState:
    """What :func:`conf_to_plain` wrote. Raises ValueError or TypeError."""
    voters, learners, removed = plain[:3]
    return ConfState(
        voters=tuple(_member(m) for m in voters),
        learners=tuple(_member(m) for m in learners),
        removed=tuple(_member(m) for m in removed),
    )


def _snapshot_to_plain(snapshot: Snapshot) -> list[Any]:
    return [snapshot.index, snapshot.term, conf_to_plain(snapshot.conf), snapshot.data]


def _snapshot(row: Any) -> Snapshot:
    index, term, conf, data = row[:4]
    _natural(index)
    _natural(term)
    if type(data) is not bytes:
        raise ValueError("the snapshot's data is not bytes")
    return Snapshot(index=index, term=term, conf=conf_from_plain(conf), data=data)


def encode_conf_change(change: ConfChange) -> bytes:
    """The data of a CONF_CHANGE entry."""
    return json.dumps([int(change.kind), _member_to_plain(change.member)], separators=(",", ":")).encode()


def decode_conf_change(entry: Entry) -> ConfChange:
    """The change that ``entry`` carries.

    Raises DataDirMismatch for one of a newer version, LogCorrupted for bytes that are none: a committed entry that
    cannot be read is fatal.
    """
    try:
        kind, member, *more = json.loads(entry.data)
        if more or (type(kind) is int and kind > max(ConfChangeKind)):
            raise DataDirMismatch(
                f"entry {entry.index} of the raft log changes the managers in a way that this swarmpy does not know "
                f"(kind {kind}): upgrade it to the version of the other managers"
            )
        return ConfChange(kind=ConfChangeKind(kind), member=_member(member))
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        what = str(error)[:MAX_REASON_CHARS]
        raise LogCorrupted(f"entry {entry.index} of the raft log is no membership change: {what}") from error
