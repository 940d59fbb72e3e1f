"""The API over TCP, with the docker command and real daemons: admins, viewers, and everybody else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hosts import DOCKER, Finished, Host, Hosts, in_process, refused, swarmpy, until

from swarmpy.model.objects import RootCA
from swarmpy.model.states import ApiRole
from swarmpy.node.clock import SystemClock
from swarmpy.node.restoring import read_backup
from swarmpy.security.api_certificates import issue_client
from swarmpy.security.ca import create_root_ca
from swarmpy.security.identity import load_identity, new_key_and_csr

HOUR_NS = 3600 * 1_000_000_000
CREATE = ("service", "create", "-d", "--no-resolve-image", "--replicas", "0", "--name")


@pytest.fixture(scope="module")
def cluster(network: Hosts) -> list[Host]:
    """A leader, another manager and a worker, all with a door over TCP."""
    hosts = [network.new() for _ in range(3)]
    for host in hosts:
        host.resume("--api-addr", host.address, "--api-san", f"{host.name}.example")
    hosts[0].does("swarm", "init", "--listen-addr", hosts[0].cluster_address)
    hosts[1].join(hosts[0], "manager")
    hosts[2].join(hosts[0], "worker")
    until(lambda: all(state == "ready" for state, _ in hosts[0].nodes().values()), "all nodes are ready")
    return hosts


@pytest.fixture(scope="module")
def cards(cluster: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the certificates of an admin and a viewer."""
    directory = tmp_path_factory.mktemp("cards")
    for name, role in (("alice", "admin"), ("bob", "viewer")):
        said = cluster[0].does("swarm", "client-cert", name, "--role", role, "--out", directory / name)
        assert said.startswith(f"{directory / name}: the certificate of {name} ({role}), serial ")
    return directory


