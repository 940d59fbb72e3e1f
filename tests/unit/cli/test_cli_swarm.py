"""``swarm init`` and ``swarm update``: what becomes of the cluster's settings on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.main import main

MS = 1_000_000


@pytest.fixture
def run(daemon: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line against the daemon; the exit code, and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["--socket", str(daemon.socket), "swarm", *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_settings_are_changed(run: Any, daemon: Any) -> None:
    """Only what is given changes; after a conflict it is tried again on what is there then."""
    daemon.swarm["Spec"] = {"Name": "default", "CAConfig": {"NodeCertExpiry": 7}, "Raft": {"KeepOldSnapshots": 0}}
    daemon.conflicts = 1
    arguments = ("--task-history-limit", "3", "--dispatcher-heartbeat", "5s", "--snapshot-interval", "200")
    assert run("update", *arguments) == (0, "Swarm updated.\n")
    assert daemon.swarm["Spec"] == {
        "Name": "default",
        "CAConfig": {"NodeCertExpiry": 7},
        "Raft": {"KeepOldSnapshots": 0, "SnapshotInterval": 200},
        "Orchestration": {"TaskHistoryRetentionLimit": 3},
        "Dispatcher": {"HeartbeatPeriod": 5_000 * MS},
    }
    assert run("update", "--cert-expiry", "48h")[0] == 0
    assert daemon.swarm["Spec"]["CAConfig"] == {"NodeCertExpiry": 48 * 3_600_000 * MS}


def test_a_join_token_is_rotated(run: Any, daemon: Any) -> None:
    """That of the role which is given, and no other; after a conflict it is tried again."""
    daemon.conflicts = 1
    code, said = run("join-token", "--rotate", "worker")
    assert (code, said.splitlines()[0]) == (0, "Successfully rotated worker join token.")
    assert "swarmpy node join --token W " in said
    assert run("join-token", "--rotate", "-q", "manager") == (0, "M\n")
    asked = [query for query in daemon.queries if "version" in query]
    assert [sorted({*query} - {"version"}) for query in asked] == [["rotateWorkerToken"]] * 2 + [["rotateManagerToken"]]
    assert daemon.swarm["Spec"] == {"Name": "default"}


def test_timing_is_changed(run: Any, daemon: Any) -> None:
    """Heartbeat and election timeout are kept exactly, also when one of them is given alone."""
    assert run("update", "--heartbeat-interval", "250ms", "--election-timeout", "2s")[0] == 0
    assert daemon.swarm["Spec"]["Raft"] == {"TickInterval": 250 * MS, "HeartbeatTick": 1, "ElectionTick": 8}
    assert run("update", "--election-timeout", "1900ms")[0] == 0
    assert daemon.swarm["Spec"]["Raft"] == {"TickInterval": 50 * MS, "HeartbeatTick": 5, "ElectionTick": 38}


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (
            ("--election-timeout", "400ms"),
            1,
            "the election timeout of 400 ms is too short for a heartbeat every",
        ),
        (("--heartbeat-interval", "5ms"), 1, "the heartbeat interval is 5 ms: it must be between 10 ms and 60 s"),
        (("--election-timeout", "2m"), 1, "the election timeout is 120000 ms"),
        (("--election-timeout", "fast"), 2, "is not a duration"),
        (("--snapshot-interval", "0"), 2, "not in the range"),
        ((), 2, "nothing to change"),
    ],
)
def test_refusals(run: Any, daemon: Any, arguments: tuple[str, ...], code: int, reason: str) -> None:
    """What no cluster could live with is refused before anything is asked of it."""
    refused, said = run("update", *arguments)
    assert refused == code
    assert reason in said
    assert daemon.swarm["Spec"] == {"Name": "default"}


def test_founding_with_settings(run: Any, daemon: Any) -> None:
    """A cluster can be founded with its settings; without any it has the defaults."""
    code, said = run("init", "--heartbeat-interval", "500ms", "--election-timeout", "5s", "--task-history-limit", "1")
    assert code == 0
    assert "Swarm initialized" in said
    assert run("init")[0] == 0
    assert [body["Spec"] for body in daemon.inits] == [
        {
            "Orchestration": {"TaskHistoryRetentionLimit": 1},
            "Raft": {"TickInterval": 500 * MS, "HeartbeatTick": 1, "ElectionTick": 10},
        },
        {},
    ]


def test_founding_with_bad_settings(run: Any, daemon: Any) -> None:
    """Settings that do not go together found nothing."""
    code, said = run("init", "--heartbeat-interval", "500ms")
    assert (code, daemon.inits) == (1, [])
    assert "too short for a heartbeat every 500 ms" in said


def test_a_new_cluster_by_force_keeps_its_settings(run: Any) -> None:
    """Options that would change them are refused, as they would do nothing."""
    code, said = run("init", "--force-new-cluster", "--task-history-limit", "3")
    assert code == 2
    assert "--force-new-cluster keeps the settings" in said
