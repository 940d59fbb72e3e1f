"""Which tasks are kept as history and which are deleted."""

from __future__ import annotations

import pytest
from control_world import SECOND, World, spec

from swarmpy.model.specs import RestartPolicy
from swarmpy.model.states import NodeState, TaskState


def crashed(times: int, limit: int) -> tuple[World, str]:
    """A service of one task that has ended a number of times."""
    world = World(limit=limit)
    world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(delay_ns=SECOND)))
    world.run()
    for _ in range(times):
        world.report(world.running(web)[0], TaskState.FAILED)
        world.advance(2)
    return world, web


@pytest.mark.parametrize(("limit", "kept"), [(5, 5), (1, 1), (0, 0), (-1, 8)])
def test_history_is_bounded_a_slot(limit: int, kept: int) -> None:
    """The newest ended tasks of each slot are kept up to the limit; a negative limit keeps all."""
    world, web = crashed(8, limit)
    ended = world.tasks(web, TaskState.FAILED)
    assert len(ended) == kept
    assert len(world.running(web)) == 1
    if kept:
        assert max(t.applied_at_ns for t in ended) == world.running(web)[0].meta.created_at_ns


def test_running_and_stopping_tasks_are_never_deleted() -> None:
    """A task told to go is deleted only when it has stopped, except where its node cannot be asked."""
    world, web = crashed(0, 0)
    world.remove_service(world.service(web).id)
    world.settle()
    assert len(world.tasks(web)) == 1
    world.set_node(world.view.nodes()[0], NodeState.DOWN)
    decision = world.decide_service(web)
    assert [change.id for change in decision.changes] == [world.tasks(web)[0].id]


def test_ended_task_that_holds_its_slot_is_kept() -> None:
    """A task that ended and will not be replaced is what its slot shows, and no history."""
    world = World(limit=0)
    world.add_node("a")
    web = world.add_service(spec(replicas=1, restart=RestartPolicy(condition="none")))
    world.crashing = lambda task: True
    world.advance(10)
    assert len(world.tasks(web, TaskState.FAILED)) == 1
