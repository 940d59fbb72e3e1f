"""The store: the cluster's state in memory, changed only by what the log applies.

On the leader a transaction runs at once over the committed state and what is in flight, is proposed as one entry, and
is done when the entry is applied here; many are in flight together. On every manager :meth:`Store.apply` turns the
same entries into the same state. The store never writes anything that did not come out of the log. The answers of
applied requests are part of that state, so that a write whose answer was lost can be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from itertools import repeat
from typing import Any, Protocol, TypeVar, cast

import attrs

from swarmpy.errors import InvalidArgument, InvariantViolation, NotLeader, OutcomeUnknown
from swarmpy.model import codec
from swarmpy.model.changes import Action, ChangeList, update
from swarmpy.model.objects import Cluster, Kind, Task
from swarmpy.model.patches import TaskPatch
from swarmpy.model.requests import Answered, RequestId
from swarmpy.ports import Clock
from swarmpy.store.flights import Flights
from swarmpy.store.overlay import Overlay, Patched, Written
from swarmpy.store.schema import check_writable, may_patch, version_of
from swarmpy.store.sessions import Sessions
from swarmpy.store.snapshot import Restored, decode_at_once, decode_snapshot, encode_snapshot, snapshot_parts
from swarmpy.store.stamp import shared_patch, stamp, stamp_patch
from swarmpy.store.tables import Layer
from swarmpy.store.transaction import Tx, check_unchanged
from swarmpy.store.view import View
from swarmpy.store.watch import DEFAULT_LIMIT, Event, Hub, Watch

T = TypeVar("T")
Item = TypeVar("Item")

MAX_ENTRY_BYTES = 1536 * 1024
"""Largest entry of the log, as in Swarm: bounds how long one message holds the wire and the disk."""
BATCH_CHANGES = 200
"""Changes in one transaction of a batch."""
MAX_ANSWER_BYTES = 1024
"""Largest result of an update that is remembered: it tells what was made, it is not the thing itself."""


class Proposal(Protocol):
    """A change on its way into the log."""

    @property
    def index(self) -> int:
        """Where in the log."""

    @property
    def done(self) -> asyncio.Future[None]:
        """Resolves when it is applied on this manager; fails with OutcomeUnknown when leadership is lost before."""


class Proposer(Protocol):
    """What brings changes into the log: the Raft driver of a leader."""

    def propose(self, data: bytes) -> Proposal:
        """Append at once. Raises NotLeader, or Unavailable when too much is in flight."""


class Store:
    """The cluster's state. ``apply``, ``snapshot`` and ``restore`` are for Raft, the rest is for everybody else."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._committed = Layer()
        self._version = 0
        self._overlay = Overlay()
        self._proposer: Proposer | None = None
        self._last_proposer: Proposer | None = None
        self._term_began = (0, 0.0)
        self._line = 0
        self.written = 0
        """Objects that entries have written, as long as this store lives."""
        self._sessions = Sessions()
        self._flights = Flights()
        self._hub = Hub()

    # -- reading ----------------------------------------------------------------------------------------------------

    def view(self) -> View:
        """The committed state of this manager, valid until the next ``await``."""
        return View((self._committed,), self._version)

    @property
    def cluster(self) -> Cluster | None:
        """The cluster as committed, None before it is initialised: asked for with every message, so at no cost."""
        return next(iter(self._committed.clusters.objects.values()), None)

    def watch(self, kinds: Collection[Kind] | None = None, limit: int = DEFAULT_LIMIT) -> Watch:
        """Events of objects of ``kinds`` (None: of all) from the moment the ``with`` block is entered.

        A watcher that is more than ``limit`` events behind gets a single Resync for all of them.
        """
        return Watch(self._hub, kinds, limit)

    # -- writing, on the leader -------------------------------------------------------------------------------------

    def set_proposer(self, proposer: Proposer | None) -> None:
        """Begin (or, with None, end) a term of office; the proposer that is in office already changes nothing.

        To be called when the proposer leads and has applied everything of earlier terms, and with None as soon as
        that is no longer so. A proposer that comes back may have entries in flight still: whatever it has not given up
        is shown to the transactions of its next term, as it may yet be applied before theirs.
        """
        if proposer is not None and proposer is not self._proposer:
            self._term_began = (self._sessions.now_ns or self._clock.time_ns(), self._clock.monotonic())
        if proposer is not None and proposer is not self._last_proposer:
            self._last_proposer = proposer
            self._drop_overlay()
        self._proposer = proposer

    def _term_time_ns(self) -> int:
        """Now, as answers are remembered by: counted on from the time of the leader before, not from its own clock.

        A leader whose clock is ahead would make all that it knows look old, and would do a repeated request again.
        """
        began_ns, began = self._term_began
        return began_ns + round((self._clock.monotonic() - began) * 1e9)

    def _drop_overlay(self) -> None:
        self._line += 1
        self._overlay.clear()

    async def update(self, fn: Callable[[Tx], T], timeout: float = 10.0, request: RequestId | None = None) -> T:
        """Run ``fn`` as one transaction and return its result once the changes are applied on this manager.

        ``fn`` sees the committed state and all changes in flight; what it raises passes through and nothing is done.
        Without changes nothing is proposed. Raises NotLeader and Unavailable (nothing was done), InvalidArgument
        (more than MAX_ENTRY_BYTES), OutcomeUnknown (leadership was lost, or ``timeout`` seconds are over: the changes
        may still be applied).

        With a ``request``, the changes are made once only, on whichever leader it is asked for again and however
        often, for as long as :data:`~swarmpy.store.sessions.SESSION_EXPIRY_NS`: the first time the result, which must
        be plain data of at most MAX_ANSWER_BYTES, is stored with them; after that it is returned, and ``fn`` is not
        run. One that is still in flight is waited for. What changes nothing is not remembered, be it a result or an
        error: the client has no answer yet, so the repetition may as well be the one that counts. A copy that is
        still under way when the client *has* an answer is therefore harmless only if something was changed. Raises
        FailedPrecondition also for a request that was answered and forgotten, or was another one before.
        """
        if request is not None:
            return await self._update_once(fn, timeout, request)
        tx = self._begin()
        result = fn(tx)
        entry = tx.entry()
        if not entry.is_empty:
            await _wait(self._propose(entry, self._encoded(entry)), timeout)
        return result

    async def _update_once(self, fn: Callable[[Tx], T], timeout: float, request: RequestId) -> T:
        if self._proposer is None:
            raise NotLeader
        answer = self._sessions.answer(request)
        if answer is None:
            flight = self._flights.find(request)
            if flight is not None:
                own, done = flight.answered.answer, flight.done
            else:
                tx = self._begin()
                own = _packed(fn(tx))
                answered = Answered(request=request, answer=own, time_ns=self._term_time_ns())
                entry = tx.entry(answered)
                if entry.is_empty:
                    return cast("T", codec.unpack(own))
                done = self._propose(entry, self._encoded(entry))
                self._flights.add(answered, done)
            await _wait(done, timeout)
            # The table has the last word: should the entry have come second, nothing of it was done.
            answer = self._sessions.remembered(request) or own
        return cast("T", codec.unpack(answer))

    async def batch(
        self,
        items: Sequence[Item],
        fn: Callable[[Tx, Item], None],
        timeout: float = 10.0,
        max_changes: int = BATCH_CHANGES,
    ) -> None:
        """Run ``fn`` for each item, in as many transactions as it takes to keep each small.

        Each transaction is whole, the batch is not: when an error is raised (as by :meth:`update`), items of earlier
        transactions are done. ``fn`` may be run again for an item whose transaction became too large. ``timeout`` is
        for each transaction.
        """
        start, most = 0, max(1, len(items))
        while start < len(items):
            tx = self._begin()
            taken = 0
            for item in items[start : start + most]:
                fn(tx, item)
                taken += 1
                if tx.count >= max_changes:
                    break
            entry = tx.entry()
            data = self._encoded(entry)
            if taken > 1 and len(data) > MAX_ENTRY_BYTES:
                most = taken // 2
                continue
            if not entry.is_empty:
                await _wait(self._propose(entry, data), timeout)
            start += taken

    async def patch(self, tasks: Sequence[Task], patch: TaskPatch, timeout: float = 10.0) -> None:
        """Update tasks in one transaction by a patch that was decided on them as ``tasks`` shows them.

        The same as an update of each, without a whole one of each being made; which is what is done where not all
        managers read patches, or where the transaction would be too large, by several transactions then. Raises
        NotFound or VersionConflict when one of the tasks is no longer so, and as :meth:`update`.
        """
        if self._proposer is None:
            raise NotLeader
        if may_patch(self.cluster):
            view = View((self._overlay.layer, self._committed), self._version)
            check_unchanged(tasks, view.tasks_of(patch.ids))
            written = attrs.evolve(patch, updated_at_ns=self._clock.time_ns())
            entry = ChangeList(changes=(), patches=(written,))
            data = self._encoded(entry)
            if len(data) <= MAX_ENTRY_BYTES:
                await _wait(self._propose(entry, data), timeout)
                return
        changed = [update(task) for task in patch.done_to(tasks, (task.meta for task in tasks))]
        await self.batch(changed, lambda tx, change: tx.apply((change,)), timeout)

    def _begin(self) -> Tx:
        if self._proposer is None:
            raise NotLeader
        patches = may_patch(self.cluster)
        return Tx((self._overlay.layer, self._committed), self._version, self._clock.time_ns(), patches=patches)

    def _encoded(self, entry: ChangeList) -> bytes:
        version = version_of(entry)
        if version > codec.BASE_VERSION:
            clusters = [cluster for cluster in self._committed.clusters.objects.values() if cluster is not None]
            check_writable(version, entry, clusters)
        return codec.encode(entry, version)

    def _propose(self, entry: ChangeList, data: bytes) -> asyncio.Future[None]:
        if self._proposer is None:
            raise NotLeader
        if len(data) > MAX_ENTRY_BYTES:
            raise InvalidArgument(
                f"a change of {len(data)} bytes is too large, at most {MAX_ENTRY_BYTES} are possible: make it smaller"
            )
        proposal = self._proposer.propose(data)
        line = self._line
        if proposal.index > self._version:
            self._overlay.add(proposal.index, data, entry, self._committed)
        proposal.done.add_done_callback(lambda done: self._on_done(done, line))
        return proposal.done

    def _on_done(self, done: asyncio.Future[None], line: int) -> None:
        failed = done.cancelled() or done.exception() is not None
        if failed and line == self._line:
            # What was proposed after it was computed on top of it; nothing in flight can be trusted any more.
            self._proposer = None
            self._drop_overlay()

    # -- the state machine of Raft ----------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The index of the last applied entry."""
        return self._version

    def apply(self, index: int, data: bytes) -> None:
        """Apply one committed entry; empty data changes nothing.

        Raises InvariantViolation when entries come out of order or contradict the state, DataDirMismatch for an entry
        of a newer swarmpy.
        """
        if index <= self._version:
            raise InvariantViolation(f"entry {index} comes after entry {self._version}")
        events = self._write(index, data) if data else ()
        self._version = index
        if events:
            self.written += len(events)
            self._hub.publish(events)

    def snapshot(self) -> Coroutine[Any, Any, bytes]:
        """The state exactly as it is at the call, not at the await; gives way to the loop while it encodes."""
        return encode_snapshot(self._committed, self._sessions, self._version)

    def parts(self) -> AsyncIterator[bytes]:
        """The bytes of :meth:`snapshot` piece by piece; the state, too, is that of the call."""
        return snapshot_parts(self._committed, self._sessions, self._version)

    async def restore(self, data: bytes) -> None:
        """Replace the state by a snapshot's, at the end and in one step; gives way to the loop while it decodes.

        Raises DataDirMismatch, LogCorrupted; then the state is as before.
        """
        self._replace(await decode_snapshot(data))

    def restore_at_once(self, data: bytes) -> None:
        """As :meth:`restore`, where no loop runs."""
        self._replace(decode_at_once(data))

    def _replace(self, restored: Restored) -> None:
        self._committed, self._sessions, self._version = restored
        self._overlay.clear()
        self._hub.resync(self._version)

    def _write(self, index: int, data: bytes) -> tuple[Event, ...]:
        ours = self._overlay.settle(index, data)
        entry = self._decoded(index, data) if ours is None else ours.entry
        if entry.answered is not None and not self._sessions.record(entry.answered):
            # What is in flight was computed as if this were done.
            self._overlay.clear()
            return ()
        events: list[Event] = []
        if ours is not None:
            events.extend([self._put(written, index) for written in ours.written])
            for patched in ours.patched:
                events.extend(self._replace_tasks(patched, index))
            return tuple(events)
        view = View((self._committed,), self._version)
        for change in entry.changes:
            obj = stamp(change, view, index)
            events.append(self._put(Written(action=change.action, kind=change.kind, id=change.id, object=obj), index))
        for patch in entry.patches:
            shared = shared_patch(patch, view)
            events.extend(self._replace_tasks(Patched(patch=patch, tasks=stamp_patch(shared, view, index)), index))
        return tuple(events)

    def _decoded(self, index: int, data: bytes) -> ChangeList:
        codec.check_version(data[0], f"entry {index} of the raft log")
        return codec.from_stored(ChangeList, codec.unpack(data[1:]))

    def _put(self, written: Written, index: int) -> Event:
        table = self._committed.by_kind[written.kind]
        old = table.objects.get(written.id)
        if written.object is None:
            table.forget(written.id)
        else:
            table.put(written.id, written.object)
        return Event(written.action, written.kind, written.id, written.object, old, index)

    def _replace_tasks(self, patched: Patched, index: int) -> Iterable[Event]:
        ids, tasks = patched.patch.ids, patched.tasks
        olds = self._committed.tasks.replace(ids, tasks, patched.patch.fields)
        return map(Event, repeat(Action.UPDATE), repeat(Kind.TASK), ids, tasks, olds, repeat(index))


async def _wait(done: asyncio.Future[None], timeout: float) -> None:
    # Waiting does not own the future: neither the end of the wait nor a cancelled waiter touches the proposal.
    if not done.done():
        await asyncio.wait((done,), timeout=timeout)
    if not done.done():
        raise OutcomeUnknown(
            f"the change was not confirmed by a majority of managers within {timeout:g} s; it may still be applied"
        )
    if done.cancelled():
        raise OutcomeUnknown("this manager stopped before the change was confirmed; it may still be applied")
    done.result()


def _packed(result: Any) -> bytes:
    answer = codec.pack(result)
    if len(answer) > MAX_ANSWER_BYTES:
        raise InvalidArgument(
            f"an answer of {len(answer)} bytes is too large to be remembered, at most {MAX_ANSWER_BYTES} are possible"
        )
    return answer
