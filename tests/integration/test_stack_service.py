"""Stacks and services from the command line, by swarmpy's own and by the unchanged docker CLI."""

from __future__ import annotations

import json
import time
from pathlib import Path

from hosts import SLEEP, Host, needs_docker_cli, refused, until


def deploy(manager: Host, directory: Path, replicas: int, version: int, *more: str) -> str:
    """Deploys the stack ``st`` with the service ``st_web``."""
    file = directory / "st.yml"
    file.write_text(SLEEP.format(replicas=replicas, version=version))
    return manager.does("stack", "deploy", *more, "-c", file, "st")


def test_a_stack_from_its_first_to_its_last_day(manager: Host, tmp_path: Path) -> None:
    """Create, deploy unchanged, update task by task, look at it, prune, remove."""
    assert deploy(manager, tmp_path, 2, 1).splitlines()[0] == "Creating service st_web"
    before = manager.tasks("st_web")
    assert len(before) == 2
    assert "Service st_web is up to date" in deploy(manager, tmp_path, 2, 1)
    assert manager.tasks("st_web") == before
    assert "Updating service st_web" in deploy(manager, tmp_path, 2, 2)
    after = manager.tasks("st_web")
    assert len(after) == 2
    assert not before.keys() & after.keys()
    (service,) = manager.api("/services")
    assert service["UpdateStatus"]["State"] == "completed"
    assert manager.rows("stack", "ls") == [{"Name": "st", "Services": "1"}]
    (row,) = manager.rows("stack", "services", "st")
    assert (row["Name"], row["Mode"], row["Replicas"], row["Image"]) == ("st_web", "replicated", "2/2", "none:latest")
    rows = manager.rows("stack", "ps", "st")
    assert [(r["Name"], r["DesiredState"]) for r in rows] == [
        ("st_web.1", "Running"),
        (r" \_ st_web.1", "Shutdown"),
        ("st_web.2", "Running"),
        (r" \_ st_web.2", "Shutdown"),
    ]
    other = tmp_path / "other.yml"
    other.write_text("services: {db: {image: none, command: sleep 1000, stop_grace_period: 1s}}\n")
    manager.does("stack", "deploy", "--prune", "--detach", "-c", other, "st")
    assert [s["Spec"]["Name"] for s in manager.api("/services")] == ["st_db"]
    assert manager.does("stack", "rm", "st") == "Removing service st_db\n"
    assert manager.rows("stack", "ls") == []


def test_a_service_is_listed_scaled_and_removed(manager: Host, tmp_path: Path) -> None:
    """The commands on one service, as tables and as JSON."""
    deploy(manager, tmp_path, 1, 1, "--detach")
    said = manager.does("service", "scale", "st_web=3")
    assert said.splitlines()[0] == "st_web scaled to 3"
    assert said.splitlines()[-1] == "st_web  3/3 running"
    assert sorted(manager.tasks("st_web").values()).count("host-2") in (1, 2)
    lines = manager.does("service", "ls").splitlines()
    assert lines[0].split() == ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    assert lines[1].split()[1:] == ["st_web", "replicated", "3/3", "none:latest"]
    names = [row["Name"] for row in manager.rows("service", "ps", "st_web") if row["DesiredState"] == "Running"]
    assert names == ["st_web.1", "st_web.2", "st_web.3"]
    (spec,) = json.loads(manager.does("service", "inspect", "st_web"))
    assert spec["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"] == ["sleep", "100000"]
    manager.does("service", "scale", "st_web=0")
    until(lambda: not manager.tasks("st_web"), "scaled to nothing")
    assert manager.does("service", "rm", "st_web") == "st_web\n"
    refused(manager.swarmpy("service", "ps", "st_web"), 1, "service st_web not found")


def test_a_service_is_made_changed_and_put_back_by_hand(manager: Host) -> None:
    """An update that is rolled back is a failure of the command, a rollback that was asked for is not."""
    options = "--name web --replicas 2 --stop-grace-period 1s --update-monitor 200ms --rollback-monitor 200ms"
    made = manager.does("service", "create", *options.split(), "none", "sleep", "1000").splitlines()
    assert (len(made[0]), made[-1]) == (25, "web  2/2 running")
    update = "service update --update-failure-action rollback --args false web"
    done = manager.swarmpy(*update.split())
    refused(done, 1, "the update of service web was rolled back: rollback completed: update rolled back due to failure")
    said = manager.does("service", "update", "--env-add", "A=1", "--update-parallelism", "0", "web")
    assert said.splitlines()[-1] == "web  2/2 running"
    assert "Env:           A=1\n" in manager.does("service", "inspect", "--pretty", "web")
    task_id = next(iter(manager.tasks("web")))
    assert manager.does("service", "rollback", "web").splitlines()[-1] == "web  2/2 running  (rollback completed)"
    assert "Env:" not in manager.does("service", "inspect", "--pretty", "web")
    told = manager.does("task", "inspect", task_id)
    story = [line.partition("  ")[2] for line in told.partition("\n\n")[2].splitlines()]
    assert story[0] == "new"
    assert (
        story.index("pending")
        < story.index("running")
        < story.index("not wanted any more: the service was rolled back")
    )
    (task,) = json.loads(manager.does("task", "inspect", "--format", "json", task_id))
    assert (task["ID"], task["History"][-1]["State"]) == (task_id, "shutdown")


