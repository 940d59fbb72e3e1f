"""Opening what a node has sealed on its disk, and beginning to seal on a disk that has nothing yet."""

from __future__ import annotations

from swarmpy.manager.unlock_keys import version_of
from swarmpy.model.objects import Cluster
from swarmpy.model.states import Role
from swarmpy.node.datadir import DataDir
from swarmpy.security.identity import saved_role
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.vault import Vault


def opened_vault(data: DataDir, unlock_key: UnlockKey | None) -> Vault:
    """The vault of the node in ``data``, open if there is one. Raises as :meth:`Vault.open`."""
    vault = Vault(data.path)
    if not vault.exists:
        return vault
    if saved_role(data.path) is Role.WORKER:
        # It was on its way to be a manager, or is one no more: its certificate goes with a key that is not sealed, and
        # what there is of a log is of no use to anybody.
        data.forget_raft()
        vault.discard()
        return vault
    vault.open(unlock_key)
    return vault


def make_vault(data: DataDir, vault: Vault, cluster: Cluster | None) -> None:
    """Make the vault of a new manager, of ``cluster`` where that is known already. Raises StorageError."""
    data.raise_format()
    if cluster is None or not cluster.unlock_key:
        vault.create(None, None if cluster is None else version_of(cluster))
    else:
        vault.create(UnlockKey(cluster.unlock_key), version_of(cluster))
