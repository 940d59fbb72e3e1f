"""This node's life in one cluster: always an agent, and a manager while its role says so.

The two halves share nothing but the node's identity. A change of role swaps the certificate first and then starts or
stops the manager half, live.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import structlog

from swarmpy.agent.agent import Agent
from swarmpy.agent.local_database import LocalDatabase
from swarmpy.errors import SwarmpyError
from swarmpy.manager.leader_calls import LeaderCalls
from swarmpy.manager.manager import Manager
from swarmpy.model.states import Role
from swarmpy.network.mesh import UserspaceMesh
from swarmpy.node import addresses
from swarmpy.node.certificate import CertificateKeeper
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.founding import Founding
from swarmpy.node.garbage import keep_collections_short
from swarmpy.node.renewal import renew
from swarmpy.node.roots import RootKeeper
from swarmpy.node.vault_keeper import VaultKeeper
from swarmpy.ports import Clock, Peer, Random, Runtime
from swarmpy.raft.messages import Member as RaftMember
from swarmpy.raft.messages import Snapshot
from swarmpy.raft.status import RaftStatus
from swarmpy.raft.storage import bootstrap, bootstrap_from
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.tls import Credentials
from swarmpy.security.vault import Vault
from swarmpy.wire.checked import CheckedDialer
from swarmpy.wire.descriptors import shares
from swarmpy.wire.entrance import EntranceLimits
from swarmpy.wire.log import SqliteLog
from swarmpy.wire.log_files import snapshot_time
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcDialer, RpcServer
from swarmpy.wire.serving import ServerConfig

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 10.0
LEADER_TIMEOUT_S = 15.0
JOIN_TIMEOUT_S = 20.0
SESSION_TIMEOUT_S = 10.0
WITHDRAW_TIMEOUT_S = 3.0
HAND_OVER_TIMEOUT_S = 2.0
RETIRE_TIMEOUT_S = 20.0
ROLE_RETRY_S = 1.0
RAFT_ID_BITS = 62


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
        self.state = state
        self._hints = manager_hints
        self.manager: Manager | None = None
        self.ready = asyncio.Event()
        self._data = data
        self.vault = vault
        self._credentials = Credentials(identity)
        self._clock = clock
        self._random = random
        self._serve_api = serve_api
        self._founding = founding
        self._first_snapshot = first_snapshot
        self._role_news = asyncio.Event()
        self._revoked = ""
        """The serial number of the last certificate that a manager has refused as revoked."""
        self._later: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        """Later incarnations of the cluster that this node has heard of, and where a manager of it is."""
        self._halves = asyncio.Lock()
        """Held while the manager half is started, stopped or replaced."""
        self._group: asyncio.TaskGroup | None = None
        self._entering: tuple[Manager, asyncio.Task[None]] | None = None
        """The manager half that enters the group, or did last."""
        self._manager_task: asyncio.Task[None] | None = None
        self._dialer = RpcDialer(self._credentials.client_context, identity.cluster_id, guard=self._check_peer)
        to_managers = CheckedDialer(self._dialer, self._check_manager)
        listen_host, self._listen_port = addresses.parse(state.listen_address, what="listen address")
        self._listen_host = listen_host
        self.address = addresses.parse(state.advertise_address, what="advertise address")[0]
        self.certificate = CertificateKeeper(
            data_dir=data.path,
            credentials=self._credentials,
            ask_leader=self._ask_for_certificate,
            manager=lambda: self.manager,
            on_role_change=self._role_news.set,
            clock=clock,
            random=random,
            vault=vault,
        )
        self._vault_keeper = VaultKeeper(vault=vault, begin=self._begin_sealing, reseal_key=self.certificate.reseal)
        self._roots = RootKeeper(
            credentials=self._credentials,
            renew=self.certificate.renew,
            trust=self._trust,
            confirm=lambda roots: self._ask_for_certificate("ca.confirm", {"roots": roots}),
            random=random,
        )
        self.certificate.on_change = self._on_certificate
        self.agent = Agent(
            node_id=state.node_id,
            address=self.address,
            role=identity.role,
            dialer=to_managers,
            runtime=runtime,
            data_plane=UserspaceMesh(listen_host, random, max_connections=shares().published_ports),
            local=LocalDatabase(data.agent / "state.db"),
            clock=clock,
            random=random,
            seeds=self._seeds,
            on_role_change=lambda _role: self._role_news.set(),
            on_later_incarnation=lambda *later: self._later.put_nowait(later),
            on_revoked=self._on_revoked,
            roots=lambda: self._credentials.identity.roots,
            on_roots=self._roots.told,
            more_problems=lambda: (self._roots.problem,) if self._roots.problem else (),
        )
        self._leader = LeaderCalls(to_managers, random, self._known_managers)

    def _on_certificate(self) -> None:
        self._roots.changed()
        self.agent.renewed()

    async def _trust(self, roots: tuple[bytes, ...]) -> None:
        await self.certificate.trust(roots)
        self.agent.renewed()

    def _check_manager(self, peer: Peer) -> None:
        self.agent.check_manager(peer)

    @property
    def role(self) -> Role:
        """The role its certificate says."""
        return self._credentials.identity.role

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
            self._group = group
            manager = await self._start_manager(group) if self.role is Role.MANAGER else None
            if manager is not None and self._founding is not None:
                await self._write_founding(manager, self._founding)
                # Only once: should this node be demoted and promoted later, it enters the group of the others.
                self._founding = None
            group.create_task(self.agent.run(), name="agent")
            group.create_task(self.certificate.run(), name="certificate")
            group.create_task(self._roots.run(), name="roots")
            group.create_task(keep_collections_short(self._written), name="garbage")
            group.create_task(self._follow_role(group), name="role")
            group.create_task(self._follow_incarnation(), name="incarnation")
            if manager is not None:
                await self._enter_group(manager)
            await self.wait_session()
            self.ready.set()

    async def wait_session(self) -> None:
        """Return when this node has its first session with a leader, or after SESSION_TIMEOUT_S."""
        # A node that has joined should get its share of the very next service. An engine that is away holds the
        # session up, but must not undo the joining.
        try:
            async with asyncio.timeout(SESSION_TIMEOUT_S):
                await self.agent.connected.wait()
        except TimeoutError:
            log.warning("no_session_yet", waited_s=SESSION_TIMEOUT_S, problems=self.agent.problems())

    async def leave(self) -> None:
        """Stop and remove this node's tasks and tell the cluster, as far as it answers. Then :meth:`run` may end."""
        await self.agent.retire(RETIRE_TIMEOUT_S)
        if self.manager is not None and [m.node_id for m in self.manager.managers()] == [self.state.node_id]:
            # The cluster ends here: there is nobody to agree with.
            return
        try:
            await self._leader.call("raft.leave", None, timeout=CALL_TIMEOUT_S, repeatable=True)
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

    # -- the manager half ---------------------------------------------------------------------------------------------

    async def _start_manager(self, group: asyncio.TaskGroup) -> Manager:
        router = Router()
        await asyncio.to_thread(self._data.claim_raft, self.state)
        storage = SqliteLog(self._data.raft, self.vault.ring)
        if self._founding is not None:
            member = RaftMember(
                raft_id=self.state.raft_id, node_id=self.state.node_id, address=self.state.advertise_address
            )
            await bootstrap(storage, member)
        elif self._first_snapshot is not None:
            await bootstrap_from(storage, self._first_snapshot)
            self._first_snapshot = None
        manager = Manager(
            node_id=self.state.node_id,
            cluster_id=self.state.cluster_id,
            raft_id=self.state.raft_id,
            address=self.state.advertise_address,
            storage=storage,
            dialer=self._dialer,
            router=router,
            clock=self._clock,
            random=self._random,
            config=self.state.raft,
            snapshot_time=functools.partial(snapshot_time, self._data.raft),
            known_managers=lambda: [*self.agent.known_managers(), *self._seeds()],
            manager_hints=self._hints,
            on_superseded=lambda *later: self._later.put_nowait(later),
            on_roots=self._credentials.trust_more,
            on_orders=lambda orders: self._roots.told(orders.roots, orders.issuer),
        )
        manager.raft.subscribe(self._on_raft_status)
        self._serve_api(router)
        share = shares()
        bounds = ServerConfig(max_connections=share.cluster_port, entrance=EntranceLimits(waiting=share.waiting))
        server = RpcServer(router, self._credentials, host=self._listen_host, port=self._listen_port, config=bounds)
        try:
            await server.start()
        except BaseException:
            await storage.close()
            raise
        self.manager = manager
        self._manager_task = group.create_task(self._run_manager(manager, server, storage), name="manager")
        return manager

    async def _run_manager(self, manager: Manager, server: RpcServer, storage: SqliteLog) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._vault_keeper.run(manager, storage), name="vault")
                await manager.run()
                keeping.cancel()
        finally:
            self.manager = None
            # Without a state there is nobody to judge them.
            self._credentials.trust_more(())
            try:
                await server.stop()
            finally:
                # Its threads may be writing still; the directory may be removed or opened anew after this.
                await storage.close()

    def _begin_sealing(self) -> None:
        self._data.raise_format()
        self._data.save(self.state)

    async def _stop_manager(self) -> None:
        task, self._manager_task = self._manager_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _write_founding(self, manager: Manager, founding: Founding) -> None:
        await manager.wait_leader(LEADER_TIMEOUT_S)

        def write(tx: Any) -> None:
            tx.create(founding.cluster)
            tx.create(founding.node)

        await manager.store.update(write)

    async def _enter_group(self, manager: Manager) -> None:
        """Return when ``manager`` is a member, or is stopped."""
        await manager.wait_loaded()
        # Until then it may be stopped, as one that is to be a manager no more.
        while self.manager is manager and not manager.is_member:
            try:
                await manager.join_group(self._known_managers, JOIN_TIMEOUT_S, self.agent.incarnation)
            except SwarmpyError as error:
                log.warning("raft_group_not_joined", reason=str(error))
                await asyncio.sleep(ROLE_RETRY_S)

    def _written(self) -> int:
        return 0 if self.manager is None else self.manager.store.written

    def _enter_beside(self, group: asyncio.TaskGroup, manager: Manager) -> None:
        """Begin to enter the group; it ends by itself when ``manager`` is stopped."""
        if not self._is_entering:
            self._entering = manager, group.create_task(self._enter_group(manager), name="enter-group")

    @property
    def _is_entering(self) -> bool:
        if self._entering is None:
            return False
        # One that was replaced tries on until its call is over, and says nothing of its successor.
        manager, task = self._entering
        return manager is self.manager and not task.done()

    def _check_peer(self, peer: Peer) -> None:
        if self.manager is not None:
            self.manager.root_guard.check(peer)

    # -- certificate and role -----------------------------------------------------------------------------------------

    async def rejoin(self, addresses: Sequence[str], token: str) -> None:
        """Get a certificate with a join token through a manager at one of ``addresses``, and go on with it.

        Raises as :meth:`CertificateKeeper.rejoin`.
        """
        managers = await self.certificate.rejoin(addresses, token, self.agent.incarnation)
        # Those that it knew may be gone: it has been away for long, perhaps.
        self._hints = tuple(dict.fromkeys([*addresses, *(manager.address for manager in managers), *self._hints]))
        self.agent.become(self.role)
        self._role_news.set()

    async def _ask_for_certificate(self, method: str, payload: Any) -> Any:
        payload = {**payload, "incarnation": self.agent.incarnation}
        return await self._leader.call(method, payload, timeout=CALL_TIMEOUT_S)

    def _on_revoked(self) -> None:
        if self.role is Role.MANAGER and not self.certificate.is_refused:
            self._revoked = self.certificate.identity.serial
            self._role_news.set()

    @property
    def _is_revoked(self) -> bool:
        return self._revoked == self.certificate.identity.serial and not self.certificate.is_refused

    def _on_raft_status(self, status: RaftStatus) -> None:
        if status.removed:
            self._role_news.set()

    async def _follow_role(self, group: asyncio.TaskGroup) -> None:
        """Be what the agent was told, and a manager in the eyes of the others too.

        One that was demoted and promoted while it was away is told of neither, but the others have removed it.
        """
        while True:
            await self._role_news.wait()
            self._role_news.clear()
            while not self._role_news.is_set() and self._is_out_of_place():
                try:
                    async with self._halves:
                        await self._change_role(group)
                except SwarmpyError as error:
                    log.warning("role_not_changed", wanted=str(self.agent.role), reason=str(error))
                if self._is_out_of_place():
                    # Also when the certificate says otherwise than the session did: one of them is out of date.
                    await asyncio.sleep(ROLE_RETRY_S)

    def _is_out_of_place(self) -> bool:
        """True when this node is not what it is to be or says it is, or is a manager that is no member of the group."""
        if self._is_revoked:
            return True
        if self.agent.role is None:
            return False  # of a later incarnation, whose leader will say it
        if self.role is not self.agent.role:
            return True
        if self.role is Role.WORKER:
            return self.manager is not None
        manager = self.manager
        return manager is None or manager.raft_status().removed or not (manager.is_member or self._is_entering)

    async def _follow_incarnation(self) -> None:
        while True:
            incarnation, address = await self._later.get()
            async with self._halves:
                own = None if self.manager is None else self.manager.incarnation
                # One without any state yet has only just joined: it gets that of the later incarnation.
                if own is not None and own < incarnation:
                    await self._end_superseded_manager(incarnation)
                    await self.agent.supersede(incarnation, address)

    async def _end_superseded_manager(self, incarnation: int) -> None:
        log.warning(
            "manager_superseded",
            node=self.state.node_id,
            incarnation=incarnation,
            consequence="this node manages no more; the leader of the cluster that was begun anew says what it is",
            log_kept_in=str(self._data.superseded_raft),
        )
        await self._stop_manager()
        await asyncio.to_thread(self._data.set_raft_aside)

    async def begin_anew(self, state: NodeState) -> None:
        """Replace the stopped or leaderless manager half by one that leads alone, as ``state``; tasks are not touched.

        Raises FailedPrecondition (its log is no good for that; nothing has changed), StorageError.
        """
        assert self._group is not None, "a member that runs"
        async with self._halves:
            await self._stop_manager()
            try:
                await renew(self._data, self.state, state, self._clock, self.vault.ring)
                self.state = state
            finally:
                manager = await self._start_manager(self._group)
                # When nothing has changed after all: it may have been about to join the others.
                self._enter_beside(self._group, manager)
        await manager.wait_leader(LEADER_TIMEOUT_S)

    async def _change_role(self, group: asyncio.TaskGroup) -> None:
        if self._is_revoked:
            # Nobody tells it anything else before it has another certificate; that one says what it is.
            await self.certificate.renew()
            self.agent.become(self.role)
        manager = self.manager
        is_removed = manager is not None and manager.raft_status().removed
        if manager is not None and (manager.incarnation or 0) < self.agent.incarnation:
            await self._end_superseded_manager(self.agent.incarnation)
        elif self.agent.role is Role.WORKER or is_removed:
            await self._stop_manager()
            await asyncio.to_thread(self._data.forget_raft)
        if self.role is not self.agent.role or is_removed:
            await self.certificate.renew()
        if self.role is Role.WORKER and self.manager is None:
            await asyncio.to_thread(self.vault.discard)
        if self.role is Role.MANAGER:
            if self.manager is None:
                if self.vault.exists:
                    self._data.raise_format()
                # A raft id is used for one membership only: the group may remember things of an earlier one.
                self.state = attrs.evolve(self.state, raft_id=new_raft_id(self._random))
                await asyncio.to_thread(self._data.save, self.state)
                await self._start_manager(group)
            assert self.manager is not None, "it was just started"
            self._enter_beside(group, self.manager)
        log.info("role_in_force", role=self.role.value)


def new_raft_id(random: Random) -> int:
    """A raft id that nobody else has or had."""
    return 1 + (int.from_bytes(random.randbytes(8), "big") >> (64 - RAFT_ID_BITS))
