"""The manager half of a node: a manager with its log, its server and its vault, started and stopped with its role."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

import structlog

from swarmpy.agent.agent import Agent
from swarmpy.errors import SwarmpyError
from swarmpy.manager.manager import Manager
from swarmpy.manager.rest_of_node import RestOfNode
from swarmpy.node import addresses
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.founding import Founding
from swarmpy.node.roots import RootKeeper
from swarmpy.node.vault_keeper import VaultKeeper
from swarmpy.ports import Clock, Dialer, Peer, Random
from swarmpy.raft.messages import Member as RaftMember
from swarmpy.raft.messages import Snapshot
from swarmpy.raft.status import RaftStatus
from swarmpy.raft.storage import bootstrap, bootstrap_from
from swarmpy.security.tls import Credentials
from swarmpy.security.vault import Vault
from swarmpy.wire.descriptors import shares
from swarmpy.wire.entrance import EntranceLimits
from swarmpy.wire.log import SqliteLog
from swarmpy.wire.log_files import snapshot_time
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcServer
from swarmpy.wire.serving import ServerConfig

log = structlog.get_logger(__name__)

JOIN_TIMEOUT_S = 20.0
RETRY_S = 1.0
RAFT_ID_BITS = 62


class ManagerHalf:
    """Of one node. Give it a :attr:`group` to run in; then :meth:`start` and :meth:`stop` it, one at a time."""

    def __init__(
        self,
        *,
        data: DataDir,
        credentials: Credentials,
        dialer: Dialer,
        agent: Agent,
        roots: RootKeeper,
        vault: Vault,
        reseal_key: Callable[[], Awaitable[None]],
        clock: Clock,
        random: Random,
        serve_api: Callable[[Router], None],
        seeds: Callable[[], list[str]],
        hints: Callable[[], tuple[str, ...]],
        known_managers: Callable[[], list[str]],
        on_superseded: Callable[[int, str], None],
        on_removed: Callable[[], None],
    ) -> None:
        """``reseal_key``: see :class:`VaultKeeper`; ``on_superseded``: see :class:`RestOfNode`.

        Addresses of managers: ``seeds`` are those that this node knew from the start, ``hints`` those of them that an
        operator named, ``known_managers`` all. ``on_removed`` is called when the others have put it out of their group.
        """
        self.manager: Manager | None = None
        """While it runs."""
        self.group: asyncio.TaskGroup | None = None
        self._data = data
        self._credentials = credentials
        self._dialer = dialer
        self._agent = agent
        self._roots = roots
        self._vault = vault
        self._clock = clock
        self._random = random
        self._serve_api = serve_api
        self._seeds = seeds
        self._hints = hints
        self._known_managers = known_managers
        self._on_superseded = on_superseded
        self._on_removed = on_removed
        self._state: NodeState | None = None
        """Who it was started as last."""
        self._task: asyncio.Task[None] | None = None
        self._entering: tuple[Manager, asyncio.Task[None]] | None = None
        """The one that enters the group of managers, or did last."""
        self._vault_keeper = VaultKeeper(vault=vault, begin=self._begin_sealing, reseal_key=reseal_key)

    def written(self) -> int:
        """How many objects its store has ever written; 0 while it does not run."""
        return 0 if self.manager is None else self.manager.store.written

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(
        self, state: NodeState, founding: Founding | None = None, first_snapshot: Snapshot | None = None
    ) -> Manager:
        """Start it as ``state`` says; ``founding`` or ``first_snapshot``: with a new log that begins so.

        Raises StorageError, InvalidArgument when it cannot listen.
        """
        assert self.group is not None, "it has a group to run in"
        self._state = state
        router = Router()
        await asyncio.to_thread(self._data.claim_raft, state)
        storage = SqliteLog(self._data.raft, self._vault.ring)
        if founding is not None:
            me = RaftMember(raft_id=state.raft_id, node_id=state.node_id, address=state.advertise_address)
            await bootstrap(storage, me)
        elif first_snapshot is not None:
            await bootstrap_from(storage, first_snapshot)
        manager = self._new_manager(state, storage, router)
        manager.raft.subscribe(self._on_raft_status)
        self._serve_api(router)
        server = self._new_server(state, router)
        try:
            await server.start()
        except BaseException:
            await storage.close()
            raise
        self.manager = manager
        self._task = self.group.create_task(self._run(manager, server, storage), name="manager")
        return manager

    def _new_manager(self, state: NodeState, storage: SqliteLog, router: Router) -> Manager:
        return Manager(
            node_id=state.node_id,
            cluster_id=state.cluster_id,
            raft_id=state.raft_id,
            address=state.advertise_address,
            storage=storage,
            dialer=self._dialer,
            router=router,
            clock=self._clock,
            random=self._random,
            config=state.raft,
            rest=RestOfNode(
                manager_hints=self._hints(),
                known_managers=lambda: [*self._agent.known_managers(), *self._seeds()],
                on_superseded=self._on_superseded,
                on_roots=self._credentials.trust_more,
                on_orders=lambda orders: self._roots.told(orders.roots, orders.issuer),
                snapshot_time=functools.partial(snapshot_time, self._data.raft),
            ),
        )

    def _new_server(self, state: NodeState, router: Router) -> RpcServer:
        host, port = addresses.parse(state.listen_address, what="listen address")
        share = shares()
        bounds = ServerConfig(max_connections=share.cluster_port, entrance=EntranceLimits(waiting=share.waiting))
        return RpcServer(router, self._credentials, host=host, port=port, config=bounds)

    async def _run(self, manager: Manager, server: RpcServer, storage: SqliteLog) -> None:
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
        assert self._state is not None, "it runs"
        self._data.raise_format()
        self._data.save(self._state)

    def _on_raft_status(self, status: RaftStatus) -> None:
        if status.removed:
            self._on_removed()

    async def stop(self) -> None:
        """Stop it, if it runs; its log is closed when this returns."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def check_peer(self, peer: Peer) -> None:
        """Raises BadCertificate, see :meth:`RootGuard.check`, while it runs."""
        if self.manager is not None:
            self.manager.root_guard.check(peer)

    # -- the group of managers ----------------------------------------------------------------------------------------

    async def enter_group(self, manager: Manager) -> None:
        """Return when ``manager`` is a member, or is stopped."""
        await manager.wait_loaded()
        # Until then it may be stopped, as one that is to be a manager no more.
        while self.manager is manager and not manager.is_member:
            try:
                await manager.join_group(self._known_managers, JOIN_TIMEOUT_S, self._agent.cluster.incarnation)
            except SwarmpyError as error:
                log.warning("raft_group_not_joined", reason=str(error))
                await asyncio.sleep(RETRY_S)

    def enter_beside(self, manager: Manager) -> None:
        """Begin to enter the group; that ends by itself when ``manager`` is stopped."""
        assert self.group is not None, "it has a group to run in"
        if not self.is_entering:
            self._entering = manager, self.group.create_task(self.enter_group(manager), name="enter-group")

    @property
    def is_entering(self) -> bool:
        """True while it asks the others to let it in."""
        if self._entering is None:
            return False
        # One that was replaced tries on until its call is over, and says nothing of its successor.
        manager, task = self._entering
        return manager is self.manager and not task.done()


def new_raft_id(random: Random) -> int:
    """A raft id that nobody else has or had."""
    return 1 + (int.from_bytes(random.randbytes(8), "big") >> (64 - RAFT_ID_BITS))
