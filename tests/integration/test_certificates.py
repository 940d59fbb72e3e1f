"""Certificates of real daemons: who is let in with which, and until when; thieves, expiry, clocks that differ."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_memory import remembered
from hosts import PATIENT, SLEEP, Host, Hosts, refused, until

from swarmpy.cli.client import ApiClient
from swarmpy.errors import BadCertificate, CertificateRevoked, NodeRemoved, OutcomeUnknown, StorageError, SwarmpyError
from swarmpy.model import codec
from swarmpy.model.assignments import SessionMessage, SessionRequest
from swarmpy.model.objects import NodeDescription, RootCA
from swarmpy.model.states import Role
from swarmpy.node.clock import SystemClock
from swarmpy.node.restoring import read_backup
from swarmpy.ports import Peer
from swarmpy.security import ca
from swarmpy.security.identity import (
    CA_FILE,
    CERT_FILE,
    DIRECTORY,
    KEY_FILE,
    NEW_KEY_FILE,
    NodeIdentity,
    csr_for,
    new_key_and_csr,
    read_key,
    save_identity,
)
from swarmpy.security.serials import read_serial
from swarmpy.security.tls import Credentials, client_context
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.router import Router, Standing
from swarmpy.wire.rpc import RpcDialer, RpcServer

HOUR_S = 3600
DAY_NS = 24 * 3600 * 10**9
CALLS = (
    "api.request",
    "dispatcher.heartbeat",
    "dispatcher.report",
    "raft.introduce",
    "raft.join",
    "raft.leave",
    "raft.schema",
    "raft.status",
)
NOTIFICATIONS = ("raft.messages", "cluster.incarnation")
ANYBODY = ("ca.root", "ca.join", "ca.rejoin")


# -- looking at certificates ------------------------------------------------------------------------------------------


def identity(host: Host) -> NodeIdentity:
    """What is on the machine's disk. Only read: the daemon may be about to replace it."""
    directory = host.data_dir / DIRECTORY
    cert_pem, ca_pem = ((directory / name).read_bytes() for name in (CERT_FILE, CA_FILE))
    for name in (KEY_FILE, NEW_KEY_FILE, KEY_FILE):
        with contextlib.suppress(StorageError, BadCertificate):
            key_pem = read_key(directory / name, host.ring) or b""
            return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=ca_pem)
    raise AssertionError(f"{directory} is being changed")


def shown(host: Host, seen_by: Host) -> NodeIdentity | Any:
    """Whom ``host``, a manager, shows on its cluster port."""

    async def dial() -> Any:
        channel = await RpcDialer(client_context(identity(seen_by))).dial(host.cluster_address, timeout=5)
        await channel.close()
        return channel.peer

    return asyncio.run(dial())


def number(who: NodeIdentity) -> int:
    """Which certificate of its node it is."""
    return read_serial(who.serial).number


def is_manager(host: Host) -> bool:
    """By its certificate, its API and its log."""
    assert host.is_manager
    return identity(host).role is Role.MANAGER and (host.data_dir / "raft" / "raft.db").exists()


def is_worker(host: Host) -> bool:
    """The same."""
    info = host.api("/info")["Swarm"]
    has_log = (host.data_dir / "raft").exists()
    return identity(host).role is Role.WORKER and not info["ControlAvailable"] and not has_log


def raft_id(host: Host) -> int:
    """As who it is a member of the group."""
    me = host.api("/info")["Swarm"]["NodeID"]
    return next(m["raft_id"] for m in host.api("/status/raft")["members"] if m["node_id"] == me)


def leader_of(managers: list[Host]) -> Host:
    """Who leads."""

    def known() -> Host | None:
        leading = [m for m in managers if m.is_up and m.api("/status/raft")["role"] == "leader"]
        return leading[0] if len(leading) == 1 else None

    found: Host = until(known, "a leader")
    return found


# -- thieves ----------------------------------------------------------------------------------------------------------


