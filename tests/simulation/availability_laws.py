"""What must hold of how many tasks of a service run, whenever the cluster itself takes one away.

A decision is judged by what its maker may have seen: what was lost to others, or asked for, within the last moments may
have come too late for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from swarmpy.control.availability import is_there
from swarmpy.control.nodes import Standing, standing
from swarmpy.control.ports import starts_first
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import Cause, ServiceMode, TaskState
from swarmpy.store.view import View
from swarmpy.store.watch import Event

Slot = tuple[str, int]


class AvailabilityLaws:
    """``now`` tells the time, ``hindsight`` is how long ago a decision may have been made; both in seconds."""

    def __init__(
        self, fail: Callable[[str], None], checked: Callable[[str], None], now: Callable[[], float], hindsight: float
    ) -> None:
        self._fail = fail
        self._checked = checked
        self._now = now
        self._hindsight = hindsight
        self._lost: deque[tuple[float, Slot]] = deque()
        """Slots whose task ended, or whose node was lost, without anybody's asking."""
        self._former: deque[tuple[float, Service]] = deque()
        """Services as they were before they changed."""

    def check(self, view: View, events: Iterable[Event]) -> None:
        """Look at what an entry has changed."""
        self._forget()
        taken: dict[ServiceId, list[Task]] = {}
        for event in events:
            new, old = event.object, event.old
            if isinstance(old, Service):
                self._former.append((self._now(), old))
            elif isinstance(old, Node):
                self._note_node(view, old, new if isinstance(new, Node) else None)
            elif isinstance(old, Task) and is_there(old, Standing.FINE):
                if isinstance(new, Task) and new.status.state is TaskState.RUNNING:
                    if new.desired_state is TaskState.SHUTDOWN and not standing(view, new).is_lost:
                        taken.setdefault(new.service_id, []).append(new)
                elif not isinstance(new, Task) or new.desired_state.is_wanted:
                    self._lost.append((self._now(), (old.service_id, old.slot)))
        for service_id, tasks in taken.items():
            service = view.service(service_id)
            if service is not None and service.spec.mode is ServiceMode.REPLICATED:
                self._check_bound(view, service, tasks)
                for task in tasks:
                    self._check_start_first(view, service, task)

    def _forget(self) -> None:
        for remembered in (self._lost, self._former):
            while remembered and remembered[0][0] < self._now() - self._hindsight:  # type: ignore[index]
                remembered.popleft()  # type: ignore[attr-defined]

    def _note_node(self, view: View, old: Node, new: Node | None) -> None:
        for task in view.tasks_on_node(old.id):
            fell = new is None or standing(view, task).is_lost
            if fell and is_there(task, Standing.FINE):
                self._lost.append((self._now(), (task.service_id, task.slot)))

    def _as_it_was(self, service: Service) -> Iterator[Service]:
        """The service now, and as it was when a decision may have been made."""
        yield service
        yield from (former for _, former in self._former if former.id == service.id)

    def _check_bound(self, view: View, service: Service, taken: Iterable[Task]) -> None:
        least = service.spec.desired_replicas
        for each in self._as_it_was(service):
            replicas, bound = each.spec.desired_replicas, each.spec.max_unavailable
            least = min(least, 0 if bound is None else replicas - bound.of(replicas))
        tasks = view.tasks_of_service(service.id)
        there = {task.slot for task in tasks if is_there(task, standing(view, task))}
        there |= {slot for _, (service_id, slot) in self._lost if service_id == service.id}
        # A task whose slot has another that runs may always go, also while too many others are missing.
        if len(there) < least and not all(task.slot in there for task in taken):
            self._fail(
                f"{service.spec.name} may miss {service.spec.max_unavailable} of {service.spec.desired_replicas}, and "
                f"only {sorted(there)} are left by a drain or an update"
            )
        if least:
            self._checked("no more missing than may be")

    def _check_start_first(self, view: View, service: Service, taken: Task) -> None:
        is_to_go = standing(view, taken) is Standing.DRAINED or taken.cause is Cause.MISPLACED
        if service.pending_delete or not is_to_go or not all(map(starts_first, self._as_it_was(service))):
            # Of a service that is removed, no other one is to run.
            return
        others = [t for t in view.tasks_of_service(service.id) if t.slot == taken.slot and t.id != taken.id]
        has_another = any(is_there(task, standing(view, task)) for task in others)
        cannot_be_placed = any(task.status.state < TaskState.ASSIGNED and task.status.err for task in others)
        lost_another = (service.id, taken.slot) in {slot for _, slot in self._lost}
        if not has_another and not cannot_be_placed and not lost_another:
            self._fail(f"task {taken.id} of {service.spec.name} leaves its node before another one runs")
        self._checked("a move starts first" if taken.cause is Cause.MISPLACED else "a drain starts first")
