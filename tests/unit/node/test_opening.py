"""What a start of the daemon makes of a vault, also where a change of role was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmpy.errors import DataDirMismatch, SwarmLocked
from swarmpy.model.states import Role
from swarmpy.node.datadir import DataDir
from swarmpy.node.opening import make_vault, opened_vault
from swarmpy.security import ca, private_files
from swarmpy.security.identity import NodeIdentity, load_identity, new_key_and_csr, next_key, save_identity
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.vault import KeyVersion, Vault

NOW_NS = 1_790_000_000 * 10**9
ROOT = ca.create_root_ca(NOW_NS)
KEY = UnlockKey(b"k" * 32)


def identity(role: Role) -> NodeIdentity:
    """A node's."""
    key_pem, csr_pem = new_key_and_csr()
    cert_pem = ca.issue(
        ROOT, csr_pem, node_id="n", role=role, cluster_id="c", number=1, expiry_ns=10**15, now_ns=NOW_NS
    )
    return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=ROOT.cert_pem)


MANAGER, WORKER = identity(Role.MANAGER), identity(Role.WORKER)


class Stop(BaseException):
    """The power is cut."""


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """An empty data directory."""
    return DataDir(tmp_path)


def test_a_worker_has_none(data: DataDir) -> None:
    """Its key is in clear."""
    save_identity(data.path, WORKER)
    vault = opened_vault(data, None)
    assert (vault.exists, load_identity(data.path, vault.ring)) == (False, WORKER)


def test_a_manager_that_lost_its_vault_is_told(data: DataDir) -> None:
    """Nothing opens its key."""
    vault = Vault(data.path)
    make_vault(data, vault, None)
    save_identity(data.path, MANAGER, vault.ring)
    assert load_identity(data.path, opened_vault(data, None).ring) == MANAGER
    vault.discard()
    with pytest.raises(DataDirMismatch, match="the vault that it was sealed with is gone"):
        load_identity(data.path, opened_vault(data, None).ring)


@pytest.mark.parametrize("step", range(8))
def test_a_promotion_that_is_cut_off(data: DataDir, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the worker or the manager, and can go on: the next key is to be had."""
    save_identity(data.path, WORKER)
    next_key(data.path)
    vault = Vault(data.path)

    def promote() -> None:
        make_vault(data, vault, None)
        save_identity(data.path, MANAGER, vault.ring)

    cut_after(step, promote, monkeypatch)
    found = opened_vault(data, None)
    assert load_identity(data.path, found.ring) in (WORKER, MANAGER)
    assert found.exists is (load_identity(data.path, found.ring) == MANAGER)
    assert next_key(data.path, found.ring) == next_key(data.path, found.ring)


@pytest.mark.parametrize("step", range(8))
def test_a_demotion_that_is_cut_off(data: DataDir, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the locked manager, or the worker, which needs no key and keeps nothing that one would open."""
    vault = Vault(data.path)
    vault.create(KEY, KeyVersion(0, 1))
    save_identity(data.path, MANAGER, vault.ring)
    next_key(data.path, vault.ring)
    data.raft.mkdir()

    def demote() -> None:
        save_identity(data.path, WORKER)
        vault.discard()

    cut_after(step, demote, monkeypatch)
    try:
        found = opened_vault(data, None)
    except SwarmLocked:
        assert load_identity(data.path, opened_vault(data, KEY).ring) == MANAGER
        return
    assert (found.exists, load_identity(data.path)) == (False, WORKER)
    if step < 4:
        assert not data.raft.exists()


def cut_after(step: int, work: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do ``work`` until a directory was synced ``step`` times."""
    real, left = private_files.sync_directory, step

    def counted(path: Path) -> None:
        nonlocal left
        if left == 0:
            raise Stop
        left -= 1
        real(path)

    with monkeypatch.context() as patch:
        for module in ("private_files", "vault"):
            patch.setattr(f"swarmpy.security.{module}.sync_directory", counted)
        try:
            work()  # type: ignore[operator]
        except Stop:
            return
