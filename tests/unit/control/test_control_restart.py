"""Restart policies, lost nodes and drained nodes."""

from __future__ import annotations

import pytest
from control_world import SECOND, World, spec

from swarmpy.model import changes
from swarmpy.model.specs import RestartPolicy
from swarmpy.model.states import Availability, NodeState, TaskState


def one_task(**policy: object) -> tuple[World, str]:
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(**policy)))  # type: ignore[arg-type]
    world.run()
    return world, web


def test_failed_task_is_replaced_after_its_delay() -> None:
    """The replacement waits in READY, prepared, until the delay is over; the decision asks to be made again then."""
    world, web = one_task(delay_ns=7 * SECOND)
    failed = world.running(web)[0]
    world.report(failed, TaskState.FAILED, "boom")
    world.run()
    (waiting,) = world.tasks(web, TaskState.READY)
    assert waiting.desired_state == TaskState.READY
    assert waiting.not_before_ns == world.clock.now_ns + 7 * SECOND == world.wake_at_ns
    world.advance(6.9)
    assert world.running(web) == []
    world.advance(0.1)
    assert [task.id for task in world.running(web)] == [waiting.id]
    old = world.view.task(failed.id)
    assert old is not None
    assert old.desired_state == TaskState.SHUTDOWN


@pytest.mark.parametrize("how", ["crashing", "rejecting"])
def test_hopeless_task_is_not_retried_in_a_tight_loop(how: str) -> None:
    """A task that cannot start, or not be prepared, keeps to the delay: a minute is a dozen tries, not thousands."""
    world, web = one_task()
    setattr(world, how, lambda task: True)
    world.report(world.running(web)[0], TaskState.FAILED)
    tries = world._ids
    before = next(tries)
    world.advance(60)
    assert 10 <= next(tries) - before <= 14


@pytest.mark.parametrize(
    ("condition", "state", "is_restarted"),
    [
        ("any", TaskState.COMPLETE, True),
        ("any", TaskState.FAILED, True),
        ("on-failure", TaskState.COMPLETE, False),
        ("on-failure", TaskState.FAILED, True),
        ("none", TaskState.COMPLETE, False),
        ("none", TaskState.FAILED, False),
    ],
)
def test_condition_decides_on_restart(condition: str, state: TaskState, *, is_restarted: bool) -> None:
    """Any, on-failure and none mean what they say; an ended task that is not replaced stays as it is."""
    world, web = one_task(condition=condition)
    world.report(world.running(web)[0], state)
    world.advance(10)
    assert bool(world.running(web)) is is_restarted
    assert len(world.tasks(web)) == (2 if is_restarted else 1)


def test_attempts_are_bounded() -> None:
    """After max_attempts replacements the last ended task is left as it is, for good."""
    world, web = one_task(max_attempts=2, delay_ns=SECOND)
    world.crashing = lambda task: True
    world.report(world.running(web)[0], TaskState.FAILED)
    world.advance(60)
    tasks = world.tasks(web)
    assert [task.status.state for task in tasks] == [TaskState.FAILED] * 3
    assert sum(task.desired_state == TaskState.RUNNING for task in tasks) == 1
    assert world.wake_at_ns is None


def test_attempts_survive_a_short_history() -> None:
    """The reaper keeps what counting attempts needs, however small the history limit."""
    world = World(limit=0)
    world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(max_attempts=3, delay_ns=SECOND)))
    world.crashing = lambda task: True
    world.advance(60)
    assert len(world.tasks(web)) == 4
    assert world.wake_at_ns is None


def test_attempts_outside_the_window_do_not_count() -> None:
    """Failures further apart than the window never use up the attempts; quick ones do and stay used up."""
    world, web = one_task(max_attempts=1, window_ns=30 * SECOND, delay_ns=SECOND)
    for _ in range(4):
        world.advance(40)
        world.report(world.running(web)[0], TaskState.FAILED)
        world.advance(2)
        assert len(world.running(web)) == 1
    world.report(world.running(web)[0], TaskState.FAILED)
    world.advance(100)
    assert world.running(web) == []


def test_replacement_waits_for_the_old_task_to_stop() -> None:
    """No slot has two running tasks: a task that is told to stop is waited for."""
    world, web = one_task()
    old = world.running(web)[0]
    world.update_service(web, spec(replicas=1, image="nginx:2"))
    world.settle()
    (new,) = [task for task in world.tasks(web) if task.id != old.id]
    assert new.desired_state == TaskState.READY
    world.report(old, TaskState.SHUTDOWN)
    world.settle()
    promoted = world.view.task(new.id)
    assert promoted is not None
    assert promoted.desired_state == TaskState.RUNNING


