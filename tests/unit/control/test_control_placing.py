"""Placement beside a slow, obvious reference: each task on an allowed node, the best of them, or with a true reason."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any
from unittest import mock

import attrs
import pytest
from control_world import GIB, SECOND, World
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from swarmpy.control import scheduler
from swarmpy.control.decision import Decision
from swarmpy.control.loads import Loads
from swarmpy.control.scheduler import FAILURE_WINDOW_NS, MAX_FAILURES, Scheduler
from swarmpy.model import changes
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Node, NodeDescription, NodeStatus, Platform, Plugin, Task, TaskStatus
from swarmpy.model.specs import (
    ContainerSpec,
    GenericResource,
    LogDriver,
    Mount,
    NodeSpec,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    TaskSpec,
)
from swarmpy.model.states import Availability, NodeState, Role, TaskState

NOW = 1_700_000_000 * SECOND
ZONES = ("", "eu", "US")
GPUS = (
    (),
    (GenericResource(kind="gpu", count=3),),
    (GenericResource(kind="gpu", names=("a", "b")),),
)
PLUGINS = ((), (Plugin(type="volume", name="nfs:latest"),), (Plugin(type="volume", name="local"),))


@st.composite
def node_of(draw: st.DrawFn) -> dict[str, Any]:
    """What is drawn of a node."""
    zone = draw(st.sampled_from(ZONES))
    return {
        "labels": {"zone": zone} if zone else {},
        "engine_labels": draw(st.sampled_from([{}, {"disk": "SSD"}])),
        "state": draw(st.sampled_from([NodeState.READY] * 5 + list(NodeState))),
        "availability": draw(st.sampled_from([Availability.ACTIVE] * 5 + list(Availability))),
        "role": draw(st.sampled_from(list(Role))),
        "platform": draw(st.sampled_from([Platform(architecture="x86_64"), Platform(architecture="arm64")])),
        "resources": Resources(
            nano_cpus=draw(st.integers(0, 4)) * 10**9,
            memory_bytes=draw(st.integers(0, 4)) * GIB,
            generic=draw(st.sampled_from(GPUS)),
        ),
        "plugins": draw(st.sampled_from(PLUGINS)),
    }


CONSTRAINTS = (
    "node.labels.zone==EU",
    "node.labels.zone!=eu",
    "engine.labels.disk==ssd",
    "node.role==worker",
    "node.role!=manager",
    "node.hostname!=n1",
    "node.id==N2",
    "node.ip==10.0.0.0/31",
    "node.ip!=10.0.0.2",
    "node.platform.os==linux",
    "node.platform.arch==amd64",
    "node.platform.arch!=aarch64",
)


@st.composite
def spec_of(draw: st.DrawFn) -> TaskSpec:
    """What a service's tasks want."""
    rarely = st.sampled_from([False, False, True])
    reserved = Resources(
        nano_cpus=draw(st.sampled_from([0, 0, 10**9])),
        memory_bytes=draw(st.sampled_from([0, 0, GIB, 3 * GIB // 2])),
        generic=(GenericResource(kind="gpu", count=draw(st.integers(1, 2))),) if draw(rarely) else (),
    )
    placement = Placement(
        constraints=tuple(draw(st.lists(st.sampled_from(CONSTRAINTS), max_size=1))),
        spread=draw(st.sampled_from([(), (), ("node.labels.zone",), ("node.labels.zone", "engine.labels.disk")])),
        max_replicas=draw(st.sampled_from([0, 0, 1, 2])),
        platforms=draw(st.sampled_from([(), (), (Platform(architecture="amd64"),)])),
    )
    mounts = (Mount(source="v", target="/v", volume_driver="nfs"),) if draw(rarely) else ()
    return TaskSpec(
        container=ContainerSpec(image="x", mounts=mounts),
        resources=draw(st.sampled_from([None, ResourceRequirements(reservations=reserved)])),
        placement=draw(st.sampled_from([None, placement, placement])),
        log_driver=draw(st.sampled_from([None, LogDriver(name="gelf")])),
    )


WEB_PORT = (PortConfig(target_port=80, published_port=80, publish_mode="host"),)

SERVICE = st.fixed_dictionaries(
    {
        "spec": spec_of(),
        "ports": st.sampled_from([(), (), WEB_PORT]),
        "waiting": st.integers(0, 9),
        "running": st.lists(st.integers(0, 4), max_size=4),
        "stopping": st.lists(st.integers(0, 4), max_size=2),
        "failed": st.sampled_from([(), (), (0, MAX_FAILURES), (0, MAX_FAILURES - 1)]),
        "versions": st.booleans(),
    }
)


def build(nodes: list[dict[str, Any]], services: list[dict[str, Any]]) -> World:
    """The cluster as drawn."""
    world = World()
    world.clock.now_ns = NOW
    made = [
        Node(
            id=NodeId(f"n{number}"),
            spec=NodeSpec(labels=each["labels"], availability=each["availability"]),
            role=each["role"],
            description=NodeDescription(
                hostname=f"n{number}",
                platform=each["platform"],
                resources=each["resources"],
                engine_labels=each["engine_labels"],
                plugins=each["plugins"],
            ),
            status=NodeStatus(state=each["state"], address=f"10.0.0.{number}"),
        )
        for number, each in enumerate(nodes)
    ]
    world.write(*map(changes.create, made))
    for index, each in enumerate(services):
        world.write(*map(changes.create, tasks_of(index, each, made)))
    return world


def tasks_of(index: int, drawn: dict[str, Any], nodes: list[Node]) -> list[Task]:
    """The tasks of one service: some that run, stop, failed; some that wait."""
    service = ServiceId(f"s{index}")
    found: list[Task] = []

    def add(state: TaskState, node: Node | None, **more: Any) -> None:
        number = len(found)
        found.append(
            Task(
                id=TaskId(f"{service}-{number}"),
                spec=drawn["spec"],
                spec_version=number % 2 if drawn["versions"] and state is TaskState.PENDING else 1,
                service_id=service,
                slot=number + 1,
                status=TaskStatus(state=state),
                ports=drawn["ports"],
                node_id=node.id if node else None,
                **more,
            )
        )

    for number in drawn["running"]:
        add(TaskState.RUNNING, nodes[number % len(nodes)])
    for number in drawn["stopping"]:
        add(TaskState.RUNNING, nodes[number % len(nodes)], desired_state=TaskState.SHUTDOWN)
    if drawn["failed"]:
        number, times = drawn["failed"]
        for _ in range(times):
            add(TaskState.FAILED, nodes[number], desired_state=TaskState.SHUTDOWN, applied_at_ns=NOW - SECOND)
        for _ in range(MAX_FAILURES):
            old = NOW - FAILURE_WINDOW_NS
            add(TaskState.FAILED, nodes[-1], desired_state=TaskState.SHUTDOWN, applied_at_ns=old)
    for _ in range(drawn["waiting"]):
        add(TaskState.PENDING, None)
    return found


class Reference:
    """Looks at all tasks for every question."""

    def __init__(self, nodes: list[Node], tasks: list[Task]) -> None:
        self.nodes = nodes
        self.tasks = {task.id: task for task in tasks}

    def held(self, node: Node) -> list[Task]:
        return [t for t in self.tasks.values() if t.node_id == node.id and 192 <= t.status.state <= 512]

    def active(self, node: Node, service: str | None = None) -> int:
        return sum(t.desired_state <= TaskState.RUNNING and service in (None, t.service_id) for t in self.held(node))

    def failures(self, node: Node, task: Task) -> int:
        count = sum(
            t.node_id == node.id
            and t.status.state is TaskState.FAILED
            and (t.service_id, t.spec_version) == (task.service_id, task.spec_version)
            and t.applied_at_ns > NOW - FAILURE_WINDOW_NS
            for t in self.tasks.values()
        )
        return count if count >= MAX_FAILURES else 0

    def refusal(self, node: Node, task: Task) -> str | None:
        """The first filter that refuses; None when the node may take the task."""
        wanted = (task.spec.resources.reservations if task.spec.resources else None) or Resources()
        placement = task.spec.placement or Placement()
        volume = [p.name for p in node.description.plugins if p.type == "volume"]
        most, has = placement.max_replicas, node.description.platform.architecture
        refuses = {
            "closed": (node.status.state, node.spec.availability) != ("ready", "active"),
            "insufficient": not self.has_left(node, wanted),
            "missing plugin": bool(task.spec.container.mounts and volume and "nfs:latest" not in volume),
            "scheduling constraints": any(not met(text, node) for text in placement.constraints),
            "unsupported platform": bool(placement.platforms) and has != "x86_64",
            "host-mode port": bool(task.ports) and any(t.ports for t in self.held(node)),
            "max replicas": bool(most) and self.active(node, task.service_id) >= most,
        }
        return next((name for name, is_so in refuses.items() if is_so), None)

    def has_left(self, node: Node, wanted: Resources) -> bool:
        used = [t.spec.resources.reservations for t in self.held(node) if t.spec.resources]
        used = [each for each in used if each is not None]
        has = node.description.resources
        cpus = has.nano_cpus - sum(r.nano_cpus for r in used)
        memory = has.memory_bytes - sum(r.memory_bytes for r in used)
        gpus = sum(g.amount for g in has.generic) - sum(g.count for r in used for g in r.generic)
        wanted_gpus = sum(g.count for g in wanted.generic)
        return all(
            not asked or left >= asked
            for asked, left in ((wanted.nano_cpus, cpus), (wanted.memory_bytes, memory), (wanted_gpus, gpus))
        )

    def best(self, task: Task) -> list[Node]:
        """The nodes of which it should be one; none when none is allowed."""
        allowed = [node for node in self.nodes if self.refusal(node, task) is None]
        siblings = self.nodes
        for key in (task.spec.placement or Placement()).spread:
            weights = Counter({branch(n, key): 0 for n in allowed})
            for node in siblings:
                weights[branch(node, key)] += self.active(node, task.service_id)
            least = min((weights[branch(n, key)] for n in allowed), default=0)
            chosen = {value for value in weights if weights[value] == least} & {branch(n, key) for n in allowed}
            # Branches that are equal are the scheduler's choice: the first by name.
            value = min(chosen, default="")
            allowed = [n for n in allowed if branch(n, key) == value]
            siblings = [n for n in siblings if branch(n, key) == value]
        ranks = {n.id: (self.failures(n, task), self.active(n, task.service_id), self.active(n)) for n in allowed}
        return [n for n in allowed if ranks[n.id] == min(ranks.values())]


def branch(node: Node, key: str) -> str:
    labels = node.spec.labels if key.startswith("node.") else node.description.engine_labels
    return labels.get(key.rsplit(".", 1)[1], "")


def met(text: str, node: Node) -> bool:
    """By a table."""
    zone = node.spec.labels.get("zone", "").lower()
    return {
        "node.labels.zone==EU": zone == "eu",
        "node.labels.zone!=eu": zone != "eu",
        "engine.labels.disk==ssd": bool(node.description.engine_labels),
        "node.role==worker": node.role == "worker",
        "node.role!=manager": node.role == "worker",
        "node.hostname!=n1": node.id != "n1",
        "node.id==N2": node.id == "n2",
        "node.ip==10.0.0.0/31": node.id in ("n0", "n1"),
        "node.ip!=10.0.0.2": node.id != "n2",
        "node.platform.os==linux": True,
        "node.platform.arch==amd64": node.description.platform.architecture == "x86_64",
        "node.platform.arch!=aarch64": node.description.platform.architecture == "x86_64",
    }[text]


def check_reason(reference: Reference, task: Task) -> None:
    """Every filter that refused a node is named, and the number of nodes with it; no other is."""
    refused = Counter(reference.refusal(node, task) for node in reference.nodes)
    text = task.status.err
    assert text.startswith("no suitable node"), text
    for words, count in refused.items():
        assert words is not None, (text, task)
        if words == "closed":
            continue
        assert words in text, (text, refused)
        if words != "insufficient":
            assert f"{count} node" in text, (text, refused)
    for words in ("insufficient", "missing plugin", "scheduling", "unsupported", "host-mode", "max replicas"):
        assert (words in text) == any(str(each).startswith(words) for each in refused), (text, refused)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    nodes=st.lists(node_of(), min_size=1, max_size=5),
    services=st.lists(SERVICE, min_size=1, max_size=3),
    slice_work=st.sampled_from([1, scheduler.SLICE_WORK]),
)
def test_every_task_goes_where_the_reference_puts_it(
    nodes: list[dict[str, Any]], services: list[dict[str, Any]], slice_work: int
) -> None:
    """In the order of the decision, each task is on one of the best nodes; what is left has a true reason."""
    with mock.patch.object(scheduler, "SLICE_WORK", slice_work):
        check_against_reference(build(nodes, services))


def check_against_reference(world: World) -> None:
    """Of all that is decided on a world."""
    reference = Reference(list(world.view.nodes()), list(world.view.tasks()))
    decision = scheduler.decide(world.view, NOW)
    left = []
    for change in decision.changes:
        task = change.task
        assert task is not None
        if task.node_id is None:
            left.append(task)
            assert not reference.best(task)
            continue
        before = reference.tasks[task.id]
        assert task.node_id in [node.id for node in reference.best(before)], (task, before)
        names = [name for each in task.generic for name in each.names]
        wanted = (task.spec.resources.reservations if task.spec.resources else None) or Resources()
        assert [(g.kind, g.amount) for g in task.generic] == [(g.kind, g.count) for g in wanted.generic]
        on_node = reference.held(next(n for n in reference.nodes if n.id == task.node_id))
        assert not {name for t in on_node for each in t.generic for name in each.names} & set(names)
        reference.tasks[task.id] = task
    event(f"left {bool(left)}")
    changed = {change.id for change in decision.changes}
    assert {t.id for t in world.view.tasks() if t.status.state is TaskState.PENDING} == changed
    world.write(*decision.changes)
    # Reasons of services that came first may name a node that others filled since; they are said anew.
    world.write(*scheduler.decide(world.view, NOW).changes)
    for task in world.view.tasks():
        if task.status.state is TaskState.PENDING:
            check_reason(reference, task)
    assert scheduler.decide(world.view, NOW).is_empty


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    nodes=st.lists(node_of(), min_size=1, max_size=4),
    services=st.lists(SERVICE, min_size=1, max_size=3),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 1000)), max_size=20),
)
def test_what_is_known_follows_the_store(
    nodes: list[dict[str, Any]], services: list[dict[str, Any]], steps: list[tuple[int, int, int]]
) -> None:
    """Whatever happens, the loads are those that are built anew from the state; what was given up leaves no trace."""
    world = build(nodes, services)
    loads = Loads.of(world.view)

    def write(change: changes.Change) -> None:
        old = world.view.get(change.kind, change.id)
        world.write(change)
        new = world.view.get(change.kind, change.id)
        if isinstance(old or new, Node):
            loads.node_changed(NodeId(change.id), new)  # type: ignore[arg-type]
        else:
            loads.task_changed(old, new)  # type: ignore[arg-type]

    for kind, one, two in steps:
        tasks = world.view.tasks()
        match kind:
            case 0:  # a round is begun, and part of it is written
                decision = next(Scheduler(loads).slices(NOW), None)
                for change in whole(decision)[: one % 5] if decision else ():
                    write(change)
                loads.give_up()
            case 1 if tasks:  # a task goes on
                task = tasks[one % len(tasks)]
                if task.node_id and task.status.state < TaskState.COMPLETE:
                    state = [TaskState.RUNNING, TaskState.FAILED, TaskState.COMPLETE][two % 3]
                    status = attrs.evolve(task.status, state=state)
                    write(changes.update(attrs.evolve(task, status=status, applied_at_ns=NOW)))
            case 2 if tasks:  # a task is wanted no more, or goes
                task = tasks[one % len(tasks)]
                if two % 2 and task.status.state.is_terminal:
                    write(changes.delete(task))
                else:
                    write(changes.update(attrs.evolve(task, desired_state=TaskState.REMOVE)))
            case 3:  # a node changes, or goes
                node = world.view.nodes()[one % len(world.view.nodes())] if world.view.nodes() else None
                if node is not None and two % 4 == 0:
                    write(changes.delete(node))
                elif node is not None:
                    status = attrs.evolve(node.status, state=list(NodeState)[two % 4])
                    write(changes.update(attrs.evolve(node, status=status)))
        assert_same(loads, Loads.of(world.view))


