"""Commands from their arguments to their exit code, against a daemon that keeps services in a dictionary."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli.main import main
from swarmpy.cli.settings import default_data_dir
from swarmpy.errors import RuntimeUnavailable

STACK = "services:\n  web: {image: busybox, deploy: {replicas: 2}}\n  db: {image: busybox}\n"


@pytest.fixture
def stack_file(tmp_path: Path) -> Path:
    """A stack file of two services."""
    file = tmp_path / "stack.yml"
    file.write_text(STACK)
    return file


def test_a_stack_is_created_and_waited_for(swarmpy: Any, daemon: Any, stack_file: Path) -> None:
    """Deploying creates each service in order and returns when all run."""
    outcome = swarmpy("stack", "deploy", "-c", stack_file, "st")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "Creating service st_web",
        "Creating service st_db",
        "st_web  2/2 running",
        "st_db  1/1 running",
    ]
    assert [service["Spec"]["Name"] for service in daemon.services.values()] == ["st_web", "st_db"]


def test_a_second_deployment_changes_only_what_differs(swarmpy: Any, daemon: Any, stack_file: Path) -> None:
    """A service that is as the file says gets no request; one that differs is updated, through a conflict."""
    swarmpy("stack", "deploy", "-d", "-c", stack_file, "st")
    stack_file.write_text(STACK.replace("replicas: 2", "replicas: 3"))
    daemon.conflicts = 2
    daemon.requests.clear()
    outcome = swarmpy("stack", "deploy", "-d", "-c", stack_file, "st")
    assert outcome.out == "Updating service st_web (id: id0)\nService st_db is up to date (id: id1)\n"
    assert daemon.services["id0"]["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert [line for line in daemon.requests if line.startswith("POST")] == ["POST /services/id0/update"] * 3


def test_prune_removes_what_is_not_in_the_file(swarmpy: Any, daemon: Any, stack_file: Path) -> None:
    """Only with --prune are services removed that the file no longer has."""
    swarmpy("stack", "deploy", "-d", "-c", stack_file, "st")
    stack_file.write_text("services:\n  db: {image: busybox}\n")
    swarmpy("stack", "deploy", "-d", "-c", stack_file, "st")
    assert set(daemon.services) == {"id0", "id1"}
    assert "Removing service st_web" in swarmpy("stack", "deploy", "-d", "--prune", "-c", stack_file, "st").out
    assert set(daemon.services) == {"id1"}


def test_waiting_ends_with_the_reason(swarmpy: Any, daemon: Any, stack_file: Path) -> None:
    """A stack that does not come up says why, and the exit code says try again."""
    daemon.task_state, daemon.task_error = "pending", "no suitable node"
    outcome = swarmpy("stack", "deploy", "--timeout", "0.3", "-c", stack_file, "st")
    assert outcome.code == 75
    assert "st_web  pending: no suitable node" in outcome.out
    hint, reason = outcome.err.splitlines()
    assert hint.startswith("The deployment goes on without you")
    assert reason.startswith("swarmpy: not converged within 0.3 s: st_web 0/2 running")
    assert "no suitable node" in outcome.err


def test_a_broken_file_changes_nothing(swarmpy: Any, daemon: Any, stack_file: Path) -> None:
    """A fault in the file is told in one line before any request is made."""
    stack_file.write_text("services:\n  web: {imge: busybox}\n")
    outcome = swarmpy("stack", "deploy", "-c", stack_file, "st")
    assert outcome.code == 1
    assert outcome.err == f'swarmpy: {stack_file}:2: services.web: unknown key "imge" (did you mean "image"?)\n'
    assert daemon.requests == []


def test_stacks_are_listed_and_removed(swarmpy: Any, daemon: Any, stack_file: Path) -> None:
    """A stack is seen in the lists until it is removed; an unknown one is said to be unknown."""
    swarmpy("stack", "deploy", "-d", "-c", stack_file, "st")
    assert swarmpy("stack", "ls").out == "NAME   SERVICES\nst     2\n"
    rows = [json.loads(line) for line in swarmpy("stack", "services", "--format", "json", "st").out.splitlines()]
    assert [row["Name"] for row in rows] == ["st_db", "st_web"]
    assert [line.split()[1] for line in swarmpy("stack", "ps", "st").out.splitlines()] == [
        "NAME", "st_db.1", "st_web.1", "st_web.2",
    ]  # fmt: skip
    assert swarmpy("stack", "rm", "st").out == "Removing service st_db\nRemoving service st_web\n"
    assert daemon.services == {}
    unknown = swarmpy("stack", "rm", "st")
    assert (unknown.code, unknown.err) == (0, "Nothing found in stack: st\n")
    unknown = swarmpy("stack", "ps", "st")
    assert (unknown.code, unknown.err) == (1, "swarmpy: Nothing found in stack: st\n")


def test_services_are_scaled_inspected_and_removed(swarmpy: Any, daemon: Any, stack_file: Path) -> None:
    """A service is found by its name; scaling waits for the tasks."""
    swarmpy("stack", "deploy", "-d", "-c", stack_file, "st")
    assert swarmpy("service", "scale", "st_web=4").out == "st_web scaled to 4\nst_web  4/4 running\n"
    assert json.loads(swarmpy("service", "inspect", "st_web").out)[0]["ID"] == "id0"
    assert len(swarmpy("service", "ps", "-q", "st_web").out.splitlines()) == 4
    assert swarmpy("service", "rm", "id0").out == "id0\n"
    assert swarmpy("service", "ls", "-q").out == "id1\n"
    assert swarmpy("service", "inspect", "nope").err == "swarmpy: service nope not found\n"


def test_a_job_is_scaled_by_its_completions(swarmpy: Any, daemon: Any) -> None:
    """As with docker; a global service has no number of tasks to set."""
    job = {"MaxConcurrent": 2, "TotalCompletions": 5}
    for name, mode in (("job", {"ReplicatedJob": job}), ("all", {"Global": {}})):
        daemon.services[name] = {"ID": name, "Version": {"Index": 1}, "Spec": {"Name": name, "Mode": mode}}
    assert swarmpy("service", "scale", "-d", "job=9").out == "job scaled to 9\n"
    assert daemon.services["job"]["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 9}}
    outcome = swarmpy("service", "scale", "all=2")
    assert (outcome.code, outcome.err.startswith("swarmpy: service all cannot be scaled: it is global")) == (1, True)


def test_a_task_is_meant_by_its_id(swarmpy: Any, daemon: Any) -> None:
    """Whoever gives the name of its slot hears where the id is."""
    outcome = swarmpy("task", "inspect", "web.1")
    assert (outcome.code, outcome.err) == (
        1,
        'swarmpy: page not found: give its id, as "swarmpy service ps SERVICE" shows it\n',
    )


def test_a_role_that_a_node_has_is_not_given_again(swarmpy: Any, daemon: Any) -> None:
    """Nothing is written, and nothing is said to have been done."""
    assert swarmpy("node", "demote", "host").out == "Node host is already a worker.\n"
    assert [line for line in daemon.requests if line.startswith("POST")] == []
    assert swarmpy("node", "promote", "host").out == "Node host promoted to a manager in the cluster.\n"
    assert daemon.nodes["n0"]["Spec"]["Role"] == "manager"


def test_nodes_are_listed_and_changed(swarmpy: Any, daemon: Any) -> None:
    """Labels, availability and role are edits of the node's spec, made again after a conflict."""
    assert swarmpy("node", "ls").out.splitlines()[1].split() == ["n0", "*", "host", "Ready", "Active"]
    daemon.conflicts = 1
    arguments = ("--availability", "drain", "--label-add", "zone=a", "--label-rm", "old")
    assert swarmpy("node", "update", *arguments, "host").out == "host\n"
    assert daemon.nodes["n0"]["Spec"] == {"Role": "worker", "Availability": "drain", "Labels": {"zone": "a"}}
    assert swarmpy("node", "promote", "host").out == "Node host promoted to a manager in the cluster.\n"
    assert daemon.nodes["n0"]["Spec"]["Role"] == "manager"
    assert swarmpy("node", "demote", "host").code == 0
    assert daemon.nodes["n0"]["Spec"]["Role"] == "worker"
    assert json.loads(swarmpy("node", "inspect").out)[0]["ID"] == "n0"
    missing = swarmpy("node", "update", "--label-rm", "nope", "host")
    assert (missing.code, missing.err) == (1, "swarmpy: node host has no label 'nope'\n")
    assert swarmpy("node", "rm", "--force", "n0").out == "n0\n"


