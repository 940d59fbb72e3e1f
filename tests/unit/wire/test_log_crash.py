"""Power cuts at any moment and bit rot at any place, over the real log: the exact state, or a refusal.

``SWARMPY_CRASH_EXAMPLES`` sets how many histories are played (12).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_images import KEYS, FilmedLog, Photo, images, last_transaction, opened
from test_log_contract import entry, snapshot

from swarmpy.errors import DataDirMismatch, LogCorrupted
from swarmpy.raft.messages import Entry, HardState
from swarmpy.raft.storage import MemoryStorage, StoredState
from swarmpy.security.sealing import KeyRing
from swarmpy.wire import log as module
from swarmpy.wire.log_files import WAL

EXAMPLES = int(os.environ.get("SWARMPY_CRASH_EXAMPLES", "12"))
MEMORY = Path("/dev/shm")
laws = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 12,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@attrs.frozen
class Append:
    """Entries from ``back`` before the end of the log on."""

    back: int
    count: int
    size: int
    votes: bool


@attrs.frozen
class TakeSnapshot:
    """A snapshot at ``back`` before the end, of which ``keep`` entries stay."""

    back: int
    keep: int
    size: int


@attrs.frozen
class Reseal:
    """The next key is used, and all that is there is sealed with it."""


Step = Append | TakeSnapshot | Reseal
SIZES = st.sampled_from((0, 7, 300, 3000, 9000))
STEPS = st.one_of(
    st.builds(Append, st.integers(0, 3), st.integers(0, 4), SIZES, st.booleans()),
    st.builds(Append, st.just(0), st.integers(1, 4), SIZES, st.booleans()),
    st.builds(TakeSnapshot, st.integers(0, 3), st.integers(0, 3), SIZES),
    st.builds(Reseal),
)
HISTORIES = st.lists(STEPS, min_size=1, max_size=8)


class Played:
    """A history played on the real log and on the one in memory."""

    def __init__(self) -> None:
        self.moments: list[tuple[list[Photo], StoredState, StoredState]] = []
        """Of every step: the photos, and what was stored before and after."""

    @property
    def last(self) -> tuple[Photo, StoredState]:
        """The end: everything is acknowledged."""
        photos, _, state = self.moments[-1]
        return photos[-1], state

    async def play(self, steps: list[Step], directory: Path, patch: pytest.MonkeyPatch) -> None:
        """Play all steps; the log is closed afterwards."""
        # Of a version without keys, or sealed from the beginning.
        keys = len(steps) % 2
        log, model = FilmedLog(directory, patch, KeyRing(KEYS[:keys]) if keys else None), MemoryStorage()
        term = 1
        try:
            for number, step in enumerate([None, *steps], 1):
                before = await model.load()
                if number > 1:
                    log.photo()
                if step is None:
                    await log.load()
                elif isinstance(step, Reseal):
                    keys += 1
                    await log.use(KeyRing(KEYS[:keys], takes_plain=True))
                    await log.reseal()
                elif isinstance(step, Append):
                    term += step.votes
                    await self._append(step, term, before, (log, model))
                else:
                    await self._take(step, before, (log, model))
                log.photo()
                self.moments.append((log.photos, before, await model.load()))
                log.photos = []
        finally:
            await log.close()

    async def _append(self, step: Append, term: int, before: StoredState, logs: tuple[Any, Any]) -> None:
        base = before.snapshot.index if before.snapshot else 0
        last = before.entries[-1].index if before.entries else base
        first = max(base + 1, last + 1 - step.back)
        new = [entry(index, term, bytes([index % 256]) * step.size) for index in range(first, first + step.count)]
        hard_state = HardState(term=term, vote=term % 3, commit=base) if step.votes else None
        for log in logs:
            await log.append(hard_state, new)

    async def _take(self, step: TakeSnapshot, before: StoredState, logs: tuple[Any, Any]) -> None:
        at: Entry | None = before.entries[-1 - step.back] if len(before.entries) > step.back else None
        index, term = (at.index, at.term) if at else (20 + step.back, 1)
        for log in logs:
            await log.save_snapshot(snapshot(index, term, bytes([index % 256]) * step.size), max(1, index - step.keep))


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """Where fsync costs nothing, if there is such a place."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


COUNT = itertools.count()


def played(steps: list[Step], room: Path) -> Played:
    """The history on a log that makes a checkpoint every few pages."""
    history = Played()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHECKPOINT_BYTES", 40_000)
        asyncio.run(history.play(steps, room / f"{next(COUNT)}" / "raft", patch))
    return history


@laws
@given(HISTORIES, st.randoms(use_true_random=False))
def test_a_power_cut_leaves_the_last_state_or_the_next(room: Path, steps: list[Step], random: Random) -> None:
    """Whatever the disk has of the write under way, opening gives that write whole or not at all, and never fails."""

    async def check() -> None:
        for photos, before, after in history.moments:
            for one, next_one in itertools.pairwise(photos):
                for image in images(one, next_one, random, 2):
                    state = await opened(image, room / f"{next(COUNT)}" / "raft")
                    assert state in (before, after)
            assert await opened(photos[-1], room / f"{next(COUNT)}" / "raft") == after

    history = played(steps, room)
    asyncio.run(check())


@laws
@given(HISTORIES, st.randoms(use_true_random=False))
def test_a_flipped_bit_is_noticed_or_harmless(room: Path, steps: list[Step], random: Random) -> None:
    """A bit that flips in acknowledged data gives the exact state or a refusal, never another state.

    Except in the last transaction of the WAL, where it looks like a torn write.
    """

    async def check() -> None:
        for _ in range(30):
            names = sorted(name for name in photo if photo[name])
            name = random.choice(names)
            end = last_transaction(photo[name]) if name == WAL else len(photo[name])
            place = random.randrange(end)
            data = bytearray(photo[name])
            data[place] ^= 1 << random.randrange(8)
            try:
                found = await opened({**photo, name: bytes(data)}, room / f"{next(COUNT)}" / "raft")
            except (LogCorrupted, DataDirMismatch):
                continue
            assert found == state, f"{name} at {place}"

    photo, state = played(steps, room).last
    asyncio.run(check())
