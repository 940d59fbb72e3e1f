"""Jobs on real daemons: plain processes that complete, by the unchanged docker CLI and by stack files."""

from __future__ import annotations

from pathlib import Path

from hosts import Host, needs_docker_cli, until


def shown(manager: Host, name: str) -> str:
    """The columns of ``docker service ls`` that say what a service does."""
    columns = "{{.Mode}} {{.Replicas}}"
    return manager.docker("service", "ls", "--filter", f"name={name}", "--format", columns).strip()


@needs_docker_cli
def test_a_replicated_job_by_the_docker_command(manager: Host, tmp_path: Path) -> None:
    """The command waits until it has completed; it runs again when it is told to, and never more than is asked for."""
    log = tmp_path / "runs"
    script = f"echo $$ >> {log}; sleep 0.3"
    create = "service create --name work --mode replicated-job --replicas 5 --max-concurrent 2 --no-resolve-image"
    said = manager.docker(*create.split(), "none", "sh", "-c", script)
    assert "job complete" in said
    assert shown(manager, "work") == "replicated job 0/0 (5/5 completed)"
    assert len(log.read_text().split()) == 5
    rows = manager.docker("service", "ps", "work", "--format", "{{.Name}} {{.DesiredState}} {{.CurrentState}}")
    assert [row.split()[1:3] for row in rows.splitlines()] == [["Complete", "Complete"]] * 5
    # The docker command takes slot 0 for none.
    assert {row.split()[0] for row in rows.splitlines()} > {"work.1", "work.2", "work.3", "work.4"}
    assert sorted(row["Name"] for row in manager.rows("service", "ps", "work")) == [f"work.{n}" for n in range(5)]
    manager.docker("service", "update", "--force", "--no-resolve-image", "work")
    assert shown(manager, "work") == "replicated job 0/0 (5/5 completed)"
    assert len(log.read_text().split()) == 10
    assert manager.api("/services")[0]["JobStatus"]["JobIteration"] == {"Index": 1}


@needs_docker_cli
def test_a_job_that_fails_is_tried_again(manager: Host, tmp_path: Path) -> None:
    """It fails twice and completes then; one that may not be tried again stays failed."""
    log = tmp_path / "runs"
    script = f"echo x >> {log}; test $(wc -l < {log}) -gt 2"
    create = "service create --mode replicated-job --no-resolve-image --restart-delay 100ms"
    said = manager.docker(*create.split(), "--name", "again", "none", "sh", "-c", script)
    assert "job complete" in said
    states = [task["Status"]["State"] for task in manager.api("/tasks")]
    assert sorted(states) == ["complete", "failed", "failed"]
    manager.docker(*create.split(), "-d", "--restart-condition", "none", "--name", "once", "none", "false")
    until(lambda: "failed" in manager.docker("service", "ps", "once").lower(), "it has failed")
    assert shown(manager, "once") == "replicated job 0/1 (0/1 completed)"
    assert len(manager.docker("service", "ps", "-q", "once").split()) == 1


@needs_docker_cli
def test_a_global_job_by_the_docker_command(manager: Host, tmp_path: Path) -> None:
    """Once on each node."""
    said = manager.docker(
        *["service", "create", "--name", "each", "--mode", "global-job", "--no-resolve-image", "none", "sh", "-c"],
        f"echo x >> {tmp_path / 'runs'}",
    )
    assert "job complete" in said
    assert shown(manager, "each") == "global job 0/0 (2/2 completed)"
    assert (tmp_path / "runs").read_text() == "x\nx\n"


def test_jobs_of_a_stack(manager: Host, tmp_path: Path) -> None:
    """``stack deploy`` waits for them to complete, and runs only those again that have changed."""
    file, log = tmp_path / "st.yml", tmp_path / "runs"
    text = """
services:
  migrate:
    image: none
    command: ["sh", "-c", "echo migrate >> {log}"]
    environment: [VERSION={version}]
    deploy: {{mode: replicated-job}}
  each:
    image: none
    command: ["sh", "-c", "echo each >> {log}"]
    deploy: {{mode: global-job}}
"""
    file.write_text(text.format(log=log, version=1))
    assert "st_migrate  1/1 completed" in manager.does("stack", "deploy", "-c", file, "st")
    rows = manager.rows("stack", "services", "st")
    assert sorted((row["Name"], row["Mode"], row["Replicas"]) for row in rows) == [
        ("st_each", "global-job", "0/0 (2/2 completed)"),
        ("st_migrate", "replicated-job", "0/0 (1/1 completed)"),
    ]
    file.write_text(text.format(log=log, version=2))
    manager.does("stack", "deploy", "-c", file, "st")
    assert sorted(log.read_text().split()) == ["each", "each", "migrate", "migrate"]
