"""What a node that leaves is told of its tasks."""

from __future__ import annotations

from control_world import World, spec

from swarmpy.control.leaving import MAX_SERVICES, departure
from swarmpy.model import changes
from swarmpy.model.assignments import ServiceLeft
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import JobStatus, Service
from swarmpy.model.specs import MaxUnavailable, UpdateConfig
from swarmpy.model.states import ServiceMode, TaskState


def test_all_move_and_nothing_is_missing() -> None:
    """A service that starts first, one that stops first and a global one: none has anything left in the end."""
    world = World()
    node = world.add_node("n1")
    web = world.add_service(spec(update=UpdateConfig(order="start-first")))
    db = world.add_service(spec("db", replicas=1))
    world.add_service(spec("agent", replicas=None, mode=ServiceMode.GLOBAL))
    world.run()
    world.add_node("n2")
    world.run()
    assert departure(world.view, node.id).left == 4
    world.set_node(node, leaving=True)
    told = departure(world.view, node.id)
    assert (told.begun, told.left) == (True, 4)
    assert [(each.service, each.left, each.missing) for each in told.services] == [
        ("web", 2, 0),
        ("agent", 1, 0),
        ("db", 1, 0),
    ]
    world.settle()
    assert all(task.desired_state.is_wanted for task in world.running(web)), "the replacements are first"
    world.run()
    told = departure(world.view, node.id)
    assert (told.begun, told.left, told.services) == (True, 0, ())
    assert world.spread(web) == [0, 2]
    assert world.spread(db) == [0, 1]


def test_why_something_is_left_or_missing() -> None:
    """A bound, no place, and a job that begins again elsewhere."""
    world = World()
    node = world.add_node("n1")
    world.add_service(spec(max_unavailable=MaxUnavailable(amount=1)))
    world.add_service(spec("db", replicas=1))
    job = spec("work", replicas=None, mode=ServiceMode.REPLICATED_JOB)
    world.write(changes.create(Service(id=ServiceId(world.new_id()), spec=job, job=JobStatus())))
    world.run()
    world.set_node(node, leaving=True)
    world.run()
    told = departure(world.view, node.id)
    nowhere = "pending: no suitable node (1 node about to leave or restart)"
    assert told.left == 1
    assert told.services == (
        ServiceLeft(service="web", left=1, missing=1, reasons=("waits: web may miss at most 1 task", nowhere)),
        ServiceLeft(service="db", missing=1, reasons=(nowhere,)),
        ServiceLeft(service="work", missing=1, reasons=(nowhere,)),
    )
    world.set_node(node, leaving=False)
    world.run()
    assert not departure(world.view, node.id).begun
    assert len(world.running(world.view.services()[0].id)) > 0
    for service in world.view.services():
        assert any(task.status.state is TaskState.RUNNING for task in world.tasks(service.id)), service.spec.name


def test_no_more_is_told_than_fits() -> None:
    """Of many services those of which most is left; the number of tasks is of all."""
    world = World()
    node = world.add_node("n1")
    for number in range(MAX_SERVICES + 5):
        world.add_service(spec(f"s{number}", replicas=2 if number == MAX_SERVICES + 4 else 1))
    world.run()
    told = departure(world.view, node.id)
    assert (told.left, len(told.services)) == (MAX_SERVICES + 6, MAX_SERVICES)
    assert told.services[0].service == f"s{MAX_SERVICES + 4}"


def test_a_node_that_is_gone_is_told_nothing() -> None:
    """It asks as it is removed."""
    assert departure(World().view, World().add_node("n1").id).begun is False