def test_nodes_and_status(manager: Host, nodes: list[Host]) -> None:
    """Nodes as a table, as JSON and in full; the status of a cluster where nothing is wrong names no problem."""
    lines = manager.does("node", "ls").splitlines()
    assert lines[0].split()[:3] == ["ID", "HOSTNAME", "STATUS"]
    assert [line.split()[1:3] for line in lines[1:]] == [["*", "host-1"], ["host-2", "Ready"]]
    rows = manager.rows("node", "ls")
    assert [(r["ID"], r["Hostname"], r["ManagerStatus"]) for r in rows] == [
        (manager.ids()["host-1"], "host-1", "Leader"),
        (manager.ids()["host-2"], "host-2", ""),
    ]
    (node,) = json.loads(manager.does("node", "inspect", "host-2"))
    assert (node["Spec"]["Role"], node["Status"]["Addr"]) == ("worker", nodes[1].address)
    (own,) = json.loads(manager.does("node", "inspect"))
    assert own["Description"]["Hostname"] == "host-1"
    said = manager.does("status")
    assert "quorum   healthy: 1 of 1 managers reachable, 1 needed" in said
    assert "problem" not in said
    assert "This node is a worker" in nodes[1].does("status")


def test_a_quiet_cluster_is_quiet(manager: Host, nodes: list[Host]) -> None:
    """Looking at a cluster, and heartbeats, leave no line in the daemons' logs."""

    def applied() -> int:
        return int(manager.get("/status")[1]["raft"]["applied"])

    def is_quiet() -> bool:
        before, written = [host.log for host in nodes], applied()
        for command in (["node", "ls"], ["service", "ls"], ["stack", "ls"], ["status"]):
            manager.does(*command)
        time.sleep(1)  # with heartbeats of every node in it
        assert [host.log for host in nodes] == before
        return applied() == written

    # What earlier tests removed may still be going, and a machine that stands still is told of.
    until(is_quiet, "nothing is written, and nothing told")


@needs_docker_cli
def test_docker_cli_looks(manager: Host, tmp_path: Path) -> None:
    """The docker CLI lists and shows what swarmpy runs."""
    deploy(manager, tmp_path, 2, 1)
    template = "{{.Name}} {{.Mode}} {{.Replicas}}"
    assert manager.docker("service", "ls", "--format", template) == "st_web replicated 2/2\n"
    assert manager.docker("stack", "services", "--format", template, "st") == "st_web replicated 2/2\n"
    assert manager.docker("stack", "ps", "--format", "{{.Name}} {{.DesiredState}}", "st").splitlines() == [
        "st_web.1 Running",
        "st_web.2 Running",
    ]
    assert set(manager.docker("service", "ps", "--format", "{{.Node}}", "st_web").split()) == {"host-1", "host-2"}
    assert manager.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}").splitlines() == [
        "host-1 Ready Leader",
        "host-2 Ready ",
    ]
    assert "Replicas:\t2" in manager.docker("service", "inspect", "--pretty", "st_web")


@needs_docker_cli
def test_docker_cli_changes(manager: Host) -> None:
    """The docker CLI creates (and waits until it has converged), scales and removes a service."""
    create = ["service", "create", "--name", "dk", "--replicas", "2", "--stop-grace-period", "1s"]
    said = manager.docker(*create, "none", "sleep", "100000")
    assert "converged" in said
    assert len(manager.tasks("dk")) == 2
    manager.docker("service", "scale", "--detach", "dk=3")
    until(lambda: len(manager.tasks("dk")) == 3, "three tasks run")
    assert manager.docker("service", "rm", "dk") == "dk\n"
    assert manager.docker("service", "ls", "--quiet") == ""


def test_an_update_that_cannot_be_placed_is_given_up_in_time(manager: Host, tmp_path: Path) -> None:
    """At the deadline of its stack file, with the reason where users look; what runs goes on."""
    file = tmp_path / "st.yml"
    text = """
services:
  web:
    image: none
    command: sleep 100000
    stop_grace_period: 1s
    environment: [VERSION={version}]
    deploy:
      update_config: {{order: start-first, failure_action: {action}, x-swarmpy-progress-deadline: 2s, monitor: 1s}}
      placement: {{constraints: ["node.labels.disk{sign}=ssd"]}}
"""
    file.write_text(text.format(version=1, action="pause", sign="!"))
    manager.does("stack", "deploy", "-c", file, "st")
    (before,) = manager.tasks("st_web")
    file.write_text(text.format(version=2, action="pause", sign="="))
    said = refused(manager.swarmpy("stack", "deploy", "-c", file, "st"), 1)
    (service,) = manager.api("/services")
    assert service["UpdateStatus"]["State"] == "paused"
    message = service["UpdateStatus"]["Message"]
    assert message.startswith("update paused as it made no progress for 2 seconds: task ")
    assert "could not be placed: no suitable node (scheduling constraints not satisfied on 2 nodes" in message
    assert message in said
    assert message in manager.does("status")
    assert before in manager.tasks("st_web")
    file.write_text(text.format(version=3, action="rollback", sign="!"))
    manager.does("stack", "deploy", "-c", file, "st")
    file.write_text(text.format(version=4, action="rollback", sign="="))
    assert "update rolled back as it made no progress for 2 seconds" in refused(
        manager.swarmpy("stack", "deploy", "-c", file, "st"), 1
    )
    until(
        lambda: manager.api("/services")[0]["UpdateStatus"]["State"] == "rollback_completed", "it has been rolled back"
    )
