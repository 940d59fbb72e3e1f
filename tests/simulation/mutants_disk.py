"""Deliberate bugs of the log on disk. The simulator's disks are not made of files: the tests of the log find these."""

from __future__ import annotations

from functools import partial

from mutation import LOG_TESTS, Edit, Mutant

_log = partial(Mutant, world=LOG_TESTS, module="swarmpy.wire.log")
_files = partial(Mutant, world=LOG_TESTS, module="swarmpy.wire.log_files")

DISK = (
    _files(
        name="log-without-sync",
        tests="test_log_full.py",
        bug="The database does not wait for the disk.",
        edits=(Edit('"PRAGMA synchronous=FULL"', '"PRAGMA synchronous=OFF"'),),
    ),
    _files(
        name="file-without-sync",
        tests="test_log_order.py",
        bug="A file gets its name before its content is on the disk.",
        edits=(Edit("            os.fsync(file.fileno())\n", ""),),
    ),
    _files(
        name="directory-without-sync",
        tests="test_log_order.py",
        bug="A snapshot is recorded before the name of its file is on the disk.",
        edits=(Edit("        os.fsync(descriptor)\n", "        pass\n"),),
    ),
    _files(
        name="wal-unchecked",
        tests="test_log_disk.py",
        bug="Damage in the middle of the WAL is left to SQLite, which drops what was synced after it.",
        edits=(Edit("torn = wal.check(directory / WAL, path.stat().st_size // PAGE_BYTES)", "torn = 0"),),
    ),
    _log(
        name="older-log-accepted",
        tests="test_log_disk.py",
        bug="A log that lost its newest part, or an old copy of it, is taken for the whole.",
        edits=(Edit("if generation < mark:", "if generation < 0:"),),
    ),
    _log(
        name="conflict-stays-on-disk",
        tests="test_log_contract.py",
        bug="Entries that replace others leave those after them in the database.",
        edits=(
            Edit("                if begin <= last:\n", "                if begin < 0:\n"),
            Edit("INSERT INTO entries VALUES", "INSERT OR REPLACE INTO entries VALUES"),
        ),
    ),
    _log(
        name="entry-checksum-ignored",
        tests="test_log_disk.py",
        bug="An entry that was damaged on the disk is read as if it were whole.",
        edits=(Edit("if crc != entry_checksum(index, term, kind, data):", "if crc is None:"),),
    ),
    _log(
        name="vote-checksum-ignored",
        tests="test_log_disk.py",
        bug="A damaged term or vote is believed.",
        edits=(Edit(" != hard_state_checksum(hard_state):", " is None:"),),
    ),
    _log(
        name="snapshot-checksum-ignored",
        tests="test_log_disk.py",
        bug="A damaged snapshot is restored from.",
        edits=(Edit("if snapshot_checksum(index, term, conf, data) != digest:", "if not digest:"),),
    ),
    _log(
        name="append-in-pieces",
        tests="test_log_full.py",
        bug="Cutting the tail, appending and the vote are not one transaction.",
        edits=(
            Edit("from contextlib import contextmanager\n", "from contextlib import contextmanager, nullcontext\n"),
            Edit(
                "        with _transaction(db):\n            if entries:\n",
                "        with nullcontext():\n            if entries:\n",
            ),
        ),
    ),
    _log(
        name="goes-on-after-failure",
        tests="test_log_full.py",
        bug="After a failed write the log goes on as if nothing had happened.",
        edits=(Edit("        if self._failure:\n", "        if not self._directory.name:\n"),),
    ),
    _log(
        name="foreign-log-stays",
        tests="test_log_contract.py",
        bug="An installed snapshot leaves the entries of another log behind it.",
        edits=(
            Edit('                db.execute("DELETE FROM entries")\n', ""),
            Edit("first, last = snapshot.index + 1, snapshot.index", "pass"),
        ),
    ),
    _log(
        name="snapshots-overlap",
        tests="test_log_order.py",
        bug="The record of the own snapshot removes the file of a leader's, which is recorded next.",
        edits=(Edit("        async with self._saving:\n", "        async with asyncio.Lock():\n"),),
    ),
    _log(
        name="old-snapshot-goes-first",
        tests="test_log_order.py",
        bug="The old snapshot's file is removed before the new one is recorded.",
        edits=(
            Edit(
                "        with _transaction(db):\n            ours = db.execute(",
                "        log_files.remove_snapshots(self._directory, keep=name)\n"
                "        with _transaction(db):\n            ours = db.execute(",
            ),
        ),
    ),
)
