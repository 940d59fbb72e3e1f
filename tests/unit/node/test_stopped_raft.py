"""``raft dump``: what is shown, what never is, and that looking changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from stopped_manager import SECRETS, TASK, StoppedManager, entries, json_lines

from swarmpy.cli.main import main
from swarmpy.model import codec
from swarmpy.model.changes import ChangeList
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.patches import TaskPatch
from swarmpy.model.states import TaskState
from swarmpy.model.summary import patch_summaries
from swarmpy.node.datadir import DataDir
from swarmpy.wire.log import SqliteLog

BECOME_NOBODY = """
import os, sys
import swarmpy.cli.raft
from swarmpy.cli.main import main
os.setuid(65534)
sys.exit(main())
"""


WORDS = {
    2: "a leader's first entry",
    3: "create cluster default (thecluster); create node alpha (node1)",
    4: "member 2 joins as a learner: node node2 at 10.0.0.2:2377",
    5: "member 2 gets its vote",
    6: "create service web (service1)",
    7: "create task web.1 (task1); update service web (service1): spec.replicas",
    8: "update service web (service1): spec.task.container.env",
    9: "a leader's first entry",
}


@pytest.fixture
async def manager(tmp_path: Path) -> StoppedManager:
    """A manager that was stopped in good order."""
    made = StoppedManager(tmp_path / "data")
    await made.fill()
    return made


@pytest.fixture
async def killed(tmp_path: Path) -> StoppedManager:
    """A manager whose daemon was killed: much of its log is in the WAL only."""
    made = StoppedManager(tmp_path / "data")
    await made.fill(killed=True)
    assert (made.raft / "raft.db-wal").stat().st_size > 0
    return made


def dumped(manager: StoppedManager, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    """The entries of a dump as JSON."""
    assert main(["raft", "dump", str(manager.path), "--json", *options]) == 0
    return [record for record in json_lines(capsys.readouterr().out) if record["type"] == "entry"]


def test_tells_what_is_stored(manager: StoppedManager, capsys: pytest.CaptureFixture[str]) -> None:
    """Hard state, snapshot with its members, entries in words."""
    assert main(["raft", "dump", str(manager.path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch("database    generation [0-9]+", said[0])
    assert said[1:4] == [
        "hard state  term 3, vote 2, commit 8",
        "snapshot    index 1, term 1, 0 bytes, sha256 ok",
        "  voter     1 node node1 at 10.0.0.1:2377",
    ]
    assert said[4].startswith("entries     8: 2..9, ")
    assert [line.split(maxsplit=4) for line in said[5:]] == [
        ["INDEX", "TERM", "KIND", "BYTES", "WHAT"],
        *([str(e.index), str(e.term), e.kind.name.lower(), str(len(e.data)), WORDS[e.index]] for e in entries()),
    ]


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
async def test_tells_no_secret(
    manager: StoppedManager, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """Tokens, keys, environment, arguments and labels are in the log and not in what is shown, damaged or not."""
    stored = (manager.raft / "raft.db").read_bytes()
    assert all(secret.encode() in stored for secret in SECRETS)
    manager.rewrite(7, term=2, data=b"\x01\x81\xa7changes\x91\x81\xa6action\xa7hunter2")
    assert main(["raft", "dump", str(manager.path), *options]) == 74
    assert main(["raft", "verify", str(manager.path)]) == 74
    shown = capsys.readouterr()
    assert "cannot be decoded" in shown.out
    assert not [secret for secret in SECRETS if secret in shown.out + shown.err]


@pytest.mark.parametrize(
    ("options", "indexes"),
    [
        ((), [2, 3, 4, 5, 6, 7, 8, 9]),
        (("--from", "5", "--to", "7"), [5, 6, 7]),
        (("--from", "8", "--limit", "1"), [8]),
        (("--limit", "0"), []),
        (("--no-entries",), []),
        (("--from", "100"), []),
    ],
)
def test_filters(
    manager: StoppedManager, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], indexes: list[int]
) -> None:
    """A range, a number, or none of the entries; what an update changes is told in the middle of the log too."""
    found = dumped(manager, capsys, *options)
    assert [entry["index"] for entry in found] == indexes
    if 8 in indexes:
        changes = found[indexes.index(8)]["changes"]
        assert changes == [
            {
                "action": "update",
                "kind": "service",
                "id": "service1",
                "name": "web",
                "fields": ["spec.task.container.env"],
            }
        ]


def test_what_a_patch_changes_is_told_task_by_task(manager: StoppedManager, capsys: pytest.CaptureFixture[str]) -> None:
    """With names and fields as far as the state before is known, else with the fields that it has."""
    status = TaskStatus(state=TaskState.ASSIGNED)
    patch = TaskPatch(ids=(TASK.id,), node_id=(NodeId("node1"),), status=(status,))
    manager.rewrite(8, term=2, data=codec.encode(ChangeList(changes=(), patches=(patch,)), codec.SERVICES_VERSION))
    (entry,) = dumped(manager, capsys, "--from", "8", "--limit", "1")
    assert entry["summary"] == "update task web.1 (task1): node_id, status.state"
    unknown = patch_summaries(attrs.evolve(patch, ids=(TASK.id, TaskId("task2"))), [None, TASK])
    assert [str(each) for each in unknown] == [f"update task {name}: node_id, status" for name in ("task1", "task2")]


async def test_kept_tail_before_the_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of entries before the snapshot the state is not known, so what an update changes is not; after it, it is."""
    manager = StoppedManager(tmp_path / "data")
    await manager.fill(snapshot_at=7, keep_from=6)
    found = dumped(manager, capsys)
    assert [(entry["index"], entry["summary"]) for entry in found] == [
        (6, "create service web (service1)"),
        (7, "create task web.1 (task1); update service web (service1)"),
        (8, "update service web (service1): spec.task.container.env"),
        (9, "a leader's first entry"),
    ]