class Thief:
    """Somebody with a copy of a node's key and certificate."""

    def __init__(self, stolen: NodeIdentity) -> None:
        self.stolen = stolen
        self._dialer = RpcDialer(client_context(stolen), stolen.cluster_id)

    @contextlib.asynccontextmanager
    async def at(self, manager: Host) -> AsyncIterator[RpcChannel]:
        """A connection to a manager."""
        channel = await self._dialer.dial(manager.cluster_address, timeout=5)
        try:
            yield channel
        finally:
            await channel.close()

    async def renew(self, manager: Host) -> Any:
        """Ask for another certificate, for a key of its own."""
        async with self.at(manager) as channel:
            return await channel.call("ca.renew", {"csr_pem": new_key_and_csr()[1]}, timeout=10)

    def session(self, channel: RpcChannel, hostname: str = "") -> AsyncIterator[Any]:
        """The tasks of the node, with all that is in them."""
        request = SessionRequest(description=NodeDescription(hostname=hostname), address="127.0.0.1")
        return channel.stream("dispatcher.session", codec.to_plain(request))

    async def opens(self, manager: Host) -> list[str]:
        """The methods that are not refused."""
        opened = []
        for method in (*CALLS, *ANYBODY):
            async with self.at(manager) as channel:
                try:
                    await channel.call(method, {}, timeout=10)
                    opened.append(method)
                except CertificateRevoked:
                    pass
                except SwarmpyError as error:
                    opened.append(f"{method}: {error}")
        async with self.at(manager) as channel:
            try:
                async for _ in self.session(channel):
                    opened.append("dispatcher.session")
            except CertificateRevoked:
                pass
        for method in NOTIFICATIONS:
            async with self.at(manager) as channel:
                channel.notify(method, {})
                try:
                    # What comes after it is not answered any more: the connection is closed for it.
                    await channel.call("ca.renew", {}, timeout=10)
                    opened.append(method)
                except OutcomeUnknown as error:
                    if "revoked" not in str(error):
                        opened.append(f"{method}: {error}")
        return opened


async def exhaust(items: AsyncIterator[Any]) -> None:
    """Take what comes, to the end."""
    async with asyncio.timeout(10):
        async for _ in items:
            pass


async def test_a_manager_that_is_demoted_while_it_stands_still(hosts: Hosts) -> None:
    """Neither it nor who has a copy of its key can do anything as a manager from that moment on, whatever was open.
    When it goes on it becomes a worker by itself; then the copy is not even good for a worker's certificate.
    """
    *managers, _worker = await asyncio.to_thread(hosts.cluster, 3, 1)
    leader = await asyncio.to_thread(leader_of, managers)
    victim, follower = (manager for manager in managers if manager is not leader)
    thief = Thief(identity(victim))
    os.kill(victim.pid, signal.SIGSTOP)
    async with thief.at(leader) as at_leader, thief.at(follower) as at_follower:
        session = thief.session(at_leader, victim.name)
        await anext(session)
        assert await at_leader.call("raft.schema", None, timeout=5)
        assert await at_follower.call("raft.schema", None, timeout=5)
        await asyncio.to_thread(leader.does, "node", "demote", victim.name)
        with pytest.raises((CertificateRevoked, OutcomeUnknown), match="revoked"):
            await exhaust(session)
        for channel in (at_leader, at_follower):
            async with asyncio.timeout(10):
                await channel.wait_closed()
    for manager in (leader, follower):
        assert await thief.opens(manager) == []

    os.kill(victim.pid, signal.SIGCONT)
    await asyncio.to_thread(until, lambda: is_worker(victim), "it is a worker")
    await asyncio.to_thread(
        until, lambda: leader.nodes()[victim.name] == ("ready", ""), "the leader has it as a worker that is ready"
    )
    assert number(identity(victim)) > number(thief.stolen)
    for manager in (leader, follower):
        assert await thief.opens(manager) == []
    with pytest.raises(CertificateRevoked, match="was replaced by a later one"):
        await thief.renew(leader)

    # Promoted again, it is in the group with another certificate; the copy of the old one is what it was.
    await asyncio.to_thread(leader.does, "node", "promote", victim.name)
    await asyncio.to_thread(until, lambda: is_manager(victim), "it is a manager again")
    assert (await asyncio.to_thread(shown, victim, leader)).role is Role.MANAGER
    for manager in (leader, follower, victim):
        assert await thief.opens(manager) == []
    with pytest.raises(CertificateRevoked):
        await thief.renew(leader)


