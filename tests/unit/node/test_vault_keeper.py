"""A vault, a log and a key file that follow the cluster's unlock key, and what a crash at any moment of that leaves."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from stopped_manager import CLUSTER, entries

from swarmpy.errors import SwarmLocked, WrongUnlockKey
from swarmpy.model.codec import SCHEMA_VERSION
from swarmpy.model.objects import Cluster, RootCA
from swarmpy.model.states import Role
from swarmpy.node.datadir import DataDir
from swarmpy.node.vault_keeper import VaultKeeper
from swarmpy.raft.messages import ConfState, HardState, Snapshot
from swarmpy.raft.storage import StoredState
from swarmpy.security import ca
from swarmpy.security.identity import NodeIdentity, load_identity, new_key_and_csr, reseal_keys, save_identity
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.vault import KeyVersion, Vault
from swarmpy.wire.log import SqliteLog

NOW_NS = 1_790_000_000 * 10**9
FIRST, SECOND = UnlockKey(b"1" * 32), UnlockKey(b"2" * 32)
ROOT: RootCA = ca.create_root_ca(NOW_NS)
WORD = b"hunter2, the word of all managers"
"""Long: some characters in base64 may be in a sealed file by chance."""
OWNER = "thecluster node1 1\n"
MOST_STEPS = 300
NEW = attrs.evolve(CLUSTER, schema=SCHEMA_VERSION)


def locked(key: UnlockKey, number: int) -> Cluster:
    """The cluster with autolock."""
    return attrs.evolve(NEW, unlock_key=key.secret, unlock_key_number=number)


def identity() -> NodeIdentity:
    """Of a manager."""
    key_pem, csr_pem = new_key_and_csr()
    cert_pem = ca.issue(
        ROOT, csr_pem, node_id="node1", role=Role.MANAGER, cluster_id="c", number=1, expiry_ns=10**15, now_ns=NOW_NS
    )
    return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=ROOT.cert_pem)


IDENTITY = identity()


class Manager:
    """A manager's vault, log and key below a directory, in one life of its daemon."""

    def __init__(self, path: Path, *keys: UnlockKey | None, most_seals: int = 1 << 30) -> None:
        """Its vault is opened by itself, or by the first of ``keys`` that does."""
        self.data = DataDir(path)
        self.vault = Vault(path)
        self.opened_by = _open(self.vault, *keys) if self.vault.exists else None
        self.log = SqliteLog(self.data.raft, self.vault.ring)
        self.begun = 0
        self.keeper = VaultKeeper(
            vault=self.vault, begin=self._begin, reseal_key=self._reseal_key, most_seals=most_seals
        )

    def _begin(self) -> None:
        self.begun += 1

    async def _reseal_key(self) -> None:
        assert self.vault.ring is not None
        await asyncio.to_thread(reseal_keys, self.data.path, self.vault.ring)

    async def keep(self, cluster: Cluster) -> None:
        """What the keeper does when this is the cluster's state."""
        await self.keeper._keep(cluster, self.log)

    def identity(self) -> NodeIdentity | None:
        """As a start of the daemon finds it."""
        return load_identity(self.data.path, self.vault.ring)


def _open(vault: Vault, *keys: UnlockKey | None) -> UnlockKey | None:
    for key in (None, *keys):
        try:
            vault.open(key)
        except (SwarmLocked, WrongUnlockKey):
            continue
        return key
    raise AssertionError("nothing opens it")


async def filled(path: Path, vault: Callable[[Vault], None] | None = None) -> StoredState:
    """A manager's directory with secrets in every kind of file; ``vault`` makes its vault, without it there is none."""
    path.mkdir()  # noqa: ASYNC240
    data = DataDir(path)
    data.raft.mkdir()
    (data.raft / "owner").write_text(OWNER)
    own = Vault(path)
    if vault is not None:
        vault(own)
    save_identity(path, IDENTITY, own.ring)
    log = SqliteLog(data.raft, own.ring)
    await log.load()
    await log.append(HardState(term=3, vote=2, commit=8), entries())
    await log.save_snapshot(Snapshot(index=4, term=1, conf=ConfState(), data=WORD * 1000), 3)
    stored = await log.load()
    await log.close()
    return stored


def readable(path: Path) -> list[str]:
    """The files that say one of the secrets."""
    words = [WORD, b"sesame", b"PRIVATE KEY", FIRST.text.encode(), SECOND.text.encode()]
    words += [base64.b64encode(bytes(shift) + WORD)[4:-4] for shift in range(3)]
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return [file.name for file in files if any(word in file.read_bytes() for word in words)]


async def settled(path: Path, stored: StoredState, *keys: UnlockKey | None) -> Manager:
    """A manager as it is started again: all is there, sealed with one key, and nothing is readable."""
    manager = Manager(path, *keys)
    assert await manager.log.load() == stored
    await manager.log.close()
    assert manager.identity() == IDENTITY
    assert manager.vault.ring is not None
    assert not manager.vault.is_unfinished
    assert not readable(path)
    return manager


async def test_a_directory_of_the_version_before(tmp_path: Path) -> None:
    """It stays as it is until all managers read the new version: any may go back until then. Then all is sealed."""
    stored = await filled(tmp_path / "node")
    assert {"raft.db", "swarm-node.key"} < set(readable(tmp_path / "node"))
    manager = Manager(tmp_path / "node")
    await manager.log.load()
    await manager.keep(attrs.evolve(CLUSTER, schema=6))
    assert (manager.begun, manager.vault.exists) == (0, False)
    await manager.keep(NEW)
    assert (manager.begun, manager.vault.exists) == (1, True)
    assert not readable(tmp_path / "node")
    await manager.keep(NEW)
    await manager.log.close()
    assert (await settled(tmp_path / "node", stored)).vault.unlock_key is None