def test_damage_is_marked_and_does_not_stop(manager: StoppedManager, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged entry is shown as such, the others are told all the same, and the exit code says it."""
    manager.sql("UPDATE entries SET data = X'0102' WHERE idx = 6")
    assert main(["raft", "dump", str(manager.path)]) == 74
    shown = capsys.readouterr()
    assert "         6       2  normal              2  DAMAGED: does not match its checksum" in shown.out.splitlines()
    assert shown.out.splitlines()[-2].endswith("update service web (service1)")
    assert shown.err.count("\n") == 1
    assert "swarmpy raft verify" in shown.err


@pytest.mark.parametrize("state", ["manager", "killed"])
@pytest.mark.parametrize("command", ["dump", "verify"])
def test_changes_nothing(request: pytest.FixtureRequest, command: str, state: str) -> None:
    """Not a byte, a name or a time of change in the directory, whether the daemon was stopped or killed."""
    looked_at: StoppedManager = request.getfixturevalue(state)
    before = looked_at.prints()
    assert main(["raft", command, str(looked_at.path)]) == 0
    assert looked_at.prints() == before


def test_reads_the_write_ahead_log(
    killed: StoppedManager, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the WAL only is shown, from a private copy that is removed afterwards."""
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    assert len(dumped(killed, capsys)) == 8
    assert list(copies.iterdir()) == []


async def test_only_without_a_daemon(manager: StoppedManager, capsys: pytest.CaptureFixture[str]) -> None:
    """While a daemon holds the directory, or anybody the log, one line says so."""
    data = DataDir(manager.path)
    data.open()
    assert main(["raft", "dump", str(manager.path)]) == 1
    assert "the swarmpy daemon runs on" in capsys.readouterr().err
    data.close()
    log = SqliteLog(manager.raft)
    await log.load()
    assert main(["raft", "verify", str(manager.path)]) == 1
    assert "is locked" in capsys.readouterr().err
    await log.close()
    assert main(["raft", "verify", str(manager.path)]) == 0


def test_what_is_no_log(manager: StoppedManager, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No directory, an empty one, a worker's, a file, garbage: one line and the right exit code."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "worker").mkdir()
    shutil.copy(manager.path / "node.json", tmp_path / "worker")
    (tmp_path / "file").touch()
    for name, content in (("garbage", b"garbage" * 1000), ("nothing", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "raft.db").write_bytes(content)
    shutil.copytree(manager.path, tmp_path / "headless")
    (tmp_path / "headless" / "raft" / "raft.db").unlink()
    for name, code, word in (
        ("absent", 1, "there is no directory"),
        ("empty", 1, "holds no raft log"),
        ("worker", 1, "this node is no manager"),
        ("file", 1, "is not a directory"),
        ("garbage", 74, "no raft log"),
        ("nothing", 74, "no raft log"),
        ("headless", 74, "raft.db is missing"),
    ):
        for command in ("dump", "verify"):
            assert main(["raft", command, str(tmp_path / name)]) == code, name
            said = capsys.readouterr().err
            assert word in said
            assert said.count("\n") == 1


def test_the_log_directory_itself(manager: StoppedManager, tmp_path: Path) -> None:
    """A copy of the log's directory alone can be looked at as well."""
    shutil.copytree(manager.raft, tmp_path / "copy")
    assert main(["raft", "verify", str(tmp_path / "copy")]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_else(manager: StoppedManager) -> None:
    """Who may not read the directory is told whose turn it is."""
    manager.path.parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", BECOME_NOBODY, "raft", "verify", str(manager.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "permission denied: run this as the daemon's user" in done.stderr
