"""A manager's half of a node: consensus, the replicated store, and the leader's work while this manager leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from swarmpy.errors import DeadlineExceeded, NoQuorum
from swarmpy.manager import certificates
from swarmpy.manager.events import drain
from swarmpy.manager.incarnations import METHOD as INCARNATION
from swarmpy.manager.incarnations import Incarnations
from swarmpy.manager.joining import Registrar
from swarmpy.manager.leader_calls import LeaderCalls
from swarmpy.manager.membership import Membership
from swarmpy.manager.office import SELDOM, Office, wait_cluster
from swarmpy.manager.raft_report import METHOD as RAFT_STATUS
from swarmpy.manager.raft_report import RaftReporter, reachable
from swarmpy.manager.raft_transport import METHOD as RAFT_MESSAGES
from swarmpy.manager.raft_transport import RaftTransport
from swarmpy.manager.rest_of_node import RestOfNode
from swarmpy.manager.schema import METHOD as SCHEMA
from swarmpy.manager.schema import SchemaRaiser, schema_read_here
from swarmpy.manager.trust import RootGuard
from swarmpy.manager.whereabouts import INTRODUCE, Whereabouts, join_payload
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId, encode_id
from swarmpy.model.objects import Kind, Node
from swarmpy.model.states import Role
from swarmpy.ports import Clock, Dialer, Peer, Random
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import Member
from swarmpy.raft.status import RaftStatus
from swarmpy.raft.storage import LogStorage
from swarmpy.security import tokens
from swarmpy.security.identity import NodeIdentity
from swarmpy.store.memory import Store
from swarmpy.store.view import View
from swarmpy.wire.channels import ChannelPool, PeerSender
from swarmpy.wire.checked import CheckedDialer
from swarmpy.wire.router import MANAGERS, MEMBERS, Router, Standing


class Manager:
    """One manager. Create it, :meth:`run` it."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        cluster_id: ClusterId,
        raft_id: int,
        address: str,
        storage: LogStorage,
        dialer: Dialer,
        router: Router,
        clock: Clock,
        random: Random,
        config: RaftConfig,
        rest: RestOfNode | None = None,
    ) -> None:
        """``address``: ``host:port`` where the others reach it; ``raft_id`` is of this membership only."""
        rest = rest or RestOfNode()
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.address = address
        self._me = Member(raft_id=raft_id, node_id=node_id, address=address)
        self._clock = clock
        self._random = random
        self._router = router
        router.standing = self._standing
        # One that is a manager no more may still listen as one: what managers tell each other is not for it.
        self._dialer = CheckedDialer(dialer, router.check_peer)
        self._pool = ChannelPool(self._dialer)
        self._caller = PeerSender(dialer, random, on_unreachable=lambda _: None)
        self._status_changed = asyncio.Event()
        self.store = Store(clock)
        self._transport = RaftTransport(raft_id, self._dialer, clock, random)
        self.raft = RaftDriver(
            raft_id=raft_id,
            storage=storage,
            transport=self._transport,
            state_machine=self.store,
            random=random,
            config=config,
            address=address,
        )
        self._whereabouts = self._new_whereabouts(rest)
        self._incarnations = self._new_incarnations(rest)
        self._transport.serve(self.raft, self._incarnations.misdirected)
        self.root_guard = RootGuard(
            self.store, barrier=self.read_barrier, on_roots=rest.on_roots, on_orders=rest.on_orders
        )
        router.guard = self.root_guard.check
        self._registrar = Registrar(
            store=self.store, clock=clock, random=random, managers=self.managers, require_leader=self.require_leader
        )
        self._reporter = RaftReporter(
            raft=self.raft, store=self.store, clock=clock, ask_leader=self.call_leader, snapshot_time=rest.snapshot_time
        )
        changing_members = asyncio.Lock()
        self._membership = Membership(store=self.store, raft=self.raft, changing=changing_members)
        self.office = self._new_office(changing_members)
        self.raft.subscribe(self._on_raft_status)
        self._register_calls()

    def _new_whereabouts(self, rest: RestOfNode) -> Whereabouts:
        return Whereabouts(
            me=self._me,
            raft=self.raft,
            dialer=self._dialer,
            random=self._random,
            known=rest.known_managers,
            hints=rest.manager_hints,
        )

    def _new_incarnations(self, rest: RestOfNode) -> Incarnations:
        return Incarnations(
            address=self.address,
            store=self.store,
            raft=self.raft,
            clock=self._clock,
            random=self._random,
            send=self._caller.send,
            on_superseded=rest.on_superseded,
        )

    def _new_office(self, changing_members: asyncio.Lock) -> Office:
        return Office(
            node_id=self.node_id,
            store=self.store,
            raft=self.raft,
            clock=self._clock,
            random=self._random,
            membership=self._membership,
            schema=SchemaRaiser(store=self.store, raft=self.raft, pool=self._pool, changing=changing_members),
            incarnations=self._incarnations,
            managers=self.managers,
            reachable_managers=self.reachable_managers,
            on_change=self._status_changed.set,
        )

    def _register_calls(self) -> None:
        router = self._router
        router.notify(RAFT_MESSAGES, self._transport.on_messages, MANAGERS)
        router.notify(INCARNATION, self._incarnations.heard, MANAGERS)
        router.call("raft.join", self._on_leader(self._membership.join), MANAGERS)
        router.call(SCHEMA, schema_read_here, MANAGERS)
        router.call(INTRODUCE, self._whereabouts.on_introduced, MANAGERS)
        router.call("raft.leave", self._on_leader(self._membership.leave), MEMBERS, SELDOM)
        router.call(RAFT_STATUS, self._on_leader(self._reporter.on_asked), MANAGERS)
        router.call("ca.root", self._registrar.root, None)
        router.call("ca.join", self._registrar.join, None, vouches=True)
        router.call("ca.rejoin", self._registrar.rejoin, None, vouches=True)
        router.call("ca.renew", self._registrar.renew, MEMBERS, SELDOM, even_revoked=True)
        router.call("ca.confirm", self._registrar.confirm, MEMBERS, SELDOM)
        self.office.register_calls(router)

    # -- what others ask ----------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """True when this manager leads and has applied everything committed before its term."""
        return self.office.is_leader

    def leader(self) -> tuple[NodeId, str] | None:
        """Node id and cluster address of the leader this manager knows of."""
        member = self.raft.status().leader
        return None if member is None else (NodeId(member.node_id), member.address)

    @property
    def term(self) -> int:
        """The Raft term that this manager is in."""
        return self.raft.term

    @property
    def incarnation(self) -> int | None:
        """The cluster's, as this manager's state has it; None while it has none."""
        return self._incarnations.own

    def raft_status(self) -> RaftStatus:
        """Term, role, commit, members and progress."""
        return self.raft.status()

    async def raft_report(self) -> dict[str, Any]:
        """See :meth:`RaftReporter.report`."""
        return await self._reporter.report()

    def managers(self) -> tuple[ManagerAddress, ...]:
        """Where the managers listen."""
        members = self.raft.status().members
        return tuple(ManagerAddress(node_id=NodeId(m.node_id), address=m.address) for m in members)

    def manager_addresses(self) -> list[str]:
        """Every address at which there may be a manager."""
        return self._whereabouts.addresses()

    def problems(self) -> tuple[str, ...]:
        """What does not work on this manager, one line each."""
        return self._whereabouts.problems()

    def new_id(self) -> str:
        """A fresh identifier."""
        return encode_id(self._random.randbytes(16))

    def require_leader(self) -> None:
        """See :meth:`Office.require_leader`."""
        self.office.require_leader()

    async def read_barrier(self, timeout: float = 5.0) -> None:
        """After this, ``store.view()`` shows every write that was acknowledged before the call, by any manager."""
        await self.raft.read_index(timeout)

    async def wait_leader(self, timeout: float) -> None:
        """Return when a leader is known (and, if it is this manager, ready). Raises NoQuorum after ``timeout`` s."""
        try:
            async with asyncio.timeout(timeout):
                while not self._leader_usable():
                    self._status_changed.clear()
                    await self._status_changed.wait()
        except TimeoutError:
            raise NoQuorum(
                "the swarm has no leader: too few managers are online; make sure more than half of the managers "
                "are online and can reach each other"
            ) from None

    def _leader_usable(self) -> bool:
        leader = self.leader()
        return leader is not None and (leader[0] != self.node_id or self.is_leader)

    async def call_leader(self, method: str, payload: Any, timeout: float) -> Any:
        """Call the leader, which may be this manager. Raises NoQuorum when none is known; see ports.Channel.call."""
        leader = self.leader()
        if leader is None:
            raise NoQuorum("the swarm has no leader at the moment: ask again")
        if leader[0] == self.node_id:
            myself = Peer(node_id=self.node_id, role=Role.MANAGER, cluster_id=self.cluster_id, address=self.address)
            return await self._router.dispatch_call(myself, method, payload)
        channel = await self._pool.get(leader[1], timeout=min(timeout, 2.0))
        return await channel.call(method, payload, timeout=timeout)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part in the cluster until cancelled. Raises StorageError when the disk fails."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._transport.run(), name="raft-sender")
                group.create_task(self._caller.run(), name="incarnation-caller")
                group.create_task(self.raft.run(), name="raft")
                group.create_task(self.office.run(), name="manager-lead")
                group.create_task(self._follow_timing(), name="manager-timing")
                group.create_task(self._whereabouts.run(), name="manager-whereabouts")
                group.create_task(self.root_guard.run(), name="manager-roots")
        finally:
            await self._pool.close()

    async def _follow_timing(self) -> None:
        """Every manager lives by the cluster's timing from the moment it has applied a change of it."""
        with self.store.watch({Kind.CLUSTER}) as watch:
            while True:
                if self.store.cluster is not None:
                    self.raft.set_timing(self.store.cluster.spec.raft)
                await watch.wait()
                drain(watch)

    async def join_group(self, addresses: Callable[[], Iterable[str]], timeout: float, incarnation: int = 0) -> None:
        """Ask the leader, through any of ``addresses``, to make this manager a member; return when it has a vote.

        A leader of an earlier incarnation of the cluster than ``incarnation`` is not asked for long: it refuses.
        """
        calls = LeaderCalls(self._dialer, self._random, addresses)
        payload = {**join_payload(self._me), "incarnation": incarnation}
        try:
            async with asyncio.timeout(timeout):
                await calls.call("raft.join", payload, timeout=timeout)
                while not self._has_vote():
                    self._status_changed.clear()
                    await self._status_changed.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                f"this manager was accepted but has not caught up with the others within {timeout:g} s: check that "
                f"they can reach it at {self.address}"
            ) from None

    @property
    def is_member(self) -> bool:
        """True when this manager has a vote, as far as it knows."""
        return self._has_vote()

    def extended(self, identity: NodeIdentity) -> NodeIdentity | None:
        """The certificate of this manager, which has expired, made valid again with the CA's key in its own state.

        None when it is no manager by that state.
        """
        return certificates.extended(self.store.view(), identity, self._me.raft_id, self._clock.time_ns())

    def _standing(self, peer: Peer) -> Standing:
        return certificates.standing(self.store.cluster, peer)

    def reachable_managers(self) -> dict[str, bool | None]:
        """See :func:`~swarmpy.manager.raft_report.reachable`."""
        return reachable(self.raft.status(), self.store.view())

    def check_demotion(self, view: View, node: Node) -> None:
        """Leader: raises FailedPrecondition when the quorum would be lost without the manager on ``node``."""
        self._membership.check_demotion(view, node)

    def new_join_token(self, ca_digest: str) -> str:
        """A fresh join token for the root CA of that digest."""
        return tokens.make_token(ca_digest, self._random)

    async def wait_cluster(self) -> None:
        """Return when this manager has any state of the cluster."""
        await wait_cluster(self.store)

    async def wait_loaded(self) -> None:
        """Return when what this manager had stored is known: whether it was a member before, among others."""
        while not self.raft.is_loaded:
            self._status_changed.clear()
            await self._status_changed.wait()

    def _has_vote(self) -> bool:
        return any(m.raft_id == self._me.raft_id for m in self.raft.status().conf.voters)

    # -- handlers -----------------------------------------------------------------------------------------------------

    def _on_raft_status(self, _status: RaftStatus) -> None:
        self._status_changed.set()
        self._whereabouts.changed()

    def _on_leader(self, handler: Callable[[Peer, Any], Any]) -> Callable[[Peer, Any], Any]:
        async def guarded(peer: Peer, payload: Any) -> Any:
            self.require_leader()
            return await handler(peer, payload)

        return guarded