def whole(decision: Decision) -> list[changes.Change]:
    """All its changes."""
    return [change for each in decision.assigned for change in each.changes()] + list(decision.changes)


def assert_same(one: Loads, other: Loads) -> None:
    """Equal but for what is remembered of removed nodes, and counters."""
    for load in one.by_node.values():
        if load.node is not None:
            assert load == other.by_node[load.id]
    assert {x.id for x in one.nodes()} == {x.id for x in other.nodes()}
    assert one.waiting == other.waiting
    assert one._of_service == other._of_service
    assert one._failures == other._failures


def _many(nodes: int, tasks: int) -> World:
    """A world with as many equal nodes and tasks of one service that wait, each of another version."""
    world = build([_plain() for _ in range(nodes)], [])
    spec = TaskSpec(container=ContainerSpec(image="x"))
    world.write(
        *(
            changes.create(
                Task(
                    id=TaskId(f"t{number}"),
                    spec=spec,
                    service_id=ServiceId("s"),
                    spec_version=number,
                    status=TaskStatus(state=TaskState.PENDING),
                )
            )
            for number in range(tasks)
        )
    )
    return world


def test_a_round_is_made_in_slices() -> None:
    """None places more than a chunk of tasks, and together they place all, level."""
    world = _many(7, 5_000)
    slices = list(Scheduler(Loads.of(world.view)).slices(NOW))
    assert [len(whole(each)) for each in slices] == [scheduler.CHUNK] * 5
    counts = Counter(change.task.node_id for each in slices for change in whole(each) if change.task)
    assert sum(counts.values()) == 5_000
    assert max(counts.values()) - min(counts.values()) == 1


