"""A cluster made, changed and left by hand, one command after the other, as on real machines."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from hosts import SLEEP, Host, Hosts, refused, swarmpy, until

from swarmpy.cli.client import ApiClient


def deploy(host: Host, replicas: int, name: str = "st") -> None:
    """A stack of one service ``NAME_web`` that sleeps."""
    host.data_dir.mkdir(exist_ok=True)
    file = host.data_dir / "stack.yml"
    file.write_text(SLEEP.format(replicas=replicas, version=1))
    host.does("stack", "deploy", "-c", file, name)


def is_quiet(host: Host) -> bool:
    """Checks that a daemon has said nothing of a defect."""
    for word in ("Traceback", "never retrieved", "never awaited", "request_failed", "handler_failed"):
        assert word not in host.log, host.log
    return True


def test_two_commands_make_a_cluster(hosts: Hosts) -> None:
    """``swarm init`` prints the command that makes another machine a worker, and that command works as printed."""
    first, second = hosts.new(), hosts.new()
    said = first.init()
    commands = [line.split() for line in said.splitlines() if line.startswith("    swarmpy node join --token ")]
    assert [command[1:4] for command in commands] == [["node", "join", "--token"]] * 2
    assert commands[0][4:] == [first.token("worker"), first.cluster_address]
    assert commands[1][4:] == [first.token("manager"), first.cluster_address]
    own = ["--detach", "--listen-addr", second.cluster_address, *second.own]
    assert second.does(*commands[0][1:], *own).startswith("This node joined a swarm as a worker.\n")
    assert first.nodes() == {first.name: ("ready", "leader"), second.name: ("ready", "")}
    refused(first.swarmpy("swarm", "init"), 1, "This node is already part of a swarm", '"swarm leave"')
    assert is_quiet(first)
    assert is_quiet(second)


def test_more_signals_while_it_ends_change_nothing(hosts: Hosts) -> None:
    """Whoever sends SIGTERM again and again, until the process is gone, sees the same good end."""
    host = hosts.new()
    host.init()
    while host.is_up:
        os.kill(host.pid, signal.SIGTERM)
        time.sleep(0.001)
    assert host.kill(signal.SIGTERM) == 0
    assert is_quiet(host)


def test_a_daemon_ends_and_goes_on(hosts: Hosts) -> None:
    """SIGTERM ends the daemon with exit code 0 and no socket left; ``node run`` is the same node again."""
    host = hosts.new()
    host.init()
    before = host.status()
    refused(host.swarmpy("node", "run"), 1, "another swarmpy daemon runs on", "--data-dir")
    assert host.kill(signal.SIGTERM) == 0
    assert is_quiet(host)
    assert not (host.data_dir / "swarmpy.sock").exists()
    assert host.does("node", "run", "--detach", *host.own) == f"The daemon runs: {host.data_dir}/swarmpy.sock\n"
    until(lambda: host.status()["leader"], "it leads again")
    after = host.status()
    assert (after["cluster_id"], after["node_id"]) == (before["cluster_id"], before["node_id"])


def test_the_data_directory_may_be_named_last(hosts: Hosts) -> None:
    """``--data-dir`` is an option of the daemon's commands too, and overrides the global one."""
    host = hosts.new()
    own = ["--detach", "--listen-addr", host.cluster_address, *host.own]
    swarmpy("--data-dir", "/nonexistent/x", "swarm", "init", *own, "--data-dir", host.data_dir).check_returncode()
    assert host.status()["state"] == "active"
    done = swarmpy("swarm", "leave", "--force", "--data-dir", host.data_dir)
    assert done.stdout == "Node left the swarm.\n"


def test_killed_nodes_go_on_where_they_were(hosts: Hosts) -> None:
    """After kill -9 of a manager and of a worker ``node run`` makes each the node it was, and the tasks run again."""
    manager, worker = hosts.cluster(1, 1)
    deploy(manager, 2)
    before = manager.ids()
    worker.kill()
    manager.kill()
    manager.resume()
    worker.resume()
    until(lambda: len(manager.tasks("st_web")) == 2, "both tasks run")
    until(lambda: all(state == "ready" for state, _ in manager.nodes().values()), "both nodes are ready")
    assert manager.ids() == before
    assert is_quiet(manager)
    assert is_quiet(worker)


