"""The leader gives nodes what their own tasks refer to, and nothing else, whatever they ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
from manager_world import FakeAgent, TwoAgents, make_service, make_task, two_agents
from structlog.testing import capture_logs

from swarmpy.errors import FailedPrecondition, InvalidArgument, PermissionDenied, ProtocolViolation, Unavailable
from swarmpy.manager.dependencies import DELIVERED, REPLY_BYTES
from swarmpy.model import codec
from swarmpy.model.dependencies import MAX_IDS, DependenciesReply, DependenciesRequest
from swarmpy.model.ids import ConfigId, SecretId, TaskId
from swarmpy.model.objects import Config, Secret, Task
from swarmpy.model.schema import SECRETS_VERSION
from swarmpy.model.specs import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    SecretReference,
    SecretSpec,
    TaskSpec,
)
from swarmpy.model.states import TaskState

PLANTED = b"hunter2-planted"


def container(*names: str, configs: tuple[str, ...] = (), pull: str | None = None) -> TaskSpec:
    """What refers to secrets and configs of these ids."""
    return TaskSpec(
        container=ContainerSpec(
            image="x",
            secrets=tuple(
                SecretReference(secret_id=SecretId(n), secret_name=n, file=FileTarget(name=n)) for n in names
            ),
            configs=tuple(
                ConfigReference(config_id=ConfigId(n), config_name=n, file=FileTarget(name=n)) for n in configs
            ),
            pull_secret_id=None if pull is None else SecretId(pull),
        )
    )


def task(name: str, node: str, spec: TaskSpec, state: TaskState = TaskState.PREPARING) -> Task:
    """A task of the node that is being prepared."""
    return attrs.evolve(make_task(name, node, state), spec=spec)


@attrs.define
class World(TwoAgents):
    """Each node has a task with a secret of its own, and they share one."""

    async def ask(self, agent: FakeAgent, task_id: str, *secrets: str, configs: tuple[str, ...] = ()) -> Any:
        """One question, through bytes as on a connection."""
        request = DependenciesRequest(
            session_id=agent.session_id,
            task_id=TaskId(task_id),
            secrets=tuple(SecretId(i) for i in secrets),
            configs=tuple(ConfigId(i) for i in configs),
        )
        plain = await self.dispatcher.dependencies(agent.peer, codec.unpack(codec.pack(codec.to_plain(request))))
        return codec.from_plain(DependenciesReply, codec.unpack(codec.pack(plain)))

    async def change(self, name: str, **fields: Any) -> None:
        """The task is another now."""

        def write(tx: Any) -> None:
            tx.update(attrs.evolve(tx.task(TaskId(name)), **fields))

        await self.store.update(write)

    async def add(self, name: str, data: bytes, **more: Any) -> None:
        """One more secret."""
        spec = SecretSpec(name=name, data=data, **more)
        await self.store.update(lambda tx: tx.create(Secret(id=SecretId(name), spec=spec)))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    def write(tx: Any) -> None:
        tx.update(attrs.evolve(tx.cluster(), schema=SECRETS_VERSION))
        tx.create(make_service())
        for name in ("mine", "theirs", "shared", "nobodys", "login"):
            spec = SecretSpec(name="" if name == "login" else name, data=PLANTED + name.encode())
            tx.create(Secret(id=SecretId(name), spec=spec))
        spec = ConfigSpec(name="conf", data=b"x={{.Task.ID}}", templating="golang")
        tx.create(Config(id=ConfigId("conf"), spec=spec))
        tx.create(task("t-good", "good", container("mine", "shared", configs=("conf",), pull="login")))
        tx.create(task("t-bad", "bad", container("theirs", "shared")))

    async with two_agents(write, World) as made:
        yield made


async def test_a_node_gets_what_its_task_refers_to(world: World) -> None:
    """Secrets, configs and credentials, with how they are to be expanded."""
    reply = await world.ask(world.good, "t-good", "mine", "shared", "login", configs=("conf",))
    assert {i: c.data for i, c in reply.secrets.items()} == {
        "mine": PLANTED + b"mine",
        "shared": PLANTED + b"shared",
        "login": PLANTED + b"login",
    }
    assert reply.configs["conf"].data == b"x={{.Task.ID}}"
    assert reply.configs["conf"].templating == "golang"
    assert reply.missing == ()
    assert "planted" not in repr(reply)


@pytest.mark.parametrize(
    ("task_id", "secret", "reason"),
    [
        ("t-good", "mine", "is not one of node bad"),
        ("t-good", "shared", "is not one of node bad"),
        ("no-such-task", "theirs", "is not one of node bad"),
        ("t-bad", "mine", "does not refer to secret 'mine'"),
        ("t-bad", "nobodys", "does not refer to secret 'nobodys'"),
        ("t-bad", "login", "does not refer to secret 'login'"),
        ("t-bad", "no-such-secret", "does not refer to secret 'no-such-secret'"),
        ("t-bad", "conf", "does not refer to secret 'conf'"),
    ],
)
async def test_a_node_gets_nothing_of_others(world: World, task_id: str, secret: str, reason: str) -> None:
    """Not alone, nor together with its own; a line says who asked for what."""
    for ids in ((secret,), ("theirs", secret)):
        with capture_logs() as logs, pytest.raises(PermissionDenied, match=reason):
            await world.ask(world.bad, task_id, *ids)
        line = next(line for line in logs if line["event"] == "secret_refused")
        assert (line["node"], line["task"], line["log_level"]) == ("bad", task_id, "warning")
        assert secret in line["ids"]
        assert "planted" not in str(logs)


async def test_a_config_is_given_as_a_config_only(world: World) -> None:
    """The id of one thing is not a way to another."""
    for secrets, configs in ((("conf",), ()), ((), ("mine",))):
        with pytest.raises(PermissionDenied):
            await world.ask(world.good, "t-good", *secrets, configs=configs)


@pytest.mark.parametrize(
    "over",
    [
        {"desired_state": TaskState.SHUTDOWN},
        {"desired_state": TaskState.REMOVE},
        {"status": attrs.evolve(make_task("x", "x").status, state=TaskState.FAILED)},
        {"status": attrs.evolve(make_task("x", "x").status, state=TaskState.COMPLETE)},
    ],
    ids=str,
)
async def test_a_task_that_is_over_gets_nothing(world: World, over: dict[str, Any]) -> None:
    """Nor does one that is to end. An honest node may ask a moment too late, so no warning is made of it."""
    await world.change("t-bad", **over)
    with capture_logs() as logs, pytest.raises(PermissionDenied, match="is over, or is to end"):
        await world.ask(world.bad, "t-bad", "theirs")
    assert [line["log_level"] for line in logs if line["event"] == "secret_refused"] == ["info"]


async def test_credentials_are_for_tasks_that_do_not_run_yet(world: World) -> None:
    """Once the task runs nothing is pulled for it; its secrets it may ask for again."""
    await world.change("t-good", status=attrs.evolve(make_task("x", "x").status, state=TaskState.RUNNING))
    with pytest.raises(PermissionDenied, match="its image is not pulled any more"):
        await world.ask(world.good, "t-good", "login")
    assert "mine" in (await world.ask(world.good, "t-good", "mine")).secrets


async def test_in_its_own_session_only(world: World) -> None:
    """With the session of another node, or an old one, nothing is given."""
    stolen = FakeAgent(world.dispatcher, "bad")
    stolen.session_id = world.good.session_id
    with pytest.raises(FailedPrecondition, match="this session has ended"):
        await world.ask(stolen, "t-good", "mine")
    stolen.session_id = world.bad.session_id
    await world.bad.open()
    with pytest.raises(FailedPrecondition, match="this session has ended"):
        await world.ask(stolen, "t-bad", "theirs")


async def test_what_is_gone_is_told(world: World) -> None:
    """An object that the task refers to and that is removed is missing, and the others are given."""
    await world.store.update(lambda tx: tx.delete(tx.secret("theirs")))
    reply = await world.ask(world.bad, "t-bad", "theirs", "shared")
    assert reply.missing == ("theirs",)
    assert set(reply.secrets) == {"shared"}


async def test_an_answer_has_a_bound(world: World) -> None:
    """What does not fit is asked for again; one object is always given, whatever its size."""
    names = [f"big-{number}" for number in range(5)]
    for name in names:
        await world.add(name, bytes(400_000))
    await world.add("huge", bytes(REPLY_BYTES + 1))
    await world.store.update(lambda tx: tx.create(task("t-big", "bad", container("huge", *names))))
    got: list[str] = []
    while missing := [name for name in ("huge", *names) if name not in got]:
        reply = await world.ask(world.bad, "t-big", *missing)
        assert reply.secrets
        assert len(reply.secrets) == 1 or sum(len(c.data) for c in reply.secrets.values()) <= REPLY_BYTES
        got.extend(reply.secrets)
    assert got == ["huge", *names]


async def test_a_node_gets_so_many_bytes(world: World) -> None:
    """It may ask for the same again and again: at some point it has to wait, and it alone."""
    await world.add("big", bytes(1_000_000))
    await world.store.update(lambda tx: tx.create(task("t-big", "bad", container("big"))))
    for _ in range(1 + int(DELIVERED.burst) // 1_000_000):
        await world.ask(world.bad, "t-big", "big")
    with pytest.raises(Unavailable, match=r"was given too much at once: again in \d"):
        await world.ask(world.bad, "t-big", "big")
    await world.ask(world.good, "t-good", "mine")
    world.clock.seconds += 1
    await world.ask(world.bad, "t-big", "big")


async def test_a_question_has_a_bound(world: World) -> None:
    """And a form."""
    with pytest.raises(InvalidArgument):
        await world.ask(world.bad, "t-bad", *(f"s{number}" for number in range(MAX_IDS + 1)))
    for junk in (None, [], {"session_id": 7}, {"session_id": "x", "task_id": "t", "secrets": "abc", "configs": 1}):
        with pytest.raises((ProtocolViolation, FailedPrecondition)):
            await world.dispatcher.dependencies(world.bad.peer, junk)


async def test_many_refusals_are_a_few_lines(world: World) -> None:
    """A node that asks for everything does not fill the log, and its texts are cut."""
    with capture_logs() as logs:
        for number in range(200):
            with pytest.raises(PermissionDenied) as caught:
                await world.ask(world.bad, "t-bad", *(f"{'x' * 1000}-{number}-{n}" for n in range(100)))
            assert len(caught.value.message) < 300
    assert len(logs) < 20
    assert max(len(str(line)) for line in logs) < 2000
