"""Snapshots: the state as of the call, the same on every manager, refused when damaged."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from loop import SimLoop, run
from store_world import FixedClock, InstantProposer, LateProposer, cluster, config, content, node, secret, service, task

from swarmpy.errors import DataDirMismatch, LogCorrupted
from swarmpy.model import codec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.requests import RequestId
from swarmpy.store.memory import Store
from swarmpy.store.snapshot import PAUSE_S, SLICE_BYTES, SLICE_OBJECTS
from swarmpy.store.transaction import Tx

GOLDEN_HEX = (
    "010000003082a776657273696f6e01a6636f756e747384a7636c757374657200a46e6f646501a77365727669636501a47461"
    "736b010000004b82a46b696e64a46e6f6465a76f626a656374739182a26964a16ea46d65746183a776657273696f6e01ad63"
    "7265617465645f61745f6e73cd03e8ad757064617465645f61745f6e73cd03e80000008d82a46b696e64a773657276696365"
    "a76f626a656374739184a26964a669642d776562a47370656382a46e616d65a3776562a47461736b81a9636f6e7461696e65"
    "7281a5696d616765a56e67696e78a46d65746183a776657273696f6e01ad637265617465645f61745f6e73cd03e8ad757064"
    "617465645f61745f6e73cd03e8ac737065635f76657273696f6e010000008082a46b696e64a47461736ba76f626a65637473"
    "9185a26964a174a47370656381a9636f6e7461696e657281a5696d616765a56e67696e78aa736572766963655f6964a66964"
    "2d776562a46d65746183a776657273696f6e01ad637265617465645f61745f6e73cd03e8ad757064617465645f61745f6e73"
    "cd03e8a4736c6f7401"
)
"""Schema version 1: a node, a service and a task."""


def fill(tx: Tx) -> None:
    """A node, a service and its tasks."""
    tx.create(node("n"))
    tx.create(service("web", labels={"a": "b"}))
    for i in range(500):
        fields = {
            "node_id": NodeId("n"),
            "service_name": "web",
            "service_labels": {"a": "b"},
            "status": TaskStatus(timestamp_ns=i + 1),
        }
        tx.create(task(f"t{i:03}", "id-web", slot=i + 1, **fields))


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
    store.restore_at_once(data)
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
    assert view.tasks_waiting() == store.view().tasks_waiting()
    assert view.services_on_port("tcp", 8080) == store.view().services_on_port("tcp", 8080)
    assert await copy.snapshot() == data


async def test_restoring_gives_way_to_the_loop(store: Store) -> None:
    """Others get their turn between slices; the state is the old one until all of the new one is there."""
    data = await store.snapshot()
    copy = Store(FixedClock())
    restoring = asyncio.create_task(copy.restore(data))
    turns = 0
    while not restoring.done():
        assert content(copy) in ({}, content(store))
        turns += 1
        await asyncio.sleep(0)
    assert turns > 3
    assert content(copy) == content(store)


def test_taking_one_leaves_the_core_to_others() -> None:
    """It pauses after each slice, so a kernel that shares a core out does not make this manager wait for its turn."""

    async def main(loop: SimLoop) -> float:
        store = Store(FixedClock())
        store.set_proposer(InstantProposer(store))
        await store.update(fill)
        began = loop.now
        await store.snapshot()
        return loop.now - began

    assert run(1, main) == pytest.approx(500 // SLICE_OBJECTS * PAUSE_S)


async def test_what_is_gone_is_let_go_of_slice_by_slice(store: Store) -> None:
    """Nothing is left to be freed in one step at the end: what was encoded and is no more is freed on the way."""
    # A task has no weak references, but a status that it alone has.
    tasks = [weakref.ref(task.status) for task in store.view().tasks()]
    parts = store.parts()
    await store.update(lambda tx: [tx.delete(task) for task in tx.tasks()] and None)
    gc.collect()
    assert all(task() is not None for task in tasks)
    for _ in range(1 + 1 + 1 + 4):  # the header, a node, a service, and slices of tasks
        await anext(parts)
    gone = [task() is None for task in tasks]
    assert gone == sorted(gone, reverse=True)
    assert 2 * SLICE_OBJECTS <= gone.count(True) <= 4 * SLICE_OBJECTS
    assert [part async for part in parts]


async def test_old_snapshots_are_read_for_ever() -> None:
    """One of schema version 1 is restored, and written the same again."""
    old = restored(bytes.fromhex(GOLDEN_HEX))
    assert sorted(content(old)) == ["id-web", "n", "t"]
    assert (await old.snapshot()).hex() == GOLDEN_HEX


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
    await store.update(lambda tx: tx.create(node("r")), request=RequestId(session="client", sequence=1))
    data = await store.snapshot()
    copy = restored(data)
    before = content(copy)
    frames_end = len(data)
    for damaged in (
        b"",
        data[:1],
        data[: frames_end // 2],
        data[:-1],
        data[: data.rindex(b"answers") - 6],
        data[:5] + b"\xff\xff" + data[7:],
    ):
        with pytest.raises(LogCorrupted):
            await copy.restore(damaged)
        with pytest.raises(LogCorrupted):
            copy.restore_at_once(damaged)
    with pytest.raises(DataDirMismatch, match="upgrade it"):
        await copy.restore(bytes([codec.SCHEMA_VERSION + 1]) + data[1:])
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


async def test_large_objects_come_in_small_slices() -> None:
    """A slice is bounded by its bytes, too: 64 configs of a megabyte would hold the loop for long."""
    store = Store(FixedClock())
    store.set_proposer(InstantProposer(store))
    await store.update(lambda tx: tx.create(cluster()))
    for number in range(10):
        await store.update(
            lambda tx, number=number: tx.create(config(f"c{number}", f"n{number}", data=bytes(1000 * 1024)))
        )
    for number in range(100):
        await store.update(lambda tx, number=number: tx.create(secret(f"x{number}", f"n{number}", data=b"x" * 10_000)))
    sizes = [len(part) async for part in store.parts()]
    assert max(sizes) < 1000 * 1024 + 4096
    assert sum(size > 1000 * 1024 for size in sizes) == 10
    assert sum(SLICE_BYTES // 2 < size < SLICE_BYTES + 10_000 for size in sizes) == 4
    copy = restored(await store.snapshot())
    assert content(copy) == content(store)
    assert copy.view().config_by_name("n3") is copy.view().config("c3")
    assert copy.view().secret_by_name("n7") is copy.view().secret("x7")


async def test_many_small_objects_are_counted_all_the_same() -> None:
    """What has little data comes as many at a time as everything else."""
    store = Store(FixedClock())
    store.set_proposer(InstantProposer(store))
    await store.update(lambda tx: tx.create(cluster()))
    for number in range(130):
        await store.update(lambda tx, number=number: tx.create(secret(f"x{number}", f"n{number}", data=b"x")))
    parts = [part async for part in store.parts()]
    assert len(parts) == 2 + 3
