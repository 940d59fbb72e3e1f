"""Rolling updates: pace, order, failures, rollback, and a change of leader in the middle."""

from __future__ import annotations

import attrs
from control_world import SECOND, World, spec

from swarmpy.control.outdated import is_outdated
from swarmpy.model import changes
from swarmpy.model.ids import SecretId, ServiceId
from swarmpy.model.objects import Service, Task
from swarmpy.model.specs import Placement, PortConfig, RestartPolicy, UpdateConfig
from swarmpy.model.states import TaskState, UpdateState


def updating(replicas: int = 4, nodes: int = 2, **config: object) -> tuple[World, ServiceId]:
    """A running service that has just been given another image."""
    world = World()
    for number in range(nodes):
        world.add_node(f"n{number}")
    update = UpdateConfig(**config)  # type: ignore[arg-type]
    web = world.add_service(spec(replicas=replicas, update=update))
    world.run()
    world.update_service(web, spec(replicas=replicas, update=update, image="nginx:2"))
    return world, web


def state_of(world: World, service: ServiceId) -> UpdateState | None:
    status = world.service(service).update_status
    return status.state if status else None


def message_of(world: World, service: ServiceId) -> str:
    status = world.service(service).update_status
    return status.message if status else ""


def crashes_as(image: str, world: World) -> None:
    world.crashing = lambda task: task.spec.container.image == image


def least_running(world: World, service: ServiceId) -> int:
    """Run to rest; returns the smallest number of slots that were served at any moment."""
    least = len(world.running(service))
    for _ in range(60):
        world.settle()
        least = min(least, len({task.slot for task in world.running(service)}))
        if not world.agents():
            return least
    raise AssertionError("the update does not come to rest")


def test_update_replaces_one_slot_at_a_time() -> None:
    """With the default parallelism no more than one slot is without a running task at any moment."""
    world, web = updating()
    assert least_running(world, web) == 3
    assert world.images(web) == ["nginx:2"] * 4


def test_update_completes_after_the_monitor_time() -> None:
    """The update is in progress until the last new task has run for the monitor time."""
    world, web = updating(monitor_ns=20 * SECOND)
    world.run()
    assert (state_of(world, web), message_of(world, web)) == (UpdateState.UPDATING, "update in progress")
    world.advance(19)
    assert state_of(world, web) is UpdateState.UPDATING
    world.advance(1)
    assert (state_of(world, web), message_of(world, web)) == (UpdateState.COMPLETED, "update completed")
    status = world.service(web).update_status
    assert status is not None
    assert status.completed_at_ns == world.clock.now_ns > status.started_at_ns
    assert world.wake_at_ns is None


def test_parallelism_zero_replaces_all_at_once() -> None:
    """Parallelism 0 is no bound."""
    world, web = updating(parallelism=0)
    assert least_running(world, web) == 0
    assert world.images(web) == ["nginx:2"] * 4


def test_delay_separates_the_batches() -> None:
    """The next slot is taken only when the last new task has run for the delay."""
    world, web = updating(parallelism=2, delay_ns=10 * SECOND)
    world.run()
    assert world.images(web).count("nginx:2") == 2
    world.advance(9)
    assert world.images(web).count("nginx:2") == 2
    world.advance(1)
    assert world.images(web) == ["nginx:2"] * 4


def test_start_first_never_has_fewer_tasks() -> None:
    """With start-first the old task stops only when the new one runs."""
    world, web = updating(order="start-first")
    assert least_running(world, web) == 4
    assert world.images(web) == ["nginx:2"] * 4
    assert len(world.running(web)) == 4


def test_start_first_with_a_host_port_stops_first() -> None:
    """Two tasks of a slot cannot share a host port: the order falls back and the update does not deadlock."""
    world = World()
    world.add_node("a")
    port = (PortConfig(target_port=80, published_port=8080, publish_mode="host"),)
    update = UpdateConfig(order="start-first")
    web = world.add_service(spec(replicas=1, ports=port, update=update))
    world.run()
    world.update_service(web, spec(replicas=1, ports=port, update=update, image="nginx:2"))
    assert least_running(world, web) == 0
    assert world.images(web) == ["nginx:2"]
    why = "stop-first: two tasks cannot have port 8080/tcp of a node at once"
    assert message_of(world, web) == f"update in progress, {why}"
    world.advance(6)
    assert message_of(world, web) == f"update completed, {why}"


