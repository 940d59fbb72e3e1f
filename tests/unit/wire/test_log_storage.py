"""The contract of a log storage, kept by the one in memory and the one on disk; and what only a disk can do wrong."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from swarmpy.errors import AlreadyInCluster, DataDirMismatch, LogCorrupted, StorageError
from swarmpy.raft.messages import ConfState, Entry, EntryKind, HardState, Member, Snapshot
from swarmpy.raft.storage import LogStorage, MemoryStorage, StoredState, bootstrap
from swarmpy.wire.log import DATABASE, SqliteLog

ME = Member(raft_id=1, node_id="node1", address="10.0.0.1:2377")
CONF = ConfState(voters=(ME,), learners=(), removed=(Member(raft_id=9, node_id="n9", address="x:1"),))

Reopen = Callable[[LogStorage], Awaitable[LogStorage]]


def entry(index: int, term: int = 1, data: bytes = b"data") -> Entry:
    return Entry(index=index, term=term, data=data)


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(i, term, b"%d/%d" % (term, i)) for i in range(first, last + 1)]


def snapshot(index: int, term: int = 1, data: bytes = b"state") -> Snapshot:
    return Snapshot(index=index, term=term, conf=CONF, data=data)


@pytest.fixture(params=["memory", "sqlite"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[LogStorage, Reopen]]:
    """A storage, and a way to restart it; the last one is closed."""
    opened: list[LogStorage] = [MemoryStorage() if request.param == "memory" else SqliteLog(tmp_path / "raft")]

    async def reopen(old: LogStorage) -> LogStorage:
        await old.close()
        if isinstance(old, SqliteLog):
            opened.append(SqliteLog(tmp_path / "raft"))
        return opened[-1]

    yield opened[0], reopen
    for one in opened:
        await one.close()


class TestContract:
    async def test_new_is_empty(self, storage) -> None:
        """A new storage has nothing."""
        log, _ = storage
        assert await log.load() == StoredState()
        assert (await log.load()).is_empty
        assert await log.read_snapshot() is None

    async def test_survives_a_restart(self, storage) -> None:
        """Entries, term, vote and commit are there after a restart, of any kind and with any bytes."""
        log, reopen = storage
        await log.load()
        stored = (
            entry(1, 1, b""),
            Entry(index=2, term=1, kind=EntryKind.CONF_CHANGE, data=b"[1]"),
            entry(3, 2, bytes(range(256)) * 1000),
        )
        await log.append(HardState(term=2, vote=(1 << 62) + 1, commit=2), stored)
        log = await reopen(log)
        assert await log.load() == StoredState(
            hard_state=HardState(term=2, vote=(1 << 62) + 1, commit=2), entries=stored
        )

    async def test_parts_are_independent(self, storage) -> None:
        """Entries alone leave the hard state, a hard state alone leaves the entries, nothing changes nothing."""
        log, reopen = storage
        await log.load()
        await log.append(HardState(term=1, vote=1), ())
        await log.append(None, entries(1, 2))
        await log.append(HardState(term=2), ())
        await log.append(None, ())
        log = await reopen(log)
        assert await log.load() == StoredState(hard_state=HardState(term=2), entries=tuple(entries(1, 2)))

    @pytest.mark.parametrize("first", [1, 3, 5, 6])
    async def test_conflicting_suffix_is_replaced(self, storage, first) -> None:
        """Appending at an index drops all that was stored from there on, however long it was."""
        log, reopen = storage
        await log.load()
        await log.append(None, entries(1, 5))
        await log.append(HardState(term=2), [entry(first, 2)])
        log = await reopen(log)
        assert (await log.load()).entries == (*entries(1, first - 1), entry(first, 2))
        await log.append(None, [entry(first + 1, 2)])
        assert (await log.load()).entries[-1] == entry(first + 1, 2)

    async def test_snapshot_with_kept_tail(self, storage) -> None:
        """A snapshot of the own log drops the entries before the kept tail and no others."""
        log, reopen = storage
        await log.load()
        await log.append(HardState(term=1, commit=8), entries(1, 10))
        await log.save_snapshot(snapshot(8), 6)
        log = await reopen(log)
        state = await log.load()
        assert state.snapshot == snapshot(8)
        assert state.entries == tuple(entries(6, 10))
        await log.append(None, entries(11, 12))
        assert (await (await reopen(log)).load()).entries == tuple(entries(6, 12))

    @pytest.mark.parametrize("stored", [entries(1, 4), entries(1, 10, term=3), []])
    async def test_installed_snapshot_replaces_a_foreign_log(self, storage, stored) -> None:
        """A leader's snapshot, whose entry this log does not have, drops the whole log, also what is after it."""
        log, reopen = storage
        await log.load()
        await log.append(HardState(term=3, commit=1 if stored else 0), stored)
        await log.save_snapshot(snapshot(8, term=2), 9)
        await log.append(HardState(term=3, commit=8), [entry(9, 3)])
        log = await reopen(log)
        state = await log.load()
        assert (state.snapshot, state.entries) == (snapshot(8, term=2), (entry(9, 3),))

    async def test_only_the_newest_snapshot_is_kept(self, storage) -> None:
        """A newer snapshot takes the place of the old one; an older one that comes late is ignored."""
        log, reopen = storage
        await log.load()
        await log.append(None, entries(1, 10))
        for index in (4, 7, 5, 7):
            await log.save_snapshot(snapshot(index, data=b"at %d" % index), index + 1)
        assert await log.read_snapshot() == snapshot(7, data=b"at 7")
        state = await (await reopen(log)).load()
        assert (state.snapshot, state.entries) == (snapshot(7, data=b"at 7"), tuple(entries(8, 10)))

    async def test_snapshot_beside_appends(self, storage) -> None:
        """A snapshot that is written while entries are appended loses none of them."""
        log, reopen = storage
        await log.load()
        await log.append(None, entries(1, 10))
        saving = asyncio.create_task(log.save_snapshot(snapshot(8, data=bytes(1 << 20)), 6))
        for index in range(11, 40):
            await log.append(None, [entry(index)])
        await saving
        state = await (await reopen(log)).load()
        assert [e.index for e in state.entries] == list(range(6, 40))

    async def test_bootstrap(self, storage) -> None:
        """A bootstrapped storage has one voter and no entry, and is not bootstrapped twice."""
        log, reopen = storage
        await bootstrap(log, ME)
        log = await reopen(log)
        state = await log.load()
        assert state.snapshot == Snapshot(index=1, term=1, conf=ConfState(voters=(ME,)))
        assert state.hard_state == HardState(term=1, commit=1)
        with pytest.raises(AlreadyInCluster):
            await bootstrap(log, ME)

    async def test_close_twice(self, storage) -> None:
        """Closing again is fine."""
        log, _ = storage
        await log.load()
        await log.close()
        await log.close()


