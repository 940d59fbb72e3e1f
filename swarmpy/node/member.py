"""This node's life in one cluster: always an agent, and a manager while its role says so.

The two halves share nothing but the node's identity. A change of role swaps the certificate first and then starts or
stops the manager half, live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from swarmpy.agent.agent import Agent
from swarmpy.agent.leaving import Verdict, what_is_lost
from swarmpy.agent.local_database import LocalDatabase
from swarmpy.agent.rest_of_node import RestOfNode
from swarmpy.errors import FailedPrecondition, SwarmpyError, Unavailable
from swarmpy.manager.leader_calls import LeaderCalls
from swarmpy.manager.manager import Manager
from swarmpy.model.states import Role
from swarmpy.network.mesh import UserspaceMesh
from swarmpy.node import addresses
from swarmpy.node.certificate import CertificateKeeper
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.founding import Founding
from swarmpy.node.garbage import keep_collections_short
from swarmpy.node.manager_half import ManagerHalf
from swarmpy.node.roles import RoleKeeper
from swarmpy.node.roots import RootKeeper
from swarmpy.ports import Clock, Dialer, Peer, Random, Runtime
from swarmpy.raft.messages import Snapshot
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.tls import Credentials
from swarmpy.security.vault import Vault
from swarmpy.wire.checked import CheckedDialer
from swarmpy.wire.descriptors import shares
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcDialer

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 10.0
LEADER_TIMEOUT_S = 15.0
SESSION_TIMEOUT_S = 10.0
WITHDRAW_TIMEOUT_S = 3.0
HAND_OVER_TIMEOUT_S = 2.0
RETIRE_TIMEOUT_S = 20.0


class Member:
    """Create it, :meth:`run` it; it is a full member when :attr:`ready` is set."""

    def __init__(
        self,
        *,
        data: DataDir,
        state: NodeState,
        identity: NodeIdentity,
        runtime: Runtime,
        clock: Clock,
        random: Random,
        serve_api: Callable[[Router], None],
        vault: Vault,
        founding: Founding | None = None,
        manager_hints: tuple[str, ...] = (),
        first_snapshot: Snapshot | None = None,
    ) -> None:
        """``founding``: this node founds the cluster; ``first_snapshot``: it brings one back, which is in there.

        ``manager_hints``: ``host:port`` of managers that an operator named.
        """
        self.ready = asyncio.Event()
        self.vault = vault
        self.address = addresses.parse(state.advertise_address, what="advertise address")[0]
        self._data = data
        self._clock = clock
        self._random = random
        self._founding = founding
        self._first_snapshot = first_snapshot
        self._hints = manager_hints
        self._credentials = Credentials(identity)
        dialer = RpcDialer(self._credentials.client_context, identity.cluster_id, guard=self._check_peer)
        to_managers = CheckedDialer(dialer, self._check_manager)
        self._leader = LeaderCalls(to_managers, random, self._known_managers)
        self.certificate = self._new_certificate_keeper()
        self._roots = RootKeeper(
            credentials=self._credentials,
            renew=self.certificate.renew,
            trust=self._trust,
            confirm=lambda roots: self._ask_for_certificate("ca.confirm", {"roots": roots}),
            random=random,
        )
        self.agent = self._new_agent(state, to_managers, runtime)
        self._half = self._new_manager_half(dialer, serve_api)
        self._roles = RoleKeeper(
            state=state,
            data=data,
            vault=vault,
            agent=self.agent,
            certificate=self.certificate,
            half=self._half,
            clock=clock,
            random=random,
        )

    def _new_certificate_keeper(self) -> CertificateKeeper:
        keeper = CertificateKeeper(
            data_dir=self._data.path,
            credentials=self._credentials,
            ask_leader=self._ask_for_certificate,
            manager=lambda: self.manager,
            on_role_change=self._on_role_news,
            clock=self._clock,
            random=self._random,
            vault=self.vault,
        )
        keeper.on_change = self._on_certificate
        return keeper

    def _new_agent(self, state: NodeState, to_managers: Dialer, runtime: Runtime) -> Agent:
        listen_host, _ = addresses.parse(state.listen_address, what="listen address")
        return Agent(
            node_id=state.node_id,
            address=self.address,
            role=self.role,
            dialer=to_managers,
            runtime=runtime,
            data_plane=UserspaceMesh(listen_host, self._random, max_connections=shares().published_ports),
            local=LocalDatabase(self._data.agent / "state.db"),
            clock=self._clock,
            random=self._random,
            rest=RestOfNode(
                seeds=self._seeds,
                on_role_change=lambda _role: self._on_role_news(),
                on_later_incarnation=self._on_later_incarnation,
                on_revoked=self._on_revoked,
                roots=lambda: self._credentials.identity.roots,
                on_roots=self._roots.told,
                problems=lambda: (self._roots.problem,) if self._roots.problem else (),
            ),
        )

    def _new_manager_half(self, dialer: Dialer, serve_api: Callable[[Router], None]) -> ManagerHalf:
        return ManagerHalf(
            data=self._data,
            credentials=self._credentials,
            dialer=dialer,
            agent=self.agent,
            roots=self._roots,
            vault=self.vault,
            reseal_key=self.certificate.reseal,
            clock=self._clock,
            random=self._random,
            serve_api=serve_api,
            seeds=self._seeds,
            hints=lambda: self._hints,
            known_managers=self._known_managers,
            on_superseded=self._on_later_incarnation,
            on_removed=self._on_role_news,
        )

    @property
    def state(self) -> NodeState:
        """Who it is, and where."""
        return self._roles.state

    @property
    def role(self) -> Role:
        """The role its certificate says."""
        return self._credentials.identity.role

    @property
    def manager(self) -> Manager | None:
        """The manager half, while there is one."""
        return self._half.manager

    # -- what its parts tell each other: each is made before some that it speaks to -----------------------------------

    def _on_role_news(self) -> None:
        self._roles.stir()

    def _on_later_incarnation(self, incarnation: int, address: str) -> None:
        self._roles.on_later_incarnation(incarnation, address)

    def _on_revoked(self) -> None:
        self._roles.on_revoked()

    def _on_certificate(self) -> None:
        self._roots.changed()
        self.agent.renewed()

    async def _trust(self, roots: tuple[bytes, ...]) -> None:
        await self.certificate.trust(roots)
        self.agent.renewed()

    def _check_peer(self, peer: Peer) -> None:
        self._half.check_peer(peer)

    def _check_manager(self, peer: Peer) -> None:
        self.agent.cluster.check_manager(peer)

    def _seeds(self) -> list[str]:
        own = [self.manager.address] if self.manager is not None else []
        return [*own, *self._hints, *(m.address for m in self.state.managers)]

    def _known_managers(self) -> list[str]:
        known = [self.agent.manager, *self.agent.known_managers(), *self._seeds()]
        if self.manager is not None:
            known = [*self.manager.manager_addresses(), *known]
        return list(dict.fromkeys(address for address in known if address))

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until cancelled. Raises StorageError when the disk fails, InvalidArgument when it cannot listen."""
        await asyncio.to_thread(self._data.make_agent)
        async with asyncio.TaskGroup() as group:
            self._half.group = group
            manager = await self._start_manager() if self.role is Role.MANAGER else None
            group.create_task(self.agent.run(), name="agent")
            group.create_task(self.certificate.run(), name="certificate")
            group.create_task(self._roots.run(), name="roots")
            group.create_task(keep_collections_short(self._half.written), name="garbage")
            group.create_task(self._roles.follow_role(), name="role")
            group.create_task(self._roles.follow_incarnation(), name="incarnation")
            if manager is not None:
                await self._half.enter_group(manager)
            await self.wait_session()
            self.ready.set()

    async def _start_manager(self) -> Manager:
        # A new log begins once only: should this node be demoted and promoted later, it enters the group of the others.
        founding, self._founding = self._founding, None
        snapshot, self._first_snapshot = self._first_snapshot, None
        manager = await self._roles.start_manager(founding, snapshot)
        if founding is not None:
            await manager.wait_leader(LEADER_TIMEOUT_S)
            await founding.write(manager.store)
        return manager

    async def wait_session(self) -> None:
        """Return when this node has its first session with a leader, or after SESSION_TIMEOUT_S."""
        # A node that has joined should get its share of the very next service. An engine that is away holds the
        # session up, but must not undo the joining.
        try:
            async with asyncio.timeout(SESSION_TIMEOUT_S):
                await self.agent.connected.wait()
        except TimeoutError:
            log.warning("no_session_yet", waited_s=SESSION_TIMEOUT_S, problems=self.agent.problems())

    async def leave(self, *, at_once: bool, timeout: float | None = None) -> tuple[str, ...]:
        """Stop and remove this node's tasks and tell the cluster, as far as it answers. Then :meth:`run` may end.

        Unless ``at_once``, the tasks are moved away first; ``timeout``: see :meth:`Agent.move_away`. Returns what was
        lost all the same, one line each.
        """
        verdict, lost = (Verdict.HURRIED, ()) if at_once else await self._empty(timeout)
        await self._depart(WITHDRAW_TIMEOUT_S if verdict is Verdict.NO_MANAGER else CALL_TIMEOUT_S)
        return lost

    async def _empty(self, timeout: float | None) -> tuple[Verdict, tuple[str, ...]]:
        """Have this node's tasks moved away, and let what it forwards come to its end; what was lost, one line each."""
        try:
            verdict, lost = await self._move_away(timeout)
            if verdict is Verdict.RECALLED:
                raise FailedPrecondition(f"this node does not leave: {verdict.value}")
            for line in lost:
                log.warning("leaves_with_losses", reason=line)
            if verdict is not Verdict.HURRIED:
                await self.agent.drain()
        except BaseException:
            self.agent.stay()
            raise
        return verdict, lost

    async def _move_away(self, timeout: float | None) -> tuple[Verdict, tuple[str, ...]]:
        verdict = await self.agent.move_away(timeout)
        leaving, statuses = self.agent.leaving, self.agent.statuses.values()
        running = sum(not status.state.is_terminal for status in statuses)
        return verdict, what_is_lost(verdict, None if leaving is None else leaving.departure, running)

    async def drain(self, timeout: float | None) -> tuple[str, ...]:
        """Have this node's tasks moved away, and no others given to it, until it is started again or is to stay.

        ``timeout``: see :meth:`Agent.move_away`. Returns what does not run elsewhere, one line each. Raises Unavailable
        and FailedPrecondition, with the reason, when not all tasks have gone; where nobody moves them it stays.
        """
        try:
            verdict, lost = await self._move_away(timeout)
        except BaseException:
            self.agent.stay()
            raise
        if verdict is Verdict.EMPTY:
            return lost
        if verdict is not Verdict.LATE:
            self.agent.stay()
        why = f"this node is not drained: {verdict.value}"
        if verdict is Verdict.NO_MANAGER:
            raise Unavailable(why)
        raise FailedPrecondition("; ".join((why, *lost[1:])))

    async def _depart(self, timeout: float) -> None:
        await self.agent.retire(RETIRE_TIMEOUT_S)
        if self.manager is not None and [m.node_id for m in self.manager.managers()] == [self.state.node_id]:
            # The cluster ends here: there is nobody to agree with.
            return
        try:
            await self._leader.call("raft.leave", None, timeout=timeout, repeatable=True)
        except SwarmpyError as error:
            # Leaving must be possible when nobody is left to be told; the others will see this node as down.
            log.warning("cluster_not_told", reason=str(error))

    async def hand_over(self) -> None:
        """Before this node stops: finish what clients have begun, and let another manager lead, if one can.

        So nobody has to notice its silence. It stays a member meanwhile, or its tasks would be taken for lost.
        """
        await self.agent.drain()
        if self.manager is None or not self.manager.is_leader:
            return
        try:
            await self.manager.raft.transfer_leadership(None, timeout=HAND_OVER_TIMEOUT_S)
        except SwarmpyError as error:
            log.debug("leadership_not_handed_over", reason=str(error))
        else:
            log.info("leadership_handed_over", node=self.state.node_id)

    async def withdraw(self) -> None:
        """Tell the cluster that this node, which was let in a moment ago, will not come after all."""
        try:
            await self._leader.call("raft.leave", None, timeout=WITHDRAW_TIMEOUT_S)
        except SwarmpyError as error:
            log.debug("cluster_not_told", reason=str(error))

    # -- certificate and role -----------------------------------------------------------------------------------------

    async def rejoin(self, addresses: Sequence[str], token: str) -> None:
        """Get a certificate with a join token through a manager at one of ``addresses``, and go on with it.

        Raises as :meth:`CertificateKeeper.rejoin`.
        """
        managers = await self.certificate.rejoin(addresses, token, self.agent.cluster.incarnation)
        # Those that it knew may be gone: it has been away for long, perhaps.
        self._hints = tuple(dict.fromkeys([*addresses, *(manager.address for manager in managers), *self._hints]))
        self.agent.cluster.role = self.role
        self._roles.stir()

    async def begin_anew(self, state: NodeState) -> None:
        """See :meth:`RoleKeeper.begin_anew`."""
        await self._roles.begin_anew(state)

    async def _ask_for_certificate(self, method: str, payload: Any) -> Any:
        payload = {**payload, "incarnation": self.agent.cluster.incarnation}
        return await self._leader.call(method, payload, timeout=CALL_TIMEOUT_S)
