"""PENDING to ASSIGNED: which node each task gets, or why it gets none.

Tasks of a service that want the same are placed together: the nodes are filtered once for all of them, and each next
one then costs the same however many nodes there are. A task that cannot be placed says why; the same reason is not
written twice, and a service whose tasks were all refused is not looked at again before something has changed.

A round is made in slices, between which others may have their turn. What a slice decided is counted as if it were
written already; what others write meanwhile is followed (:class:`~swarmpy.control.loads.Loads`), and makes the next
slice choose anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from swarmpy.control.decision import Decision, earlier
from swarmpy.control.draft import is_active, retired
from swarmpy.control.filters import Pipeline, Wants, without_free
from swarmpy.control.loads import Group, Loads, NodeLoad, reservation
from swarmpy.control.placement import Candidate, fill
from swarmpy.model import changes
from swarmpy.model.changes import Change
from swarmpy.model.evolving import evolver
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.specs import GenericResource
from swarmpy.model.states import TaskState
from swarmpy.store.view import View

MAX_FAILURES = 5
"""Failures of a service's version on a node that put the node last (swarmkit ``manager/scheduler/nodeinfo.go``)."""
FAILURE_WINDOW_NS = 5 * 60 * 1_000_000_000
CHUNK = 1_000
"""Most tasks that are placed in one slice: some ten milliseconds."""
SLICE_WORK = 20_000
"""Nodes that were looked at since the last slice, for services of few tasks: as long again."""
FREE_REST_NS = 10 * 1_000_000_000
"""A reason in which only the largest free amount has changed is written no sooner after the last write of its task:
else every task that ends has the reasons of all that wait written anew."""
TASK_WORK = 10
"""What a task costs, in nodes that are looked at."""


_assigned = evolver(Task, "node_id", "status", "applied_at_ns", "generic")


def decide(view: View, now_ns: int) -> Decision:
    """All that is to be done on ``view``, in one step."""
    made = Scheduler(Loads.of(view))
    found = tuple(change for decision in made.slices(now_ns) for change in decision.changes)
    return Decision(changes=found, wake_at_ns=made.wake_at_ns)


@attrs.define(kw_only=True, eq=False)
class _Plan:
    """Where the next tasks that want the same go."""

    key: tuple[Wants, int | None]
    pipeline: Pipeline
    order: Iterator[Candidate]
    as_of: int
    """The number of changes of the loads that it was made at."""
    reason: str = ""
    """Why there is no room for another; "" while there is."""


