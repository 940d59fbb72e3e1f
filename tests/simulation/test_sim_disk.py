"""The simulated disk: what it keeps, what it loses, and that it lies only in the ways a disk does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from disk import SimDisk
from loop import SimLoop, run

from swarmpy.errors import LogCorrupted, StorageError
from swarmpy.raft.messages import ConfState, Entry, HardState, Snapshot
from swarmpy.raft.storage import StoredState

SEEDS = range(60)


def written(disk: SimDisk, first: int, last: int) -> Awaitable[None]:
    """Appends entries of several sectors in one call."""
    entries = [Entry(term=1, index=index, data=bytes(700)) for index in range(first, last + 1)]
    return disk.append(HardState(term=1, commit=first), entries)


def last_of(state: StoredState) -> int:
    """The index of the last entry."""
    return state.entries[-1].index if state.entries else 0


async def power_cut(loop: SimLoop, disk: SimDisk) -> tuple[int, int]:
    """Writes until the power goes; returns what was acknowledged, and the end of what was being written then."""
    acknowledged, asked = 0, 0

    async def write() -> None:
        nonlocal acknowledged, asked
        for first in range(1, 1000, 3):
            asked = first + 2
            await written(disk, first, asked)
            acknowledged = asked

    writer = asyncio.create_task(write())
    await asyncio.sleep(loop.random.uniform(0.01, 0.3))
    disk.crash()
    writer.cancel()
    await asyncio.wait([writer])
    return acknowledged, asked


def in_universes(play: Callable[[SimLoop], Awaitable[Counter[str]]]) -> Counter[str]:
    """Plays in many universes; returns what happened in all of them."""
    total: Counter[str] = Counter()

    async def main(loop: SimLoop) -> Counter[str]:
        return await play(loop)

    for seed in SEEDS:
        total += run(seed, main)
    return total


def test_a_crash_leaves_the_last_write_whole_or_not_at_all() -> None:
    """What was acknowledged is there after a crash, and the write under way is there whole, torn and cut, or not."""

    async def play(loop: SimLoop) -> Counter[str]:
        disk = SimDisk(loop)
        acknowledged, asked = await power_cut(loop, disk)
        state = await disk.load()
        assert last_of(state) in (acknowledged, asked)
        assert state.hard_state.commit == max(0, last_of(state) - 2)
        assert len(state.entries) == last_of(state)
        return disk.events

    events = in_universes(play)
    assert min(events["torn"], events["landed"], events["lost"]) > 0
    assert events["cut"] == events["torn"]


def test_a_failed_sync_ends_all_writing() -> None:
    """After a failed sync nothing is written in this life; the next one finds that write whole or not at all."""

    async def play(loop: SimLoop) -> Counter[str]:
        disk = SimDisk(loop)
        await written(disk, 1, 3)
        disk.options.failure = 1.0
        with pytest.raises(StorageError, match="failed to sync"):
            await written(disk, 4, 6)
        disk.options.failure = 0.0
        with pytest.raises(StorageError, match="failed before"):
            await written(disk, 7, 9)
        assert disk.has_failed
        disk.crash()
        assert not disk.has_failed
        assert last_of(await disk.load()) in (3, 6)
        return disk.events

    events = in_universes(play)
    assert min(events["torn"], events["landed"], events["lost"]) > 0


def test_a_full_disk_stores_nothing() -> None:
    """A full disk refuses, also to be loaded, and has exactly what was acknowledged when there is room again."""

    async def main(loop: SimLoop) -> None:
        disk = SimDisk(loop)
        await written(disk, 1, 3)
        disk.options.full = True
        with pytest.raises(StorageError, match="full"):
            await written(disk, 4, 6)
        disk.crash()
        with pytest.raises(StorageError, match="full"):
            await disk.load()
        disk.options.full = False
        assert last_of(await disk.load()) == 3

    run(0, main)


def test_rot_is_found_at_the_start() -> None:
    """Damage before the last write is never loaded; another disk in its place is an empty one."""

    async def play(loop: SimLoop) -> Counter[str]:
        disk = SimDisk(loop)
        assert not disk.rot()
        for index in range(1, 2 + loop.random.randrange(1, 100)):
            await written(disk, index, index)
        assert disk.rot()
        disk.crash()
        for _ in range(2):
            with pytest.raises(LogCorrupted):
                await disk.load()
            assert disk.has_failed
        disk.crash()
        disk.wipe()
        assert (await disk.load()).is_empty
        return disk.events

    assert in_universes(play)["found rotten"] == 2 * len(SEEDS)


def test_the_last_write_does_not_rot() -> None:
    """Only what can be noticed rots: damage in the last write would look like a torn one."""

    async def main(loop: SimLoop) -> None:
        disk = SimDisk(loop)
        await written(disk, 1, 3)
        assert not disk.rot()

    run(0, main)


def test_a_stall_takes_seconds() -> None:
    """A disk that stalls answers all the same, in virtual seconds."""

    async def main(loop: SimLoop) -> None:
        disk = SimDisk(loop)
        disk.options.stall = 1.0
        await written(disk, 1, 3)
        assert loop.time() >= 1.0
        assert disk.events["stalled"] == 1

    run(0, main)


def test_the_newest_snapshot_is_read_back() -> None:
    """A snapshot can be read as soon as it is stored, and after a crash."""

    async def main(loop: SimLoop) -> None:
        disk = SimDisk(loop)
        await written(disk, 1, 9)
        for index in (3, 6):
            await disk.save_snapshot(Snapshot(index=index, term=1, conf=ConfState(), data=b"x" * 5000), index)
        for _ in range(2):
            found = await disk.read_snapshot()
            assert found is not None
            assert found.index == 6
            disk.crash()
            assert [entry.index for entry in (await disk.load()).entries] == [6, 7, 8, 9]

    run(0, main)
