"""Tasks leave nodes that became another under them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from control_world import GIB, World, spec

from swarmpy.control import enforcer
from swarmpy.model import changes, codec
from swarmpy.model.ids import ClusterId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import (
    Cluster,
    JobStatus,
    JoinTokens,
    Node,
    NodeDescription,
    NodeStatus,
    RootCA,
    Service,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import GenericResource, Placement, ResourceRequirements, Resources, TaskSpec
from swarmpy.model.states import Availability, Cause, NodeState, Role, ServiceMode, TaskState


def change(world: World, node: Node, **fields: Any) -> None:
    """The node is now like this."""
    current = world.view.node(node.id)
    assert current is not None
    world.write(changes.update(attrs.evolve(current, **fields)))


def relabel(world: World, node: Node, **labels: str) -> None:
    """The operator gives the node other labels."""
    change(world, node, spec=attrs.evolve(node.spec, labels=labels))


def shrink(world: World, node: Node, **resources: Any) -> None:
    """The node comes back with other resources."""
    change(world, node, description=attrs.evolve(node.description, resources=Resources(**resources)))


def test_tasks_leave_a_node_whose_labels_do_not_fit_any_more() -> None:
    """They are replaced where the constraint is met, and say why they had to go."""
    world = World()
    a = world.add_node("a", zone="eu")
    web = world.add_service(spec(replicas=2, placement=Placement(constraints=("node.labels.zone==eu",))))
    world.run()
    world.add_node("b", zone="eu")
    relabel(world, a, zone="us")
    world.decide()
    stopped = [t for t in world.tasks(web) if t.desired_state is TaskState.SHUTDOWN]
    assert {t.status.err for t in stopped} == {
        f"node {a.id} is no place for this task any more: constraint node.labels.zone==eu is not met"
    }
    world.run()
    assert world.spread(web) == [0, 2]


def test_without_another_place_the_replacement_waits_with_its_reason() -> None:
    """The task goes all the same, as with Docker."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=1, placement=Placement(constraints=("node.role==worker",))))
    world.run()
    change(world, a, role=Role.MANAGER)
    world.run()
    assert world.running(web) == []
    (waiting,) = world.tasks(web, TaskState.PENDING)
    assert waiting.status.err == (
        "no suitable node (scheduling constraints not satisfied on 1 node: node.role==worker on 1)"
    )
    change(world, a, role=Role.WORKER)
    world.run()
    assert len(world.running(web)) == 1


def test_a_node_that_shrank_keeps_its_oldest_tasks() -> None:
    """As many as its resources are enough for."""
    world = World()
    a = world.add_node("a", memory=4 * GIB)
    web = world.add_service(spec(replicas=2, reserve=Resources(memory_bytes=GIB)))
    world.run()
    old = {task.id for task in world.running(web)}
    world.clock.now_ns += 1
    api = world.add_service(spec("api", replicas=2, reserve=Resources(memory_bytes=GIB)))
    world.run()
    shrink(world, a, nano_cpus=4 * 10**9, memory_bytes=3 * GIB)
    world.run()
    assert {task.id for task in world.running(web)} == old
    assert world.spread(api) == [1]
    assert len(world.tasks(api, TaskState.PENDING)) == 1


def test_global_tasks_leave_and_wait_for_their_node() -> None:
    """A shortage is one for them, too."""
    world = World()
    a = world.add_node("a", cpus=2)
    agent = world.add_service(
        spec("agent", replicas=None, mode=ServiceMode.GLOBAL, reserve=Resources(nano_cpus=2 * 10**9))
    )
    world.run()
    shrink(world, a, nano_cpus=10**9, memory_bytes=GIB)
    world.run()
    assert world.running(agent) == []
    (waiting,) = world.tasks(agent, TaskState.PENDING)
    assert waiting.status.err == "no suitable node (insufficient CPU on 1 node: largest free 1, needs 2)"


@pytest.mark.parametrize("where", [NodeState.DOWN, NodeState.UNKNOWN, NodeState.DISCONNECTED, Availability.PAUSE])
def test_nodes_that_take_no_tasks_are_left_alone(where: NodeState | Availability) -> None:
    """What is known of them is old, or their operator wants them to keep what they have."""
    world = World()
    a = world.add_node("a", zone="eu")
    web = world.add_service(spec(replicas=2, placement=Placement(constraints=("node.labels.zone==eu",))))
    world.run()
    relabel(world, a)
    if isinstance(where, NodeState):
        world.set_node(a, where)
    else:
        world.set_node(a, availability=where)
    assert enforcer.decide(world.view, [a.id], world.clock.now_ns).is_empty
    assert len(world.tasks(web, TaskState.RUNNING)) == 2


