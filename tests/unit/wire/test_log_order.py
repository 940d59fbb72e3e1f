"""In what order a snapshot reaches the disk: content, name, row; and only then the old one goes."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from test_log_contract import entries, snapshot

from swarmpy.errors import StorageError
from swarmpy.raft.messages import HardState
from swarmpy.wire.log import SqliteLog


@pytest.fixture
async def log(tmp_path: Path) -> SqliteLog:
    """A log with a snapshot at 5 and entries up to 10, open."""
    log = SqliteLog(tmp_path / "raft")
    await log.load()
    await log.append(HardState(term=1, vote=1, commit=8), entries(1, 10))
    await log.save_snapshot(snapshot(5), 4)
    return log


@pytest.mark.parametrize("what", [stat.S_ISREG, stat.S_ISDIR], ids=["file", "directory"])
async def test_failed_sync_of_a_snapshot(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Callable[[int], bool]
) -> None:
    """A snapshot whose file, or whose file's name, cannot be made durable is not recorded: the old one is in force."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if what(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "the disk does not answer")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError, match="does not answer"):
        await log.save_snapshot(snapshot(8), 7)
    monkeypatch.undo()
    await log.close()
    again = SqliteLog(tmp_path / "raft")
    stored = await again.load()
    assert (stored.snapshot, stored.entries) == (snapshot(5), tuple(entries(4, 10)))
    await again.close()


async def test_snapshot_that_is_not_recorded(log: SqliteLog, tmp_path: Path) -> None:
    """When the database refuses the row of a new snapshot, the old one's file is still there."""
    await log._run(log._sql, lambda: log._loaded.execute("PRAGMA query_only=ON").fetchall())
    with pytest.raises(StorageError):
        await log.save_snapshot(snapshot(8), 7)
    await log.close()
    again = SqliteLog(tmp_path / "raft")
    assert (await again.load()).snapshot == snapshot(5)
    await again.close()


async def test_snapshots_that_overlap(log: SqliteLog, tmp_path: Path) -> None:
    """The record of an older snapshot does not take the file of a newer one along that is recorded after it."""
    go = threading.Event()
    blocked = asyncio.create_task(log._run(log._sql, lambda: go.wait(10)))
    saving = [asyncio.create_task(log.save_snapshot(snapshot(index), index + 1)) for index in (7, 9)]
    async with asyncio.timeout(10):
        while not list((tmp_path / "raft").glob("*7.snap")):
            await asyncio.sleep(0.01)
    # Whether both files are there by now, or the second waits for the first, is the log's business.
    await asyncio.wait(saving, timeout=0.2)
    go.set()
    await asyncio.gather(blocked, *saving)
    assert await log.read_snapshot() == snapshot(9)
    await log.close()
    again = SqliteLog(tmp_path / "raft")
    assert (await again.load()).snapshot == snapshot(9)
    await again.close()


async def test_a_failure_that_nobody_waits_for_is_kept_for_the_next(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has nothing to complain of, and whoever comes next is told why nothing is stored any more."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    failing = threading.Event()

    def fail(*_: object) -> None:
        failing.wait(10)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log, "_append", fail)
    waiting = asyncio.create_task(log.append(None, entries(11, 11)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    failing.set()
    with pytest.raises(StorageError, match="No space left"):
        await log.read_snapshot()
    del waiting
    gc.collect()
    await asyncio.sleep(0)
    assert told == []
    await log.close()
