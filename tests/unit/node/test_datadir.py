"""What a node keeps on disk of itself."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import attrs
import pytest

from swarmpy.errors import AlreadyExists, DataDirMismatch, StorageError
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.security.vault import Vault

STATE = NodeState(
    cluster_id=ClusterId("c" * 25),
    node_id=NodeId("n" * 25),
    raft_id=7,
    listen_address="0.0.0.0:2377",
    advertise_address="192.0.2.1:2377",
    runtime="process",
    raft=RaftConfig(election_tick=9),
    managers=(ManagerAddress(node_id=NodeId("m" * 25), address="192.0.2.2:2377"),),
)


def test_a_new_directory_is_of_no_cluster(tmp_path: Path) -> None:
    """A directory without node.json holds no node; it is made private."""
    data = DataDir(tmp_path / "new")
    data.open()
    assert data.load() is None
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    data.close()


def test_state_survives(tmp_path: Path) -> None:
    """What was saved is loaded by the next daemon, and nobody else may read it."""
    data = DataDir(tmp_path)
    data.open()
    data.save(STATE)
    data.close()
    again = DataDir(tmp_path)
    again.open()
    assert again.load() == STATE
    assert stat.S_IMODE((tmp_path / "node.json").stat().st_mode) == 0o600
    again.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could put his own socket, keys and state into it; so could who made a link to ours."""
    theirs, link = tmp_path / "theirs", tmp_path / "link"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, -1)
    link.symlink_to(tmp_path / "ours")
    (tmp_path / "ours").mkdir(mode=0o700)
    os.chown(link, 65534, -1, follow_symlinks=False)
    for path in (theirs, link):
        with pytest.raises(StorageError, match=r"belongs to another user \(number 65534\)"):
            DataDir(path).open()
        assert list(path.iterdir()) == []
    own = tmp_path / "own-link"
    own.symlink_to(tmp_path / "ours")
    data = DataDir(own)
    data.open()
    data.close()


def test_one_daemon_a_directory(tmp_path: Path) -> None:
    """A second daemon on the directory is refused with what to do; it is free when the first one ends."""
    first, second = DataDir(tmp_path), DataDir(tmp_path)
    first.open()
    with pytest.raises(AlreadyExists, match="another swarmpy daemon runs on"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A directory that a newer swarmpy wrote is left alone."""
    data = DataDir(tmp_path)
    (tmp_path / "node.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(DataDirMismatch, match="newer swarmpy"):
        data.load()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": "1"}', '{"version": 1, "raft": 3}']
)
def test_damage_is_named(tmp_path: Path, text: str) -> None:
    """A damaged file is an error that names it, not a node without a past."""
    (tmp_path / "node.json").write_text(text)
    with pytest.raises(StorageError, match=r"node\.json|newer"):
        DataDir(tmp_path).load()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    """A path that is no directory is refused in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot use the data directory"):
        DataDir(tmp_path / "file").open()


def test_forgetting_removes_what_is_the_clusters(tmp_path: Path) -> None:
    """After leaving, nothing of the cluster is there; the lock is still held."""
    data = DataDir(tmp_path)
    data.open()
    data.save(STATE)
    for directory in (data.certificates, data.raft, data.agent, data.tasks):
        directory.mkdir()
        (directory / "x").write_text("x")
    data.forget_cluster()
    assert data.load() is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock"]
    with pytest.raises(AlreadyExists):
        DataDir(tmp_path).open()
    data.close()


def test_a_log_without_its_database_is_none(tmp_path: Path) -> None:
    """Without the database nobody knows what was voted for: the directory is free for a new raft id."""
    data = DataDir(tmp_path)
    data.claim_raft(STATE)
    assert not data.has_raft_log
    data.claim_raft(attrs.evolve(STATE, raft_id=8))
    (data.raft / "raft.db").write_bytes(b"")
    assert data.has_raft_log
    with pytest.raises(DataDirMismatch, match="mixed up"):
        data.claim_raft(STATE)


def test_snapshots_without_their_log_are_not_thrown_away(tmp_path: Path) -> None:
    """Where only the database is gone, somebody may want to restore it: nothing is done."""
    data = DataDir(tmp_path)
    data.claim_raft(STATE)
    (data.raft / "1-5.snap").write_bytes(b"state")
    with pytest.raises(DataDirMismatch, match="restore it"):
        assert data.has_raft_log


def test_a_directory_with_a_vault_says_so(tmp_path: Path) -> None:
    """A version that knows no vault reads format 1 only; who leaves the cluster has nothing sealed any more."""

    def written() -> int:
        return int(json.loads((tmp_path / "node.json").read_text())["version"])

    data = DataDir(tmp_path)
    data.save(STATE)
    assert written() == 1
    data.raise_format()
    data.save(STATE)
    assert written() == 2
    again = DataDir(tmp_path)
    assert again.load() == STATE
    again.save(STATE)
    assert written() == 2
    Vault(tmp_path).create()
    again.forget_cluster()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("vault")]
    again.save(STATE)
    assert written() == 1


def test_a_log_that_is_set_aside_keeps_its_keys(tmp_path: Path) -> None:
    """The node gets others, or none."""
    data = DataDir(tmp_path)
    data.claim_raft(STATE)
    vault = Vault(tmp_path)
    vault.create()
    assert vault.ring is not None
    sealed = vault.ring.seal(b"data", b"x")
    data.set_raft_aside()
    vault.discard()
    kept = Vault(data.superseded_raft)
    kept.open()
    assert kept.ring is not None
    assert kept.ring.open(1, sealed, b"x") == b"data"
