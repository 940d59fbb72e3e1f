"""An agent between its managers, its engine and its data plane."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from agent_world import (
    Container,
    Host,
    Manager,
    eventually,
    make_table,
    make_task,
    managers_at,
    table_update,
    whole,
)

from swarmpy.agent.worker import CONCURRENT_PREPARES
from swarmpy.errors import FailedPrecondition, TaskFailed, TaskRejected
from swarmpy.model.assignments import AssignmentUpdate, PublishedPort, SessionMessage
from swarmpy.model.ids import TaskId
from swarmpy.model.states import Role, TaskState

S = TaskState
A = TaskId("a")


def assigned(manager: Manager, *names: str, desired: TaskState = S.RUNNING) -> None:
    """Let ``manager``'s sessions begin with these tasks."""
    manager.first = SessionMessage(assignments=whole(*(make_task(name, desired=desired) for name in names)))


def state_at(manager: Manager, name: str) -> TaskState:
    """What ``manager`` was told of a task."""
    return manager.states[name].state if name in manager.states else S.NEW


# -- the life of a task ---------------------------------------------------------------------------------------------


async def test_full_life_of_a_task() -> None:
    """An assigned task is prepared, started, runs, and its end is reported, never going back a state."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        assert manager.states["a"].ports[0].host_port == 30000
        assert manager.requests[0].address == "10.0.0.1"
        assert manager.requests[0].description.hostname == "node"
        host.engine.end("a", 0)
        await eventually(lambda: state_at(manager, "a") is S.COMPLETE)
        assert agent.statuses[A].state is S.COMPLETE
    assert manager.history["a"] == sorted(manager.history["a"])
    assert [call for call, _ in host.engine.calls] == ["prepare", "start", "wait"]


async def test_a_failing_task_says_its_exit_code() -> None:
    """A task that ends with an error is reported with its exit code; its container stays until it is unassigned."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        host.engine.end("a", 2)
        await eventually(lambda: state_at(manager, "a") is S.FAILED)
        assert manager.states["a"].err == "task: non-zero exit (2)"
        assert A in host.engine.containers
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, removed=(A,)))
        await eventually(lambda: A not in host.engine.containers)


@pytest.mark.parametrize(
    ("call", "error", "ended"),
    [
        ("prepare", TaskRejected("no such image: web:9"), S.REJECTED),
        ("prepare", ValueError("a defect"), S.REJECTED),
        ("start", TaskFailed("no such command"), S.FAILED),
        ("start", ValueError("a defect"), S.FAILED),
        ("wait", TaskFailed("its log is gone"), S.FAILED),
    ],
)
async def test_errors_of_a_task_are_its_own(call: str, error: Exception, ended: TaskState) -> None:
    """An error ends its task with the reason, and nothing else."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    host.engine.errors[call] = error
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is ended)
        assert str(error.args[0]) in manager.states["a"].err
        host.engine.errors.clear()
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, tasks=(make_task("b"),)))
        await eventually(lambda: state_at(manager, "b") is S.RUNNING)


async def test_desired_shutdown_stops_a_task() -> None:
    """A task that should be shut down is stopped and reported SHUTDOWN, and its container is kept."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        stop = (make_task("a", desired=S.SHUTDOWN),)
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, tasks=stop))
        await eventually(lambda: state_at(manager, "a") is S.SHUTDOWN)
        assert not host.engine.containers[A].running


async def test_what_is_to_disappear_is_removed_at_once() -> None:
    """A task that nobody keeps for its history leaves nothing, before the manager has heard that it has ended."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        stop = (make_task("a", desired=S.REMOVE),)
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, tasks=stop))
        await eventually(lambda: A not in host.engine.containers)
        await eventually(lambda: state_at(manager, "a") is S.SHUTDOWN)
        manager.tell(assignments=AssignmentUpdate(sequence=3, base_sequence=2, removed=(A,)))
        await eventually(lambda: host.agent is not None and A not in host.agent.statuses)


async def test_a_lower_wish_does_not_bring_it_back() -> None:
    """A desired state that falls again, as a new leader may say, is not followed."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        for sequence, desired in ((2, S.SHUTDOWN), (3, S.RUNNING)):
            task = (make_task("a", desired=desired),)
            manager.tell(assignments=AssignmentUpdate(sequence=sequence, base_sequence=sequence - 1, tasks=task))
        await eventually(lambda: state_at(manager, "a") is S.SHUTDOWN)


