"""The root CA of real clusters is changed: while they work, while nodes are away, leaders die and keys are stolen."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from hosts import PATIENT, Finished, Host, Hosts, refused, swarmpy, until

from swarmpy.cli.client import ApiClient
from swarmpy.errors import BadCertificate, SwarmpyError
from swarmpy.model import codec
from swarmpy.model.assignments import SessionRequest
from swarmpy.model.objects import Cluster, NodeDescription
from swarmpy.model.states import Role
from swarmpy.node.clock import SystemClock
from swarmpy.node.restoring import read_backup
from swarmpy.security import roots
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.identity import NodeIdentity, load_identity, new_key_and_csr
from swarmpy.security.tls import client_context
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.rpc import RpcDialer

PORT = 8096
WEB = f"""
services:
  web:
    image: none
    command: ["sh", "-c", 'exec python3 -m http.server "$$PORT" --bind "$$HOST"']
    ports: ["{PORT}:80"]
    stop_grace_period: 1s
    deploy: {{replicas: 3}}
"""
PAUSE_S = 0.02
DAY_NS = 24 * 3600 * 10**9


# -- looking ----------------------------------------------------------------------------------------------------------


def identity(host: Host) -> NodeIdentity:
    """What is on the machine's disk."""
    found = load_identity(host.data_dir, host.ring)
    assert found is not None
    return found


def is_over(host: Host) -> bool:
    """True when the root is not being changed, and all nodes that are not down live by it."""
    swarm = host.api("/swarm")
    nodes = [node for node in host.api("/nodes") if node["Status"]["State"] != "down"]
    shown = [node["Description"]["TLSInfo"] for node in nodes]
    return not swarm["RootRotationInProgress"] and all(info == swarm["TLSInfo"] for info in shown)


def root_of(host: Host) -> str:
    """What the cluster trusts, as its API shows it."""
    trusted: str = host.api("/swarm")["TLSInfo"]["TrustRoot"]
    return trusted


def moved(host: Host) -> set[str]:
    """The nodes that the API shows as up to date with the change that goes on."""
    wanted = host.api("/swarm")["TLSInfo"]
    nodes = host.api("/nodes")
    return {n["Description"]["Hostname"] for n in nodes if n["Description"]["TLSInfo"] == wanted}


def leader_of(managers: list[Host]) -> Host:
    """Who leads."""

    def known() -> Host | None:
        leading = [m for m in managers if m.is_up and m.api("/status/raft")["role"] == "leader"]
        return leading[0] if len(leading) == 1 else None

    found: Host = until(known, "a leader")
    return found


def state_of(manager: Host, directory: Path) -> Cluster:
    """The cluster with its keys, as a backup has it."""
    file = directory / f"{manager.name}.backup"
    manager.does("swarm", "backup", "--force", str(file))
    return read_backup(file, SystemClock()).cluster


def web_tasks(host: Host) -> dict[str, Any]:
    """The tasks that answer, with their processes."""
    found = host.api("/tasks", service="pets_web", **{"desired-state": "running"})
    return {t["ID"]: t["Status"]["ContainerStatus"]["PID"] for t in found if t["Status"]["State"] == "running"}


def deploy(manager: Host, directory: Path) -> dict[str, Any]:
    """Have three tasks that answer on a published port; returns them."""
    file = directory / "pets.yml"
    file.write_text(WEB)
    manager.does("stack", "deploy", "-c", file, "pets", timeout=120)
    found: dict[str, Any] = until(lambda: tasks if len(tasks := web_tasks(manager)) == 3 else None, "three tasks")
    return found


