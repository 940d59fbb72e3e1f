"""Whether a manager could go on from the log in its data directory: see ``raft verify``.

The rules of a daemon that starts (:meth:`swarmpy.wire.log.SqliteLog.load`), and more: everything is decoded, and all
entries are applied to the snapshot, as a daemon will do only when they are committed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from swarmpy.errors import DataDirMismatch, LogCorrupted, StorageError
from swarmpy.node.datadir import DataDir
from swarmpy.node.stopped_raft import KINDS, OF_NEWER, conf_change, raft_directory, state_of, stopped_log, told
from swarmpy.raft.membership import changed
from swarmpy.raft.messages import ConfState, EntryKind
from swarmpy.security.sealing import UnlockKey
from swarmpy.store.memory import Store
from swarmpy.wire.log_inspection import StoppedLog, StoredEntry, StoredSnapshot

_MOST_NAMED = 3


class Outcome(enum.StrEnum):
    """What a check found."""

    OK = "ok"
    DAMAGED = "damaged"
    MISMATCH = "mismatch"
    """Of another node, or written by a newer version, which this one cannot judge."""
    SKIPPED = "skipped"
    """What it needs is damaged."""


@attrs.frozen(kw_only=True)
class Finding:
    """One check and what it found."""

    check: str
    outcome: Outcome
    text: str


def verify(data_dir: Path, unlock_key: UnlockKey | None = None) -> Iterator[Finding]:
    """Check everything, in the order in which one thing builds on another.

    Raises what :func:`~swarmpy.node.stopped_raft.stopped_log` raises: then there is nothing to check.
    """
    with stopped_log(data_dir, unlock_key) as log:
        yield _check("identity", lambda: _identity(data_dir))
        yield _check("database", lambda: _database(log))
        yield _check("WAL", lambda: _wal(log))
        yield _check("generation", lambda: _generation(log))
        yield _check("hard state", lambda: _hard_state(log))
        snapshot = None
        try:
            snapshot = log.snapshot()
            store: Store | None = state_of(log, snapshot)
            conf: ConfState | None = ConfState() if snapshot is None else snapshot.members()
            yield Finding(check="snapshot", outcome=Outcome.OK, text=_about(log, snapshot))
        except StorageError as error:
            store, conf = None, None
            yield _failed("snapshot", error)
        walk = _Walk(snapshot, store, conf)
        try:
            for entry in log.entries():
                walk.take(entry)
        except LogCorrupted as error:
            walk.checksums.add(str(error))
        yield from walk.findings()
        yield _check("extent", lambda: _extent(log, walk))


def _check(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check=name, outcome=Outcome.OK, text=look())
    except StorageError as error:
        return _failed(name, error)


def _failed(name: str, error: StorageError) -> Finding:
    outcome = Outcome.MISMATCH if isinstance(error, DataDirMismatch) else Outcome.DAMAGED
    return Finding(check=name, outcome=outcome, text=str(error))


def _identity(data_dir: Path) -> str:
    directory = raft_directory(data_dir)
    state = DataDir(directory.parent).load()
    owner = directory / "owner"
    try:
        found = owner.read_text(errors="replace") if owner.exists() else ""
    except OSError as error:
        raise StorageError(f"cannot read {owner}: {error.strerror}") from error
    if state is None:
        return "not told: there is no node.json beside the log"
    if found != f"{state.cluster_id} {state.node_id} {state.raft_id}\n":
        raise DataDirMismatch(f"{owner} does not name the node of node.json: files of two nodes are mixed up")
    return f"node {state.node_id} of cluster {state.cluster_id}, raft member {state.raft_id}"


def _database(log: StoppedLog) -> str:
    faults = log.faults()
    if faults:
        raise LogCorrupted("; ".join(faults))
    return "SQLite finds nothing wrong"


def _wal(log: StoppedLog) -> str:
    torn = log.torn_bytes()
    return f"a torn last write of {torn} bytes, which the daemon drops" if torn else "nothing in it is damaged"


def _generation(log: StoppedLog) -> str:
    found, mark = log.extent(), log.mark()
    if not found.is_sound:
        raise LogCorrupted("the extent of the log does not match its checksum")
    if found.generation < mark:
        raise LogCorrupted(
            f"generation {mark} was begun, {found.generation} is there: the WAL is lost, or a backup put back"
        )
    return f"{found.generation}, and the mark asks for {mark}"


def _hard_state(log: StoppedLog) -> str:
    stored = log.hard_state()
    if not stored.is_sound:
        raise LogCorrupted("term, vote and commit do not match their checksum")
    state = stored.state
    return f"term {state.term}, vote {state.vote or 'for nobody'}, commit {state.commit}"


def _about(log: StoppedLog, snapshot: StoredSnapshot | None) -> str:
    if snapshot is None:
        return "none yet"
    return f"at {snapshot.index} of term {snapshot.term}, {log.size_of(snapshot)} bytes, digest and contents are right"


def _extent(log: StoppedLog, walk: _Walk) -> str:
    extent, state = log.extent(), log.hard_state().state
    found = (walk.first, walk.last, walk.base)
    if walk.count and found != (extent.first, extent.last, extent.snapshot):
        raise LogCorrupted(
            f"the log should reach from {extent.first} to {extent.last} over a snapshot at {extent.snapshot}, it "
            f"reaches from {walk.first} to {walk.last} over one at {walk.base}"
        )
    if not walk.count and (extent.first <= extent.last or extent.snapshot != walk.base):
        raise LogCorrupted(f"the log should reach from {extent.first} to {extent.last}, but there are no entries")
    if state.commit > extent.last:
        raise LogCorrupted(f"entries up to {state.commit} are committed, but the log ends at {extent.last}")
    if walk.last_term > state.term:
        raise LogCorrupted(f"the log has entries of term {walk.last_term}, the hard state is of term {state.term}")
    return f"{state.commit} is committed, the log ends at {extent.last}"


class _Faults:
    """What is wrong in one respect: how often, and the first few."""

    def __init__(self) -> None:
        self._count = 0
        self._named: list[str] = []

    def add(self, text: str) -> None:
        """One more."""
        self._count += 1
        if self._count <= _MOST_NAMED:
            self._named.append(text)

    def __bool__(self) -> bool:
        return self._count > 0

    def finding(self, check: str, fine: str, outcome: Outcome = Outcome.DAMAGED) -> Finding:
        """``fine`` when nothing is wrong."""
        if not self._count:
            return Finding(check=check, outcome=Outcome.OK, text=fine)
        more = f"; and {self._count - _MOST_NAMED} more" if self._count > _MOST_NAMED else ""
        return Finding(check=check, outcome=outcome, text="; ".join(self._named) + more)


class _Walk:
    """One pass over the entries: what is wrong with them, and the state they make of the snapshot."""

    def __init__(self, snapshot: StoredSnapshot | None, store: Store | None, conf: ConfState | None) -> None:
        self.checksums = _Faults()
        self._order = _Faults()
        self._contents = _Faults()
        self._newer = _Faults()
        self.base = 0 if snapshot is None else snapshot.index
        self._base_term = 0 if snapshot is None else snapshot.term
        self._store = store
        self._conf = conf
        self._unknown_from = 0
        """The first entry after which the state is not known."""
        self.first = self.count = self._previous = self._size = 0
        self._term = 0

    @property
    def last(self) -> int:
        """Where the log ends."""
        return self._previous or self.base

    @property
    def last_term(self) -> int:
        """The term of the last entry, 0 when there is none."""
        return self._term

    def take(self, entry: StoredEntry) -> None:
        """Look at the next entry."""
        self._look_at_order(entry)
        self.first = self.first or entry.index
        self._previous = entry.index
        self.count += 1
        self._size += len(entry.data)
        is_new = entry.index > self.base
        one = told(entry, self._store if is_new else None)
        if not entry.is_sound:
            self.checksums.add(f"entry {entry.index} {one.fault}")
        elif one.fault == OF_NEWER:
            self._newer.add(f"entry {entry.index} is {OF_NEWER}")
        elif one.fault:
            self._contents.add(f"entry {entry.index} {one.fault}")
        elif not is_new:
            self._look_for_in_snapshot(entry)
        if one.fault:
            self._stop(entry)
        elif is_new and self._conf is not None and KINDS[entry.kind] is EntryKind.CONF_CHANGE:
            self._conf = changed(self._conf, conf_change(entry))

    def _look_for_in_snapshot(self, entry: StoredEntry) -> None:
        is_for_store = entry.kind == EntryKind.NORMAL and entry.data
        if self._store is not None and is_for_store and entry.index > self._store.version:
            self._contents.add(f"the snapshot at {self.base} holds the state before entry {entry.index}")
            self._store = None

    def _look_at_order(self, entry: StoredEntry) -> None:
        expected = self._previous + 1 if self._previous else min(entry.index, self.base + 1)
        if entry.index != expected:
            self._order.add(f"entry {expected} is missing, {entry.index} comes next")
            self._stop(entry)
        if not entry.is_sound:
            return
        before = self._term if entry.index != self.base + 1 else max(self._term, self._base_term)
        if entry.term < before:
            self._order.add(f"entry {entry.index} is of term {entry.term}, after one of term {before}")
        if entry.index == self.base and entry.term != self._base_term:
            self._order.add(f"entry {entry.index} is of term {entry.term}, its snapshot of {self._base_term}")
        self._term = entry.term

    def _stop(self, entry: StoredEntry) -> None:
        if entry.index > self.base and self._store is not None:
            self._store, self._conf, self._unknown_from = None, None, entry.index

    def findings(self) -> Iterator[Finding]:
        """What it comes to."""
        if self.count and self._previous < self.base:
            self._order.add(f"the log ends at {self._previous}, before its snapshot {self.base}")
        entries = f"{self.count} entries, {self.first}..{self._previous}" if self.count else "no entries"
        yield self.checksums.finding("checksums", f"{entries}, {self._size} bytes")
        yield self._order.finding("order", "no holes, and terms never fall")
        yield self._replay()
        yield self._membership()

    def _replay(self) -> Finding:
        if self._contents:
            return self._contents.finding("replay", "")
        if self._newer:
            return self._newer.finding("replay", "", Outcome.MISMATCH)
        if self._store is None:
            since = f"from entry {self._unknown_from} on" if self._unknown_from else "at the snapshot"
            return Finding(check="replay", outcome=Outcome.SKIPPED, text=f"the state {since} is not known")
        return Finding(check="replay", outcome=Outcome.OK, text=_contents(self._store))

    def _membership(self) -> Finding:
        if self._conf is None:
            return Finding(check="membership", outcome=Outcome.SKIPPED, text="the state is not known")
        voters, learners = len(self._conf.voters), len(self._conf.learners)
        nobody = _Faults()
        if not voters and self.last:
            nobody.add("nobody has a vote")
        return nobody.finding("membership", f"voters: {voters}, learners: {learners}")


def _contents(store: Store) -> str:
    view = store.view()
    tables = {"nodes": view.nodes(), "services": view.services(), "tasks": view.tasks()}
    return "every entry applies; " + ", ".join(f"{name}: {len(objects)}" for name, objects in tables.items())
