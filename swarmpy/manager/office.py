"""The leader's work: what runs on a manager from the moment it leads until it leads no more, and what only it answers.

It starts and stops in one place, as one task group per term of office: when any part of it fails, the whole term ends
and another manager takes over, rather than a leader limping on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog

from swarmpy.errors import NoQuorum, NotLeader, SwarmpyError
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.events import drain
from swarmpy.manager.incarnations import Incarnations
from swarmpy.manager.membership import Membership
from swarmpy.manager.reconcile import Reconciler
from swarmpy.manager.rotation import RootRotator
from swarmpy.manager.schema import SchemaRaiser
from swarmpy.model import codec
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.ids import NodeId
from swarmpy.model.logs import LogQuestion
from swarmpy.model.objects import Kind
from swarmpy.model.rates import Rate
from swarmpy.ports import Clock, Peer, Random
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.status import RaftStatus
from swarmpy.store.memory import Store
from swarmpy.wire.router import MANAGERS, MEMBERS, Router

log = structlog.get_logger(__name__)

SELDOM = Rate(burst=20, per_s=1.0)
"""Of one worker: sessions, certificates and farewells. Each may cost a signature and a write."""
OFTEN = Rate(burst=500, per_s=100.0)
"""Of one worker: heartbeats, reports, questions for secrets. An agent waits for the answer to one before the next."""
OFFICE_RETRY_S = 1.0
"""Seconds between a term of office that failed and the next try."""
WRITE_RETRY_S = 0.1
"""The same where a leader could not write for the moment: it is handing over, or too much is in flight."""
ELECTION_S = 0.5
"""Most seconds that an agent which asks for a session is kept waiting while nobody leads: mostly it takes less."""


class Office:
    """Create it, :meth:`run` it for as long as the manager runs."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        store: Store,
        raft: RaftDriver,
        clock: Clock,
        random: Random,
        membership: Membership,
        schema: SchemaRaiser,
        incarnations: Incarnations,
        managers: Callable[[], tuple[ManagerAddress, ...]],
        reachable_managers: Callable[[], dict[str, bool | None]],
        on_change: Callable[[], None],
    ) -> None:
        """``managers``: where they listen; ``on_change`` is called when a term of office has begun or ended."""
        self._node_id = node_id
        self._store = store
        self._raft = raft
        self._clock = clock
        self._random = random
        self._membership = membership
        self._schema = schema
        self._incarnations = incarnations
        self._managers = managers
        self._reachable_managers = reachable_managers
        self._on_change = on_change
        self._is_held = False
        self._changed = asyncio.Event()
        self.dispatcher: Dispatcher | None = None
        """Of this term; None while this manager does not lead."""
        raft.subscribe(self._on_raft_status)

    def register_calls(self, router: Router) -> None:
        """Answer what only a leader can: agents' sessions and reports, and logs."""
        router.stream("dispatcher.session", self._session, MEMBERS, SELDOM)
        router.call("dispatcher.heartbeat", self._heartbeat, MEMBERS, OFTEN)
        router.call("dispatcher.report", self._report, MEMBERS, OFTEN)
        router.call("dispatcher.dependencies", self._dependencies, MEMBERS, OFTEN)
        router.call("dispatcher.log", self._log, MEMBERS, OFTEN)
        router.call("logs.open", self._open_logs, MANAGERS)
        router.call("logs.more", self._more_logs, MANAGERS)
        router.call("logs.close", self._close_logs, MANAGERS)

    @property
    def is_leader(self) -> bool:
        """True when this manager leads and has applied everything committed before its term."""
        return self._is_held and self._raft.is_leader_ready

    def require_leader(self) -> None:
        """Raises NotLeader, with the leader's address where another one is known."""
        if not self.is_leader:
            leader = self._raft.status().leader
            raise NotLeader(leader=leader.address if leader and leader.node_id != self._node_id else "")

    async def run(self) -> None:
        """Do the leader's work whenever this manager leads, until cancelled."""
        while True:
            while not self._raft.is_leader_ready:
                self._changed.clear()
                await self._changed.wait()
            term = self._raft.status().term
            self._store.set_proposer(self._raft)
            self._is_held = True
            self._on_change()
            log.info("leadership_begins", node=self._node_id, term=term)
            work = asyncio.create_task(self._work(), name="manager-office")
            work.add_done_callback(lambda _: self._changed.set())
            try:
                while self._leads_in(term) and not work.done():
                    self._changed.clear()
                    await self._changed.wait()
            finally:
                self._is_held = False
                self._store.set_proposer(None)
                self.dispatcher = None
                work.cancel()
                await asyncio.wait([work])
                self._on_change()
                log.info("leadership_ends", node=self._node_id, term=term)
            await self._after(work)

    def _leads_in(self, term: int) -> bool:
        return self.is_leader and self._raft.status().term == term

    async def _work(self) -> None:
        # The first leader has no cluster object before ``swarm init`` has written it.
        await wait_cluster(self._store)
        rotator = RootRotator(
            store=self._store, clock=self._clock, random=self._random, managers=self._reachable_managers
        )
        dispatcher = Dispatcher(
            store=self._store,
            clock=self._clock,
            random=self._random,
            managers=self._managers,
            orders=rotator.orders,
        )
        self.dispatcher = dispatcher
        self._changed.set()
        reconciler = Reconciler(store=self._store, clock=self._clock, random=self._random)
        async with asyncio.TaskGroup() as group:
            group.create_task(dispatcher.run(), name="dispatcher")
            group.create_task(reconciler.run(), name="reconciler")
            group.create_task(self._membership.run(), name="membership")
            group.create_task(self._schema.run(), name="schema")
            group.create_task(self._incarnations.run(), name="incarnations")
            group.create_task(rotator.run(dispatcher.wake), name="root-rotation")

    async def _after(self, work: asyncio.Task[None]) -> None:
        if work.cancelled() or (error := work.exception()) is None:
            return
        if _only_lost_leadership(error):
            if self._raft.is_leader_ready:
                await asyncio.sleep(WRITE_RETRY_S)
            return
        log.error("leadership_failed", node=self._node_id, exc_info=error)
        if self._raft.is_leader_ready:
            try:
                await self._raft.transfer_leadership(None, timeout=2.0)
            except SwarmpyError as refused:
                log.warning("leadership_not_transferred", reason=str(refused))
        await asyncio.sleep(OFFICE_RETRY_S)

    def _on_raft_status(self, _status: RaftStatus) -> None:
        self._changed.set()
        if self.dispatcher is not None:
            self.dispatcher.managers_changed()

    # -- what only a leader answers -----------------------------------------------------------------------------------

    def _leading_dispatcher(self) -> Dispatcher:
        self.require_leader()
        if self.dispatcher is None:
            raise NotLeader
        return self.dispatcher

    async def _heartbeat(self, peer: Peer, payload: Any) -> Any:
        return await self._leading_dispatcher().heartbeat(peer, payload)

    async def _report(self, peer: Peer, payload: Any) -> Any:
        return await self._leading_dispatcher().report(peer, payload)

    async def _dependencies(self, peer: Peer, payload: Any) -> Any:
        return await self._leading_dispatcher().dependencies(peer, payload)

    async def _log(self, peer: Peer, payload: Any) -> Any:
        return await self._leading_dispatcher().log(peer, payload)

    async def _open_logs(self, _peer: Peer, payload: Any) -> Any:
        return self._leading_dispatcher().logs.open(codec.from_plain(LogQuestion, payload))

    async def _more_logs(self, _peer: Peer, payload: Any) -> Any:
        return codec.to_plain(await self._leading_dispatcher().logs.more(str(payload)))

    async def _close_logs(self, _peer: Peer, payload: Any) -> Any:
        self._leading_dispatcher().logs.close(str(payload))

    def _knows_whom_to_ask(self) -> bool:
        leader = self._raft.status().leader
        return leader is not None and (
            leader.node_id != self._node_id or (self.is_leader and self.dispatcher is not None)
        )

    async def _session(self, peer: Peer, payload: Any) -> AsyncIterator[Any]:
        # Who has lost its leader is told of the next one as soon as there is one: asking again and again costs more.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ELECTION_S):
                while not self._knows_whom_to_ask():
                    self._changed.clear()
                    await self._changed.wait()
        # Closed here and now: a session that lingers until it is collected holds stops back.
        async with contextlib.aclosing(self._leading_dispatcher().session(peer, payload)) as messages:
            async for message in messages:
                yield message


async def wait_cluster(store: Store) -> None:
    """Return when ``store`` has any state of the cluster."""
    with store.watch({Kind.CLUSTER}) as watch:
        while store.cluster is None:
            await watch.wait()
            drain(watch)


def _only_lost_leadership(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_lost_leadership(e) for e in error.exceptions)
    return isinstance(error, (NotLeader, NoQuorum)) or (isinstance(error, SwarmpyError) and error.http_status == 503)