def test_a_daemon_outside_of_any_cluster(hosts: Hosts) -> None:
    """On an empty directory the API is there: inactive, with clear refusals, and it is told to found and to leave."""
    host = hosts.new()
    host.resume()
    for command in (["service", "ls"], ["node", "ls"], ["swarm", "join-token", "worker"]):
        refused(host.swarmpy(*command), 1, "This node is not a swarm manager")
    refused(host.swarmpy("swarm", "leave"), 1, "This node is not part of a swarm")
    assert host.does("status").startswith("This node is in no cluster")
    assert host.get("/readyz")[0] == 503

    async def use_the_api() -> None:
        async with ApiClient(host.data_dir / "swarmpy.sock") as client:
            ids = set()
            for _ in range(3):
                assert (await client.info())["Swarm"]["LocalNodeState"] == "inactive"
                address = host.cluster_address
                ids.add(await client.post("/swarm/init", {"ListenAddr": address, "AdvertiseAddr": address}))
                assert (await client.info())["Swarm"]["LocalNodeState"] == "active"
                assert [node["Status"]["State"] for node in await client.nodes()] == ["ready"]
                await client.post("/swarm/leave", query={"force": "1"})
            assert len(ids) == 3

    asyncio.run(use_the_api())
    assert sorted(entry.name for entry in host.data_dir.iterdir()) == [
        "audit.log",
        "daemon.log",
        "lock",
        "swarmpy.sock",
    ]
    assert is_quiet(host)


def test_a_worker_leaves_and_joins_again(hosts: Hosts) -> None:
    """A worker that leaves stops its tasks, is down, can be removed, and joins anew with another identity."""
    manager, worker = hosts.cluster(1, 1)
    manager.does("node", "update", "--availability", "drain", manager.name)
    deploy(manager, 2)
    assert set(manager.tasks("st_web").values()) == {worker.name}
    first_id = manager.ids()[worker.name]
    refused(manager.swarmpy("node", "rm", worker.name), 1, "is not down and can't be removed")
    left = worker.swarmpy("swarm", "leave")
    assert (left.returncode, left.stdout.splitlines()[-1]) == (0, "Node left the swarm."), left
    assert "lost: st_web: 2 not running elsewhere: pending: no suitable node (" in left.stderr
    until(lambda: manager.nodes()[worker.name][0] == "down", "the node is down")
    assert manager.does("node", "rm", worker.name) == f"{worker.name}\n"
    assert set(manager.nodes()) == {manager.name}
    problems = "\n".join(manager.status()["problems"])
    assert "service st_web: 0 of 2 tasks running" in problems
    worker.join(manager)
    until(lambda: len(manager.tasks("st_web")) == 2, "the tasks run on the node that has come back")
    assert manager.ids()[worker.name] != first_id
    refused(manager.swarmpy("swarm", "leave"), 1, "participating as a manager", "--force")
    assert is_quiet(manager)
    assert is_quiet(worker)


def test_roles_change_live(hosts: Hosts) -> None:
    """A worker becomes a manager and a worker again without a restart; a leader that is demoted hands over first."""
    first, second = hosts.cluster(1, 1)
    deploy(first, 2)
    tasks = first.tasks("st_web")
    pids = first.pid, second.pid
    first.does("node", "promote", second.name)
    until(lambda: first.nodes()[second.name][1] == "reachable", "the second has a vote")
    until(lambda: second.is_manager, "the second answers as a manager")
    first.does("node", "demote", first.name)
    until(lambda: second.nodes()[second.name][1] == "leader", "the second leads")
    until(lambda: second.nodes()[first.name][1] == "", "the first is a worker")
    until(lambda: first.status()["quorum"] is None, "the first knows that it is a worker")
    refused(first.swarmpy("service", "ls"), 1, "Worker nodes can't be used to view or modify cluster state")
    refused(second.swarmpy("node", "demote", second.name), 1, "the last manager")
    second.does("node", "promote", first.name)
    until(lambda: first.is_manager, "the first is a manager again")
    until(lambda: first.nodes() == {first.name: ("ready", "reachable"), second.name: ("ready", "leader")}, "a vote")
    refused(second.swarmpy("node", "rm", "--force", first.name), 1, "must be demoted to worker before removal")
    assert (first.pid, second.pid) == pids
    assert second.tasks("st_web") == tasks
    assert is_quiet(first)
    assert is_quiet(second)


