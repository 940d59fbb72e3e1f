"""Where the Raft log of a stopped manager is, and what is in it, told so that it may be shown: see ``raft dump``."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from swarmpy.errors import (
    DataDirMismatch,
    FailedPrecondition,
    InvalidArgument,
    InvariantViolation,
    LogCorrupted,
    NotFound,
    ProtocolViolation,
    StorageError,
)
from swarmpy.model import codec
from swarmpy.model.changes import Action, ChangeList
from swarmpy.model.grammar import printable
from swarmpy.model.summary import Summary, patch_summaries, summary
from swarmpy.node.clock import SystemClock
from swarmpy.raft.encoding import decode_conf_change
from swarmpy.raft.messages import ConfChange, ConfChangeKind, Entry, EntryKind
from swarmpy.raft.storage import BOOTSTRAP_INDEX
from swarmpy.security.sealing import KeyRing, UnlockKey
from swarmpy.security.vault import Vault
from swarmpy.store.memory import Store
from swarmpy.wire.log_files import DATABASE
from swarmpy.wire.log_inspection import StoppedLog, StoredEntry, StoredSnapshot, open_stopped, unreadable

KINDS = {int(kind): kind for kind in EntryKind}
OF_NEWER = "of a newer swarmpy"


@attrs.frozen(kw_only=True)
class EntrySummary:
    """One entry in words. ``fault`` is why it cannot be told what it does, "" for a sound one."""

    index: int
    term: int
    kind: str
    size: int
    text: str = ""
    changes: tuple[Summary, ...] = ()
    fault: str = ""


def raft_directory(data_dir: Path) -> Path:
    """The directory of the log: in a node's data directory, or ``data_dir`` itself when it is one (a copy, perhaps).

    Raises NotFound, InvalidArgument, FailedPrecondition (there is no manager's log), PermissionDenied, StorageError.
    """
    try:
        if not data_dir.exists():
            raise NotFound(f"there is no directory {data_dir}")
        if not data_dir.is_dir():
            raise InvalidArgument(f"{data_dir} is not a directory: give a node's data directory")
        names = {path.name for path in data_dir.iterdir()}
        if "raft" in names:
            list((data_dir / "raft").iterdir())
            return data_dir / "raft"
        if DATABASE in names:
            return data_dir
    except OSError as error:
        raise unreadable(data_dir, error) from error
    what = "this node is no manager" if "node.json" in names else "it is not the data directory of a manager"
    raise FailedPrecondition(f"{data_dir} holds no raft log: {what}")


@contextmanager
def stopped_log(data_dir: Path, unlock_key: UnlockKey | None = None) -> Iterator[StoppedLog]:
    """The log in a data directory; no daemon can start on it meanwhile. ``unlock_key`` opens its vault if it is locked.

    Raises SwarmLocked (without a key) and WrongUnlockKey, FailedPrecondition while a daemon runs on it, DataDirMismatch
    when a newer version wrote it; otherwise as :func:`raft_directory` and
    :func:`~swarmpy.wire.log_inspection.open_stopped`.
    """
    directory = raft_directory(data_dir)
    with _daemon_kept_out(directory.parent), open_stopped(directory, _ring(directory, unlock_key)) as log:
        log.check_schema()
        if log.is_sealed and _vault(directory) is None:
            raise FailedPrecondition(
                f"the log in {directory} is sealed, and the vault with its keys is not there: of a copy, copy the "
                "node's vault and vault.key into it, too"
            )
        yield log


def is_locked(data_dir: Path) -> bool:
    """True when the log in a data directory opens with an unlock key only. Raises as :func:`raft_directory`."""
    vault = _vault(raft_directory(data_dir))
    return vault is not None and vault.is_locked


def _vault(directory: Path) -> Vault | None:
    """Of a log: the one beside it, or the one in it, where the log was set aside or copied with it."""
    vaults = (Vault(directory), Vault(directory.parent))
    return next((vault for vault in vaults if vault.exists), None)


def _ring(directory: Path, unlock_key: UnlockKey | None) -> KeyRing | None:
    vault = _vault(directory)
    if vault is None:
        return None
    vault.open(unlock_key, tidy=False)
    return vault.ring


@contextmanager
def _daemon_kept_out(node_dir: Path) -> Iterator[None]:
    try:
        lock = os.open(node_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        lock = -1  # a daemon makes it before anything else: none runs
    except OSError as error:
        raise unreadable(node_dir, error) from error
    try:
        if lock >= 0:
            _share(lock, node_dir)
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _share(lock: int, node_dir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FailedPrecondition(
            f"the swarmpy daemon runs on {node_dir} and has its raft log locked: stop it first, or ask it with "
            '"swarmpy status --raft"'
        ) from None
    except OSError as error:
        raise unreadable(node_dir / "lock", error) from error


def state_of(log: StoppedLog, snapshot: StoredSnapshot | None) -> Store:
    """A store as the snapshot left it, whose digest is checked; its version is that of the last entry that it heard of.

    That is less than the snapshot's index where the entries between the two are Raft's own (a leader's first one, a
    change of the membership), which no store hears of. Raises LogCorrupted, DataDirMismatch.
    """
    store = Store(SystemClock())
    data = b"" if snapshot is None else log.data_of(snapshot)
    if snapshot is not None and snapshot.index > BOOTSTRAP_INDEX:
        try:
            store.restore_at_once(data)
        except LogCorrupted:
            # What it says quotes the data, which holds secrets.
            raise LogCorrupted(f"the snapshot {snapshot.file} cannot be decoded") from None
        if store.version > snapshot.index:
            raise LogCorrupted(f"the snapshot {snapshot.file} holds the state at {store.version}")
    return store


def summaries(log: StoppedLog, last: int | None = None) -> Iterator[EntrySummary]:
    """Every entry up to ``last``, in words. What an update changes is told as long as the state before is known."""
    snapshot = log.snapshot()
    store: Store | None = None
    with contextlib.suppress(StorageError):
        store = state_of(log, snapshot)
    base = 0 if snapshot is None else snapshot.index
    expected = base + 1
    for entry in log.entries(last):
        if entry.index <= base:
            yield told(entry, None)
            continue
        if entry.index != expected:
            store = None
        expected = entry.index + 1
        one = told(entry, store)
        yield one
        if one.fault:
            store = None


def told(entry: StoredEntry, store: Store | None) -> EntrySummary:
    """``entry`` in words, and applied to ``store``, which is the state before it; None when that is not known."""
    kind = KINDS.get(entry.kind)
    one = EntrySummary(
        index=entry.index,
        term=entry.term,
        kind=kind.name.lower() if kind is not None else str(entry.kind),
        size=len(entry.data),
    )
    if entry.fault:
        return attrs.evolve(one, fault=entry.fault)
    fault = OF_NEWER
    try:
        if kind is not None:
            return _told(one, entry, kind, store)
    except DataDirMismatch:
        fault = OF_NEWER
    except (ProtocolViolation, LogCorrupted):
        fault = "cannot be decoded"
    except InvariantViolation as error:
        fault = printable(f"contradicts the state before it: {error}")
    return attrs.evolve(one, fault=fault)


def _told(one: EntrySummary, entry: StoredEntry, kind: EntryKind, store: Store | None) -> EntrySummary:
    if kind is EntryKind.CONF_CHANGE:
        return attrs.evolve(one, text=in_words(conf_change(entry)))
    if not entry.data:
        return attrs.evolve(one, text="a leader's first entry")
    return _told_changes(one, entry, store)


def _told_changes(one: EntrySummary, entry: StoredEntry, store: Store | None) -> EntrySummary:
    written = codec.decode(ChangeList, entry.data)
    view = Store(SystemClock()).view() if store is None else store.view()
    rows = [summary(change, view.get(change.kind, change.id)) for change in written.changes]
    for patch in written.patches:
        rows.extend(patch_summaries(patch, view.tasks_of(patch.ids)))
    text = "; ".join(map(str, rows))
    if store is not None:
        store.apply(entry.index, entry.data)
        if rows and not any(_is_done(row, store, entry.index) for row in rows):
            text = f"repeated request, not done again: {text}"
    return attrs.evolve(one, changes=tuple(rows), text=text)


def _is_done(change: Summary, store: Store, index: int) -> bool:
    now = store.view().get(change.kind, change.id)
    if change.action is Action.DELETE:
        return now is None
    return now is not None and now.meta.version == index


def conf_change(entry: StoredEntry) -> ConfChange:
    """The change of membership in ``entry``. Raises LogCorrupted."""
    return decode_conf_change(Entry(term=entry.term, index=entry.index, kind=EntryKind.CONF_CHANGE, data=entry.data))


def in_words(change: ConfChange) -> str:
    """A change of the membership as a sentence."""
    member = change.member
    raft_id, node = member.raft_id, printable(f"node {member.node_id} at {member.address}")
    match change.kind:
        case ConfChangeKind.ADD_LEARNER:
            return f"member {raft_id} joins as a learner: {node}"
        case ConfChangeKind.PROMOTE:
            return f"member {raft_id} gets its vote"
        case ConfChangeKind.REMOVE:
            return f"member {raft_id} is removed"
        case ConfChangeKind.UPDATE:
            return f"member {raft_id} has a new address: {node}"