@pytest.mark.parametrize("hold", ["prepare_gate", "healthy"])
async def test_shutdown_interrupts_what_is_under_way(hold: str) -> None:
    """A task is stopped while its image is pulled or its health is waited for."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    setattr(host.engine, hold, asyncio.Event())
    async with host.run():
        last = "prepare" if hold == "prepare_gate" else "start"
        await eventually(lambda: (last, A) in host.engine.calls)
        stop = (make_task("a", desired=S.REMOVE),)
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, tasks=stop))
        await eventually(lambda: state_at(manager, "a") is S.SHUTDOWN)
        assert ("stop", A) in host.engine.calls


async def test_a_replacement_waits_until_it_is_wanted() -> None:
    """A task desired READY is prepared and waits; it starts when it should run, while the replaced one ends."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=whole(make_task("a"), make_task("b", desired=S.READY)))
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING and state_at(manager, "b") is S.READY)
        assert ("start", TaskId("b")) not in host.engine.calls
        tasks = (make_task("a", desired=S.SHUTDOWN), make_task("b"))
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, tasks=tasks))
        await eventually(lambda: state_at(manager, "a") is S.SHUTDOWN and state_at(manager, "b") is S.RUNNING)


async def test_prepares_are_bounded() -> None:
    """Many new tasks do not all ask the engine at once, and all of them run in the end."""
    manager = Manager("m1:2377")
    names = [f"t{i}" for i in range(2 * CONCURRENT_PREPARES)]
    assigned(manager, *names)
    host = Host(manager)
    gate = host.engine.prepare_gate = asyncio.Event()
    async with host.run():
        await eventually(lambda: host.engine.preparing == CONCURRENT_PREPARES)
        gate.set()
        await eventually(lambda: all(state_at(manager, name) is S.RUNNING for name in names))
    assert host.engine.most_preparing == CONCURRENT_PREPARES


async def test_engine_away_and_back() -> None:
    """While the engine is away a new task waits and says so; when it is back the task runs, and others never ended."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        host.engine.away = True
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, tasks=(make_task("b"),)))
        await eventually(lambda: "b" in manager.states and manager.states["b"].err == "the engine is away")
        assert state_at(manager, "b") is S.PREPARING
        host.engine.away = False
        await eventually(lambda: state_at(manager, "b") is S.RUNNING)
        assert manager.states["b"].err == ""
        assert state_at(manager, "a") is S.RUNNING


# -- what is no longer assigned -------------------------------------------------------------------------------------


async def test_whole_set_removes_what_is_not_in_it() -> None:
    """After a new session's whole set, tasks that are not in it are stopped and removed, and reported no more."""
    manager = Manager("m1:2377")
    assigned(manager, "a", "b")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "b") is S.RUNNING)
        assigned(manager, "b")
        manager.end_session()
        await eventually(lambda: A not in host.engine.containers)
        await eventually(lambda: list(agent.statuses) == ["b"])
        assert state_at(manager, "a") is not S.SHUTDOWN
        assert host.engine.calls.index(("stop", A)) < host.engine.calls.index(("remove", A))
    assert [task.id for task in host.local.remembered.tasks] == ["b"]


async def test_strangers_go_only_after_a_manager_has_spoken() -> None:
    """A container of no known task is left alone until a whole set is known, and removed then."""
    manager = Manager("m1:2377")
    manager.alive = False
    host = Host(manager)
    host.engine.containers[TaskId("stranger")] = Container(running=True)
    async with host.run():
        await eventually(lambda: len(host.network.dialled) >= 2)
        assert TaskId("stranger") in host.engine.containers
        manager.alive = True
        await eventually(lambda: TaskId("stranger") not in host.engine.containers)


