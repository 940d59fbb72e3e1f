"""The log on a disk that is really full, and under a kernel that really fails to sync."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import SmallDisk, fail_every_sync, missing, mounted
from test_log_contract import entry, snapshot

from swarmpy.errors import StorageError
from swarmpy.raft.messages import Entry, HardState
from swarmpy.raft.storage import StoredState
from swarmpy.wire import log as module
from swarmpy.wire.log import SqliteLog


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of a megabyte."""
    with mounted(tmp_path / "small") as disk:
        yield disk


async def stored(directory: Path) -> StoredState:
    """What a new process finds."""
    log = SqliteLog(directory)
    try:
        return await log.load()
    finally:
        await log.close()


async def fill(log: SqliteLog, first: int) -> list[Entry]:
    """Appends until it fails; returns what was acknowledged."""
    written: list[Entry] = []

    async def append_all() -> None:
        for index in range(first, first + 100):
            await log.append(HardState(term=1, vote=1), [entry(index, data=bytes(50_000))])
            written.append(entry(index, data=bytes(50_000)))

    with pytest.raises(StorageError, match=r"full.*check the disk"):
        await append_all()
    return written


async def stays_closed(log: SqliteLog) -> None:
    """Checks that nothing is written any more."""
    with pytest.raises(StorageError):
        await log.append(HardState(term=9, vote=9), [])
    await log.close()


async def test_full_during_an_append(small) -> None:
    """What was acknowledged is there when there is room again, no more and no less."""
    small.fill(leave=500_000)
    log = SqliteLog(small.path / "raft")
    await log.load()
    written = await fill(log, 1)
    await stays_closed(log)
    small.free()
    state = await stored(small.path / "raft")
    assert written
    assert state == StoredState(hard_state=HardState(term=1, vote=1), entries=tuple(written))


async def test_full_during_a_checkpoint(small, monkeypatch) -> None:
    """A checkpoint that finds no room ends the log; what was acknowledged is in the WAL still."""
    monkeypatch.setattr(module, "CHECKPOINT_BYTES", 250_000)
    small.fill(leave=400_000)
    log = SqliteLog(small.path / "raft")
    await log.load()
    written = await fill(log, 1)
    await stays_closed(log)
    small.free()
    state = await stored(small.path / "raft")
    # The append whose checkpoint failed was stored, and not acknowledged.
    assert state.entries[: len(written)] == tuple(written)
    assert len(state.entries) in (len(written), len(written) + 1)


async def test_full_during_a_snapshot(small) -> None:
    """A snapshot that finds no room ends the log; the older snapshot and all entries are there afterwards."""
    log = SqliteLog(small.path / "raft")
    await log.load()
    await log.append(HardState(term=1, vote=1, commit=3), [entry(1), entry(2), entry(3)])
    await log.save_snapshot(snapshot(1), 1)
    small.fill(leave=20_000)
    with pytest.raises(StorageError, match=r"No space left.*check the disk"):
        await log.save_snapshot(snapshot(2, data=bytes(100_000)), 3)
    await stays_closed(log)
    small.free()
    state = await stored(small.path / "raft")
    assert (state.snapshot, len(state.entries)) == (snapshot(1), 3)
    assert not list((small.path / "raft").glob("*.tmp"))


async def test_a_snapshot_that_found_no_room_takes_none(small) -> None:
    """What was written of it is removed: the log can be opened again in the room that there was before."""
    log = SqliteLog(small.path / "raft")
    await log.load()
    await log.append(HardState(term=1, vote=1, commit=2), [entry(1), entry(2)])
    small.fill(leave=60_000)
    with pytest.raises(StorageError, match="No space left"):
        await log.save_snapshot(snapshot(2, data=bytes(200_000)), 3)
    await stays_closed(log)
    assert not list((small.path / "raft").glob("*.tmp"))
    assert len((await stored(small.path / "raft")).entries) == 2


async def test_leftovers_make_room(small) -> None:
    """What a killed process left half written does not keep the next one from opening the log."""
    log = SqliteLog(small.path / "raft")
    await log.load()
    await log.append(HardState(term=1, vote=1), [entry(1)])
    await log.close()
    small.fill(leave=60_000)
    with (small.path / "raft" / "0000000000000001-0000000000000001.tmp").open("wb", buffering=0) as leftover:
        leftover.write(bytes(200_000))
    assert (await stored(small.path / "raft")).entries == (entry(1),)
    assert not list((small.path / "raft").glob("*.tmp"))


@pytest.mark.parametrize("leave", range(0, 60_000, 4096))
async def test_full_from_the_beginning(small, leave) -> None:
    """Where there is no room for a log there is none: it can be begun when there is room."""
    small.fill(leave=leave)
    log = SqliteLog(small.path / "raft")
    acknowledged = 0
    try:
        await log.load()
        await log.append(HardState(term=1, vote=1), ())
        acknowledged = 1
    except StorageError as error:
        assert "check the disk" in str(error)  # noqa: PT017
    await log.close()
    small.free()
    state = await stored(small.path / "raft")
    assert acknowledged <= state.hard_state.term <= 1
    assert state.entries == ()


async def test_full_at_the_start(small) -> None:
    """A log that is opened on a full disk refuses, and is whole when there is room again."""
    log = SqliteLog(small.path / "raft")
    await log.load()
    await log.append(HardState(term=1, vote=1), [entry(1)])
    await log.close()
    small.fill()
    log = SqliteLog(small.path / "raft")
    with pytest.raises(StorageError, match="check the disk"):
        await log.load()
    await stays_closed(log)
    small.free()
    assert (await stored(small.path / "raft")).entries == (entry(1),)


async def test_failing_sync_of_the_log(tmp_path) -> None:
    """An append whose fsync fails is not acknowledged and ends the log; it is there afterwards whole or not at all."""
    log = SqliteLog(tmp_path / "raft")
    await log.load()
    await log.append(HardState(term=1, vote=1), [entry(1)])
    try:
        await log._run(log._sql, fail_every_sync)
    except StorageError as error:
        await log.close()
        missing(str(error))
    with pytest.raises(StorageError, match="disk I/O error; check the disk"):
        await log.append(HardState(term=2, vote=2), [entry(2)])
    await stays_closed(log)
    state = await stored(tmp_path / "raft")
    assert (state.hard_state.vote, len(state.entries)) in ((1, 1), (2, 2))


async def test_failing_sync_of_a_snapshot(tmp_path) -> None:
    """A snapshot whose fsync fails is not acknowledged and ends the log, which has all entries afterwards."""
    log = SqliteLog(tmp_path / "raft")
    await log.load()
    await log.append(HardState(term=1, vote=1, commit=2), [entry(1), entry(2)])
    try:
        await log._run(log._files, fail_every_sync)
    except StorageError as error:
        await log.close()
        missing(str(error))
    with pytest.raises(StorageError, match="Input/output error; check the disk"):
        await log.save_snapshot(snapshot(2), 3)
    await stays_closed(log)
    state = await stored(tmp_path / "raft")
    assert (state.snapshot, len(state.entries)) == (None, 2)