def test_tasks_of_a_dead_node_are_replaced_at_once() -> None:
    """When a node goes down its tasks run elsewhere without a delay; what it last said of them stays."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=3))
    world.run()
    world.add_node("b")
    lost = {task.id for task in world.running(web)}
    world.set_node(a, NodeState.DOWN)
    world.run()
    assert world.spread(web) == [0, 3]
    for task in world.tasks(web):
        if task.id in lost:
            assert (task.status.state, task.desired_state) == (TaskState.RUNNING, TaskState.SHUTDOWN)
    world.set_node(a, NodeState.READY)
    world.run()
    assert world.spread(web) == [0, 3]
    assert {t.status.state for t in world.tasks(web) if t.id in lost} == {TaskState.SHUTDOWN}


def test_dead_node_replaces_even_what_is_never_restarted() -> None:
    """Restart condition none is about tasks that end, not about nodes that die."""
    world, web = one_task(condition="none")
    a = world.view.nodes()[0]
    world.add_node("b")
    world.set_node(a, NodeState.DOWN)
    world.run()
    assert world.spread(web) == [0, 1]


def test_delay_is_kept_when_the_node_of_a_waiting_task_dies() -> None:
    """A crashing task does not get rid of its delay by losing its node."""
    world, web = one_task(delay_ns=30 * SECOND)
    world.report(world.running(web)[0], TaskState.FAILED)
    world.run()
    (waiting,) = world.tasks(web, TaskState.READY)
    world.set_node(world.view.nodes()[0], NodeState.DOWN)
    world.add_node("b")
    world.run()
    (moved,) = [t for t in world.tasks(web) if t.desired_state <= TaskState.RUNNING]
    assert moved.id != waiting.id
    assert (moved.desired_state, moved.not_before_ns) == (TaskState.READY, waiting.not_before_ns)


def test_removed_node_orphans_its_tasks() -> None:
    """Tasks of a node that is no member any more become ORPHANED and are replaced at once."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=2))
    world.run()
    world.add_node("b")
    world.write(changes.delete(a))
    world.run()
    assert [t.desired_state for t in world.tasks(web, TaskState.ORPHANED)] == [TaskState.SHUTDOWN] * 2
    assert world.spread(web) == [2]


def test_drain_starts_replacements_first() -> None:
    """A drained node's tasks stop only when their replacements run."""
    world = World()
    a = world.add_node("a")
    world.add_node("b")
    web = world.add_service(spec(replicas=4))
    world.run()
    world.set_node(a, availability=Availability.DRAIN)
    for _ in range(20):
        world.settle()
        assert len({task.slot for task in world.running(web)}) == 4
        if not world.agents():
            break
    assert world.spread(web) == [0, 4]


def test_drain_ends_though_there_is_no_other_place() -> None:
    """When no replacement can be placed, a drained node is emptied all the same, and the reason is on the tasks."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=1))
    world.run()
    world.set_node(a, availability=Availability.DRAIN)
    world.run()
    assert world.running(web) == []
    (pending,) = world.tasks(web, TaskState.PENDING)
    assert pending.status.err == "no suitable node (1 node drained)"
    world.set_node(a, availability=Availability.ACTIVE)
    world.run()
    assert [task.id for task in world.running(web)] == [pending.id]


def test_crashing_replacement_of_a_drained_task_keeps_its_delay() -> None:
    """Drain is no way around the restart delay."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=1))
    world.run()
    world.add_node("b")
    world.crashing = lambda task: True
    world.set_node(a, availability=Availability.DRAIN)
    world.advance(30)
    assert len(world.tasks(web)) <= 8


def test_crash_on_a_drained_node_is_replaced_at_once() -> None:
    """What ends on a node that is to be emptied runs elsewhere without a delay."""
    world = World()
    a = world.add_node("a")
    web = world.add_service(spec(replicas=1))
    world.run()
    world.add_node("b")
    world.report(world.running(web)[0], TaskState.FAILED)
    world.set_node(a, availability=Availability.DRAIN)
    world.run()
    assert world.spread(web) == [0, 1]


def test_lost_race_leaves_one_task_a_slot() -> None:
    """When a replacement was written but the end of the old task was not, the next decision puts it right."""
    world, web = one_task()
    old = world.running(web)[0]
    world.report(old, TaskState.FAILED)
    decision = world.decide_service(web)
    world.write(*(change for change in decision.changes if change.id != old.id))
    world.advance(10)
    assert len(world.running(web)) == 1
    assert sum(task.desired_state <= TaskState.RUNNING for task in world.tasks(web)) == 1


@pytest.mark.parametrize("skew", [-3600 * SECOND, 3600 * SECOND])
def test_a_delay_is_not_longer_with_a_leader_whose_clock_is_behind(skew: int) -> None:
    """A task waits until a time by the clock of the leader before: the next one waits for the delay at most."""
    world, web = one_task(delay_ns=7 * SECOND)
    world.report(world.running(web)[0], TaskState.FAILED)
    world.advance(5)
    world.new_leader(skew)
    world.advance(7)
    assert len(world.running(web)) == 1


def test_a_delay_is_not_longer_when_the_clock_is_set_back() -> None:
    """In the middle of the wait, by the leader's operator."""
    world, web = one_task(delay_ns=7 * SECOND)
    world.report(world.running(web)[0], TaskState.FAILED)
    world.advance(5)
    world.clock.skew_ns = -600 * SECOND
    world.run()
    assert world.running(web) == []
    world.advance(2)
    assert len(world.running(web)) == 1


def test_a_task_rejected_while_it_waits_is_replaced_though_the_clock_is_behind() -> None:
    """After its delay, and the next one after another."""
    world, web = one_task(delay_ns=7 * SECOND)
    world.rejecting = lambda task: True
    world.report(world.running(web)[0], TaskState.FAILED)
    world.advance(5)
    world.new_leader(-3600 * SECOND)
    world.rejecting = lambda task: False
    world.advance(2 * 7)
    assert len(world.running(web)) == 1
