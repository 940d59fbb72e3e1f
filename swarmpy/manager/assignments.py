"""What each node is told to do, from the store. Pure.

A task is taken out of the endpoint table first and told to stop later (:class:`StopGate`): until every node that is
not down says that it routes by a table without the task, or a bounded wait is over, the node goes on seeing the task as
one to keep running. This is what lets a service be scaled down or updated without a dropped request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import attrs

from swarmpy.model import codec
from swarmpy.model.assignments import AssignmentUpdate
from swarmpy.model.evolving import evolver
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Kind, Node, Service, StoreObject, Task
from swarmpy.model.states import Cause, NodeState, TaskState
from swarmpy.store.view import View
from swarmpy.store.watch import Event, Resync

STOP_WAIT_S = 2.0
"""Most seconds between a task leaving the endpoint table and being told to stop (Docker waits 2 s always)."""
MAX_SPECS = 10_000
"""Specs whose size is remembered."""
BESIDE_SPEC_BYTES = 2048
"""Of a task: ids, ports, and what was seen of it."""

_without_story = evolver(Task, "cause", "story")


def is_routed(task: Task) -> bool:
    """True when requests may be on their way to the task: it runs and has a port that every node answers on."""
    return task.status.state == TaskState.RUNNING and any(p.publish_mode == "ingress" for p in task.ports)


class StopGate:
    """Which tasks that must stop are still held back.

    A task is held until it is released: a reader that sees the store before this gate has heard of the change must
    not tell the task to stop either.
    """

    def __init__(self) -> None:
        self._held: dict[TaskId, tuple[int, float]] = {}
        self._released: set[TaskId] = set()

    @property
    def is_holding(self) -> bool:
        """True while :meth:`release` may free a task."""
        return bool(self._held)

    def is_held(self, task: Task) -> bool:
        """True while ``task``, which should stop, must not be told so."""
        return is_routed(task) and task.id not in self._released

    def hold(self, task: Task, *, version: int, now: float) -> None:
        """``task`` should stop; the endpoint table lacks it from ``version`` on.

        ``now`` is monotonic seconds. A task that is held already keeps its deadline.
        """
        if self.is_held(task):
            self._held.setdefault(task.id, (version, now + STOP_WAIT_S))

    def release(self, applied: Iterable[int], now: float) -> list[TaskId]:
        """The tasks that may stop from now on, given the table version in force on each node; 0: it is not known."""
        lowest = min(applied, default=None)
        freed = [
            task_id
            for task_id, (version, deadline) in self._held.items()
            if now >= deadline or lowest is None or lowest >= version
        ]
        for task_id in freed:
            del self._held[task_id]
            self._released.add(task_id)
        return freed

    def forget(self, task_id: TaskId) -> None:
        """The task is gone or has ended."""
        self._held.pop(task_id, None)
        self._released.discard(task_id)


def node_tasks(view: View, node_id: NodeId, is_held: Callable[[Task], bool]) -> dict[TaskId, Task]:
    """All tasks the node must know of, as it must see them."""
    tasks = {}
    for task in view.tasks_on_node(node_id):
        if task.status.state < TaskState.ASSIGNED:
            continue
        if not task.desired_state.is_wanted and is_held(task):
            task = attrs.evolve(task, desired_state=TaskState.RUNNING)  # noqa: PLW2901
        tasks[task.id] = task
    return tasks


def _same_order(old: Task, new: Task) -> bool:
    # The observed status comes from the node itself: sending it back would answer every report with an assignment.
    # Everything else of a task is written once.
    return old.desired_state == new.desired_state


def _order(task: Task) -> Task:
    """What concerns the node: what became of a task is the managers' own affair."""
    return _without_story(task, Cause.NONE, b"") if task.story or task.cause else task


@attrs.define
class Told:
    """What one node was told of its tasks, in one session."""

    tasks: dict[TaskId, Task] = attrs.Factory(dict)
    sequence: int = 0
    is_whole: bool = False
    """The whole set was told, and what comes are changes of it."""
    is_behind: bool = False
    """The last update was not all that there was to tell."""

    def next_update(
        self, wanted: Mapping[TaskId, Task], size_of: Callable[[Task], int], most: float
    ) -> AssignmentUpdate | None:
        """What it is to be told next, at most ``most`` bytes or one task of it; None when it knows all of ``wanted``.

        What does not fit comes with the next call.
        """
        changed = [t for t in wanted.values() if (old := self.tasks.get(t.id)) is None or not _same_order(old, t)]
        removed = tuple(task_id for task_id in self.tasks if task_id not in wanted)
        part = _beginning(changed, size_of, most)
        self.is_behind = len(part) < len(changed)
        if self.is_whole and not changed and not removed:
            return None
        sequence, self.sequence = self.sequence, self.sequence + 1
        self.tasks = {i: t for i, t in self.tasks.items() if i in wanted} | {task.id: task for task in part}
        more = not self.is_whole and len(part) < len(changed)
        self.is_whole = not more
        return AssignmentUpdate(
            sequence=self.sequence, base_sequence=sequence, tasks=tuple(map(_order, part)), removed=removed, more=more
        )


def _beginning(tasks: list[Task], size_of: Callable[[Task], int], most: float) -> list[Task]:
    size = 0
    for count, task in enumerate(tasks):
        size += size_of(task)
        if size > most and count:
            return tasks[:count]
    return tasks


class TaskSizes:
    """How large tasks are as bytes, about. Nearly all of a task is its spec, which those of a service share."""

    def __init__(self) -> None:
        self._specs: OrderedDict[tuple[ServiceId, int], int] = OrderedDict()

    def of(self, task: Task) -> int:
        """In bytes; no task is much larger."""
        key = (task.service_id, task.spec_version)
        size = self._specs.get(key)
        if size is None:
            size = self._specs[key] = len(codec.pack(codec.packable(task.spec)))
            if len(self._specs) > MAX_SPECS:
                self._specs.popitem(last=False)
        labels = sum(len(name) + len(value) for name, value in task.service_labels.items())
        return size + labels + BESIDE_SPEC_BYTES


def is_report(old: StoreObject | None, new: Task) -> bool:
    """True for a change of which the task's node need not be told: it told it itself.

    A node with a hundred tasks reports four times of each, and each time all of them would be looked at.
    """
    if not isinstance(old, Task) or old.status.state < TaskState.ASSIGNED or old.node_id != new.node_id:
        return False
    if old.desired_state is not new.desired_state:
        return False
    # One that is to stop, and that requests are on their way to, is held back until it reports.
    return new.desired_state.is_wanted or not (is_routed(old) or is_routed(new))


def touches_routing(event: Event | Resync) -> bool:
    """False for the many changes of tasks that no request is routed to."""
    if isinstance(event, Resync):
        return True
    match event.kind:
        case Kind.CLUSTER | Kind.SECRET | Kind.CONFIG:
            return False
        case Kind.NODE:
            return _node_state(event.object) != _node_state(event.old)
        case Kind.SERVICE:
            return any(isinstance(service, Service) and service.ports for service in (event.object, event.old))
        case Kind.TASK:
            return any(isinstance(task, Task) and is_routed(task) for task in (event.object, event.old))


def _node_state(node: StoreObject | None) -> NodeState | None:
    return node.status.state if isinstance(node, Node) else None
