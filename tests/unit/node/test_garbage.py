"""What a large state costs the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from swarmpy.node import garbage


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


async def test_what_was_written_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Often enough, and not when little was written; a new store is counted from its beginning."""
    monkeypatch.setattr(garbage, "LOOK_S", 0.001)
    monkeypatch.setattr(garbage, "SETTLE_S", 0.0)
    calls: list[int] = []
    monkeypatch.setattr(garbage, "freeze", lambda: calls.append(written))
    written = 0
    looked = asyncio.Event()

    def count() -> int:
        looked.set()
        return written

    task = asyncio.create_task(garbage.keep_collections_short(count))
    for written in (0, 4_999, 5_000, 9_999, 10_001, 100, 5_099, 5_100, 10_200):  # noqa: B007
        for _ in range(3):
            looked.clear()
            await asyncio.wait_for(looked.wait(), 5)
    task.cancel()
    assert calls == [5_000, 10_001, 100, 5_100, 10_200]


class Half:
    """As a manager's: it refers to itself, and to a store."""

    def __init__(self) -> None:
        self.written = 0
        self.callback = self.run

    def run(self) -> None:
        """Nothing."""


async def test_a_manager_that_was_stopped_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it was frozen while it ran: its memory comes back."""
    monkeypatch.setattr(garbage, "LOOK_S", 0.001)
    monkeypatch.setattr(garbage, "SETTLE_S", 0.01)
    half: Half | None = Half()
    gone = weakref.ref(half)
    task = asyncio.create_task(garbage.keep_collections_short(lambda: half.written if half is not None else 0))
    half.written = garbage.ENOUGH_CHANGES
    async with asyncio.timeout(10):
        before = gc.get_freeze_count()
        while gc.get_freeze_count() == before:
            await asyncio.sleep(0.001)
        half = None
        while gone() is not None:
            await asyncio.sleep(0.001)
    task.cancel()


def test_frozen_objects_cost_nothing() -> None:
    """They are not among what a collection looks at."""
    kept = [[i] for i in range(10_000)]
    garbage.freeze()
    assert len(gc.get_objects()) < 10_000
    assert gc.get_freeze_count() >= 10_000
    del kept
