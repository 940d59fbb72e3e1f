"""New versions of secrets and configs: services follow, over leaders and large numbers, and old versions go."""

from __future__ import annotations

import asyncio
import itertools
import random
from contextlib import AbstractAsyncContextManager

import attrs
import pytest
from manager_world import MovedClock, at_work, make_store, until

from swarmpy.control.versions import CONFIGS, SECRETS, behind
from swarmpy.errors import InvalidArgument
from swarmpy.manager import operations, secrets
from swarmpy.manager.credentials import credentials_of
from swarmpy.manager.reconcile import Reconciler
from swarmpy.model import codec
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.objects import Service, Task, TaskStatus, UpdateStatus
from swarmpy.model.specs import (
    ConfigReference,
    ConfigSpec,
    ContainerSpec,
    FileTarget,
    SecretReference,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import TaskState, UpdateState
from swarmpy.store.memory import Store

_AT_S, _AT_C = FileTarget(name="s"), FileTarget(name="c")
_numbers = itertools.count(1)


def new_id() -> str:
    return f"id{next(_numbers):023d}"


@attrs.frozen
class World:
    clock: MovedClock
    store: Store

    async def secret(self, name: str, data: bytes = b"one") -> str:
        return await secrets.create(self.store, SECRETS, SecretSpec(name=name, data=data), new_id)

    async def config(self, name: str, data: bytes = b"one") -> str:
        return await secrets.create(self.store, CONFIGS, ConfigSpec(name=name, data=data), new_id)

    async def service(self, name: str, *, secret: str = "", config: str = "", replicas: int = 0, **spec: object) -> str:
        container = ContainerSpec(
            image="x",
            env=spec.pop("env", ()),  # type: ignore[arg-type]
            secrets=(SecretReference(secret_id=SecretId(secret), secret_name="tok", file=FileTarget(name="s")),)
            if secret
            else (),
            configs=(ConfigReference(config_id=ConfigId(config), config_name="cfg", file=FileTarget(name="c")),)
            if config
            else (),
        )
        wanted = ServiceSpec(name=name, replicas=replicas, task=TaskSpec(container=container), **spec)  # type: ignore[arg-type]
        return (await operations.create_service(self.store, wanted, new_id)).id

    def uses(self, name: str) -> str:
        """The id of the secret, or config, that a service refers to."""
        return reference_of(self.named(name).spec)

    def named(self, name: str) -> Service:
        found = self.store.view().service_by_name(name)
        assert found is not None
        return found

    def numbers(self, name: str) -> list[int]:
        return [version.number for version in self.store.view().secret_versions(name)]

    async def roll_back(self, name: str) -> None:
        service = self.named(name)
        await operations.update_service(self.store, service.id, service.meta.version, None, rollback=True)

    async def observe(self, task: Task, state: TaskState) -> None:
        def write(tx: object) -> None:
            current = tx.task(task.id)  # type: ignore[attr-defined]
            status = TaskStatus(state=state, timestamp_ns=self.clock.time_ns())
            tx.update(attrs.evolve(current, status=status, applied_at_ns=self.clock.time_ns()))  # type: ignore[attr-defined]

        await self.store.update(write)


def reference_of(spec: ServiceSpec) -> str:
    container = spec.task.container
    return (*(r.secret_id for r in container.secrets), *(r.config_id for r in container.configs))[0]


@pytest.fixture
async def world() -> World:
    """A leader's store, with nobody who looks after it."""
    clock = MovedClock()
    store, _ = await make_store(clock, "a", "b")
    await store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=codec.SCHEMA_VERSION)))
    return World(clock, store)


def reconciling(world: World) -> AbstractAsyncContextManager[None]:
    return at_work(Reconciler(store=world.store, clock=world.clock, random=random.Random(5)))


async def test_what_does_not_go_into_one_entry_follows_later(world: World) -> None:
    """However many services there are, and though the leader changes in between."""
    old = await world.secret("tok")
    names = [f"s{number:03}" for number in range(2 * secrets.MOVED_AT_ONCE + 50)]
    for name in names:
        await world.service(name, secret=old)
    made, number = await secrets.new_version(world.store, SECRETS, "tok", b"two", new_id)
    assert number == 2
    moved = [name for name in names if world.uses(name) == made]
    assert len(moved) == secrets.MOVED_AT_ONCE
    assert len(behind(world.store.view(), SECRETS, "tok")) == len(names) - len(moved)
    async with reconciling(world):
        await until(lambda: all(world.uses(name) == made for name in names))
    assert all(reference_of(world.named(name).previous_spec) == old for name in names)  # type: ignore[arg-type]
    assert world.numbers("tok") == [1, 2]


