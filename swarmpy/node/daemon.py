"""The daemon of a node: its API is there from the first moment, in a cluster or in none.

It founds, joins and leaves clusters as it is asked to, again and again in one life.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from swarmpy.api.api import Api
from swarmpy.api.backend import InitRequest, JoinRequest, RestoreRequest
from swarmpy.errors import (
    AlreadyInCluster,
    DeadlineExceeded,
    NotInCluster,
    NotLocked,
    SwarmLocked,
    SwarmpyError,
    Unavailable,
)
from swarmpy.model.states import Role
from swarmpy.node import addresses, forced
from swarmpy.node.audit_log import FILE as AUDIT_FILE
from swarmpy.node.audit_log import AuditLog
from swarmpy.node.config import NodeConfig
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.doors import open_doors
from swarmpy.node.entering import Entry, by_founding, by_joining, runtime_for
from swarmpy.node.facts import NodeFacts
from swarmpy.node.manager_half import new_raft_id
from swarmpy.node.member import Member
from swarmpy.node.moving import manager_hints, where_now
from swarmpy.node.opening import Known, make_vault, who_is_here
from swarmpy.node.renewal import renew
from swarmpy.node.restoring import by_restoring
from swarmpy.ports import Clock, Random
from swarmpy.security.identity import save_identity
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.vault import Vault
from swarmpy.wire.descriptors import raise_limit
from swarmpy.wire.router import MANAGERS, Router

log = structlog.get_logger(__name__)

READY_TIMEOUT_S = 30.0
_NOT_IN_SWARM = "This node is not part of a swarm"


class Node(NodeFacts):
    """One daemon; implements ``api.backend.NodeBackend``."""

    def __init__(self, config: NodeConfig, clock: Clock, random: Random) -> None:
        super().__init__(config, clock, AuditLog(config.data_dir / AUDIT_FILE, clock))
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
                    await self._resume(known)
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

    def _who_am_i_if_unlocked(self) -> Known | None:
        try:
            return self._who_am_i()
        except SwarmLocked:
            self._gate.close(self._data.load())
            return None

    def _who_am_i(self, unlock_key: UnlockKey | None = None) -> Known | None:
        return who_is_here(self._data, self._random, unlock_key)

    async def _resume(self, known: Known) -> None:
        asked = self._config.runtime
        kind = known.state.runtime if asked in (None, "auto") else asked
        state = await asyncio.to_thread(where_now, self._data, self._config, known.state)
        # A node whose engine is not there yet, or no more, is a member all the same; a manager may be needed.
        runtime = await runtime_for(
            self._config, self._data, state.node_id, state.advertise_address, kind, may_be_away=True
        )
        entry = Entry(state=state, identity=known.identity, runtime=runtime)
        self._start_member(self._new_member(entry, known.vault, manager_hints(self._config)))
        log.info("node_resumed", node=state.node_id, cluster=state.cluster_id, role=known.identity.role.value)

    def _new_member(self, entry: Entry, vault: Vault, hints: tuple[str, ...] = ()) -> Member:
        return Member(
            data=self._data,
            state=entry.state,
            identity=entry.identity,
            runtime=entry.runtime,
            clock=self._clock,
            random=self._random,
            serve_api=self._serve_peers,
            vault=vault,
            founding=entry.founding,
            manager_hints=hints,
            first_snapshot=entry.first_snapshot,
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

    # -- founding, joining, leaving -----------------------------------------------------------------------------------

    async def init(self, request: InitRequest) -> str:
        """Found a cluster, or begin this manager's anew; returns this node's id."""
        if request.force_new_cluster:
            return await self._begin_anew(request)
        async with self._change():
            entry = await by_founding(request, self._config, self._data, self._clock, self._random)
            await self._enter(entry)
            state = entry.state
            log.info("cluster_founded", cluster=state.cluster_id, node=state.node_id, address=state.advertise_address)
            return state.node_id

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
            await self._resume(known)
        assert self._member is not None
        await self._until_ready(self._member)

    async def restore(self, request: RestoreRequest) -> str:
        """Bring a cluster back from a backup; returns this node's id."""
        async with self._change():
            entry = await by_restoring(request, self._config, self._data, self._clock, self._random)
            await self._enter(entry)
            state, snapshot = entry.state, entry.first_snapshot
            assert snapshot is not None, "it was in the backup"
            log.warning("cluster_restored", cluster=state.cluster_id, node=state.node_id, index=snapshot.index)
            return state.node_id

    async def join(self, request: JoinRequest) -> None:
        """Join a cluster; or, as a node of it whose certificate has expired, come back."""
        if self.may_rejoin:
            await self._rejoin(request)
            return
        async with self._change():
            entry = await by_joining(request, self._config, self._data, self._random)
            await self._enter(entry)
            state, role = entry.state, entry.identity.role
            log.info("cluster_joined", cluster=state.cluster_id, node=state.node_id, role=role.value)

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

    async def leave(self, *, force: bool, timeout: float | None = None) -> tuple[str, ...]:
        """Leave the cluster, and forget it."""
        leaving = None if self._member is None else self._member.agent.leaving
        if force and leaving is not None:
            # Somebody waits for its tasks already, and now nobody shall.
            leaving.hurried = True
        async with self._changing:
            if self._gate.waiting is not None:
                await self._leave_locked(self._gate.waiting, force=force)
                return ()
            member = self._member
            if member is None:
                if leaving is not None:
                    return ()  # it left while this one waited for its turn
                raise NotInCluster(_NOT_IN_SWARM)
            if member.role is Role.MANAGER and not force:
                raise NotInCluster(
                    "You are attempting to leave the swarm on a node that is participating as a manager. Removing a "
                    "manager may cost the swarm its quorum: demote it first, or use `--force` to leave all the same."
                )
            lost = await member.leave(at_once=force, timeout=timeout)
            await self._end_member()
            await asyncio.to_thread(self._data.forget_cluster)
            self._error = ""
            log.info("cluster_left", cluster=member.state.cluster_id, node=member.state.node_id)
            return lost

    async def drain(self, *, timeout: float | None = None, undo: bool = False) -> tuple[str, ...]:
        """Have this node's tasks moved away until its daemon is started again; ``undo``: it may have some again."""
        if undo:
            # At once: who waits for the tasks to move hears of it.
            if self._member is None:
                raise NotInCluster(_NOT_IN_SWARM)
            self._member.agent.stay()
            return ()
        async with self._changing:
            member = self._member
            if member is None:
                raise NotInCluster(_NOT_IN_SWARM)
            lost = await member.drain(timeout)
            log.info("node_drained", node=member.state.node_id, lost=lost)
            return lost

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
                await self._resume(known)
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

    async def _enter(self, entry: Entry) -> None:
        is_founding = entry.begins is not None
        # What an attempt that was cut short has left behind belongs to nobody.
        await asyncio.to_thread(self._data.forget_cluster)
        vault = Vault(self._data.path)
        if entry.identity.role is Role.MANAGER:
            await asyncio.to_thread(make_vault, self._data, vault, entry.begins)
        await asyncio.to_thread(save_identity, self._data.path, entry.identity, vault.ring)
        if not is_founding:
            await asyncio.to_thread(self._data.save, entry.state)
        member = self._new_member(entry, vault)
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
            await asyncio.to_thread(self._data.save, entry.state)

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