def test_a_constraint_that_the_service_gave_up_does_not_count() -> None:
    """A change of placement that a node still satisfies replaces no task; nor does the old one afterwards."""
    world = World()
    a = world.add_node("a", zone="eu")
    web = world.add_service(spec(replicas=1, placement=Placement(constraints=("node.labels.zone==eu",))))
    world.run()
    before = world.running(web)
    world.update_service(web, spec(replicas=1))
    world.run()
    relabel(world, a)
    world.run()
    assert [task.id for task in world.running(web)] == [task.id for task in before]


def test_a_constraint_that_only_the_service_has_is_left_to_its_update() -> None:
    """The update replaces the tasks at its own pace; the node being looked at does not hurry it."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=4))
    world.run()
    world.update_service(web, spec(replicas=4, placement=Placement(constraints=("node.labels.zone==eu",))))
    relabel(world, a, zone="us")
    assert enforcer.decide(world.view, [a.id], world.clock.now_ns).is_empty
    world.run()
    assert len(world.running(web)) == 3


def test_named_resources_that_are_gone_take_their_task_along() -> None:
    """Another of the same kind does not help: the task has that very one."""
    world = World()
    gpus = Resources(generic=(GenericResource(kind="gpu", names=("a", "b")),))
    node = Node(id=NodeId("n"), description=NodeDescription(resources=gpus), status=NodeStatus(state=NodeState.READY))
    world.write(changes.create(node))
    reserved = Resources(generic=(GenericResource(kind="gpu", count=1),))
    tasks = [
        Task(
            id=TaskId(name),
            spec=TaskSpec(resources=ResourceRequirements(reservations=reserved)),
            service_id=ServiceId("s"),
            node_id=node.id,
            status=TaskStatus(state=TaskState.RUNNING),
            generic=(GenericResource(kind="gpu", names=(name,)),),
        )
        for name in ("a", "b")
    ]
    world.write(*map(changes.create, tasks))
    assert enforcer.decide(world.view, [node.id], 0).is_empty
    shrink(world, node, generic=(GenericResource(kind="gpu", names=("b", "c")),))
    (evicted,) = enforcer.decide(world.view, [node.id], 0).changes
    assert evicted.id == "a"


# -- engines that do not answer ---------------------------------------------------------------------------------------


def engine(world: World, node: Node, *, away: bool) -> None:
    """The node says how its engine is."""
    current = world.view.node(node.id)
    assert current is not None
    change(world, node, status=attrs.evolve(current.status, engine_away=away))


def test_what_runs_stays_where_the_engine_is_away_and_new_tasks_go_elsewhere() -> None:
    """Its silence says nothing about containers that run. Where there is no other node they wait, and say why."""
    world = World()
    a, b = world.add_node("a"), world.add_node("b")
    web = world.add_service(spec(replicas=2))
    world.run()
    before = {task.id for task in world.running(web)}
    engine(world, a, away=True)
    world.update_service(web, spec(replicas=6))
    world.run()
    assert before < {task.id for task in world.running(web)}
    assert world.spread(web) == [1, 5]
    engine(world, b, away=True)
    world.update_service(web, spec(replicas=7))
    world.run()
    (waiting,) = world.tasks(web, TaskState.PENDING)
    assert waiting.status.err == "no suitable node (2 nodes without an engine that answers)"
    engine(world, a, away=False)
    world.run()
    assert world.spread(web) == [2, 5]


def test_what_was_never_started_leaves_an_engine_that_is_away() -> None:
    """It could wait there for ever. A task of a global service has nowhere else to go."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=2))
    each = world.add_service(spec(name="each", mode=ServiceMode.GLOBAL))
    world.settle()
    b = world.add_node("b")
    engine(world, a, away=True)
    world.settle()
    gone = [task for task in world.tasks(web) if task.desired_state is TaskState.SHUTDOWN]
    assert {task.node_id for task in gone} == {a.id}
    assert {task.status.err for task in gone} == {
        f"node {a.id} is no place for this task any more: its engine does not answer"
    }
    wanted = [task for task in world.tasks(web) if task.desired_state.is_wanted]
    assert [(task.node_id, task.desired_state) for task in wanted] == [(b.id, TaskState.RUNNING)] * 2
    assert a.id in {task.node_id for task in world.tasks(each) if task.desired_state.is_wanted}


def test_a_job_waits_for_what_may_still_be_done() -> None:
    """Should its task have been about to start as the engine came back, the work would be done twice."""
    world = World()
    a = world.add_node("a")
    wanted = spec(replicas=None, mode=ServiceMode.REPLICATED_JOB, total_completions=1, update=None)
    work = world.add_service(wanted)
    world.write(changes.update(attrs.evolve(world.service(work), job=JobStatus())))
    world.settle()
    world.add_node("b")
    engine(world, a, away=True)
    world.settle()
    (left,) = world.tasks(work)
    assert (left.node_id, left.desired_state) == (a.id, TaskState.SHUTDOWN)
    world.report(left, TaskState.SHUTDOWN)
    world.settle()
    assert [task.desired_state for task in world.tasks(work) if task.id != left.id] == [TaskState.COMPLETE]


