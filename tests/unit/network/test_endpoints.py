"""The endpoint table: who is in it, and how a node's copy follows."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import ProtocolViolation
from swarmpy.model.assignments import Endpoint, EndpointUpdate, PublishedPort
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Node, NodeStatus, PortStatus, Service, Task, TaskStatus
from swarmpy.model.specs import PortConfig, ServiceSpec, TaskSpec
from swarmpy.model.states import NodeState, TaskState
from swarmpy.network.endpoints import EndpointTable, NodeTable, apply_update, ingress_table

WEB = PublishedPort(port=8080)


class Cluster:
    """A view made of plain lists."""

    def __init__(self, *objects: Service | Task | Node) -> None:
        self._services = tuple(o for o in objects if isinstance(o, Service))
        self._tasks = tuple(o for o in objects if isinstance(o, Task))
        self._nodes = {o.id: o for o in objects if isinstance(o, Node)}

    def services(self) -> tuple[Service, ...]:
        return self._services

    def tasks_of_service(self, service_id: str) -> tuple[Task, ...]:
        return tuple(task for task in self._tasks if task.service_id == service_id)

    def node(self, node_id: str) -> Node | None:
        return self._nodes.get(NodeId(node_id))


def node(node_id: str = "n1", state: NodeState = NodeState.READY) -> Node:
    return Node(id=NodeId(node_id), status=NodeStatus(state=state))


def service(*ports: PortConfig) -> Service:
    return Service(id=ServiceId("s1"), spec=ServiceSpec(name="web"), ports=ports or (port(),))


def port(published: int = 8080, target: int = 80, mode: str = "ingress", protocol: str = "tcp") -> PortConfig:
    return PortConfig(published_port=published, target_port=target, publish_mode=mode, protocol=protocol)


def task(
    task_id: str = "t1",
    *,
    node_id: str | None = "n1",
    state: TaskState = TaskState.RUNNING,
    desired: TaskState = TaskState.RUNNING,
    ports: tuple[PortStatus, ...] | None = None,
) -> Task:
    if ports is None:
        ports = (PortStatus(target_port=80, published_port=8080, host_address="10.0.0.1", host_port=32768),)
    return Task(
        id=TaskId(task_id),
        spec=TaskSpec(),
        service_id=ServiceId("s1"),
        node_id=NodeId(node_id) if node_id else None,
        status=TaskStatus(state=state, ports=ports),
        desired_state=desired,
    )


ENDPOINT = Endpoint(task_id=TaskId("t1"), node_id=NodeId("n1"), address="10.0.0.1", port=32768)


def test_running_task_is_an_endpoint() -> None:
    """A running task on a node that is ready answers on its service's port."""
    assert ingress_table(Cluster(service(), node(), task())) == {WEB: (ENDPOINT,)}


@pytest.mark.parametrize(
    "absent",
    [
        task(state=TaskState.STARTING),
        task(state=TaskState.FAILED),
        task(desired=TaskState.SHUTDOWN),
        task(desired=TaskState.REMOVE),
        task(node_id=None),
        task(node_id="gone"),
        task(ports=()),
        task(ports=(PortStatus(target_port=81, host_address="10.0.0.1", host_port=1),)),
        task(ports=(PortStatus(target_port=80, protocol="udp", host_address="10.0.0.1", host_port=1),)),
        task(ports=(PortStatus(target_port=80, publish_mode="host", host_address="10.0.0.1", host_port=1),)),
        task(ports=(PortStatus(target_port=80, published_port=9, host_address="10.0.0.1", host_port=1),)),
    ],
)
def test_who_is_out(absent: Task) -> None:
    """A task that does not run, must go, has no live node or no such port is out; the port stays in the table."""
    assert ingress_table(Cluster(service(), node(), absent)) == {WEB: ()}


@pytest.mark.parametrize(
    ("state", "answers"),
    [(NodeState.READY, True), (NodeState.UNKNOWN, True), (NodeState.DISCONNECTED, True), (NodeState.DOWN, False)],
)
def test_only_down_takes_a_node_out(state: NodeState, answers: bool) -> None:
    """A new leader that has not heard of the nodes yet keeps routing to their tasks."""
    table = ingress_table(Cluster(service(), node(state=state), task()))
    assert bool(table[WEB]) is answers


