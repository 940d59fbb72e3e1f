"""The leader's side of the sessions with all agents.

It tells each node its tasks and the endpoint table, learns their states, and decides that a node that has been silent
for three heartbeats is down. It never decides what should run where.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

import structlog

from swarmpy.control.leaving import departure
from swarmpy.errors import FailedPrecondition, NotLeader, PermissionDenied, Unavailable
from swarmpy.manager import claims, node_records
from swarmpy.manager.agent_session import Session
from swarmpy.manager.assignments import STOP_WAIT_S, StopGate, is_report, touches_routing
from swarmpy.manager.dependencies import Deliveries
from swarmpy.manager.events import drain
from swarmpy.manager.log_broker import LogBroker
from swarmpy.manager.messages import Messages, rejections
from swarmpy.manager.silence import Silence
from swarmpy.manager.statuses import StatusBuffer, is_edit
from swarmpy.manager.trust import Orders
from swarmpy.model import codec
from swarmpy.model.assignments import (
    AGENT_LEVEL,
    BEAT_S,
    Departure,
    Heartbeat,
    HeartbeatReply,
    ManagerAddress,
    SessionRequest,
    StatusReport,
)
from swarmpy.model.dependencies import DependenciesRequest
from swarmpy.model.ids import NodeId, encode_id
from swarmpy.model.logs import LogBatch
from swarmpy.model.objects import Kind, Task
from swarmpy.model.rates import Buckets, Rate
from swarmpy.model.states import NodeState, Role, TaskState
from swarmpy.network.endpoints import EndpointTable, ingress_table
from swarmpy.ports import Clock, Peer, Random
from swarmpy.store.memory import Store
from swarmpy.store.watch import Event, Resync, Watch
from swarmpy.wire.bounded_log import BoundedLog
from swarmpy.wire.router import MAX_NODES

log = structlog.get_logger(__name__)

EDITS = Rate(burst=1000, per_s=10.0)
"""How often one node may say something else of a task that has come no further: each is a write."""
COMPLAINTS = Rate(burst=10, per_s=0.5)
"""How often what does not work on one node is written down."""
DEPARTURES = Rate(burst=8, per_s=1 / BEAT_S)
"""How often it is looked at how far a node is that leaves: at all tasks of its services."""
JITTER = 0.1
"""Heartbeat periods vary by this share, so that agents do not call in step."""
BEGIN_S = 1.0
"""Most seconds that an agent waits for a term to begin: it ended before, if that takes longer."""
COLLECT_S = 0.01
"""Seconds to wait after a change for others that belong to it."""
CHECK_S = 0.2
"""How late it may be noticed that a node is silent for too long, or that a task need be held no more, in seconds."""


class Dispatcher:
    """One term of office. Create it when leadership begins, :meth:`run` it, drop it when it ends."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        random: Random,
        managers: Callable[[], tuple[ManagerAddress, ...]],
        orders: Callable[[NodeId], Orders | None] = lambda _: None,
    ) -> None:
        """``orders``: what a node is to be told about root CAs, when it is its turn."""
        self._store = store
        self._clock = clock
        self._random = random
        self._sessions: dict[NodeId, Session] = {}
        self._silence = Silence(store, clock)
        self._table = EndpointTable()
        self._gate = StopGate()
        self._statuses = StatusBuffer(store, clock)
        self._bounded = BoundedLog(clock.monotonic)
        self._deliveries = Deliveries(store, clock, self._bounded)
        self.logs = LogBroker(store, clock, random, level=self._level_of, wake=self.wake)
        self._messages = Messages(
            gate=self._gate,
            table=self._table,
            logs=self.logs,
            managers=managers,
            orders=orders,
            period_ns=self._jittered_period_ns,
        )
        self._edits: Buckets[NodeId] = Buckets(EDITS, most=MAX_NODES)
        self._updates = claims.ReportedStatuses()
        self._complaints: Buckets[NodeId] = Buckets(COMPLAINTS, most=MAX_NODES)
        self._departures: Buckets[NodeId] = Buckets(DEPARTURES, most=MAX_NODES)
        self._begun = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        """Serve until cancelled; then every session ends and agents look for the new leader."""
        try:
            with self._store.watch() as watch:
                self._begin()
                self._begun.set()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._follow(watch), name="dispatcher-follow")
                    group.create_task(self._check(), name="dispatcher-check")
                    group.create_task(self._statuses.run(), name="dispatcher-statuses")
        finally:
            self._ended = True
            self._begun.set()
            for session in self._sessions.values():
                session.closed = True
                session.wake.set()

    def managers_changed(self) -> None:
        """The list of managers is another: tell every agent."""
        self.wake(self._sessions)

    def wake(self, node_ids: Iterable[NodeId]) -> None:
        """There may be something to tell these nodes."""
        for node_id in node_ids:
            if (session := self._sessions.get(node_id)) is not None:
                session.wake.set()

    # -- calls of agents ----------------------------------------------------------------------------------------------

    async def session(self, peer: Peer, payload: Any) -> AsyncGenerator[Any, None]:
        """``dispatcher.session``: a stream of :class:`SessionMessage`."""
        request = codec.from_plain(SessionRequest, payload, most=claims.MAX_SESSION_VALUES)
        claims.check_description(request.description)
        claims.check_address(request.address, peer)
        session = await self._open(peer, request)
        try:
            while not session.closed:
                session.wake.clear()
                if session.level < AGENT_LEVEL:
                    await self._reject_unfit(session)
                message = self._messages.next(self._store.view(), session)
                if message is not None:
                    yield codec.to_plain(message)
                    await asyncio.sleep(0)
                if message is None or not session.told.is_behind:
                    await session.wake.wait()
            if self._ended:
                raise NotLeader
        finally:
            if self._sessions.get(session.node_id) is session:
                del self._sessions[session.node_id]
                self._release()

    async def heartbeat(self, peer: Peer, payload: Any) -> Any:
        """``dispatcher.heartbeat``: a :class:`Heartbeat` for a :class:`HeartbeatReply`."""
        beat = codec.from_plain(Heartbeat, payload, most=claims.MAX_HEARTBEAT_VALUES)
        session = self._session_of(peer, beat.session_id)
        self._silence.heard(session.node_id)
        session.endpoints_applied = max(session.endpoints_applied, beat.endpoints_version)
        self._release()
        await self._record_problems(session.node_id, beat)
        told = session.departure = self._departure_of(session) if beat.leaving else None
        return codec.to_plain(HeartbeatReply(period_ns=self._jittered_period_ns(), departure=told))

    def _departure_of(self, session: Session) -> Departure | None:
        view, now = self._store.view(), self._clock.monotonic()
        if not node_records.empties(view):
            return None
        if self._departures.of(session.node_id, now).take(now):
            return departure(view, session.node_id)
        return session.departure or Departure(begun=False)

    async def report(self, peer: Peer, payload: Any) -> Any:
        """``dispatcher.report``: a :class:`StatusReport`; answered when committed.

        What it says of tasks that are not the node's counts for nothing. Raises Unavailable for a node that says too
        much, or goes on saying something else of tasks that do not come any further.
        """
        self._updates.count(_node_of(peer), payload, self._clock.monotonic())
        report = codec.from_plain(StatusReport, payload, most=claims.MAX_REPORT_VALUES)
        node_id = self._session_of(peer, report.session_id).node_id
        view, now = self._store.view(), self._clock.monotonic()
        node = view.node(node_id)
        told = claims.statuses(view, node_id, node.status.address if node is not None else "", report.updates)
        edits = sum(1 for task, update in told if is_edit(task, update.status))
        if edits:
            bucket = self._edits.of(node_id, now)
            if wait_s := bucket.wait_s(now):
                raise Unavailable(
                    f"node {node_id} changes what it says of its tasks too often: again in {wait_s:.1f} s"
                )
            bucket.owe(now, edits)
        if told:
            await self._statuses.add(node_id, [update for _, update in told])
        return None

    async def dependencies(self, peer: Peer, payload: Any) -> Any:
        """``dispatcher.dependencies``: a :class:`DependenciesRequest` for a :class:`DependenciesReply`.

        Raises as :meth:`Deliveries.answer`.
        """
        request = codec.from_plain(DependenciesRequest, payload, most=claims.MAX_REQUEST_VALUES)
        node_id = self._session_of(peer, request.session_id).node_id
        return codec.to_plain(self._deliveries.answer(node_id, request))

    async def log(self, peer: Peer, payload: Any) -> Any:
        """``dispatcher.log``: a :class:`LogBatch` for a :class:`LogBatchReply`. Raises as :meth:`LogBroker.publish`."""
        batch = codec.from_plain(LogBatch, payload, most=claims.MAX_REQUEST_VALUES)
        node_id = self._session_of(peer, batch.session_id).node_id
        return codec.to_plain(await self.logs.publish(node_id, batch, limited=peer.role is Role.WORKER))

    def _level_of(self, node_id: NodeId) -> int | None:
        session = self._sessions.get(node_id)
        return None if session is None else session.level

    def _session_of(self, peer: Peer, session_id: str) -> Session:
        session = self._sessions.get(_node_of(peer))
        if session is None or session.id != session_id:
            raise FailedPrecondition("this session has ended: open a new one")
        return session

    async def _open(self, peer: Peer, request: SessionRequest) -> Session:
        node_id = _node_of(peer)
        # Before that there is no table, and a node that is told so would let go of all its ports.
        try:
            async with asyncio.timeout(BEGIN_S):
                await self._begun.wait()
        except TimeoutError:
            raise NotLeader from None

        session = Session(encode_id(self._random.randbytes(16)), node_id, request.level)
        await self._store.update(lambda tx: node_records.register(tx, peer, node_id, request))
        if self._ended:
            raise NotLeader
        previous = self._sessions.get(node_id)
        if previous is not None:
            previous.closed = True
            previous.wake.set()
        self._sessions[node_id] = session
        self._silence.heard(node_id)
        self._bounded.tell(log.info, "session_opened", node_id, node=node_id, address=request.address)
        return session

    # -- what to tell -------------------------------------------------------------------------------------------------

    async def _reject_unfit(self, session: Session) -> None:
        updates = rejections(self._store.view(), session, self._clock.time_ns())
        if not updates:
            return
        try:
            await self._statuses.add(session.node_id, updates)
        except Unavailable as error:
            log.debug("unfit_tasks_not_rejected", node=session.node_id, reason=str(error))

    def _begin(self) -> None:
        now = self._clock.monotonic()
        view = self._store.view()
        self._table.replace(ingress_table(view))
        self._silence.expect_all()
        for task in view.tasks():
            if not task.desired_state.is_wanted:
                self._gate.hold(task, version=self._table.version, now=now)

    async def _follow(self, watch: Watch) -> None:
        while await watch.wait():
            await asyncio.sleep(COLLECT_S)
            events = drain(watch)
            if any(touches_routing(event) for event in events):
                self._table.replace(ingress_table(self._store.view()))
            self.wake(sorted(self._affected(events)))
            for session in self._sessions.values():
                if session.endpoints_sent != self._table.version:
                    session.wake.set()
            self._release()

    def _affected(self, events: Sequence[Event | Resync]) -> set[NodeId]:
        """The nodes whose assignments may have changed; on the way, tasks that must stop are held."""
        now = self._clock.monotonic()
        affected: set[NodeId] = set()
        for event in events:
            if isinstance(event, Resync) or event.kind == Kind.CLUSTER:
                affected.update(self._sessions)
            elif event.kind == Kind.NODE:
                affected.add(NodeId(event.id))
                self._forget_if_gone(NodeId(event.id))
            elif isinstance(event.object, Task):
                task = event.object
                if task.node_id is not None and not is_report(event.old, task):
                    affected.add(task.node_id)
                if task.status.state > TaskState.RUNNING:
                    self._gate.forget(task.id)
                elif not task.desired_state.is_wanted:
                    self._gate.hold(task, version=self._table.version, now=now)
            elif isinstance(event.old, Task):
                self._gate.forget(event.old.id)
                if event.old.node_id is not None:
                    affected.add(event.old.node_id)
        return affected

    def _forget_if_gone(self, node_id: NodeId) -> None:
        # Not by the event: the node may have come back since.
        node = self._store.view().node(node_id)
        if node is None or node.status.state is NodeState.DOWN:
            self._silence.forget(node_id)

    def _release(self) -> None:
        if not self._gate.is_holding:
            return
        applied = [session.endpoints_applied for session in self._sessions.values()]
        if not self._silence.expected <= self._sessions.keys():
            # Somebody is there who has not found this leader yet, or is just finding it again: he routes by what he
            # was told last.
            applied.append(0)
        view = self._store.view()
        for task_id in self._gate.release(applied, self._clock.monotonic()):
            task = view.task(task_id)
            if task is not None and task.node_id in self._sessions:
                self._sessions[task.node_id].wake.set()

    # -- liveness -----------------------------------------------------------------------------------------------------

    def _jittered_period_ns(self) -> int:
        return int(self._silence.period_s * self._random.uniform(1 - JITTER, 1 + JITTER) * 1e9)

    async def _check(self) -> None:
        while True:
            await self._silence.sleep(self._pause())
            self._release()
            silent = self._silence.too_long()
            if not silent:
                continue
            try:
                await self._store.update(lambda tx, silent=silent: node_records.mark_down(tx, silent))  # type: ignore[misc]
            except Unavailable as error:
                log.debug("nodes_not_marked_down", reason=str(error))
                continue
            for node_id in silent:
                log.warning("node_down", node=node_id)
                self._silence.forget(node_id)
                if (session := self._sessions.get(node_id)) is not None:
                    session.closed = True
                    session.wake.set()

    def _pause(self) -> float:
        """Seconds in which no node can become silent for too long, and no task held until its time is over."""
        if self._gate.is_holding:
            return CHECK_S
        earliest = self._silence.next_in(otherwise=STOP_WAIT_S)
        # Whoever comes meanwhile has whole grace periods, and what is held meanwhile STOP_WAIT_S.
        return max(CHECK_S, min(earliest, self._silence.period_s, STOP_WAIT_S / 2))

    async def _record_problems(self, node_id: NodeId, beat: Heartbeat) -> None:
        if node_records.says_more(self._store.view(), node_id, beat):
            now = self._clock.monotonic()
            # One that finds new words each time has to wait: the next heartbeat tells what is so then.
            if self._complaints.of(node_id, now).take(now):
                await self._store.update(lambda tx: node_records.note(tx, node_id, beat))


def _node_of(peer: Peer) -> NodeId:
    if peer.node_id is None:
        raise PermissionDenied("only a member of the cluster has a session")
    return peer.node_id