# -- with managers that read what marks a task ------------------------------------------------------------------------


def marking(*names: str, **more: Any) -> tuple[World, list[Node]]:
    """A world that writes the present schema, with these nodes in zone eu."""
    world = World()
    root = RootCA(cert_pem=b"", key_pem=b"", cert_digest="")
    tokens = JoinTokens(worker="", manager="")
    world.write(
        changes.create(Cluster(id=ClusterId("c"), root_ca=root, join_tokens=tokens, schema=codec.SCHEMA_VERSION))
    )
    return world, [world.add_node(name, zone="eu", **more) for name in names]


EUROPE = Placement(constraints=("node.labels.zone==eu",))


def waiting_to_move() -> tuple[World, Service, Task, Node, Node]:
    """A service whose only task is to move from one node to another one, where nothing comes up.

    Returns the task as it was, where it is, and where it is to go.
    """
    world, (a, b) = marking("a", "b")
    web = world.add_service(spec(replicas=1, placement=EUROPE))
    world.run()
    (old,) = world.running(web)
    here, there = (a, b) if old.node_id == a.id else (b, a)
    world.stalling = lambda task: task.node_id == there.id
    relabel(world, here)
    world.run()
    return world, web, old, here, there


def test_a_task_that_runs_is_replaced_first() -> None:
    """It runs until another one does; one that does not run yet is no loss."""
    world, (a, b) = marking("a", "b")
    web = world.add_service(spec(replicas=2, placement=EUROPE))
    world.run()
    (old,) = [task for task in world.running(web) if task.node_id == a.id]
    relabel(world, a)
    world.settle()
    again = world.view.task(old.id)
    assert again is not None
    assert (again.desired_state, again.cause) == (TaskState.RUNNING, Cause.MISPLACED)
    (new,) = [task for task in world.tasks(web) if task.slot == old.slot and task.id != old.id]
    assert (new.node_id, new.desired_state) == (b.id, TaskState.RUNNING)
    world.run()
    assert world.spread(web) == [0, 2]
    stopped = world.view.task(old.id)
    assert stopped is not None
    assert (stopped.status.state, stopped.cause) == (TaskState.SHUTDOWN, Cause.MISPLACED)


def test_an_agent_that_reports_does_not_undo_it() -> None:
    """What a task says is its agent's; that it is to go is not."""
    world, web, old, _, there = waiting_to_move()
    assert len(world.tasks(web)) == 2
    marked = world.view.task(old.id)
    assert marked is not None
    world.report(marked, TaskState.RUNNING, err="")
    world.run()
    assert len(world.tasks(web)) == 2
    said = world.view.task(old.id)
    assert said is not None
    assert "is no place for this task any more: constraint node.labels.zone==eu" in said.status.err
    world.stalling = lambda task: False
    world.run()
    assert [task.node_id for task in world.running(web)] == [there.id]


def test_a_node_that_falls_silent_is_not_judged() -> None:
    """Its tasks are to go as before, and no second replacement is made."""
    world, web, old, here, _ = waiting_to_move()
    before = {task.id for task in world.tasks(web)}
    for state in (NodeState.DISCONNECTED, NodeState.READY):
        world.set_node(here, state)
        world.run()
        assert {task.id for task in world.tasks(web)} == before
    relabel(world, here, zone="eu")
    world.run()
    assert [(task.id, task.cause, task.status.err) for task in world.running(web)] == [(old.id, Cause.NONE, "")]


def test_the_youngest_of_a_node_that_shrank_is_replaced_first() -> None:
    """Where there is room; and it is stopped all the same where there is none."""
    world, (a,) = marking("a", memory=2 * GIB)
    web = world.add_service(spec(replicas=2, reserve=Resources(memory_bytes=GIB)))
    world.run()
    shrink(world, a, nano_cpus=4 * 10**9, memory_bytes=GIB)
    world.settle()
    (waiting,) = world.tasks(web, TaskState.PENDING)
    assert "insufficient memory on 1 node" in waiting.status.err
    assert len(world.running(web)) == 1
    world.run()
    assert len(world.running(web)) == 1
    world.add_node("b", memory=GIB)
    world.run()
    assert world.spread(web) == [1, 1]
    world.add_node("c", memory=GIB)
    shrink(world, a, nano_cpus=4 * 10**9, memory_bytes=0)
    world.settle()
    assert len(world.running(web)) == 2
    world.run()
    assert world.spread(web) == [0, 1, 1]
