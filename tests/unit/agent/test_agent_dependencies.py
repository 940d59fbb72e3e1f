"""An agent gets the secrets and configs of its tasks, keeps them while they are needed, and says why it waits."""

from __future__ import annotations

from pathlib import Path

import attrs
from agent_world import Host, Manager, eventually, make_task, whole

from swarmpy.agent import dependencies as keeping
from swarmpy.agent.local_database import LocalDatabase
from swarmpy.errors import NotFound, PermissionDenied, Unavailable
from swarmpy.model.assignments import SessionMessage
from swarmpy.model.dependencies import MAX_IDS, Content
from swarmpy.model.ids import ConfigId, SecretId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference, TaskSpec
from swarmpy.model.states import TaskState

S = TaskState
PLANTED = b"hunter2-planted"


def task(name: str, *secrets: str, configs: tuple[str, ...] = (), pull: str | None = None) -> Task:
    """A task that refers to objects of these ids."""
    container = ContainerSpec(
        image="x",
        secrets=tuple(
            SecretReference(secret_id=SecretId(n), secret_name=f"name-of-{n}", file=FileTarget(name=n)) for n in secrets
        ),
        configs=tuple(
            ConfigReference(config_id=ConfigId(n), config_name=f"name-of-{n}", file=FileTarget(name=n)) for n in configs
        ),
        pull_secret_id=None if pull is None else SecretId(pull),
    )
    return attrs.evolve(make_task(name), spec=TaskSpec(container=container))


def manager_with(*tasks: Task, address: str = "m1:2377") -> Manager:
    """A manager that has these tasks for the node, and everything that they refer to."""
    manager = Manager(address)
    manager.first = SessionMessage(assignments=whole(*tasks))
    for each in tasks:
        spec = each.spec.container
        for name in (*(r.secret_id for r in spec.secrets), *(r.config_id for r in spec.configs), spec.pull_secret_id):
            if name is not None:
                manager.contents[name] = Content(data=PLANTED + name.encode())
    return manager


def state_at(manager: Manager, name: str) -> TaskState:
    """What the manager was told of a task."""
    return manager.states[name].state if name in manager.states else S.NEW


def asked(manager: Manager) -> list[str]:
    """The ids that were asked for, in order."""
    return [i for question in manager.questions for i in (*question.secrets, *question.configs)]


def contents_of(directory: Path) -> bytes:
    """Every byte of every file."""
    return b"".join(path.read_bytes() for path in directory.iterdir())


async def test_a_task_is_prepared_with_what_it_refers_to() -> None:
    """Secrets, configs and credentials are there when the runtime is asked."""
    manager = manager_with(task("a", "s1", "s2", configs=("c1",), pull="login"))
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    given = host.engine.given[TaskId("a")]
    assert {i: c.data for i, c in given.secrets.items()} == {i: PLANTED + i.encode() for i in ("s1", "s2", "login")}
    assert given.configs[ConfigId("c1")].data == PLANTED + b"c1"
    assert [question.task_id for question in manager.questions] == ["a", "a"]
    assert [question.secrets for question in manager.questions] == [("s1", "s2"), ("login",)]


async def test_who_refers_to_nothing_asks_for_nothing() -> None:
    """Most tasks."""
    manager = manager_with(task("a"))
    async with Host(manager).run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    assert manager.questions == []


async def test_each_is_asked_for_once() -> None:
    """However many tasks refer to it, and however many questions it takes."""
    manager = manager_with(*(task(f"t{n}", "shared", f"own-{n}", configs=("conf",)) for n in range(20)))
    manager.at_once = 2
    host = Host(manager)
    async with host.run():
        await eventually(lambda: all(state_at(manager, f"t{n}") is S.RUNNING for n in range(20)))
    assert all({"shared", f"own-{n}"} == set(host.engine.given[TaskId(f"t{n}")].secrets) for n in range(20))
    got = {"shared", "conf", *(f"own-{n}" for n in range(20))}
    assert len(asked(manager)) <= len(got) + 1  # the config did not fit into the first answer
    assert set(asked(manager)) == got


async def test_questions_are_bounded() -> None:
    """A task with very many is asked for in parts."""
    names = tuple(f"s{number}" for number in range(3 * MAX_IDS))
    manager = manager_with(task("a", *names))
    manager.at_once = 1000
    async with Host(manager).run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    assert [len(question.secrets) for question in manager.questions] == [MAX_IDS] * 3


