"""Long lists: whole, in order, and never in the way of the loop for long."""

from __future__ import annotations

import asyncio
import json

import attrs

from swarmpy.api.listing import SLICE_OBJECTS, JsonCache, json_array, to_bytes


@attrs.frozen
class Thing:
    """An object of a store."""

    id: str
    value: int = 0


async def test_a_long_list_gives_way_between_slices() -> None:
    """Others get their turn once a slice, and the list is whole and in order."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    count = 10 * SLICE_OBJECTS + 1
    answer = await json_array(range(count), lambda n: to_bytes(n) if n % 2 else None)
    task.cancel()
    assert json.loads(answer.body) == list(range(1, count, 2))
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert turns >= 10


async def test_no_items() -> None:
    """An empty list is a list."""
    assert (await json_array((), to_bytes)).body == b"[]\n"


def test_a_cache_knows_an_object_and_not_its_id() -> None:
    """The same object is written down once; another one of its id anew, even if it is equal."""
    asked: list[Thing] = []

    def to_json(thing: Thing) -> dict[str, int]:
        asked.append(thing)
        return {"value": thing.value}

    cache = JsonCache(to_json, limit=2)
    one, changed = Thing("a", 1), Thing("a", 2)
    assert [cache.get(one), cache.get(one), cache.get(changed), cache.get(one)] == [
        b'{"value": 1}',
        b'{"value": 1}',
        b'{"value": 2}',
        b'{"value": 1}',
    ]
    assert asked == [one, changed, one]


def test_a_cache_forgets_what_was_not_asked_for_longest() -> None:
    """It holds its limit."""
    asked: list[str] = []
    cache = JsonCache(lambda thing: asked.append(thing.id), limit=2)
    a, b, c = Thing("a"), Thing("b"), Thing("c")
    for thing in (a, b, a, c, a, b):
        cache.get(thing)
    assert asked == ["a", "b", "c", "b"]
