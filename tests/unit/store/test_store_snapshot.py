"""Snapshots: the state as of the call, the same on every manager, refused when damaged."""

from __future__ import annotations

import asyncio

import pytest
from store_world import FixedClock, InstantProposer, LateProposer, content, node, service, task

from swarmpy.errors import DataDirMismatch, LogCorrupted
from swarmpy.model import codec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx


def fill(tx: Tx) -> None:
    """A node, a service and its tasks."""
    tx.create(node("n"))
    tx.create(service("web", labels={"a": "b"}))
    for i in range(500):
        tx.create(
            task(f"t{i:03}", "id-web", slot=i + 1, node_id=NodeId("n"), service_name="web", service_labels={"a": "b"})
        )


@pytest.fixture
async def store() -> Store:
    """A store with a few hundred objects."""
    store = Store(FixedClock())
    store.set_proposer(InstantProposer(store))
    await store.update(fill)
    return store


def restored(data: bytes) -> Store:
    """A new store with the state of a snapshot."""
    store = Store(FixedClock())
    store.restore(data)
    return store


async def test_a_snapshot_holds_everything(store: Store) -> None:
    """What is restored has the same objects, order, indexes and version, and the same snapshot."""
    data = await store.snapshot()
    copy = restored(data)
    assert copy.version == store.version == 1
    assert content(copy) == content(store)
    assert list(content(copy)) == list(content(store))
    view = copy.view()
    assert view.service_by_name("web") is not None
    assert len(view.tasks_of_service("id-web")) == len(view.tasks_on_node("n")) == 500
    assert [t.id for t in view.tasks_of_slot("id-web", 7)] == ["t006"]
    assert await copy.snapshot() == data


async def test_a_snapshot_is_the_state_at_the_call(store: Store) -> None:
    """Writes between the call and the end of the encoding are not in it, and the loop goes on meanwhile."""
    before = content(store)
    running = store.snapshot()
    await store.update(lambda tx: tx.create(node("before the await")))
    encoding = asyncio.create_task(running)
    await asyncio.sleep(0)
    assert not encoding.done()
    await store.update(lambda tx: tx.delete(task("t000", "id-web")))
    assert content(restored(await encoding)) == before


async def test_what_is_in_flight_is_in_no_snapshot() -> None:
    """Only committed state is written."""
    store = Store(FixedClock())
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    running = asyncio.create_task(store.update(lambda tx: tx.create(node("a"))))
    await asyncio.sleep(0)
    assert content(restored(await store.snapshot())) == {}
    proposer.commit()
    await running


async def test_damage_is_noticed_and_changes_nothing(store: Store) -> None:
    """A snapshot that is cut, empty or garbled is LogCorrupted, one of a newer schema DataDirMismatch."""
    data = await store.snapshot()
    copy = restored(data)
    before = content(copy)
    frames_end = len(data)
    for damaged in (b"", data[:1], data[: frames_end // 2], data[:-1], data[:5] + b"\xff\xff" + data[7:]):
        with pytest.raises(LogCorrupted):
            copy.restore(damaged)
    with pytest.raises(DataDirMismatch, match="upgrade it"):
        copy.restore(bytes([codec.SCHEMA_VERSION + 1]) + data[1:])
    assert content(copy) == before


async def test_tasks_share_what_is_equal(store: Store) -> None:
    """One TaskSpec, one set of labels and one id string serve all tasks of a service, applied or restored."""
    follower = Store(FixedClock())
    leader = Store(FixedClock())
    proposer = LateProposer(leader, follower)
    leader.set_proposer(proposer)
    running = asyncio.create_task(leader.update(fill))
    await asyncio.sleep(0)
    proposer.commit()
    await running
    for one in (leader, follower, restored(await store.snapshot())):
        tasks: tuple[Task, ...] = one.view().tasks()
        for shared in (
            {id(t.spec) for t in tasks},
            {id(t.service_labels) for t in tasks},
            {id(t.service_id) for t in tasks},
            {id(t.node_id) for t in tasks},
        ):
            assert len(shared) == 1
