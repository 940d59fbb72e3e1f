"""The operator's tools for the Raft log, on real managers: ``status --raft``, ``raft dump``, ``raft verify``."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

from hosts import Host, Hosts, in_process, refused, until

STACK = """
services:
  web:
    image: none
    command: ["sleep", "100000"]
    environment: {PASSWORD: "hunter2"}
    deploy: {replicas: 1}
"""


def raft_status(host: Host) -> dict[str, Any]:
    """The consensus as a manager tells it."""
    report: dict[str, Any] = json.loads(host.does("status", "--raft", "--format", "json"))["raft"]
    return report


def prints(directory: Path) -> dict[str, tuple[str, int, int]]:
    """Bytes and times of everything in a directory."""
    return {
        str(path): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
            path.stat().st_ctime_ns,
        )
        for path in sorted([directory, *directory.rglob("*")])
    }


def test_tools_on_real_managers(hosts: Hosts, tmp_path: Path) -> None:
    """Every manager tells the same of the members; a killed one's log is shown, found to be sound, and left alone."""
    first, second = hosts.cluster(2, 0)
    assert "advice: 2 managers: when either fails" in second.does("status")
    third = hosts.new()
    third.join(first, "manager")
    managers = [first, second, third]
    until(lambda: len([m for m in raft_status(first)["members"] if m["state"] == "replicate"]) == 2, "all are fed")
    assert "advice" not in third.does("status")
    (tmp_path / "stack.yml").write_text(STACK)
    first.does("stack", "deploy", "-c", tmp_path / "stack.yml", "shop")
    for host in managers:
        until(lambda host=host: [m["lag"] for m in raft_status(host)["members"]] == [0, 0, 0], "all have caught up")
        report = raft_status(host)
        assert len([m for m in report["members"] if m["leader"]]) == 1
        assert (report["note"], report["snapshot"]["index"]) == ("", 1)
        assert 0 <= report["snapshot"]["age_s"] < 60
        assert report["log"]["entries"] == report["last_index"] - 1
        assert report["log"]["bytes"] > 1000
        assert len([line for line in host.does("status", "--raft").splitlines() if "2377" in line]) == 4

    refused(in_process("raft", "dump", third.data_dir), 1, "the swarmpy daemon runs on", "status --raft")
    secrets = ["hunter2", "PRIVATE KEY", first.token("worker"), first.token("manager")]
    third.kill(signal.SIGKILL)
    assert (third.data_dir / "raft" / "raft.db-wal").stat().st_size > 0
    before = prints(third.data_dir)
    verified = in_process("raft", "verify", third.data_dir)
    shown = [in_process("raft", "dump", third.data_dir), in_process("raft", "dump", third.data_dir, "--json")]
    assert prints(third.data_dir) == before
    assert (verified.returncode, verified.stdout.splitlines()[-1]) == (0, "verdict: sound")
    assert "services: 1, tasks: 1" in verified.stdout
    stored = b"".join(path.read_bytes() for path in (third.data_dir / "raft").iterdir())
    for secret in secrets:
        assert secret.encode() not in stored
        assert not [done for done in shown if secret in done.stdout + done.stderr]
    assert "create service shop_web" in shown[0].stdout
    assert f"joins as a learner: node {first.ids()['host-3']} at {third.cluster_address}" in shown[0].stdout

    until(lambda: "problem: manager host-3 is not reachable" in second.does("status"), "its absence is noticed")
    gone = next(m for m in raft_status(second)["members"] if m["hostname"] == "host-3")
    assert (gone["reachable"], gone["role"]) == (False, "voter")
    first.kill(signal.SIGKILL)
    until(lambda: raft_status(second)["leader"] is None, "nobody leads")
    alone = raft_status(second)
    assert alone["note"]
    assert len(alone["members"]) == 3
    third.resume()
    until(lambda: raft_status(third)["leader"], "two of three go on, one of them from what was looked at")
