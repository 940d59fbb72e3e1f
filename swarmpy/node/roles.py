"""A node's role, followed: it becomes what the cluster says it is, in its certificate and in what runs of it."""

from __future__ import annotations

import asyncio

import attrs
import structlog

from swarmpy.agent.agent import Agent
from swarmpy.errors import SwarmpyError
from swarmpy.manager.manager import Manager
from swarmpy.model.states import Role
from swarmpy.node.certificate import CertificateKeeper
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.founding import Founding
from swarmpy.node.manager_half import ManagerHalf, new_raft_id
from swarmpy.node.renewal import renew
from swarmpy.ports import Clock, Random
from swarmpy.raft.messages import Snapshot
from swarmpy.security.vault import Vault

log = structlog.get_logger(__name__)

LEADER_TIMEOUT_S = 15.0
RETRY_S = 1.0


class RoleKeeper:
    """Create it, run :meth:`follow_role` and :meth:`follow_incarnation`; tell it what happens."""

    def __init__(
        self,
        *,
        state: NodeState,
        data: DataDir,
        vault: Vault,
        agent: Agent,
        certificate: CertificateKeeper,
        half: ManagerHalf,
        clock: Clock,
        random: Random,
    ) -> None:
        self.state = state
        """Who this node is; a manager half that is started anew is somebody else to the other managers."""
        self._data = data
        self._vault = vault
        self._agent = agent
        self._certificate = certificate
        self._half = half
        self._clock = clock
        self._random = random
        self._news = asyncio.Event()
        self._revoked = ""
        """The serial number of the last certificate that a manager has refused as revoked."""
        self._later: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        """Later incarnations of the cluster that this node has heard of, and where a manager of it is."""
        self._changing = asyncio.Lock()
        """Held while the manager half is started, stopped or replaced."""

    @property
    def role(self) -> Role:
        """The role its certificate says."""
        return self._certificate.identity.role

    # -- what happens -------------------------------------------------------------------------------------------------

    def stir(self) -> None:
        """This node may have another role."""
        self._news.set()

    def on_revoked(self) -> None:
        """A manager has refused this node's certificate as revoked."""
        if self.role is Role.MANAGER and not self._certificate.is_refused:
            self._revoked = self._certificate.identity.serial
            self._news.set()

    def on_later_incarnation(self, incarnation: int, address: str) -> None:
        """The cluster was begun anew, and a manager at ``address`` leads it."""
        self._later.put_nowait((incarnation, address))

    async def start_manager(self, founding: Founding | None, first_snapshot: Snapshot | None) -> Manager:
        """Start the manager half of a node that is a manager already. Parameters and errors: ``ManagerHalf.start``."""
        async with self._changing:
            return await self._half.start(self.state, founding, first_snapshot)

    # -- the role -----------------------------------------------------------------------------------------------------

    async def follow_role(self) -> None:
        """Be what the agent was told, and a manager in the eyes of the others too, until cancelled.

        One that was demoted and promoted while it was away is told of neither, but the others have removed it.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            while not self._news.is_set() and self._is_out_of_place():
                try:
                    async with self._changing:
                        await self._change_role()
                except SwarmpyError as error:
                    log.warning("role_not_changed", wanted=str(self._agent.cluster.role), reason=str(error))
                if self._is_out_of_place():
                    # Also when the certificate says otherwise than the session did: one of them is out of date.
                    await asyncio.sleep(RETRY_S)

    @property
    def _is_revoked(self) -> bool:
        return self._revoked == self._certificate.identity.serial and not self._certificate.is_refused

    def _is_out_of_place(self) -> bool:
        """True when this node is not what it is to be or says it is, or is a manager that is no member of the group."""
        if self._is_revoked:
            return True
        if self._agent.cluster.role is None:
            return False  # of a later incarnation, whose leader will say it
        if self.role is not self._agent.cluster.role:
            return True
        manager = self._half.manager
        if self.role is Role.WORKER:
            return manager is not None
        return manager is None or manager.raft_status().removed or not (manager.is_member or self._half.is_entering)

    async def _change_role(self) -> None:
        if self._is_revoked:
            # Nobody tells it anything else before it has another certificate; that one says what it is.
            await self._certificate.renew()
            self._agent.cluster.role = self.role
        manager = self._half.manager
        is_removed = manager is not None and manager.raft_status().removed
        if manager is not None and (manager.incarnation or 0) < self._agent.cluster.incarnation:
            await self._end_superseded(self._agent.cluster.incarnation)
        elif self._agent.cluster.role is Role.WORKER or is_removed:
            await self._half.stop()
            await asyncio.to_thread(self._data.forget_raft)
        if self.role is not self._agent.cluster.role or is_removed:
            await self._certificate.renew()
        if self.role is Role.WORKER and self._half.manager is None:
            await asyncio.to_thread(self._vault.discard)
        if self.role is Role.MANAGER:
            self._half.enter_beside(self._half.manager or await self._start_as_somebody_new())
        log.info("role_in_force", role=self.role.value)

    async def _start_as_somebody_new(self) -> Manager:
        if self._vault.exists:
            self._data.raise_format()
        # A raft id is used for one membership only: the group may remember things of an earlier one.
        self.state = attrs.evolve(self.state, raft_id=new_raft_id(self._random))
        await asyncio.to_thread(self._data.save, self.state)
        return await self._half.start(self.state)

    # -- a cluster that is begun anew ---------------------------------------------------------------------------------

    async def follow_incarnation(self) -> None:
        """End a manager half whose cluster was begun anew elsewhere, until cancelled."""
        while True:
            incarnation, address = await self._later.get()
            async with self._changing:
                own = None if self._half.manager is None else self._half.manager.incarnation
                # One without any state yet has only just joined: it gets that of the later incarnation.
                if own is not None and own < incarnation:
                    await self._end_superseded(incarnation)
                    await self._agent.supersede(incarnation, address)

    async def _end_superseded(self, incarnation: int) -> None:
        log.warning(
            "manager_superseded",
            node=self.state.node_id,
            incarnation=incarnation,
            consequence="this node manages no more; the leader of the cluster that was begun anew says what it is",
            log_kept_in=str(self._data.superseded_raft),
        )
        await self._half.stop()
        await asyncio.to_thread(self._data.set_raft_aside)

    async def begin_anew(self, state: NodeState) -> None:
        """Replace the stopped or leaderless manager half by one that leads alone, as ``state``; tasks are not touched.

        Raises FailedPrecondition (its log is no good for that; nothing has changed), StorageError.
        """
        async with self._changing:
            await self._half.stop()
            try:
                await renew(self._data, self.state, state, self._clock, self._vault.ring)
                self.state = state
            finally:
                manager = await self._half.start(self.state)
                # When nothing has changed after all: it may have been about to join the others.
                self._half.enter_beside(manager)
        await manager.wait_leader(LEADER_TIMEOUT_S)
