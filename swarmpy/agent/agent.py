"""A worker's half of a node: it keeps a session with a manager, its tasks and its data plane.

Tasks and routing never depend on a manager being there: without one, everything goes on as last told.
"""

from __future__ import annotations

import asyncio
import functools

import structlog

from swarmpy.agent.backoff import Backoff
from swarmpy.agent.dependencies import DependencyKeeper
from swarmpy.agent.engine_watch import EngineWatch
from swarmpy.agent.known_cluster import KnownCluster
from swarmpy.agent.known_managers import KnownManagers
from swarmpy.agent.leaving import Leaving, Verdict, default_timeout
from swarmpy.agent.local import LocalState, LocalWriter
from swarmpy.agent.reporter import Reporter
from swarmpy.agent.rest_of_node import RestOfNode
from swarmpy.agent.routing import Routing
from swarmpy.agent.session import Session
from swarmpy.agent.standby import Standby
from swarmpy.agent.subtask import ended
from swarmpy.agent.worker import Worker
from swarmpy.errors import (
    CertificateRevoked,
    ConnectionFailed,
    DeadlineExceeded,
    NodeRemoved,
    NotLeader,
    OutcomeUnknown,
    SwarmpyError,
    Unavailable,
)
from swarmpy.model.assignments import AGENT_LEVEL, EndpointUpdate, SessionRequest
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.images import RegistryImage
from swarmpy.model.objects import NodeDescription, TaskStatus
from swarmpy.model.states import Role
from swarmpy.ports import Channel, Clock, DataPlane, Dialer, Random, Runtime

log = structlog.get_logger(__name__)

DIAL_FIRST_S = 1.0
DIAL_MOST_S = 4.0
"""Most seconds to connect; doubled each time that they are not enough. The network may be slow, or so many agents come
at once that a manager needs seconds for their handshakes: if they gave up and came again it would never end."""
SEARCH_FIRST_S = 0.05
SEARCH_MOST_S = 2.0
"""Seconds between attempts while no manager answers: an election takes about one."""
LEAVING_LOOK_S = 0.1
"""How often a node that is about to leave looks whether its tasks have gone, in seconds."""
REMOVED_STOP_S = 60.0
"""Most seconds that stopping the tasks of a removed node may take."""
REMOVED_RETRY_S = 60.0
"""How often a removed node asks whether it still is."""
NO_MANAGER = (
    "no manager answers: tasks and routing go on unchanged; if the managers have moved, start this node with "
    "--manager-addr and the address of one"
)
"""The problem of a node that has been looking for a while."""
_SILENCE = (ConnectionFailed, DeadlineExceeded, OutcomeUnknown)
"""What says that a manager does not answer, rather than that it wants a new session."""