async def test_removal_is_tried_until_the_engine_is_back() -> None:
    """A task that is unassigned while the engine is away is removed when it is back."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        host.engine.away = True
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, removed=(A,)))
        await eventually(lambda: ("stop", A) in host.engine.calls)
        assert A in agent.statuses
        host.engine.away = False
        await eventually(lambda: not agent.statuses)
        assert A not in host.engine.containers


async def test_a_task_assigned_again_while_it_is_removed_ends() -> None:
    """A task that comes back while it is being stopped is not run again, but told to have ended."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
        host.engine.away = True
        manager.tell(assignments=AssignmentUpdate(sequence=2, base_sequence=1, removed=(A,)))
        await eventually(lambda: ("stop", A) in host.engine.calls)
        manager.tell(assignments=AssignmentUpdate(sequence=3, base_sequence=2, tasks=(make_task("a"),)))
        host.engine.away = False
        await eventually(lambda: state_at(manager, "a") is S.SHUTDOWN)
        assert A in agent.statuses


async def test_statuses_of_removed_tasks_are_not_sent() -> None:
    """What could not be told of a task that is then unassigned is told to nobody."""
    old, new = Manager("m1:2377"), Manager("m2:2377")
    assigned(old, "a")
    new.redirect = old.address
    host = Host(old, new)
    async with host.run() as agent:
        await eventually(lambda: state_at(old, "a") is S.RUNNING)
        old.die()
        host.engine.end("a", 0)
        await eventually(lambda: agent.statuses[A].state is S.COMPLETE)
        new.redirect = None
        await eventually(lambda: not agent.statuses)
        await eventually(lambda: len(new.beats) >= 2)
    assert new.reports == []


# -- a new life of the agent ----------------------------------------------------------------------------------------


async def test_running_tasks_are_adopted() -> None:
    """An agent that starts again goes on with what runs, without touching it, and notices when it ends."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    assert host.engine.closed
    assert host.mesh.closed
    assert host.engine.containers[A].running
    host.engine.calls.clear()
    async with host.run() as agent:
        await eventually(lambda: len(manager.requests) == 2)
        assert agent.statuses[A].state is S.RUNNING
        await eventually(lambda: host.engine.calls == [("wait", A)])
        host.engine.end("a", 5)
        await eventually(lambda: state_at(manager, "a") is S.FAILED)


async def test_adopted_tasks_are_announced_where_the_node_is_now() -> None:
    """A node that has moved tells the managers where its running tasks are reached from now on."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    assert [port.host_address for port in manager.states["a"].ports] == ["10.0.0.1"]
    known = attrs.evolve(make_task("a"), status=manager.states["a"])
    manager.first = SessionMessage(assignments=whole(known))
    host.engine.address = "10.0.0.9"
    host.engine.calls.clear()
    async with host.run():
        await eventually(lambda: [port.host_address for port in manager.states["a"].ports] == ["10.0.0.9"])
        assert host.engine.calls == [("wait", A)]


async def test_what_ended_meanwhile_is_reported() -> None:
    """Tasks that ended, or whose container vanished, while no agent was there are reported by the next one."""
    manager = Manager("m1:2377")
    assigned(manager, "a", "b")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is state_at(manager, "b") is S.RUNNING)
    host.engine.end("a", 0)
    del host.engine.containers[TaskId("b")]
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.COMPLETE and state_at(manager, "b") is S.FAILED)
        assert "no longer on this node" in manager.states["b"].err


