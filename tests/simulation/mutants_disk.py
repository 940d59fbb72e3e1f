"""Deliberate bugs of the log on disk. The simulator's disks are not made of files: the tests of the log find these."""

from __future__ import annotations

from functools import partial

from mutation import LOG_TESTS, Edit, Mutant

_log = partial(Mutant, world=LOG_TESTS, module="swarmpy.wire.log")
_sealing = partial(Mutant, world=LOG_TESTS, module="swarmpy.wire.log_sealing")
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
        edits=(Edit("if crc != entry_checksum(index, term, kind, data, key):", "if crc is None:"),),
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
        edits=(Edit("if snapshot_checksum(index, term, conf, data, key) != digest:", "if not digest:"),),
    ),
    _log(
        name="append-in-pieces",
        tests="test_log_full.py",
        bug="Cutting the tail, appending and the vote are not one transaction.",
        edits=(
            Edit(
                "from functools import partial\n", "from contextlib import nullcontext\nfrom functools import partial\n"
            ),
            Edit(
                "        with transaction(db):\n            if entries:\n",
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
            Edit("first, last = index + 1, index", "pass"),
        ),
    ),
    _log(
        name="snapshots-overlap",
        tests="test_log_order.py",
        bug="The record of the own snapshot removes the file of a leader's, which is recorded next.",
        edits=(
            Edit(
                "        async with self._saving:\n            if snapshot.index",
                "        async with asyncio.Lock():\n            if snapshot.index",
            ),
        ),
    ),
    _log(
        name="old-snapshot-goes-first",
        tests="test_log_order.py",
        bug="The old snapshot's file is removed before the new one is recorded.",
        edits=(
            Edit(
                "        with transaction(db):\n            ours = db.execute(",
                "        log_files.remove_snapshots(self._directory, keep=name)\n"
                "        with transaction(db):\n            ours = db.execute(",
            ),
        ),
    ),
    _sealing(
        name="entry-of-any-place",
        tests="test_log_sealing.py",
        bug="A sealed entry is not bound to its index.",
        edits=(Edit('b"e", index, term, kind)', 'b"e", 0, term, kind)'),),
    ),
    _sealing(
        name="log-of-any-member",
        tests="test_log_sealing.py",
        bug="What is sealed is not bound to the log it is in.",
        edits=(Edit('names_of("swarmpy raft log", owner)', 'names_of("swarmpy raft log", "")'),),
    ),
    _log(
        name="free-pages-stay",
        tests="test_log_sealing.py",
        bug="Free pages keep what was there before it was sealed.",
        edits=(Edit('        db.execute("VACUUM")\n', ""),),
    ),
    _log(
        name="snapshot-not-sealed-anew",
        tests="test_log_sealing.py",
        bug="A key is taken for replaced though the snapshot is still of the old one.",
        edits=(Edit("if row is not None and row[-1] != self._seal.key:", "if row is None:"),),
    ),
)
