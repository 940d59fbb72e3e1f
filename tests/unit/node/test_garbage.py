"""What a large state costs the garbage collector."""

from __future__ import annotations

import asyncio
import gc

import pytest

from swarmpy.node import garbage


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


async def test_what_was_written_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Often enough, and not when little was written; a new store is counted from its beginning."""
    monkeypatch.setattr(garbage, "LOOK_S", 0.001)
    calls: list[int] = []
    monkeypatch.setattr(garbage, "freeze", lambda: calls.append(written))
    written = 0
    looked = asyncio.Event()

    def count() -> int:
        looked.set()
        return written

    task = asyncio.create_task(garbage.keep_collections_short(count))
    for written in (0, 4_999, 5_000, 9_999, 10_001, 100, 5_099, 5_100, 10_200):  # noqa: B007
        for _ in range(2):
            looked.clear()
            await asyncio.wait_for(looked.wait(), 5)
    task.cancel()
    assert calls == [5_000, 10_001, 5_099, 10_200]


def test_frozen_objects_cost_nothing() -> None:
    """They are not among what a collection looks at."""
    kept = [[i] for i in range(10_000)]
    garbage.freeze()
    assert len(gc.get_objects()) < 10_000
    assert gc.get_freeze_count() >= 10_000
    del kept