async def test_it_is_held_while_a_task_needs_it() -> None:
    """The last task that goes takes it along; credentials go when the task runs; a later task asks anew."""
    manager = manager_with(task("a", "s1", "s2", pull="login"), task("b", "s1"))
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: state_at(manager, "a") is S.RUNNING and state_at(manager, "b") is S.RUNNING)
        assert agent.held_dependencies == {"s1", "s2"}
        host.engine.end("a", 1)
        await eventually(lambda: state_at(manager, "a") is S.FAILED)
        assert agent.held_dependencies == {"s1"}
        manager.tell(assignments=attrs.evolve(whole(sequence=2), base_sequence=1, removed=(TaskId("b"),)))
        await eventually(lambda: "b" not in agent.statuses)
        assert agent.held_dependencies == frozenset()
        manager.tell(assignments=attrs.evolve(whole(task("c", "s1"), sequence=3), base_sequence=2))
        await eventually(lambda: state_at(manager, "c") is S.RUNNING)
    assert asked(manager).count("s1") == 2


async def test_what_is_not_given_is_waited_for() -> None:
    """The task stays in PREPARING with the reason, and goes on as soon as it can; others are not held up."""
    manager = manager_with(task("a", "s1", "s2"), task("b"))
    for refusal in (
        PermissionDenied("node node is not given it: because"),
        Unavailable("was given too much at once"),
        NotFound("no call method: is it of an older version"),
    ):
        reason = f"waiting for secret name-of-s1 and 1 more: {refusal}"
        manager.refusal = refusal
        host = Host(manager)
        async with host.run():
            await eventually(lambda: state_at(manager, "b") is S.RUNNING)
            await eventually(lambda r=reason: manager.states["a"].err == r)
            assert manager.states["a"].state is S.PREPARING
            manager.refusal = None
            await eventually(lambda: state_at(manager, "a") is S.RUNNING)
            assert manager.states["a"].err == ""
        manager.states.clear()


async def test_refused_credentials_are_done_without() -> None:
    """An agent that has forgotten that a task ran is not given them again, and must not wait for them for ever."""
    manager = manager_with(task("a", "s1", pull="login"))
    manager.refused = {"login"}
    host = Host(manager)
    async with host.run():
        await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    assert set(host.engine.given[TaskId("a")].secrets) == {"s1"}


async def test_what_is_gone_is_a_reason() -> None:
    """An object that does not exist any more fails the task, which names it."""
    manager = manager_with(task("a", "s1", configs=("c1",)))
    del manager.contents["c1"]
    async with Host(manager).run() as agent:
        await eventually(lambda: state_at(manager, "a") is S.REJECTED)
        assert manager.states["a"].err == "config name-of-c1 does not exist any more"
        assert agent.held_dependencies == frozenset()


async def test_without_a_session_it_waits_for_one(monkeypatch: object) -> None:
    """A task that was accepted when the manager went away says so, and gets on with the next manager."""
    monkeypatch.setattr(keeping, "SESSION_WAIT_S", 0.05)  # type: ignore[attr-defined]
    first, second = manager_with(task("a", "s1")), manager_with(task("a", "s1"), address="m2:2377")
    second.alive = False
    first.refusal = Unavailable("not now")
    host = Host(first, second)
    async with host.run() as agent:
        await eventually(lambda: state_at(first, "a") is S.PREPARING)
        first.die()
        no_session = "waiting for secret name-of-s1: this node has no session with a manager"
        await eventually(lambda: agent.statuses[TaskId("a")].err == no_session)
        second.alive = True
        await eventually(lambda: state_at(second, "a") is S.RUNNING, within=10)


async def test_a_task_that_waits_is_stopped_at_once() -> None:
    """It need not get what it waits for first."""
    manager = manager_with(task("a", "s1"))
    manager.refusal = Unavailable("not now")
    async with Host(manager).run() as agent:
        await eventually(lambda: "not now" in (manager.states["a"].err if "a" in manager.states else ""))
        ending = attrs.evolve(task("a", "s1"), desired_state=S.SHUTDOWN)
        manager.tell(assignments=attrs.evolve(whole(ending, sequence=2), base_sequence=1))
        await eventually(lambda: state_at(manager, "a") is S.SHUTDOWN)
        assert agent.held_dependencies == frozenset()


async def test_nothing_of_it_is_written_or_told(tmp_path: Path) -> None:
    """Not in the agent's database, nor in what it reports; a restarted agent does not ask for what runs already."""
    manager = manager_with(task("a", "s1", configs=("c1",), pull="login"))
    host = Host(manager)
    host.local = LocalDatabase(tmp_path / "state.db")  # type: ignore[assignment]
    for _ in range(2):
        async with host.run():
            await eventually(lambda: state_at(manager, "a") is S.RUNNING)
    written = contents_of(tmp_path)
    assert b"name-of-s1" in written
    assert PLANTED not in written
    assert PLANTED.decode() not in repr((manager.reports, manager.beats, manager.requests, host.engine.given))
    assert len(manager.questions) == 2