async def test_a_removed_node_has_nothing_left(hosts: Hosts) -> None:
    """Neither its daemon nor a thief: no session, no renewal, no coming back with a token. Removing it takes force."""
    manager, worker = await asyncio.to_thread(hosts.cluster, 1, 1)
    await asyncio.to_thread(manager.does, "node", "promote", worker.name)
    await asyncio.to_thread(until, lambda: is_manager(worker), "it is a manager")
    as_manager = Thief(identity(worker))
    await asyncio.to_thread(manager.does, "node", "demote", worker.name)
    await asyncio.to_thread(until, lambda: is_worker(worker), "it is a worker")
    as_worker = Thief(identity(worker))
    line = refused(await asyncio.to_thread(manager.swarmpy, "node", "rm", worker.name), 1, "is not down")
    assert identity(worker).node_id in line
    async with as_worker.at(manager) as channel:
        await channel.call("ca.root", None, timeout=5)
        await asyncio.to_thread(manager.does, "node", "rm", "--force", worker.name)
        with pytest.raises(NodeRemoved):
            await channel.call("ca.root", None, timeout=5)
        async with asyncio.timeout(10):
            await channel.wait_closed()
    for thief in (as_manager, as_worker):
        with pytest.raises(NodeRemoved):
            async with thief.at(manager):
                pass
    await asyncio.to_thread(until, lambda: "event=node_removed" in worker.log, "the daemon knows it")
    root = await asyncio.to_thread(root_of, manager, hosts.directory)
    await asyncio.to_thread(worker.kill, signal.SIGTERM)
    expire(worker, root)
    await asyncio.to_thread(worker.resume)
    token = await asyncio.to_thread(manager.token, "worker")
    done = await asyncio.to_thread(worker.swarmpy, "node", "join", "--token", token, manager.cluster_address)
    refused(done, 1, "was removed from the cluster: leave it and join again")


async def test_promotion_and_demotion_change_what_is_shown(hosts: Hosts) -> None:
    """The certificate on the disk and the one on the cluster port are of the new role, without a restart."""
    manager, node = await asyncio.to_thread(hosts.cluster, 1, 1)
    pid = node.pid
    for role, there in (("promote", is_manager), ("demote", is_worker), ("promote", is_manager)):
        before = identity(node)
        await asyncio.to_thread(manager.does, "node", role, node.name)
        await asyncio.to_thread(until, lambda there=there: there(node), f"{role}d")
        assert identity(node).serial != before.serial
        assert identity(node).node_id == before.node_id
        if there is is_manager:
            peer = await asyncio.to_thread(shown, node, manager)
            assert (peer.role, peer.serial) == (Role.MANAGER, identity(node).serial)
        else:
            refusal = await asyncio.to_thread(node.swarmpy, "node", "ls")
            refused(refusal, 1, "is not a swarm manager")
        for thief in (Thief(before),) if there is is_worker else ():
            assert await thief.opens(manager) == []
    assert node.pid == pid


class FalseManager:
    """Somebody who listens with a stolen certificate, and notes who would take orders."""

    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.router = Router()
        self.router.stream("dispatcher.session", self._session, None)
        self.connections = 0

    async def _session(self, peer: Peer, _payload: Any) -> AsyncIterator[Any]:
        self.sessions.append(str(peer.node_id))
        yield codec.to_plain(SessionMessage(session_id="s"))
        await asyncio.Event().wait()

    def standing(self, _peer: Peer) -> Standing:
        """Everybody is welcome."""
        self.connections += 1
        return Standing.GOOD