def test_failing_update_pauses() -> None:
    """The first task that ends early pauses the update, says which it was, and the other slots stay as they are."""
    world, web = updating()
    crashes_as("nginx:2", world)
    world.run()
    (failed,) = world.tasks(web, TaskState.FAILED)
    assert state_of(world, web) is UpdateState.PAUSED
    assert message_of(world, web) == f"update paused due to failure or early termination of task {failed.id}"
    world.advance(60)
    assert world.images(web) == ["nginx:1"] * 3


def test_failing_start_first_update_keeps_the_old_task() -> None:
    """A paused start-first update leaves every slot served, and does not try again behind the pause."""
    world, web = updating(order="start-first")
    crashes_as("nginx:2", world)
    world.advance(60)
    assert world.images(web) == ["nginx:1"] * 4
    assert len(world.tasks(web, TaskState.FAILED)) == 1


def test_paused_update_goes_on_when_it_is_updated_again() -> None:
    """Another update after a pause replaces all that is outdated, the failed slot too."""
    world, web = updating()
    crashes_as("nginx:2", world)
    world.run()
    world.update_service(web, spec(replicas=4, image="nginx:3"))
    world.advance(30)
    assert world.images(web) == ["nginx:3"] * 4
    assert state_of(world, web) is UpdateState.COMPLETED


def test_failures_below_the_ratio_are_tolerated() -> None:
    """One failure in four slots is no more than a ratio of a quarter; a second one is."""
    world, web = updating(max_failure_ratio=0.25, parallelism=1)
    world.crashing = lambda task: task.spec.container.image == "nginx:2" and task.slot == 1
    world.run()
    assert state_of(world, web) is UpdateState.UPDATING
    assert world.images(web) == ["nginx:2"] * 3
    world.report(world.running(web)[0], TaskState.FAILED)
    world.run()
    assert state_of(world, web) is UpdateState.PAUSED


def test_continue_ignores_failures() -> None:
    """With failure action continue the update goes on past failing slots to its end."""
    world, web = updating(failure_action="continue")
    world.crashing = lambda task: task.spec.container.image == "nginx:2" and task.slot < 3
    world.advance(60)
    assert world.images(web) == ["nginx:2"] * 2
    assert state_of(world, web) is UpdateState.COMPLETED


def test_continue_with_start_first_keeps_trying_at_the_restart_delay() -> None:
    """A slot whose new task fails keeps its old one and is tried again, no faster than the restart delay."""
    world, web = updating(failure_action="continue", order="start-first")
    world.crashing = lambda task: task.spec.container.image == "nginx:2" and task.slot == 1
    world.advance(60)
    assert world.images(web) == ["nginx:1", *["nginx:2"] * 3]
    world.crashing = lambda task: False
    world.advance(20)
    assert world.images(web) == ["nginx:2"] * 4


def test_slot_out_of_attempts_does_not_hold_up_the_others() -> None:
    """With start-first, a slot whose attempts are used up keeps its old task while the other slots are updated."""
    world = World()
    world.add_node("a")
    update = UpdateConfig(order="start-first", failure_action="continue")
    restart = RestartPolicy(max_attempts=1, delay_ns=SECOND)
    web = world.add_service(spec(replicas=4, update=update, restart=restart))
    world.run()
    world.update_service(web, spec(replicas=4, update=update, restart=restart, image="nginx:2"))
    world.crashing = lambda task: task.spec.container.image == "nginx:2" and task.slot == 1
    world.advance(60)
    assert world.images(web) == ["nginx:1", *["nginx:2"] * 3]
    assert len(world.tasks(web, TaskState.FAILED)) == 2
    assert state_of(world, web) is UpdateState.UPDATING


