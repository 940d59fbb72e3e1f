"""The laws of the task states' transition table."""

from __future__ import annotations

import pytest

from swarmpy.model.states import TRANSITIONS, Actor, TaskState, may_advance

STEPS = [(actor, old, new) for actor, table in TRANSITIONS.items() for old, targets in table.items() for new in targets]


def test_states_only_rise() -> None:
    """No actor may move a task down or leave it where it is."""
    assert [(actor, old, new) for actor, old, new in STEPS if new <= old] == []


def test_nothing_leaves_a_terminal_state() -> None:
    """A task that has ended stays as it ended."""
    assert [step for step in STEPS if step[1].is_terminal] == []


def test_remove_is_never_observed() -> None:
    """REMOVE is only ever desired."""
    assert [step for step in STEPS if step[2] is TaskState.REMOVE] == []


def test_each_step_has_one_owner() -> None:
    """Two actors share a step in one case only: the enforcer rejects in the agent's place."""
    owners: dict[tuple[TaskState, TaskState], set[Actor]] = {}
    for actor, old, new in STEPS:
        owners.setdefault((old, new), set()).add(actor)
    shared = {step: actors for step, actors in owners.items() if len(actors) > 1}
    assert {new for _, new in shared} == {TaskState.REJECTED}
    assert all(actors == {Actor.AGENT, Actor.ENFORCER} for actors in shared.values())


def test_every_state_can_be_reached_and_ended() -> None:
    """From NEW every observed state is reachable, and from every living state an end is."""
    reachable = {TaskState.NEW}
    while more := {new for _, old, new in STEPS if old in reachable} - reachable:
        reachable |= more
    assert reachable == set(TaskState) - {TaskState.REMOVE}
    for state in reachable:
        assert state.is_terminal or any(old is state and new.is_terminal for _, old, new in STEPS)


@pytest.mark.parametrize(
    ("actor", "old", "new", "allowed"),
    [
        (Actor.ALLOCATOR, TaskState.NEW, TaskState.PENDING, True),
        (Actor.SCHEDULER, TaskState.PENDING, TaskState.ASSIGNED, True),
        (Actor.SCHEDULER, TaskState.NEW, TaskState.ASSIGNED, False),
        (Actor.AGENT, TaskState.ASSIGNED, TaskState.RUNNING, True),
        (Actor.AGENT, TaskState.PENDING, TaskState.RUNNING, False),
        (Actor.AGENT, TaskState.RUNNING, TaskState.REJECTED, False),
        (Actor.AGENT, TaskState.RUNNING, TaskState.STARTING, False),
        (Actor.DISPATCHER, TaskState.RUNNING, TaskState.ORPHANED, True),
        (Actor.DISPATCHER, TaskState.COMPLETE, TaskState.ORPHANED, False),
        (Actor.ORCHESTRATOR, TaskState.PENDING, TaskState.SHUTDOWN, True),
        (Actor.ORCHESTRATOR, TaskState.RUNNING, TaskState.SHUTDOWN, False),
    ],
)
def test_who_may_do_what(actor: Actor, old: TaskState, new: TaskState, allowed: bool) -> None:
    """Each actor does its own steps and no others."""
    assert may_advance(actor, old, new) is allowed


def test_numbers_are_swarms() -> None:
    """Stored numbers never change their meaning."""
    assert {state.name: state.value for state in TaskState} == {
        "NEW": 0,
        "PENDING": 64,
        "ASSIGNED": 192,
        "ACCEPTED": 256,
        "PREPARING": 320,
        "READY": 384,
        "STARTING": 448,
        "RUNNING": 512,
        "COMPLETE": 576,
        "SHUTDOWN": 640,
        "FAILED": 704,
        "REJECTED": 768,
        "REMOVE": 800,
        "ORPHANED": 832,
    }
