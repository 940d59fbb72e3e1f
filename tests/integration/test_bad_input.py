"""What is wrong is said in one line that names it and what to do, with the documented exit code; nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from hosts import DOCKER, Host, Hosts, last_line, needs_docker_cli, refused, swarmpy, until

STACK = "services: {{web: {{image: none, command: [{command}], ports: ['{port}:80'], stop_grace_period: 1s}}}}\n"


@pytest.fixture(scope="module")
def manager(network: Hosts) -> Host:
    """A cluster of one."""
    host = network.new()
    host.init()
    return host


@pytest.fixture(scope="module")
def outsider(network: Hosts) -> Host:
    """A daemon that is in no cluster."""
    host = network.new()
    host.resume()
    return host


@pytest.fixture(scope="module")
def stopped(network: Hosts) -> Host:
    """A node of another cluster whose daemon was stopped."""
    host = network.new()
    host.init()
    host.kill(signal.SIGTERM)
    return host


def taken(address: str, port: int) -> socket.socket:
    """Another program's listening socket."""
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind((address, port))
    other.listen()
    return other


def deploy(manager: Host, tmp_path: Path, name: str, *, command: str = "sleep, '1000'", port: int) -> None:
    file = tmp_path / f"{name}.yml"
    file.write_text(STACK.format(command=command, port=port))
    manager.does("stack", "deploy", "--detach", "-c", file, name)


# -- joining --------------------------------------------------------------------------------------------------------


def test_joining_with_a_wrong_token(manager: Host, outsider: Host) -> None:
    """A token that is malformed, refused or of another cluster is named as what it is; the daemon stays outside."""
    good = manager.token("worker")
    digest, secret = good.split("-")[2:]
    for token, words in {
        "blah": ("invalid join token", '"swarm join-token worker"'),
        f"SWMTKN-1-{digest}-{secret[::-1]}": ("invalid join token", '"swarm join-token worker"'),
        f"SWMTKN-1-{digest[::-1]}-{secret}": (
            "remote CA does not match fingerprint in the join token",
            "another cluster",
        ),
    }.items():
        join = ["node", "join", "--token", token, "--listen-addr", outsider.cluster_address]
        line = refused(outsider.swarmpy(*join, manager.cluster_address), 1, *words)
        assert secret not in line
    assert outsider.api("/info")["Swarm"]["LocalNodeState"] == "inactive"
    assert list(manager.nodes()) == [manager.name]


def test_joining_through_nobody(manager: Host, outsider: Host) -> None:
    """An address where no manager answers, or that is none, is named."""
    join = ["node", "join", "--token", manager.token("worker"), "--listen-addr", outsider.cluster_address]
    nobody = f"{outsider.address}:2999"
    refused(outsider.swarmpy(*join, nobody), 75, nobody, "check the manager's address")
    refused(outsider.swarmpy(*join, f"{manager.address}:port"), 1, "'port' is not a port")
    assert outsider.api("/info")["Swarm"]["LocalNodeState"] == "inactive"


# -- starting -------------------------------------------------------------------------------------------------------


def test_ports_that_are_taken(outsider: Host, network: Hosts) -> None:
    """A cluster port or status port that another program holds is named; the daemon, or the directory, stays usable."""
    init = ["swarm", "init", "--listen-addr", outsider.cluster_address]
    with taken(outsider.address, 2377):
        refused(outsider.swarmpy(*init), 1, outsider.cluster_address, "address already in use", "choose another")
    outsider.does(*init)
    outsider.does("swarm", "leave", "--force")
    other = network.new()
    with taken(other.address, 2378):
        words = f"{other.address}:2378", "already in use", "choose another"
        refused(other.swarmpy("node", "run", "--detach", *other.own), 1, "the daemon did not start", *words)
    other.resume()
    other.kill(signal.SIGTERM)


def test_status_page_for_all_the_world(network: Hosts) -> None:
    """The status page has no authentication, so it is on loopback or nowhere."""
    host = network.new()
    done = host.swarmpy("node", "run", "--status-addr", "0.0.0.0:2378")
    refused(done, 1, "--status-addr", "0.0.0.0 is not a loopback address")


def test_unusable_data_directories(tmp_path: Path, manager: Host) -> None:
    """A directory that is a file, cannot be made, or is in use is named, whichever command starts the daemon."""
    file = tmp_path / "file"
    file.write_text("precious")
    for more in ([], ["--detach"]):
        refused(swarmpy("--data-dir", file, "node", "run", *more), 74, str(file), "is not a directory", "--data-dir")
    refused(swarmpy("--data-dir", "/proc/no", "node", "run"), 74, "/proc/no", "--data-dir")
    refused(swarmpy("--data-dir", manager.data_dir, "node", "run"), 1, "another swarmpy daemon runs on", "--data-dir")
    assert file.read_text() == "precious"


