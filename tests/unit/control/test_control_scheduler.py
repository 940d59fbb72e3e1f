"""Placement: filters, their explanations, levelling and spreading."""

from __future__ import annotations

import pytest
from control_world import GIB, World, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.control import scheduler
from swarmpy.control.loads import NodeLoad
from swarmpy.control.placement import Candidate, Tree
from swarmpy.model.ids import NodeId, ServiceId
from swarmpy.model.specs import Placement, PortConfig, Resources, RestartPolicy
from swarmpy.model.states import Availability, NodeState, ServiceMode, TaskState


def reason(world: World, service: ServiceId) -> str:
    """Why the service's pending tasks wait; they agree."""
    (text,) = {task.status.err for task in world.tasks(service, TaskState.PENDING)}
    return text


def test_assigned_task_says_so() -> None:
    """A placed task has its node and the scheduler's message."""
    world = World()
    node = world.add_node("a")
    web = world.add_service(spec(replicas=1))
    world.settle()
    (task,) = world.tasks(web)
    assert (task.status.state, task.node_id) == (TaskState.ASSIGNED, node.id)
    assert task.status.message == "scheduler assigned task to node"
    assert task.status.timestamp_ns == world.clock.now_ns


def test_without_nodes_there_is_no_suitable_one() -> None:
    """An empty cluster gives the shortest reason."""
    world = World()
    web = world.add_service(spec(replicas=2))
    world.settle()
    assert reason(world, web) == "no suitable node"


def test_nodes_that_are_closed_are_explained() -> None:
    """Down, drained, paused and unknown nodes take no new tasks, and are counted by kind."""
    world = World()
    world.set_node(world.add_node("a"), NodeState.DOWN)
    world.set_node(world.add_node("b"), NodeState.DOWN)
    world.set_node(world.add_node("c"), availability=Availability.DRAIN)
    world.set_node(world.add_node("d"), availability=Availability.PAUSE)
    web = world.add_service(spec())
    world.settle()
    assert reason(world, web) == "no suitable node (2 nodes down; 1 node drained; 1 node paused)"


def test_reservations_bound_what_a_node_takes() -> None:
    """Tasks are placed while their reservations fit; the rest says which resource is missing."""
    world = World()
    world.add_node("a", cpus=4, memory=3 * GIB)
    world.add_node("b", cpus=2, memory=8 * GIB)
    web = world.add_service(spec(replicas=9, reserve=Resources(nano_cpus=10**9, memory_bytes=GIB)))
    world.run()
    assert world.spread(web) == [3, 2]
    assert reason(world, web) == (
        "no suitable node (insufficient CPU on 1 node: largest free 0, needs 1; "
        "insufficient memory on 1 node: largest free 0 B, needs 1 GiB)"
    )


def test_stopping_tasks_still_hold_their_resources() -> None:
    """What a task reserves is free only when it has stopped, not when it is told to."""
    world = World()
    world.add_node("a", memory=2 * GIB)
    web = world.add_service(spec(replicas=1, reserve=Resources(memory_bytes=2 * GIB)))
    world.run()
    api = world.add_service(spec("api", replicas=1, reserve=Resources(memory_bytes=GIB)))
    world.settle()
    world.remove_service(web)
    world.settle()
    assert reason(world, api) == "no suitable node (insufficient memory on 1 node: largest free 0 B, needs 1 GiB)"
    world.run()
    assert len(world.running(api)) == 1


def test_constraints_are_explained_by_name() -> None:
    """The most frequent reason comes first, and the constraint that is not met is named."""
    world = World()
    world.add_node("a", zone="eu", memory=GIB)
    world.add_node("b", zone="us")
    world.add_node("c")
    web = world.add_service(
        spec(placement=Placement(constraints=("node.labels.zone==eu",)), reserve=Resources(memory_bytes=2 * GIB))
    )
    world.settle()
    assert reason(world, web) == (
        "no suitable node (scheduling constraints not satisfied on 2 nodes: node.labels.zone==eu on 2; "
        "insufficient memory on 1 node: largest free 1 GiB, needs 2 GiB)"
    )


def test_max_replicas_bounds_each_node() -> None:
    """No node gets more than the bound, however few nodes there are."""
    world = World()
    world.add_node("a")
    world.add_node("b")
    web = world.add_service(spec(replicas=5, placement=Placement(max_replicas=2)))
    world.run()
    assert world.spread(web) == [2, 2]
    assert reason(world, web) == "no suitable node (max replicas per node limit exceed: 2 on 2 nodes)"


def test_host_port_is_used_once_a_node() -> None:
    """Tasks with a host-mode port never share a node, whichever service they are of."""
    world = World()
    world.add_node("a")
    world.add_node("b")
    port = (PortConfig(target_port=80, published_port=8080, publish_mode="host"),)
    web = world.add_service(spec(replicas=1, ports=port))
    api = world.add_service(spec("api", replicas=2, ports=port))
    world.run()
    assert [a + b for a, b in zip(world.spread(web), world.spread(api), strict=True)] == [1, 1]
    assert reason(world, api) == "no suitable node (host-mode port already in use on 2 nodes: 8080/tcp on 2)"


