"""A manager's log made into that of a group of its own: what is in it, and what a crash at any moment leaves."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from stopped_manager import ME, OTHER, entries

from swarmpy.errors import FailedPrecondition
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.schema import SCHEMA_VERSION
from swarmpy.model.states import NodeState as NodeStateEnum
from swarmpy.model.states import Role
from swarmpy.node.clock import SystemClock
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.renewal import alone, position, read, renew, replay, write
from swarmpy.raft.messages import ConfState, HardState, Member, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX, StoredState
from swarmpy.wire.log import SqliteLog

BEFORE = NodeState(
    cluster_id=ClusterId("thecluster"),
    node_id=NodeId(ME.node_id),
    raft_id=ME.raft_id,
    listen_address=ME.address,
    advertise_address=ME.address,
    runtime="process",
    raft=RaftConfig(),
)
AFTER = attrs.evolve(BEFORE, raft_id=77)
MOST_STEPS = 400


def stored() -> StoredState:
    """The log of a manager that had another one; only the first half of it is known to be committed."""
    snapshot = Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=ConfState(voters=(ME,)))
    return StoredState(hard_state=HardState(term=5, vote=2, commit=4), snapshot=snapshot, entries=tuple(entries()))


def names_in(path: Path) -> set[str]:
    """What is in a directory."""
    return {child.name for child in path.iterdir()}


async def make_manager(path: Path) -> DataDir:
    """A data directory with that log."""
    data = DataDir(path)
    data.open()
    data.save(BEFORE)
    data.claim_raft(BEFORE)
    state = stored()
    assert state.snapshot is not None
    await write(data.raft, state.snapshot)
    log = SqliteLog(data.raft)
    await log.load()
    await log.append(state.hard_state, state.entries)
    await log.close()
    return data


async def test_the_new_log_holds_everything_and_nobody_else(tmp_path: Path) -> None:
    """Also what was not known to be committed; one entry and one term later; the others are remembered as removed."""
    data = await make_manager(tmp_path)
    await renew(data, BEFORE, AFTER, SystemClock())
    assert data.load() == AFTER
    data.claim_raft(AFTER)
    after = await read(data.raft)
    assert after.snapshot is not None
    assert (after.snapshot.index, after.snapshot.term, after.entries) == (10, 6, ())
    assert after.hard_state == HardState(term=6, commit=10)
    assert after.snapshot.conf.voters == (attrs.evolve(ME, raft_id=77),)
    assert after.snapshot.conf.learners == ()
    assert after.snapshot.conf.removed == (OTHER,)
    view = replay(after, SystemClock()).view()
    before = replay(stored(), SystemClock()).view()
    assert view.services() == before.services()
    assert view.tasks() == before.tasks()
    as_before = {"meta": before.cluster().meta, "incarnation": 0, "schema": before.cluster().schema}
    assert attrs.evolve(view.cluster(), **as_before) == before.cluster()
    assert view.cluster().schema == SCHEMA_VERSION, "the only manager reads it, and nobody else may come who does not"
    assert view.cluster().incarnation > 0
    node = view.node(ME.node_id)
    assert node is not None
    assert node.manager is not None
    assert (node.role, node.manager.raft_id, node.status.state) == (Role.MANAGER, 77, NodeStateEnum.UNKNOWN)
    assert names_in(tmp_path) == {"lock", "node.json", "raft", "raft.mark"}
    data.close()


def test_a_log_of_another_membership_is_refused() -> None:
    """A manager that was removed, as its own log says, has no say in what the state is."""
    with pytest.raises(FailedPrecondition, match="not among the managers"):
        alone(stored(), attrs.evolve(ME, raft_id=77), old_raft_id=5)


def test_a_manager_without_a_vote_yet_may_go_on_alone() -> None:
    """A learner has a copy, too; its operator says that nobody else has one."""
    conf = alone(stored(), Member(raft_id=77, node_id=OTHER.node_id, address=OTHER.address), old_raft_id=OTHER.raft_id)
    assert [m.raft_id for m in conf.voters] == [77]
    assert conf.removed == (ME,)


def test_the_position_of_a_log_without_entries_is_its_snapshot() -> None:
    """And its term is the highest it has heard of."""
    snapshot = Snapshot(index=9, term=3, conf=ConfState(voters=(ME,)))
    assert position(StoredState(snapshot=snapshot)) == (9, 3)
    assert position(StoredState(snapshot=snapshot, hard_state=HardState(term=8))) == (9, 8)


async def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts before node.json names it, and what was begun is removed by the next start."""
    data = await make_manager(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("swarmpy.wire.log_files.write_file", full)
    with pytest.raises(Exception, match="No space left"):
        await renew(data, BEFORE, AFTER, SystemClock())
    monkeypatch.undo()
    assert data.load() == BEFORE
    data.finish_renewal(BEFORE)
    assert not data.next_raft.exists()
    data.claim_raft(BEFORE)
    assert (await read(data.raft)).entries == tuple(entries())
    data.close()


def killed_at(path: Path, step: int) -> bool:
    """Renew in a process that dies at its ``step``-th call that touches the file system. False: it came to its end."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "sqlite3.connect"):
                seen += 1
                if seen > step:
                    os._exit(9)

        try:
            sys.addaudithook(count)
            data = DataDir(path)
            asyncio.run(renew(data, BEFORE, AFTER, SystemClock()))
        except BaseException:  # the child must never come back into the test
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


async def test_a_crash_at_any_step_leaves_the_one_or_the_other(tmp_path: Path) -> None:
    """kill -9 at every call that touches the file system: the node is who it was, with its log, or leads alone."""
    (await make_manager(tmp_path / "origin")).close()
    found: list[bool] = []
    for step in range(MOST_STEPS):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "origin", copy)
        dies = killed_at(copy, step)
        data = DataDir(copy)
        state = data.load()
        assert state in (BEFORE, AFTER), f"step {step}"
        data.finish_renewal(state)
        assert data.has_raft_log, f"step {step}: its log is gone"
        data.claim_raft(state)
        log = await read(data.raft)
        assert log.snapshot is not None
        renewed = log.snapshot.conf.voters == (attrs.evolve(ME, raft_id=AFTER.raft_id),)
        assert renewed == (state == AFTER), f"step {step}"
        if not renewed:
            assert log.entries == tuple(entries()), f"step {step}"
        assert names_in(copy) - {"lock", "node.tmp"} == {"node.json", "raft", "raft.mark"}, f"step {step}"
        found.append(renewed)
        if not dies:
            break
    assert found[-1], "it came to its end"
    assert found == sorted(found), "once it counts it counts"
    assert found.count(False) > 10
    assert found.count(True) > 5
