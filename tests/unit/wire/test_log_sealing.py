"""A sealed log: nothing readable in its files, nothing opened that was changed or moved, and keys that are replaced."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from log_images import Photo, put, take
from test_log_contract import entry, snapshot
from test_log_wal import frames

from swarmpy.errors import LogCorrupted
from swarmpy.raft.messages import HardState
from swarmpy.security.sealing import MOST_SEALS, DataKey, KeyRing, pieces_of
from swarmpy.wire import wal
from swarmpy.wire.log import SqliteLog
from swarmpy.wire.log_files import DATABASE, OWNER, WAL, mark_of
from swarmpy.wire.log_rows import entry_checksum

FIRST, SECOND = DataKey.new(1), DataKey.new(2)
OLD, BOTH, NEW = KeyRing((FIRST,)), KeyRing((FIRST, SECOND)), KeyRing((SECOND,))
WORD = b"a planted word that nobody else says"


def readable(directory: Path, word: bytes = WORD) -> list[str]:
    """The files below ``directory`` that have ``word`` in them: as it is, or in base64, wherever it begins."""
    forms = [word]
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + word)
        forms.append(text[4:-4])
    found = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if any(form in data for form in forms):
            found.append(path.name)
    return found


async def fill(directory: Path, ring: KeyRing | None) -> SqliteLog:
    """A log of which entries were cut, replaced and compacted, with the planted word in all of it; open."""
    directory.mkdir()  # noqa: ASYNC240
    (directory / OWNER).write_text("cluster node 1\n")
    log = SqliteLog(directory, ring)
    await log.load()
    await log.append(HardState(term=1), [entry(index, data=WORD * 40) for index in range(1, 60)])
    await log.append(HardState(term=2), [entry(index, 2, WORD * 300) for index in range(40, 80)])
    await log.save_snapshot(snapshot(50, 2, WORD * 50_000), 45)
    await log.append(HardState(term=2, commit=50), [entry(80, 2, WORD)])
    return log


async def test_nothing_is_readable(tmp_path: Path) -> None:
    """The word is in no file, be it in the database, its free pages, the WAL or the snapshot; unsealed, it is."""
    for name, ring in (("plain", None), ("sealed", OLD)):
        (tmp_path / name).mkdir()
        log = await fill(tmp_path / name / "raft", ring)
        while_open = readable(tmp_path / name)
        await log.close()
        assert (bool(while_open), bool(readable(tmp_path / name))) == (ring is None, ring is None)


async def test_a_plain_log_is_sealed_while_it_is_used(tmp_path: Path) -> None:
    """A log of the version before: all of it is sealed, with nothing left in free pages, and it holds the same."""
    directory = tmp_path / "raft"
    log = await fill(directory, None)
    before = await log.load()
    await log.close()
    with closing(sqlite3.connect(directory / DATABASE)) as db:
        assert "key" not in [row[1] for row in db.execute("PRAGMA table_info(entries)")]
    upgraded = SqliteLog(directory, attrs.evolve(OLD, takes_plain=True))
    assert await upgraded.load() == before
    resealing = asyncio.create_task(upgraded.reseal())
    for index in range(81, 100):
        await upgraded.append(None, [entry(index, 2, WORD)])
    await resealing
    assert not readable(tmp_path)
    after = await upgraded.load()
    assert after == attrs.evolve(before, entries=(*before.entries, *(entry(i, 2, WORD) for i in range(81, 100))))
    await upgraded.close()
    strict = SqliteLog(directory, OLD)
    assert await strict.load() == after
    await strict.close()


async def test_a_key_is_replaced_while_the_log_is_used(tmp_path: Path) -> None:
    """After that the old key opens nothing, in no page and no file, and is not needed any more."""
    directory = tmp_path / "raft"
    log = await fill(directory, OLD)
    before = await log.load()
    assert log.seals > 80
    await log.use(BOTH)
    assert log.seals == 0
    await log.append(None, [entry(81, 2, WORD)])
    await log.reseal()
    assert log.seals >= len(before.entries)
    assert await log.read_snapshot() == before.snapshot
    await log.close()
    with closing(sqlite3.connect(directory / DATABASE)) as db:
        assert db.execute("SELECT DISTINCT key FROM entries").fetchall() == [(2,)]
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
    assert len(list(directory.glob("*.snap"))) == 1
    again = SqliteLog(directory, NEW)
    assert (await again.load()).entries == (*before.entries, entry(81, 2, WORD))
    await again.close()
    late = SqliteLog(directory, OLD)
    with pytest.raises(LogCorrupted, match="sealed with key 2, which this node does not have"):
        await late.load()
    await late.close()


async def test_a_rebuilt_log_keeps_what_the_look_at_the_wal_counts_on(tmp_path: Path) -> None:
    """Also what re-sealing writes is transactions with ascending pages, each with page 2, after an empty WAL."""
    directory = tmp_path / "raft"
    log = await fill(directory, None)
    await log.close()
    seen: list[bytes] = []

    class Watched(SqliteLog):
        """Takes a copy of the WAL before each checkpoint."""

        def _begin_generation(self, db: sqlite3.Connection, previous: int) -> None:
            seen.append((self._directory / WAL).read_bytes())
            super()._begin_generation(db, previous)

    log = Watched(directory, attrs.evolve(OLD, takes_plain=True))
    await log.load()
    await log.reseal()
    await log.close()
    whole = [data for data in seen if len(data) > 100_000]
    assert whole, "the VACUUM went through the WAL"
    for data in seen:
        pages: list[int] = []
        for offset in frames(data):
            page, commit = (int.from_bytes(data[offset + at : offset + at + 4], "big") for at in (0, 4))
            assert not pages or page > pages[-1]
            pages.append(page)
            if commit:
                assert 2 in pages
                pages = []
        assert not pages
        (tmp_path / "copy-wal").write_bytes(data)
        assert wal.check(tmp_path / "copy-wal", (directory / DATABASE).stat().st_size // 4096) == 0


async def test_no_nonce_is_used_twice(tmp_path: Path) -> None:
    """Of one key, by a log whose tail is cut over and over, that is closed and opened, and put back to what it was."""
    nonces: list[bytes] = []

    def noted(count: int) -> bytes:
        nonces.append(os.urandom(count))
        return nonces[-1]

    ring = KeyRing((FIRST,), nonces=noted)
    copy: Photo = {}
    for life in range(10):
        log = SqliteLog(tmp_path / "raft", ring)
        await log.load()
        for _ in range(20):
            await log.append(None, [entry(index) for index in range(1, 11)])
        await log.close()
        if life == 3:
            copy = take(tmp_path / "raft")
        elif life == 6:
            shutil.rmtree(tmp_path / "raft")
            put(copy, tmp_path / "raft")
    assert len(nonces) == len(set(nonces)) == 2000
    with closing(sqlite3.connect(tmp_path / "raft" / DATABASE)) as db:
        assert all(data[:12] in nonces[-10:] for (data,) in db.execute("SELECT data FROM entries"))


async def test_seals_are_counted_over_restarts(tmp_path: Path) -> None:
    """So a key is replaced in time, however often the daemon is started."""
    log = await fill(tmp_path / "raft", OLD)
    seals = 59 + 40 + pieces_of(50_000 * len(WORD)) + 1
    assert log.seals == seals, "entries, a snapshot in pieces, an entry"
    await log.close()
    again = SqliteLog(tmp_path / "raft", OLD)
    await again.load()
    assert again.seals == seals < MOST_SEALS
    await again.close()


def moved(db: sqlite3.Connection, index: int, **more: int) -> None:
    """Put an entry's sealed data elsewhere, or change what is said of it, with a checksum that fits."""
    row = db.execute("SELECT idx, term, kind, data, key FROM entries WHERE idx = ?", (index,)).fetchone()
    said = {"idx": row[0], "term": row[1], "kind": row[2], "key": row[4], **more}
    checksum = entry_checksum(said["idx"], said["term"], said["kind"], row[3], said["key"])
    db.execute(
        "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)",
        (said["idx"], said["term"], said["kind"], row[3], checksum, said["key"]),
    )
    db.commit()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"idx": 71}, "entry 71 cannot be opened: its seal is broken"),
        ({"term": 1}, "entry 70 cannot be opened: its seal is broken"),
        ({"kind": 1}, "entry 70 cannot be opened: its seal is broken"),
        ({"key": 0}, "entry 70 cannot be opened: it is not sealed"),
        ({"key": 7}, "entry 70 cannot be opened: it is sealed with key 7"),
    ],
)
async def test_an_entry_that_was_moved_is_refused(tmp_path: Path, what: dict[str, int], words: str) -> None:
    """Index, term, kind and key are bound in, also against somebody who makes the checksums fit."""
    log = await fill(tmp_path / "raft", OLD)
    await log.close()
    with closing(sqlite3.connect(tmp_path / "raft" / DATABASE)) as db:
        moved(db, 70, **what)
    log = SqliteLog(tmp_path / "raft", OLD)
    with pytest.raises(LogCorrupted, match=words):
        await log.load()
    await log.close()