async def test_large_services_follow_to_the_largest_config(world: World) -> None:
    """The entry with the data of a megabyte takes what fits, the rest comes in entries of their own."""
    old = await world.config("cfg")
    env = tuple(f"V{number}={'x' * 1000}" for number in range(110))
    names = [f"s{number}" for number in range(12)]
    for name in names:
        await world.service(name, config=old, env=env)
    made, _ = await secrets.new_version(world.store, CONFIGS, "cfg", bytes(1000 * 1024), new_id)
    assert 0 < sum(world.uses(name) == made for name in names) < len(names)
    async with reconciling(world):
        await until(lambda: all(world.uses(name) == made for name in names))
    with pytest.raises(InvalidArgument, match="at most 1024000 bytes"):
        await secrets.new_version(world.store, CONFIGS, "cfg", bytes(1000 * 1024 + 1), new_id)


async def test_a_service_that_waits_for_its_turn_follows_with_its_update(world: World) -> None:
    """Its user read the spec before the new version was there, and means no way back."""
    old = await world.secret("tok")
    for number in range(secrets.MOVED_AT_ONCE + 1):
        await world.service(f"s{number:03}", secret=old)
    last = f"s{secrets.MOVED_AT_ONCE:03}"
    made, _ = await secrets.new_version(world.store, SECRETS, "tok", b"two", new_id)
    assert world.uses(last) == old
    service = world.named(last)
    changed = attrs.evolve(service.spec, task=attrs.evolve(service.spec.task, force_update=1))
    await operations.update_service(world.store, service.id, service.meta.version, changed)
    assert world.uses(last) == made
    assert world.named(last).spec.task.force_update == 1


async def test_who_went_back_is_left_alone(world: World) -> None:
    """By a new leader, too; the version that it went back to stays, and the next one takes it along."""
    old = await world.secret("tok")
    await world.service("web", secret=old)
    await world.service("api", secret=old)
    second, _ = await secrets.new_version(world.store, SECRETS, "tok", b"two", new_id)
    await world.roll_back("web")
    for _ in range(2):
        async with reconciling(world):
            await asyncio.sleep(0.1)
        assert (world.uses("web"), world.uses("api")) == (old, second)
        assert world.numbers("tok") == [1, 2]
    third, _ = await secrets.new_version(world.store, SECRETS, "tok", b"three", new_id)
    assert (world.uses("web"), world.uses("api")) == (third, third)
    assert reference_of(world.named("web").previous_spec) == old  # type: ignore[arg-type]
    async with reconciling(world):
        await asyncio.sleep(0.1)
        # Nobody has come to the second one for good.
        assert world.numbers("tok") == [1, 3]


async def test_a_version_that_breaks_its_service_is_left_again(world: World) -> None:
    """The automatic rollback goes back to the old data, and stays there."""
    old = await world.secret("tok")
    config = UpdateConfig(failure_action="rollback", monitor_ns=10**9, parallelism=1)
    await world.service("web", secret=old, replicas=1, update=config)

    def tasks(secret_id: str) -> list[Task]:
        found = world.store.view().tasks()
        return [t for t in found if t.desired_state is TaskState.RUNNING and reference_in(t) == secret_id]

    async with reconciling(world):
        await until(lambda: any(t.status.state is TaskState.ASSIGNED for t in tasks(old)))
        await world.observe(tasks(old)[0], TaskState.RUNNING)
        bad, _ = await secrets.new_version(world.store, SECRETS, "tok", b"bad", new_id)
        (stopping,) = [t for t in world.store.view().tasks() if reference_in(t) == old]
        await until(lambda: world.store.view().task(stopping.id).desired_state > TaskState.RUNNING)  # type: ignore[union-attr]
        await world.observe(stopping, TaskState.SHUTDOWN)
        await until(lambda: any(t.status.state is TaskState.ASSIGNED for t in tasks(bad)))
        await world.observe(tasks(bad)[0], TaskState.FAILED)
        await until(lambda: world.uses("web") == old)
        status = world.named("web").update_status
        assert status is not None
        assert status.state is UpdateState.ROLLBACK_STARTED
        await asyncio.sleep(0.1)
        assert world.uses("web") == old
        assert world.numbers("tok") == [1, 2]


def reference_in(task: Task) -> str:
    return task.spec.container.secrets[0].secret_id


async def test_an_update_is_not_rolled_back_to_what_is_gone(world: World) -> None:
    """Who removed the secret that the spec before refers to gets a pause, and no tasks that can never start."""
    old = await world.secret("tok")
    config = UpdateConfig(failure_action="rollback", monitor_ns=10**9)
    await world.service("web", secret=old, replicas=1, update=config)
    async with reconciling(world):
        await until(lambda: any(t.status.state is TaskState.ASSIGNED for t in world.store.view().tasks()))
        (first,) = world.store.view().tasks()
        service = world.named("web")
        bare = attrs.evolve(service.spec, task=TaskSpec(container=ContainerSpec(image="x")))
        await operations.update_service(world.store, service.id, service.meta.version, bare)
        await secrets.remove(world.store, SECRETS, "tok")
        await until(lambda: world.store.view().task(first.id).desired_state > TaskState.RUNNING)  # type: ignore[union-attr]
        await world.observe(first, TaskState.SHUTDOWN)

        def second() -> list[Task]:
            return [t for t in world.store.view().tasks() if t.id != first.id and t.status.state is TaskState.ASSIGNED]

        await until(lambda: bool(second()))
        await world.observe(second()[0], TaskState.FAILED)

        def is_paused() -> bool:
            status = world.named("web").update_status
            return status is not None and status.state is UpdateState.PAUSED

        await until(is_paused)
        assert not world.named("web").spec.task.container.secrets


