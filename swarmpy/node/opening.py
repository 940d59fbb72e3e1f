"""Who a node is, by its disk: opening what it has sealed there, and beginning to seal where there is nothing yet."""

from __future__ import annotations

import attrs
import structlog

from swarmpy.errors import DataDirMismatch
from swarmpy.manager.unlock_keys import version_of
from swarmpy.model.objects import Cluster
from swarmpy.model.states import Role
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.manager_half import new_raft_id
from swarmpy.ports import Random
from swarmpy.security.identity import NodeIdentity, load_identity, saved_role
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.vault import Vault

log = structlog.get_logger(__name__)


@attrs.frozen
class Known:
    """A node that was in a cluster before."""

    state: NodeState
    identity: NodeIdentity
    vault: Vault
    """Open, if there is one."""


def who_is_here(data: DataDir, random: Random, unlock_key: UnlockKey | None = None) -> Known | None:
    """The node whose directory ``data`` is; None when it is in no cluster. Blocks.

    Raises DataDirMismatch for files that are not of one node, StorageError, and as :meth:`Vault.open`.
    """
    state = data.load()
    if state is None:
        return None
    data.finish_renewal(state)
    vault = opened_vault(data, unlock_key)
    identity = load_identity(data.path, vault.ring)
    if identity is None:
        raise DataDirMismatch(
            f"{data.path} says that this is node {state.node_id}, but its certificate is missing: restore "
            f"{data.certificates}, or empty the directory and join again"
        )
    if (identity.node_id, identity.cluster_id) != (state.node_id, state.cluster_id):
        raise DataDirMismatch(
            f"the certificate in {data.certificates} is of node {identity.node_id} of cluster "
            f"{identity.cluster_id}, but {data.path} is of node {state.node_id} of cluster "
            f"{state.cluster_id}: files of two nodes are mixed up"
        )
    if identity.role is Role.MANAGER and not data.has_raft_log:
        # It may have voted as who it was: it comes back as somebody new, and the others give the log to that one.
        log.warning("raft_log_missing", directory=str(data.raft), consequence="joining the managers anew")
        state = attrs.evolve(state, raft_id=new_raft_id(random))
        data.save(state)
    return Known(state, identity, vault)


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