@pytest.fixture
async def full(tmp_path: Path) -> Path:
    """The directory of a log with a snapshot and entries, closed."""
    directory = tmp_path / "raft"
    log = SqliteLog(directory)
    await log.load()
    await log.append(HardState(term=2, vote=1, commit=8), entries(1, 10))
    await log.save_snapshot(snapshot(5, data=b"state" * 100), 4)
    await log.close()
    return directory


async def load_fails(directory: Path, error: type[StorageError], match: str) -> None:
    log = SqliteLog(directory)
    try:
        with pytest.raises(error, match=match) as caught:
            await log.load()
    finally:
        await log.close()
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def edit(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE)) as db, db:
        db.execute(statement)


class TestDisk:
    async def test_modes(self, full) -> None:
        """Nobody else may read what is in the log."""
        log = SqliteLog(full)
        await log.load()
        await log.append(None, [entry(11)])
        assert stat.S_IMODE(full.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in full.iterdir()} == {0o600}
        await log.close()

    @pytest.mark.parametrize(
        ("statement", "match"),
        [
            ("UPDATE entries SET data = x'00' WHERE idx = 7", "entry 7 does not match its checksum"),
            ("UPDATE entries SET term = 1, kind = 1 WHERE idx = 6", "entry 6 does not match its checksum"),
            ("UPDATE entries SET data = 'text' WHERE idx = 6", "cannot be read"),
            ("DELETE FROM entries WHERE idx = 8", "entry 8 is missing"),
            ("DELETE FROM entries WHERE idx < 7", "entry 6 is missing"),
            ("DELETE FROM entries WHERE idx > 6", "committed, the log ends at 6"),
            ("DELETE FROM entries WHERE idx > 4", "before its snapshot 5"),
            ("UPDATE meta SET value = 3 WHERE key = 'vote'", "do not match their checksum"),
            ("UPDATE snapshots SET conf = '[[],[],[]]'", "does not match its checksum"),
            ("UPDATE snapshots SET file = 'nothing.snap'", "nothing.snap is missing"),
            ("DELETE FROM snapshots", "entry 1 is missing"),
        ],
    )
    async def test_damaged_rows(self, full, statement, match) -> None:
        """Damage of any row is noticed at the start, and said in one line that names the place."""
        edit(full, statement)
        await load_fails(full, LogCorrupted, match)

    @pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
    async def test_damaged_snapshot_file(self, full, damage) -> None:
        """A snapshot file that is short, changed or gone is noticed."""
        (path,) = full.glob("*.snap")
        if damage == "truncate":
            os.truncate(path, 7)
        elif damage == "flip":
            path.write_bytes(b"X" + path.read_bytes()[1:])
        else:
            path.unlink()
        await load_fails(full, LogCorrupted, "the snapshot")

    async def test_not_a_database(self, full) -> None:
        """A file that is no database at all is called a corrupted log."""
        (full / DATABASE).write_bytes(b"this is something else entirely, and long enough to be noticed" * 50)
        await load_fails(full, LogCorrupted, "no raft log")

    async def test_damaged_pages(self, full) -> None:
        """Rubbish in the middle of the database is never taken for a log."""
        log = SqliteLog(full)
        await log.load()
        await log.append(HardState(term=2, commit=500), [entry(i, 2, bytes(200)) for i in range(11, 500 + 1)])
        await log.close()
        path = full / DATABASE
        data = bytearray(path.read_bytes())
        for offset in range(8192, len(data), 4096):
            data[offset : offset + 600] = b"\xa5" * 600
        path.write_bytes(data)
        await load_fails(full, LogCorrupted, "raft")

    async def test_newer_schema(self, full) -> None:
        """A log of a newer version is left alone."""
        edit(full, "UPDATE meta SET value = 99 WHERE key = 'schema_version'")
        await load_fails(full, DataDirMismatch, "upgrade this node")

    async def test_second_manager_on_the_same_directory(self, full) -> None:
        """Two processes never write to one log."""
        first = SqliteLog(full)
        await first.load()
        await load_fails(full, StorageError, "locked")
        await first.close()

    async def test_disk_full(self, full) -> None:
        """When the disk is full the append fails with the path in the message, and nothing is written afterwards."""
        log = SqliteLog(full)
        await log.load()
        limit = "PRAGMA max_page_count = 20"
        await log._run(log._sql, lambda: log._open().execute(limit).fetchall())
        with pytest.raises(StorageError, match="full") as caught:
            await log.append(None, [entry(11, 2, bytes(1_000_000))])
        assert str(full) in str(caught.value)
        with pytest.raises(StorageError):
            await log.append(None, [entry(11)])
        await log.close()
        log = SqliteLog(full)
        assert (await log.load()).entries == tuple(entries(4, 10))
        await log.close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
    async def test_full_file_system(self, tmp_path) -> None:
        """On a file system that is really full writing fails for good, and what was acknowledged is there later."""
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=False)  # noqa: ASYNC221
        if mounted.returncode:
            pytest.skip("mounting is not allowed here")
        try:
            log = SqliteLog(small / "raft")
            await log.load()
            written: list[Entry] = []

            async def fill() -> None:
                for index in range(1, 100):
                    await log.append(HardState(term=1, vote=1), [entry(index, data=bytes(50_000))])
                    written.append(entry(index, data=bytes(50_000)))

            with pytest.raises(StorageError, match="check the disk"):
                await fill()
            with pytest.raises(StorageError, match="check the disk"):
                await log.append(HardState(term=2, vote=2), [])
            await log.close()
            log = SqliteLog(small / "raft")
            state = await log.load()
            assert state.hard_state == HardState(term=1, vote=1)
            assert state.entries == tuple(written)
            await log.close()
        finally:
            subprocess.run(["umount", small], check=True)  # noqa: ASYNC221

    async def test_directory_that_cannot_be_made(self, tmp_path) -> None:
        """A path that is no directory is a StorageError, not a traceback of the system's."""
        (tmp_path / "file").write_text("")
        await load_fails(tmp_path / "file" / "raft", StorageError, "check the disk")

    async def test_snapshot_that_cannot_be_written(self, full) -> None:
        """A snapshot that cannot be written is a StorageError, and the old one is still there after a restart."""
        log = SqliteLog(full)
        await log.load()
        blocker = full / f"{2:016x}-{8:016x}.tmp"
        blocker.mkdir()
        with pytest.raises(StorageError, match="directory"):
            await log.save_snapshot(snapshot(8, term=2), 7)
        await log.close()
        blocker.rmdir()
        log = SqliteLog(full)
        assert (await log.load()).snapshot == snapshot(5, data=b"state" * 100)
        await log.close()

    async def test_leftovers_are_removed(self, full) -> None:
        """What a crash between file and row left behind goes away with the next start."""
        (full / f"{9:016x}-{9:016x}.snap").write_bytes(b"half")
        (full / f"{9:016x}-{8:016x}.tmp").write_bytes(b"less")
        log = SqliteLog(full)
        state = await log.load()
        assert state.snapshot is not None
        assert len(list(full.glob("*.snap"))) == 1
        assert list(full.glob("*.tmp")) == []
        await log.close()

    async def test_loop_is_never_blocked(self, full) -> None:
        """While the log writes, the loop goes on."""
        log = SqliteLog(full)
        await log.load()
        turns = 0
        writing = asyncio.create_task(log.append(None, [entry(i, 2, bytes(100_000)) for i in range(11, 60)]))
        while not writing.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 3
        await log.close()

    async def test_close_waits_for_what_is_under_way(self, full, monkeypatch) -> None:
        """After close nothing is written any more, though the writer was cancelled, and closing was tried before."""
        going, go = threading.Event(), threading.Event()
        fsync = os.fsync

        def slow(fd: int) -> None:
            going.set()
            go.wait(10)
            fsync(fd)

        log = SqliteLog(full)
        await log.load()
        monkeypatch.setattr(os, "fsync", slow)
        saving = asyncio.create_task(log.save_snapshot(snapshot(8, term=2), 7))
        appending = asyncio.create_task(log.append(None, [entry(11, 2)]))
        await asyncio.to_thread(going.wait, 10)
        for task in (saving, appending):
            task.cancel()
        await asyncio.wait([saving, appending])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.close(), 0.05)
        go.set()
        await log.close()
        found = sorted(path.name for path in full.iterdir())
        assert DATABASE in found
        assert not [name for name in found if name.endswith(("-wal", ".tmp"))]
        log = SqliteLog(full)
        assert (await log.load()).entries[-1] == entry(11, 2)
        await log.close()

    async def test_opening_again_keeps_the_lock(self, full) -> None:
        """An attempt to open it twice in one process does not let other processes in."""
        first = SqliteLog(full)
        await first.load()
        await load_fails(full, StorageError, "locked")
        code = f"import sqlite3; sqlite3.connect({str(full / DATABASE)!r}, timeout=0).execute('SELECT * FROM meta')"
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
        _, complaint = await other.communicate()
        assert b"locked" in complaint
        await first.close()

    async def test_closed_log_refuses(self, full) -> None:
        """A closed log writes nothing."""
        log = SqliteLog(full)
        await log.load()
        await log.close()
        with pytest.raises(StorageError, match="closed"):
            await log.append(None, [entry(11)])