def test_global_task_is_checked_on_its_own_node_only() -> None:
    """A prefilled task waits for its node though others are free."""
    world = World()
    world.add_node("a", memory=GIB)
    world.add_node("b")
    web = world.add_service(spec(replicas=None, mode=ServiceMode.GLOBAL, reserve=Resources(memory_bytes=2 * GIB)))
    world.run()
    assert world.spread(web) == [0, 1]
    assert reason(world, web) == "no suitable node (insufficient memory on 1 node: largest free 1 GiB, needs 2 GiB)"


def test_services_are_levelled_before_totals() -> None:
    """Tasks of one service spread evenly even where other services have filled a node; ties go to the emptier node."""
    world = World()
    world.add_node("a")
    world.add_service(spec("noise", replicas=5))
    world.run()
    world.add_node("b")
    web = world.add_service(spec(replicas=3))
    world.run()
    assert world.spread(web) == [1, 2]


def test_spread_preference_levels_branches_first() -> None:
    """With a preference, zones get equal shares though one has more nodes; inside a zone nodes are level."""
    world = World()
    world.add_node("a", zone="1")
    world.add_node("b", zone="2")
    world.add_node("c", zone="2")
    world.add_node("d", zone="2")
    web = world.add_service(spec(replicas=12, placement=Placement(spread=("node.labels.zone",))))
    world.run()
    assert world.spread(web) == [6, 2, 2, 2]


def test_full_branch_leaves_the_rest_to_others() -> None:
    """A zone that is full does not keep tasks from running elsewhere, and nested preferences level within a branch."""
    world = World()
    world.add_node("a", zone="1", rack="x", cpus=2)
    world.add_node("b", zone="2", rack="x", cpus=100)
    world.add_node("c", zone="2", rack="y", cpus=100)
    placement = Placement(spread=("node.labels.zone", "node.labels.rack"))
    web = world.add_service(spec(replicas=12, placement=placement, reserve=Resources(nano_cpus=10**9)))
    world.run()
    assert world.spread(web) == [2, 5, 5]


def test_node_where_the_service_keeps_failing_comes_last() -> None:
    """After five failures of the version within five minutes, other nodes are preferred; later it is forgotten."""
    world = World()
    bad = world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(delay_ns=1)))
    world.crashing = lambda task: task.node_id == bad.id
    world.advance(0.00000001)
    world.add_node("b")
    world.advance(20)
    assert world.spread(web) == [0, 1]
    failed = world.tasks(web, TaskState.FAILED)
    assert len(failed) >= scheduler.MAX_FAILURES


def test_unplaceable_tasks_write_their_reason_once() -> None:
    """A decision on tasks that cannot be placed and say so already changes nothing."""
    world = World()
    world.add_node("a", memory=1)
    world.add_service(spec(replicas=50, reserve=Resources(memory_bytes=GIB)))
    world.settle()
    assert scheduler.decide(world.view, world.clock.now_ns).is_empty


def test_unassigned_task_that_is_not_wanted_ends() -> None:
    """A pending task of an outdated version ends without ever having had a node."""
    world = World()
    web = world.add_service(spec(replicas=1))
    world.settle()
    (old,) = world.tasks(web)
    world.update_service(web, spec(replicas=1, image="nginx:2"))
    world.settle()
    ended = world.view.task(old.id)
    assert ended is not None
    assert ended.status.state is TaskState.SHUTDOWN


@settings(max_examples=100, deadline=None)
@given(
    rooms=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=8),
    count=st.integers(1, 40),
)
def test_level_placement_is_as_level_as_possible(rooms: list[tuple[int, int, int]], count: int) -> None:
    """No task could be moved to a node with room and at least two fewer tasks of the service; all room is used."""
    loads = [NodeLoad(id=NodeId(str(number)), total=sum(room[1:])) for number, room in enumerate(rooms)]
    candidates = [
        Candidate(load=load, room=room, of_service=tasks) for load, (room, tasks, _) in zip(loads, rooms, strict=True)
    ]
    placed = dict.fromkeys((load.id for load in loads), 0)
    tree = Tree(())
    for candidate in candidates:
        tree.add(candidate)
    for candidate, _ in zip(tree.fill(()), range(count), strict=False):
        candidate.load.total += 1
        placed[candidate.load.id] += 1
    assert sum(placed.values()) == min(count, sum(room for room, _, _ in rooms))
    levels = [tasks + placed[load.id] for load, (_, tasks, _) in zip(loads, rooms, strict=True)]
    with_room = [lv for lv, load, (room, _, _) in zip(levels, loads, rooms, strict=True) if placed[load.id] < room]
    given_to = [level for level, load in zip(levels, loads, strict=True) if placed[load.id]]
    if with_room and given_to:
        assert max(given_to) - min(with_room) <= 1


@pytest.mark.parametrize("spread", [(), ("node.labels.zone",)])
def test_thousand_tasks_are_placed_evenly(spread: tuple[str, ...]) -> None:
    """A whole group is placed in one decision, level over all nodes."""
    world = World()
    for number in range(50):
        world.add_node(f"n{number}", zone=str(number % 5))
    web = world.add_service(spec(replicas=1000, placement=Placement(spread=spread)))
    world.run()
    assert world.spread(web) == [20] * 50
