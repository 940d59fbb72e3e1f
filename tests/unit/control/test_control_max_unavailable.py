"""Drains that start first, and how many tasks of a service may be missing by the cluster's own doing."""

from __future__ import annotations

import attrs
import pytest
from control_world import GIB, SECOND, World, spec

from swarmpy.control.enforcer import is_held_up
from swarmpy.model import changes
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Node, Task, UpdateStatus
from swarmpy.model.specs import (
    MaxUnavailable,
    NodeSpec,
    Placement,
    PortConfig,
    Resources,
    RestartPolicy,
    ServiceSpec,
    UpdateConfig,
)
from swarmpy.model.states import Availability, NodeState, ServiceMode, TaskState, UpdateState

ONE = MaxUnavailable(amount=1)
START_FIRST = UpdateConfig(order="start-first", monitor_ns=0)
WAITS = "waits: web may miss at most 1 task"


def drain(world: World, *nodes: Node) -> None:
    for node in nodes:
        world.set_node(node, availability=Availability.DRAIN)


def reasons(world: World, web: str) -> list[str]:
    return sorted(task.status.err for task in world.running(web) if task.status.err)


def least_running(world: World, web: str) -> int:
    """Plays until all is quiet, an agent's step at a time; how many slots ran at the worst moment."""
    least = len(world.running(web))
    for _ in range(60):
        world.settle()
        least = min(least, len({task.slot for task in world.running(web)}))
        if not world.agents():
            return least
    raise AssertionError("the cluster does not come to rest")


@pytest.mark.parametrize(
    ("text", "slots", "most"), [("1", 3, 1), ("5", 3, 5), ("25%", 8, 2), ("25%", 7, 1), ("25%", 3, 1), ("100%", 3, 3)]
)
def test_percentages_are_rounded_down_but_not_to_nothing(text: str, slots: int, most: int) -> None:
    """As in Kubernetes."""
    assert MaxUnavailable.parse(text).of(slots) == most
    assert str(MaxUnavailable.parse(text)) == text


# -- start first ------------------------------------------------------------------------------------------------------


def test_start_first_keeps_the_old_task_while_its_replacement_crashes() -> None:
    """It can be placed, and may work later; a service that stops first lets go of the old one then."""
    for update, left in ((START_FIRST, 1), (UpdateConfig(), 0)):
        world = World()
        a = world.add_node("a")
        web = world.add_service(spec(replicas=1, update=update))
        world.run()
        world.add_node("b")
        world.crashing = lambda task: True
        drain(world, a)
        world.advance(30)
        assert world.spread(web) == [left, 0]
        world.crashing = lambda task: False
        world.advance(30)
        assert world.spread(web) == [0, 1]


def test_start_first_keeps_the_old_task_when_its_replacement_is_given_up() -> None:
    """One that is out of attempts will not run; the one that runs is what the service has."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=1, update=START_FIRST, restart=RestartPolicy(max_attempts=1)))
    world.run()
    world.add_node("b")
    world.crashing = lambda task: True
    drain(world, a)
    world.advance(60)
    assert world.spread(web) == [1, 0]
    assert world.wake_at_ns is None


def test_start_first_lets_go_when_there_is_no_other_place() -> None:
    """A node is to be emptied; with a host-mode port as well, where the others have it in use."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=1, update=START_FIRST))
    world.run()
    drain(world, a)
    world.run()
    assert world.running(web) == []


def test_a_host_port_falls_back() -> None:
    """A crashing replacement does not hold up the drain: it could be the port."""
    world = World()
    a = world.add_node("a")
    port = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    web = world.add_service(spec(replicas=1, update=START_FIRST, ports=(port,)))
    world.run()
    world.add_node("b")
    world.crashing = lambda task: True
    drain(world, a)
    world.advance(30)
    assert world.running(web) == []


# -- drains -----------------------------------------------------------------------------------------------------------


