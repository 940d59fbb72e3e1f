"""A quorum lost for good: real daemons, two of three managers killed, the cluster begun anew from the third."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from hosts import SLEEP, Host, Hosts, refused, until

FORCE = ("swarm", "init", "--force-new-cluster")


def deploy(host: Host, directory: Path, name: str, replicas: int = 1) -> None:
    """Writes to the cluster."""
    file = directory / f"{name}.yml"
    file.write_text(SLEEP.format(replicas=replicas, version="1"))
    host.does("stack", "deploy", "--compose-file", file, name)


def processes(host: Host, service: str) -> dict[str, tuple[str, int]]:
    """Where the tasks of a service run, and as which process, by the task's id."""
    names = {node["id"]: node["hostname"] for node in host.status()["nodes"]}
    tasks = host.api("/tasks", service=service, **{"desired-state": "running"})
    return {
        task["ID"]: (names[task["NodeID"]], task["Status"]["ContainerStatus"]["PID"])
        for task in tasks
        if task["Status"]["State"] == "running"
    }


def on(found: dict[str, tuple[str, int]], *hosts: Host) -> dict[str, tuple[str, int]]:
    """Those of the tasks that run on ``hosts``."""
    names = {host.name for host in hosts}
    return {task: place for task, place in found.items() if place[0] in names}


def lasting(swarm: dict[str, Any]) -> dict[str, Any]:
    """What of ``GET /swarm`` must never change."""
    return {key: swarm[key] for key in ("ID", "JoinTokens", "TLSInfo", "CreatedAt", "Spec")}


def incarnation(host: Host) -> int:
    """Of the cluster, as its log says."""
    return int(host.status()["cluster"].get("incarnation", 0))


def test_a_survivor_leads_alone_and_the_workers_come_back(hosts: Hosts, tmp_path: Path) -> None:
    """Everything stays but the lost managers; the workers' processes are not touched; then it grows again."""
    first, second, third, one, two = hosts.cluster(3, 2)
    deploy(first, tmp_path, "shop", replicas=8)
    until(lambda: len(processes(first, "shop_web")) == 8, "all run")
    before, swarm, ids = processes(first, "shop_web"), lasting(first.api("/swarm")), first.ids()
    assert on(before, one)
    assert on(before, two)
    refused(third.swarmpy(*FORCE), 1, "needs no force", "3 managers have a quorum", "node demote")
    refused(one.swarmpy(*FORCE), 1, "is a worker")

    first.kill()
    second.kill()
    said = third.does(*FORCE)
    assert f"current node ({ids['host-3']}) is now a manager" in said
    until(lambda: third.nodes()["host-4"][0] == third.nodes()["host-5"][0] == "ready", "the workers are back")
    assert lasting(third.api("/swarm")) == swarm
    assert third.ids() == ids
    until(lambda: len(processes(third, "shop_web")) == 8, "the tasks of the lost are replaced")
    after = processes(third, "shop_web")
    for host in (one, two, third):
        assert on(before, host).items() <= after.items(), "a task that was not lost was touched"
    assert not on(after, first, second)
    assert third.nodes()["host-1"] == ("down", "")
    refused(third.swarmpy(*FORCE), 1, "needs no force", "its only manager")

    newer, newest = hosts.new(), hosts.new()
    for host in (newer, newest):
        host.join(third, "manager")
    until(lambda: third.nodes()["host-7"] == ("ready", "reachable"), "three managers again")
    third.kill()
    until(lambda: lasting(newest.api("/swarm")) == swarm, "another one leads")
    deploy(newer, tmp_path, "later")
    until(lambda: len(processes(newer, "later_web")) == 1, "it works")


def test_lost_managers_that_come_back_together_become_workers(hosts: Hosts, tmp_path: Path) -> None:
    """They would be a majority of the old group. They stand down, keep their log aside, and can be promoted again."""
    first, second, third, one = hosts.cluster(3, 1)
    deploy(first, tmp_path, "shop", replicas=4)
    until(lambda: len(processes(first, "shop_web")) == 4, "all run")
    first.kill()
    second.kill()
    third.does(*FORCE)
    deploy(third, tmp_path, "later", replicas=2)
    until(lambda: third.nodes()["host-4"][0] == "ready", "the worker is back")
    tasks = on(processes(third, "shop_web"), one)

    first.resume()
    second.resume()
    until(
        lambda: third.nodes()["host-1"] == third.nodes()["host-2"] == ("ready", ""),
        "they are workers of the cluster that counts",
    )
    for host in (first, second):
        until(
            lambda host=host: (
                json.loads((host.data_dir / "node.json").read_text()) and not (host.data_dir / "raft").exists()
            ),
            "it has no log",
        )
        assert (host.data_dir / "raft.superseded" / "raft.db").exists()
        refused(host.swarmpy("service", "ls"), 1, "not a swarm manager")
    assert on(processes(third, "shop_web"), one) == tasks
    third.does("node", "promote", "host-1", "host-2")
    until(lambda: third.nodes()["host-1"] == third.nodes()["host-2"] == ("ready", "reachable"), "managers again")
    third.kill()
    until(lambda: {s["Spec"]["Name"] for s in first.api("/services")} == {"shop_web", "later_web"}, "all is there")


def test_begun_anew_while_no_daemon_runs(hosts: Hosts, tmp_path: Path) -> None:
    """The command starts the daemon itself, as on a machine that came up again."""
    first, second = hosts.cluster(2, 0)
    deploy(first, tmp_path, "shop")
    ids = first.ids()
    first.kill()
    second.kill(signal.SIGTERM)
    done = second.swarmpy(*FORCE, "--detach", *second.own)
    assert done.returncode == 0, done.stderr
    assert f"current node ({ids['host-2']}) is now a manager" in done.stdout
    until(lambda: {s["Spec"]["Name"] for s in second.api("/services")} == {"shop_web"}, "it has the state")


def test_a_node_in_no_cluster_has_nothing_to_begin_anew(hosts: Hosts) -> None:
    """It is told what to do instead, and its daemon stays as it was."""
    host = hosts.new()
    host.resume()
    refused(host.swarmpy(*FORCE), 1, "not part of a swarm", "swarm restore")
    assert host.api("/info")["Swarm"]["LocalNodeState"] == "inactive"