def test_data_of_a_newer_version(stopped: Host, tmp_path: Path) -> None:
    """A newer version's directory is left alone; a damaged one is not mistaken for an empty one."""
    copy = tmp_path / "copy"
    shutil.copytree(stopped.data_dir, copy)
    state = json.loads((copy / "node.json").read_text())
    (copy / "node.json").write_text(json.dumps({**state, "version": 99}))
    for more in ([], ["--detach"]):
        done = swarmpy("--data-dir", copy, "node", "run", *more)
        refused(done, 78, "was written by a newer swarmpy (format 99", "upgrade")
    (copy / "node.json").write_text("{")
    refused(swarmpy("--data-dir", copy, "node", "run"), 74, "node.json is damaged", "restore it")
    assert (copy / "raft" / "raft.db").exists()


def test_files_of_two_nodes(stopped: Host, manager: Host, tmp_path: Path) -> None:
    """A daemon does not start on a mixture of two nodes' files, and starts again when it is undone."""
    for name, words in (
        ("certificates", ("no key in", "it was changed, or belongs elsewhere", "restore it")),
        ("raft", ("is not the log of node", "mixed up")),
    ):
        mixed = stopped.data_dir / name
        mixed.rename(tmp_path / "aside")
        mixed.symlink_to(manager.data_dir / name)
        refused(stopped.swarmpy("node", "run", *stopped.own), 78, *words)
        mixed.unlink()
        (tmp_path / "aside").rename(mixed)
    stopped.resume()
    until(lambda: stopped.status()["leader"], "it leads")
    stopped.kill(signal.SIGTERM)


def test_no_engine(network: Hosts) -> None:
    """Where Docker is asked for and does not answer, founding is refused rather than a cluster made without it."""
    host = network.new()
    init = ["swarm", "init", "--detach", "--runtime", "docker", "--listen-addr", host.cluster_address]
    own = ["--status-addr", f"{host.address}:2378"]
    no_engine = {"DOCKER_HOST": "unix:///nonexistent"}
    done = swarmpy("--data-dir", host.data_dir, *init, *own, env=no_engine)
    refused(done, 69, "no Docker Engine answers at unix:///nonexistent", "--runtime process")
    assert host.api("/info")["Swarm"]["LocalNodeState"] == "inactive"


# -- services -------------------------------------------------------------------------------------------------------


def test_published_port_of_another_service(manager: Host, tmp_path: Path) -> None:
    """Two services cannot publish the same port; the first one goes on."""
    deploy(manager, tmp_path, "first", port=18701)
    file = tmp_path / "second.yml"
    file.write_text(STACK.format(command="sleep, '1000'", port=18701))
    done = manager.swarmpy("stack", "deploy", "-c", file, "second")
    refused(done, 1, "18701", "first_web")
    assert [service["Spec"]["Name"] for service in manager.api("/services")] == ["first_web"]
    manager.does("stack", "rm", "first")


def test_published_port_of_another_program(manager: Host, tmp_path: Path) -> None:
    """A node that cannot listen on a published port says so in ``status`` until it can."""
    with taken(manager.address, 18702):
        deploy(manager, tmp_path, "port", port=18702)

        def told() -> bool:
            return any("18702" in problem and manager.name in problem for problem in manager.status()["problems"])

        until(told, "the problem is told")
        assert "18702" in manager.does("status")
    until(lambda: not told(), "the problem is gone")
    manager.does("stack", "rm", "port")


