"""The data directory of a node: who it is, which daemon holds it, and how it is emptied.

Layout::

    DATA_DIR/
      node.json        who this node is (NodeState); absent while it is in no cluster
      lock             held by the running daemon
      swarmpy.sock     the API
      audit.log        who asked the API for what (audit_log); audit.log.1 and so on: before that
      certificates/    the node's key and certificate, the root certificate
      vault            the keys that a manager's key and log are sealed with (security.vault)
      vault.key        the key to that, where managers are not locked
      raft/            the log and snapshots; managers only
      raft.mark        how much of the log must be there (wire.log_files)
      raft.next/       while the cluster is begun anew: the log that shall count next
      raft.superseded/ the log of a manager whose cluster was begun anew by another
      agent/           assigned tasks, to be adopted after a restart
      tasks/           working directories of the process runtime
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import attrs

from swarmpy.errors import AlreadyExists, DataDirMismatch, ProtocolViolation, StorageError
from swarmpy.model import codec
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.security.private_files import OTHERS_MAY_WRITE, make_private_directory
from swarmpy.security.vault import Vault, copy_vault
from swarmpy.wire.log_files import DATABASE, OWNER, SNAPSHOT_SUFFIX, WAL, forget_mark, mark_of

FIRST_VERSION = 1
FORMAT_VERSION = 2
"""Of a directory with sealed things in it, which versions before could make nothing of."""

CLUSTER_DIRECTORIES = ("certificates", "raft", "raft.next", "raft.superseded", "agent", "tasks")


@attrs.frozen(kw_only=True)
class NodeState:
    """What a node must remember to go on in its cluster after a reboot."""

    cluster_id: ClusterId
    node_id: NodeId
    raft_id: int
    """Of its current or last membership of the Raft group; 0 when it never was a manager."""
    listen_address: str
    """``host:port`` it binds as a manager."""
    advertise_address: str
    """``host:port`` others reach it at."""
    address_chosen: bool = False
    """Nobody gave ``advertise_address``: it was chosen, and is chosen anew when this machine has it no longer."""
    runtime: str
    raft: RaftConfig
    """The cluster's timing when this node joined."""
    managers: tuple[ManagerAddress, ...] = ()
    """Those known when it joined; later ones are in ``agent/``."""