def docker(host: Host, card: Path | None, *arguments: str, name: str = "") -> Finished:
    """The docker command at a machine's TCP door, set up by its usual environment only."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_CONFIG": "/nonexistent"}
    env |= {"DOCKER_HOST": f"tcp://{name or host.address}:2376"}
    if card is not None:
        env |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(card)}
    return subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=60, check=False, env=env)


def works(host: Host, card: Path, *arguments: str) -> str:
    """What a docker command says that works."""
    done = docker(host, card, *arguments)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


# -- who may --------------------------------------------------------------------------------------------------------


def test_a_set_of_files_is_as_docker_has_them_and_secret(cards: Path) -> None:
    """ca.pem, cert.pem and key.pem, which are read by their owner only."""
    for name in ("alice", "bob"):
        found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (cards / name).iterdir()}
        assert found == {"ca.pem": 0o600, "cert.pem": 0o600, "key.pem": 0o600}
        assert stat.S_IMODE((cards / name).stat().st_mode) == 0o700


def test_an_admin_does_with_docker_what_can_be_done(cluster: list[Host], cards: Path) -> None:
    """At any manager, by its address: writes, lists, tokens."""
    leader, follower, _ = cluster
    for host, service in ((leader, "one"), (follower, "two")):
        works(host, cards / "alice", *CREATE, service, "none")
    for host in (leader, follower):
        assert works(host, cards / "alice", "service", "ls", "--format", "{{.Name}}").split() == ["one", "two"]
        assert works(host, cards / "alice", "swarm", "join-token", "-q", "worker").strip() == leader.token("worker")
    works(follower, cards / "alice", "service", "rm", "one", "two")
    assert works(leader, cards / "alice", "service", "ls", "-q") == ""


def test_a_viewer_looks_and_changes_nothing(cluster: list[Host], cards: Path, tmp_path: Path) -> None:
    """Lists and inspection without secrets; all else is refused in one line, at the leader or another manager."""
    leader, follower, worker = cluster
    works(leader, cards / "alice", *CREATE, "web", "--env", "PASSWORD=hunter2", "none")
    bob = cards / "bob"
    for host in (leader, follower):
        assert works(host, bob, "service", "ls", "--format", "{{.Name}}") == "web\n"
        assert len(works(host, bob, "node", "ls", "-q").split()) == 3
        assert "PASSWORD=(hidden)" in works(host, bob, "service", "inspect", "web")
        assert "hunter2" not in works(host, bob, "service", "inspect", "web")
        assert "active" in works(host, bob, "info", "--format", "{{.Swarm.LocalNodeState}}")
        for arguments in (
            (*CREATE, "other", "none"),
            ("service", "rm", "web"),
            ("service", "scale", "-d", "web=3"),
            ("node", "rm", "--force", worker.name),
            ("node", "demote", follower.name),
            ("swarm", "leave", "--force"),
            ("swarm", "update", "--task-history-limit", "1"),
            ("swarm", "join-token", "--rotate", "worker"),
        ):
            done = docker(host, bob, *arguments)
            assert done.returncode != 0, arguments
            assert "is for admins only: the certificate of bob is a viewer's" in done.stderr, arguments
        token = docker(host, bob, "swarm", "join-token", "-q", "worker")
        assert "SWMTKN" not in token.stdout + token.stderr
    ask = ["--api", leader.address, "--cert-dir", bob]
    for command in (["swarm", "backup", tmp_path / "b"], ["swarm", "client-cert", "--ls"]):
        refused(in_process(*ask, *command), 1, "is for admins only")
    refused(in_process(*ask, "swarm", "join-token", "worker"), 1, "join tokens are shown to admins only")
    assert list(tmp_path.iterdir()) == []
    assert [service["Spec"]["Name"] for service in leader.api("/services")] == ["web"]
    leader.does("service", "rm", "web")


def test_our_own_command_over_tcp(cluster: list[Host], cards: Path, tmp_path: Path) -> None:
    """With options or the environment; a backup is streamed; what is about this machine's daemon is not asked there."""
    leader, follower, _ = cluster
    ask = ["--api", f"{follower.address}:2376", "--cert-dir", cards / "alice"]
    assert "quorum   healthy" in in_process(*ask, "status").stdout
    done = in_process(*ask, "swarm", "backup", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    assert in_process("swarm", "restore", "--check", tmp_path / "backup").returncode == 0
    env = {"SWARMPY_API": f"tcp://{leader.address}", "DOCKER_CERT_PATH": str(cards / "alice")}
    assert leader.name in swarmpy("node", "ls", env=env).stdout
    for arguments in (["swarm", "init"], ["node", "run"], ["node", "join", "--token", "x", "127.0.0.1"]):
        done = in_process(*ask, *arguments)
        assert (done.returncode, "this is about the daemon of this machine" in done.stderr) == (2, True)
    done = in_process("-H", "/x.sock", *ask, "status")
    assert (done.returncode, "are two daemons" in done.stderr) == (2, True)


def test_the_server_is_known_by_its_names(cluster: list[Host], cards: Path) -> None:
    """Its address, and what --api-san adds; by another name it is not trusted, and told so in one line."""
    leader, follower, _ = cluster

    def names(host: Host) -> set[str]:
        context = ssl.create_default_context(cafile=str(cards / "alice" / "ca.pem"))
        context.load_cert_chain(cards / "alice" / "cert.pem", cards / "alice" / "key.pem")
        with (
            socket.create_connection((host.address, 2376), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname=f"{host.name}.example") as secured,
        ):
            found: Any = secured.getpeercert()
        return {name for _, name in found["subjectAltName"]}

    assert {leader.address, f"{leader.name}.example", "localhost"} <= names(leader)
    assert follower.address not in names(leader)
    # Both are this machine: what listens on one address is asked for by another.
    with socket.socket() as relay:
        relay.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        context = ssl.create_default_context(cafile=str(cards / "alice" / "ca.pem"))
        context.load_cert_chain(cards / "alice" / "cert.pem", cards / "alice" / "key.pem")
        relay.connect((leader.address, 2376))
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            context.wrap_socket(relay, server_hostname=follower.address)


# -- who may not ----------------------------------------------------------------------------------------------------


def root_of(host: Host, directory: Path) -> tuple[RootCA, str]:
    """The CA of the cluster with its key, out of a backup: what nobody but an admin can have; and the cluster's id."""
    host.does("swarm", "backup", directory / "backup")
    found = read_backup(directory / "backup", SystemClock()).cluster
    return found.root_ca, found.id


def card(directory: Path, root: RootCA, ca_pem: bytes, cluster_id: str, *, now_ns: int = 0) -> Path:
    """A client's certificate that ``root`` signed, as files."""
    key_pem, csr_pem = new_key_and_csr()
    issued = issue_client(
        root,
        csr_pem,
        name="eve",
        role=ApiRole.ADMIN,
        cluster_id=cluster_id,
        expiry_ns=HOUR_NS,
        now_ns=now_ns or time.time_ns(),
    )
    cert_pem = ssl.DER_cert_to_PEM_cert(issued.der).encode()
    return files(directory, ca_pem, cert_pem, key_pem)


def files(directory: Path, ca_pem: bytes, cert_pem: bytes, key_pem: bytes) -> Path:
    """A directory as the docker command has it."""
    directory.mkdir()
    for name, data in (("ca.pem", ca_pem), ("cert.pem", cert_pem), ("key.pem", key_pem)):
        (directory / name).write_bytes(data)
    return directory


def is_cut_off(host: Host, ca_pem: bytes) -> bool:
    """True when somebody without a certificate gets not a byte of an answer."""
    context = ssl.create_default_context(cadata=ca_pem.decode())
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host.address, 2376), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname=host.address) as secured,
    ):
        secured.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
        return secured.recv(100) == b""
    return True