def test_status(swarmpy: Any, daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The glance shows consensus, nodes and services."""
    from swarmpy.cli.status import nodes_listing, services_listing, summary

    answer = {
        "cluster_id": "c",
        "leader": {"node_id": "n", "address": "10.0.0.1:2377"},
        "raft": {"role": "follower", "term": 2, "commit": 9, "applied": 8},
        "quorum": {"healthy": False, "managers": 3, "reachable": 1, "needed": 2},
        "nodes": [{"id": "n", "hostname": "h", "role": "manager", "state": "ready", "leader": True}],
        "services": [{"name": "web", "mode": "replicated", "running": 1, "desired": 2, "ports": [], "reason": "r"}],
    }
    assert summary(answer) == [
        "cluster  c",
        "leader   h (10.0.0.1:2377)",
        "quorum   LOST: 1 of 3 managers reachable, 2 needed",
        "raft     follower in term 2, commit 9, applied 8",
    ]
    assert nodes_listing(answer).rows == (("h", "manager", "Ready", "", "Leader", ""),)
    assert services_listing(answer).rows == (("web", "replicated", "1/2", ""),)
    assert summary({})[0].startswith("This node is in no cluster")
    worker = {"cluster_id": "c", "quorum": None, "manager_addresses": [{"address": "10.0.0.1:2377"}]}
    assert summary(worker)[1:] == ["managers 10.0.0.1:2377", "This node is a worker: ask a manager for more."]
    (locked,) = summary({**worker, "state": "locked"})[1:]
    assert "swarmpy swarm unlock" in locked
    assert swarmpy("status").err == "swarmpy: page not found\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], 2, "No such command 'nope'"),
        (["stack", "deploy", "st"], 2, "Missing option"),
        (["stack", "deploy", "-c", "/nope.yml", "st"], 1, "swarmpy: /nope.yml: cannot be read: No such file"),
        (["stack", "deploy", "-c", "/nope.yml", "a b"], 1, "swarmpy: invalid stack name 'a b'"),
        (["service", "scale", "web"], 1, "swarmpy: 'web' is not SERVICE=REPLICAS"),
        (["service", "scale", "web=-1"], 1, "swarmpy: 'web=-1': the number of replicas must be from 0"),
        (["service", "logs", "--tail", "x", "web"], 2, "'x' is neither a number of lines nor all"),
        (["stack", "rm", "--timeout", "soon", "st"], 2, "'soon' is not a number of seconds"),
        (["stack", "rm", "--timeout", "nan", "st"], 2, "'nan' is not a number of seconds"),
        (["stak", "ls"], 2, "No such command 'stak'. Did you mean 'stack'?"),
        (["node", "jion"], 2, "No such command 'jion'. Did you mean 'join'?"),
        (["node", "update", "x"], 2, "nothing to change"),
        (["node", "update", "--availability", "x", "y"], 2, "is not one of"),
        (["node", "update", "--label-add", "=x", "y"], 1, "swarmpy: '=x' is not KEY=VALUE"),
        (["--socket", "tcp://1.2.3.4", "status"], 1, "swarmpy: 'tcp://1.2.3.4' is not a unix socket"),
        (["--data-dir", "/nope", "status"], 75, "swarmpy: cannot reach the swarmpy daemon at /nope/swarmpy.sock"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mistakes end with a message and an exit code that tells their kind, never with a traceback."""
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_help_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    """The list of commands comes from a table, so that it is there at once."""
    import subprocess

    script = (
        "import sys; from swarmpy.cli.main import main; main(['--help']); "
        "sys.exit(','.join(m for m in ('aiohttp', 'asyncio', 'yaml', 'rich', 'cryptography') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in ("status", "stack", "service", "node", "swarm", "dev"))


def test_defects_are_one_line_too(
    swarmpy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A defect is reported as one; where it is shows only on demand."""
    import swarmpy.cli.status as module

    def broken(_: object) -> object:
        raise RuntimeError("oh\nno")

    monkeypatch.setattr(module, "ApiClient", broken)
    outcome = swarmpy("status")
    assert (outcome.code, outcome.err.count("\n")) == (70, 1)
    assert "unexpected RuntimeError: oh no" in outcome.err
    monkeypatch.setenv("SWARMPY_DEBUG", "1")
    assert "Traceback" in swarmpy("status").err


def test_work_side_by_side_fails_in_one_line(swarmpy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When several things fail at once the user hears the first one that says something, with its exit code."""
    import swarmpy.cli.status as module

    def broken(_: object) -> object:
        told = [RuntimeUnavailable("no engine"), RuntimeUnavailable("no engine either")]
        raise ExceptionGroup("several", [ExceptionGroup("inner", [RuntimeError("oh no"), *told])])

    monkeypatch.setattr(module, "ApiClient", broken)
    outcome = swarmpy("status")
    assert (outcome.code, outcome.err) == (69, "swarmpy: no engine\n")


def test_where_the_data_directory_is() -> None:
    """The environment says, or else it is the system's place for root and the user's own for others."""
    assert default_data_dir({"SWARMPY_DATA_DIR": "/x", "HOME": "/h"}, is_root=True) == Path("/x")
    assert default_data_dir({"HOME": "/h"}, is_root=True) == Path("/var/lib/swarmpy")
    assert default_data_dir({"HOME": "/h"}, is_root=False) == Path("/h/.local/share/swarmpy")