def test_target_port_identifies_when_no_published_port_is_told() -> None:
    """A port status without a published port is matched by its target port."""
    by_target = task(ports=(PortStatus(target_port=80, host_address="10.0.0.1", host_port=32768),))
    assert ingress_table(Cluster(service(), node(), by_target)) == {WEB: (ENDPOINT,)}


def test_old_tasks_answer_while_the_target_port_changes() -> None:
    """An update that moves a service to another target port keeps the tasks of the old spec reachable."""
    moved = service(port(target=8000))
    assert ingress_table(Cluster(moved, node(), task()))[WEB] == (ENDPOINT,)


def test_only_ingress_ports_are_in_the_table() -> None:
    """Host-mode ports, ports not yet allocated and removed services are not in the table."""
    assert ingress_table(Cluster(service(port(mode="host"), port(published=0)), node(), task())) == {}
    assert ingress_table(Cluster(attrs.evolve(service(), pending_delete=True), node(), task())) == {}


def test_update_since_tells_what_changed() -> None:
    """A node that has a recent version is told only the ports that changed and those that went."""
    table = EndpointTable()
    other, gone = PublishedPort(port=1), PublishedPort(port=2)
    assert table.replace({WEB: (), other: (), gone: ()})
    version = table.version
    assert table.replace({WEB: (ENDPOINT,), other: ()})
    assert not table.replace({WEB: (ENDPOINT,), other: ()})
    assert table.update_since(version) == EndpointUpdate(
        version=version + 1, base_version=version, ports=((WEB, (ENDPOINT,)),), removed=(gone,)
    )
    assert table.update_since(table.version) is None


def test_new_node_is_told_even_an_empty_table() -> None:
    """Version 0 always gets the whole table."""
    assert EndpointTable().update_since(0) == EndpointUpdate(version=1)


def test_unknown_versions_get_the_whole_table() -> None:
    """A version too old, or one this table never had, gets the whole table."""
    table = EndpointTable(history=2)
    for number in range(1, 6):
        table.replace({PublishedPort(port=number): ()})
    for version in (1, 3, 99, -1):
        update = table.update_since(version)
        assert update is not None
        assert update.base_version == 0
        assert update.ports == ((PublishedPort(port=5), ()),)
    recent = table.update_since(4)
    assert recent is not None
    assert recent.base_version == 4


def test_update_on_another_base_is_refused() -> None:
    """An incremental update on a version that the node does not have raises ProtocolViolation."""
    with pytest.raises(ProtocolViolation, match="builds on version 3, this node has 2"):
        apply_update(NodeTable(version=2), EndpointUpdate(version=4, base_version=3))


PORTS = st.integers(1, 6).map(lambda number: PublishedPort(port=number))
ENDPOINTS = st.lists(
    st.integers(0, 3).map(
        lambda n: Endpoint(task_id=TaskId(f"t{n}"), node_id=NodeId("n"), address=f"10.0.0.{n}", port=n + 1)
    ),
    unique=True,
).map(lambda found: tuple(sorted(found)))
TABLES = st.dictionaries(PORTS, ENDPOINTS, max_size=6)


@given(steps=st.lists(st.tuples(TABLES, st.booleans()), max_size=20), history=st.integers(1, 5))
def test_a_node_that_follows_has_the_managers_table(
    steps: list[tuple[dict[PublishedPort, tuple[Endpoint, ...]], bool]], history: int
) -> None:
    """However often a node asks, after asking it has the very table of the manager."""
    table, copy = EndpointTable(history=history), NodeTable()
    for ports, asks in [*steps, (dict(table.ports), True)]:
        table.replace(ports)
        if asks:
            update = table.update_since(copy.version)
            if update is not None:
                copy = apply_update(copy, update)
            assert copy == NodeTable(version=table.version, ports=table.ports)
