"""The contract of a log storage, kept by the one on disk, the one in memory and the simulator's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import loop as simulation
import pytest
from disk import SimDisk

from swarmpy.errors import AlreadyInCluster
from swarmpy.raft.messages import ConfState, Entry, EntryKind, HardState, Member, Snapshot
from swarmpy.raft.storage import LogStorage, MemoryStorage, StoredState, bootstrap
from swarmpy.security.sealing import DataKey, KeyRing
from swarmpy.wire.log import SqliteLog

ME = Member(raft_id=1, node_id="node1", address="10.0.0.1:2377")
CONF = ConfState(voters=(ME,), learners=(), removed=(Member(raft_id=9, node_id="n9", address="x:1"),))

Reopen = Callable[[LogStorage], Awaitable[LogStorage]]
Scenario = Callable[[LogStorage, Reopen], Awaitable[None]]


def entry(index: int, term: int = 1, data: bytes = b"data") -> Entry:
    return Entry(index=index, term=term, data=data)


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(i, term, b"%d/%d" % (term, i)) for i in range(first, last + 1)]


def snapshot(index: int, term: int = 1, data: bytes = b"state") -> Snapshot:
    return Snapshot(index=index, term=term, conf=CONF, data=data)


async def on_disk(scenario: Scenario, directory: Path, ring: KeyRing | None = None) -> None:
    opened = [SqliteLog(directory, ring)]

    async def reopen(old: LogStorage) -> LogStorage:
        await old.close()
        opened.append(SqliteLog(directory, ring))
        return opened[-1]

    try:
        await scenario(opened[0], reopen)
    finally:
        for one in opened:
            await one.close()


async def in_memory(scenario: Scenario) -> None:
    async def reopen(old: LogStorage) -> LogStorage:
        await old.close()
        return old

    await scenario(MemoryStorage(), reopen)


async def simulated(scenario: Scenario, loop: simulation.SimLoop) -> None:
    disk = SimDisk(loop)

    async def reopen(old: LogStorage) -> LogStorage:
        await old.close()
        disk.crash()
        return disk

    await scenario(disk, reopen)


@pytest.fixture(params=["memory", "sqlite", "sealed", "simulated"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    """Runs a scenario on a storage, with a way to restart it: in the simulator that is a power cut."""

    def run(scenario: Scenario) -> None:
        if request.param == "simulated":
            simulation.run(1, lambda loop: simulated(scenario, loop))
        else:
            ring = KeyRing((DataKey.new(1),)) if request.param == "sealed" else None
            on_it = in_memory(scenario) if request.param == "memory" else on_disk(scenario, tmp_path / "raft", ring)
            asyncio.run(on_it)

    return run


def test_new_is_empty(play) -> None:
    """A new storage has nothing."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        assert await log.load() == StoredState()
        assert (await log.load()).is_empty
        assert await log.read_snapshot() is None

    play(scenario)


def test_survives_a_restart(play) -> None:
    """Entries, term, vote and commit are there after a restart, of any kind and with any bytes."""
    stored = (
        entry(1, 1, b""),
        Entry(index=2, term=1, kind=EntryKind.CONF_CHANGE, data=b"[1]"),
        entry(3, 2, bytes(range(256)) * 1000),
    )
    hard_state = HardState(term=2, vote=(1 << 62) + 1, commit=2)

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(hard_state, stored)
        log = await reopen(log)
        assert await log.load() == StoredState(hard_state=hard_state, entries=stored)

    play(scenario)


def test_parts_are_independent(play) -> None:
    """Entries alone leave the hard state, a hard state alone leaves the entries, nothing changes nothing."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(HardState(term=1, vote=1), ())
        await log.append(None, entries(1, 2))
        await log.append(HardState(term=2), ())
        await log.append(None, ())
        log = await reopen(log)
        assert await log.load() == StoredState(hard_state=HardState(term=2), entries=tuple(entries(1, 2)))

    play(scenario)


@pytest.mark.parametrize("first", [1, 3, 5, 6])
def test_conflicting_suffix_is_replaced(play, first) -> None:
    """Appending at an index drops all that was stored from there on, however long it was."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(None, entries(1, 5))
        await log.append(HardState(term=2), [entry(first, 2)])
        log = await reopen(log)
        assert (await log.load()).entries == (*entries(1, first - 1), entry(first, 2))
        await log.append(None, [entry(first + 1, 2)])
        assert (await log.load()).entries[-1] == entry(first + 1, 2)

    play(scenario)


