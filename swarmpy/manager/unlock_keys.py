"""The cluster's unlock key: made when managers are to lock, replaced when that is asked for, given up with autolock."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from swarmpy.model.objects import Cluster
from swarmpy.security.sealing import KEY_BYTES
from swarmpy.security.vault import KeyVersion


def with_unlock_key(cluster: Cluster, *, rotate: bool, random_bytes: Callable[[int], bytes]) -> Cluster:
    """``cluster``, whose spec is the new one, with the key that goes with it.

    To replace a key that there is not is nothing, as with Docker.
    """
    wants, has = cluster.spec.autolock_managers, bool(cluster.unlock_key)
    if wants == has and not (wants and rotate):
        return cluster
    key = random_bytes(KEY_BYTES) if wants else b""
    return attrs.evolve(cluster, unlock_key=key, unlock_key_number=cluster.unlock_key_number + 1)


def version_of(cluster: Cluster) -> KeyVersion:
    """Which of the cluster's keys, over all its beginnings, is in force."""
    return KeyVersion(cluster.incarnation, cluster.unlock_key_number)
