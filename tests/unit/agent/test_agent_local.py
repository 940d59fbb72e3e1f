"""What an agent remembers over a restart."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
from agent_world import eventually, make_table, make_task, managers_at
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from swarmpy.agent.local import Changes, LocalState, LocalWriter, MemoryLocalState, Remembered, merge
from swarmpy.agent.local_database import SCHEMA_VERSION, LocalDatabase
from swarmpy.errors import DataDirMismatch, StorageError
from swarmpy.model.assignments import EndpointUpdate
from swarmpy.model.states import TaskState

A, B = make_task("a"), make_task("b")
MANAGERS = managers_at("m1:2377", "m2:2377")
ENDPOINTS = EndpointUpdate(version=7, ports=make_table(80, "a", "b"))


@contextlib.asynccontextmanager
async def writing(state: LocalState) -> AsyncIterator[LocalWriter]:
    """A writer at work."""
    writer = LocalWriter(state, random.Random(1))
    task = asyncio.create_task(writer.run())
    await asyncio.sleep(0)
    try:
        yield writer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(params=["memory", "database"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> LocalState:
    """Both twins."""
    return MemoryLocalState() if request.param == "memory" else LocalDatabase(tmp_path / "agent.db")


async def test_nothing_at_first(state: LocalState) -> None:
    """A new node remembers nothing."""
    assert await state.load() == Remembered()
    await state.close()


async def test_what_is_saved_is_loaded(state: LocalState) -> None:
    """All of it comes back; later saves change only what they name."""
    revoked = {"n": 3}
    await state.save(Changes(tasks={A.id: A, B.id: B}, managers=MANAGERS, endpoints=ENDPOINTS, revoked=revoked))
    newer = attrs.evolve(A, desired_state=TaskState.SHUTDOWN)
    await state.save(Changes(tasks={A.id: newer, B.id: None}))
    assert await state.load() == Remembered(tasks=(newer,), managers=MANAGERS, endpoints=ENDPOINTS, revoked=revoked)
    await state.save(Changes(revoked={}))
    assert (await state.load()).revoked == {}
    await state.close()
    await state.close()


async def test_database_outlives_its_process(tmp_path: Path) -> None:
    """What was saved is there for the next one that opens the file."""
    first = LocalDatabase(tmp_path / "agent.db")
    await first.save(Changes(tasks={A.id: A}))
    await first.close()
    second = LocalDatabase(tmp_path / "agent.db")
    assert (await second.load()).tasks == (A,)
    await second.close()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_database_is_private(tmp_path: Path) -> None:
    """Only the owner may read the file, as environment variables of tasks are in it."""
    state = LocalDatabase(tmp_path / "agent.db")
    await state.save(Changes(tasks={A.id: A}))
    await state.close()
    assert _mode(tmp_path / "agent.db") == 0o600


@pytest.mark.parametrize(
    "damage", [b"this is no database, but long enough to look like one" * 40, b"SQLite format 3\0xx"]
)
async def test_corrupt_database_is_put_aside(tmp_path: Path, damage: bytes) -> None:
    """A file that cannot be read is kept aside, said so in the log, and the agent starts empty."""
    path = tmp_path / "agent.db"
    path.write_bytes(damage)
    state = LocalDatabase(path)
    with capture_logs() as logs:
        assert await state.load() == Remembered()
    assert [entry["event"] for entry in logs] == ["local_state_corrupt"]
    assert (tmp_path / "agent.db.corrupt").read_bytes() == damage
    await state.save(Changes(tasks={A.id: A}))
    assert (await state.load()).tasks == (A,)
    await state.close()


async def test_corrupt_row_is_put_aside(tmp_path: Path) -> None:
    """A row that is none of ours makes the agent start empty."""
    path = tmp_path / "agent.db"
    state = LocalDatabase(path)
    await state.save(Changes(tasks={A.id: A}))
    await state.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE item SET value = ?", (b"\x01\xc1",))
    assert await state.load() == Remembered()
    await state.close()


async def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file of a newer version is refused and left as it is."""
    path = tmp_path / "agent.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    state = LocalDatabase(path)
    with pytest.raises(DataDirMismatch, match="upgrade"):
        await state.load()
    assert path.exists()
    await state.close()


async def test_no_directory_is_a_storage_error(tmp_path: Path) -> None:
    """A path that cannot be written names itself in the error."""
    state = LocalDatabase(tmp_path / "absent" / "agent.db")
    with pytest.raises(StorageError, match=r"agent\.db"):
        await state.load()
    with pytest.raises(StorageError, match=r"agent\.db"):
        await state.save(Changes(tasks={A.id: A}))


async def test_writes_are_collected() -> None:
    """Many changes at once are one write."""
    state = MemoryLocalState()
    async with writing(state) as writer:
        for i in range(50):
            writer.put_task(make_task(f"t{i}"))
        writer.drop_task(make_task("t7").id)
        writer.put_managers(MANAGERS)
        writer.put_endpoints(ENDPOINTS)
        await eventually(lambda: state.saves)
    assert state.saves == 1
    assert len(state.remembered.tasks) == 49
    assert (state.remembered.managers, state.remembered.endpoints) == (MANAGERS, ENDPOINTS)


async def test_last_changes_are_written_at_the_end() -> None:
    """A shutdown right after a change does not lose it."""
    state = MemoryLocalState()
    async with writing(state) as writer:
        writer.put_task(A)
    assert state.remembered.tasks == (A,)


class _FullDisk(MemoryLocalState):
    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def save(self, changes: Changes) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageError("no space left on device")
        await super().save(changes)


async def test_a_full_disk_is_tried_again() -> None:
    """Changes that could not be written are written later, and newer ones are kept; it is said once."""
    state = _FullDisk(2)
    with capture_logs() as logs:
        async with writing(state) as writer:
            writer.put_task(A)
            writer.put_managers(MANAGERS)
            await eventually(lambda: state.failures == 1)
            writer.put_task(B)
            await eventually(lambda: state.saves)
    assert state.remembered.tasks == (A, B)
    assert state.remembered.managers == MANAGERS
    assert [entry["log_level"] for entry in logs] == ["error", "debug"]


@given(batches=st.lists(st.dictionaries(st.sampled_from("abc"), st.booleans(), max_size=3), max_size=6))
def test_merging_is_like_a_dictionary(batches: list[dict[str, bool]]) -> None:
    """Merging changes one by one gives what a dictionary would hold."""
    remembered, model = Remembered(), {}
    for batch in batches:
        tasks = {make_task(name).id: make_task(name) if keep else None for name, keep in batch.items()}
        remembered = merge(remembered, Changes(tasks=tasks))
        model.update(tasks)
    assert {task.id for task in remembered.tasks} == {i for i, task in model.items() if task is not None}