async def test_containers_are_adopted_without_local_state() -> None:
    """An agent that lost its memory adopts what a manager says should run, by the task's id."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    host.local = type(host.local)()
    manager.first = SessionMessage(assignments=whole(attrs.evolve(make_task("a"), status=manager.states["a"])))
    host.engine.calls.clear()
    async with host.run() as agent:
        await eventually(lambda: host.engine.calls == [("wait", A)])
        assert agent.statuses[A] == manager.states["a"]


async def test_restart_without_managers() -> None:
    """With no manager to be found, the last tasks are adopted and the last endpoint table is in force."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(
        assignments=whole(make_task("a")),
        endpoints=table_update(5, 0, *make_table(80, "a")),
        managers=managers_at("m1:2377"),
    )
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING and host.mesh.tables)
    manager.die()
    host.seeds = ()
    host.mesh.tables.clear()
    host.network.dialled.clear()
    async with host.run() as agent:
        await eventually(lambda: agent.statuses and host.mesh.tables)
        assert host.mesh.tables[0] == dict(make_table(80, "a"))
        assert agent.statuses[A].state is S.RUNNING
        assert agent.applied_endpoints_version == 0
        await eventually(lambda: host.network.dialled and set(host.network.dialled) == {"m1:2377"})
        host.engine.end("a", 1)
        await eventually(lambda: agent.statuses[A].state is S.FAILED)
    # What nobody could be told is remembered, and told when a manager is back.
    manager.alive = True
    manager.first = attrs.evolve(
        manager.first, assignments=whole(attrs.evolve(make_task("a"), status=manager.states["a"]))
    )
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.FAILED)


async def test_engine_away_at_start() -> None:
    """Without its engine a node does not register, but routes; it registers when the engine is there."""
    manager = Manager("m1:2377")
    host = Host(manager)
    host.engine.away = True
    async with host.run() as agent:
        await eventually(agent.problems)
        assert "simulated engine does not answer" in agent.problems()[0]
        assert not manager.requests
        host.engine.away = False
        await eventually(lambda: manager.requests)
        assert not agent.problems()


# -- managers -------------------------------------------------------------------------------------------------------


async def test_a_follower_sends_to_the_leader() -> None:
    """A manager that does not lead names the leader, and the agent goes there at once."""
    follower, leader = Manager("m1:2377"), Manager("m2:2377")
    follower.redirect = leader.address
    host = Host(follower, leader, seeds=(follower.address,))
    async with host.run() as agent:
        await eventually(lambda: agent.manager == leader.address)
    assert host.network.dialled == [follower.address, leader.address]


async def test_session_loss_keeps_tasks_and_finds_the_new_leader() -> None:
    """When the leader dies, tasks run on and the agent finds the next leader among the managers it was told."""
    old, new = Manager("m1:2377"), Manager("m2:2377")
    old.first = SessionMessage(assignments=whole(make_task("a")), managers=managers_at(old.address, new.address))
    assigned(new, "a")
    new.redirect = old.address
    host = Host(old, new, seeds=(old.address,))
    async with host.run() as agent:
        await eventually(lambda: state_at(old, "a") is S.RUNNING)
        old.die()
        await eventually(lambda: new.asked)
        assert agent.statuses[A].state is S.RUNNING
        new.redirect = None
        await eventually(lambda: agent.manager == new.address)
        await eventually(lambda: state_at(new, "a") is S.RUNNING)
        assert host.engine.containers[A].running
    assert host.local.remembered.managers == managers_at(old.address, new.address)


async def test_a_manager_that_steps_down_names_its_successor() -> None:
    """A session that ends with the new leader's address goes on there, though nobody knew it."""
    old, new = Manager("m1:2377"), Manager("m2:2377")
    host = Host(old, new, seeds=(old.address,))
    async with host.run() as agent:
        await eventually(lambda: agent.manager == old.address)
        old.redirect = new.address
        await eventually(lambda: agent.manager == new.address)
        assert host.network.dialled == [old.address, new.address]


async def test_a_manager_that_hangs_is_noticed() -> None:
    """A manager whose connection stays but who answers no heartbeat is left for another."""
    deaf, other = Manager("m1:2377"), Manager("m2:2377")
    other.redirect = deaf.address
    host = Host(deaf, other)
    async with host.run() as agent:
        await eventually(lambda: agent.manager == deaf.address)
        deaf.deaf = True
        deaf.redirect = ""
        other.redirect = None
        await eventually(lambda: agent.manager == other.address)


async def test_a_wrong_session_is_opened_anew() -> None:
    """A manager that does not know the session any more gets a new one."""
    manager = Manager("m1:2377")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: manager.beats)
        manager.end_session(FailedPrecondition("another session of this node was opened"))
        await eventually(lambda: len(manager.requests) == 2)
        await eventually(lambda: manager.beats[-1].session_id == manager.session_id)


