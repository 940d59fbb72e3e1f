"""One service and its tasks while a decision about them is being made.

The parts of a decision (restart, scale, update) run one after the other on the same draft and see what the earlier
ones did; the draft then tells what has become different. It never touches the view: what was decided is assumed of the
slots (:mod:`swarmpy.control.slots`) until it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property

import attrs

from swarmpy.control.availability import Allowance, is_there
from swarmpy.control.decision import Decision, NewId, earlier
from swarmpy.control.nodes import Standing, orphaned, standing_of, standing_on
from swarmpy.control.outdated import has_image, is_outdated
from swarmpy.control.slots import SlotKey, Slots, slot_of
from swarmpy.control.waiting import Waits
from swarmpy.model import changes
from swarmpy.model.defaults import restart_policy, update_config
from swarmpy.model.evolving import evolver
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Meta, Service, Task, TaskStatus
from swarmpy.model.specs import UpdateConfig
from swarmpy.model.states import Cause, TaskState, UpdateState
from swarmpy.store.view import View


def is_active(task: Task) -> bool:
    """True when the task is meant to run (now or after its delay), or to have completed."""
    return task.desired_state.is_wanted


def is_ended(task: Task) -> bool:
    """True when the task has been observed to have ended."""
    return task.status.state.is_terminal


def is_held_by_node(task: Task) -> bool:
    """True when the task was given to a node and has not ended: it may use the node's resources."""
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def is_rolled_back(service: Service) -> bool:
    """True while the service becomes again what it was."""
    return service.update_status is not None and service.update_status.state is UpdateState.ROLLBACK_STARTED


with_desired = evolver(Task, "desired_state", "cause")


def retired(task: Task, desired: TaskState, now_ns: int, cause: Cause) -> Task:
    """``task`` when it is wanted no more. One that no node ever had is over at once: nobody else will end it."""
    if desired > task.desired_state:
        task = with_desired(task, desired, cause)
    if task.status.state >= TaskState.ASSIGNED:
        return task
    status = attrs.evolve(task.status, state=TaskState.SHUTDOWN, timestamp_ns=now_ns, message="shutdown", err="")
    return attrs.evolve(task, status=status, applied_at_ns=now_ns)