def test_snapshot_with_kept_tail(play) -> None:
    """A snapshot of the own log drops the entries before the kept tail and no others."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(HardState(term=1, commit=8), entries(1, 10))
        await log.save_snapshot(snapshot(8), 6)
        log = await reopen(log)
        state = await log.load()
        assert state.snapshot == snapshot(8)
        assert state.entries == tuple(entries(6, 10))
        await log.append(None, entries(11, 12))
        assert (await (await reopen(log)).load()).entries == tuple(entries(6, 12))

    play(scenario)


@pytest.mark.parametrize("stored", [entries(1, 4), entries(1, 10, term=3), []])
def test_installed_snapshot_replaces_a_foreign_log(play, stored) -> None:
    """A leader's snapshot, whose entry this log does not have, drops the whole log, also what is after it."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(HardState(term=3, commit=1 if stored else 0), stored)
        await log.save_snapshot(snapshot(8, term=2), 9)
        await log.append(HardState(term=3, commit=8), [entry(9, 3)])
        log = await reopen(log)
        state = await log.load()
        assert (state.snapshot, state.entries) == (snapshot(8, term=2), (entry(9, 3),))

    play(scenario)


def test_only_the_newest_snapshot_is_kept(play) -> None:
    """A newer snapshot takes the place of the old one; an older one that comes late is ignored."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(None, entries(1, 10))
        for index in (4, 7, 5, 7):
            await log.save_snapshot(snapshot(index, data=b"at %d" % index), index + 1)
        assert await log.read_snapshot() == snapshot(7, data=b"at 7")
        state = await (await reopen(log)).load()
        assert (state.snapshot, state.entries) == (snapshot(7, data=b"at 7"), tuple(entries(8, 10)))

    play(scenario)


def test_snapshot_of_everything(play) -> None:
    """A snapshot that leaves no entry behind is followed by the next one."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(HardState(term=1, commit=3), entries(1, 3))
        await log.save_snapshot(snapshot(3), 4)
        log = await reopen(log)
        assert (await log.load()).entries == ()
        await log.append(None, entries(4, 5))
        assert (await (await reopen(log)).load()).entries == tuple(entries(4, 5))

    play(scenario)


def test_snapshot_beside_appends(play) -> None:
    """A snapshot that is written while entries are appended loses none of them."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(None, entries(1, 10))
        saving = asyncio.create_task(log.save_snapshot(snapshot(8, data=bytes(1 << 20)), 6))
        for index in range(11, 40):
            await log.append(None, [entry(index)])
        await saving
        state = await (await reopen(log)).load()
        assert [e.index for e in state.entries] == list(range(6, 40))

    play(scenario)


def test_snapshots_beside_each_other(play) -> None:
    """A leader's snapshot may come while the member's own is being written: the newer one counts, with its data."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.append(None, entries(1, 10))
        own, installed = snapshot(5, data=bytes(1 << 20)), snapshot(30, 2, data=b"newer")
        saving = asyncio.create_task(log.save_snapshot(own, 6))
        await asyncio.gather(log.save_snapshot(installed, 31), saving)
        assert await log.read_snapshot() == installed
        state = await (await reopen(log)).load()
        assert (state.snapshot, state.entries) == (installed, ())

    play(scenario)


def test_bootstrap(play) -> None:
    """A bootstrapped storage has one voter and no entry, and is not bootstrapped twice."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await bootstrap(log, ME)
        log = await reopen(log)
        state = await log.load()
        assert state.snapshot == Snapshot(index=1, term=1, conf=ConfState(voters=(ME,)))
        assert state.hard_state == HardState(term=1, commit=1)
        with pytest.raises(AlreadyInCluster):
            await bootstrap(log, ME)

    play(scenario)


def test_close_twice(play) -> None:
    """Closing again is fine."""

    async def scenario(log: LogStorage, reopen: Reopen) -> None:
        await log.load()
        await log.close()
        await log.close()

    play(scenario)
