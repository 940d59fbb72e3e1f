"""Which managers are in the Raft group. The leader adds, promotes and removes them, one at a time.

A new manager is a learner until it has caught up: it gets a vote only when it can use it, so that a slow or broken
joiner never costs the cluster its quorum. What an operator asks for (``spec.role``) is in the store; this loop makes
the group follow it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import structlog

from swarmpy.errors import FailedPrecondition, NotFound, NotLeader, SwarmpyError, Unavailable
from swarmpy.manager import certificates
from swarmpy.manager.events import drain
from swarmpy.manager.incarnations import check_incarnation
from swarmpy.manager.schema import schema_of
from swarmpy.manager.whereabouts import identity
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Kind, ManagerStatus, Node
from swarmpy.model.states import NodeState, Role
from swarmpy.ports import Peer
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import ConfChange, ConfChangeKind, Member
from swarmpy.store.memory import Store
from swarmpy.store.schema import check_reader
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

log = structlog.get_logger(__name__)

CONF_CHANGE_TIMEOUT_S = 10.0
CATCH_UP_POLL_S = 0.05
"""How often a learner's progress is looked at, in seconds; only while there is one."""
RETRY_S = 1.0
SOON_S = 0.05
SOON_TRIES = 20
"""What is refused for the moment only is tried again so soon, and so often before anybody is told."""


class Membership:
    """The leader's half runs in :meth:`run`; the handlers answer on the leader only."""

    def __init__(self, *, store: Store, raft: RaftDriver, changing: asyncio.Lock | None = None) -> None:
        """``changing`` is held while the members change."""
        self._store = store
        self._raft = raft
        self._changing = changing or asyncio.Lock()

    # -- calls of other managers --------------------------------------------------------------------------------------

    async def join(self, peer: Peer, payload: Any) -> Any:
        """``raft.join``: the calling manager wants to be a member, reachable at ``address``. Idempotent.

        Raises FailedPrecondition for a node that is not to be a manager, whose version is too old to be one, or that
        belongs to a later incarnation of the cluster.
        """
        raft_id, address = identity(payload, "raft.join")
        view = self._store.view()
        check_incarnation(view.cluster(), payload)
        node = view.node(peer.node_id) if peer.node_id else None
        if node is None or node.spec.role != Role.MANAGER:
            raise FailedPrecondition(f"node {peer.node_id} is not to be a manager")
        async with self._changing:
            check_reader(schema_of(payload), self._store.view().cluster())
            member = Member(raft_id=raft_id, node_id=node.id, address=address)
            stale = [m for m in self._raft.status().members if m.node_id == node.id and m.raft_id != raft_id]
            for old in stale:
                # The node lost its log and comes back as a new member; a raft id is never used again.
                await self._change(ConfChangeKind.REMOVE, old)
            known = next((m for m in self._raft.status().members if m.raft_id == raft_id), None)
            if known is None:
                await self._change(ConfChangeKind.ADD_LEARNER, member)
            elif known.address != address:
                await self._change(ConfChangeKind.UPDATE, member)
                log.info("manager_moved", node=node.id, old=known.address, new=address)
            await self._store.update(lambda tx: _record(tx, member))
        return None

    async def leave(self, peer: Peer, _payload: Any) -> Any:
        """``raft.leave``: the calling node leaves the cluster for good; it stays in the list of nodes, down."""
        node = self._store.view().node(peer.node_id) if peer.node_id else None
        if node is None:
            raise NotFound(f"node {peer.node_id} is not a member of this cluster (any more)")
        if node.manager is not None:
            await self._take_out(node)
        await self._store.update(lambda tx: _leave(tx, node.id))
        log.info("node_left", node=node.id)
        return None

    def check_demotion(self, view: View, node: Node) -> None:
        """Would the group keep its quorum without ``node`` and those that are to go already? Asks only.

        Raises FailedPrecondition with the reason why not; NotLeader, and Unavailable while that is not known yet.
        """
        if node.manager is None:
            return
        leaving = {other.id for other in _leaving(view)} | {node.id}
        self._raft.check_removals([m.raft_id for m in self._raft.status().members if m.node_id in leaving])

    # -- the leader's loop --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make the group follow the store, until cancelled or no longer the leader."""
        tries = 0
        with self._store.watch({Kind.NODE}) as watch:
            while True:
                try:
                    delay = await self._step()
                    tries = 0
                except NotLeader:
                    return
                except SwarmpyError as error:
                    tries += 1
                    delay = SOON_S
                    if type(error) is not Unavailable or tries > SOON_TRIES:
                        log.warning("membership_change_failed", reason=str(error))
                        delay = RETRY_S
                await watch.wait(delay)
                drain(watch)

    async def _step(self) -> float | None:
        """One look; returns the seconds until the next, None when only an event can change anything."""
        status = self._raft.status()
        view = self._store.view()
        for learner in status.conf.learners:
            progress, node = status.progress.get(learner.raft_id), view.node(NodeId(learner.node_id))
            is_wanted = node is not None and node.spec.role is Role.MANAGER
            if is_wanted and progress is not None and progress.caught_up:
                async with self._changing:
                    await self._change(ConfChangeKind.PROMOTE, learner)
                    await self._store.update(lambda tx, learner=learner: _record(tx, learner))  # type: ignore[misc]
                log.info("manager_added", node=learner.node_id, address=learner.address)
        refused: FailedPrecondition | None = None
        for leaving in _leaving(self._store.view()):
            try:
                await self._remove(leaving)
            except FailedPrecondition as error:
                # Another one may go nevertheless, and make it possible: one that is gone for good counts as absent.
                refused = refused or error
        view = self._store.view()
        for member in self._raft.status().members:
            if view.node(NodeId(member.node_id)) is None:
                async with self._changing:
                    await self._change(ConfChangeKind.REMOVE, member)
        if refused is not None:
            raise refused
        return CATCH_UP_POLL_S if self._raft.status().conf.learners else None

    async def _remove(self, node: Node) -> None:
        await self._take_out(node)
        await self._store.update(lambda tx: _demote(tx, node.id))
        log.info("manager_removed", node=node.id)

    async def _take_out(self, node: Node) -> None:
        """Remove the node's members from the group."""
        status = self._raft.status()
        if [m.node_id for m in status.conf.voters] == [node.id]:
            raise FailedPrecondition("attempting to demote the last manager of the swarm")
        for member in status.members:
            if member.node_id != node.id:
                continue
            if member.raft_id == self._raft.status().raft_id:
                # A leader that removed itself would leave the others to notice its silence: the next one does it.
                await self._raft.transfer_leadership(None, timeout=CONF_CHANGE_TIMEOUT_S)
                raise NotLeader
            async with self._changing:
                await self._change(ConfChangeKind.REMOVE, member)

    async def _change(self, kind: ConfChangeKind, member: Member) -> None:
        await self._raft.propose_conf_change(ConfChange(kind=kind, member=member), timeout=CONF_CHANGE_TIMEOUT_S)