class Draft:
    """The service, its slots, and the changes so far.

    ``view`` gives the state as it is at the moment. Between two calls of :meth:`take` nothing else may change it.
    """

    def __init__(
        self,
        view: Callable[[], View],
        service: Service,
        slots: Slots,
        now_ns: int,
        new_id: NewId,
        waits: Waits,
    ) -> None:
        self.view = view()
        self.service = service
        self.slots = slots
        self._created = (
            Meta(created_at_ns=now_ns),
            TaskStatus(state=TaskState.NEW, timestamp_ns=now_ns, message="created"),
        )
        self.now_ns = now_ns
        self.is_global = service.spec.mode.is_global
        self.is_restless = False
        """The answer may be another one at another time, or when another slot has changed. For the caller to reset."""
        self.is_updating = True
        """How far each slot has come is asked for, and not only whether there is something to update."""
        self.wake_at_ns: int | None = None
        """When to decide again though nothing has happened."""
        self._wanted = TaskState.COMPLETE if service.spec.mode.is_job else TaskState.RUNNING
        self._is_bound = service.spec.max_unavailable is not None
        self._view = view
        self._new_id = new_id
        self._waits = waits
        self._service_before = self._service_at_first = service
        self._touched: dict[TaskId, Task] = {}
        self._doomed: dict[TaskId, Task] = {}
        self._outdated: dict[tuple[int, int, int, bool, bool], bool] = {}
        self._standings: dict[NodeId, Standing] = {}
        self._allowance: Allowance | None = None

    def slot(self, key: SlotKey) -> tuple[Task, ...]:
        """The tasks of a slot, past and present, the oldest first."""
        return self.slots.tasks(key)

    def latest(self, task: Task) -> Task:
        """The task with what was decided about it."""
        return self._touched.get(task.id, task)

    def count(self, key: SlotKey) -> None:
        """Find out anew what the slot's tasks mean to the allowance."""
        there = sum(is_there(task, self.standing(task)) for task in self.slot(key))
        if there:
            self.slots.there[key] = there
        else:
            self.slots.there.pop(key, None)

    def standing(self, task: Task) -> Standing:
        """The standing of a task of this service."""
        if task.node_id is None:
            return Standing.FINE
        found = self._standings.get(task.node_id)
        if found is None:
            found = self._standings[task.node_id] = standing_of(self.view.node(task.node_id))
        return standing_on(found, task)

    @cached_property
    def update_config(self) -> UpdateConfig:
        """How the service wants to be updated, or rolled back if it is being, as of the beginning of the decision."""
        service = self._service_at_first
        return update_config(service.spec.rollback if is_rolled_back(service) else service.spec.update)

    @property
    def allowance(self) -> Allowance:
        """What may be taken away of the service, as of the first look at it since the last :meth:`take`."""
        self.is_restless = True
        if self._allowance is None:
            self._allowance = Allowance(self.view, self.service, self.slots.there)
        return self._allowance

    def recount(self) -> None:
        """Have the next one who asks for the allowance see what was taken away without asking."""
        self._allowance = None

    def is_outdated(self, task: Task) -> bool:
        """True when the task has to be replaced to become what the service asks for."""
        service = self.service
        if service.job is not None:
            return is_outdated(self.view, service, task)
        if task.spec_version == service.spec_version:
            return False
        # Of a spec that wants the same places it is the same for all its tasks, wherever they are. All that is known by
        # its identity here lives as long as the draft.
        state = task.status.state
        key = (id(service.spec), id(task.spec), id(task.ports), state >= TaskState.PENDING, has_image(state))
        found = self._outdated.get(key)
        if found is None:
            found = is_outdated(self.view, service, task)
            if task.spec.placement == service.spec.task.placement:
                self._outdated[key] = found
        return found

    def is_of_update(self, task: Task) -> bool:
        """True for a task that was made since the present update began or, of the same wishes, has yet to run."""
        if task.spec_version == self.service.spec_version:
            return True
        return is_active(task) and not is_ended(task) and not task.started_at_ns and not self.is_outdated(task)

    def is_stopping(self, task: Task) -> bool:
        """True while a task that is wanted no more still runs, or may, where somebody can be waited for."""
        if is_active(task) or not is_held_by_node(task) or self.standing(task).is_lost:
            return False
        # One that was never started is told not to; an engine that is away cannot say whether anything is left of it.
        # Of a job it is waited for all the same: should it have been about to start, its work would be done twice.
        node = self.view.node(task.node_id) if task.node_id is not None else None
        may_run = task.status.state >= TaskState.STARTING or self.service.spec.mode.is_job
        return may_run or node is None or not node.status.engine_away

    def put(self, task: Task) -> None:
        """The task is now like this."""
        key = slot_of(task)
        self.slots.assume(key, task)
        self._touched[task.id] = task
        if self._is_bound:
            self.count(key)

    def delete(self, task: Task) -> None:
        """The task is of no use any more, and is no longer part of its slot."""
        self.slots.assume(slot_of(task), task, is_gone=True)
        self._doomed[task.id] = task

    def retire(self, task: Task, cause: Cause) -> None:
        """The task is wanted no more."""
        self.put(retired(task, TaskState.SHUTDOWN, self.now_ns, cause))

    def remove(self, task: Task, cause: Cause) -> None:
        """The task is to disappear, from the history as well."""
        if task.desired_state is not TaskState.REMOVE:
            self.put(with_desired(task, TaskState.REMOVE, cause))

    def explain(self, task: Task, reason: str) -> None:
        """Why the task is still where it should not be; "" when that is over."""
        if task.status.err != reason:
            self.put(attrs.evolve(task, status=attrs.evolve(task.status, err=reason)))

    def orphan(self, task: Task) -> Task:
        """The task's node is no member any more."""
        task = orphaned(task, self.now_ns)
        self.put(task)
        return task

    def promote(self, task: Task) -> None:
        """A task that waited may start."""
        self.put(with_desired(task, self._wanted, Cause.DELAY_OVER))

    def start(self, key: SlotKey, *, not_before_ns: int = 0) -> Task:
        """A new task for the slot, of the service's current spec.

        It waits in desired state READY while ``not_before_ns`` is ahead or a task of the slot is still stopping.
        """
        waits = not_before_ns > self.now_ns or any(self.is_stopping(task) for task in self.slot(key))
        if not_before_ns > self.now_ns:
            self._wake_at(not_before_ns)
        service, (meta, status) = self.service, self._created
        task = Task(
            id=TaskId(self._new_id()),
            meta=meta,
            spec=service.spec.task,
            spec_version=service.spec_version,
            service_id=service.id,
            service_name=service.spec.name,
            service_labels=service.spec.labels,
            slot=key if isinstance(key, int) else 0,
            node_id=None if isinstance(key, int) else key,
            status=status,
            iteration=None if service.job is None else service.job.iteration,
            desired_state=TaskState.READY if waits else self._wanted,
            ports=service.ports,
            not_before_ns=not_before_ns if not_before_ns > self.now_ns else 0,
            applied_at_ns=self.now_ns,
        )
        self.put(task)
        return task

    def waits_for(self, what: Hashable, until_ns: int, most_ns: int) -> bool:
        """True while ``what`` is still to be waited for: the decision is made again when it is over.

        The wait ends at ``until_ns`` by the clock, and after ``most_ns`` whatever the clock says.
        """
        if until_ns <= self.now_ns:
            return False
        self.is_restless = True
        left_ns = self._waits.left_ns(what, until_ns, self.now_ns, most_ns)
        if left_ns:
            self._wake_at(self.now_ns + left_ns)
        return left_ns > 0

    def waits_long(self, what: Hashable, mark: Hashable, most_ns: int) -> bool:
        """True while ``most_ns`` are not over since ``what`` is waited for with the same ``mark``.

        No time of the state is looked at: it is the time that this leader has waited.
        """
        left_ns = self._waits.left_of_ns(what, mark, most_ns)
        if left_ns:
            self._wake_at(self.now_ns + left_ns)
        return left_ns > 0

    def waits_to_start(self, task: Task) -> bool:
        """True while the restart delay of ``task`` is not over."""
        return self.waits_for(task.id, task.not_before_ns, restart_policy(task.spec).delay_ns or 0)

    def _wake_at(self, time_ns: int) -> None:
        self.wake_at_ns = earlier(self.wake_at_ns, time_ns)

    @property
    def size(self) -> int:
        """How many tasks were touched since the last :meth:`take`."""
        return len(self._touched) + len(self._doomed)

    def take(self) -> Decision:
        """What has become different since the last time. When others have had their turn, it all counts from then."""
        found = [] if self.service == self._service_before else [changes.update(self.service)]
        different: set[SlotKey] = {slot_of(task) for task in self._doomed.values()}
        alike: set[SlotKey] = set()
        for task_id, task in self._touched.items():
            key = slot_of(task)
            before = next((each for each in self.slots.stored.get(key, ()) if each.id == task_id), None)
            if before == task:
                alike.add(key)
                continue
            different.add(key)
            found.append(changes.create(task) if before is None else changes.update(task))
        for key in alike - different:
            self.slots.take_back(key)
        found += map(changes.delete, self._doomed.values())
        self._service_before = self.service
        self._touched, self._doomed = {}, {}
        # Some of it is known by the identity of what may be gone by then.
        self._outdated, self._standings, self._allowance = {}, {}, None
        return Decision(changes=tuple(found))

    def resume(self) -> None:
        """Others have had their turn."""
        self.view = self._view()
