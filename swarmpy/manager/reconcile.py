"""The leader's control loop: looks at the store, asks ``control`` what to do, writes it back.

Level-triggered: events only say where to look. Whatever was missed (a lost race, a change of leader) is decided again
from the state itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

import attrs
import structlog

from swarmpy.control import allocator, enforcer, nodes, orchestrator
from swarmpy.control.decision import Decision
from swarmpy.control.slots import Slots, node_changed, slot_of
from swarmpy.control.waiting import Waits
from swarmpy.errors import AlreadyExists, NotFound, VersionConflict
from swarmpy.manager.following import Following
from swarmpy.manager.placing import KINDS, Placing
from swarmpy.model.changes import Change
from swarmpy.model.ids import NodeId, ServiceId, encode_id
from swarmpy.model.objects import Cluster, Kind, Node, Task
from swarmpy.ports import Clock, Random
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.watch import Event, Resync, Watch

log = structlog.get_logger(__name__)

COLLECT_S = 0.01
"""Seconds to wait after a change for others that belong to it."""
MAX_WRITE = 200
"""Most changes of one log entry (swarmkit's bound for its batches)."""
KEPT_TASKS = 500
"""Of services with as many tasks or nodes it is kept what is known of their slots; of others it is found out anew."""
READ_SLICE = 10_000
"""Tasks of a service that are read in one step: some ten milliseconds."""
STEPS = 8
"""Most decisions about one service before others have their turn."""
FOLLOW_SLICE = 1_000
"""Events that are taken in in one step."""
TURN_SLICES = 16
"""Most slices of decisions about one service before others have their turn: some hundred milliseconds."""
RENEW_S = 600.0
"""Seconds after which what is kept of a large service is found out anew, whatever has happened."""
MAX_ROUNDS = 50
"""Rounds of deciding without a pause before it is said that decisions do not settle."""


@attrs.define
class _Begun:
    """A decision about a service, of which some slices are made, and so many changes written."""

    look: orchestrator.Look
    slices: Iterator[Decision]
    waits: Waits
    now: float
    now_ns: int
    written: int = 0


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
        self._slots: dict[ServiceId, Slots] = {}
        """Of large services, and of the one that is decided on."""
        self._begun: dict[ServiceId, _Begun] = {}
        """Decisions that were interrupted for others to have their turn."""
        self._renew_at: float | None = None
        """When the next of the large services is read anew, on the monotonic clock."""
        self._is_cut_short = False
        """A service of this round has more to be decided at once."""
        self._following = Following(store)
        self._placing: Placing
        self._watch: Watch

    async def run(self) -> None:
        """Decide until cancelled."""
        with self._store.watch() as watch, self._store.watch(KINDS) as followed:
            self._placing, self._watch = Placing(self._store, followed, self._clock), watch
            self._mark_all()
            while True:
                await self._settle()
                await self._wait()

    # -- what to look at ----------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Return when something has changed, or when a decision asked to be made again."""
        if self._renew_at is None and self._slots:
            self._renew_at = self._clock.monotonic() + RENEW_S / len(self._slots)
        others = (self._placing.due, self._renew_at)
        due = min([*self._wake_at.values(), *(at for at in others if at is not None)], default=None)
        timeout = None if due is None else max(0.0, due - self._clock.monotonic())
        if self._dirty:
            timeout = COLLECT_S
        if await self._watch.wait(timeout):
            await asyncio.sleep(COLLECT_S)
        await self._follow()
        if self._renew_at is not None and self._renew_at <= self._clock.monotonic():
            self._renew_at = None
            self._renew_one()

    def _renew_one(self) -> None:
        """Have one of the large services read anew, so that no mistake about it lasts."""
        # What is read comes last: each has its turn.
        oldest = next((service_id for service_id in self._slots if service_id not in self._begun), None)
        if oldest is not None:
            del self._slots[oldest]
            self._dirty.add(oldest)

    async def _follow(self) -> None:
        """Take in all that has been written."""
        taken = 0
        while events := self._watch.poll():
            self._mark(events)
            taken += len(events)
            if taken >= FOLLOW_SLICE:
                taken = 0
                await asyncio.sleep(0)
        now = self._clock.monotonic()
        self._dirty.update(service_id for service_id, at in self._wake_at.items() if at <= now)
        self._placing.follow()

    def _mark_all(self) -> None:
        self._dirty.update(ServiceId(service_id) for service_id in self._store.view().service_ids())
        self._changed_nodes.update(node.id for node in self._store.view().nodes())
        self._following.mark_all()

    def _mark(self, events: Sequence[Event | Resync]) -> None:
        for event in events:
            if isinstance(event, Resync):
                self._slots.clear()
                self._begun.clear()
                self._mark_all()
                # Also what was removed meanwhile, to be forgotten.
                self._dirty.update(self._waits)
                continue
            self._following.mark(event)
            if event.kind == Kind.CLUSTER:
                if _changes_decisions(event):
                    self._mark_all()
            elif event.kind == Kind.NODE:
                if _moves_tasks(event):
                    self._mark_node(NodeId(event.id))
            elif event.kind == Kind.SERVICE:
                self._mark_service(ServiceId(event.id))
            elif isinstance(task := event.object or event.old, Task):
                self._mark_service(task.service_id)
                if (slots := self._slots.get(task.service_id)) is not None:
                    slots.task_changed(task, is_gone=event.object is None)

    def _mark_node(self, node_id: NodeId) -> None:
        view = self._store.view()
        self._changed_nodes.add(node_id)
        self._dirty.update(nodes.affected_services(view, node_id))
        node_changed(self._slots, view, node_id)

    def _mark_service(self, service_id: ServiceId) -> None:
        self._dirty.add(service_id)
        self._changed_nodes |= self._holding.pop(service_id, set())

    # -- deciding -----------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Decide until nothing is left to do."""
        for _ in range(MAX_ROUNDS):
            self._is_cut_short = False
            written = 0
            written += await self._following.settle()
            dirty, self._dirty = sorted(self._dirty), set()
            written += await self._apply(nodes.decide(self._store.view(), self._clock.time_ns()))
            written += await self._enforce()
            for service_id in dirty:
                written += await self._settle_service(service_id)
            for decision in allocator.slices(self._store.view, dirty):
                written += await self._apply(decision)
                await asyncio.sleep(0)
            written += await self._placing.settle(self._apply)
            await self._follow()
            if not written and not self._dirty:
                return
        if not self._is_cut_short:
            # A service of very many tasks takes more rounds, after a pause.
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

    async def _settle_service(self, service_id: ServiceId) -> int:
        slots = self._slots.get(service_id)
        if slots is None:
            slots = await self._read(service_id)
        written, left, has_more = 0, TURN_SLICES, False
        for _ in range(STEPS):
            part, left, has_more = await self._decide(service_id, slots, left)
            written += part
            if not has_more:
                break
        if has_more:
            self._is_cut_short = True
            self._dirty.add(service_id)
        if max(len(slots.stored), len(slots.stale)) < KEPT_TASKS and service_id not in self._begun:
            self._slots.pop(service_id, None)
        return written

    async def _read(self, service_id: ServiceId) -> Slots:
        """The slots of a service of which nothing is known. What is written meanwhile comes as events."""
        slots = self._slots[service_id] = Slots()
        ids = [task.id for task in self._store.view().tasks_of_service(service_id)]
        for start in range(0, len(ids), READ_SLICE):
            if start:
                await asyncio.sleep(0)
                await self._follow()
            # As they are by now: what is in the events as well is taken in once more.
            now = self._store.view().tasks_of(ids[start : start + READ_SLICE])
            slots.add(task for task in now if task is not None)
        return slots

    def _begin(self, service_id: ServiceId, slots: Slots) -> _Begun:
        now, now_ns = self._clock.monotonic(), self._clock.time_ns()
        waits = self._waits.setdefault(service_id, Waits(self._clock.monotonic))
        view = self._store.view
        limit = view().cluster().spec.task_history_limit
        look = orchestrator.Look(slots, view, service_id, now_ns, self._new_id, waits, limit=limit)
        self._wake_at.pop(service_id, None)
        return _Begun(look, look.slices(), waits, now, now_ns)

    async def _decide(self, service_id: ServiceId, slots: Slots, left: int) -> tuple[int, int, bool]:
        """One decision, or ``left`` slices of it.

        Returns how many changes were written, how many slices are left, and whether to go on at once.
        """
        begun = self._begun.pop(service_id, None) or self._begin(service_id, slots)
        look, written = begun.look, 0
        while left:
            decision = next(begun.slices, None)
            if decision is None:
                break
            part = await self._apply(decision)
            written += part
            begun.written += part
            # Of thousands of services most need nothing, and nothing would be waited for.
            await asyncio.sleep(0)
            await self._follow()
            if self._slots.get(service_id) is not slots:
                # Events were lost: everything is read anew.
                return written, left, False
            left -= 1
        else:
            self._begun[service_id] = begun
            return written, 0, True
        if look.wake_at_ns is not None:
            # On a clock that nobody sets: a wait is as long as it was when it was decided on.
            self._wake_at[service_id] = begun.now + max(0, look.wake_at_ns - begun.now_ns) / 1e9
        if not begun.waits.pending:
            self._waits.pop(service_id, None)
        # Where nothing could be written, something else is about to be.
        return written, left, look.has_more and begun.written > 0

    def _new_id(self) -> str:
        return encode_id(self._random.randbytes(16))

    async def _apply(self, decision: Decision) -> int:
        """Write the changes; returns how many were written.

        What was decided on something that is no longer so is dropped, with all of its slot: the event of the other
        write, which is in flight, brings it up again. So is all that is left when that is the service itself.
        """
        written = 0
        for assigned in decision.assigned:
            try:
                await self._store.patch(assigned.tasks, assigned.patch)
                await self._follow()
            except (VersionConflict, NotFound) as error:
                log.debug("decision_outdated", reason=str(error))
                return written
            written += len(assigned.tasks)
        for part in _parts(decision.changes):
            done: dict[int, int] = {}
            try:
                # Tasks with a large spec are fewer to an entry.
                await self._store.batch(range(len(part)), partial(_write, part, done))
                await self._follow()
            except (VersionConflict, NotFound, AlreadyExists) as error:
                log.debug("decision_outdated", reason=str(error))
                break
            written += sum(done.values())
        return written


def _parts(changes: Sequence[Change]) -> Iterator[list[list[Change]]]:
    """Changes that belong together, in parts of which each is written at once."""
    together: dict[object, list[Change]] = {}
    for change in changes:
        task = change.task
        key = (change.kind, change.id) if task is None else (task.service_id, slot_of(task))
        together.setdefault(key, []).append(change)
    part: list[list[Change]] = []
    size = 0
    for group in together.values():
        if size + len(group) > MAX_WRITE and part:
            yield part
            part, size = [], 0
        part.append(group)
        size += len(group)
    if part:
        yield part


def _write(part: Sequence[Sequence[Change]], done: dict[int, int], tx: Tx, number: int) -> None:
    group = part[number]
    if group[0].kind is Kind.TASK and not all(map(tx.is_current, group)):
        done[number] = 0
        return
    tx.apply(group)
    done[number] = len(group)


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
    status = node.status
    return (node.spec, node.availability, status.state, status.engine_away, status.address, node.description, node.role)
