"""A node's certificate, kept valid: renewed in time, and what is done when it could not be.

A renewal is due when a random share of the certificate's life has passed, so that nodes that joined together do not ask
together. The life is counted from the moment at which this node got it: by its own clock, which may differ from the
manager's, and by the one that is never set.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import structlog

from swarmpy.errors import CertificateRevoked, SwarmpyError
from swarmpy.manager.manager import Manager
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.states import Role
from swarmpy.node.joining import rejoin_identity, renew_identity
from swarmpy.ports import Clock, Random
from swarmpy.security.certificates import SKEW_NS
from swarmpy.security.identity import NodeIdentity, next_key, reseal_keys, save_identity, save_roots
from swarmpy.security.tls import Credentials
from swarmpy.security.vault import Vault

log = structlog.get_logger(__name__)

EARLIEST, LATEST = 0.5, 0.8
"""The shares of its life between which a certificate is renewed (swarmkit ``ca/renewer.go``)."""
LEAST_PAUSE_S = 60.0
"""Seconds between a certificate and the next one, however short its life."""
RETRY_FIRST_S = 5.0
RETRY_MOST_S = 3600.0
RETRIES_IN_A_LIFE = 20
"""While it cannot be renewed, it is tried so often at least as long as a certificate lives."""
LOAD_TIMEOUT_S = 10.0
"""Most seconds until a manager has loaded what it had on its disk."""
LOOK_S = 15.0
"""Most seconds between two looks at the clock, which may be set."""


@attrs.frozen(kw_only=True)
class Due:
    """A moment, on the wall clock and on the one that never goes back; the earlier of both counts."""

    wall_ns: int
    monotonic: float

    @classmethod
    def within(cls, seconds: float, clock: Clock) -> Due:
        """In so many seconds from now."""
        return cls(wall_ns=clock.time_ns() + int(seconds * 1e9), monotonic=clock.monotonic() + seconds)

    def left_s(self, clock: Clock) -> float:
        """Seconds until then."""
        return min((self.wall_ns - clock.time_ns()) / 1e9, self.monotonic - clock.monotonic())


class CertificateKeeper:
    """Of one member. :meth:`run` it."""

    def __init__(
        self,
        *,
        data_dir: Path,
        credentials: Credentials,
        ask_leader: Callable[[str, Any], Awaitable[Any]],
        manager: Callable[[], Manager | None],
        on_role_change: Callable[[], None],
        clock: Clock,
        random: Random,
        vault: Vault | None = None,
    ) -> None:
        """``manager`` gives the manager half, while there is one; ``vault`` seals a manager's key."""
        self._data_dir = data_dir
        self._vault = vault or Vault(data_dir)
        self._credentials = credentials
        self._ask_leader = ask_leader
        self._manager = manager
        self._on_role_change = on_role_change
        self.on_change: Callable[[], None] = lambda: None
        """Called for every new certificate; whoever wants to know it may set it later."""
        self._clock = clock
        self._random = random
        self._changing = asyncio.Lock()
        self._stirred = asyncio.Event()
        self._retry_s = RETRY_FIRST_S
        self._failure: SwarmpyError | None = None
        """Why the last try to renew it was in vain."""
        self._expiry_told = ""
        share = random.uniform(EARLIEST, LATEST)
        # Where a manager whose clock is ahead has issued it, it looks as if that were yet to come.
        passed_s = max(0.0, (clock.time_ns() - self.identity.issued_at_ns) / 1e9)
        self._due = Due.within(share * self.identity.life_ns / 1e9 - passed_s, clock)

    @property
    def identity(self) -> NodeIdentity:
        """The one in force."""
        return self._credentials.identity

    # -- what is told of it -------------------------------------------------------------------------------------------

    @property
    def is_expired(self) -> bool:
        """True when the other nodes refuse this one, as its certificate has ended."""
        return self.identity.is_expired(self._clock.time_ns())

    @property
    def is_refused(self) -> bool:
        """True when it has been revoked, and a leader has refused to give another one for it."""
        return isinstance(self._failure, CertificateRevoked)

    @property
    def needs_help(self) -> bool:
        """True when an operator may get this node a certificate with a join token."""
        return self.is_expired or self._failure is not None

    @property
    def error(self) -> str:
        """Why this node is shut out, and what to do; "" while it is not."""
        if self.is_expired:
            role = self.identity.role
            return (
                f"the certificate of this node expired on {_day(self.identity.not_after_ns)}, and the others refuse "
                f'it: run here what "swarm join-token {role}" on a manager shows, and it comes back as the node it is'
            )
        return str(self._failure) if self.is_refused else ""

    def problems(self) -> tuple[str, ...]:
        """A line for a certificate that has ended, or soon will."""
        if self.error:
            return (self.error,)
        left_ns = self.identity.not_after_ns - SKEW_NS - self._clock.time_ns()
        if self._failure is None or left_ns > (1 - LATEST) * self.identity.life_ns:
            return ()
        return (f"this node's certificate ends on {_day(self.identity.not_after_ns)}, not renewed: {self._failure}",)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Renew it whenever that is due, until cancelled."""
        while True:
            left_s = self._due.left_s(self._clock)
            if left_s > 0:
                await self._wait(min(left_s, LOOK_S))
                continue
            try:
                if self.is_expired:
                    await self._renew_expired()
                else:
                    await self.renew()
            except SwarmpyError as error:
                log.warning("certificate_not_renewed", node=self.identity.node_id, reason=str(error))
                self._try_later()

    async def _wait(self, seconds: float) -> None:
        self._stirred.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return

    async def renew(self) -> None:
        """Get another certificate now, with the role that the cluster wants this node to have.

        Raises CertificateRevoked where the one it has counts for nothing at all any more, StorageError, and as
        ``LeaderCalls.call``.
        """
        async with self._changing:
            try:
                key_pem = await asyncio.to_thread(next_key, self._data_dir, self._vault.ring)
                identity = await renew_identity(self._ask_leader, self.identity, key_pem)
            except SwarmpyError as error:
                self._failure = error
                raise
            await self._put_in_force(identity)

    async def rejoin(self, addresses: Sequence[str], token: str, incarnation: int) -> tuple[ManagerAddress, ...]:
        """Get another certificate with a join token, through a manager at one of ``addresses``; returns the managers.

        Raises as :func:`~swarmpy.node.joining.rejoin_identity`, and StorageError.
        """
        async with self._changing:
            key_pem = await asyncio.to_thread(next_key, self._data_dir, self._vault.ring)
            identity, certified = await rejoin_identity(
                addresses, token, self.identity, key_pem, incarnation, self._random
            )
            await self._put_in_force(identity)
            return certified.managers

    async def _put_in_force(self, identity: NodeIdentity) -> None:
        before = self.identity
        if identity.role is Role.MANAGER and before.role is not Role.MANAGER and not self._vault.exists:
            await asyncio.to_thread(self._vault.create)
        ring = self._vault.ring if identity.role is Role.MANAGER else None
        await asyncio.to_thread(save_identity, self._data_dir, identity, ring)
        self._credentials.replace(identity)
        self._failure = None
        self._retry_s = RETRY_FIRST_S
        life_s = identity.life_ns / 1e9
        self._set_due(max(LEAST_PAUSE_S, self._random.uniform(EARLIEST, LATEST) * life_s))
        log.info("certificate_in_force", role=identity.role.value, serial=identity.serial, issued_for_s=int(life_s))
        self.on_change()
        if identity.role is not before.role:
            self._on_role_change()

    async def trust(self, roots: tuple[bytes, ...]) -> None:
        """Trust these root CAs (PEM) and no others. Raises BadCertificate without one that its own goes back to, and
        StorageError."""
        async with self._changing:
            trusting = self.identity.trusting(roots)
            await asyncio.to_thread(save_roots, self._data_dir, trusting)
            self._credentials.replace(trusting)

    async def reseal(self) -> None:
        """Seal the key with the vault's current one. Raises StorageError."""
        async with self._changing:
            if self._vault.ring is not None and self.identity.role is Role.MANAGER:
                await asyncio.to_thread(reseal_keys, self._data_dir, self._vault.ring)

    async def _renew_expired(self) -> None:
        async with self._changing:
            extended = await self._extended()
            if extended is not None:
                log.warning("certificate_extended", node=extended.node_id, expired_on=_day(self.identity.not_after_ns))
                await self._put_in_force(extended)
                # It is known to nobody else; what a leader gives is written down.
                self._set_due(0.0)
                return
        if self._expiry_told != self.identity.serial:
            log.error("certificate_expired", node=self.identity.node_id, reason=self.error)
            self._expiry_told = self.identity.serial
        self._try_later()

    async def _extended(self) -> NodeIdentity | None:
        manager = self._manager()
        if manager is None or self.identity.role is not Role.MANAGER:
            return None
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                await manager.wait_cluster()
        except TimeoutError:
            return None
        return manager.extended(self.identity)

    def _try_later(self) -> None:
        most_s = min(RETRY_MOST_S, max(RETRY_FIRST_S, self.identity.life_ns / 1e9 / RETRIES_IN_A_LIFE))
        self._set_due(self._random.uniform(self._retry_s / 2, self._retry_s))
        self._retry_s = min(2 * self._retry_s, most_s)

    def _set_due(self, seconds: float) -> None:
        self._due = Due.within(seconds, self._clock)
        self._stirred.set()


def _day(ns: int) -> str:
    return dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
