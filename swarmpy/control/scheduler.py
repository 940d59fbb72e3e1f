"""PENDING to ASSIGNED: which node each task gets, or why it gets none.

Tasks are placed by groups of one service and spec version: the nodes are filtered once for the group, then it is
placed in one pass. A task that cannot be placed says why; the same reason is not written twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from swarmpy.control.decision import Decision
from swarmpy.control.draft import is_active, is_held_by_node, retired
from swarmpy.control.filters import NodeLoad, Pipeline
from swarmpy.control.placement import Candidate, grow
from swarmpy.model import changes
from swarmpy.model.changes import Change
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.store.view import View

MAX_FAILURES = 5
"""Failures of a service's version on a node that put the node last (swarmkit ``manager/scheduler/nodeinfo.go``)."""
FAILURE_WINDOW_NS = 5 * 60 * 1_000_000_000

Group = tuple[ServiceId, int]


def decide(view: View, now_ns: int) -> Decision:
    """Place all tasks that wait for a node. Ends tasks that are wanted no more and never had one."""
    found: list[Change] = []
    groups: dict[Group, list[Task]] = {}
    for task in view.tasks_waiting():
        if task.desired_state == TaskState.SHUTDOWN:
            found.append(changes.update(retired(task, TaskState.SHUTDOWN, now_ns)))
        elif task.status.state == TaskState.PENDING and is_active(task):
            groups.setdefault((task.service_id, task.spec_version), []).append(task)
    if groups:
        cluster = _Cluster(view, groups, now_ns)
        for group, tasks in groups.items():
            found.extend(cluster.place(group, tasks))
    return Decision(changes=tuple(found))


class _Cluster:
    """All nodes and their loads during one pass."""

    def __init__(self, view: View, groups: Iterable[Group], now_ns: int) -> None:
        self._now_ns = now_ns
        self._assigned = TaskStatus(
            state=TaskState.ASSIGNED, timestamp_ns=now_ns, message="scheduler assigned task to node"
        )
        self._loads = {node.id: NodeLoad.of(node) for node in view.nodes()}
        self._failures: dict[Group, dict[NodeId, int]] = {group: {} for group in groups}
        for task in view.tasks():
            load = self._loads.get(task.node_id) if task.node_id else None
            if load is None:
                continue
            if is_held_by_node(task):
                load.occupy(task)
                if is_active(task):
                    load.count(task)
            elif self._has_failed_lately(task):
                failures = self._failures.get((task.service_id, task.spec_version))
                if failures is not None:
                    failures[load.id] = failures.get(load.id, 0) + 1

    def place(self, group: Group, tasks: Sequence[Task]) -> list[Change]:
        """What becomes of the tasks of a group."""
        pipeline = Pipeline(tasks[0])
        free = [task for task in tasks if task.node_id is None]
        found = [self._place_on(pipeline, task) for task in tasks if task.node_id is not None]
        if free:
            found.extend(self._spread(group, pipeline, free))
        return [change for change in found if change is not None]

    def _place_on(self, pipeline: Pipeline, task: Task) -> Change | None:
        """A task of a global service: this node or none."""
        load = self._loads.get(task.node_id) if task.node_id else None
        if load is not None and pipeline.room(load):
            return self._assign(task, load)
        return _explain(task, pipeline.explain([load] if load else []))

    def _spread(self, group: Group, pipeline: Pipeline, tasks: Sequence[Task]) -> list[Change | None]:
        service_id = group[0]
        failures = self._failures[group]
        candidates = []
        for load in self._loads.values():
            room = pipeline.room(load)
            if room:
                failed = failures.get(load.id, 0)
                candidates.append(Candidate(load=load, room=room, failures=failed if failed >= MAX_FAILURES else 0))
        placement = tasks[0].spec.placement
        tree = grow(service_id, candidates, placement.spread if placement else (), tuple(self._loads.values()))
        found: list[Change | None] = []
        reason = ""
        for task in tasks:
            candidate = None if reason else tree.take()
            if candidate is not None:
                found.append(self._assign(task, candidate.load))
            else:
                reason = reason or pipeline.explain(self._loads.values())
                found.append(_explain(task, reason))
        return found

    def _assign(self, task: Task, load: NodeLoad) -> Change:
        load.occupy(task)
        load.count(task)
        return changes.update(attrs.evolve(task, node_id=load.id, status=self._assigned, applied_at_ns=self._now_ns))

    def _has_failed_lately(self, task: Task) -> bool:
        return (
            task.status.state in (TaskState.FAILED, TaskState.REJECTED)
            and task.applied_at_ns > self._now_ns - FAILURE_WINDOW_NS
        )


def _explain(task: Task, reason: str) -> Change | None:
    if task.status.err == reason:
        return None
    return changes.update(attrs.evolve(task, status=attrs.evolve(task.status, err=reason)))