class Users:
    """Write and read through every manager, and call at every node; keep count of what fails."""

    def __init__(self, managers: list[Host], nodes: list[Host]) -> None:
        self._clients = [ApiClient(host.data_dir / "swarmpy.sock") for host in managers]
        self._nodes = nodes
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=lambda: asyncio.run(self._write())),
            threading.Thread(target=self._call),
        ]
        self.written = 0
        self.called = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        until(lambda: self.written > 3 and self.called > 3, "the users are at work")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive()

    async def _write(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            one, other = (self._clients[(number + i) % len(self._clients)] for i in range(2))
            body = {
                "Name": f"w{number}",
                "TaskTemplate": {"ContainerSpec": {"Image": "none"}},
                "Mode": {"Replicated": {"Replicas": 0}},
            }
            try:
                await one.post("/services/create", body, timeout=20)
                await other.get(f"/services/w{number}", timeout=20)
            except SwarmpyError as error:
                self.failures.append(f"w{number}: {error}")
            self.written += 1
            await asyncio.sleep(PAUSE_S)

    def _call(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            connection = http.client.HTTPConnection(self._nodes[number % len(self._nodes)].address, PORT, timeout=10)
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(f"call {number}: status {response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"call {number}: {error!r}")
            finally:
                connection.close()
            self.called += 1
            time.sleep(PAUSE_S)


@contextlib.contextmanager
def standing_still(host: Host) -> Iterator[None]:
    """The machine's daemon stands still meanwhile."""
    os.kill(host.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if host.is_up:
            os.kill(host.pid, signal.SIGCONT)


# -- while the cluster works ------------------------------------------------------------------------------------------


def test_nobody_notices(hosts: Hosts, tmp_path: Path) -> None:
    """No request fails, no session ends, no task is touched, no leader changes; both command lines see it through."""
    # A busy machine shall cost no session and no leader.
    nodes = hosts.cluster(3, 2, options=(*PATIENT, "--election-timeout", "5s"))
    managers = nodes[:3]
    tasks = deploy(managers[0], tmp_path)
    leader = leader_of(managers)
    term = leader.api("/status/raft")["term"]
    sessions = {host.name: host.log.count("event=session_opened") for host in nodes}
    tokens = {role: leader.token(role) for role in ("worker", "manager")}
    seen = [root_of(leader)]
    with Users(managers, nodes) as users:
        for host in (leader, next(m for m in managers if m is not leader)):
            out = host.does("swarm", "ca", "--rotate")
            lines = out.splitlines()
            assert lines[0].startswith("desired root digest: sha256:")
            assert "  rotated TLS certificates: 5/5 nodes" in lines
            assert "  rotated CA certificates:  5/5 nodes" in lines
            assert out.endswith(root_of(host))
            assert is_over(host)
            seen.append(root_of(host))
        out = managers[0].docker("swarm", "ca", "--rotate")
        seen.append(root_of(leader))
        assert out.strip().endswith(seen[-1].strip())
        written, called = users.written, users.called
        until(lambda: users.written > written + 20 and users.called > called + 20, "the users go on")
    assert users.failures == []
    assert len(set(seen)) == 4
    for host in nodes:
        assert host.log.count("event=session_opened") == sessions[host.name]
        assert "event=session_lost" not in host.log
        assert "level=error" not in host.log
        assert identity(host).roots == (roots.digest_of(seen[-1].encode()),)
    assert web_tasks(leader) == tasks
    assert leader.api("/status/raft")["term"] == term
    assert {role: leader.token(role) for role in tokens}.items().isdisjoint(tokens.items())
    assert state_of(leader, tmp_path).former_roots == ()


def test_the_docker_command(hosts: Hosts, tmp_path: Path) -> None:
    """Unchanged: it shows the root, changes it to a new one and to one of our own, and lists who has followed."""
    manager, worker = hosts.cluster(1, 1)
    before = manager.docker("swarm", "ca")
    assert before.strip() == root_of(manager).strip() == manager.does("swarm", "ca").strip()
    assert manager.docker("swarm", "ca", "--rotate", "-q") == ""
    assert is_over(manager)
    assert manager.docker("swarm", "ca", "--rotate", "--detach", "--cert-expiry", "720h") == ""
    until(lambda: is_over(manager), "the change is over")
    assert manager.api("/swarm")["Spec"]["CAConfig"] == {"NodeCertExpiry": 720 * 3600 * 10**9, "ForceRotate": 2}
    until(lambda: identity(worker).life_ns == 720 * 3600 * 10**9, "the worker has a certificate for as long")
    own = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes"]
    own += ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Our Root/O=Us", "-days", "3650"]
    own += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subprocess.run(own, cwd=tmp_path, check=True, capture_output=True)
    files = ("--ca-cert", str(tmp_path / "ca.crt"), "--ca-key", str(tmp_path / "ca.key"))
    out = manager.docker("swarm", "ca", "--rotate", *files)
    assert (tmp_path / "ca.crt").read_text().strip() in out
    assert manager.docker("node", "ls", "--format", "{{.Hostname}} {{.TLSStatus}}").split() == [
        *(manager.name, "Ready"),
        *(worker.name, "Ready"),
    ]
    issuer = manager.api("/nodes")[1]["Description"]["TLSInfo"]
    assert issuer == manager.api("/swarm")["TLSInfo"] != {}
    # What has a key in it is never shown again, and asks for nothing when it is sent back.
    spec = manager.api("/swarm")["Spec"]["CAConfig"]
    assert set(spec) == {"NodeCertExpiry", "ForceRotate"}
    manager.docker("swarm", "update", "--task-history-limit", "4")
    assert root_of(manager).strip() == (tmp_path / "ca.crt").read_text().strip()
    # And back to one that nobody has to keep.
    assert manager.docker("swarm", "ca", "--rotate", "-q") == ""
    assert is_over(manager)
    third = hosts.new()
    third.join(manager)
    until(lambda: manager.nodes()[third.name][0] == "ready", "a node joins")


# -- while nodes are away ---------------------------------------------------------------------------------------------


def test_who_was_away_follows(hosts: Hosts, tmp_path: Path) -> None:
    """A worker and a manager are down during two changes; nobody waits for them, and they come back by themselves.

    The manager even makes the majority with one that has followed, before it has followed itself.
    """
    nodes = hosts.cluster(3, 2)
    managers = nodes[:3]
    leader = leader_of(managers)
    other, away = (manager for manager in managers if manager is not leader)
    worker = nodes[4]
    before = root_of(leader)
    for host in (away, worker):
        host.kill()
    until(lambda: all(leader.nodes()[host.name][0] == "down" for host in (away, worker)), "they are down")
    for _ in range(2):
        done = leader.swarmpy("swarm", "ca", "--rotate")
        assert done.returncode == 0, done.stderr
        names = sorted((away.name, worker.name))
        assert sorted(done.stderr.removeprefix("down, and to follow when they are back: ").strip().split(", ")) == names
        assert "  rotated TLS certificates: 3/5 nodes" in done.stdout
    state = state_of(leader, tmp_path)
    assert state.former_roots[0].cert_pem.decode() == before
    assert len(state.former_roots) == 2
    rows = leader.docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.TLSStatus}}").splitlines()
    assert {row for row in rows if "Down" in row} == {f"{host.name} Down Needs Rotation" for host in (away, worker)}

    leader.kill()
    away.resume()
    worker.resume()
    managing = leader_of([other, away])
    assert managing is other, "it has the log"
    until(lambda: managing.nodes()[worker.name][0] == "ready", "the worker is back")
    for host in (away, worker):
        until(lambda host=host: identity(host).roots == identity(other).roots, f"{host.name} has followed")
    until(lambda: managing.nodes()[away.name] == ("ready", "reachable"), "the manager is back")
    leader.resume()
    until(lambda: managing.nodes()[leader.name] == ("ready", "reachable"), "the leader of before is back")
    until(lambda: is_over(managing), "all live by the last root")
    until(lambda: state_of(managing, tmp_path).former_roots == (), "the roots before are forgotten")
    assert "level=error" not in away.log + worker.log


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_a_leader_dies_in_the_middle_and_then_everybody(hosts: Hosts) -> None:
    """Another leader goes on; after a restart of all daemons it goes on again. Old tokens are good until it is over."""
    nodes = hosts.cluster(3, 2, options=PATIENT)
    managers = nodes[:3]
    leader = leader_of(managers)
    old_token = leader.token("worker")
    before, slow = root_of(leader), nodes[4]
    with standing_still(slow):
        assert leader.does("swarm", "ca", "--rotate", "--detach") == ""
        others = {host.name for host in nodes if host is not slow}
        until(lambda: moved(leader) == others, "all others have moved")
        leader.kill()
        rest = [manager for manager in managers if manager is not leader]
        second = leader_of(rest)
        assert second.api("/swarm")["RootRotationInProgress"]
        (problem,) = [line for line in second.status()["problems"] if "root CA" in line]
        assert problem.endswith(f"waiting for {slow.name} (it still shows a certificate of the root CA before)")
        joined = hosts.new()
        joined.join(second)
        assert second.token("worker") == old_token
        for host in (*rest, nodes[3]):
            host.kill(signal.SIGTERM if host is nodes[3] else signal.SIGKILL)
        for host in (*rest, leader, nodes[3]):
            host.resume()
        third = leader_of(managers)
        assert third.api("/swarm")["RootRotationInProgress"]
        until(lambda: moved(third) == {*others, joined.name}, "those that were restarted have moved")
    until(lambda: is_over(third), "the change is over")
    assert root_of(third) not in before
    late = hosts.new()
    join = ["node", "join", "--listen-addr", late.cluster_address, *late.own, third.cluster_address, "--token"]
    done: Finished = swarmpy("--data-dir", late.data_dir, *join, old_token)
    refused(done, 1, "remote CA does not match fingerprint in the join token", "of before the root CA was changed")
    late.join(third)
    until(lambda: third.nodes()[late.name][0] == "ready", "the new token is good")


# -- stolen keys ------------------------------------------------------------------------------------------------------


def forged(root: Any, cluster: Cluster, node_id: str, trusts: NodeIdentity) -> NodeIdentity:
    """What somebody with the key of a root makes himself: a manager's certificate of a node that there is."""
    key_pem, csr_pem = new_key_and_csr()
    cert_pem = issue(
        root,
        csr_pem,
        node_id=node_id,  # type: ignore[arg-type]
        role=Role.MANAGER,
        cluster_id=cluster.id,
        number=1,
        expiry_ns=DAY_NS,
        now_ns=time.time_ns(),
    )
    ca_pem = roots.joined((root.cert_pem, *roots.split(trusts.ca_pem)))
    return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=ca_pem)


async def dial(thief: NodeIdentity, manager: Host) -> RpcChannel:
    """A connection with a stolen or forged certificate."""
    return await RpcDialer(client_context(thief), thief.cluster_id).dial(manager.cluster_address, timeout=5)


async def test_a_stolen_key_of_the_root_before_is_worth_nothing(hosts: Hosts, tmp_path: Path) -> None:
    """From the moment the change begins: what was open is cut off, no manager takes what it signs, nothing is renewed.

    Before that, it opens everything: this is what a root is changed for.
    """
    nodes = await asyncio.to_thread(hosts.cluster, 2, 1, options=PATIENT)
    first, second, worker = nodes
    leader = await asyncio.to_thread(leader_of, [first, second])
    cluster = await asyncio.to_thread(state_of, leader, tmp_path)
    victim = identity(worker)
    request = codec.to_plain(SessionRequest(description=NodeDescription(), address="127.0.0.1"))
    thief = forged(cluster.root_ca, cluster, victim.node_id, victim)
    opened = [await dial(thief, manager) for manager in (first, second)]
    for channel in opened:
        assert await channel.call("raft.schema", None, timeout=5)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        await asyncio.to_thread(leader.does, "swarm", "ca", "--rotate", "--detach")
        for channel in opened:
            async with asyncio.timeout(10):
                await channel.wait_closed()
        for fake in (thief, forged(cluster.root_ca, cluster, identity(second).node_id, victim)):
            for manager in (first, second):
                with pytest.raises(BadCertificate, match="root CA that was replaced, and it is not the one"):
                    await (await dial(fake, manager)).call("ca.renew", {"csr_pem": new_key_and_csr()[1]}, timeout=5)
        swarm = await asyncio.to_thread(leader.api, "/swarm")
        assert swarm["RootRotationInProgress"]
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    await asyncio.to_thread(until, lambda: is_over(leader), "the change is over")
    for manager in (first, second):
        with pytest.raises(SwarmpyError):
            await (await dial(forged(cluster.root_ca, cluster, victim.node_id, identity(worker)), manager)).call(
                "dispatcher.session", request, timeout=5
            )
    # It never had the node's session.
    sessions = [line for host in (first, second) for line in host.log.splitlines() if "session_opened" in line]
    assert any(f"address={worker.address}" in line for line in sessions)
    assert not any("address=127.0.0.1" in line for line in sessions)
    stranger = create_root_ca(time.time_ns())
    with pytest.raises(SwarmpyError):
        await dial(forged(stranger, cluster, victim.node_id, identity(worker)), first)


# -- clusters that are brought back -----------------------------------------------------------------------------------


def test_a_cluster_is_brought_back_in_the_middle(hosts: Hosts, tmp_path: Path) -> None:
    """From one manager's log, and from a backup that was made while the root was changed: nodes that have moved and one
    that has not come to the new leader by themselves, and the change is seen through."""
    nodes = hosts.cluster(2, 2, options=PATIENT)
    first, second, quick, slow = nodes
    with standing_still(slow):
        first.does("swarm", "ca", "--rotate", "--detach")
        until(lambda: moved(first) == {host.name for host in nodes if host is not slow}, "all others have moved")
        file = tmp_path / "middle"
        first.does("swarm", "backup", str(file))
        second.kill()
        first.does("swarm", "init", "--force-new-cluster", timeout=60)
        until(lambda: first.nodes()[quick.name][0] == "ready", "who has moved is back")
        assert first.api("/swarm")["RootRotationInProgress"]
        first.kill()
        again = hosts.new()
        again._start("swarm", "restore", "--listen-addr", again.cluster_address, *again.own, str(file))
        until(lambda: again.api("/swarm")["RootRotationInProgress"], "the cluster is back, and goes on")
    for host in (quick, slow):
        host.kill(signal.SIGTERM)
        host.resume("--manager-addr", again.cluster_address)
        until(lambda host=host: again.nodes()[host.name][0] == "ready", f"{host.name} is there")
    until(lambda: is_over(again), "the change is over")
    for name in (first.name, second.name):
        again.does("node", "rm", "--force", name)
    until(lambda: state_of(again, tmp_path).former_roots == (), "nobody has anything of the root before")


def test_a_manager_moves_after_a_change(hosts: Hosts) -> None:
    """It was down meanwhile, and comes back at another address with a certificate of the root before."""
    nodes = hosts.cluster(3, 0)
    leader = leader_of(nodes)
    mover = next(host for host in nodes if host is not leader)
    mover.kill()
    until(lambda: leader.nodes()[mover.name][0] == "down", "it is down")
    leader.does("swarm", "ca", "--rotate")
    mover = hosts.moved(mover)
    mover.resume("--listen-addr", mover.cluster_address, "--advertise-addr", mover.cluster_address)
    until(lambda: leader.nodes()[mover.name] == ("ready", "reachable"), "it is back")
    until(lambda: identity(mover).roots == identity(leader).roots, "it has followed")
    until(lambda: is_over(leader), "the managers know it")