def _waiting(world: World, spec: TaskSpec, versions: list[int]) -> list[Task]:
    """What becomes of tasks of one service that wait, one of each of these versions."""
    for number, version in enumerate(versions):
        task = Task(
            id=TaskId(f"w{number}"),
            spec=spec,
            service_id=ServiceId("s"),
            spec_version=version,
            status=TaskStatus(state=TaskState.PENDING),
        )
        world.write(changes.create(task))
    decided = [change.task for change in scheduler.decide(world.view, NOW).changes]
    return [task for task in decided if task is not None]


def test_named_resources_are_given_out_one_by_one() -> None:
    """Each task gets as many as it reserves, and none twice; a node that counts gives a number."""
    named = Resources(generic=(GenericResource(kind="gpu", names=("a", "b", "c")),))
    counted = Resources(generic=(GenericResource(kind="gpu", count=1),))
    world = build([_plain() | {"resources": named}, _plain() | {"resources": counted}], [])
    spec = TaskSpec(resources=ResourceRequirements(reservations=counted))
    tasks = _waiting(world, spec, [1] * 5)
    placed = sorted(((t.node_id, t.generic) for t in tasks if t.node_id), key=str)
    gpu = {name: (GenericResource(kind="gpu", names=(name,)),) for name in "abc"}
    assert placed == [("n0", gpu["a"]), ("n0", gpu["b"]), ("n0", gpu["c"]), ("n1", counted.generic)]
    (left,) = (task for task in tasks if task.node_id is None)
    assert left.status.err == "no suitable node (insufficient gpu on 2 nodes: largest free 0, needs 1)"


