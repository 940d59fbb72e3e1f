"""A quorum lost for good: real daemons, two of three managers killed, the cluster begun anew from the third."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hosts import Host, Hosts, deploy, refused, until

FORCE = ("swarm", "init", "--force-new-cluster")


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
    assert "manager_superseded" not in newer.log + newest.log
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

    third.does("node", "promote", "host-2")
    first.resume()
    second.resume()
    until(lambda: third.nodes()["host-1"] == ("ready", ""), "it is a worker of the cluster that counts")
    until(lambda: third.nodes()["host-2"] == ("ready", "reachable"), "one that was promoted meanwhile joins anew")
    until(lambda: not (first.data_dir / "raft").exists(), "the worker has no log")
    refused(first.swarmpy("service", "ls"), 1, "not a swarm manager")
    for host in (first, second):
        shutil.copytree(host.data_dir / "raft.superseded", tmp_path / f"copy-{host.name}")
        looked = host.does("raft", "dump", tmp_path / f"copy-{host.name}")
        assert "create service shop_web" in looked, "its keys are kept with it"
    assert on(processes(third, "shop_web"), one) == tasks
    third.does("node", "promote", "host-1")
    until(lambda: third.nodes()["host-1"] == ("ready", "reachable"), "it manages again")
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


def test_a_manager_without_its_log_is_no_place_to_begin_from(hosts: Hosts) -> None:
    """It is refused, and goes on waiting for the others, who let it in again."""
    first, second, third = hosts.cluster(3, 0)
    for host in (first, second, third):
        host.kill()
    shutil.rmtree(third.data_dir / "raft")
    third.resume()
    refused(third.swarmpy(*FORCE), 1, "has lost its log", "swarm restore")
    first.resume()
    second.resume()
    until(lambda: third.nodes()["host-3"][1] in ("reachable", "leader"), "it is a manager again")


def test_a_node_in_no_cluster_has_nothing_to_begin_anew(hosts: Hosts) -> None:
    """It is told what to do instead, and its daemon stays as it was."""
    host = hosts.new()
    host.resume()
    refused(host.swarmpy(*FORCE), 1, "not part of a swarm", "swarm restore")
    assert host.api("/info")["Swarm"]["LocalNodeState"] == "inactive"


def test_managers_that_were_only_silent_stand_down(hosts: Hosts, tmp_path: Path) -> None:
    """Stopped and continued, they still have a leader, a quorum and sessions; the later incarnation counts even so.

    The workers knew the leader that does not even refuse them, and one was switched off meanwhile: both find the
    survivor, which neither of them ever had a session with.
    """
    first, second, third, one, two = hosts.cluster(3, 2)
    deploy(first, tmp_path, "shop", replicas=6)
    until(lambda: len(processes(first, "shop_web")) == 6, "all run")
    before = processes(first, "shop_web")
    two.kill()
    for host in (first, second):
        os.kill(host.pid, signal.SIGSTOP)
    try:
        third.does(*FORCE)
        until(lambda: third.nodes()["host-4"][0] == "ready", "the worker is back")
        two.resume()
        until(lambda: third.nodes()["host-5"][0] == "ready", "so is the one that was off")
        assert on(before, one, third).items() <= processes(third, "shop_web").items()
    finally:
        for host in (first, second):
            os.kill(host.pid, signal.SIGCONT)
    until(lambda: third.nodes()["host-1"] == third.nodes()["host-2"] == ("ready", ""), "they are workers")
    until(lambda: len(processes(third, "shop_web")) == 6, "all run")
    assert on(before, one, third).items() <= processes(third, "shop_web").items()
    for host in (first, second):
        assert "manager_superseded" in host.log


def test_killed_in_the_middle_it_is_as_before_or_done(hosts: Hosts, tmp_path: Path) -> None:
    """kill -9 of the daemon at several moments of the work; the command is given again, and then it is done."""
    first, second = hosts.cluster(2, 0)
    deploy(first, tmp_path, "shop")
    ids = first.ids()
    first.kill()
    for number in range(4):
        command = [sys.executable, "-m", "swarmpy", "--data-dir", str(second.data_dir), *FORCE]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as asked:
            until(lambda: (second.data_dir / "raft.next").exists() or asked.poll() is not None, "it has begun")
            time.sleep(0.01 * number)
            second.kill()
            assert asked.stderr is not None
            assert "Traceback" not in asked.stderr.read()
        second.resume()
        if second.swarmpy("service", "ls").returncode == 0:
            break
    if second.swarmpy("service", "ls").returncode:
        second.does(*FORCE)
    until(lambda: {s["Spec"]["Name"] for s in second.api("/services")} == {"shop_web"}, "it has the state")
    assert second.ids() == ids
    assert second.nodes()["host-2"][1] == "leader"
    assert not (second.data_dir / "raft.next").exists()


def test_the_survivor_may_move(hosts: Hosts, tmp_path: Path) -> None:
    """With another address to be reached at. The lost ones find it there, as its leader calls at them."""
    first, second, third = hosts.cluster(3, 0)
    deploy(first, tmp_path, "shop")
    elsewhere = hosts.new()
    first.kill()
    second.kill()
    refused(third.swarmpy(*FORCE, "--advertise-addr", "192.0.2.77:2377"), 1, "cannot listen on 192.0.2.77")
    third.does(*FORCE, "--advertise-addr", elsewhere.cluster_address)
    until(lambda: third.status()["leader"]["address"] == elsewhere.cluster_address, "it leads there")
    first.resume()
    second.resume()
    until(lambda: third.nodes()["host-1"] == third.nodes()["host-2"] == ("ready", ""), "they are workers")


def test_of_two_that_were_begun_anew_the_later_counts(hosts: Hosts, tmp_path: Path) -> None:
    """Two managers that could not see each other, each told to go on alone: when they can, one cluster is left."""
    first, second, third = hosts.cluster(3, 0)
    first.kill()
    os.kill(second.pid, signal.SIGSTOP)
    try:
        third.does(*FORCE)
        deploy(third, tmp_path, "earlier")
        os.kill(third.pid, signal.SIGSTOP)
    finally:
        os.kill(second.pid, signal.SIGCONT)
    try:
        second.does(*FORCE)
        deploy(second, tmp_path, "later")
    finally:
        os.kill(third.pid, signal.SIGCONT)
    until(lambda: second.nodes()["host-3"] == ("ready", ""), "the earlier one's manager is a worker of the later")
    assert {s["Spec"]["Name"] for s in second.api("/services")} == {"later_web"}
    refused(third.swarmpy("service", "ls"), 1, "not a swarm manager")
