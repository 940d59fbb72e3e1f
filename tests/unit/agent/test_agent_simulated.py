"""An agent with the simulated runtime, and how a node leaves."""

from __future__ import annotations

import random

import attrs
from agent_world import Container, Engine, Host, Manager, eventually, make_task, whole

from swarmpy.model.assignments import AssignmentUpdate, SessionMessage
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, TaskSpec
from swarmpy.model.states import TaskState
from swarmpy.runtime.simulated import SimulatedRuntime

S = TaskState


def task_of(image: str) -> Task:
    """A task named and behaving as its image says."""
    return attrs.evolve(make_task(image), spec=TaskSpec(container=ContainerSpec(image=image)))


async def test_simulated_tasks_end_as_they_should() -> None:
    """Each kind of simulated task is reported with the end it has."""
    ends = {
        "web": S.RUNNING,
        "exit-after:20ms": S.COMPLETE,
        "crash-after:20ms": S.FAILED,
        "unhealthy-after:20ms": S.FAILED,
        "never-healthy:20ms": S.FAILED,
        "fail-to-start": S.FAILED,
        "fail-to-prepare": S.REJECTED,
    }
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(*map(task_of, ends)))
    host = Host(manager)
    host.engine = SimulatedRuntime(
        node_id=NodeId("node"), node_address="10.0.0.1", hostname="node", random=random.Random(1)
    )
    async with host.run():
        await eventually(lambda: {name: status.state for name, status in manager.states.items()} == ends)
        assert "unhealthy container" in manager.states["unhealthy-after:20ms"].err
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, removed=(TaskId("web"),)))
        await eventually(lambda: not host.engine.running_tasks())
    # A new life finds the ends again, and runs nothing a second time.
    async with host.run() as agent:
        await eventually(lambda: len(manager.requests) == 2)
        assert {name: agent.statuses[TaskId(name)].state for name in ends if name != "web"} == {
            name: state for name, state in ends.items() if name != "web"
        }


async def test_a_node_that_leaves_takes_its_tasks_away() -> None:
    """A retiring agent stops and removes its tasks, and takes no new ones."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(make_task("a"), make_task("b")))
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: [s.state for s in agent.statuses.values()] == [S.RUNNING, S.RUNNING])
        await agent.retire(5.0)
        assert not agent.statuses
        assert not host.engine.containers
        manager.end_session()
        await eventually(lambda: len(manager.requests) == 2)
        assert not agent.statuses


async def test_a_node_that_leaves_takes_strangers_away() -> None:
    """A retiring agent that no manager has spoken to yet removes what its last life has left, assigned or not."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(make_task("a")))
    host = Host(manager)
    assert isinstance(host.engine, Engine)
    async with host.run() as agent:
        await eventually(lambda: [s.state for s in agent.statuses.values()] == [S.RUNNING])
    host.engine.containers[TaskId("stranger")] = Container(running=True)
    manager.alive = False
    async with host.run() as agent:
        await agent.retire(5.0)
        assert not host.engine.containers


async def test_leaving_does_not_wait_for_ever() -> None:
    """With an engine that is away, retiring ends when its time is over."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(make_task("a")))
    host = Host(manager)
    assert isinstance(host.engine, Engine)
    async with host.run() as agent:
        await eventually(lambda: [s.state for s in agent.statuses.values()] == [S.RUNNING])
        host.engine.away = True
        await agent.retire(0.05)
        assert list(agent.statuses) == ["a"]
