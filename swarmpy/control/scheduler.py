"""PENDING to ASSIGNED: which node each task gets, or why it gets none.

Tasks of a service that want the same are placed together: the nodes are filtered once for all of them, and each next
one then costs the same however many nodes there are. A task that cannot be placed says why; the same reason is not
written twice, and a service whose tasks were all refused is not looked at again before something has changed.

A round is made in slices, between which others may have their turn. What a slice decided is counted as if it were
written already; what others write meanwhile is followed (:class:`~swarmpy.control.loads.Loads`), and makes the next
slice choose anew.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from operator import attrgetter

import attrs

from swarmpy.control.decision import Assigned, Decision, earlier
from swarmpy.control.draft import is_active, retired
from swarmpy.control.filters import Pipeline, Wants, without_free
from swarmpy.control.loads import Group, Loads, NodeLoad, reservation
from swarmpy.control.placement import Candidate, Tree
from swarmpy.model import changes
from swarmpy.model.changes import Change
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.patches import TaskPatch
from swarmpy.model.specs import GenericResource
from swarmpy.model.states import TaskState
from swarmpy.store.view import View

MAX_FAILURES = 5
"""Failures of a service's version on a node that put the node last (swarmkit ``manager/scheduler/nodeinfo.go``)."""
FAILURE_WINDOW_NS = 5 * 60 * 1_000_000_000
CHUNK = 1_000
"""Most tasks that are placed in one slice: some ten milliseconds."""
SLICE_WORK = 8_000
"""Most nodes that are looked at in one slice: as long again."""
FREE_REST_NS = 10 * 1_000_000_000
"""A reason in which only the largest free amount has changed is written no sooner after the last write of its task:
else every task that ends has the reasons of all that wait written anew."""
TASK_WORK = 5
"""What a task costs, in nodes that are looked at."""


def decide(view: View, now_ns: int) -> Decision:
    """All that is to be done on ``view``, in one step."""
    made = Scheduler(Loads.of(view))
    found: list[Change] = []
    for decision in made.slices(now_ns):
        for assigned in decision.assigned:
            found.extend(assigned.changes())
        found.extend(decision.changes)
    return Decision(changes=tuple(found), wake_at_ns=made.wake_at_ns)


_Key = tuple[Wants, int | None]
"""What is wanted; and the version of the service's tasks, where that failed too often on some node."""


@attrs.define(kw_only=True, eq=False)
class _Plan:
    """Where the next tasks that want the same go."""

    key: _Key
    pipeline: Pipeline
    order: Iterator[NodeLoad]
    as_of: int
    """The number of changes of the loads that it was made at."""
    reason: str = ""
    """Why there is no room for another; "" while there is."""


