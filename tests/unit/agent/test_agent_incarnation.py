"""Two clusters with one identity: which of them an agent is in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import attrs
from agent_world import Host, Manager, eventually, make_task, managers_at, whole

from swarmpy.agent.local import Changes, MemoryLocalState
from swarmpy.agent.local_database import LocalDatabase
from swarmpy.errors import StorageError
from swarmpy.model.assignments import SessionMessage
from swarmpy.model.ids import TaskId
from swarmpy.model.states import Role


def of(manager: Manager, incarnation: int, **more: object) -> Manager:
    """A leader whose cluster is of that incarnation."""
    manager.first = attrs.evolve(manager.first, incarnation=incarnation, **more)  # type: ignore[arg-type]
    return manager


async def test_an_earlier_leader_is_refused_once_a_later_one_was_seen() -> None:
    """Nothing it says is taken; the tasks of the later one go on, over a restart of the agent, too."""
    old, new = of(Manager("old:1"), 5), of(Manager("new:1"), 9, assignments=whole(make_task("a")))
    old.alive = False
    host = Host(old, new)
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "new:1" and agent.statuses)
        assert agent.cluster.incarnation == 9
        new.die()
        old.alive = True
        await eventually(lambda: old.asked > 1)
        assert agent.manager == ""
        assert TaskId("a") in agent.statuses
        assert old.requests[-1].incarnation == 9
    async with host.run() as agent:
        asked = old.asked
        await eventually(lambda: old.asked > asked + 1)
        assert agent.manager == ""
        new.alive = True
        await eventually(lambda: agent.manager == "new:1")


async def test_a_later_leader_is_followed_and_told_of() -> None:
    """Whoever runs a manager on this node has to hear of it, before anything else of the session is taken."""
    first, second = of(Manager("a:1"), 0), of(Manager("b:1"), 7)
    second.alive = False
    host = Host(first, second)
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "a:1")
        assert host.later == []
        first.die()
        second.alive = True
        await eventually(lambda: agent.manager == "b:1")
    assert host.later == [(7, "b:1")]
    assert host.local.remembered.incarnation == 7


async def test_a_node_whose_manager_half_ended_asks_anew_what_it_is() -> None:
    """The role is passed on though it is the one its certificate says."""
    manager = of(Manager("m:1"), 3, role=Role.WORKER)
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m:1")
        assert host.roles == []
        of(manager, 4)
        await agent.supersede(4, "m:1")
        await eventually(lambda: len(manager.requests) > 1 and host.roles == [Role.WORKER])


async def test_a_node_whose_manager_half_ended_learns_where_the_cluster_is() -> None:
    """Its leader may have moved: nobody that this node knew is there any more. It is remembered over a restart."""
    old, new = of(Manager("old:1"), 0), of(Manager("new:1"), 4)
    host = Host(old, new, seeds=("old:1",))
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "old:1")
        old.die()
        await agent.supersede(4, "new:1")
        await eventually(lambda: agent.manager == "new:1")
    assert "new:1" in {manager.address for manager in host.local.remembered.managers}


async def test_a_disk_that_fails_does_not_let_it_go_back() -> None:
    """What could not be written down is known at least for this life."""

    class FailingState(MemoryLocalState):
        async def save(self, changes: Changes) -> None:
            raise StorageError("the disk is full")

    manager = of(Manager("m:1"), 3)
    host = Host(manager)
    host.local = FailingState()
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m:1")
        manager.first = SessionMessage(assignments=whole(), managers=managers_at("m:1"))
        manager.end_session()
        await eventually(lambda: manager.asked > 2)
        assert agent.manager == ""


async def test_a_slow_disk_does_not_make_the_node_silent() -> None:
    """A leader that waits for this node to write its incarnation down hears from it; no task is taken before that."""

    class SlowState(MemoryLocalState):
        def __init__(self) -> None:
            super().__init__()
            self.written = asyncio.Event()

        async def save(self, changes: Changes) -> None:
            if changes.incarnation is not None:
                await self.written.wait()
            await super().save(changes)

    manager = of(Manager("m:1"), 3, assignments=whole(make_task("a")))
    host = Host(manager)
    host.local = local = SlowState()
    async with host.run() as agent:
        await eventually(lambda: len(manager.beats) > 2)
        assert (agent.manager, agent.statuses) == ("", {})
        local.written.set()
        await eventually(lambda: agent.manager == "m:1" and agent.statuses)
        assert manager.asked == 1


async def test_it_is_kept_on_disk(tmp_path: Path) -> None:
    """Beside the rest, and alone."""
    path = tmp_path / "state.db"
    database = LocalDatabase(path)
    assert (await database.load()).incarnation == 0
    await database.save(Changes(incarnation=12))
    await database.save(Changes(managers=managers_at("m:1")))
    await database.close()
    again = LocalDatabase(path)
    remembered = await again.load()
    assert (remembered.incarnation, remembered.managers) == (12, managers_at("m:1"))
    await again.close()