def test_everybody_else_is_refused(cluster: list[Host], cards: Path, tmp_path: Path) -> None:
    """No certificate, another CA's, an expired one, a node's, one that the cluster does not know, plain HTTP."""
    leader, _, worker = cluster
    root, cluster_id = root_of(leader, tmp_path)
    day_ns = 24 * HOUR_NS
    shown = {
        "a stranger's": card(tmp_path / "stranger", create_root_ca(time.time_ns()), root.cert_pem, cluster_id),
        "an expired one": card(tmp_path / "expired", root, root.cert_pem, cluster_id, now_ns=time.time_ns() - day_ns),
        "a forged one": card(tmp_path / "forged", root, root.cert_pem, cluster_id),
    }
    for host, name in ((leader, "a manager's"), (worker, "a worker's")):
        own = load_identity(host.data_dir, host.ring)
        assert own is not None
        shown[name] = files(tmp_path / host.name, own.ca_pem, own.cert_pem, own.key_pem)
    words = {
        "a stranger's": "tls:",
        "an expired one": "expired certificate",
        "a forged one": "is not one that this cluster knows",
        "a manager's": "the certificate is a node's",
        "a worker's": "the certificate is a node's",
    }
    for name, directory in shown.items():
        for arguments in (("info",), ("service", "ls"), (*CREATE, "evil", "none")):
            done = docker(leader, directory, *arguments)
            said = done.stdout + done.stderr
            assert words[name] in said, (name, arguments, said)
            assert done.returncode != 0 or arguments == ("info",), (name, arguments)
    for name, why in (("a stranger's", "unknown ca"), ("an expired one", "certificate expired")):
        done = in_process("--api", leader.address, "--cert-dir", shown[name], "service", "rm", "web")
        refused(done, 1, f"the API at {leader.address}:2376 does not take the certificate", why)
    assert is_cut_off(leader, root.cert_pem)
    done = docker(leader, None, "service", "ls")
    assert done.returncode != 0
    assert leader.api("/services") == []
    assert works(leader, cards / "alice", "service", "ls", "-q") == ""


