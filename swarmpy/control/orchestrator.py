"""The whole decision about one service: removal, restart, scale and update, in this order.

Decides from the state alone; all it remembers is how long it has waited, and what it has found out of slots that have
not changed since (:mod:`swarmpy.control.slots`). Never decides on nodes of which a new leader has not heard.

A decision is made in slices, between which others may have their turn, and each slice is written before the next one is
made. So what it decides on is never older than a slice:

- a task, or the node of one, that changes between two slices has its slot looked at anew, by the slice after or by the
  next decision; how much a service may miss is counted anew before anything more is taken away;
- a service that was changed or removed between two slices has the decision begun anew: nothing is done for what is
  wanted no more;
- what could not be written is not counted on, and those slots are looked at once more with the next decision;
- replicas are begun, given up and replaced by so many in one decision, and only once every slot that has changed was
  looked at: so parallelism and what may be missing hold as if all were decided in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from swarmpy.control import global_mode, jobs, reaper, replicated, update
from swarmpy.control.decision import Decision, NewId
from swarmpy.control.draft import Draft, is_rolled_back, with_desired
from swarmpy.control.nodes import Standing, standing
from swarmpy.control.restart import supervise
from swarmpy.control.slots import SlotKey, Slots
from swarmpy.control.waiting import Waits
from swarmpy.model import changes
from swarmpy.model.changes import Change
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import Cause, TaskState
from swarmpy.store.view import View

SLICE_SLOTS = 300
"""Most slots that are looked at in one slice, or ten times as many that are at rest: some milliseconds."""
SLICE_TASKS = 200
"""Tasks that are changed after which a slice ends; and most slots that one decision begins, gives up or replaces."""
LOOK = 10
"""What a look at a slot costs where one at rest is one."""
_ALL = 1 << 30


def decide_service(
    view: View, service_id: ServiceId, now_ns: int, new_id: NewId, waits: Waits, *, limit: int
) -> Decision:
    """What has to change for the service to be as its user wants it, and when to look again: all of it, in one step.

    ``waits`` is the service's, and the leader's for its term of office. ``limit`` is that of a slot's history. Decided
    twice on the same state, the changes are the same; on the state with the changes made, there are none.
    """
    slots = Slots.of(view.tasks_of_service(service_id))
    look = Look(slots, lambda: view, service_id, now_ns, new_id, waits, limit=limit, is_sliced=False)
    found = [change for decision in look.slices() for change in decision.changes]
    return Decision(changes=tuple(found), wake_at_ns=look.wake_at_ns)


class Look:
    """One decision about a service.

    ``view`` gives the state as it is at the moment; ``slots``, which the caller keeps up to date between slices, are
    the service's.
    """

    def __init__(
        self,
        slots: Slots,
        view: Callable[[], View],
        service_id: ServiceId,
        now_ns: int,
        new_id: NewId,
        waits: Waits,
        *,
        limit: int,
        is_sliced: bool = True,
    ) -> None:
        self._slots = slots
        self._view = view
        self._service_id = service_id
        self._now_ns = now_ns
        self._new_id = new_id
        self._waits = waits
        self._limit = limit
        self._is_sliced = is_sliced
        self._most = LOOK * SLICE_SLOTS if is_sliced else _ALL
        self._most_tasks = SLICE_TASKS if is_sliced else _ALL
        self._kept = limit
        self._is_updating = False
        self.wake_at_ns: int | None = None
        """At the end: when to decide again though nothing has happened."""
        self.has_more = False
        """At the end: the next decision is to be made at once."""

    def slices(self) -> Iterator[Decision]:
        """The decision part by part, some of which are empty; each is to be written before the next is asked for."""
        service = self._view().service(self._service_id)
        self._begin(service)
        if service is None or service.pending_delete:
            yield from self._remove(service)
            if not self.has_more:
                # Nothing of it is waited for any more.
                self._waits.decided()
            return
        draft = Draft(self._view, service, self._slots, self._now_ns, self._new_id, self._waits)
        draft.is_updating = self._is_updating
        while self._has_to_look(draft):
            if self._look(draft):
                yield self._take(draft)
                self._resume(draft)
                if draft.view.service(self._service_id) is not service:
                    self.has_more = True
                    return
        self.has_more = self._decide_all(draft)
        yield self._take(draft)
        self._resume(draft)
        self._waits.decided()

    def _begin(self, service: Service | None) -> None:
        """Find out which slots are to be looked at."""
        if service is not None:
            self._kept = reaper.kept(service, self._limit)
            self._is_updating = update.is_under_way(service)
        if self._slots.basis != self._basis(service):
            self._renew(service)
        self._slots.stale.update(self._slots.restless)

    def _has_to_look(self, draft: Draft) -> bool:
        slots = self._slots
        if not slots.stale and slots.progress.outdated and not draft.is_updating:
            # There is something to update: it counts with all that was updated before.
            self._is_updating = draft.is_updating = True
            self._renew(draft.service)
        return bool(slots.stale)

    def _renew(self, service: Service | None) -> None:
        """Have all slots looked at."""
        slots = self._slots
        slots.basis = self._basis(service)
        slots.mark_all()
        if service is not None and service.spec.mode.is_global:
            slots.stale.update((node.id, None) for node in self._view().nodes())

    def _basis(self, service: Service | None) -> object:
        """What is found out of a slot depends on its tasks, their nodes, and this."""
        if service is None or service.pending_delete:
            return "removed", service is None
        wishes = (service.spec, service.spec_version, service.ports, service.job)
        return (*wishes, self._is_updating, is_rolled_back(service), self._kept)

    def _look(self, draft: Draft) -> bool:
        """Look at slots until there are no more, or it is enough for one slice; True when it is."""
        slots, left = self._slots, self._most
        if draft.service.spec.max_unavailable is None:
            slots.uncounted.clear()
            slots.there.clear()
        for _ in range(min(len(slots.uncounted), self._most)):
            draft.count(slots.uncounted.popitem()[0])
        if slots.uncounted:
            return True
        is_plain = draft.service.job is None and not draft.is_global
        while left > 0 and draft.size < self._most_tasks and (key := slots.pop_stale()) is not None:
            # As the store has it: nothing was decided about a slot that is still to be looked at.
            if is_plain and (tasks := slots.stored.get(key)) and self._is_at_rest(draft, key, tasks):
                left -= 1
                continue
            size, draft.is_restless = draft.size, False
            self._look_at(draft, key)
            if draft.is_restless:
                slots.restless[key] = None
            else:
                slots.restless.pop(key, None)
            left -= LOOK if draft.size == size else 2 * LOOK
        return bool(slots.stale) or left < self._most / 2

    def _is_at_rest(self, draft: Draft, key: SlotKey, tasks: tuple[Task, ...]) -> bool:
        """True for a slot with one task that is as it should be, and all others over: nearly all are, nearly always.

        Then nothing else is to be found out, and what there is to note is noted.
        """
        slots, version = self._slots, draft.service.spec_version
        if len(tasks) > 1 and (draft.is_updating or len(tasks) - 1 > self._kept >= 0):
            return False
        only = None
        for task in tasks:
            status = task.status
            if status.err:
                return False
            if task.desired_state is TaskState.RUNNING:
                if only is not None or task.spec_version != version or status.state > TaskState.RUNNING:
                    return False
                only = task
            elif task.desired_state is not TaskState.SHUTDOWN or status.state <= TaskState.RUNNING:
                return False
        if only is None or draft.standing(only) is not Standing.FINE:
            return False
        slots.held[key] = None
        if only.node_id is not None and only.status.state is TaskState.RUNNING:
            slots.runs_on[key] = only.node_id
        else:
            slots.runs_on.pop(key, None)
        if key in slots.progress.slots:
            slots.progress.put(key, None)
        if key in slots.restless:
            del slots.restless[key]
        return True

    def _look_at(self, draft: Draft, key: SlotKey) -> None:
        if draft.service.job is not None:
            jobs.look(draft, key)
        else:
            if draft.is_global:
                global_mode.release_node(draft, key)
            supervise(draft, key)
            if draft.is_global:
                global_mode.begin_on_node(draft, key)
        self._note(draft, key)
        self._reap(draft, key)

    def _reap(self, draft: Draft, key: SlotKey) -> None:
        stored = self._slots.stored.get(key, ())
        if not stored or (len(stored) == 1 and stored[0].desired_state.is_wanted):
            return
        tasks = self._slots.tasks(key)
        # What was decided about is no history yet.
        left = stored if tasks is stored else [task for task in tasks if task in stored]
        for task in reaper.doomed(draft.service, left, self._limit, draft.standing):
            draft.delete(task)

    def _decide_all(self, draft: Draft) -> bool:
        """What is decided of all slots together; True when there may be more of it."""
        if draft.service.job is not None:
            return jobs.decide_job(draft, self._most_tasks)
        changed = [] if draft.is_global else replicated.decide_replicas(draft, self._most_tasks)
        for key in changed:
            update.note(draft, key)
        # Slots that were given up are missing, though nobody was asked.
        draft.recount()
        return update.decide_update(draft, self._most_tasks) or len(changed) >= self._most_tasks

    def _resume(self, draft: Draft) -> None:
        """Others have had their turn, and what was decided is written; or it is not, and will not be."""
        draft.resume()
        if not self._is_sliced:
            return
        for key in self._slots.give_up():
            self._note(draft, key)
            if draft.service.spec.max_unavailable is not None:
                draft.count(key)
            self._slots.restless[key] = None

    def _note(self, draft: Draft, key: SlotKey) -> None:
        """What decisions about all slots together ask of this one."""
        if draft.service.job is not None:
            jobs.note(draft, key)
            return
        if not draft.is_global:
            replicated.note(draft, key)
        update.note(draft, key)

    def _take(self, draft: Draft) -> Decision:
        self.wake_at_ns = draft.wake_at_ns
        return draft.take()

    def _remove(self, service: Service | None) -> Iterator[Decision]:
        """Have all tasks stop, and remove those that have."""
        slots = self._slots
        while slots.stale:
            view, found = self._view(), list[Change]()
            if view.service(self._service_id) is not service:
                self.has_more = True
                return
            left = self._most
            while left > 0 and len(found) < self._most_tasks and (key := slots.pop_stale()) is not None:
                left -= 1
                found += self._removed(view, service, slots.stored.get(key, ()))
            yield Decision(changes=tuple(found))
        if service is not None and not slots.stored:
            yield Decision(changes=(changes.delete(service),))

    def _removed(self, view: View, service: Service | None, tasks: tuple[Task, ...]) -> list[Change]:
        doomed = reaper.doomed(service, tasks, self._limit, lambda task: standing(view, task))
        kept = [task for task in tasks if task.desired_state < TaskState.REMOVE and task not in doomed]
        gone = [with_desired(task, TaskState.REMOVE, Cause.REMOVED) for task in kept]
        return [*map(changes.delete, doomed), *map(changes.update, gone)]
