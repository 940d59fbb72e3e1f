"""A manager's vault, kept as the cluster's state says: locked with its unlock key, or not; with fresh data keys.

Whatever was sealed before is sealed anew beside everything else. What a crash has interrupted is gone on with at the
next start: the vault has the earlier keys, and is told to forget them when nothing needs them any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from swarmpy.manager.manager import Manager
from swarmpy.manager.unlock_keys import version_of
from swarmpy.model.codec import SECRETS_VERSION
from swarmpy.model.objects import Cluster, Kind
from swarmpy.security.sealing import MOST_SEALS, UnlockKey
from swarmpy.security.vault import Vault
from swarmpy.wire.log import SqliteLog

log = structlog.get_logger(__name__)

LOOK_S = 60.0
"""Most seconds between two looks at how often the data key has sealed."""


class VaultKeeper:
    """Create it once for a node, :meth:`run` it beside each of its manager halves."""

    def __init__(
        self,
        *,
        vault: Vault,
        begin: Callable[[], None],
        reseal_key: Callable[[], Awaitable[None]],
        most_seals: int = MOST_SEALS,
    ) -> None:
        """``begin`` is called in a thread before there is a vault in a directory of an earlier version; ``reseal_key``
        has the node's own private key sealed with the vault's current key.
        """
        self._vault = vault
        self._begin = begin
        self._reseal_key = reseal_key
        self._most_seals = most_seals

    async def run(self, manager: Manager, storage: SqliteLog) -> None:
        """Until cancelled. Raises StorageError: the disk cannot be trusted."""
        await manager.wait_cluster()
        with manager.store.watch({Kind.CLUSTER}) as watch:
            while True:
                cluster = manager.store.cluster
                if cluster is not None:
                    await self._keep(cluster, storage)
                await watch.wait(LOOK_S)
                while watch.poll():
                    pass

    async def _keep(self, cluster: Cluster, storage: SqliteLog) -> None:
        vault = self._vault
        if vault.ring is None:
            if cluster.schema < SECRETS_VERSION:
                return  # until then every manager may go back to the version before
            await _to_its_end(self._seal_what_is_there)
            await self._use(storage)
            log.info("disk_encryption_began", reason="it was written by a version without")
        wanted = UnlockKey(cluster.unlock_key) if cluster.unlock_key else None
        has_news = vault.version < version_of(cluster) and not _is_same(wanted, vault.unlock_key)
        if has_news or (storage.seals >= self._most_seals and not vault.is_unfinished):
            version = version_of(cluster) if has_news else vault.version
            unlock = wanted if has_news else vault.unlock_key
            await _to_its_end(lambda: vault.rotate(unlock, version))
            await self._use(storage)
            log.info("vault_keys_replaced", autolock=unlock is not None, because_of="unlock key" if has_news else "use")
        if vault.is_unfinished:
            await self._reseal_key()
            await storage.reseal()
            await _to_its_end(vault.finish)
            await self._use(storage)
            log.info("disk_sealed_anew")

    async def _use(self, storage: SqliteLog) -> None:
        ring = self._vault.ring
        assert ring is not None, "it is open"
        await storage.use(ring)

    def _seal_what_is_there(self) -> None:
        self._begin()
        self._vault.create(takes_plain=True)


def _is_same(one: UnlockKey | None, other: UnlockKey | None) -> bool:
    return (one and one.secret) == (other and other.secret)


async def _to_its_end(job: Callable[[], None]) -> None:
    """Do ``job`` in a thread; who is cancelled waits for it, as whoever comes next must not meet it half done."""
    work = asyncio.create_task(asyncio.to_thread(job), name="vault")
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
