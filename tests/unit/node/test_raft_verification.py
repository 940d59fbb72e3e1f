"""``raft verify``: what is sound is called so, and every kind of damage is found, named and told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stopped_manager import SERVICE, StoppedManager, data_of

from swarmpy.cli.main import main
from swarmpy.model import codec
from swarmpy.model.changes import create
from swarmpy.node.raft_verification import Outcome, verify
from swarmpy.node.stopped_raft import EntrySummary, stopped_log, summaries
from swarmpy.raft.messages import HardState
from swarmpy.wire.log_files import write_mark
from swarmpy.wire.log_rows import hard_state_checksum

Damage = Callable[[StoppedManager], object]
NEWER = bytes([codec.SCHEMA_VERSION + 1])


@pytest.fixture
async def manager(tmp_path: Path) -> StoppedManager:
    """A manager with a snapshot at 6 and a kept tail: entries 4..9."""
    made = StoppedManager(tmp_path / "data")
    await made.fill(snapshot_at=6, keep_from=4)
    return made


def outcomes(manager: StoppedManager) -> dict[str, Outcome]:
    """What the checks find, without those that are fine."""
    return {f.check: f.outcome for f in verify(manager.path) if f.outcome is not Outcome.OK}


def summaries_of(manager: StoppedManager) -> list[EntrySummary]:
    """What ``raft dump`` tells."""
    with stopped_log(manager.path) as log:
        return list(summaries(log))


def test_sound(manager: StoppedManager, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each check, the verdict, exit code 0."""
    assert main(["raft", "verify", str(manager.path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:-1]] == ["ok"] * 11
    assert said[-1] == "verdict: sound"
    assert "every entry applies; nodes: 1, services: 1, tasks: 1" in said[8]
    assert "voters: 2, learners: 0" in said[9]
    assert "8 is committed, the log ends at 9" in said[10]


@pytest.mark.parametrize("index", [4, 5, 9])
async def test_snapshot_at_an_entry_of_raft_itself(tmp_path: Path, index: int) -> None:
    """Its state is that of an earlier entry: a change of the membership and a leader's first entry change nothing."""
    manager = StoppedManager(tmp_path / "data")
    await manager.fill(snapshot_at=index, keep_from=4)
    assert outcomes(manager) == {}
    assert [entry.fault for entry in summaries_of(manager)] == [""] * 6


@pytest.mark.parametrize(("state_at", "check"), [(7, "snapshot"), (3, "replay")])
async def test_snapshot_of_another_state(tmp_path: Path, state_at: int, check: str) -> None:
    """A later one never, an earlier one not when an entry between the two changes something."""
    manager = StoppedManager(tmp_path / "data")
    await manager.fill(snapshot_at=6, state_at=state_at, keep_from=4)
    found = outcomes(manager)
    assert found.pop(check) is Outcome.DAMAGED
    assert Outcome.DAMAGED not in found.values()


def hard_state(state: HardState) -> Damage:
    """Another hard state, with the right checksum."""

    def damage(manager: StoppedManager) -> None:
        values = {"term": state.term, "commit": state.commit, "vote": state.vote, "crc": hard_state_checksum(state)}
        for key, value in values.items():
            manager.sql("UPDATE meta SET value = ? WHERE key = ?", value, key)

    return damage


def flip_snapshot(manager: StoppedManager) -> None:
    """One bit of the snapshot's file."""
    data = bytearray(manager.snapshot_file.read_bytes())
    data[len(data) // 2] ^= 1
    manager.snapshot_file.write_bytes(data)


def flip_database(manager: StoppedManager) -> None:
    """A page that is in no table's shape any more."""
    data = bytearray((manager.raft / "raft.db").read_bytes())
    at = data.rindex(b"hunter2") // 4096 * 4096
    data[at : at + 64] = b"\xff" * 64
    (manager.raft / "raft.db").write_bytes(data)


DAMAGES: dict[str, tuple[Damage, str, Outcome]] = {
    "a bit of an entry": (
        lambda m: m.sql("UPDATE entries SET data = data || X'00' WHERE idx = 8"),
        "checksums",
        Outcome.DAMAGED,
    ),
    "a bit of a kept entry": (
        lambda m: m.sql("UPDATE entries SET term = 7 WHERE idx = 4"),
        "checksums",
        Outcome.DAMAGED,
    ),
    "no text where a number belongs": (
        lambda m: m.sql("UPDATE entries SET data = 5 WHERE idx = 8"),
        "checksums",
        Outcome.DAMAGED,
    ),
    "a hole": (lambda m: m.sql("DELETE FROM entries WHERE idx = 8"), "order", Outcome.DAMAGED),
    "a lost end": (lambda m: m.sql("DELETE FROM entries WHERE idx = 9"), "extent", Outcome.DAMAGED),
    "a lost beginning": (lambda m: m.sql("DELETE FROM entries WHERE idx = 4"), "extent", Outcome.DAMAGED),
    "a falling term": (lambda m: m.rewrite(9, term=1, data=b""), "order", Outcome.DAMAGED),
    "a term that the snapshot contradicts": (
        lambda m: m.rewrite(6, term=1, data=data_of(create(SERVICE))),
        "order",
        Outcome.DAMAGED,
    ),
    "a term above the hard state's": (lambda m: m.rewrite(9, term=9, data=b""), "extent", Outcome.DAMAGED),
    "a commit beyond the end": (hard_state(HardState(term=3, vote=2, commit=10)), "extent", Outcome.DAMAGED),
    "a forgotten vote": (
        lambda m: m.sql("UPDATE meta SET value = 0 WHERE key = 'vote'"),
        "hard state",
        Outcome.DAMAGED,
    ),
    "a forgotten extent": (
        lambda m: m.sql("UPDATE meta SET value = 8 WHERE key = 'last'"),
        "generation",
        Outcome.DAMAGED,
    ),
    "an older database": (
        lambda m: write_mark(m.raft, 99),
        "generation",
        Outcome.DAMAGED,
    ),
    "a bit of the snapshot": (flip_snapshot, "snapshot", Outcome.DAMAGED),
    "no snapshot file": (lambda m: m.snapshot_file.unlink(), "snapshot", Outcome.DAMAGED),
    "an entry that cannot be decoded": (lambda m: m.rewrite(8, term=2, data=b"\x01?"), "replay", Outcome.DAMAGED),
    "a membership change that cannot be decoded": (
        lambda m: m.rewrite(8, term=2, data=b"?", kind=1),
        "replay",
        Outcome.DAMAGED,
    ),
    "an entry that contradicts the state": (
        lambda m: m.rewrite(8, term=2, data=data_of(create(SERVICE))),
        "replay",
        Outcome.DAMAGED,
    ),
    "an entry of a newer version": (lambda m: m.rewrite(8, term=2, data=NEWER), "replay", Outcome.MISMATCH),
    "an entry of a kind of a newer version": (
        lambda m: m.rewrite(8, term=2, data=b"", kind=9),
        "replay",
        Outcome.MISMATCH,
    ),
    "the log of another node": (
        lambda m: (m.raft / "owner").write_text("thecluster node2 2\n"),
        "identity",
        Outcome.MISMATCH,
    ),
    "pages of the database": (flip_database, "database", Outcome.DAMAGED),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_finds(manager: StoppedManager, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Each damage is found by its check, which says so in one line and with the exit code of its kind."""
    assert outcomes(manager) == {}
    damage, check, outcome = DAMAGES[name]
    damage(manager)
    assert outcomes(manager).get(check) is outcome
    assert main(["raft", "verify", str(manager.path)]) == (74 if outcome is Outcome.DAMAGED else 78)
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.out.splitlines()[-1] == f"verdict: {outcome}"


def test_newer_schema(manager: StoppedManager, capsys: pytest.CaptureFixture[str]) -> None:
    """A database of a newer version is not judged at all."""
    manager.sql("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    assert main(["raft", "verify", str(manager.path)]) == 78
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "newer swarmpy" in shown.err


def test_after_a_damage_nothing_is_guessed(manager: StoppedManager) -> None:
    """What cannot be judged any more is skipped, not called sound; damage outweighs a newer version."""
    manager.sql("UPDATE entries SET data = X'00' WHERE idx = 7")
    manager.rewrite(8, term=2, data=NEWER)
    found = outcomes(manager)
    assert found["checksums"] is Outcome.DAMAGED
    assert found["membership"] is Outcome.SKIPPED
    assert main(["raft", "verify", str(manager.path)]) == 74


def test_many_faults_are_counted(manager: StoppedManager) -> None:
    """However many entries are damaged, the line stays a line."""
    for index in range(4, 10):
        manager.sql("UPDATE entries SET data = X'AA' WHERE idx = ?", index)
    texts = [finding.text for finding in verify(manager.path) if finding.check == "checksums"]
    assert texts == ["; ".join(f"entry {i} does not match its checksum" for i in (4, 5, 6)) + "; and 3 more"]
