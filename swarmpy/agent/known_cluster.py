"""What a node has been told of its cluster: what it is to be there, whom to ask, and whom to believe no more."""

from __future__ import annotations

import structlog

from swarmpy.agent.known_managers import KnownManagers
from swarmpy.agent.local import LocalWriter, Remembered
from swarmpy.agent.rest_of_node import RestOfNode
from swarmpy.errors import CertificateRevoked, Superseded
from swarmpy.model.assignments import ManagerAddress, SessionMessage
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.serials import is_revoked

log = structlog.get_logger(__name__)


class KnownCluster:
    """Kept over restarts, but for the role; what is heard is passed on to who has to do with it."""

    def __init__(
        self, node_id: NodeId, role: Role, managers: KnownManagers, writer: LocalWriter, rest: RestOfNode
    ) -> None:
        """``managers`` learn all addresses."""
        self._node_id = node_id
        self.role: Role | None = role
        """What this node is to be, as a manager said last; None until one of a later incarnation has said it."""
        self._addresses = managers
        self._writer = writer
        self._rest = rest
        self.managers: tuple[ManagerAddress, ...] = ()
        """The managers, as last told; empty when nobody ever has."""
        self.incarnation = 0
        """The latest incarnation of the cluster that this node has seen."""
        self._superseded_told = False
        self._revoked: dict[str, int] = {}

    def restore(self, remembered: Remembered) -> None:
        """Go on from what was known before a restart."""
        self._learn(remembered.managers)
        self.incarnation = max(self.incarnation, remembered.incarnation)
        self._revoked = remembered.revoked

    def check_manager(self, peer: Peer) -> None:
        """Raises CertificateRevoked for one that shows a manager's certificate and is none any more, as far as known.

        To be asked before anything is told to a manager or taken from it: it might say what is to run here.
        """
        if peer.node_id is not None and peer.serial and is_revoked(self._revoked, peer.node_id, peer.serial):
            raise CertificateRevoked(f"node {peer.node_id} is no manager any more: its certificate was revoked")

    async def admit(self, address: str, incarnation: int) -> None:
        """A manager at ``address`` is of this incarnation; raises Superseded when it is of an earlier one."""
        if incarnation < self.incarnation:
            if not self._superseded_told:
                log.warning("earlier_incarnation_refused", theirs=incarnation, seen=self.incarnation)
                self._superseded_told = True
            raise Superseded("this manager is of an earlier incarnation of the cluster than the one this node is in")
        self._superseded_told = False
        if incarnation > self.incarnation:
            await self._remember(incarnation)
            self._rest.on_later_incarnation(incarnation, address)

    async def supersede(self, incarnation: int, address: str) -> None:
        """The cluster was begun anew, and is led at ``address``; what this node is to be there is not known yet."""
        if address not in self._addresses.learned:
            found = (address, *self._addresses.learned)
            known = tuple(ManagerAddress(node_id=NodeId(""), address=each) for each in found)
            self._learn(known)
            self._writer.put_managers(known)
        await self._remember(incarnation)
        self.role = None

    async def _remember(self, incarnation: int) -> None:
        if incarnation > self.incarnation:
            log.info("cluster_begun_anew", node=self._node_id, incarnation=incarnation)
            self.incarnation = incarnation
            # Its state may be an older one, which counts certificates from there on.
            self._revoked = {}
            self._writer.put_revoked({})
            await self._writer.put_incarnation(incarnation)

    def _learn(self, managers: tuple[ManagerAddress, ...]) -> None:
        self.managers = managers
        self._addresses.learn(manager.address for manager in managers)

    def hear(self, message: SessionMessage) -> None:
        """A manager says this in a session."""
        if message.managers is not None:
            self._learn(message.managers)
            self._writer.put_managers(message.managers)
        if message.revoked is not None:
            # A leader that is one no more may know of fewer.
            more = {i: last for i, last in message.revoked.items() if last > self._revoked.get(i, -1)}
            self._revoked = {**self._revoked, **more}
            self._writer.put_revoked(self._revoked)
        if message.roots is not None:
            self._rest.on_roots(message.roots, message.issuer)
        if message.role is not None and message.role != self.role:
            log.info("role_changed", old=self.role and self.role.value, new=message.role.value)
            self.role = message.role
            self._rest.on_role_change(message.role)