def test_availability_and_labels(hosts: Hosts) -> None:
    """Drain moves tasks away, pause keeps new ones out, and a label attracts those with a constraint."""
    manager, worker = hosts.cluster(1, 1)
    manager.does("node", "update", "--availability", "drain", manager.name)
    deploy(manager, 2)
    assert set(manager.tasks("st_web").values()) == {worker.name}
    manager.does("node", "update", "--availability", "active", manager.name)
    said = manager.does("node", "update", "--availability", "drain", "--wait", worker.name).splitlines()
    assert list(manager.tasks("st_web").values()) == [manager.name] * 2
    assert said[0] == worker.name
    assert {f"{worker.name}  no tasks left", "st_web  2/2 moved"} <= set(said)
    on_worker = manager.api("/tasks", node=worker.name)
    assert [task["Status"]["State"] for task in on_worker] == ["shutdown"] * 2
    manager.does("node", "update", "--availability", "active", worker.name)
    manager.does("node", "update", "--availability", "pause", manager.name)
    manager.does("service", "scale", "st_web=4")
    assert sorted(manager.tasks("st_web").values()) == [manager.name] * 2 + [worker.name] * 2
    file = hosts.directory / "zone.yml"
    file.write_text(
        "services: {web: {image: none, command: sleep 1000, stop_grace_period: 1s, "
        "x-swarmpy-max-unavailable: 1, deploy: {replicas: 2, placement: {constraints: [node.labels.zone == a]}}}}\n"
    )
    manager.does("stack", "deploy", "--detach", "-c", file, "zone")
    until(lambda: any("zone_web" in p and "no suitable node" in p for p in manager.status()["problems"]), "it waits")
    manager.does("node", "update", "--label-add", "zone=a", worker.name)
    until(lambda: list(manager.tasks("zone_web").values()) == [worker.name] * 2, "it runs where the label is")
    waiting = ("node", "update", "--availability", "drain", "--wait", "--timeout", "1", worker.name)
    words = (f"node {worker.name} is not drained after 1 s", "st_web 0/2 moved", "1 node paused", "1 node drained")
    refused(manager.swarmpy(*waiting), 1, *words, "1 task left (running 1): waits: zone_web may miss at most 1 task")
    assert len(manager.tasks("zone_web")) == 1
    assert is_quiet(manager)
    assert is_quiet(worker)


def test_a_manager_without_its_log_comes_back(hosts: Hosts) -> None:
    """A manager whose log was lost gets all from the others; it votes as somebody new, never again as who it was."""
    first, second, third = hosts.cluster(3, 0)
    third.kill()
    for file in (third.data_dir / "raft").iterdir():
        file.unlink()
    (third.data_dir / "raft").rmdir()
    third.resume()
    until(lambda: (third.status()["quorum"] or {}).get("managers") == 3, "three managers", timeout=40)
    until(lambda: third.nodes().keys() == first.nodes().keys(), "it knows all nodes")
    until(lambda: third.nodes()[third.name][1] == "reachable", "it has a vote")
    second.kill(signal.SIGTERM)
    until(lambda: len(third.nodes()) == 3, "first and third are a quorum")
    assert is_quiet(third)


def test_a_removed_node_stops_its_tasks_and_says_why(hosts: Hosts) -> None:
    """A node that is removed while it runs ends its tasks, is not ready, says what to do, and can join again."""
    manager, worker = hosts.cluster(1, 1)
    manager.does("node", "update", "--availability", "drain", manager.name)
    deploy(manager, 2)
    tasks = set(manager.tasks("st_web"))
    assert len(tasks) == 2

    def left() -> set[str]:
        return tasks & {entry.name for entry in (worker.data_dir / "tasks").iterdir()}

    assert left() == tasks
    manager.does("node", "rm", "--force", worker.name)
    until(lambda: not left(), "no task is left on the node")
    until(lambda: worker.get("/readyz")[0] == 503, "the node is not ready")
    assert "was removed from the cluster: leave it and join again" in worker.get("/readyz")[1]["reason"]
    assert worker.log.count("event=node_removed") == 1
    worker.does("swarm", "leave")
    worker.join(manager)
    until(lambda: len(manager.tasks("st_web")) == 2, "the tasks run on the node that has come back")
    assert is_quiet(manager)
    assert is_quiet(worker)