async def test_a_gap_in_assignments_makes_a_new_session() -> None:
    """An increment that does not build on the last set is not applied; the whole set is asked for again."""
    manager = Manager("m1:2377")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: agent.manager)
        manager.tell(assignments=AssignmentUpdate(sequence=9, base_sequence=8, tasks=(make_task("x"),)))
        await eventually(lambda: len(manager.requests) == 2)
        assert not agent.statuses


async def test_a_stop_at_the_moment_a_session_ends() -> None:
    """An agent that is stopped just when its session breaks does stop, whichever comes first."""
    for steps in range(40):
        manager = Manager("m1:2377")
        host = Host(manager)
        async with host.run() as agent:
            await eventually(lambda agent=agent: agent.manager)
            manager.end_session()
            for _ in range(steps):
                await asyncio.sleep(0)
        assert host.engine.closed


async def test_a_malformed_message_ends_the_session_only() -> None:
    """A first message without a session id, or nonsense, is refused, and the agent tries on."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=AssignmentUpdate(sequence=-1, base_sequence=5))
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: manager.asked >= 2)
        assert agent.manager == ""
        manager.first = SessionMessage(assignments=AssignmentUpdate(sequence=1))
        await eventually(lambda: agent.manager)


async def test_a_report_is_sent_again_when_its_answer_is_lost() -> None:
    """Statuses whose confirmation got lost are reported again."""
    manager = Manager("m1:2377")
    assigned(manager, "a")
    manager.lose_reports = 3
    host = Host(manager)
    async with host.run():
        await eventually(lambda: manager.lose_reports == 0 and state_at(manager, "a") is S.RUNNING)
        await eventually(lambda: len(manager.reports) >= 4)
    assert manager.history["a"] == sorted(manager.history["a"])


async def test_unconfirmed_reports_go_to_the_next_manager() -> None:
    """What the dead leader was told is told to the next one, whose set shows that it does not know."""
    old, new = Manager("m1:2377"), Manager("m2:2377")
    assigned(old, "a")
    assigned(new, "a")
    new.redirect = old.address
    host = Host(old, new)
    async with host.run():
        await eventually(lambda: state_at(old, "a") is S.RUNNING)
        old.die()
        host.engine.end("a", 0)
        new.redirect = None
        await eventually(lambda: state_at(new, "a") is S.COMPLETE)


async def test_the_role_is_passed_on() -> None:
    """A role that differs from the node's is told once to whoever renews certificates."""
    manager = Manager("m1:2377")
    manager.first = SessionMessage(assignments=AssignmentUpdate(sequence=1), role=Role.WORKER)
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: agent.manager)
        assert host.roles == []
        manager.tell(role=Role.MANAGER)
        manager.tell(role=Role.MANAGER)
        await eventually(lambda: host.roles)
        manager.tell(role=Role.WORKER)
        await eventually(lambda: len(host.roles) == 2)
    assert host.roles == [Role.MANAGER, Role.WORKER]


# -- endpoints ------------------------------------------------------------------------------------------------------


async def test_endpoints_are_acknowledged_once_in_force() -> None:
    """A heartbeat names a table version only when the data plane has it, and then at once."""
    manager = Manager("m1:2377")
    host = Host(manager)
    gate = host.mesh.gate = asyncio.Semaphore(0)
    async with host.run():
        await eventually(lambda: manager.beats)
        manager.tell(endpoints=table_update(3, 0, *make_table(80, "a", "b")))
        beats = len(manager.beats)
        await eventually(lambda: len(manager.beats) > beats + 1)
        assert {beat.endpoints_version for beat in manager.beats} == {0}
        gate.release()
        await eventually(lambda: manager.beats[-1].endpoints_version == 3)
        assert host.mesh.tables[-1] == dict(make_table(80, "a", "b"))