def test_command_that_does_not_exist(manager: Host, tmp_path: Path) -> None:
    """The reason is in ``service ps``, in ``status`` and in what waiting says; it is not tried at full speed."""
    file = tmp_path / "lost.yml"
    file.write_text(STACK.format(command="/no/such", port=18703))
    done = manager.swarmpy("stack", "deploy", "--timeout", "3", "-c", file, "lost")
    reason = "command not found: /no/such"
    refused(done, 75, "not converged within 3 s", "lost_web 0/1 running", reason)
    assert '"swarmpy stack ps lost" shows how far it is' in done.stderr
    assert reason in manager.does("service", "ps", "lost_web")
    assert any("lost_web" in problem and reason in problem for problem in manager.status()["problems"])
    assert len(manager.api("/tasks", service="lost_web")) <= 3
    manager.does("stack", "rm", "lost")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: [", (":2:", "not valid YAML")),
        ("services: {web: {command: x}}", ("services.web", "image")),
        ("services:\n  web: {image: x, replica: 3}\n", (":2", "services.web", "replica")),
        ("services: {web: {image: x, ports: ['99999:80']}}", ("services.web.ports", "99999")),
        ("services: {web: {image: x, deploy: {replicas: many}}}", ("services.web.deploy.replicas", "many")),
        ("web: {image: x}", ("web",)),
    ],
)
def test_malformed_stack_files(manager: Host, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    """A stack file that is wrong is named with the place and the key; nothing of it is deployed."""
    file = tmp_path / "stack.yml"
    file.write_text(text)
    refused(manager.swarmpy("stack", "deploy", "-c", file, "bad"), 1, str(file), *words)
    assert manager.api("/services") == []


@needs_docker_cli
@pytest.mark.parametrize(
    ("options", "image", "words"),
    [
        ([], "../../containers/web", "is not a valid repository/tag"),
        ([], "busybox$(reboot)", "is not a valid repository/tag"),
        (["--name", "a" * 60 + "_"], "busybox", "name must be valid as a DNS name component"),
        (["--hostname", "a\n10.0.0.1 b"], "busybox", "Hostname: 'a\\n10.0.0.1 b' is not a host name"),
        (["--user", "root;id"], "busybox", "User: 'root;id' is not a user"),
        (["--mount", "type=bind,source=/a/../etc,target=/x"], "busybox", "write it without '..'"),
        (["--env", "A={{.Nope}}"], "busybox", "unknown placeholder {{.Nope}}"),
    ],
)
def test_services_that_no_node_should_get(manager: Host, options: list[str], image: str, words: str) -> None:
    """``docker service create`` is told what is wrong, in one line; nothing is created."""
    command = [
        DOCKER,
        "-H",
        f"unix://{manager.data_dir}/swarmpy.sock",
        "service",
        "create",
        "--detach",
        *options,
        image,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert manager.api("/services") == []


def test_a_stack_file_that_means_harm(manager: Host, tmp_path: Path) -> None:
    """A file that multiplies itself, waits for a pipe or breaks out of a name is refused, and soon."""
    file = tmp_path / "evil.yml"
    os.mkfifo(tmp_path / "pipe")
    web = "services: {web: {image: busybox, "
    for text, words in (
        (f"x-a: &a '{'a' * 100_000}'\nx-b: [{','.join(['*a'] * 1000)}]\n", "aliases expand to more than"),
        (f"{web} command: !!python/object/apply:os.system [id]}}}}", "is not supported here"),
        (f"{web} env_file: {tmp_path}/pipe}}}}", "it is not a regular file"),
        (f'{web} hostname: "a\\n10.0.0.1 b"}}}}', "services.web.hostname: 'a\\n10.0.0.1 b' is not a host name"),
        ("services: {web: {image: ../../etc}}", "services.web.image: '../../etc' is no image reference"),
    ):
        file.write_text(text)
        refused(manager.swarmpy("stack", "deploy", "-c", file, "evil", timeout=20), 1, str(file), words)
    refused(manager.swarmpy("stack", "deploy", "-c", file, "a" * 60 + "_"), 1, "invalid stack name")
    assert manager.api("/services") == []


def test_backups_that_are_no_files(outsider: Host, tmp_path: Path) -> None:
    """Neither a backup to, nor one from, what is no file waits or leaves anything."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        refused(outsider.swarmpy("swarm", "restore", "--check", path, timeout=20), 1, f"{path}: it is not a regular")
    for name in ("a" * 300, "no/where"):
        refused(outsider.swarmpy("swarm", "backup", tmp_path / name), 1, str(tmp_path / name.rpartition("/")[0]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stack", "deploy", "-c", "/no.yml", "st"], 1, "/no.yml"),
        (["stack", "deploy", "-c", "/no.yml", "a b"], 1, "'a b'"),
        (["service", "scale", "none=2"], 1, "service none not found"),
        (["service", "scale", "none"], 1, "'none' is not SERVICE=REPLICAS"),
        (["service", "rm", "none"], 1, "service none not found"),
        (["service", "ps", "none"], 1, "service none not found"),
        (["node", "rm", "none"], 1, "node none not found"),
        (["node", "promote", "none"], 1, "node none not found"),
        (["stack", "ps", "none"], 1, "none"),
        (["-H", "tcp://192.0.2.1:1", "status"], 1, "is not a unix socket"),
        (["-H", "/nowhere.sock", "status"], 75, "cannot reach the swarmpy daemon at /nowhere.sock"),
    ],
)
def test_wrong_names(manager: Host, arguments: list[str], code: int, words: str) -> None:
    """What does not exist is named."""
    refused(manager.swarmpy(*arguments), code, words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["service", "ls", "--format", "xml"],
        ["stack", "deploy", "st"],
        ["node", "update", "x"],
        ["node", "update", "--availability", "maybe", "x"],
        ["swarm", "join-token", "admin"],
        ["--log-level", "loud", "status"],
    ],
)
def test_wrong_flags(manager: Host, arguments: list[str]) -> None:
    """Wrong usage is exit code 2, with what is wrong in the last line."""
    done = manager.swarmpy(*arguments)
    assert done.returncode == 2
    assert last_line(done).startswith("Error: ")


def test_nothing_was_lost(manager: Host, outsider: Host) -> None:
    """After all this the daemons are as they were, and have logged no defect."""
    assert list(manager.nodes().values()) == [("ready", "leader")]
    for host in (manager, outsider):
        for word in ("Traceback", "never retrieved", "request_failed", "handler_failed"):
            assert word not in host.log