def test_pace_does_not_depend_on_the_history_limit() -> None:
    """An update without any history keeps to its delay: what it reads from ended tasks is kept while it lasts."""
    world = World(limit=0)
    world.add_node("a")
    update = UpdateConfig(delay_ns=10 * SECOND)
    web = world.add_service(spec(replicas=3, update=update))
    world.run()
    world.update_service(web, spec(replicas=3, update=update, image="nginx:2"))
    for updated in (1, 2, 3):
        world.run()
        assert world.images(web).count("nginx:2") == updated
        world.advance(10)
    world.advance(10)
    assert state_of(world, web) is UpdateState.COMPLETED
    assert len(world.tasks(web)) == 3


def test_late_failure_is_no_failure_of_the_update() -> None:
    """A task that ran for longer than the monitor time does not pause the update when it ends."""
    world, web = updating(delay_ns=30 * SECOND, monitor_ns=5 * SECOND)
    world.run()
    world.advance(20)
    first = next(task for task in world.running(web) if task.spec.container.image == "nginx:2")
    world.report(first, TaskState.FAILED)
    world.advance(200)
    assert state_of(world, web) is UpdateState.COMPLETED


def test_failing_update_rolls_back() -> None:
    """With failure action rollback the previous spec comes back, and slots that never changed are not touched."""
    world, web = updating(failure_action="rollback")
    untouched = {task.id for task in world.running(web)}
    crashes_as("nginx:2", world)
    world.run()
    assert state_of(world, web) is UpdateState.ROLLBACK_STARTED
    why = message_of(world, web)
    assert why.startswith("update rolled back due to failure")
    world.advance(30)
    assert state_of(world, web) is UpdateState.ROLLBACK_COMPLETED
    assert message_of(world, web) == f"rollback completed: {why}"
    assert world.images(web) == ["nginx:1"] * 4
    assert len(untouched & {task.id for task in world.running(web)}) == 3
    assert world.service(web).previous_spec is None


def test_rollback_brings_the_ports_back() -> None:
    """A rollback is not complete before the tasks have the ports of the previous spec again."""
    world = World()
    world.add_node("a")
    update = UpdateConfig(failure_action="rollback")
    old, new = PortConfig(target_port=80, published_port=8080), PortConfig(target_port=80, published_port=8081)
    web = world.add_service(spec(replicas=2, update=update, ports=(old,)))
    world.run()
    world.update_service(web, spec(replicas=2, update=update, ports=(new,)))
    world.crashing = lambda task: task.ports == (new,)
    world.run()
    assert state_of(world, web) is UpdateState.ROLLBACK_STARTED
    world.advance(30)
    assert state_of(world, web) is UpdateState.ROLLBACK_COMPLETED
    assert [task.ports for task in world.running(web)] == [(old,)] * 2


def test_failing_rollback_pauses() -> None:
    """A rollback that fails as well is not rolled back again."""
    world, web = updating(failure_action="rollback", order="stop-first")
    world.crashing = lambda task: task.desired_state <= TaskState.RUNNING
    world.run()
    world.advance(30)
    assert state_of(world, web) is UpdateState.ROLLBACK_PAUSED
    assert message_of(world, web).startswith("rollback paused due to failure")


def test_rollback_without_a_previous_spec_pauses() -> None:
    """Where there is nothing to go back to, the update pauses."""
    world, web = updating(failure_action="rollback")
    world.write(changes.update(attrs.evolve(world.service(web), previous_spec=None)))
    crashes_as("nginx:2", world)
    world.run()
    assert state_of(world, web) is UpdateState.PAUSED


def test_newer_update_replaces_a_running_one() -> None:
    """A second update in the middle of the first ends with all slots on the newest spec."""
    world, web = updating(order="start-first")
    for _ in range(3):
        world.settle()
        world.agents()
    world.update_service(web, spec(replicas=4, image="nginx:3", update=UpdateConfig(order="start-first")))
    assert least_running(world, web) == 4
    assert world.images(web) == ["nginx:3"] * 4
    world.advance(10)
    assert state_of(world, web) is UpdateState.COMPLETED