async def test_nobody_takes_orders_from_a_manager_that_was_demoted(hosts: Hosts) -> None:
    """A worker knows which certificates were revoked; also when nobody else answers, and after a start."""
    *managers, worker = await asyncio.to_thread(hosts.cluster, 2, 1)
    leader, victim = managers
    stolen = identity(victim)
    await asyncio.to_thread(leader.does, "node", "demote", victim.name)
    await asyncio.to_thread(until, lambda: is_worker(victim), "it is a worker, and does not listen any more")
    await asyncio.to_thread(until, lambda: len(leader.api("/nodes")) == 3, "the leader leads")
    victim_id = leader.ids()[victim.name]
    await asyncio.to_thread(until, lambda: victim_id in remembered(worker.data_dir).revoked, "the worker knows it")
    false = FalseManager()
    false.router.standing = false.standing
    server = RpcServer(false.router, Credentials(stolen), host=victim.address, port=2377)
    await server.start()
    try:
        os.kill(leader.pid, signal.SIGSTOP)
        for again in (False, True):
            if again:
                await asyncio.to_thread(worker.kill, signal.SIGTERM)
                await asyncio.to_thread(worker.resume, "--manager-addr", victim.cluster_address)
            seen = false.connections
            async with asyncio.timeout(30):
                while false.connections < seen + 3:
                    await asyncio.sleep(0.1)
        assert false.sessions == []
    finally:
        os.kill(leader.pid, signal.SIGCONT)
        await server.stop()
    await asyncio.to_thread(until, lambda: leader.nodes()[worker.name][0] == "ready", "it is with its leader again")


# -- expiry -----------------------------------------------------------------------------------------------------------


def root_of(manager: Host, directory: Path) -> RootCA:
    """The cluster's CA with its key, as a backup has it."""
    file = directory / f"{manager.name}.backup"
    file.unlink(missing_ok=True)
    manager.does("swarm", "backup", str(file))
    return read_backup(file, SystemClock()).cluster.root_ca


def expire(host: Host, root: RootCA) -> NodeIdentity:
    """Let the machine's certificate be the same but for its life, which was over yesterday."""
    old = identity(host)
    cert_pem = ca.issue(
        root,
        csr_for(old.key_pem),
        node_id=old.node_id,
        role=old.role,
        cluster_id=old.cluster_id,
        number=number(old),
        expiry_ns=ca.MIN_EXPIRY_NS,
        now_ns=time.time_ns() - DAY_NS,
    )
    expired = NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=old.key_pem, ca_pem=old.ca_pem)
    save_identity(host.data_dir, expired, host.ring)
    return expired


def comes_back(host: Host, manager: Host, role: str) -> None:
    """What an operator does for an expired node."""
    done = host.does("node", "join", "--token", manager.token(role), manager.cluster_address)
    assert done == f"This node joined a swarm as a {role}.\n"


def test_an_expired_worker_comes_back(hosts: Hosts, tmp_path: Path) -> None:
    """It says what to do, in its log, to ``docker info`` and to ``status``; then it is the node that it was."""
    manager, worker = hosts.cluster(1, 1)
    manager.does("node", "update", "--availability", "drain", manager.name)
    file = tmp_path / "pets.yml"
    file.write_text(SLEEP.format(replicas=2, version="1"))
    manager.does("stack", "deploy", "-c", file, "pets")
    until(lambda: len(manager.tasks("pets_web")) == 2, "two tasks")
    root, node_id = root_of(manager, tmp_path), identity(worker).node_id
    worker.kill(signal.SIGTERM)
    expired = expire(worker, root)
    worker.resume()
    until(lambda: "event=certificate_expired" in worker.log, "it knows")
    swarm = worker.api("/info")["Swarm"]
    assert (swarm["LocalNodeState"], swarm["NodeID"]) == ("error", node_id)
    assert 'run here what "swarm join-token worker" on a manager shows' in swarm["Error"]
    assert worker.swarmpy("status").stdout.count("problem: the certificate of this node expired on") == 1
    until(lambda: manager.nodes()[worker.name][0] == "down", "the manager misses it")

    bad = manager.token("worker")[:-4] + "0000"
    refused(worker.swarmpy("node", "join", "--token", bad, manager.cluster_address), 1, "invalid join token")
    assert identity(worker) == expired
    comes_back(worker, manager, "worker")
    until(lambda: manager.nodes()[worker.name] == ("ready", ""), "it is ready")
    assert set(manager.ids()) == {manager.name, worker.name}
    assert identity(worker).node_id == node_id
    until(lambda: list(manager.tasks("pets_web").values()) == [worker.name] * 2, "its tasks run there again")
    assert worker.api("/info")["Swarm"]["LocalNodeState"] == "active"
    # Now it is a member as any other.
    again = worker.swarmpy("node", "join", "--token", manager.token("worker"), manager.cluster_address)
    refused(again, 1, "already part of a swarm")
    worker.kill(signal.SIGTERM)
    # A copy of the directory of before is another node's by now.
    save_identity(worker.data_dir, expired)
    worker.resume()
    until(lambda: "event=certificate_expired" in worker.log, "it knows")
    copy = worker.swarmpy("node", "join", "--token", manager.token("worker"), manager.cluster_address)
    refused(copy, 1, "was replaced by a later one", "swarm leave --force")