async def test_endpoint_updates_are_applied_together() -> None:
    """Updates that come while one is applied become one table."""
    manager = Manager("m1:2377")
    host = Host(manager)
    gate = host.mesh.gate = asyncio.Semaphore(0)
    async with host.run():
        await eventually(lambda: manager.beats)
        manager.tell(endpoints=table_update(1, 0, *make_table(80, "a")))
        manager.tell(endpoints=table_update(2, 1, *make_table(81, "b")))
        manager.tell(endpoints=attrs.evolve(table_update(3, 2), removed=(PublishedPort(port=80),)))
        manager.tell(endpoints=table_update(4, 3, *make_table(82, "c")))
        await eventually(lambda: host.local.remembered.endpoints and host.local.remembered.endpoints.version == 4)
        gate.release()
        gate.release()
        await eventually(lambda: manager.beats[-1].endpoints_version == 4)
        assert host.mesh.tables[-1] == dict((*make_table(81, "b"), *make_table(82, "c")))
        assert len(host.mesh.tables) <= 2


async def test_a_gap_in_endpoints_makes_a_new_session() -> None:
    """An endpoint update that does not build on the last table leads to a new session and a whole table."""
    manager = Manager("m1:2377")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: manager.beats)
        manager.first = attrs.evolve(manager.first, endpoints=table_update(9, 0, *make_table(80, "z")))
        manager.tell(endpoints=table_update(7, 6, *make_table(80, "a")))
        await eventually(lambda: manager.beats[-1].endpoints_version == 9)
    assert host.mesh.tables == [dict(make_table(80, "z"))]


async def test_versions_of_another_session_are_not_acknowledged() -> None:
    """A new leader that counts lower never hears a version of the old one."""
    old, new = Manager("m1:2377"), Manager("m2:2377")
    old.first = attrs.evolve(old.first, endpoints=table_update(100, 0, *make_table(80, "a")))
    new.first = attrs.evolve(new.first, endpoints=table_update(2, 0, *make_table(80, "b")))
    new.redirect = old.address
    host = Host(old, new)
    async with host.run():
        await eventually(lambda: old.beats and old.beats[-1].endpoints_version == 100)
        old.die()
        new.redirect = None
        await eventually(lambda: new.beats and new.beats[-1].endpoints_version == 2)
    assert {beat.endpoints_version for beat in new.beats} <= {0, 2}


async def test_a_table_of_the_last_session_that_is_late_is_not_acknowledged() -> None:
    """A table that was still being applied when the leader changed says nothing to the new leader."""
    old, new = Manager("m1:2377"), Manager("m2:2377")
    old.first = attrs.evolve(old.first, endpoints=table_update(100, 0, *make_table(80, "a")))
    new.first = attrs.evolve(new.first, endpoints=table_update(2, 0, *make_table(80, "b")))
    new.redirect = old.address
    host = Host(old, new)
    host.mesh.gate = asyncio.Semaphore(0)
    async with host.run():
        await eventually(lambda: old.beats)
        old.die()
        new.redirect = None
        await eventually(lambda: new.beats)
        host.mesh.gate.release()
        await eventually(lambda: host.mesh.tables)
        beats = len(new.beats)
        await eventually(lambda: len(new.beats) >= beats + 2)
        assert {beat.endpoints_version for beat in new.beats} == {0}
        host.mesh.gate.release()
        await eventually(lambda: new.beats[-1].endpoints_version == 2)


async def test_problems_are_in_heartbeats() -> None:
    """What does not work on the node is told to the manager, and a refused table is tried again."""
    manager = Manager("m1:2377")
    manager.first = attrs.evolve(manager.first, endpoints=table_update(1, 0, *make_table(80, "a")))
    host = Host(manager)
    host.mesh.lines = ("published port 80: address already in use",)
    host.mesh.error = OSError("no more file descriptors")
    async with host.run():
        await eventually(lambda: manager.beats and len(manager.beats[-1].problems) == 2)
        assert manager.beats[-1].problems[0] == "published port 80: address already in use"
        assert "no more file descriptors" in manager.beats[-1].problems[1]
        assert manager.beats[-1].endpoints_version == 0
        host.mesh.error, host.mesh.lines = None, ()
        await eventually(lambda: manager.beats[-1].endpoints_version == 1)
        await eventually(lambda: manager.beats[-1].problems == ())