async def test_following_the_unlock_key(tmp_path: Path) -> None:
    """On, replaced, seen again as it was while the log is replayed, given up: the vault goes by later ones only."""
    stored = await filled(tmp_path / "node", lambda vault: vault.create())
    manager = Manager(tmp_path / "node")
    await manager.log.load()
    for cluster, key, number in (
        (NEW, None, 0),
        (locked(FIRST, 1), FIRST, 1),
        (locked(SECOND, 2), SECOND, 2),
        (locked(FIRST, 1), SECOND, 2),
        (NEW, SECOND, 2),
        (attrs.evolve(NEW, unlock_key_number=3), None, 3),
        (locked(FIRST, 4), FIRST, 4),
    ):
        await manager.keep(cluster)
        assert (manager.vault.unlock_key, manager.vault.version.number) == (key, number)
        assert not readable(tmp_path / "node") or key is None
    anew = attrs.evolve(locked(SECOND, 2), incarnation=NOW_NS)
    await manager.keep(anew)
    assert (manager.vault.unlock_key, manager.vault.version) == (SECOND, KeyVersion(NOW_NS, 2))
    await manager.log.close()
    assert (await settled(tmp_path / "node", stored, FIRST, SECOND)).opened_by is SECOND


async def test_a_data_key_that_has_sealed_enough(tmp_path: Path) -> None:
    """It is replaced, with the same unlock key, and the count begins anew."""
    stored = await filled(tmp_path / "node", lambda vault: vault.create(FIRST, KeyVersion(0, 1)))
    manager = Manager(tmp_path / "node", FIRST, most_seals=11)
    await manager.log.load()
    assert manager.log.seals < 11
    await manager.keep(locked(FIRST, 1))
    assert manager.vault.ring is not None
    assert manager.vault.ring.current == 1
    await manager.log.append(None, [attrs.evolve(entries()[-1], index=10), attrs.evolve(entries()[-1], index=11)])
    more = await manager.log.load()
    assert manager.log.seals >= 11
    await manager.keep(locked(FIRST, 1))
    assert (manager.vault.ring.current, manager.log.seals < 11) == (2, True)
    await manager.log.close()
    assert more.entries[: len(stored.entries)] == stored.entries
    assert (await settled(tmp_path / "node", more, FIRST)).opened_by is FIRST


STARTS: dict[str, tuple[Callable[[Vault], None] | None, Cluster]] = {
    "sealing what was plain": (None, NEW),
    "sealing what was plain, with autolock at once": (None, locked(SECOND, 1)),
    "autolock on": (lambda vault: vault.create(), locked(SECOND, 1)),
    "another key": (lambda vault: vault.create(FIRST, KeyVersion(0, 1)), locked(SECOND, 2)),
    "autolock off": (
        lambda vault: vault.create(FIRST, KeyVersion(0, 1)),
        attrs.evolve(NEW, unlock_key_number=2),
    ),
}


@pytest.mark.parametrize("name", STARTS)
async def test_a_change_that_is_cut_off_at_any_step(tmp_path: Path, name: str) -> None:
    """Whatever file was changed last: the directory opens with a key that is there or that somebody has, holds all that
    it held, and the keeper brings the change to its end.
    """
    make, cluster = STARTS[name]
    stored = await filled(tmp_path / "node", make)
    photos = tmp_path / "photos"
    photos.mkdir()
    manager = Manager(tmp_path / "node", FIRST)
    await manager.log.load()
    camera = Camera(tmp_path / "node", photos)
    await manager.log._run(manager.log._sql, lambda: manager.log._loaded.set_trace_callback(camera.statement))
    with camera:
        await manager.keep(cluster)
    await manager.log.close()
    taken = sorted(photos.iterdir())
    assert 10 < len(taken) < MOST_STEPS
    for photo in taken:
        after = Manager(photo, FIRST, SECOND)
        assert await after.log.load() == stored, photo
        assert after.identity() == IDENTITY
        await after.keep(cluster)
        await after.log.close()
        ended = await settled(photo, stored, SECOND if cluster.unlock_key else None)
        assert ended.vault.unlock_key == (SECOND if cluster.unlock_key else None)
        shutil.rmtree(photo)


class Camera:
    """Copies a directory before each change of a file in it: what there is when the power is cut at that moment."""

    def __init__(self, directory: Path, photos: Path) -> None:
        self._directory = directory
        self._photos = photos
        self._is_on = False
        self._count = 0
        sys.addaudithook(self._heard)

    def __enter__(self) -> None:
        self._is_on = True

    def __exit__(self, *_: object) -> None:
        self._is_on = False

    def take(self) -> None:
        """One more."""
        self._count += 1
        self._is_on = False
        shutil.copytree(self._directory, self._photos / f"{self._count:04}")
        self._is_on = True

    def statement(self, statement: str) -> None:
        """SQLite is about to run it."""
        if self._is_on and statement.startswith(("BEGIN", "COMMIT", "VACUUM", "PRAGMA wal_checkpoint")):
            self.take()

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on or event not in ("os.rename", "os.remove", "open"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        self.take()
