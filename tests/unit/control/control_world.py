"""A small cluster without a network: the real store and decisions, agents that obey, a clock moved by hand."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from swarmpy.control import allocator, enforcer, nodes, orchestrator, scheduler
from swarmpy.control.decision import Decision, earlier
from swarmpy.control.slots import Slots, node_changed
from swarmpy.control.waiting import Waits
from swarmpy.model import changes, codec
from swarmpy.model.changes import Action, Change, ChangeList
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.objects import Kind, Node, NodeDescription, NodeStatus, Service, Task
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    NodeSpec,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import Actor, Availability, NodeState, TaskState, may_advance
from swarmpy.store.memory import Store
from swarmpy.store.view import View

SECOND = 1_000_000_000
GIB = 1 << 30
MAX_ROUNDS = 60


class HandClock:
    """A clock that stands still until it is moved. What the wall shows can be set by ``skew_ns``."""

    def __init__(self) -> None:
        self._steady_ns = 1_700_000_000 * SECOND
        self.skew_ns = 0

    @property
    def now_ns(self) -> int:
        return self._steady_ns + self.skew_ns

    @now_ns.setter
    def now_ns(self, now_ns: int) -> None:
        self._steady_ns = now_ns - self.skew_ns

    def time_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self._steady_ns / SECOND


def spec(name: str = "web", replicas: int | None = 2, image: str = "nginx:1", **more: Any) -> ServiceSpec:
    """A service spec; keyword arguments of the parts are put where they belong."""
    reservations = more.pop("reserve", None)
    task = TaskSpec(
        container=ContainerSpec(image=image),
        resources=ResourceRequirements(reservations=reservations) if reservations else None,
        restart=more.pop("restart", RestartPolicy()),
        placement=more.pop("placement", Placement()),
    )
    ports: tuple[PortConfig, ...] = more.pop("ports", ())
    return ServiceSpec(
        name=name,
        task=task,
        replicas=replicas,
        endpoint=EndpointSpec(ports=ports) if ports else None,
        update=more.pop("update", UpdateConfig()),
        **more,
    )


class World:
    """Everything a test of decisions needs. Checks with each write that observed and desired states only rise.

    What is known of slots is kept as a leader keeps it, and decisions are made in slices. It is checked that it comes
    to the same as deciding from scratch does.
    """

    def __init__(self, limit: int = 5) -> None:
        self._slots: dict[ServiceId, Slots] = {}
        self.clock = HandClock()
        self.store = Store(self.clock)
        self.limit = limit
        self.crashing: Callable[[Task], bool] = lambda task: False
        self.rejecting: Callable[[Task], bool] = lambda task: False
        self.stalling: Callable[[Task], bool] = lambda task: False
        """Those that are prepared, and then never run."""
        self.stubborn: Callable[[Task], bool] = lambda task: False
        """Those that do not stop."""
        self.wake_at_ns: int | None = None
        self.new_leader()
        self._index = 0
        self._ids = itertools.count(1)

    def new_leader(self, skew_ns: int = 0) -> None:
        """Another one leads, whose clock is so far ahead; what the last one remembered is gone."""
        self.clock.skew_ns = skew_ns
        self._waits: dict[ServiceId, Waits] = {}

    def waits(self, service_id: ServiceId) -> Waits:
        return self._waits.setdefault(service_id, Waits(self.clock.monotonic))

    # -- writing ------------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        return f"{next(self._ids):025d}"

    def write(self, *changed: Change) -> None:
        if not changed:
            return
        for change in changed:
            self._check(change)
        gone = [task for change in changed if change.object is None and (task := self.view.task(change.id))]
        self._index += 1
        self.store.apply(self._index, codec.encode(ChangeList(changes=changed)))
        for change in changed:
            task = self.view.task(change.id) if change.kind is Kind.TASK else None
            if task is not None and task.service_id in self._slots:
                self._slots[task.service_id].task_changed(task)
            elif change.kind is Kind.NODE:
                node_changed(self._slots, self.view, NodeId(change.id))
        for task in gone:
            if task.service_id in self._slots:
                self._slots[task.service_id].task_changed(task, is_gone=True)

    def _check(self, change: Change) -> None:
        if change.task is None or change.action is not Action.UPDATE:
            return
        before, after = self.view.task(change.id), change.task
        assert before is not None
        assert after.desired_state >= before.desired_state, (before, after)
        assert before.node_id in (None, after.node_id), "a task never moves"
        old, new = before.status.state, after.status.state
        assert old == new or any(may_advance(actor, old, new) for actor in Actor), (old, new)

    @property
    def view(self) -> View:
        return self.store.view()

    def add_node(self, name: str, cpus: float = 4, memory: int = 8 * GIB, **labels: str) -> Node:
        node = Node(
            id=NodeId(name.rjust(25, "0")),
            spec=NodeSpec(labels=labels),
            description=NodeDescription(
                hostname=name, resources=Resources(nano_cpus=int(cpus * 1e9), memory_bytes=memory)
            ),
            status=NodeStatus(state=NodeState.READY, address=f"10.0.0.{len(self.view.nodes()) + 1}"),
        )
        self.write(changes.create(node))
        return node

    def set_node(
        self,
        node: Node,
        state: NodeState | None = None,
        availability: Availability | None = None,
        leaving: bool | None = None,
    ) -> None:
        current = self.view.node(node.id)
        assert current is not None
        is_leaving = current.status.leaving if leaving is None else leaving
        status = attrs.evolve(current.status, state=state or current.status.state, leaving=is_leaving)
        wanted = attrs.evolve(current.spec, availability=availability or current.spec.availability)
        self.write(changes.update(attrs.evolve(current, status=status, spec=wanted)))

    def add_service(self, wanted: ServiceSpec) -> ServiceId:
        service = Service(id=ServiceId(self.new_id()), spec=wanted)
        self.write(changes.create(service))
        return service.id

    def service(self, service_id: ServiceId) -> Service:
        found = self.view.service(service_id)
        assert found is not None
        return found

    def update_service(self, service_id: ServiceId, wanted: ServiceSpec) -> None:
        """As a user does it: the update status begins anew."""
        service = self.service(service_id)
        self.write(changes.update(attrs.evolve(service, spec=wanted, previous_spec=service.spec, update_status=None)))

    def remove_service(self, service_id: ServiceId) -> None:
        self.write(changes.update(attrs.evolve(self.service(service_id), pending_delete=True)))

    def report(self, task: Task, state: TaskState, err: str = "") -> None:
        """An agent has observed the task."""
        current = self.view.task(task.id)
        assert current is not None
        now = self.clock.now_ns
        started = now if state is TaskState.RUNNING and not current.started_at_ns else current.started_at_ns
        status = attrs.evolve(current.status, state=state, timestamp_ns=now, err=err)
        self.write(changes.update(attrs.evolve(current, status=status, applied_at_ns=now, started_at_ns=started)))

    # -- deciding -----------------------------------------------------------------------------------------------------

    def decide(self) -> int:
        """One round of all decisions; returns how many changes were written."""
        written = 0
        wakes: list[int | None] = []

        def take(decision: Decision) -> None:
            nonlocal written
            written += len(decision.changes)
            wakes.append(decision.wake_at_ns)
            self.write(*decision.changes)

        now = self.clock.now_ns
        take(nodes.decide(self.view, now))
        take(enforcer.decide(self.view, [node.id for node in self.view.nodes()], now))
        everything = [ServiceId(service_id) for service_id in self.view.service_ids()]
        for service_id in everything:
            for decision in self.slices(service_id):
                take(decision)
        take(allocator.decide(self.view, everything))
        take(scheduler.decide(self.view, now))
        self.wake_at_ns = functools.reduce(earlier, wakes, None)
        return written

    def decide_service(self, service_id: ServiceId) -> Decision:
        """What is to be done about one service as things are, from scratch."""
        waits = self.waits(service_id)
        return orchestrator.decide_service(
            self.view, service_id, self.clock.now_ns, self.new_id, waits, limit=self.limit
        )

    def slices(self, service_id: ServiceId) -> Iterator[Decision]:
        """The same as a leader makes it."""
        slots = self._slots.get(service_id)
        if slots is None:
            slots = self._slots[service_id] = Slots.of(self.view.tasks_of_service(service_id))
        waits = self.waits(service_id)
        while True:
            before = self._index
            look = orchestrator.Look(
                slots, lambda: self.view, service_id, self.clock.now_ns, self.new_id, waits, limit=self.limit
            )
            yield from look.slices()
            if not look.has_more or self._index == before:
                break
        yield Decision(wake_at_ns=look.wake_at_ns)

    def settle(self) -> None:
        """Decide until there is nothing left to decide."""
        for _ in range(MAX_ROUNDS):
            if not self.decide():
                self.check_what_is_known()
                return
        raise AssertionError("the decisions do not come to rest")

    def check_what_is_known(self) -> None:
        """What is kept of slots is what a look at all of them finds; there is nothing to decide."""
        for service_id, kept in self._slots.items():
            fresh = Slots.of(self.view.tasks_of_service(service_id))
            waits = copy.deepcopy(self.waits(service_id))
            now_ns, limit = self.clock.now_ns, self.limit
            look = orchestrator.Look(fresh, lambda: self.view, service_id, now_ns, self.new_id, waits, limit=limit)
            assert [change for decision in look.slices() for change in decision.changes] == []
            assert fresh.stored == kept.stored
            service = self.view.service(service_id)
            if service is None or service.pending_delete:
                continue
            for name in ("held", "runs_on", "there", "begun", "under_way", "restless"):
                assert getattr(fresh, name) == getattr(kept, name), (service_id, name)
            assert fresh.progress.slots == kept.progress.slots
            for name in ("outdated", "waiting", "flying", "failed", "started", "stuck"):
                assert getattr(fresh.progress, name) == getattr(kept.progress, name), (service_id, name)

    def agents(self) -> int:
        """Each agent that answers brings its tasks one step further; returns how many moved."""
        moved = 0
        for task in self.view.tasks():
            node = self.view.node(task.node_id) if task.node_id else None
            state = task.status.state
            if node is None or node.status.state is not NodeState.READY:
                continue
            if not TaskState.ASSIGNED <= state <= TaskState.RUNNING:
                continue
            desired = min(task.desired_state, TaskState.RUNNING)
            held = self.stalling if task.desired_state.is_wanted else self.stubborn
            if state >= TaskState.READY and held(task):
                continue
            if not task.desired_state.is_wanted:
                self.report(task, TaskState.SHUTDOWN)
            elif desired > state and state < TaskState.READY:
                rejects = self.rejecting(task)
                self.report(task, TaskState.REJECTED if rejects else TaskState.READY, "no" if rejects else "")
            elif desired > state:
                crashes = self.crashing(task)
                self.report(task, TaskState.FAILED if crashes else TaskState.RUNNING, "boom" if crashes else "")
            else:
                continue
            moved += 1
        return moved

    def run(self) -> None:
        """Decide and obey until all is quiet at this moment of time."""
        for _ in range(MAX_ROUNDS):
            self.settle()
            if not self.agents():
                return
        raise AssertionError("the cluster does not come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass, deciding whenever a decision asked to be made again."""
        end = self.clock.now_ns + int(seconds * SECOND)
        self.run()
        while self.wake_at_ns is not None and self.wake_at_ns <= end:
            assert self.wake_at_ns > self.clock.now_ns, "a wake-up that lies in the past never ends"
            self.clock.now_ns = self.wake_at_ns
            self.run()
        self.clock.now_ns = end
        self.run()

    # -- looking ------------------------------------------------------------------------------------------------------

    def tasks(self, service_id: ServiceId, *states: TaskState) -> list[Task]:
        """The tasks of a service, of the given observed states if any are given."""
        found = self.view.tasks_of_service(service_id)
        return [task for task in found if not states or task.status.state in states]

    def running(self, service_id: ServiceId) -> list[Task]:
        """The tasks that run and are meant to, by slot."""
        found = (t for t in self.tasks(service_id, TaskState.RUNNING) if t.desired_state == TaskState.RUNNING)
        return sorted(found, key=lambda t: (t.slot, t.node_id or ""))

    def images(self, service_id: ServiceId) -> list[str]:
        return [task.spec.container.image for task in self.running(service_id)]

    def spread(self, service_id: ServiceId) -> list[int]:
        """How many tasks of the service run on each node, in the order of the nodes."""
        placed: Sequence[Task] = self.running(service_id)
        return [sum(task.node_id == node.id for task in placed) for node in self.view.nodes()]