def test_tasks_do_not_notice_that_their_node_comes_back(hosts: Hosts, tmp_path: Path) -> None:
    """A running node whose certificate has ended, by its own clock, is let in again with all that it runs."""
    manager, worker = hosts.new(), hosts.new(ahead_s=0)
    manager.init()
    worker.join(manager)
    manager.does("node", "update", "--availability", "drain", manager.name)
    file = tmp_path / "pets.yml"
    file.write_text(SLEEP.format(replicas=2, version="1"))
    manager.does("stack", "deploy", "-c", file, "pets")

    def processes() -> dict[str, int]:
        tasks = manager.api("/tasks", service="pets_web", **{"desired-state": "running"})
        return {t["ID"]: t["Status"]["ContainerStatus"]["PID"] for t in tasks if t["Status"]["State"] == "running"}

    before = until(lambda: found if len(found := processes()) == 2 else None, "two tasks")
    old = identity(worker)
    assert worker.clock is not None
    worker.clock.set(100 * 24 * HOUR_S)
    until(lambda: worker.api("/info")["Swarm"]["LocalNodeState"] == "error", "its certificate has ended")
    worker.clock.set(0)
    worker.clock.set(91 * 24 * HOUR_S)
    comes_back(worker, manager, "worker")
    assert number(identity(worker)) == number(old) + 1
    worker.clock.set(0)
    assert worker.api("/info")["Swarm"]["LocalNodeState"] == "active"
    assert processes() == before
    assert all(Path(f"/proc/{pid}").exists() for pid in before.values())


def test_a_node_that_cannot_renew_is_helped_before_it_expires(hosts: Hosts) -> None:
    """Its only manager has moved, so it cannot ask; a token and the new address get it another certificate."""
    manager, worker = hosts.new(), hosts.new(ahead_s=0)
    manager.init()
    worker.join(manager)
    token, old = manager.token("worker"), identity(worker)
    again = ["node", "join", "--token", token]
    refused(worker.swarmpy(*again, manager.cluster_address), 1, "already part of a swarm")
    manager.kill(signal.SIGTERM)
    assert worker.clock is not None
    worker.clock.set(73 * 24 * HOUR_S)
    until(lambda: "event=certificate_not_renewed" in worker.log, "it has tried in vain")
    assert "certificate ends on" in worker.does("status")
    moved = hosts.moved(manager)
    moved.resume("--listen-addr", moved.cluster_address, "--advertise-addr", moved.cluster_address)
    until(moved.nodes, "the manager leads again")
    assert worker.does(*again, moved.cluster_address) == "This node joined a swarm as a worker.\n"
    assert number(identity(worker)) == number(old) + 1
    until(lambda: moved.nodes()[worker.name] == ("ready", ""), "it has found its manager")


def test_an_expired_manager_comes_back(hosts: Hosts, tmp_path: Path) -> None:
    """By itself, with its log, as the member that it was. Without its log it needs the managers' token."""
    managers = hosts.cluster(3, 0)
    leader = leader_of(managers)
    victim, other = (manager for manager in managers if manager is not leader)
    root, before, member = root_of(leader, tmp_path), identity(victim), raft_id(victim)
    victim.kill(signal.SIGTERM)
    expire(victim, root)
    leader.does("node", "update", "--label-add", "meanwhile=yes", other.name)
    victim.resume()
    until(lambda: leader.nodes()[victim.name] == ("ready", "reachable"), "it is back")
    until(lambda: number(identity(victim)) == number(before) + 1, "the leader has given it another certificate")
    assert raft_id(victim) == member
    assert "event=certificate_extended" in victim.log
    found = next(n for n in victim.api("/nodes") if n["Description"]["Hostname"] == other.name)
    assert found["Spec"]["Labels"] == {"meanwhile": "yes"}

    victim.kill(signal.SIGTERM)
    expire(victim, root)
    for file in (victim.data_dir / "raft").iterdir():
        file.unlink()
    (victim.data_dir / "raft.mark").unlink()
    victim.resume()
    until(lambda: "event=certificate_expired" in victim.log, "it cannot help itself")
    worker_token = ["node", "join", "--token", leader.token("worker"), leader.cluster_address]
    refused(victim.swarmpy(*worker_token), 1, "is a manager, and comes back with the managers' join token only")
    comes_back(victim, leader, "manager")
    until(lambda: leader.nodes()[victim.name] == ("ready", "reachable"), "it is back")
    assert identity(victim).node_id == before.node_id
    assert raft_id(victim) != member
    assert len(leader.nodes()) == 3


