"""The daemon of a node: its API is there from the first moment, in a cluster or in none.

It founds, joins and leaves clusters as it is asked to, again and again in one life.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import attrs
import structlog

from swarmpy.api.api import Api
from swarmpy.api.backend import InitRequest, JoinRequest, RestoreRequest
from swarmpy.errors import (
    AlreadyInCluster,
    DataDirMismatch,
    DeadlineExceeded,
    NotInCluster,
    NotLocked,
    SwarmLocked,
    SwarmpyError,
    Unavailable,
)
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster
from swarmpy.model.states import Role
from swarmpy.node import addresses, forced, restoring
from swarmpy.node.audit_log import FILE as AUDIT_FILE
from swarmpy.node.audit_log import AuditLog
from swarmpy.node.config import NodeConfig
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.doors import open_doors
from swarmpy.node.facts import NodeFacts
from swarmpy.node.founding import found
from swarmpy.node.joining import fetch_identity
from swarmpy.node.manager_half import new_raft_id
from swarmpy.node.member import Member
from swarmpy.node.moving import manager_hints, where_now
from swarmpy.node.opening import make_vault, opened_vault
from swarmpy.node.renewal import renew
from swarmpy.ports import Clock, Random, Runtime
from swarmpy.runtime.choose import choose_runtime
from swarmpy.security.identity import NodeIdentity, load_identity, save_identity
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.vault import Vault
from swarmpy.wire.descriptors import raise_limit
from swarmpy.wire.router import MANAGERS, Router

log = structlog.get_logger(__name__)

READY_TIMEOUT_S = 30.0
_NOT_IN_SWARM = "This node is not part of a swarm"
_Known = tuple[NodeState, NodeIdentity, Vault]


class Node(NodeFacts):
    """One daemon; implements ``api.backend.NodeBackend``."""

    def __init__(self, config: NodeConfig, clock: Clock, random: Random) -> None:
        super().__init__(config, AuditLog(config.data_dir / AUDIT_FILE, clock))
        self._clock = clock
        self._random = random
        self._data = DataDir(config.data_dir)
        self._member_task: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._failed: asyncio.Future[bool] | None = None
        self._api = Api(self, clock, self._audit)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, started: asyncio.Event | None = None) -> None:
        """Serve until ``stop`` is set; ``started`` is set when the API answers.

        Raises StorageError, DataDirMismatch, AlreadyExists (another daemon holds the directory), InvalidArgument (an
        address cannot be listened on).
        """
        raise_limit()
        await asyncio.to_thread(self._data.open)
        try:
            async with contextlib.AsyncExitStack() as servers:
                known = await asyncio.to_thread(self._who_am_i_if_unlocked)
                self._audit.start()
                servers.push_async_callback(self._audit.close)
                await open_doors(servers, self._api, self._config, self._data.socket, self._clock)
                self._failed = asyncio.get_running_loop().create_future()
                if known is not None:
                    await self._resume(*known)
                elif self._gate.waiting is None and self._config.has_addresses:
                    log.warning("addresses_not_used", reason="this node is in no cluster: give them as it enters one")
                if started is not None:
                    started.set()
                await self._until(stop)
                if self._member is not None:
                    await self._member.hand_over()
        finally:
            await self._end_member()
            self._data.close()

    async def _until(self, stop: asyncio.Event) -> None:
        assert self._failed is not None
        stopped: asyncio.Future[bool] = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopped, self._failed], return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
        finally:
            stopped.cancel()
            await asyncio.wait([stopped])

    def _who_am_i_if_unlocked(self) -> _Known | None:
        try:
            return self._who_am_i()
        except SwarmLocked:
            self._gate.close(self._data.load())
            return None

    def _who_am_i(self, unlock_key: UnlockKey | None = None) -> _Known | None:
        """Raises SwarmLocked and WrongUnlockKey, too."""
        state = self._data.load()
        if state is None:
            return None
        self._data.finish_renewal(state)
        vault = opened_vault(self._data, unlock_key)
        identity = load_identity(self._data.path, vault.ring)
        if identity is None:
            raise DataDirMismatch(
                f"{self._data.path} says that this is node {state.node_id}, but its certificate is missing: restore "
                f"{self._data.certificates}, or empty the directory and join again"
            )
        if (identity.node_id, identity.cluster_id) != (state.node_id, state.cluster_id):
            raise DataDirMismatch(
                f"the certificate in {self._data.certificates} is of node {identity.node_id} of cluster "
                f"{identity.cluster_id}, but {self._data.path} is of node {state.node_id} of cluster "
                f"{state.cluster_id}: files of two nodes are mixed up"
            )
        if identity.role is Role.MANAGER and not self._data.has_raft_log:
            # It may have voted as who it was: it comes back as somebody new, and the others give the log to that one.
            log.warning("raft_log_missing", directory=str(self._data.raft), consequence="joining the managers anew")
            state = attrs.evolve(state, raft_id=new_raft_id(self._random))
            self._data.save(state)
        return state, identity, vault

    async def _resume(self, state: NodeState, identity: NodeIdentity, vault: Vault) -> None:
        asked = self._config.runtime
        kind = state.runtime if asked in (None, "auto") else asked
        # A node whose engine is not there yet, or no more, is a member all the same; a manager may be needed.
        state = await asyncio.to_thread(where_now, self._data, self._config, state)
        runtime = await self._runtime(state.node_id, state.advertise_address, kind, may_be_away=True)
        hints = manager_hints(self._config)
        self._start_member(self._new_member(state, identity, runtime, vault=vault, manager_hints=hints))
        log.info("node_resumed", node=state.node_id, cluster=state.cluster_id, role=identity.role.value)

    def _new_member(self, state: NodeState, identity: NodeIdentity, runtime: Runtime, **more: object) -> Member:
        return Member(
            data=self._data,
            state=state,
            identity=identity,
            runtime=runtime,
            clock=self._clock,
            random=self._random,
            serve_api=self._serve_peers,
            **{"vault": Vault(self._data.path), **more},  # type: ignore[arg-type]
        )

    def _start_member(self, member: Member) -> None:
        self._member = member
        self._member_task = asyncio.create_task(member.run(), name="member")
        self._member_task.add_done_callback(self._member_ended)

    def _member_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None or task is not self._member_task:
            return
        reason = _first_cause(error)
        self._error = str(reason)
        if self._failed is not None and not self._failed.done() and not self._pending:
            self._failed.set_exception(reason)

    async def _end_member(self) -> None:
        task, self._member_task = self._member_task, None
        self._member = None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _serve_peers(self, router: Router) -> None:
        router.call("api.request", self._api.on_forwarded, MANAGERS)

    async def _runtime(self, node_id: NodeId, advertise: str, kind: str, *, may_be_away: bool = False) -> Runtime:
        runtime, reason = await choose_runtime(
            kind,
            node_id=node_id,
            node_address=addresses.parse(advertise, what="advertise address")[0],
            hostname=self._config.hostname,
            directory=self._data.tasks,
            may_be_away=may_be_away,
            generic=self._config.generic_resources,
        )
        log.info("runtime_chosen", runtime=runtime.name, reason=reason)
        return runtime

    # -- founding, joining, leaving -----------------------------------------------------------------------------------

    async def init(self, request: InitRequest) -> str:
        """Found a cluster, or begin this manager's anew; returns this node's id."""
        if request.force_new_cluster:
            return await self._begin_anew(request)
        async with self._change():
            listen, advertise = await asyncio.to_thread(
                addresses.choose, request.listen_addr, request.advertise_addr, ""
            )
            raft_id = new_raft_id(self._random)
            founding = found(
                raft_id=raft_id,
                address=advertise,
                hostname=self._config.hostname,
                availability=request.availability,
                spec=request.spec,
                now_ns=self._clock.time_ns(),
                random=self._random,
            )
            node_id, cluster_id = founding.node.id, founding.cluster.id
            runtime = await self._runtime(node_id, advertise, self._config.runtime or "auto")
            state = NodeState(
                cluster_id=cluster_id,
                node_id=node_id,
                raft_id=raft_id,
                listen_address=listen,
                advertise_address=advertise,
                address_chosen=addresses.is_chosen(request.listen_addr, request.advertise_addr),
                runtime=runtime.name,
                raft=request.spec.raft,
            )
            await self._enter(
                state,
                founding.identity,
                self._new_member(state, founding.identity, runtime, founding=founding),
                founded=founding.cluster,
            )
            log.info("cluster_founded", cluster=cluster_id, node=node_id, address=advertise)
            return node_id

    async def _begin_anew(self, request: InitRequest) -> str:
        async with self._changing:
            self._gate.check()
            member = forced.manager_of(self._member)
            await forced.check_no_quorum(member)
            state = await asyncio.to_thread(forced.new_state, member.state, request, new_raft_id(self._random))
            if forced.moves(member.state, state):
                await self._begin_anew_elsewhere(member, state)
            else:
                await member.begin_anew(state)
            log.warning("cluster_begun_anew", cluster=state.cluster_id, node=state.node_id, raft_id=state.raft_id)
            return state.node_id

    async def _begin_anew_elsewhere(self, member: Member, state: NodeState) -> None:
        """The same where the node moves to another address, which its tasks are reached at as well."""
        before = member.state
        await asyncio.to_thread(addresses.check_free, state.listen_address, before.listen_address)
        await self._end_member()
        try:
            await renew(self._data, before, state, self._clock, member.vault.ring)
        finally:
            known = await asyncio.to_thread(self._who_am_i, member.vault.unlock_key)
            assert known is not None, "it was a member a moment ago"
            await self._resume(*known)
        assert self._member is not None
        await self._until_ready(self._member)

    async def restore(self, request: RestoreRequest) -> str:
        """Bring a cluster back from a backup; returns this node's id."""
        async with self._change():
            found = await restoring.prepare(
                request,
                hostname=self._config.hostname,
                runtime=lambda node_id, address: self._runtime(node_id, address, self._config.runtime or "auto"),
                clock=self._clock,
                random=self._random,
            )
            state, identity = found.state, found.identity
            member = self._new_member(state, identity, found.runtime, first_snapshot=found.snapshot)
            await self._enter(state, identity, member, founded=found.cluster)
            log.warning("cluster_restored", cluster=state.cluster_id, node=state.node_id, index=found.snapshot.index)
            return state.node_id

    async def join(self, request: JoinRequest) -> None:
        """Join a cluster; or, as a node of it whose certificate has expired, come back."""
        if self.may_rejoin:
            await self._rejoin(request)
            return
        async with self._change():
            remote = [addresses.join(*addresses.parse(a, what="manager address")) for a in request.remote_addrs]
            listen, advertise = await asyncio.to_thread(
                addresses.choose, request.listen_addr, request.advertise_addr, remote[0]
            )
            # An engine that does not answer must be known before the cluster counts on this node.
            probe = await self._runtime(NodeId(""), advertise, self._config.runtime or "auto")
            identity, certified = await fetch_identity(
                remote,
                request.join_token,
                hostname=self._config.hostname,
                availability=request.availability,
                random=self._random,
            )
            state = NodeState(
                cluster_id=ClusterId(identity.cluster_id),
                node_id=identity.node_id,
                raft_id=new_raft_id(self._random),
                listen_address=listen,
                advertise_address=advertise,
                address_chosen=addresses.is_chosen(request.listen_addr, request.advertise_addr),
                runtime=probe.name,
                raft=certified.raft,
                managers=certified.managers,
            )
            runtime = await self._runtime(identity.node_id, advertise, probe.name)
            await self._enter(state, identity, self._new_member(state, identity, runtime), founded=None)
            log.info("cluster_joined", cluster=state.cluster_id, node=state.node_id, role=identity.role.value)

    async def _rejoin(self, request: JoinRequest) -> None:
        async with self._changing:
            member = self._member
            if member is None:
                raise NotInCluster("this node has left the swarm meanwhile: join again")
            remote = [addresses.join(*addresses.parse(a, what="manager address")) for a in request.remote_addrs]
            await member.rejoin(remote, request.join_token)
            await member.wait_session()
            state = member.state
            log.info("cluster_rejoined", cluster=state.cluster_id, node=state.node_id, role=member.role.value)

    async def leave(self, *, force: bool) -> None:
        """Leave the cluster, and forget it."""
        async with self._changing:
            if self._gate.waiting is not None:
                await self._leave_locked(self._gate.waiting, force=force)
                return
            member = self._member
            if member is None:
                raise NotInCluster(_NOT_IN_SWARM)
            if member.role is Role.MANAGER and not force:
                raise NotInCluster(
                    "You are attempting to leave the swarm on a node that is participating as a manager. Removing a "
                    "manager may cost the swarm its quorum: demote it first, or use `--force` to leave all the same."
                )
            await member.leave()
            await self._end_member()
            await asyncio.to_thread(self._data.forget_cluster)
            self._error = ""
            log.info("cluster_left", cluster=member.state.cluster_id, node=member.state.node_id)

    async def _leave_locked(self, state: NodeState, *, force: bool) -> None:
        if not force:
            raise SwarmLocked
        await asyncio.to_thread(self._data.forget_cluster)
        self._gate.close(None)
        log.warning("cluster_left_locked", cluster=state.cluster_id, node=state.node_id, consequence="nobody was told")

    async def unlock(self, key: UnlockKey) -> None:
        """Go on as the manager that this node is, with the key that it waits for."""
        if self._gate.waiting is None and self._member is None:
            raise NotInCluster(_NOT_IN_SWARM)
        if self._gate.waiting is not None and self._changing.locked():
            raise Unavailable("another unlock key is being tried: wait a moment")
        async with self._changing:
            if self._gate.waiting is None:
                raise NotLocked("swarm is not locked")
            known = await self._gate.pass_with(key, self._who_am_i, self._clock)
            assert known is not None, "it was a manager"
            try:
                await self._resume(*known)
            except SwarmpyError as error:
                # As at a start: this daemon is of no use.
                if self._failed is not None and not self._failed.done():
                    self._failed.set_exception(error)
                raise

    @contextlib.asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        self._gate.check()
        if self._changing.locked() or self._member is not None:
            raise AlreadyInCluster(
                'This node is already part of a swarm: leave it first ("swarm leave"), then create or join another one.'
            )
        async with self._changing:
            self._pending = True
            try:
                yield
            finally:
                self._pending = False

    async def _enter(
        self, state: NodeState, identity: NodeIdentity, member: Member, *, founded: Cluster | None
    ) -> None:
        is_founding = founded is not None
        # What an attempt that was cut short has left behind belongs to nobody.
        await asyncio.to_thread(self._data.forget_cluster)
        if identity.role is Role.MANAGER:
            await asyncio.to_thread(make_vault, self._data, member.vault, founded)
        await asyncio.to_thread(save_identity, self._data.path, identity, member.vault.ring)
        if not is_founding:
            await asyncio.to_thread(self._data.save, state)
        self._start_member(member)
        try:
            await self._until_ready(member)
        except BaseException as error:
            if isinstance(error, SwarmpyError) and not is_founding:
                await member.withdraw()
            await self._end_member()
            await asyncio.to_thread(self._data.forget_cluster)
            self._error = ""
            raise
        if is_founding:
            # Only now is there a cluster to come back to.
            await asyncio.to_thread(self._data.save, state)

    async def _until_ready(self, member: Member) -> None:
        task = self._member_task
        assert task is not None
        ready = asyncio.create_task(member.ready.wait())
        try:
            await asyncio.wait({ready, task}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise _first_cause(error)
            if not ready.done():
                raise DeadlineExceeded(
                    f"this node did not become a member within {READY_TIMEOUT_S:g} s: the managers must be able to "
                    f"reach it at {member.state.advertise_address}"
                )
        finally:
            ready.cancel()
            await asyncio.wait([ready])


def _first_cause(error: BaseException) -> BaseException:
    """The most telling error of a group: one of ours if there is one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_first_cause(e) for e in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, SwarmpyError)), causes[0])
