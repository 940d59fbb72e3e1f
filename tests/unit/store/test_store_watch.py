"""Watches: one tuple an entry, bounded, and never silent about a loss."""

from __future__ import annotations

import asyncio

import pytest
from store_world import FixedClock, InstantProposer, node, service, task

from swarmpy.model.changes import Action
from swarmpy.model.objects import Kind
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.watch import Event, Resync


@pytest.fixture
def store() -> Store:
    """A store whose proposals commit at once."""
    store = Store(FixedClock())
    store.set_proposer(InstantProposer(store))
    return store


def pair(tx: Tx) -> None:
    """Create a service and its task in one transaction."""
    tx.create(service("web"))
    tx.create(task("t", "id-web"))


async def test_one_tuple_for_each_entry(store: Store) -> None:
    """All events of one transaction come together, with the old and the new object."""
    with store.watch() as watch:
        await store.update(pair)
        await store.update(lambda tx: tx.delete(task("t", "id-web")))
        first, second = watch.poll(), watch.poll()
        assert watch.poll() == ()
    assert [(e.action, e.kind, e.id, e.version) for e in first if isinstance(e, Event)] == [
        (Action.CREATE, Kind.SERVICE, "id-web", 1),
        (Action.CREATE, Kind.TASK, "t", 1),
    ]
    (deletion,) = second
    assert isinstance(deletion, Event)
    created = first[1]
    assert isinstance(created, Event)
    assert (deletion.object, deletion.old) == (None, created.object)


async def test_only_the_wanted_kinds(store: Store) -> None:
    """A watch of nodes hears nothing of services."""
    with store.watch({Kind.NODE}) as watch:
        await store.update(pair)
        await store.update(lambda tx: tx.create(node("a")))
        assert [e.id for e in watch.poll() if isinstance(e, Event)] == ["a"]
        assert watch.poll() == ()


async def test_a_slow_watcher_gets_one_resync(store: Store) -> None:
    """On overflow all queued events become one Resync, and later events follow it."""
    with store.watch(limit=2) as watch:
        for name in "abc":
            await store.update(lambda tx, name=name: tx.create(node(name)))
        await store.update(lambda tx: tx.create(node("d")))
        assert watch.poll() == (Resync(version=3),)
        assert [e.id for e in watch.poll() if isinstance(e, Event)] == ["d"]
        assert watch.poll() == ()


async def test_async_for_waits_and_ends(store: Store) -> None:
    """The iterator waits for the next entry and ends when its block is left."""
    seen: list[str] = []
    watch = store.watch()

    async def follow() -> None:
        async for events in watch:
            seen.extend(event.id for event in events if isinstance(event, Event))

    with watch:
        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        await store.update(lambda tx: tx.create(node("a")))
        await asyncio.sleep(0)
        await store.update(lambda tx: tx.create(node("b")))
    await following
    assert seen == ["a", "b"]
    await store.update(lambda tx: tx.create(node("c")))
    assert watch.poll() == ()


async def test_wait_tells_whether_there_is_something(store: Store) -> None:
    """Waiting ends with the first event or with its timeout, and takes nothing."""
    with store.watch() as watch:
        assert not await watch.wait(timeout=0.001)
        waiting = asyncio.create_task(watch.wait(timeout=5))
        await asyncio.sleep(0)
        await store.update(lambda tx: tx.create(node("a")))
        assert await waiting
        assert await watch.wait(timeout=0)
        assert len(watch.poll()) == 1


async def test_a_restore_is_a_resync(store: Store) -> None:
    """After the whole state was replaced everything must be read anew."""
    await store.update(lambda tx: tx.create(node("a")))
    data = await store.snapshot()
    with store.watch({Kind.TASK}) as watch:
        await store.restore(data)
        assert watch.poll() == (Resync(version=1),)