class Scheduler:
    """Places the tasks that wait in ``loads``, which the caller keeps up to date between slices."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._plan: _Plan | None = None
        self._work = 0
        self._put_off = False
        self.wake_at_ns: int | None = None
        """After a round: when to make another though nothing has happened, as reasons were left as they are."""

    def slices(self, now_ns: int) -> Iterator[Decision]:
        """One round, in as many decisions as it takes to keep each short; some may be empty.

        Places all tasks that wait for a node, and ends those that are wanted no more and never had one.
        """
        loads, found = self._loads, list[Change]()
        self.wake_at_ns = None
        for service_id in list(loads.waiting):
            if loads.looked_at.get(service_id) == loads.changes:
                continue
            tasks, began, has_changed = list(loads.waiting.get(service_id, {}).values()), loads.changes, False
            self._put_off = False
            for start in range(0, len(tasks), CHUNK):
                part = self._decide(service_id, tasks[start : start + CHUNK], now_ns)
                found.extend(part)
                has_changed = has_changed or bool(part)
                if self._work >= SLICE_WORK or len(found) >= CHUNK:
                    yield Decision(changes=tuple(found))
                    found, self._work = [], 0
            if not (has_changed or self._put_off) and began == loads.changes and service_id in loads.waiting:
                loads.looked_at[service_id] = began
        self._plan = None
        if found:
            yield Decision(changes=tuple(found))

    def _decide(self, service_id: ServiceId, tasks: Sequence[Task], now_ns: int) -> list[Change]:
        found: list[Change | None] = []
        groups: dict[tuple[Wants, int | None], list[Task]] = {}
        same: dict[tuple[int, int, int | None], list[Task]] = {}
        failures: dict[int, dict[NodeId, int]] = {}
        for task in tasks:
            if task.desired_state == TaskState.SHUTDOWN:
                found.append(changes.update(retired(task, TaskState.SHUTDOWN, now_ns)))
            elif task.status.state == TaskState.PENDING and is_active(task):
                version = task.spec_version
                failed = failures.get(version)
                if failed is None:
                    failed = failures[version] = self._failures((service_id, version), now_ns)
                # Most tasks share their spec, and what they want is then known without looking at it.
                identity = (id(task.spec), id(task.ports), version if failed else None)
                members = same.get(identity)
                if members is None:
                    members = same[identity] = groups.setdefault((Wants.of(task), identity[2]), [])
                members.append(task)
        for key, members in groups.items():
            self._work += TASK_WORK * len(members)
            found.extend(self._place(key, members, failures.get(members[0].spec_version, {}), now_ns))
        return [change for change in found if change is not None]

    def _failures(self, group: Group, now_ns: int) -> dict[NodeId, int]:
        """The nodes on which the group failed too often lately."""
        found = self._loads.failures(group, now_ns - FAILURE_WINDOW_NS)
        return {node_id: count for node_id, count in found.items() if count >= MAX_FAILURES}

    def _place(
        self, key: tuple[Wants, int | None], tasks: Sequence[Task], failures: dict[NodeId, int], now_ns: int
    ) -> Iterable[Change | None]:
        """What becomes of tasks that want the same."""
        assigned = TaskStatus(state=TaskState.ASSIGNED, timestamp_ns=now_ns, message="scheduler assigned task to node")
        fixed = [task for task in tasks if task.node_id is not None]
        if fixed:
            counts = self._loads.of_service(key[0].service_id)
            pipeline = Pipeline(key[0], lambda node_id: counts.get(node_id, 0))
            for task in fixed:
                yield self._place_on(pipeline, task, assigned)
        free = tasks if not fixed else [task for task in tasks if task.node_id is None]
        if not free:
            return
        plan = self._plan
        if plan is None or plan.key != key or plan.as_of != self._loads.changes:
            plan = self._plan = self._new_plan(key, failures)
        placed = 0
        if not plan.reason:
            for task, candidate in zip(free, plan.order, strict=False):
                placed += 1
                yield self._assign(task, candidate.load, assigned)
        if placed < len(free):
            plan.reason = plan.reason or plan.pipeline.explain(self._loads.nodes())
            for task in free[placed:]:
                yield self._explain(task, plan.reason, now_ns)

    def _new_plan(self, key: tuple[Wants, int | None], failures: dict[NodeId, int]) -> _Plan:
        wants, loads = key[0], self._loads
        counts = loads.of_service(wants.service_id)
        pipeline = Pipeline(wants, lambda node_id: loads.of_service(wants.service_id).get(node_id, 0))
        candidates = [
            Candidate(load=load, room=room, of_service=counts.get(load.id, 0), failures=failures.get(load.id, 0))
            for load in loads.by_node.values()
            if load.is_open and (room := pipeline.room(load))
        ]
        self._work += len(loads.by_node)
        populated = [(loads.by_node[node_id], count) for node_id, count in counts.items()]
        order = fill(candidates, wants.placement.spread, populated)
        return _Plan(key=key, pipeline=pipeline, order=order, as_of=loads.changes)

    def _place_on(self, pipeline: Pipeline, task: Task, assigned: TaskStatus) -> Change | None:
        """A task of a global service: this node or none."""
        load = self._loads.by_node.get(task.node_id) if task.node_id else None
        if load is None or load.node is None:
            return self._explain(task, pipeline.explain(()), assigned.timestamp_ns)
        if pipeline.room(load):
            return self._assign(task, load, assigned)
        return self._explain(task, pipeline.explain((load,)), assigned.timestamp_ns)

    def _assign(self, task: Task, load: NodeLoad, status: TaskStatus) -> Change:
        task = _assigned(task, load.id, status, status.timestamp_ns, _generic(task, load))
        self._loads.assume(task)
        return changes.update(task)

    def _explain(self, task: Task, reason: str, now_ns: int) -> Change | None:
        if task.status.err == reason:
            return None
        rests_ns = task.meta.updated_at_ns + FREE_REST_NS - now_ns
        # One that was written in the future was so by another clock.
        if 0 < rests_ns <= FREE_REST_NS and without_free(task.status.err) == without_free(reason):
            self._put_off = True
            self.wake_at_ns = earlier(self.wake_at_ns, now_ns + rests_ns)
            return None
        return changes.update(attrs.evolve(task, status=attrs.evolve(task.status, err=reason)))


def _generic(task: Task, load: NodeLoad) -> tuple[GenericResource, ...]:
    """Which generic resources of the node the task gets: the first names that are left, or a count."""
    if task.spec.resources is None:
        return ()
    return tuple(
        GenericResource(kind=each.kind, names=load.names_left(each.kind)[: each.count])
        if load.has_names(each.kind)
        else GenericResource(kind=each.kind, count=each.count)
        for each in reservation(task).generic
    )