def test_only_the_version_that_failed_stays_away() -> None:
    """Tasks of another version of the same wishes are placed as if nothing had happened."""
    failing = {"spec": TaskSpec(), "ports": (), "waiting": 0, "running": [], "stopping": [], "versions": False}
    world = build([_plain(), _plain(), _plain()], [failing | {"failed": (0, MAX_FAILURES)}])
    world.write(*(changes.update(attrs.evolve(t, service_id=ServiceId("s"))) for t in world.view.tasks()))
    by_version: dict[int, list[str]] = {}
    for task in _waiting(world, TaskSpec(), [1, 2, 1, 2, 1, 2]):
        by_version.setdefault(task.spec_version, []).append(task.node_id or "")
    assert sorted(by_version[1]) == ["n1", "n1", "n2"]
    assert by_version[2].count("n0") >= 2


def test_what_happens_between_slices_counts() -> None:
    """A node that goes down gets nothing of the later slices, one that comes is filled up first."""
    world = _many(2, 3 * scheduler.CHUNK)
    loads = Loads.of(world.view)
    slices = Scheduler(loads).slices(NOW)
    next(slices)
    lost, kept = world.view.nodes()
    loads.node_changed(lost.id, attrs.evolve(lost, status=attrs.evolve(lost.status, state=NodeState.DOWN)))
    new = attrs.evolve(kept, id=NodeId("new"))
    loads.node_changed(new.id, new)
    later = [Counter(change.task.node_id for change in whole(each) if change.task) for each in slices]
    assert later == [{"new": 750, kept.id: 250}, {"new": 500, kept.id: 500}]


