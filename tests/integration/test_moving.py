"""Nodes that come back under other addresses: real daemons on loopback addresses, their data directories kept."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from pathlib import Path
from typing import Any

from hosts import SLEEP, Host, Hosts, refused, services, until

from swarmpy.runtime.free_ports import FIRST

SERVER = """
services:
  web:
    image: none
    command: ["python3", "{program}"]
    deploy:
      replicas: 1
      placement: {{constraints: ["node.role == worker"]}}
    ports: ["{port}:80"]
"""
WHERE = """
import os, socket
server = socket.create_server(("", int(os.environ["PORT"])))
while True:
    connection, _ = server.accept()
    connection.sendall(connection.getsockname()[0].encode())
    connection.close()
"""
"""A server that tells at which address it was reached."""
PORT = 8097


def deploy(host: Host, directory: Path, name: str) -> None:
    """A write."""
    file = directory / f"{name}.yml"
    file.write_text(SLEEP.format(replicas=1, version="1"))
    host.does("stack", "deploy", "-c", file, name, "--detach")


def node_json(host: Host) -> dict[str, Any]:
    """Who and where a node says it is."""
    state: dict[str, Any] = json.loads((host.data_dir / "node.json").read_text())
    return state


def manager_addresses(host: Host) -> set[str]:
    """Where the managers are, as far as a node knows."""
    return {manager["Addr"] for manager in host.api("/info")["Swarm"]["RemoteManagers"] or ()}


def leader_of(hosts: list[Host]) -> Host:
    """Who leads, as all of them say."""

    def known() -> Host | None:
        leaders = {(host.status()["leader"] or {}).get("node_id") for host in hosts}
        return next((host for host in hosts if {host.api("/info")["Swarm"]["NodeID"]} == leaders), None)

    found: Host = until(known, "a leader that all know")
    return found


def move(hosts: Hosts, host: Host, *options: str) -> Host:
    """Stop a node and start it at another address, which it is told."""
    if host.is_up:
        host.kill(signal.SIGTERM)
    there = hosts.moved(host)
    there.resume("--listen-addr", there.cluster_address, *options)
    return there


def check_known(everybody: list[Host], managers: list[Host]) -> None:
    """Each node, worker or manager, knows where all managers are, and managers show it wherever they show addresses."""
    wanted = {manager.cluster_address for manager in managers}
    for host in everybody:
        until(lambda host=host: manager_addresses(host) == wanted, f"{host.name} knows {wanted}")
    for host in managers:
        until(lambda host=host: {m[1] for m in members(host)} == wanted, f"the members as {host.name} sees them")
        until(lambda host=host: all(m[2] for m in members(host)), "all are reachable")
        until(
            lambda host=host: (
                {a["ManagerStatus"]["Addr"] for a in host.api("/nodes") if a.get("ManagerStatus")} == wanted
            ),
            "node inspect shows it",
        )
        until(lambda host=host: {h.address for h in everybody} <= shown(host), f"status at {host.name} shows it")
        assert host.does("swarm", "join-token", "worker").split()[-1] in wanted
    for host in everybody:
        assert node_json(host)["advertise_address"] == node_json(host)["listen_address"] == host.cluster_address


def members(host: Host) -> set[tuple[str, str, bool]]:
    """The Raft group as the leader sees it: name, address, reachable."""
    report = json.loads(host.does("status", "--raft", "--format", "json"))["raft"]
    return {(m["hostname"], m["address"], m["reachable"] and not report["note"]) for m in report["members"]}


def shown(host: Host) -> set[str]:
    """The addresses of all nodes in ``status``."""
    return {node["address"] for node in host.status()["nodes"]}


def test_one_manager_after_the_other_moves(hosts: Hosts, tmp_path: Path) -> None:
    """A follower, then the leader, come back elsewhere; nothing but their own option is needed."""
    *managers, worker = hosts.cluster(3, 1)
    leader = leader_of(managers)
    for moves in (next(m for m in managers if m is not leader), leader):
        moved = move(hosts, moves)
        managers = [moved if m is moves else m for m in managers]
        check_known([*managers, worker], managers)
        deploy(moved, tmp_path, f"from-{moved.address.replace('.', '-')}")
        for host in managers:
            until(lambda host=host, m=moved: f"from-{m.address.replace('.', '-')}_web" in services(host), "all know")
    # The next start needs no option.
    managers[0].kill(signal.SIGTERM)
    managers[0].resume()
    check_known([*managers, worker], managers)


def test_most_managers_move_at_once(hosts: Hosts, tmp_path: Path) -> None:
    """Two of three, the leader among them: they find each other through the one that stayed, without being told."""
    *managers, worker = hosts.cluster(3, 1)
    leader = leader_of(managers)
    stays = next(m for m in managers if m is not leader)
    others = [m for m in managers if m is not stays]
    for host in others:
        host.kill(signal.SIGKILL)
    managers = [stays, *(move(hosts, host) for host in others)]
    check_known([*managers, worker], managers)
    deploy(stays, tmp_path, "after")
    for host in managers:
        until(lambda host=host: "after_web" in services(host), "all know")


def test_all_managers_move_at_once(hosts: Hosts, tmp_path: Path) -> None:
    """Then one of them has to be told where the others are, and a worker where any is."""
    *managers, worker = hosts.cluster(3, 1)
    for host in (*managers, worker):
        host.kill(signal.SIGKILL)
    first = hosts.moved(managers[0])
    second, third = move(hosts, managers[1]), hosts.moved(managers[2])
    first.resume("--listen-addr", first.cluster_address)
    until(lambda: "the other managers have not heard yet" in first.does("status"), "it says what is wrong")
    first.kill(signal.SIGTERM)
    first.resume("--manager-addr", second.cluster_address, "--manager-addr", third.address)
    until(lambda: first.status()["leader"], "two are enough")
    # Of the last one nobody but the first has heard; it comes when the others have long agreed.
    third.resume("--listen-addr", third.cluster_address)
    managers = [first, second, third]
    worker = move(hosts, worker, "--manager-addr", third.address)
    check_known([*managers, worker], managers)
    deploy(third, tmp_path, "after")
    for host in managers:
        until(lambda host=host: "after_web" in services(host), "all know")


def test_the_only_manager_moves_and_its_worker_is_told(hosts: Hosts, tmp_path: Path) -> None:
    """Its worker runs on and finds it when it is started with the new address; it needs to hear it once only."""
    manager, worker = hosts.cluster(1, 1)
    manager = move(hosts, manager)
    check_known([manager], [manager])
    until(lambda: manager.nodes()["host-2"][0] == "down", "the worker is missed")
    until(lambda: "no manager answers" in str(worker.status()["problems"]), "it says what is wrong")
    worker.kill(signal.SIGTERM)
    worker.resume("--manager-addr", manager.address)
    until(lambda: manager.nodes()["host-2"][0] == "ready", "the worker is back")
    check_known([manager, worker], [manager])
    worker.kill(signal.SIGTERM)
    worker.resume()
    deploy(manager, tmp_path, "after")
    until(lambda: len(manager.tasks("after_web")) == 1, "it runs")
    until(lambda: manager.nodes()["host-2"][0] == "ready", "the worker is back, without being told again")


def test_two_managers_move_one_after_the_other(hosts: Hosts) -> None:
    """Each needs the other to agree on the new address, and gets it."""
    managers = hosts.cluster(2, 0)
    for number in (1, 0):
        managers[number] = move(hosts, managers[number])
        check_known(managers, managers)


def test_a_worker_moves_and_its_tasks_are_reached_there(hosts: Hosts, tmp_path: Path) -> None:
    """Requests to the published port of any node go to the task's new address."""
    manager, worker = hosts.cluster(1, 1)
    program, file = tmp_path / "where.py", tmp_path / "stack.yml"
    program.write_text(WHERE)
    file.write_text(SERVER.format(program=program, port=PORT))
    manager.does("stack", "deploy", "-c", file, "shop")

    def reached_at() -> str:
        with contextlib.suppress(OSError), socket.create_connection((manager.address, PORT), timeout=2) as connection:
            return connection.recv(100).decode()
        return ""

    until(lambda: reached_at() == worker.address, "a request through the manager reaches the task")
    worker = move(hosts, worker)
    check_known([manager, worker], [manager])
    until(lambda: reached_at() == worker.address, "and does so at the new address")


