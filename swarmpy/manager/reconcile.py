"""The leader's control loop: looks at the store, asks ``control`` what to do, writes it back.

Level-triggered: events only say where to look. Whatever was missed (a lost race, a change of leader) is decided again
from the state itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from swarmpy.control import allocator, enforcer, nodes, orchestrator, reaper
from swarmpy.control.decision import Decision
from swarmpy.control.waiting import Waits
from swarmpy.errors import AlreadyExists, NotFound, VersionConflict
from swarmpy.manager.events import drain
from swarmpy.manager.following import Following
from swarmpy.manager.placing import KINDS, Placing
from swarmpy.model.ids import NodeId, ServiceId, encode_id
from swarmpy.model.objects import Cluster, Kind, Node, Task
from swarmpy.ports import Clock, Random
from swarmpy.store.memory import Store
from swarmpy.store.watch import Event, Resync, Watch

log = structlog.get_logger(__name__)

COLLECT_S = 0.01
"""Seconds to wait after a change for others that belong to it."""
MAX_WRITE = 200
"""Most changes of one log entry (swarmkit's bound for its batches)."""
REST = 3
"""A service is left alone for so many times as long as it took to decide on it. One of tens of thousands of tasks takes
a tenth of a second, and each of their reports would have it decided on once more."""
MAX_ROUNDS = 50
"""Rounds of deciding without a pause before it is said that decisions do not settle."""


class Reconciler:
    """One term of office."""

    def __init__(self, *, store: Store, clock: Clock, random: Random) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._dirty: set[ServiceId] = set()
        self._changed_nodes: set[NodeId] = set()
        self._holding: dict[ServiceId, set[NodeId]] = {}
        """Nodes with tasks that are to leave them when their service may miss them."""
        self._waits: dict[ServiceId, Waits] = {}
        self._wake_at: dict[ServiceId, float] = {}
        self._rests_until: dict[ServiceId, float] = {}
        self._following = Following(store)
        self._placing: Placing

    async def run(self) -> None:
        """Decide until cancelled."""
        with self._store.watch() as watch, self._store.watch(KINDS) as followed:
            self._placing = Placing(self._store, followed, self._clock)
            self._mark_all()
            while True:
                await self._settle(watch)
                await self._wait(watch)

    # -- what to look at ----------------------------------------------------------------------------------------------

    async def _wait(self, watch: Watch) -> None:
        """Return when something has changed, or when a decision asked to be made again."""
        dues = [*self._wake_at.values(), *([] if self._placing.due is None else [self._placing.due])]
        due = min(dues, default=None)
        timeout = None if due is None else max(0.0, due - self._clock.monotonic())
        if await watch.wait(timeout):
            await asyncio.sleep(COLLECT_S)
        self._mark(drain(watch))

    def _mark_all(self) -> None:
        self._dirty.update(ServiceId(service_id) for service_id in self._store.view().service_ids())
        self._changed_nodes.update(node.id for node in self._store.view().nodes())
        self._following.mark_all()

    def _mark(self, events: Sequence[Event | Resync]) -> None:
        for event in events:
            if isinstance(event, Resync):
                self._mark_all()
                continue
            self._following.mark(event)
            if event.kind == Kind.CLUSTER:
                if _changes_decisions(event):
                    self._mark_all()
            elif event.kind == Kind.NODE:
                if _moves_tasks(event):
                    self._changed_nodes.add(NodeId(event.id))
                    self._dirty.update(nodes.affected_services(self._store.view(), NodeId(event.id)))
            elif event.kind == Kind.SERVICE:
                self._mark_service(ServiceId(event.id))
            elif isinstance(task := event.object or event.old, Task):
                self._mark_service(task.service_id)
        now = self._clock.monotonic()
        self._dirty.update(service_id for service_id, at in self._wake_at.items() if at <= now)

    def _mark_service(self, service_id: ServiceId) -> None:
        self._dirty.add(service_id)
        self._changed_nodes |= self._holding.pop(service_id, set())

    # -- deciding -----------------------------------------------------------------------------------------------------

    async def _settle(self, watch: Watch) -> None:
        """Decide until nothing is left to do."""
        for round_number in range(1, MAX_ROUNDS + 1):
            written = 0
            written += await self._following.settle()
            dirty, self._dirty = sorted(self._dirty), set()
            written += await self._apply(nodes.decide(self._store.view(), self._clock.time_ns()))
            written += await self._enforce()
            for service_id in dirty:
                if self._rests(service_id):
                    continue
                written += await self._settle_service(service_id)
                # Of thousands of services most need nothing, and nothing would be waited for.
                await asyncio.sleep(0)
            written += await self._apply(allocator.decide(self._store.view(), dirty))
            written += await self._placing.settle(self._apply)
            self._mark(drain(watch))
            if not written and not self._dirty:
                return
            if round_number == MAX_ROUNDS:
                log.warning("decisions_do_not_settle", services=sorted(self._dirty), written=written)

    async def _enforce(self) -> int:
        """Have the tasks replaced, or shut down, that changed nodes are no place for any more."""
        changed, self._changed_nodes = sorted(self._changed_nodes), set()
        written = 0
        for node_id in changed:
            decision = enforcer.decide(self._store.view(), (node_id,), self._clock.time_ns())
            if not decision.is_empty:
                log.info("tasks_misplaced", node=node_id, tasks=len(decision.changes))
                evicted = await self._apply(decision)
                written += evicted
                if evicted < len(decision.changes):
                    self._changed_nodes.add(node_id)
            for task in filter(enforcer.is_held_up, self._store.view().tasks_on_node(node_id)):
                self._holding.setdefault(task.service_id, set()).add(node_id)
            await asyncio.sleep(0)
        return written

    def _rests(self, service_id: ServiceId) -> bool:
        """True for a service that has had its share of the loop; it is decided on when others have had theirs."""
        until = self._rests_until.get(service_id)
        if until is None:
            return False
        if until <= self._clock.monotonic():
            del self._rests_until[service_id]
            return False
        self._wake_at[service_id] = until
        return True

    async def _settle_service(self, service_id: ServiceId) -> int:
        now, now_ns = self._clock.monotonic(), self._clock.time_ns()
        waits = self._waits.pop(service_id, None) or Waits(self._clock.monotonic)
        decision = orchestrator.decide_service(self._store.view(), service_id, now_ns, self._new_id, waits)
        took = self._clock.monotonic() - now
        if took > COLLECT_S:
            self._rests_until[service_id] = now + (1 + REST) * took
        self._wake_at.pop(service_id, None)
        if decision.wake_at_ns is not None:
            # On a clock that nobody sets: a wait is as long as it was when it was decided on.
            self._wake_at[service_id] = now + max(0, decision.wake_at_ns - now_ns) / 1e9
        if waits.pending:
            self._waits[service_id] = waits
        written = await self._apply(decision)
        view = self._store.view()
        limit = view.cluster().spec.task_history_limit
        return written + await self._apply(reaper.decide(view, limit, (service_id,)))

    def _new_id(self) -> str:
        return encode_id(self._random.randbytes(16))

    async def _apply(self, decision: Decision) -> int:
        """Write the changes; returns how many were written.

        A decision that was made on something that is no longer so is dropped: the event of the other write, which is
        in flight, brings it up again.
        """
        written = 0
        for assigned in decision.assigned:
            try:
                await self._store.patch(assigned.tasks, assigned.patch)
                self._placing.follow()
            except (VersionConflict, NotFound) as error:
                log.debug("decision_outdated", reason=str(error))
                return written
            written += len(assigned.tasks)
        for start in range(0, len(decision.changes), MAX_WRITE):
            part = decision.changes[start : start + MAX_WRITE]
            try:
                # Tasks with a large spec are fewer to an entry.
                await self._store.batch(part, lambda tx, change: tx.apply((change,)))
                self._placing.follow()
            except (VersionConflict, NotFound, AlreadyExists) as error:
                log.debug("decision_outdated", reason=str(error))
                break
            written += len(part)
        return written


def _changes_decisions(event: Event) -> bool:
    """True for a change of the one setting of the cluster that is looked at where services are decided."""
    new, old = event.object, event.old
    if not isinstance(new, Cluster) or not isinstance(old, Cluster):
        return True
    return new.spec.task_history_limit != old.spec.task_history_limit


def _moves_tasks(event: Event) -> bool:
    """True for a change of a node that may move tasks to it or away."""
    new, old = event.object, event.old
    if not isinstance(new, Node) or not isinstance(old, Node):
        return True
    return _of_interest(new) != _of_interest(old)


def _of_interest(node: Node) -> tuple[object, ...]:
    return (node.spec, node.availability, node.status.state, node.status.engine_away, node.description, node.role)