class Agent:
    """One node's agent. Create it and :meth:`run` it once."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        address: str,
        role: Role,
        dialer: Dialer,
        runtime: Runtime,
        data_plane: DataPlane,
        local: LocalState,
        clock: Clock,
        random: Random,
        rest: RestOfNode,
    ) -> None:
        """``address`` is the one other nodes reach this node at, without a port; ``role`` the present one."""
        self._node_id = node_id
        self._address = address
        self._dialer = dialer
        self._runtime = runtime
        self._data_plane = data_plane
        self._local = local
        self._clock = clock
        self._random = random
        self._rest = rest
        self._writer = LocalWriter(local, random)
        self._reporter = Reporter(random)
        self._routing = Routing(data_plane, random, self._writer)
        self._dependencies = DependencyKeeper()
        self._worker = Worker(runtime, clock, random, self._writer, self._reporter, self._dependencies)
        self._managers = KnownManagers(rest.seeds, random, clock)
        self.cluster = KnownCluster(node_id, role, self._managers, self._writer, rest)
        self._search = Backoff(random, first=SEARCH_FIRST_S, most=SEARCH_MOST_S)
        self._standby = Standby(
            dialer=dialer, random=random, check=self.cluster.check_manager, other=self._other_manager
        )
        self._patience = Backoff(random, first=DIAL_FIRST_S, most=DIAL_MOST_S)
        self._stale = asyncio.Event()
        self._engine = EngineWatch(runtime, clock, random, reconcile=self._worker.reconcile, changed=self._stale.set)
        self._manager = ""
        self._group: asyncio.TaskGroup | None = None
        self.removal = ""
        """Why this node is no member any more; "" while it is one."""
        self.connected = asyncio.Event()
        """Set when the first session is open."""
        self.leaving: Leaving | None = None
        """Set while this node is about to leave the cluster."""
        self._opened_at = 0.0
        self._silence_told = False

    def renewed(self) -> None:
        """This node shows another certificate, or trusts other root CAs: what it keeps was made before."""
        if self._group is not None:
            self._group.create_task(self._standby.clear(), name="agent-renewed")

    def _other_manager(self) -> str | None:
        return self._managers.other_than(self._manager) if self._manager else None

    @property
    def manager(self) -> str:
        """``host:port`` of the manager this node has a session with, or ""."""
        return self._manager

    @property
    def description(self) -> NodeDescription:
        """Machine and engine, as last seen."""
        return self._engine.description

    def known_managers(self) -> tuple[str, ...]:
        """``host:port`` of the managers, as last told."""
        return self._managers.learned

    async def supersede(self, incarnation: int, address: str) -> None:
        """The cluster was begun anew without this node's manager half, which is gone by now; it is led at ``address``.

        Leaders of an earlier incarnation count no more; the next session's manager says what this node is to be.
        """
        await self.cluster.supersede(incarnation, address)
        self._stale.set()

    async def move_away(self, timeout: float | None = None) -> Verdict:
        """Have the leader move this node's tasks away, as it is about to leave; return when they have gone, or why not.

        ``timeout``: most seconds to wait; None: what the tasks need to stop, and some. Until :meth:`stay` the node goes
        on leaving, and gets no task any more.
        """
        if self.removal:
            return Verdict.NO_MANAGER
        now = self._clock.monotonic()
        most = default_timeout(self._worker.tasks) if timeout is None else timeout
        leaving = self.leaving = Leaving(now, most)
        self._routing.news.set()
        while self.leaving is leaving:
            running = sum(not status.state.is_terminal for status in self._worker.statuses.values())
            verdict = leaving.verdict(self._clock.monotonic(), in_session=bool(self._manager), running=running)
            if verdict is not Verdict.WAIT:
                return verdict
            await asyncio.sleep(LEAVING_LOOK_S)
        return Verdict.RECALLED

    def stay(self) -> None:
        """This node does not leave after all."""
        self.leaving = None
        self._routing.news.set()

    async def drain(self) -> None:
        """Bring to an end what the routing mesh forwards, and take no new connections: this node is about to stop."""
        await self._data_plane.drain()

    async def retire(self, timeout: float) -> None:
        """Stop and remove all tasks of this node, which is leaving; at most ``timeout`` seconds."""
        await self._worker.clear(timeout)

    @property
    def statuses(self) -> dict[TaskId, TaskStatus]:
        """The last observed status of each task on this node."""
        return self._worker.statuses

    async def find_image(self, image: str, auth: bytes) -> RegistryImage:
        """What the registry of an image says of it. Raises as ``ports.Runtime.find_image``."""
        return await self._runtime.find_image(image, auth)

    @property
    def held_dependencies(self) -> frozenset[str]:
        """The ids of the secrets and configs that are in this agent's memory."""
        return self._dependencies.held

    @property
    def applied_endpoints_version(self) -> int:
        """The version of the session's endpoint table that is in force; 0: none of this session."""
        return self._routing.applied_version

    def problems(self) -> tuple[str, ...]:
        """What does not work on this node, one line each."""
        own = (self.removal, self._engine.problem, NO_MANAGER if self._silence_told else "")
        return (*self._routing.problems(), *(problem for problem in own if problem), *self._rest.problems())

    async def run(self) -> None:
        """Run until cancelled. Tasks are left to what the runtime does with them when it is closed.

        Closes the runtime, the data plane and the local state. Raises DataDirMismatch and StorageError of the latter.
        """
        try:
            remembered = await self._local.load()
            self.cluster.restore(remembered)
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._writer.run(), name="agent-local-state")
                self._routing.restore(remembered.endpoints)
                group.create_task(self._routing.run(), name="agent-routing")
                await self._engine.open()
                group.create_task(self._worker.run(remembered.tasks), name="agent-worker")
                await self._worker.adopted.wait()
                group.create_task(self._engine.run(), name="agent-engine")
                group.create_task(self._standby.run(), name="agent-standby")
                await self._keep_session()
        finally:
            self._group = None
            await self._close()

    async def _close(self) -> None:
        await self._standby.clear()
        try:
            await self._runtime.close()
        finally:
            try:
                await self._data_plane.close()
            finally:
                await self._local.close()

    # -- the managers -----------------------------------------------------------------------------------------------

    async def _keep_session(self) -> None:
        while True:
            address = self._managers.next()
            error = await self._session(address) if address is not None else Unavailable("no manager is known")
            if self._manager:
                self._session_lost(error)
            if isinstance(error, NotLeader) and self._managers.redirect(error.leader):
                continue
            if isinstance(error, NodeRemoved):
                await self._end_as_removed(error)
                continue
            if isinstance(error, CertificateRevoked):
                self._rest.on_revoked()
            log.debug("no_session", manager=address, reason=str(error))
            await asyncio.sleep(self._search.wait())
            if self._managers.round_is_over:
                self._lengthen_search(error)

    async def _end_as_removed(self, error: NodeRemoved) -> None:
        # Others run its tasks by now. It stays reachable for its operator, who has to make it leave.
        if not self.removal:
            log.error("node_removed", node=self._node_id, consequence="its tasks are stopped", remedy="swarm leave")
            self.removal = str(error)
            self._routing.receive(EndpointUpdate(version=1))
            await self.retire(REMOVED_STOP_S)
        await asyncio.sleep(self._random.uniform(REMOVED_RETRY_S / 2, REMOVED_RETRY_S))

    async def _session(self, address: str) -> SwarmpyError:
        """A session with the manager at ``address``; returns why it is over or was not to be."""
        kept = await self._standby.take(address)
        if kept is not None:
            error = await self._session_over(address, kept)
            if self._manager or not isinstance(error, ConnectionFailed):
                return error
        began, timeout = self._clock.monotonic(), self._patience.bound
        try:
            channel = await self._dialer.dial(address, timeout=timeout)
        except SwarmpyError as error:
            if isinstance(error, ConnectionFailed):
                self._managers.unreachable(address)
                if self._clock.monotonic() - began >= timeout:
                    self._patience.grow()
            return error
        return await self._session_over(address, channel)

    async def _session_over(self, address: str, channel: Channel) -> SwarmpyError:
        self._stale.clear()
        session = Session(
            channel,
            SessionRequest(
                description=self._engine.description,
                address=self._address,
                incarnation=self.cluster.incarnation,
                roots=self._rest.roots(),
                level=AGENT_LEVEL,
            ),
            worker=self._worker,
            routing=self._routing,
            reporter=self._reporter,
            dependencies=self._dependencies,
            problems=self.problems,
            engine_away=lambda: bool(self._engine.problem),
            leaving=lambda: self.leaving,
            admit=functools.partial(self.cluster.admit, address),
            on_message=self.cluster.hear,
            stale=self._stale,
            read_log=self._worker.logs,
        )
        running = asyncio.create_task(session.run(lambda: self._session_opened(address)), name="agent-session")
        over: BaseException | None = None
        try:
            await ended(running)
            over = running.exception()
            assert over is not None, "a session ends with a reason"
        finally:
            # Not after a session, in which this node may have heard that this manager is none any more.
            if isinstance(over, NotLeader) and not self._manager:
                await self._standby.keep(address, channel)
            else:
                await channel.close()
        if isinstance(over, SwarmpyError):
            return over
        raise over

    def _session_opened(self, address: str) -> None:
        log.info("session_opened", node=self._node_id, manager=address)
        self._manager = address
        self.connected.set()
        self._opened_at = self._clock.monotonic()
        self._patience.reset()
        if self._group is not None:
            self._group.create_task(self._standby.keep_one(), name="agent-keep-one")
        self._silence_told = False

    def _session_lost(self, error: SwarmpyError) -> None:
        log.warning("session_lost", manager=self._manager, reason=str(error))
        self._managers.lost(self._manager, reachable=not isinstance(error, _SILENCE), first=self._standby.latest)
        self._manager = ""
        # A session that ends as soon as it is open must not be tried at full speed for ever.
        if self._clock.monotonic() - self._opened_at >= SEARCH_MOST_S:
            self._search.reset()
        else:
            self._search.grow()

    def _lengthen_search(self, error: SwarmpyError) -> None:
        self._search.grow()
        if self._search.bound >= SEARCH_MOST_S and not self._silence_told:
            log.warning("no_manager_answers", reason=str(error), consequence="tasks and routing go on unchanged")
            self._silence_told = True
