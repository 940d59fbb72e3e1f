"""What is kept of slots, where a service's wishes change in ways that it has to be found out anew for."""

from __future__ import annotations

import pytest
from control_world import GIB, World, spec

from swarmpy.control import orchestrator
from swarmpy.model.specs import MaxUnavailable, Resources, RestartPolicy, UpdateConfig
from swarmpy.model.states import Availability, TaskState

ONE = MaxUnavailable(amount=1)
ALL_AT_ONCE = UpdateConfig(parallelism=0, monitor_ns=0)


def test_slots_that_went_while_nothing_was_counted_do_not_count_later() -> None:
    """A bound that is taken off, and set again when the service is smaller, holds as if it were new."""
    world = World()
    world.add_node("a")
    web = world.add_service(spec(replicas=4, max_unavailable=ONE, update=ALL_AT_ONCE))
    world.run()
    world.update_service(web, spec(replicas=4, update=ALL_AT_ONCE))
    world.run()
    world.update_service(web, spec(replicas=2, update=ALL_AT_ONCE))
    world.run()
    world.update_service(web, spec(replicas=2, image="nginx:2", max_unavailable=ONE, update=ALL_AT_ONCE))
    world.settle()
    assert len(world.running(web)) == 1


def test_what_is_given_up_counts_as_missing_for_an_update_of_the_same_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the bound was asked for before, by a task that leaves its node."""
    monkeypatch.setattr(orchestrator, "SLICE_SLOTS", 300)
    monkeypatch.setattr(orchestrator, "SLICE_TASKS", 200)
    world = World()
    reserve = Resources(memory_bytes=GIB)
    small, _ = world.add_node("a", memory=GIB), world.add_node("b", memory=5 * GIB)
    web = world.add_service(spec(replicas=6, max_unavailable=ONE, update=ALL_AT_ONCE, reserve=reserve))
    world.run()
    assert world.spread(web) == [1, 5]
    world.report(world.running(web)[-1], TaskState.FAILED)
    world.settle()
    world.set_node(small, availability=Availability.DRAIN)
    world.settle()
    assert len(world.running(web)) == 5, "one is missing: the one that is to leave has to wait"
    wanted = spec(replicas=3, image="nginx:2", max_unavailable=ONE, update=ALL_AT_ONCE, reserve=reserve)
    world.update_service(web, wanted)
    world.settle()
    assert len(world.running(web)) == 2


def test_nothing_is_kept_of_slots_that_are_gone() -> None:
    """However often a service is scaled up and down, updated, and fails."""
    world = World()
    world.add_node("a", cpus=64)
    restart = RestartPolicy(delay_ns=0)
    web = world.add_service(spec(replicas=1, max_unavailable=ONE, restart=restart))
    for number in range(12):
        for replicas in (number % 7 + 2, 1):
            bound = ONE if number % 3 else None
            wanted = spec(replicas=replicas, image=f"nginx:{number}", max_unavailable=bound, restart=restart)
            world.update_service(web, wanted)
            world.advance(10)
    slots = world._slots[web]
    for name in ("stored", "held", "runs_on", "there", "begun", "under_way", "restless", "stale", "uncounted"):
        assert len(getattr(slots, name)) <= 1, name
    for name in ("slots", "outdated", "waiting", "flying", "settling", "failed", "started", "stuck"):
        assert len(getattr(slots.progress, name)) <= 1, name
    world.remove_service(web)
    world.run()
    assert not slots.stored