@pytest.mark.parametrize("owner", ["cluster node 2\n", "cluster other 1\n", "another node 1\n"])
async def test_a_log_of_another_member_is_refused(tmp_path: Path, owner: str) -> None:
    """Of another membership, node or cluster, though the key were the same."""
    log = await fill(tmp_path / "raft", OLD)
    await log.close()
    (tmp_path / "raft" / OWNER).write_text(owner)
    log = SqliteLog(tmp_path / "raft", OLD)
    with pytest.raises(LogCorrupted, match="the snapshot at 50 cannot be opened: its seal is broken"):
        await log.load()
    await log.close()


@pytest.mark.parametrize("ring", [KeyRing((DataKey.new(1),)), NEW, None])
async def test_another_key_opens_nothing(tmp_path: Path, ring: KeyRing | None) -> None:
    """Whether it has the same number, another one, or there is none."""
    log = await fill(tmp_path / "raft", OLD)
    await log.close()
    log = SqliteLog(tmp_path / "raft", ring)
    with pytest.raises(LogCorrupted, match="cannot be opened") as refused:
        await log.load()
    await log.close()
    for key in (FIRST, SECOND):
        assert key.secret.hex() not in repr(refused.value) + repr(ring) + str(refused.traceback)


async def test_the_mark_stays_beside(tmp_path: Path) -> None:
    """A generation more is begun by re-sealing, and the log is whole with it."""
    log = await fill(tmp_path / "raft", OLD)
    mark = mark_of(tmp_path / "raft")
    before = mark.read_bytes()
    await log.use(BOTH)
    await log.reseal()
    await log.close()
    assert mark.read_bytes() != before