class Scheduler:
    """Places the tasks that wait in ``loads``, which the caller keeps up to date between slices."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._plan: _Plan | None = None
        self._slice = _Slice(0)
        self._work = 0
        self._decided = 0
        self._put_off = False
        self.wake_at_ns: int | None = None
        """After a round: when to make another though nothing has happened, as reasons were left as they are."""

    def slices(self, now_ns: int) -> Iterator[Decision]:
        """One round, in as many decisions as it takes to keep each short; some may be empty.

        Places all tasks that wait for a node, and ends those that are wanted no more and never had one.
        """
        loads = self._loads
        self.wake_at_ns = None
        self._slice, self._decided = _Slice(now_ns), 0
        for service_id in list(loads.waiting):
            if loads.looked_at.get(service_id) == loads.changes:
                continue
            tasks, began = list(loads.waiting.get(service_id, {}).values()), loads.changes
            decided = self._decided + self._slice.size
            self._put_off = False
            for start in range(0, len(tasks), CHUNK):
                yield from self._decide(tasks[start : start + CHUNK])
                if self._work >= SLICE_WORK or self._slice.size >= CHUNK:
                    yield self._end_slice()
            has_changed = self._decided + self._slice.size > decided
            if not (has_changed or self._put_off) and began == loads.changes and service_id in loads.waiting:
                loads.looked_at[service_id] = began
        self._plan = None
        if self._slice.size:
            yield self._end_slice()

    def _end_slice(self) -> Decision:
        """What was decided since the last one. To be yielded: others have their turn then."""
        decision = self._slice.decision()
        self._decided += self._slice.size
        self._slice, self._work = _Slice(self._slice.now_ns), 0
        return decision

    def _decide(self, tasks: Sequence[Task]) -> Iterator[Decision]:
        """What becomes of tasks of one service."""
        for (key, is_free), members in self._alike(tasks).items():
            self._work += TASK_WORK * len(members)
            if not is_free:
                self._place_fixed(key, members)
                continue
            plan = self._plan
            if plan is None or plan.key != key or plan.as_of != self._loads.changes:
                plan = self._plan = yield from self._new_plan(key)
            self._place(plan, members)

    def _alike(self, tasks: Sequence[Task]) -> dict[tuple[_Key, bool], list[Task]]:
        """The tasks that want a node, by what they want and whether they have to have one; ends those not wanted."""
        groups: dict[tuple[_Key, bool], list[Task]] = {}
        same: dict[tuple[int, int, int | None, bool], list[Task]] = {}
        failed: dict[int, bool] | None = {} if self._loads.has_failures else None
        last: Task | None = None
        members: list[Task] = []
        for task in tasks:
            desired = task.desired_state
            if desired is TaskState.SHUTDOWN:
                ended = retired(task, TaskState.SHUTDOWN, self._slice.now_ns, task.cause)
                self._slice.changes.append(changes.update(ended))
            elif task.status.state is TaskState.PENDING and (desired is TaskState.RUNNING or is_active(task)):
                # Most tasks share their spec, and what they want is then known without looking at it.
                if last is None or failed is not None or not _is_alike(task, last):
                    version = None if failed is None else self._failing_version(task, failed)
                    identity = (id(task.spec), id(task.ports), version, task.node_id is None)
                    known = same.get(identity)
                    if known is None:
                        key = (Wants.of(task), version)
                        known = same[identity] = groups.setdefault((key, task.node_id is None), [])
                    last, members = task, known
                members.append(task)
        return groups

    def _failing_version(self, task: Task, failed: dict[int, bool]) -> int | None:
        """The task's version if that failed too often on some node; ``failed`` remembers."""
        version = task.spec_version
        if version not in failed:
            failed[version] = bool(self._failures((task.service_id, version)))
        return version if failed[version] else None

    def _failures(self, group: Group) -> dict[NodeId, int]:
        """The nodes on which the group failed too often lately."""
        found = self._loads.failures(group, self._slice.now_ns - FAILURE_WINDOW_NS)
        return {node_id: count for node_id, count in found.items() if count >= MAX_FAILURES}

    def _place(self, plan: _Plan, tasks: Sequence[Task]) -> None:
        """Tasks that may go anywhere."""
        placed = 0 if plan.reason else self._assume(tasks, plan.order)
        if placed < len(tasks):
            plan.reason = plan.reason or plan.pipeline.explain(self._loads.nodes())
            for task in tasks[placed:]:
                self._explain(task, plan.reason)

    def _place_fixed(self, key: _Key, tasks: Sequence[Task]) -> None:
        """Tasks of a global service: this node or none."""
        pipeline = self._pipeline(key[0])
        for task in tasks:
            load = self._loads.by_node.get(task.node_id) if task.node_id else None
            if load is None or load.node is None:
                self._explain(task, pipeline.explain(()))
            elif pipeline.room(load):
                self._assume((task,), (load,))
            else:
                self._explain(task, pipeline.explain((load,)))

    def _assume(self, tasks: Sequence[Task], order: Iterable[NodeLoad]) -> int:
        """Give nodes to tasks that want the same; how many there were."""
        part = self._slice
        generic = _generic if tasks[0].spec.resources is not None else None
        given = self._loads.assume(tasks, order, part.status, generic)
        part.tasks.extend(tasks[: len(given)])
        part.given.extend(given)
        return len(given)

    def _new_plan(self, key: _Key) -> Generator[Decision, None, _Plan]:
        """Look at all nodes. Those that change while others have their turn are looked at once more at the end."""
        (wants, version), loads = key, self._loads
        pipeline, tree = self._pipeline(wants), Tree(wants.placement.spread)
        failures = {} if version is None else self._failures((wants.service_id, version))
        found: dict[NodeId, Candidate] = {}

        def look(nodes: Iterable[NodeLoad]) -> None:
            counts = loads.of_service(wants.service_id)
            for load in nodes:
                if load.is_open and (room := pipeline.room(load)):
                    of_service, failed = counts.get(load.id, 0), failures.get(load.id, 0)
                    candidate = Candidate(load=load, room=room, of_service=of_service, failures=failed)
                    found[load.id] = candidate
                    tree.add(candidate)

        nodes = list(loads.by_node.values())
        loads.touched.clear()
        for start in range(0, len(nodes), SLICE_WORK):
            if self._work and self._work + len(nodes) - start > SLICE_WORK:
                yield self._end_slice()
            part = nodes[start : start + SLICE_WORK]
            look(part)
            self._work += len(part)
        for node_id in loads.touched:
            if node_id in found:
                found[node_id].room = 0
        look([loads.by_node[node_id] for node_id in loads.touched])
        populated = [(loads.by_node[node_id], count) for node_id, count in loads.of_service(wants.service_id).items()]
        order = map(attrgetter("load"), tree.fill(populated))
        return _Plan(key=key, pipeline=pipeline, order=order, as_of=loads.changes)

    def _pipeline(self, wants: Wants) -> Pipeline:
        # The counts are asked for each time: those of a service without any are not kept.
        return Pipeline(wants, lambda node_id: self._loads.of_service(wants.service_id).get(node_id, 0))

    def _explain(self, task: Task, reason: str) -> None:
        if task.status.err == reason:
            return
        now_ns = self._slice.now_ns
        rests_ns = task.meta.updated_at_ns + FREE_REST_NS - now_ns
        # One that was written in the future was so by another clock.
        if 0 < rests_ns <= FREE_REST_NS and without_free(task.status.err) == without_free(reason):
            self._put_off = True
            self.wake_at_ns = earlier(self.wake_at_ns, now_ns + rests_ns)
            return
        explained = attrs.evolve(task, status=attrs.evolve(task.status, err=reason))
        self._slice.changes.append(changes.update(explained))


