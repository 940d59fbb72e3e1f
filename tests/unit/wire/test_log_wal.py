"""Telling rot from a torn write in a WAL that SQLite wrote."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from log_images import FRAME, WAL_HEADER, last_transaction
from test_log_contract import entry

from swarmpy.errors import LogCorrupted
from swarmpy.raft.messages import HardState
from swarmpy.wire import wal
from swarmpy.wire.log import SqliteLog
from swarmpy.wire.log_files import WAL

PAGES = 8
COMMIT, SALTS, CHECKSUM, DATA = 4, 8, 16, 24
"""Where a frame has what."""


@pytest.fixture
async def written(tmp_path: Path) -> bytes:
    """A WAL of small and large transactions; the last but one is a single frame."""
    log = SqliteLog(tmp_path / "raft")
    await log.load()
    await log.append(HardState(term=1), [entry(1, data=bytes(9000))])
    for index in range(2, 5):
        await log.append(HardState(term=1, commit=index - 1), [entry(index)])
    await log.append(HardState(term=2, vote=1, commit=4), [])
    await log.append(None, [entry(5, 2, bytes(20_000))])
    data = (tmp_path / "raft" / WAL).read_bytes()
    await log.close()
    return data


def frames(data: bytes) -> list[int]:
    """Where frames begin."""
    return list(range(WAL_HEADER, len(data) - FRAME + 1, FRAME))


def checked(data: bytes, directory: Path) -> int:
    """The bytes of the torn tail."""
    path = directory / "copy-wal"
    path.write_bytes(data)
    return wal.check(path, PAGES)


def test_what_sqlite_writes_is_whole(written, tmp_path) -> None:
    """A WAL that nobody damaged has no torn tail, nor has an empty or a missing one."""
    assert checked(written, tmp_path) == 0
    assert checked(b"", tmp_path) == 0
    assert wal.check(tmp_path / "nothing", PAGES) == 0


def test_transactions_have_ascending_pages_and_the_page_of_meta(written) -> None:
    """What the look at a broken WAL counts on: SQLite writes transactions in one piece, sorted, each with page 2."""
    transactions: list[list[int]] = [[]]
    for offset in frames(written):
        page, commit = struct.unpack_from(">II", written, offset)
        transactions[-1].append(page)
        if commit:
            transactions.append([])
    assert transactions.pop() == []
    assert len(transactions) == 7
    assert all(pages == sorted(set(pages)) and 2 in pages for pages in transactions)
    assert len(transactions[-2]) == 1


@pytest.mark.parametrize("cut", range(0, 3 * FRAME, 311))
def test_any_length_is_a_torn_tail(written, tmp_path, cut) -> None:
    """A WAL that was cut off anywhere is a whole one with a torn tail, which begins behind a commit."""
    short = written[: len(written) - cut]
    torn = checked(short, tmp_path)
    assert 0 <= torn <= len(written) - last_transaction(written)
    assert struct.unpack_from(">I", short, len(short) - torn - FRAME + COMMIT)[0]


@pytest.mark.parametrize("place", [0, 3, COMMIT, COMMIT + 3, SALTS, CHECKSUM, DATA, FRAME - 1])
def test_damage_before_the_last_transaction_is_rot(written, tmp_path, place) -> None:
    """Any flipped bit in any field of any frame is told with its offset, unless it is of the last transaction."""
    last = last_transaction(written)
    for offset in frames(written):
        for bit in range(8) if offset < last else ():
            data = bytearray(written)
            data[offset + place] ^= 1 << bit
            with pytest.raises(LogCorrupted, match=f"copy-wal is damaged at byte {offset}:"):
                checked(bytes(data), tmp_path)


@pytest.mark.parametrize("commit", [0, 1 << 31])
def test_a_lost_commit_field_hides_nothing(written, tmp_path, commit) -> None:
    """When only the field is damaged that ends the last but one transaction, the order of the pages tells."""
    data = bytearray(written)
    offset = last_transaction(written) - FRAME
    struct.pack_into(">I", data, offset + COMMIT, commit)
    with pytest.raises(LogCorrupted, match=f"byte {offset}:"):
        checked(bytes(data), tmp_path)


def test_damage_in_the_last_transaction_looks_torn(written, tmp_path) -> None:
    """Nothing follows the last transaction, so rot in it cannot be told from a torn write."""
    data = bytearray(written)
    last = last_transaction(written)
    data[last + DATA + 5] ^= 1
    assert checked(bytes(data), tmp_path) == len(written) - last


@pytest.mark.parametrize("place", [0, 7, 9, 12, 16, 24, 31])
def test_damaged_header_is_rot(written, tmp_path, place) -> None:
    """The header is synced before the first frame: damage there is no torn write, except of the header alone."""
    data = bytearray(written)
    data[place] ^= 1
    with pytest.raises(LogCorrupted, match="damaged at byte 0: its header"):
        checked(bytes(data), tmp_path)
    assert checked(bytes(data[:WAL_HEADER]), tmp_path) == WAL_HEADER
    assert checked(written[:place], tmp_path) == place