def test_force_update_replaces_all_tasks() -> None:
    """Raising the force counter alone replaces every task."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=2))
    world.run()
    before = {task.id for task in world.running(web)}
    wanted = world.service(web).spec
    world.update_service(web, attrs.evolve(wanted, task=attrs.evolve(wanted.task, force_update=1)))
    world.run()
    assert not before & {task.id for task in world.running(web)}


def test_placement_change_moves_only_what_must_move() -> None:
    """New constraints replace the tasks on nodes that do not meet them and leave the others alone."""
    world = World()
    world.add_node("a", zone="eu")
    world.add_node("b", zone="us")
    web = world.add_service(spec(replicas=2))
    world.run()
    kept = world.running(web)[0 if world.running(web)[0].node_id == world.view.nodes()[0].id else 1]
    world.update_service(web, spec(replicas=2, placement=Placement(constraints=("node.labels.zone==eu",))))
    world.advance(10)
    assert world.spread(web) == [2, 0]
    assert kept.id in {task.id for task in world.running(web)}


def test_port_change_replaces_the_tasks() -> None:
    """Tasks know the ports they were made with; others make them outdated."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=1, ports=(PortConfig(target_port=80, published_port=8080),)))
    world.run()
    world.update_service(web, spec(replicas=1, ports=(PortConfig(target_port=80, published_port=8081),)))
    world.advance(10)
    (task,) = world.running(web)
    assert [port.published_port for port in task.ports] == [8081]
    assert state_of(world, web) is UpdateState.COMPLETED