def test_a_demoted_manager_whose_certificate_has_expired_comes_back_as_a_worker(hosts: Hosts, tmp_path: Path) -> None:
    """It does not know of its demotion, and its own extension of its certificate counts for nothing with the others."""
    managers = hosts.cluster(3, 0)
    leader = leader_of(managers)
    victim = next(manager for manager in managers if manager is not leader)
    root = root_of(leader, tmp_path)
    victim.kill(signal.SIGTERM)
    expire(victim, root)
    leader.does("node", "demote", victim.name)
    until(lambda: leader.nodes()[victim.name][1] == "", "it is in the group no more")
    victim.resume()
    until(lambda: is_worker(victim), "it is a worker")
    until(lambda: leader.nodes()[victim.name] == ("ready", ""), "it is ready")
    assert "event=certificate_extended" in victim.log


def test_a_cluster_whose_certificates_have_all_expired(hosts: Hosts, tmp_path: Path) -> None:
    """All machines were off for too long: the managers come back by themselves, the workers with a token."""
    *managers, worker = hosts.cluster(3, 1)
    file = tmp_path / "pets.yml"
    file.write_text(SLEEP.format(replicas=2, version="1"))
    managers[0].does("stack", "deploy", "-c", file, "pets")
    until(lambda: len(managers[0].tasks("pets_web")) == 2, "two tasks")
    root, ids = root_of(managers[0], tmp_path), managers[0].ids()
    for host in (*managers, worker):
        host.kill(signal.SIGKILL)
        expire(host, root)
    for host in (*managers, worker):
        host.resume()
    leader = leader_of(managers)
    until(lambda: len(leader.tasks("pets_web")) == 2, "the tasks run")
    for manager in managers:
        until(lambda manager=manager: identity(manager).life_ns == 90 * DAY_NS, "a leader's certificate again")
    until(lambda: "event=certificate_expired" in worker.log, "the worker is out")
    comes_back(worker, leader, "worker")
    wanted = {manager.name: ("ready", "reachable") for manager in managers}
    wanted |= {leader.name: ("ready", "leader"), worker.name: ("ready", "")}
    until(lambda: leader.nodes() == wanted, "all are back")
    assert leader.ids() == ids


# -- renewal and clocks -----------------------------------------------------------------------------------------------


def service(name: str) -> dict[str, Any]:
    """A service without a task."""
    task = {"ContainerSpec": {"Image": "none"}}
    return {"Name": name, "TaskTemplate": task, "Mode": {"Replicated": {"Replicas": 0}}}


@contextlib.contextmanager
def writing(managers: list[Host]) -> Iterator[list[str]]:
    """Write and read through the managers in turn all the while; what goes wrong is in the list."""
    wrong: list[str] = []
    stop = threading.Event()

    async def work() -> None:
        count = 0
        async with contextlib.AsyncExitStack() as stack:
            sockets = [manager.data_dir / "swarmpy.sock" for manager in managers]
            clients = [await stack.enter_async_context(ApiClient(socket)) for socket in sockets]
            while not stop.is_set():
                count += 1
                try:
                    client = clients[count % len(clients)]
                    await client.post("/services/create", service(f"w{count}"), timeout=30)
                    await clients[count * 7 % len(clients)].get(f"/services/w{count}", timeout=30)
                except SwarmpyError as error:
                    wrong.append(str(error))
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join(timeout=30)


def set_clocks(hosts: list[Host], change: Callable[[Host], float]) -> None:
    """Each host's clock is so many seconds ahead from now on."""
    for host in hosts:
        assert host.clock is not None
        host.clock.set(change(host))