async def test_changes_that_belong_together_are_one_step_back(world: World) -> None:
    """A secret, then a config, then the image, as a stack is deployed: the way back leads to what was before them all.

    Once the service has come there, the next change is one of its own.
    """
    tok, cfg = await world.secret("tok"), await world.config("cfg")
    await world.service("web", secret=tok, config=cfg)
    first = world.named("web").spec
    await secrets.new_version(world.store, SECRETS, "tok", b"two", new_id)
    await secrets.new_version(world.store, CONFIGS, "cfg", b"two", new_id)
    service = world.named("web")
    assert service.previous_spec == first
    container = attrs.evolve(service.spec.task.container, image="y")
    changed = attrs.evolve(service.spec, task=attrs.evolve(service.spec.task, container=container))
    await operations.update_service(world.store, service.id, service.meta.version, changed)
    assert world.named("web").previous_spec == first
    await secrets.new_version(world.store, SECRETS, "tok", b"three", new_id)
    # The image was not a version, so this is a change after a change.
    assert world.named("web").previous_spec == changed
    done = UpdateStatus(state=UpdateState.COMPLETED)
    await world.store.update(lambda tx: tx.update(attrs.evolve(world.named("web"), update_status=done)))
    third = world.named("web").spec
    await secrets.new_version(world.store, SECRETS, "tok", b"four", new_id)
    assert world.named("web").previous_spec == third


async def test_old_versions_go_when_nobody_needs_them(world: World) -> None:
    """No spec, no spec before, and no task that is not over: in this order here."""
    first = await world.secret("tok")
    await world.service("web", secret=first, replicas=1)
    async with reconciling(world):
        await until(lambda: any(t.status.state is TaskState.ASSIGNED for t in world.store.view().tasks()))
        (task,) = world.store.view().tasks()
        await secrets.new_version(world.store, SECRETS, "tok", b"two", new_id)
        # The update has begun, and does not begin again.
        await until(lambda: world.store.view().task(task.id).desired_state > TaskState.RUNNING)  # type: ignore[union-attr]
        done = UpdateStatus(state=UpdateState.COMPLETED)
        await world.store.update(lambda tx: tx.update(attrs.evolve(world.named("web"), update_status=done)))
        await secrets.new_version(world.store, SECRETS, "tok", b"three", new_id)
        # No service refers to the first one any more, and its task still does.
        assert world.numbers("tok") == [1, 2, 3]
        await world.observe(task, TaskState.SHUTDOWN)
        await until(lambda: world.numbers("tok") == [2, 3])
        await operations.remove_service(world.store, "web")
        await until(lambda: not world.store.view().services() or bool(world.store.view().tasks()))
        for left in world.store.view().tasks():
            await world.observe(
                left, TaskState.REMOVE if left.status.state < TaskState.ASSIGNED else TaskState.SHUTDOWN
            )
        await until(lambda: world.numbers("tok") == [3])


async def test_a_new_leader_removes_what_the_last_one_left(world: World) -> None:
    """Nothing tells it: it looks at everything once."""
    old = await world.secret("tok")
    await secrets.new_version(world.store, SECRETS, "tok", b"two", new_id)
    assert world.store.view().secret(old) is not None
    async with reconciling(world):
        await until(lambda: world.numbers("tok") == [2])


async def test_credentials_go_with_the_last_reference(world: World) -> None:
    """Those of a spec, and of the one before; and of a service that is removed."""
    wanted = ServiceSpec(name="web", replicas=0, task=TaskSpec(container=ContainerSpec(image="x")))
    service = await operations.create_service(world.store, wanted, new_id, registry_auth=b'{"password":"1"}')

    def data() -> list[bytes]:
        return [secret.spec.data for secret in world.store.view().secrets()]

    async with reconciling(world):
        for number in (2, 3):
            current = world.named("web")
            auth = b'{"password":"%d"}' % number
            await operations.update_service(
                world.store, service.id, current.meta.version, wanted, credentials=credentials_of(auth, new_id)
            )
        await until(lambda: data() == [b'{"password":"2"}', b'{"password":"3"}'])
        await operations.remove_service(world.store, "web")
        await until(lambda: data() == [])
