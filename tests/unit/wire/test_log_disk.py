"""What only a real disk can do wrong to the log: damage, files that are gone or older, two processes at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_log_contract import entries, entry, snapshot

from swarmpy.errors import DataDirMismatch, LogCorrupted, StorageError
from swarmpy.raft.messages import HardState
from swarmpy.wire import log as module
from swarmpy.wire.log import DATABASE, SqliteLog
from swarmpy.wire.log_files import WAL, mark_of


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


@pytest.fixture
async def killed(full: Path) -> Path:
    """The directory of the same log as a process leaves it that is killed after three more appends."""
    log = SqliteLog(full)
    await log.load()
    for index in range(11, 14):
        await log.append(HardState(term=2, vote=1, commit=index), [entry(index, 2)])
    copy = full.parent / "killed" / "raft"
    shutil.copytree(full, copy)
    shutil.copy(mark_of(full), mark_of(copy))
    await log.close()
    return copy


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


class TestDamage:
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
            ("DELETE FROM entries WHERE idx < 7", "entry 4 is missing"),
            ("DELETE FROM entries WHERE idx > 6", "entry 7 is missing, and all after it up to 10"),
            ("DELETE FROM entries", "entry 4 is missing, and all after it up to 10"),
            ("UPDATE meta SET value = 3 WHERE key = 'vote'", "do not match their checksum"),
            ("UPDATE snapshots SET conf = '[[],[],[]]'", "does not match its checksum"),
            ("UPDATE snapshots SET file = 'nothing.snap'", "nothing.snap is missing"),
            ("DELETE FROM snapshots", "the snapshot at 5 is missing"),
            ("UPDATE meta SET value = 9 WHERE key = 'last'", "the extent of the log does not match"),
            ("DELETE FROM meta", "does not tell its schema_version"),
            ("DROP TABLE entries", "no such table"),
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


class TestLostFiles:
    async def test_killed_process_leaves_a_log(self, killed) -> None:
        """What was acknowledged before a kill -9 is there, though it is in the WAL only."""
        log = SqliteLog(killed)
        assert (await log.load()).entries[-1] == entry(13, 2)
        await log.close()

    @pytest.mark.parametrize("keep", [None, 0, 32])
    async def test_wal_that_is_gone(self, killed, keep) -> None:
        """A database without its WAL, or with an empty one, has forgotten something: it is refused, again and again."""
        if keep is None:
            (killed / WAL).unlink()
        else:
            os.truncate(killed / WAL, keep)
        for _ in range(2):
            await load_fails(killed, LogCorrupted, "generation 3 of the log was begun, but generation 2 is there")

    async def test_wal_that_rots(self, killed) -> None:
        """Rot in the WAL before its last write is told with file and offset, and nothing is changed by looking."""
        data = bytearray((killed / WAL).read_bytes())
        data[5000] ^= 1
        (killed / WAL).write_bytes(data)
        before = {path.name: path.read_bytes() for path in killed.iterdir()}
        await load_fails(killed, LogCorrupted, f"{WAL} is damaged at byte 4152")
        assert {path.name: path.read_bytes() for path in killed.iterdir()} == before

    async def test_database_that_is_gone(self, killed) -> None:
        """A WAL, a snapshot or a mark without the database: nothing new is begun in its place."""
        (killed / DATABASE).unlink()
        await load_fails(killed, LogCorrupted, f"raft.db is missing, though there is {WAL}")
        (killed / WAL).unlink()
        await load_fails(killed, LogCorrupted, "though there is raft.mark")
        mark_of(killed).unlink()
        await load_fails(killed, LogCorrupted, "though there is 0.*snap")

    @pytest.mark.parametrize("name", [DATABASE, "everything"])
    async def test_backup_that_is_put_back(self, full, tmp_path, name) -> None:
        """Files of an earlier life are noticed by their generation: they know less than was promised since."""
        backup = shutil.copytree(full, tmp_path / "backup")
        log = SqliteLog(full)
        await log.load()
        await log.append(HardState(term=3, vote=2, commit=8), [entry(11, 3)])
        await log.close()
        for path in backup.iterdir():
            if name in (path.name, "everything"):
                shutil.copy(path, full / path.name)
        await load_fails(full, LogCorrupted, "older files were put back")

    async def test_mark_that_is_damaged(self, full) -> None:
        """A mark that is no mark is not taken for "there never was a log"."""
        mark_of(full).write_text("3 00000000\n")
        await load_fails(full, LogCorrupted, "raft.mark is damaged")

    async def test_every_checkpoint_is_a_generation(self, full, monkeypatch) -> None:
        """A WAL that was lost after a checkpoint in the same life is noticed, too."""
        monkeypatch.setattr(module, "CHECKPOINT_BYTES", 20_000)
        log = SqliteLog(full)
        await log.load()
        before = mark_of(full).read_text()
        await log.append(None, [entry(11, 2, bytes(30_000))])
        assert mark_of(full).read_text() != before
        copy = full.with_name("copy")
        shutil.copytree(full, copy)
        shutil.copy(mark_of(full), mark_of(copy))
        await log.close()
        (copy / WAL).unlink()
        await load_fails(copy, LogCorrupted, f"{WAL} is lost")


class TestBehaviour:
    async def test_second_manager_on_the_same_directory(self, full) -> None:
        """Two processes never write to one log."""
        first = SqliteLog(full)
        await first.load()
        await load_fails(full, StorageError, "locked")
        await first.close()

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

    async def test_a_snapshot_that_is_read_holds_no_append_up(self, full, monkeypatch) -> None:
        """A leader that reads its snapshot for a follower goes on writing; a newer snapshot waits for the reader."""
        going, go = threading.Event(), threading.Event()
        checksum = module.snapshot_checksum

        def slow(*args: Any) -> str:
            going.set()
            go.wait(10)
            return checksum(*args)

        log = SqliteLog(full)
        stored = (await log.load()).snapshot
        monkeypatch.setattr(module, "snapshot_checksum", slow)
        reading = asyncio.create_task(log.read_snapshot())
        await asyncio.to_thread(going.wait, 10)
        async with asyncio.timeout(5):
            await log.append(None, [entry(11, 2)])
        saving = asyncio.create_task(log.save_snapshot(snapshot(8, term=2), 7))
        await asyncio.wait([saving], timeout=0.1)
        go.set()
        assert await reading == stored
        await saving
        assert (await log.read_snapshot()) == snapshot(8, term=2)
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
