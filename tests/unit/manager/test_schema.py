"""What version is written: none that any manager does not read, and never less than before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wired_managers import Wired, member, peer

from swarmpy.errors import ConnectionFailed, FailedPrecondition, NotFound
from swarmpy.manager.manager import Manager
from swarmpy.manager.schema import schema_of, schema_to_write
from swarmpy.model import codec

READ = st.none() | st.integers(codec.BASE_VERSION, 9)


@given(st.integers(codec.BASE_VERSION, 9), st.lists(READ, max_size=5))
def test_the_version_rises_to_what_all_read_and_never_falls(written: int, read: list[int | None]) -> None:
    """As long as one manager is silent it stays."""
    now = schema_to_write(written, read)
    assert now >= written
    if now > written:
        assert None not in read
        assert now == min(version for version in read if version is not None)


@pytest.mark.parametrize("answer", [None, {}, {"schema": "9"}, {"schema": 0}, {"schema": None}, []])
def test_who_does_not_tell_reads_the_least(answer: object) -> None:
    """Managers from before the question was asked."""
    assert schema_of(answer) == codec.BASE_VERSION


def written(manager: Manager) -> int:
    """What a manager knows to be written."""
    return manager.store.view().cluster().schema


async def test_it_is_raised_when_the_last_manager_is_upgraded() -> None:
    """One manager of an older version, or one that is away, holds it back; nothing newer is in anybody's log."""
    async with Wired(1, 2, 3, schema=codec.BASE_VERSION) as managers:
        old, away = {1, 2, 3}, {1, 2, 3}

        def refuses(raft_id: int, method: str) -> Exception | None:
            if method != "raft.schema":
                return None
            if raft_id in old:
                return NotFound("no call method 'raft.schema'")
            return ConnectionFailed("away") if raft_id in away else None

        managers.refuses = refuses
        leader = await managers.leader()
        one, other = [raft_id for raft_id in managers.ids if managers.managers[raft_id] is not leader]
        for case in (({one}, set()), (set(), {other}), ({one}, {other}), ({one, other}, set())):
            old, away = case
            await leader.office._schema.look()
            assert {written(m) for m in managers.managers.values()} == {codec.BASE_VERSION}
        old, away = set(), set()
        await managers.until(lambda: all(written(m) == codec.SCHEMA_VERSION for m in managers.managers.values()))


async def test_an_older_manager_is_not_let_in() -> None:
    """It hears why, and what to do; it would not understand what the others write."""
    async with Wired(1, schema=codec.SCHEMA_VERSION) as managers:
        leader = await managers.leader()
        payload = {"raft_id": 1, "address": "10.0.0.7:2377"}
        with pytest.raises(FailedPrecondition, match="too old to be a manager: it reads schema versions up to 2"):
            await leader._membership.join(peer(1), payload)
        await leader._membership.join(peer(1), payload | {"schema": codec.SCHEMA_VERSION})
        assert leader.raft.status().members[0].address == "10.0.0.7:2377"
        assert member(1).address != "10.0.0.7:2377"