def test_several_nodes_drained_at_once_take_no_more_than_the_bound() -> None:
    """The last node has room for two of six: one may be missing, the rest wait and say why."""
    world = World()
    nodes = [world.add_node(name) for name in "ab"]
    reserve = Resources(memory_bytes=GIB)
    web = world.add_service(spec(replicas=6, max_unavailable=ONE, reserve=reserve))
    world.run()
    world.add_node("c", memory=2 * GIB)
    drain(world, *nodes)
    assert least_running(world, web) == 5
    assert world.spread(web)[2] == 2
    assert reasons(world, web) == [WAITS] * 3
    world.add_node("d")
    world.run()
    assert world.spread(web) == [0, 0, 2, 4]
    assert reasons(world, web) == []


def test_without_a_bound_a_drain_takes_all() -> None:
    """As ever."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=3))
    world.run()
    drain(world, a)
    world.run()
    assert world.running(web) == []


def test_a_node_that_dies_asks_nobody_but_counts() -> None:
    """While its tasks are missing, nothing more is taken away; what runs is given up when they run again."""
    world = World()
    a, b = world.add_node("a"), world.add_node("b")
    web = world.add_service(spec(replicas=4, max_unavailable=ONE))
    world.run()
    world.set_node(b, NodeState.DOWN)
    drain(world, a)
    world.run()
    assert world.spread(web) == [2, 0]
    assert reasons(world, web) == [WAITS] * 2
    world.set_node(b, NodeState.READY)
    world.run()
    assert world.spread(web) == [0, 4]


def test_a_drain_that_is_taken_back_leaves_no_reason() -> None:
    """Nothing waits any more."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=3, max_unavailable=ONE))
    world.run()
    drain(world, a)
    world.run()
    assert reasons(world, web) == [WAITS] * 2
    world.set_node(a, availability=Availability.ACTIVE)
    world.run()
    assert (world.spread(web), reasons(world, web)) == ([3], [])


def test_a_global_service_leaves_a_drained_node() -> None:
    """The node is no slot of it any more."""
    world = World()
    a = world.add_node("a")
    world.add_node("b")
    wanted = ServiceSpec(name="agent", mode=ServiceMode.GLOBAL, max_unavailable=ONE, task=spec().task)
    agent = world.add_service(wanted)
    world.run()
    drain(world, a)
    world.run()
    assert world.spread(agent) == [0, 1]


# -- updates ----------------------------------------------------------------------------------------------------------


def test_an_update_takes_no_more_than_the_bound() -> None:
    """Whatever its parallelism; and a bound of more than one is used."""
    for text, least in (("1", 5), ("2", 4), ("50%", 3)):
        world = World()
        world.add_node("a")
        bound = MaxUnavailable.parse(text)
        wanted = spec(replicas=6, max_unavailable=bound, update=UpdateConfig(parallelism=0, monitor_ns=0))
        web = world.add_service(wanted)
        world.run()
        world.update_service(web, spec(image="nginx:2", replicas=6, max_unavailable=bound, update=wanted.update))
        assert least_running(world, web) == least
        world.advance(10)
        assert world.images(web) == ["nginx:2"] * 6


def held_up(failure_action: str = "pause") -> tuple[World, str, Node]:
    """An update that may not begin, as the tasks of a dead node have no other place."""
    world = World()
    world.add_node("a", memory=2 * GIB)
    b = world.add_node("b", memory=2 * GIB)
    update = UpdateConfig(progress_deadline_ns=60 * SECOND, failure_action=failure_action, monitor_ns=0)
    reserve = Resources(memory_bytes=GIB)
    web = world.add_service(spec(replicas=4, max_unavailable=ONE, update=update, reserve=reserve))
    world.run()
    world.set_node(b, NodeState.DOWN)
    world.run()
    world.update_service(web, spec(image="nginx:2", replicas=4, max_unavailable=ONE, update=update, reserve=reserve))
    world.run()
    return world, web, b


def status_of(world: World, web: str) -> UpdateStatus:
    world.settle()
    found = world.service(ServiceId(web)).update_status
    assert found is not None
    return found


def status(world: World, web: str) -> tuple[UpdateState, str]:
    found = status_of(world, web)
    return found.state, found.message