@pytest.mark.timeout(300)
def test_short_certificates_are_renewed_while_everything_goes_on(hosts: Hosts) -> None:
    """Half an hour: renewed between 15 and 24 minutes, no session and no request is lost, and another ``--cert-expiry``
    counts from the next one on.
    """
    nodes = [hosts.new(ahead_s=0) for _ in range(4)]
    *managers, worker = nodes
    first = managers[0]
    # A busy machine shall cost no session.
    first.init("--cert-expiry", "30m", *PATIENT)
    for manager in managers[1:]:
        manager.join(first, "manager")
    worker.join(first)
    until(lambda: all(state == "ready" for state, _ in first.nodes().values()), "all nodes are ready")
    before = {host.name: identity(host) for host in nodes}
    assert {who.life_ns for who in before.values()} == {1800 * 10**9}
    refused(first.swarmpy("swarm", "update", "--cert-expiry", "29m59s"), 1, "valid for 30 minutes at least")
    with writing(managers) as wrong:
        set_clocks(nodes, lambda _: 14 * 60)
        time.sleep(1)  # nothing is due, so there is nothing to wait for
        assert {host.name: identity(host) for host in nodes} == before
        set_clocks(nodes, lambda _: 24 * 60 + 30)
        until(lambda: all(number(identity(h)) == number(before[h.name]) + 1 for h in nodes), "all have renewed", 60)
        first.does("swarm", "update", "--cert-expiry", "48h")
        assert {identity(host).life_ns for host in nodes} == {1800 * 10**9}
        set_clocks(nodes, lambda _: 49 * 60 + 30)
        until(lambda: all(identity(h).life_ns == 2 * DAY_NS for h in nodes), "all have renewed for longer", 60)
    assert wrong == []
    for host in nodes:
        assert "session_lost" not in host.log
        assert "certificate_not_renewed" not in host.log
        assert host.log.count("event=certificate_in_force") == 2
        assert number(identity(host)) == number(before[host.name]) + 2
    for manager in managers:
        assert shown(manager, first).serial == identity(manager).serial


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_clocks_an_hour_apart(hosts: Hosts, ahead_s: int) -> None:
    """Founding, joining, sessions, promotion and renewal, with the shortest certificates, where one node's clock is off
    by an hour, whichever: the founder's, or all others'.
    """
    founder, manager, worker = hosts.new(ahead_s=ahead_s), hosts.new(ahead_s=0), hosts.new(ahead_s=0)
    founder.init("--cert-expiry", "30m")
    manager.join(founder, "manager")
    worker.join(founder)
    nodes = [founder, manager, worker]
    until(lambda: all(state == "ready" for state, _ in founder.nodes().values()), "all nodes are ready")
    founder.does("node", "promote", worker.name)
    until(lambda: is_manager(worker), "the worker is a manager")
    until(lambda: founder.nodes()[worker.name] == ("ready", "reachable"), "in the eyes of the others, too")
    founder.does("node", "demote", worker.name)
    until(lambda: is_worker(worker), "it is a worker again")
    # What is on its disk is in force a moment later, and its clock must not be set in between.
    until(lambda: "event=role_in_force role=worker" in worker.log, "it lives by its certificate")
    before = {host.name: identity(host) for host in nodes}
    assert {who.life_ns for who in before.values()} == {1800 * 10**9}
    # The founder's clock must not be more than an hour off: OpenSSL goes by the machine's.
    renewing = nodes if ahead_s < 0 else [manager, worker]
    set_clocks(renewing, lambda host: (ahead_s if host is founder else 0) + 24 * 60 + 30)
    until(lambda: all(number(identity(h)) == number(before[h.name]) + 1 for h in renewing), "all have renewed", 60)
    for host in nodes:
        host.kill(signal.SIGTERM)
    for host in nodes:
        host.resume()
    until(lambda: founder.nodes()[worker.name] == ("ready", ""), "all find each other after a start")
    assert {state for state, _ in founder.nodes().values()} == {"ready"}
    for host in nodes:
        assert "certificate_expired" not in host.log
        assert number(identity(host)) <= number(before[host.name]) + 2