class DataDir:
    """One node's directory. All methods block for a moment: they are called at start, at joining and at leaving."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._format = FIRST_VERSION

    @property
    def socket(self) -> Path:
        """The API socket."""
        return self.path / "swarmpy.sock"

    @property
    def certificates(self) -> Path:
        """The node's identity."""
        return self.path / "certificates"

    @property
    def raft(self) -> Path:
        """The Raft log."""
        return self.path / "raft"

    @property
    def next_raft(self) -> Path:
        """The log that shall replace it, while it is being made."""
        return self.path / "raft.next"

    @property
    def superseded_raft(self) -> Path:
        """The log that counted before this node's cluster was begun anew by another manager."""
        return self.path / "raft.superseded"

    @property
    def agent(self) -> Path:
        """The agent's local state."""
        return self.path / "agent"

    @property
    def tasks(self) -> Path:
        """Working directories of the process runtime."""
        return self.path / "tasks"

    @property
    def _state_file(self) -> Path:
        return self.path / "node.json"

    def open(self) -> None:
        """Create it if need be and lock it. Raises AlreadyExists when another daemon runs on it, StorageError."""
        try:
            make_private_directory(self.path)
            self._check_owner()
            self._check_mode()
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise AlreadyExists(
                f"another swarmpy daemon runs on {self.path}: use it, or give this one its own --data-dir"
            ) from None
        except OSError as error:
            self.close()
            raise unusable(self.path, error) from error

    def _check_owner(self) -> None:
        # Of a link, too: whoever made it may lead it elsewhere.
        for found in (self.path.lstat(), self.path.stat()):
            if found.st_uid not in (0, os.geteuid()):
                raise StorageError(
                    f"the data directory {self.path} belongs to another user (number {found.st_uid}), who could put "
                    "anything in the place of what is in it: use a directory of root's or of the daemon's user"
                )

    def _check_mode(self) -> None:
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & OTHERS_MAY_WRITE:
            raise StorageError(
                f"others may write to the data directory {self.path} (mode {mode:04o}), so anybody could take this "
                f'node over: "chmod 700 {self.path}", and make sure that nobody has'
            )

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> NodeState | None:
        """Who this node is; None when it is in no cluster.

        Raises DataDirMismatch when a newer version wrote it, StorageError when it cannot be read.
        """
        try:
            raw = self._state_file.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._state_file}: {error.strerror}") from error
        try:
            data = json.loads(raw)
            version = int(data.pop("version"))
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise self._damaged() from error
        if version > FORMAT_VERSION:
            raise DataDirMismatch(
                f"{self.path} was written by a newer swarmpy (format {version}, this one reads {FORMAT_VERSION}): "
                "upgrade this node"
            )
        self._format = max(self._format, version)
        try:
            return codec.from_plain(NodeState, data)
        except ProtocolViolation as error:
            raise self._damaged() from error

    def _damaged(self) -> StorageError:
        return StorageError(
            f"{self._state_file} is damaged: restore it from a backup, or empty {self.path} and join again"
        )

    def raise_format(self) -> None:
        """From the next :meth:`save` on versions that know no vault are told so; to be done before there is one."""
        self._format = FORMAT_VERSION

    def save(self, state: NodeState) -> None:
        """Remember who this node is. Durable on return."""
        data: dict[str, Any] = {"version": self._format, **codec.to_plain(state)}
        try:
            _write(self._state_file, json.dumps(data, indent=2))
        except OSError as error:
            raise StorageError(f"cannot write {self._state_file}: {error.strerror}") from error

    def forget_cluster(self) -> None:
        """Empty it of everything that belongs to a cluster; the lock and the API socket stay."""
        # First of all the file that says "this node is a member": a crash half-way must not leave a member without
        # its log, which could vote twice.
        with contextlib.suppress(FileNotFoundError):
            self._state_file.unlink()
        _fsync_directory(self.path)
        for name in CLUSTER_DIRECTORIES:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for log in (self.raft, self.next_raft):
            forget_mark(log)
        Vault(self.path).discard()
        self._format = FIRST_VERSION

    def make_agent(self) -> None:
        """Make room for the agent's local state."""
        self.agent.mkdir(mode=0o700, exist_ok=True)

    @property
    def has_raft_log(self) -> bool:
        """True when there is the log of a manager; what only says whose log it was is none.

        Raises DataDirMismatch when there are snapshots or a WAL without the log they belong to.
        """
        if (self.raft / DATABASE).exists():
            return self._raft_owner.exists()
        if (self.raft / WAL).exists() or any(self.raft.glob(f"*{SNAPSHOT_SUFFIX}")):
            raise DataDirMismatch(
                f"{self.raft} is the directory of a raft log, but {DATABASE} is missing: restore it, or remove the "
                "directory and start the node again, and it joins the other managers anew"
            )
        return False

    @property
    def _raft_owner(self) -> Path:
        return self.raft / OWNER

    def claim_raft(self, state: NodeState) -> None:
        """Make the Raft directory the one of this membership. Raises DataDirMismatch when it is of another one.

        Two nodes with one log, or one node with another's, could vote twice.
        """
        owner = _owner(state)
        try:
            found = self._raft_owner.read_text() if self._raft_owner.exists() else ""
            if found != owner and self.has_raft_log:
                raise DataDirMismatch(
                    f"{self.raft} is not the log of node {state.node_id} of cluster {state.cluster_id}: files of two "
                    "nodes are mixed up; restore it, or empty the data directory and join again"
                )
            self.raft.mkdir(mode=0o700, exist_ok=True)
            if found != owner:
                # What an earlier membership promised does not bind this one: its raft id is a new one.
                forget_mark(self.raft)
                _write(self._raft_owner, owner)
        except OSError as error:
            raise StorageError(f"cannot use {self.raft}: {error.strerror}") from error

    def forget_raft(self) -> None:
        """Drop the log of a manager that is one no more."""
        shutil.rmtree(self.raft, ignore_errors=True)
        forget_mark(self.raft)

    def set_raft_aside(self) -> None:
        """Keep the log of a manager whose cluster was begun anew by another for its operator. Raises StorageError.

        No daemon ever uses it again: the node is a manager no more, or comes back as a new one.
        """
        try:
            if self.raft.exists():
                shutil.rmtree(self.superseded_raft, ignore_errors=True)
                copy_vault(self.path, self.raft)
                self.raft.rename(self.superseded_raft)
                _fsync_directory(self.path)
            forget_mark(self.raft)
        except OSError as error:
            raise StorageError(f"cannot set {self.raft} aside: {error.strerror}") from error

    # -- another log in the place of the one that is there --------------------------------------------------------

    def begin_renewal(self, state: NodeState) -> None:
        """Make an empty ``raft.next`` for the log of ``state``. Raises StorageError."""
        try:
            self._forget_next()
            self.next_raft.mkdir(mode=0o700)
            _write(self.next_raft / OWNER, _owner(state))
        except OSError as error:
            raise StorageError(f"cannot make {self.next_raft}: {error.strerror}") from error

    def commit_renewal(self, state: NodeState) -> None:
        """From now on this node is ``state``, with the log in ``raft.next``. Raises StorageError."""
        self.save(state)
        self.finish_renewal(state)

    def finish_renewal(self, state: NodeState) -> None:
        """Put ``raft.next`` in the place of ``raft`` if it is the log of ``state``; otherwise it never came to count.

        To be called before the log is used, as a crash may have come between. Raises StorageError.
        """
        old = self.path / "raft.old"
        try:
            if self.next_raft.exists() and self._next_owner() == _owner(state):
                if self.raft.exists():
                    shutil.rmtree(old, ignore_errors=True)
                    self.raft.rename(old)
                if mark_of(self.next_raft).exists():
                    mark_of(self.next_raft).rename(mark_of(self.raft))
                self.next_raft.rename(self.raft)
                _fsync_directory(self.path)
            self._forget_next()
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"cannot replace {self.raft} by {self.next_raft}: {error.strerror}") from error

    def _next_owner(self) -> str:
        owner = self.next_raft / OWNER
        return owner.read_text() if owner.exists() else ""

    def _forget_next(self) -> None:
        shutil.rmtree(self.next_raft, ignore_errors=True)
        forget_mark(self.next_raft)


def _owner(state: NodeState) -> str:
    return f"{state.cluster_id} {state.node_id} {state.raft_id}\n"


def unusable(path: Path, error: OSError) -> StorageError:
    """What to tell when ``path`` cannot be a data directory."""
    reason = "it is not a directory" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
    return StorageError(f"cannot use the data directory {path}: {reason}: give another with --data-dir")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, durably."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _fsync_directory(path.parent)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
