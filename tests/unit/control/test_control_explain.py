"""Why a service does not run as many tasks as it should."""

from __future__ import annotations

import attrs
from control_world import GIB, SECOND, World, spec

from swarmpy.control.explain import Replicas, count_replicas, why_not_running, why_waiting
from swarmpy.model import changes
from swarmpy.model.ids import ServiceId
from swarmpy.model.specs import Placement, Resources, RestartPolicy
from swarmpy.model.states import NodeState, ServiceMode, TaskState


def why(world: World, service: ServiceId) -> str:
    return why_not_running(world.view, world.service(service))


def count(world: World, service: ServiceId) -> Replicas:
    return count_replicas(world.view, world.service(service))


def test_healthy_service_needs_no_explanation() -> None:
    """All is said with nothing when what is wanted runs."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=2))
    assert why(world, web) == "2 tasks not created yet"
    world.settle()
    assert why(world, web) == "2 tasks starting"
    assert count(world, web) == Replicas(running=0, desired=2)
    world.run()
    assert why(world, web) == ""
    assert count(world, web) == Replicas(running=2, desired=2)


def test_pending_reason_is_given_with_its_count() -> None:
    """Tasks that cannot be placed are counted with the scheduler's reason."""
    world = World()
    world.add_node("a", memory=GIB)
    web = world.add_service(spec(replicas=3, reserve=Resources(memory_bytes=GIB)))
    world.run()
    assert why(world, web) == (
        "2 tasks pending: no suitable node (insufficient memory on 1 node: largest free 0 B, needs 1 GiB)"
    )


def test_crashing_and_given_up_tasks_show_their_error() -> None:
    """A task between two tries shows what ended the last one; one that was given up says so."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(max_attempts=1, delay_ns=SECOND)))
    world.crashing = lambda task: True
    world.run()
    assert why(world, web) == "1 task restarting after: boom"
    world.advance(5)
    assert why(world, web) == "1 task failed, not restarted by its policy: boom"


def test_a_task_that_is_being_prepared_says_how_far_it_is() -> None:
    """What is wrong with it, else its message, unless that says no more than its state."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=3))
    world.settle()
    messages = (("preparing", "the registry does not answer"), ("pulling web:8: 1 of 2 MB", ""), ("preparing", ""))
    for task, (message, err) in zip(world.view.tasks_of_service(web), messages, strict=True):
        status = attrs.evolve(task.status, state=TaskState.PREPARING, message=message, err=err)
        world.write(changes.update(attrs.evolve(task, status=status)))
    assert sorted(why(world, web).split("; ")) == [
        "1 task preparing: pulling web:8: 1 of 2 MB",
        "1 task preparing: the registry does not answer",
        "1 task starting",
    ]


def test_paused_update_is_said_first() -> None:
    """The update's own message leads, then what does not run."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=2))
    world.run()
    world.update_service(web, spec(replicas=2, image="nginx:2"))
    world.crashing = lambda task: True
    world.run()
    assert why(world, web).startswith("update paused due to failure or early termination of task ")
    assert why(world, web).endswith("; 1 task restarting after: boom")


def test_removal_and_lost_nodes_are_explained() -> None:
    """Tasks on a node that is down do not count as running; a removal says what it waits for."""
    world = World()
    node = world.add_node("a")
    web = world.add_service(spec(replicas=2))
    agent = world.add_service(spec("agent", replicas=None, mode=ServiceMode.GLOBAL))
    world.run()
    assert count(world, agent) == Replicas(running=1, desired=1)
    world.set_node(node, NodeState.DOWN)
    world.settle()
    assert count(world, web) == Replicas(running=0, desired=2)
    assert count(world, agent) == Replicas(running=0, desired=0)
    assert why(world, web) == "2 tasks pending: no suitable node (1 node down)"
    assert why(world, agent) == "no node takes tasks: of 1 that meet its constraints all are down, paused or drained"
    world.set_node(node, NodeState.READY)
    world.remove_service(web)
    assert why(world, web) == f"being removed: {len(world.tasks(web))} tasks still stopping"
    assert {task.status.state for task in world.tasks(web)} >= {TaskState.RUNNING}


def test_a_global_service_that_fits_nowhere_says_so() -> None:
    """It wants no task, and that is no reason to be silent."""
    world = World()
    world.add_node("a")
    placement = Placement(constraints=("node.labels.x==1",))
    agent = world.add_service(spec("agent", replicas=None, mode=ServiceMode.GLOBAL, placement=placement))
    world.run()
    assert count(world, agent) == Replicas(running=0, desired=0)
    assert why(world, agent) == "no node meets its constraints (1 looked at)"


def test_a_task_that_waits_says_what_for() -> None:
    """Where its own status does not: for the one before it, for its delay, for its node, or for nothing any more."""
    world = World()
    node = world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(max_attempts=1, delay_ns=SECOND)))
    world.settle()
    (first,) = world.tasks(web)
    world.set_node(node, NodeState.DISCONNECTED)
    assert why_waiting(world.view, first) == "its node a is disconnected"
    assert why(world, web) == "1 task assigned: its node a is disconnected"
    world.set_node(node, NodeState.READY)
    world.report(first, TaskState.RUNNING)
    assert why_waiting(world.view, first) == ""
    world.update_service(web, spec(replicas=1, image="nginx:2", restart=RestartPolicy(max_attempts=1, delay_ns=SECOND)))
    world.settle()
    second = next(task for task in world.tasks(web) if task.id != first.id)
    assert why_waiting(world.view, second) == f"it starts when task {first.id} has stopped on node a"
    world.report(first, TaskState.SHUTDOWN)
    world.crashing = lambda task: True
    world.settle()
    world.report(second, TaskState.FAILED, "boom")
    world.settle()
    third = max(world.tasks(web), key=lambda task: task.id)
    assert (third.desired_state, why_waiting(world.view, third)) == (TaskState.READY, "it waits for its restart delay")
    world.advance(5)
    (given_up,) = [task for task in world.tasks(web) if task.desired_state is TaskState.RUNNING]
    assert why_waiting(world.view, given_up) == "it is not tried again, as its restart policy says"


def test_a_task_that_is_rejected_during_its_delay_is_tried_again() -> None:
    """The delay is not shortened, and it is not given up either."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(delay_ns=SECOND)))
    world.rejecting = lambda task: True
    world.run()
    newest = max(world.tasks(web), key=lambda task: task.id)
    assert (newest.status.state, newest.desired_state) == (TaskState.REJECTED, TaskState.READY)
    assert why_waiting(world.view, newest) == "it is tried again after its restart delay"