async def test_a_changed_description_is_introduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the engine describes the node differently, the agent introduces itself again to the same manager."""
    monkeypatch.setattr("swarmpy.agent.engine_watch.DESCRIBE_PERIOD_S", 0.01)
    manager = Manager("m1:2377")
    host = Host(manager)
    async with host.run():
        await eventually(lambda: manager.beats)
        host.engine.description = attrs.evolve(host.engine.description, engine_version="99.1")
        await eventually(lambda: len(manager.requests) == 2)
        assert manager.requests[1].description.engine_version == "99.1"
        host.engine.away = True
        await eventually(lambda: any("does not answer" in line for line in manager.beats[-1].problems))
        host.engine.away = False
        await eventually(lambda: manager.beats[-1].problems == ())
        assert len(manager.requests) == 2


async def test_heartbeats_keep_the_period_told() -> None:
    """Heartbeats come at the period that the manager says, with the session's id."""
    manager = Manager("m1:2377")
    host = Host(manager)
    loop = asyncio.get_running_loop()
    async with host.run():
        await eventually(lambda: manager.beats)
        begun, before = loop.time(), len(manager.beats)
        await eventually(lambda: len(manager.beats) >= before + 4)
        assert loop.time() - begun >= 4 * 0.05 * 0.7
    assert {beat.session_id for beat in manager.beats} == {manager.session_id}


# -- a whole set in parts -------------------------------------------------------------------------------------------


def part(sequence: int, *names: str, more: bool = True, removed: tuple[str, ...] = ()) -> AssignmentUpdate:
    """One part of a set; the first has no base."""
    return AssignmentUpdate(
        sequence=sequence,
        base_sequence=sequence - 1,
        tasks=tuple(make_task(name) for name in names),
        removed=tuple(TaskId(name) for name in removed),
        more=more,
    )


async def test_parts_of_a_set_stop_nothing_before_it_is_whole() -> None:
    """A task that comes in a later part runs on; one that comes in none is removed with the last, and not before."""
    manager = Manager("m1:2377")
    assigned(manager, "a", "b", "c")
    host = Host(manager)
    host.engine.containers[TaskId("stranger")] = Container(running=True)
    async with host.run():
        await eventually(lambda: all(state_at(manager, name) is S.RUNNING for name in "abc"))
        await eventually(lambda: TaskId("stranger") not in host.engine.containers)
    # What is found at the start must be left alone until all is known, too.
    host.engine.containers[TaskId("other")] = Container(running=True)
    manager.first = SessionMessage(assignments=part(1, "a"))
    host.engine.calls.clear()
    async with host.run() as agent:
        await eventually(lambda: len(manager.beats) > 2)
        manager.tell(assignments=part(2, "d"))
        await eventually(lambda: state_at(manager, "d") is S.RUNNING)
        assert not [call for call in host.engine.calls if call[0] in ("stop", "remove")]
        manager.tell(assignments=part(3, "b", removed=("d",), more=False))
        await eventually(lambda: set(agent.statuses) == {"a", "b"})
        await eventually(lambda: set(host.engine.containers) == {"a", "b"})
        manager.tell(assignments=part(4, "e", more=False))
        await eventually(lambda: state_at(manager, "e") is S.RUNNING)
        assert set(agent.statuses) == {"a", "b", "e"}


async def test_a_set_that_was_broken_off_counts_for_nothing() -> None:
    """The next session begins with another: what was told of the first one neither stops nor keeps anything."""
    manager = Manager("m1:2377")
    assigned(manager, "a", "b")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "b") is S.RUNNING)
        manager.first = SessionMessage(assignments=part(1, "a"))
        manager.end_session()
        await eventually(lambda: manager.asked == 2)
        manager.first = SessionMessage(assignments=part(1, "b"))
        manager.end_session()
        await eventually(lambda: manager.asked == 3)
        manager.tell(assignments=part(2, more=False))
        await eventually(lambda: set(agent.statuses) == {"b"})
        assert agent.statuses[TaskId("b")].state is S.RUNNING