def test_a_certificate_that_was_taken_back(cluster: list[Host], tmp_path: Path) -> None:
    """Through one manager, and it counts at none any more; the list shows who has one."""
    leader, follower, _ = cluster
    leader.does("swarm", "client-cert", "carol", "--role", "admin", "--expiry", "1h", "--out", tmp_path / "carol")
    rows = {row["Name"]: row for row in follower.rows("swarm", "client-cert", "--ls")}
    assert rows["carol"]["Role"] == "admin"
    works(follower, tmp_path / "carol", "node", "ls")
    assert follower.does("swarm", "client-cert", "--revoke", rows["carol"]["Serial"]).endswith(" is revoked.\n")

    def shut(host: Host) -> bool:
        done = docker(host, tmp_path / "carol", "node", "ls")
        return done.returncode != 0 and "was revoked" in done.stderr

    for host in (leader, follower):
        until(lambda host=host: shut(host), f"{host.name} has heard of it")
    assert "carol" not in {row["Name"] for row in leader.rows("swarm", "client-cert", "--ls")}
    refused(leader.swarmpy("swarm", "client-cert", "--revoke", "carol"), 1, "client certificate carol not found")


def test_a_clients_certificate_is_nobodys_at_the_cluster_port(cluster: list[Host], cards: Path) -> None:
    """An admin of the API is no node: the connection ends before anything is asked."""
    leader = cluster[0]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cards / "alice" / "ca.pem")
    context.load_cert_chain(cards / "alice" / "cert.pem", cards / "alice" / "key.pem")
    with (
        socket.create_connection((leader.address, 2377), timeout=10) as sock,
        context.wrap_socket(sock) as secured,
    ):
        secured.settimeout(10)
        received = b""
        try:
            while piece := secured.recv(4096):
                received += piece
        except OSError:
            pass
    # Nothing but, at most, the reason.
    assert b"unknown role 'swarm-admin'" in received or received == b""


# -- where, and when ------------------------------------------------------------------------------------------------


def test_only_managers_serve(cluster: list[Host], cards: Path) -> None:
    """A worker hangs up on whoever connects; promoted it serves, demoted it does not again."""
    leader, _, worker = cluster
    assert docker(worker, cards / "alice", "node", "ls").returncode != 0
    leader.does("node", "promote", worker.name)
    until(lambda: docker(worker, cards / "alice", "node", "ls").returncode == 0, "the new manager serves", 60)
    leader.does("node", "demote", worker.name)
    until(lambda: docker(worker, cards / "alice", "node", "ls").returncode != 0, "it does not any more", 60)
    until(lambda: leader.nodes()[worker.name] == ("ready", ""), "it is a worker")


def test_what_was_done_is_written_down_on_both_managers(cluster: list[Host], cards: Path) -> None:
    """Where it was asked with the certificate, where it was done with the manager, and never a secret."""
    leader, follower, _ = cluster
    if leader.nodes()[leader.name][1] != "leader":
        leader, follower = follower, leader
    works(follower, cards / "alice", *CREATE, "audited", "--env", "PASSWORD=hunter2", "none")

    def found(host: Host) -> dict[str, Any]:
        entries = [entry for entry in host.rows("audit") if entry.get("object", {}).get("name") == "audited"]
        assert len(entries) == 1
        return entries[0]

    asked = until(lambda: found(follower), "it is written where it was asked")
    done = until(lambda: found(leader), "it is written where it was done")
    assert (asked["who"]["door"], asked["who"]["name"], asked["who"]["role"]) == ("tcp", "alice", "admin")
    assert done["who"] == {"door": "forwarded", "node": follower.ids()[follower.name]}
    assert done["for"]["serial"] == asked["who"]["serial"]
    for entry in (asked, done):
        assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/services/create", 201)
        assert entry["version"] > 0
    for host in (leader, follower):
        text = (host.data_dir / "audit.log").read_text()
        for secret in ("hunter2", "SWMTKN", "BEGIN"):
            assert secret not in text
    leader.does("service", "rm", "audited")


