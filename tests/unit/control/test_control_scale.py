"""Making and scaling services: replicated, global, removal."""

from __future__ import annotations

import attrs
from control_world import World, spec

from swarmpy.model import changes
from swarmpy.model.specs import Placement
from swarmpy.model.states import Availability, Cause, NodeState, ServiceMode, TaskState


def two_nodes() -> World:
    world = World()
    world.add_node("a")
    world.add_node("b")
    return world


def test_new_service_starts_its_replicas_at_once() -> None:
    """A new service gets tasks in the slots 1.. that run without any delay, spread over the nodes."""
    world = two_nodes()
    web = world.add_service(spec(replicas=4))
    world.run()
    assert [task.slot for task in world.running(web)] == [1, 2, 3, 4]
    assert world.spread(web) == [2, 2]
    task = world.running(web)[0]
    assert (task.service_name, task.spec_version) == ("web", world.service(web).spec_version)


def test_scaling_up_fills_the_lowest_free_slots() -> None:
    """Slots that were given up are used again before new numbers are."""
    world = two_nodes()
    web = world.add_service(spec(replicas=4))
    world.run()
    gone = {task.slot for task in world.running(web)}
    world.update_service(web, spec(replicas=2))
    world.run()
    gone -= {task.slot for task in world.running(web)}
    assert len(gone) == 2
    world.update_service(web, spec(replicas=5))
    world.run()
    assert [task.slot for task in world.running(web)] == [1, 2, 3, 4, 5]


def test_scaling_down_prefers_tasks_that_do_not_run() -> None:
    """A task that is still waiting is given up before one that runs."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=2, placement=Placement(max_replicas=2)))
    world.run()
    kept = {task.id for task in world.running(web)}
    world.update_service(web, spec(replicas=4, placement=Placement(max_replicas=2)))
    world.run()
    world.update_service(web, spec(replicas=2, placement=Placement(max_replicas=2)))
    world.run()
    assert {task.id for task in world.running(web)} == kept
    assert len(world.tasks(web)) == 2


def test_scaling_down_takes_from_the_fullest_node() -> None:
    """Tasks are given up on the node that has most of the service, so that the rest is level."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=4))
    world.run()
    world.add_node("b")
    world.update_service(web, spec(replicas=6))
    world.run()
    assert world.spread(web) == [4, 2]
    world.update_service(web, spec(replicas=4))
    world.run()
    assert world.spread(web) == [2, 2]


def test_scaling_does_not_touch_other_tasks() -> None:
    """A change of replicas alone replaces nothing and starts no update."""
    world = two_nodes()
    web = world.add_service(spec(replicas=2))
    world.run()
    before = {task.id for task in world.running(web)}
    world.update_service(web, spec(replicas=3))
    world.run()
    assert before < {task.id for task in world.running(web)}
    assert world.service(web).update_status is None


def test_scaling_to_zero_leaves_nothing() -> None:
    """With no replicas wanted, even the history of the slots goes."""
    world = two_nodes()
    web = world.add_service(spec(replicas=3))
    world.run()
    world.update_service(web, spec(replicas=0))
    world.run()
    assert world.tasks(web) == []


def test_removed_service_disappears_with_its_last_task() -> None:
    """The service object stays until its tasks have stopped, then goes."""
    world = two_nodes()
    web = world.add_service(spec(replicas=2))
    world.run()
    world.remove_service(web)
    world.settle()
    assert {task.desired_state for task in world.tasks(web)} == {TaskState.REMOVE}
    assert world.service(web).pending_delete
    world.run()
    assert world.view.service(web) is None
    assert world.view.tasks() == ()


def test_removal_ends_while_a_node_is_down() -> None:
    """Tasks on a node that does not answer do not hold up the removal."""
    world = World()
    node = world.add_node("a")
    web = world.add_service(spec(replicas=2))
    world.run()
    world.set_node(node, NodeState.DOWN)
    world.run()
    world.remove_service(web)
    world.run()
    assert world.view.service(web) is None
    assert world.view.tasks() == ()