def test_nodes_are_looked_at_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of one that was looked at already counts, and so does one that came meanwhile."""
    monkeypatch.setattr(scheduler, "SLICE_WORK", 40)
    world = _many(100, 8)
    loads = Loads.of(world.view)
    slices = Scheduler(loads).slices(NOW)
    assert all(decision.is_empty for decision in itertools.islice(slices, 2))
    nodes = world.view.nodes()
    for node in nodes[5:]:  # looked at, and not
        loads.node_changed(node.id, attrs.evolve(node, status=attrs.evolve(node.status, state=NodeState.DOWN)))
    new = attrs.evolve(nodes[0], id=NodeId("new"))
    loads.node_changed(new.id, new)
    running = Task(
        id=TaskId("other"),
        spec=TaskSpec(),
        service_id=ServiceId("s"),
        node_id=nodes[1].id,
        status=TaskStatus(state=TaskState.RUNNING),
    )
    loads.task_changed(None, running)
    rest = list(slices)
    assert [each.is_empty for each in rest] == [True, False]
    placed = Counter(change.task.node_id for change in whole(rest[-1]) if change.task)
    placed[running.node_id] += 1
    assert set(placed) == {"new", "n0", "n1", "n2", "n3", "n4"}
    assert (min(placed.values()), max(placed.values())) == (1, 2)


def _plain() -> dict[str, Any]:
    return {
        "labels": {},
        "engine_labels": {},
        "state": NodeState.READY,
        "availability": Availability.ACTIVE,
        "role": Role.WORKER,
        "platform": Platform(architecture="x86_64"),
        "resources": Resources(nano_cpus=4 * 10**9, memory_bytes=8 * GIB),
        "plugins": (),
    }