def _leaving(view: View) -> list[Node]:
    """Managers that are to become workers."""
    return [node for node in view.nodes() if node.manager is not None and node.spec.role is Role.WORKER]


def _demote(tx: Tx, node_id: NodeId) -> None:
    """The node is a worker from now on, and its managers' certificates open nothing any more."""
    node = tx.node(node_id)
    if node is not None and node.manager is not None:
        tx.update(attrs.evolve(node, manager=None, role=Role.WORKER))
        certificates.revoke_manager(tx, node)


def _leave(tx: Tx, node_id: NodeId) -> None:
    """The same for a node that goes; all at once, as it has no say any more when it has been demoted."""
    _demote(tx, node_id)
    node = tx.node(node_id)
    if node is not None:
        if node.spec.role is Role.MANAGER:
            certificates.revoke_manager(tx, node)
        status = attrs.evolve(node.status, state=NodeState.DOWN, message="left the cluster", leaving=False)
        left = attrs.evolve(node, status=status, spec=attrs.evolve(node.spec, role=Role.WORKER))
        if left != node:
            tx.update(left)


def _record(tx: Tx, member: Member) -> None:
    node = tx.node(NodeId(member.node_id))
    if node is None:
        return
    manager = ManagerStatus(raft_id=member.raft_id, address=member.address)
    if node.manager != manager or node.role != Role.MANAGER:
        tx.update(attrs.evolve(node, manager=manager, role=Role.MANAGER))