def test_update_of_a_service_that_cannot_run_goes_on() -> None:
    """A slot whose old task was given up gets its new one without waiting for anything."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=2, restart=RestartPolicy(condition="none")))
    crashes_as("nginx:1", world)
    world.advance(10)
    assert world.running(web) == []
    world.update_service(web, spec(replicas=2, image="nginx:2"))
    world.advance(10)
    assert world.images(web) == ["nginx:2"] * 2


def test_up_to_date_means_made_of_the_current_wishes() -> None:
    """A task of an older version is outdated; one whose wishes came back by a rollback is not."""
    world, web = updating(replicas=1)
    (old,) = world.running(web)
    assert is_outdated(world.view, world.service(web), old)
    service: Service = world.service(web)
    assert service.previous_spec is not None
    world.update_service(web, service.previous_spec)
    current: Task | None = world.view.task(old.id)
    assert current is not None
    assert current.spec_version != world.service(web).spec_version
    assert not is_outdated(world.view, world.service(web), current)


def test_an_update_goes_on_with_a_leader_whose_clock_is_an_hour_behind() -> None:
    """Neither the delay between two steps nor the time of watching afterwards gets longer by it."""
    world = World()
    world.add_node("a")
    update = UpdateConfig(parallelism=1, delay_ns=10 * SECOND, monitor_ns=5 * SECOND)
    web = world.add_service(spec(replicas=3, update=update))
    world.run()
    world.update_service(web, spec(replicas=3, image="nginx:2", update=update))
    world.advance(1)
    for _ in range(3):
        world.new_leader(world.clock.skew_ns - 3600 * SECOND)
        world.advance(10)
    assert world.images(web) == ["nginx:2"] * 3
    status = world.service(web).update_status
    assert status is not None
    assert status.state is UpdateState.COMPLETED


def test_other_credentials_replace_only_what_has_no_image_yet() -> None:
    """A task that runs goes on; one that may still have to pull its image gets the new ones."""
    world = World()
    world.add_node("n")
    web = world.add_service(spec(replicas=1))
    world.run()
    (task,) = world.running(web)
    wanted = world.service(web).spec
    container = attrs.evolve(wanted.task.container, pull_secret_id=SecretId("new"))
    world.update_service(web, attrs.evolve(wanted, task=attrs.evolve(wanted.task, container=container)))
    service: Service = world.service(web)
    assert service.spec_version != task.spec_version
    assert not is_outdated(world.view, service, task)
    preparing = attrs.evolve(task, status=attrs.evolve(task.status, state=TaskState.PREPARING))
    assert is_outdated(world.view, service, preparing)
    world.advance(10)
    assert [t.id for t in world.running(web)] == [task.id]
    assert world.service(web).update_status is None


def test_an_update_that_cannot_be_placed_is_given_up() -> None:
    """At its progress deadline, with the reason; that of the service before stays in its slots."""
    world, web = updating(replicas=2, progress_deadline_ns=60 * SECOND)
    world.update_service(
        web,
        spec(
            replicas=2,
            image="nginx:3",
            placement=Placement(constraints=("node.labels.a==b",)),
            update=UpdateConfig(progress_deadline_ns=60 * SECOND),
        ),
    )
    world.advance(59)
    assert state_of(world, web) is UpdateState.UPDATING
    world.advance(2)
    assert state_of(world, web) is UpdateState.PAUSED
    (waiting,) = world.tasks(web, TaskState.PENDING)
    assert message_of(world, web) == (
        f"update paused as it made no progress for 60 seconds: task {waiting.id} could not be placed: "
        f"{waiting.status.err}"
    )
    assert "no suitable node" in waiting.status.err
    world.advance(3600)
    assert len(world.running(web)) == 1


def test_an_update_whose_tasks_do_not_get_ready_is_rolled_back() -> None:
    """They are not said to have failed: they start, for longer than anybody waits."""
    world, web = updating(replicas=2, progress_deadline_ns=60 * SECOND, failure_action="rollback")
    starting: list[Task] = []
    agents = world.agents

    def slow() -> int:
        moved = 0
        for task in world.tasks(web):
            if task.spec.container.image == "nginx:2" and task.status.state is TaskState.ASSIGNED:
                world.report(task, TaskState.STARTING)
                starting.append(task)
                moved += 1
        return moved or agents()

    world.agents = slow  # type: ignore[method-assign]
    world.crashing = lambda task: False
    holding = world.report
    world.report = (  # type: ignore[method-assign]
        lambda task, state, err="": (
            None if task.spec.container.image == "nginx:2" and state is TaskState.RUNNING else holding(task, state, err)
        )
    )
    for _ in range(5):
        world.settle()
        slow()
    world.settle()
    world.clock.now_ns += 61 * SECOND
    world.settle()
    (task,) = starting
    assert state_of(world, web) is UpdateState.ROLLBACK_STARTED
    host = task.node_id.lstrip("0") if task.node_id else ""
    assert message_of(world, web) == (
        f"update rolled back as it made no progress for 60 seconds: task {task.id} is still starting on node {host}"
    )
    world.agents = agents  # type: ignore[method-assign]
    world.advance(20)
    assert world.images(web) == ["nginx:1"] * 2
    assert state_of(world, web) is UpdateState.ROLLBACK_COMPLETED
    assert message_of(world, web) == (
        "rollback completed: update rolled back as it made no progress for 60 seconds: "
        f"task {task.id} is still starting on node {host}"
    )


def test_progress_begins_the_deadline_anew() -> None:
    """An update may take any time, as long as it gets on; waiting between two slots is no lack of progress."""
    world, web = updating(replicas=4, progress_deadline_ns=10 * SECOND, delay_ns=60 * SECOND, monitor_ns=100 * SECOND)
    world.advance(400)
    assert state_of(world, web) is UpdateState.COMPLETED
    assert world.images(web) == ["nginx:2"] * 4


def test_the_deadline_is_measured_by_the_leader_alone() -> None:
    """Another leader whose clock is a day ahead, or behind, gives the update the whole time again, and no more."""
    for skew in (86_400 * SECOND, -86_400 * SECOND):
        world, web = updating(replicas=1, progress_deadline_ns=60 * SECOND)
        wanted = spec(
            replicas=1,
            image="nginx:3",
            placement=Placement(constraints=("node.labels.a==b",)),
            update=UpdateConfig(progress_deadline_ns=60 * SECOND),
        )
        world.update_service(web, wanted)
        world.advance(50)
        world.new_leader(skew_ns=skew)
        world.advance(59)
        assert state_of(world, web) is UpdateState.UPDATING
        world.advance(2)
        assert state_of(world, web) is UpdateState.PAUSED


def test_an_update_without_a_deadline_waits_for_ever() -> None:
    """As one does that is told to continue whatever happens."""
    for more in ({"progress_deadline_ns": 0}, {"failure_action": "continue"}):
        world, web = updating(replicas=1, **more)
        wanted = spec(
            replicas=1,
            image="nginx:3",
            placement=Placement(constraints=("node.labels.a==b",)),
            update=UpdateConfig(**more),  # type: ignore[arg-type]
        )
        world.update_service(web, wanted)
        world.advance(3 * 3600)
        assert state_of(world, web) is UpdateState.UPDATING