def test_tasks_of_a_vanished_service_are_removed() -> None:
    """Tasks without a service are told to go, by the reaper's rule once they have stopped."""
    world = two_nodes()
    web = world.add_service(spec(replicas=1))
    world.run()
    world.write(changes.delete(world.service(web)))
    world.report(world.view.tasks()[0], TaskState.FAILED)
    world.run()
    assert world.view.tasks() == ()


def test_global_service_has_one_task_on_each_node() -> None:
    """Each node that is open gets a task; a node that joins gets one as well."""
    world = two_nodes()
    web = world.add_service(spec(replicas=None, mode=ServiceMode.GLOBAL))
    world.run()
    assert world.spread(web) == [1, 1]
    world.add_node("c")
    world.run()
    assert world.spread(web) == [1, 1, 1]
    assert {task.slot for task in world.running(web)} == {0}


def test_global_service_obeys_availability_and_constraints() -> None:
    """A paused node keeps its task but gets no new one, a drained one loses it, a wrong one never has it."""
    world = World()
    a = world.add_node("a", zone="eu")
    b = world.add_node("b", zone="eu")
    world.add_node("c", zone="us")
    placement = Placement(constraints=("node.labels.zone==eu",))
    web = world.add_service(spec(replicas=None, mode=ServiceMode.GLOBAL, placement=placement))
    world.run()
    assert world.spread(web) == [1, 1, 0]
    world.set_node(a, availability=Availability.PAUSE)
    world.set_node(b, availability=Availability.DRAIN)
    world.run()
    assert world.spread(web) == [1, 0, 0]
    world.set_node(b, availability=Availability.ACTIVE)
    world.run()
    assert world.spread(web) == [1, 1, 0]
    paused_too_soon = world.add_node("d", zone="eu")
    world.set_node(paused_too_soon, availability=Availability.PAUSE)
    world.run()
    assert world.spread(web) == [1, 1, 0, 0]


def test_global_task_leaves_a_node_whose_label_changed() -> None:
    """A node that meets the constraints no more loses its task; what became of it is told. A new one comes with the
    label."""
    world = World()
    node = world.add_node("a", zone="eu")
    web = world.add_service(
        spec(replicas=None, mode=ServiceMode.GLOBAL, placement=Placement(constraints=("node.labels.zone==eu",)))
    )
    world.run()
    current = world.view.node(node.id)
    assert current is not None
    world.write(changes.update(attrs.evolve(current, spec=attrs.evolve(current.spec, labels={"zone": "us"}))))
    world.settle()
    [task] = world.view.tasks()
    assert (task.desired_state, task.cause) == (TaskState.SHUTDOWN, Cause.MISPLACED)
    assert task.status.err == (
        f"node {node.id} is no place for this task any more: constraint node.labels.zone==eu is not met"
    )
    world.run()
    assert world.running(web) == []
    world.write(changes.update(attrs.evolve(current, spec=attrs.evolve(current.spec, labels={"zone": "eu"}))))
    world.run()
    [again] = world.running(web)
    assert again.id != task.id


def test_global_service_returns_to_a_node_that_was_down() -> None:
    """A node that was down loses its task and gets a new one when it is back."""
    world = two_nodes()
    web = world.add_service(spec(replicas=None, mode=ServiceMode.GLOBAL))
    world.run()
    b = world.view.nodes()[1]
    world.set_node(b, NodeState.DOWN)
    world.run()
    assert world.spread(web) == [1, 0]
    world.set_node(b, NodeState.READY)
    world.run()
    assert world.spread(web) == [1, 1]


def test_unknown_nodes_are_not_decided_on() -> None:
    """Tasks on nodes that a new leader has not heard of count as running, for both modes."""
    world = two_nodes()
    web = world.add_service(spec(replicas=4))
    agent = world.add_service(spec("agent", replicas=None, mode=ServiceMode.GLOBAL))
    world.run()
    for node in world.view.nodes():
        world.set_node(node, NodeState.UNKNOWN)
    assert world.decide() == 0
    assert len(world.running(web)) == 4
    assert len(world.running(agent)) == 2
