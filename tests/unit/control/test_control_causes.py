"""A decision that ends a task says why."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from control_world import SECOND, World, spec

from swarmpy.model import changes
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Task, UpdateStatus
from swarmpy.model.specs import Placement, RestartPolicy
from swarmpy.model.states import Availability, Cause, NodeState, TaskState, UpdateState

RESTART = RestartPolicy(delay_ns=SECOND)
ON_SSD = Placement(constraints=("node.labels.disk==ssd",))


def updated(world: World, web: ServiceId, _: Task) -> None:
    world.update_service(web, spec(replicas=2, image="nginx:2", restart=RESTART, placement=ON_SSD))


def rolled_back(world: World, web: ServiceId, _: Task) -> None:
    status = UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_at_ns=world.clock.now_ns)
    wanted = spec(replicas=2, image="nginx:0", restart=RESTART, placement=ON_SSD)
    world.write(changes.update(attrs.evolve(world.service(web), spec=wanted, update_status=status)))


def scaled_down(world: World, web: ServiceId, _: Task) -> None:
    world.update_service(web, spec(replicas=0, restart=RESTART, placement=ON_SSD))


def failed(world: World, _: ServiceId, task: Task) -> None:
    world.report(task, TaskState.FAILED, "boom")


def drained(world: World, _: ServiceId, task: Task) -> None:
    for node in world.view.nodes():
        if node.id == task.node_id:
            world.set_node(node, availability=Availability.DRAIN)


def lost(world: World, _: ServiceId, task: Task) -> None:
    for node in world.view.nodes():
        if node.id == task.node_id:
            world.set_node(node, NodeState.DOWN)


def relabelled(world: World, _: ServiceId, task: Task) -> None:
    node = world.view.node(task.node_id or "")
    assert node is not None
    world.write(changes.update(attrs.evolve(node, spec=attrs.evolve(node.spec, labels={}))))


def removed(world: World, web: ServiceId, _: Task) -> None:
    world.remove_service(web)


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (updated, Cause.UPDATE),
        (rolled_back, Cause.ROLLBACK),
        (scaled_down, Cause.SCALE),
        (failed, Cause.RESTART),
        (drained, Cause.DRAIN),
        (lost, Cause.NODE_LOST),
        (relabelled, Cause.MISPLACED),
        (removed, Cause.REMOVED),
    ],
)
def test_the_cause_of_an_end(event: Callable[[World, ServiceId, Task], None], cause: Cause) -> None:
    """Whatever a user does, or befalls a node or the task itself."""
    world = World()
    for name in ("a", "b", "c"):
        world.add_node(name, disk="ssd")
    web = world.add_service(spec(replicas=2, restart=RESTART, placement=ON_SSD))
    world.run()
    first = min(world.tasks(web), key=lambda task: task.slot)
    assert first.cause is Cause.NONE
    event(world, web, first)
    ended = []
    for _ in range(20):
        world.settle()
        ended = [t for t in world.view.tasks() if t.id == first.id and not t.desired_state.is_wanted]
        if ended:
            break
        world.advance(1)
        world.run()
    assert [task.cause for task in ended] == [cause]