def test_addresses_that_cannot_be(hosts: Hosts) -> None:
    """They are refused in one line, and nothing is changed."""
    first = hosts.new()
    first.init()
    first.kill(signal.SIGTERM)
    before = node_json(first)
    run = ["node", "run", *first.own]
    refused(
        first.swarmpy(*run, "--listen-addr", "203.0.113.7:2377"), 1, "203.0.113.7", "not an address of this machine"
    )
    refused(first.swarmpy(*run, "--advertise-addr", "0.0.0.0"), 1, "0.0.0.0", "--advertise-addr")
    refused(first.swarmpy(*run, "--listen-addr", f"{first.address}:70000"), 1, "--listen-addr", "70000")
    refused(first.swarmpy(*run, "--manager-addr", "a:b:c:0"), 1, "--manager-addr")
    assert node_json(first) == before


def test_an_address_that_was_chosen_is_chosen_anew(hosts: Hosts) -> None:
    """A node that nobody gave an address to takes the one its machine has now, when the old one is gone."""
    first = hosts.new()
    # Of all addresses of this machine: the port is nobody else's, as the prefix of this one's is not; and no task's.
    listen = f"0.0.0.0:{FIRST - 1000 + int(first.address.split('.')[2])}"
    first._start("swarm", "init", "--listen-addr", listen, *first.own)
    until(lambda: first.log.count("node join --token") == 2, "founded")
    chosen = node_json(first)["advertise_address"]
    assert node_json(first)["address_chosen"]
    first.kill(signal.SIGTERM)
    # As if the machine had had 203.0.113.7 until it was switched off.
    state = node_json(first) | {"advertise_address": listen.replace("0.0.0.0", "203.0.113.7")}
    (first.data_dir / "node.json").write_text(json.dumps(state))
    first.resume()
    until(lambda: node_json(first)["advertise_address"] == chosen, "its address is written down")
    until(lambda: manager_addresses(first) == {chosen}, "it is where it is")