def test_an_update_waits_while_a_task_is_missing_and_says_so() -> None:
    """It may replace the missing ones, and goes on with the rest when they run."""
    world, web, b = held_up("continue")
    assert world.images(web) == ["nginx:1"] * 2
    world.advance(600)
    assert status(world, web)[0] is UpdateState.UPDATING
    assert world.images(web) == ["nginx:1"] * 2
    world.set_node(b, NodeState.READY)
    world.advance(60)
    assert status(world, web) == (UpdateState.COMPLETED, "update completed")
    assert world.images(web) == ["nginx:2"] * 4


def test_an_update_that_is_held_up_has_its_deadline() -> None:
    """One task that starts and crashes is within the ratio; while it is missing no other is taken away, until then."""
    world = World()
    world.add_node("a")
    update = UpdateConfig(progress_deadline_ns=60 * SECOND, monitor_ns=SECOND, max_failure_ratio=0.5)
    web = world.add_service(spec(replicas=4, max_unavailable=ONE, update=update))
    world.run()
    world.update_service(web, spec(image="nginx:2", replicas=4, max_unavailable=ONE, update=update))
    messages = set()
    while status_of(world, web).state is not UpdateState.PAUSED:
        world.settle()
        world.agents()
        for task in world.running(web):
            if task.spec.container.image == "nginx:2":
                world.report(task, TaskState.FAILED, "boom")
        world.settle()
        assert len(world.running(web)) >= 3
        messages.add(status_of(world, web).message)
        world.clock.now_ns += SECOND // 2
    assert f"update in progress, {WAITS}" in messages
    assert status(world, web) == (UpdateState.PAUSED, f"update paused as it made no progress for 60 seconds: {WAITS}")
    assert world.images(web) == ["nginx:1"] * 3


def test_an_update_that_starts_first_takes_nothing_away() -> None:
    """So that it may go on while something is missing."""
    world = World()
    world.add_node("a")
    b = world.add_node("b", memory=GIB)
    web = world.add_service(
        spec(replicas=2, max_unavailable=ONE, update=START_FIRST, placement=Placement(max_replicas=1))
    )
    world.run()
    world.set_node(b, NodeState.DOWN)
    world.run()
    assert world.spread(web) == [1, 0]
    wanted = spec(replicas=2, image="nginx:2", max_unavailable=ONE, update=START_FIRST)
    world.update_service(web, wanted)
    world.advance(60)
    assert world.images(web) == ["nginx:2"] * 2


# -- moves ------------------------------------------------------------------------------------------------------------


def relabel(world: World, node: Node, **labels: str) -> None:
    current = world.view.node(node.id)
    assert current is not None
    world.write(changes.update(attrs.evolve(current, spec=NodeSpec(labels=labels))))


def test_tasks_leave_a_node_that_does_not_fit_one_after_the_other() -> None:
    """The rest say that they wait; when the label is back nothing waits any more."""
    world = World()
    a = world.add_node("a", zone="x")
    placement = Placement(constraints=("node.labels.zone==x",))
    web = world.add_service(spec(replicas=3, max_unavailable=ONE, placement=placement))
    world.run()
    relabel(world, a, zone="y")
    world.run()
    place = f"node {a.id} is no place for this task any more: constraint node.labels.zone==x is not met"
    assert reasons(world, web) == [f"{place}; {WAITS}"] * 2
    assert all(map(is_held_up, world.running(web)))
    world.add_node("b", zone="x")
    assert least_running(world, web) == 2
    assert world.spread(web) == [0, 3]
    relabel(world, a, zone="x")
    world.run()
    assert reasons(world, web) == []


def test_a_reason_goes_when_the_node_fits_again() -> None:
    """The tasks stay."""
    world = World()
    a = world.add_node("a", zone="x")
    placement = Placement(constraints=("node.labels.zone==x",))
    web = world.add_service(spec(replicas=3, max_unavailable=ONE, placement=placement))
    world.run()
    before: list[Task] = world.running(web)
    relabel(world, a, zone="y")
    world.run()
    relabel(world, a, zone="x")
    world.run()
    assert reasons(world, web) == []
    assert len({task.id for task in before} & {task.id for task in world.running(web)}) == 2