def test_certificates_outlive_restarts_and_leaders(cluster: list[Host], cards: Path) -> None:
    """They are in the cluster's state. The server's own is new after a restart, and of the same CA."""
    leader, follower, _ = cluster
    leader.kill(signal.SIGTERM)
    leader.resume("--api-addr", leader.address, "--api-san", f"{leader.name}.example")
    for host in (leader, follower):
        until(lambda host=host: docker(host, cards / "bob", "node", "ls").returncode == 0, f"{host.name} serves")
    assert {row["Name"] for row in leader.rows("swarm", "client-cert", "--ls")} >= {"alice", "bob"}


def test_leaving_shuts_the_door(network: Hosts, tmp_path: Path) -> None:
    """A node that is in no cluster has no CA, and knows no client; in the next cluster the old ones are strangers."""
    host = network.new()
    host.resume("--api-addr", host.address)
    init = ["swarm", "init", "--listen-addr", host.cluster_address]
    assert docker(host, None, "info").returncode != 0
    host.does(*init)
    host.does("swarm", "client-cert", "dan", "--role", "admin", "--out", tmp_path / "dan")
    works(host, tmp_path / "dan", "swarm", "leave", "--force")
    assert docker(host, tmp_path / "dan", "node", "ls").returncode != 0
    host.does(*init)
    assert docker(host, tmp_path / "dan", "node", "ls").returncode != 0
    host.kill()


def test_what_is_wrong_with_a_door_is_said(network: Hosts, cluster: list[Host], tmp_path: Path) -> None:
    """Addresses and names that are none, a port that is taken, files that are there already; nothing is made."""
    leader, host = cluster[0], network.new()
    run = ["--data-dir", host.data_dir, "node", "run", *host.own]
    refused(swarmpy(*run, "--api-addr", "127.0.0.1:port"), 1, "--api-addr", "'port' is not a port")
    refused(swarmpy(*run, "--api-addr", host.address, "--api-san", "a b"), 1, "--api-san", "'a b' is neither")
    refused(swarmpy(*run, "--api-addr", leader.address), 1, f"cannot serve the API on {leader.address}:2376")
    make = ["swarm", "client-cert", "erin", "--role", "viewer", "--out", tmp_path / "erin"]
    (tmp_path / "erin").mkdir()
    (tmp_path / "erin" / "key.pem").write_text("precious")
    refused(leader.swarmpy(*make), 1, "key.pem exists already", "--force")
    assert (tmp_path / "erin" / "key.pem").read_text() == "precious"
    leader.does(*make, "--force")
    assert (tmp_path / "erin" / "key.pem").read_text().startswith("-----BEGIN")
    assert sorted(file.name for file in (tmp_path / "erin").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    refused(leader.swarmpy(*make[:-1], "/proc/x"), 1, "cannot write in /proc/x")
    refused(leader.swarmpy("swarm", "client-cert", "a/b", *make[3:-1], tmp_path / "f"), 1, "'a/b' is no name")
    refused(leader.swarmpy(*make[:-1], tmp_path / "g", "--expiry", "5s"), 1, "one minute at least")
    for wrong in (["x"], ["x", "--role", "admin"], ["--ls", "--revoke", "x"], []):
        assert leader.swarmpy("swarm", "client-cert", *wrong).returncode == 2
    names = [row["Name"] for row in leader.rows("swarm", "client-cert", "--ls")]
    assert names.count("erin") == 1
    ask = ["--api", leader.address, "--cert-dir"]
    refused(in_process(*ask, tmp_path / "none", "status"), 1, "none/ca.pem is not there", "client-cert --out")
    (tmp_path / "erin" / "ca.pem").write_text("nonsense")
    refused(in_process(*ask, tmp_path / "erin", "status"), 1, "ca.pem is not usable")
    refused(in_process("--api", "a:b:c:d/", "status"), 1, "is not HOST:PORT")


def test_no_defect_was_logged(cluster: list[Host]) -> None:
    """After all this."""
    for host in cluster:
        for word in ("Traceback", "never retrieved", "request_failed", "handler_failed", "no_tls_context"):
            assert word not in host.log
    assert json.dumps(cluster[0].nodes())
