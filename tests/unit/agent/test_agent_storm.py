"""An agent in bad weather: whatever happens in whatever order, it ends where its managers want it."""

from __future__ import annotations

import asyncio
import random

import attrs
import pytest
from agent_world import Host, Manager, eventually, make_task, whole

from swarmpy.errors import FailedPrecondition
from swarmpy.model.assignments import AssignmentUpdate, SessionMessage
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState

S = TaskState
EVENTS = 120


class Storm:
    """Random events for one host with two managers, of which one leads."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.managers = (Manager("m1:2377"), Manager("m2:2377"))
        self.leader, self.follower = self.managers
        self.follower.redirect = self.leader.address
        self.host = Host(*self.managers)
        self.tasks: dict[TaskId, Task] = {}
        self.ever = 0
        self.sequence = 1

    def change(self, *, task: Task | None = None, removed: TaskId | None = None) -> None:
        """The leader wants something else, and says so in the present session if there is one."""
        if task is not None:
            self.tasks[task.id] = task
        if removed is not None:
            del self.tasks[removed]
        self.sequence += 1
        self.leader.first = SessionMessage(assignments=whole(*self.tasks.values(), sequence=self.sequence))
        if self.leader.requests:
            increment = AssignmentUpdate(
                sequence=self.sequence,
                base_sequence=self.sequence - 1,
                tasks=() if task is None else (task,),
                removed=() if removed is None else (removed,),
            )
            self.leader.tell(assignments=increment)

    def new_task(self) -> None:
        self.ever += 1
        self.change(task=make_task(f"t{self.ever:03}", desired=self.random.choice([S.READY, S.RUNNING])))

    def raise_desired(self) -> None:
        if self.tasks:
            task = self.random.choice(list(self.tasks.values()))
            desired = max(task.desired_state, self.random.choice([S.RUNNING, S.SHUTDOWN]))
            self.change(task=attrs.evolve(task, desired_state=desired))

    def unassign(self) -> None:
        if self.tasks:
            self.change(removed=self.random.choice(list(self.tasks)))

    def task_ends(self) -> None:
        running = [i for i, c in sorted(self.host.engine.containers.items()) if c.running]
        if running:
            self.host.engine.end(self.random.choice(running), self.random.randrange(2))

    def engine_flips(self) -> None:
        self.host.engine.away = not self.host.engine.away

    def session_ends(self) -> None:
        if self.leader.requests:
            self.leader.end_session(FailedPrecondition("a new one, please"))

    def reports_get_lost(self) -> None:
        self.leader.lose_reports = 2

    def leader_changes(self) -> None:
        old, new = self.leader, self.follower
        new.first, new.redirect = old.first, None
        old.redirect = self.random.choice([new.address, ""])
        for channel in old.channels:
            channel.cut()
        self.leader, self.follower = new, old

    async def blow(self) -> None:
        """A number of events, some of them at the same moment."""
        often = (self.new_task, self.new_task, self.raise_desired, self.unassign, self.task_ends)
        rare = (self.engine_flips, self.session_ends, self.reports_get_lost, self.leader_changes)
        for _ in range(EVENTS):
            self.random.choice(often if self.random.random() < 0.8 else rare)()
            if self.random.random() < 0.7:
                await asyncio.sleep(self.random.uniform(0, 0.004))

    def heal(self) -> None:
        self.host.engine.away = False
        self.leader.redirect, self.follower.redirect = None, self.leader.address

    def is_settled(self) -> bool:
        """True when node, engine and leader agree on what is wanted."""
        agent, engine = self.host.agent, self.host.engine
        assert agent is not None
        if set(agent.statuses) != set(self.tasks) or not set(engine.containers) <= set(self.tasks):
            return False
        for task_id, status in agent.statuses.items():
            desired = self.tasks[task_id].desired_state
            runs = task_id in engine.containers and engine.containers[task_id].running
            arrived = status.state.is_terminal or (status.state == desired if desired < S.SHUTDOWN else False)
            if not arrived or runs != (status.state is S.RUNNING):
                return False
            if self.leader.states.get(task_id) != status:
                return False
        return True


@pytest.mark.parametrize("seed", range(8))
async def test_a_storm_settles(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After random changes, ends, losses and restarts, all agree, nothing is left over, and no state ever fell."""
    for name in ("worker.ENGINE_RETRY_FIRST_S", "worker.ENGINE_RETRY_MOST_S"):
        monkeypatch.setattr(f"swarmpy.agent.{name}", 0.01)
    for name in ("engine_watch.RETRY_FIRST_S", "engine_watch.RETRY_MOST_S", "agent.SEARCH_FIRST_S"):
        monkeypatch.setattr(f"swarmpy.agent.{name}", 0.01)
    monkeypatch.setattr("swarmpy.agent.agent.SEARCH_MOST_S", 0.02)
    monkeypatch.setattr("swarmpy.agent.reporter.RETRY_FIRST_S", 0.01)
    storm = Storm(seed)
    for _ in range(2):
        async with storm.host.run():
            await storm.blow()
    async with storm.host.run():
        await storm.blow()
        storm.heal()
        await eventually(storm.is_settled, within=10)
    for manager in storm.managers:
        for name, states in manager.history.items():
            assert states == sorted(states), f"the state of {name} fell"