class _Slice:
    """What was decided since others had their turn."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.changes: list[Change] = []
        self.tasks: list[Task] = []
        self.given: list[tuple[NodeId, tuple[GenericResource, ...]]] = []
        self.status = TaskStatus(
            state=TaskState.ASSIGNED, timestamp_ns=now_ns, message="scheduler assigned task to node"
        )

    @property
    def size(self) -> int:
        """How many tasks are changed."""
        return len(self.changes) + len(self.tasks)

    def decision(self) -> Decision:
        """The same as a decision."""
        if not self.tasks:
            return Decision(changes=tuple(self.changes))
        node_ids, generic = zip(*self.given, strict=True)
        patch = TaskPatch(
            ids=tuple([task.id for task in self.tasks]),
            node_id=node_ids,
            status=(self.status,),
            applied_at_ns=(self.now_ns,),
            generic=generic if any(generic) else (),
        )
        return Decision(changes=tuple(self.changes), assigned=(Assigned(tasks=tuple(self.tasks), patch=patch),))


def _is_alike(one: Task, other: Task) -> bool:
    """True when two tasks of a service surely want the same: they share what says it."""
    if one.spec is not other.spec or one.ports is not other.ports:
        return False
    return (one.node_id is None) is (other.node_id is None)


def _generic(task: Task, load: NodeLoad) -> tuple[GenericResource, ...]:
    """Which generic resources of the node the task gets: the first names that are left, or a count."""
    return tuple(
        GenericResource(kind=each.kind, names=load.names_left(each.kind)[: each.count])
        if load.has_names(each.kind)
        else GenericResource(kind=each.kind, count=each.count)
        for each in reservation(task).generic
    )
