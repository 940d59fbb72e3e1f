"""Secrets, configs and their versions on real daemons: by swarmpy's command line, stack files and the docker CLI."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, Hosts, needs_docker_cli, refused, until

from swarmpy.cli.client import ApiClient
from swarmpy.cli.data_client import DataClient

SECRET = b"hunter2 of the whole cluster"
STACK = """
services:
  web:
    image: none
    command: sleep 100000
    stop_grace_period: 1s
    secrets: [tok, {source: ext, target: other, mode: 0400}]
    configs: [{source: cfg, target: /etc/cfg}]
    deploy:
      replicas: 2
      update_config: {monitor: 500ms, failure_action: rollback}
  idle: {image: none, command: sleep 100000, stop_grace_period: 1s}
secrets:
  tok: {file: tok}
  ext: {external: true}
configs:
  cfg: {file: cfg}
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """A manager and a worker for all tests of this file but one."""
    made = Hosts(tmp_path_factory.mktemp("network"))
    yield made.cluster(1, 1)
    made.close()


@pytest.fixture
def manager(nodes: list[Host]) -> Iterator[Host]:
    """The manager, with nothing in it; neither daemon has said anything of a defect, or of a secret, in the end."""
    host = nodes[0]
    yield host
    for service in host.api("/services"):
        host.does("service", "rm", service["Spec"]["Name"])
    until(lambda: not host.api("/tasks"), "all tasks are gone")
    for word in ("secret", "config"):
        for item in host.api(f"/{word}s"):
            host.does(word, "rm", item["Spec"]["Name"])
    for node in nodes:
        assert "Traceback" not in node.log
        assert "never retrieved" not in node.log
        told = [node.log, *(path.read_text() for path in node.data_dir.glob("audit.log*"))]
        for text in ("hunter2", base64.b64encode(SECRET).decode()[:12]):
            assert not any(text in part for part in told)


def piped(host: Host, data: bytes, *arguments: str) -> str:
    """What a command says that reads ``data`` from its standard input."""
    command = [sys.executable, "-m", "swarmpy", "--data-dir", str(host.data_dir), *arguments]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def deploy(host: Host, directory: Path, text: str = STACK, *more: str) -> list[str]:
    """Deploys the stack ``st``; what was said of objects."""
    (directory / "st.yml").write_text(text)
    said = host.does("stack", "deploy", *more, "-c", directory / "st.yml", "st")
    return [line for line in said.splitlines() if line.split()[0] in ("Creating", "Updating", "Service", "Removing")]


def without_id(lines: list[str]) -> list[str]:
    return [line.partition(" (id:")[0] for line in lines]


def reference(host: Host, service: str, kind: str = "Secrets") -> list[tuple[str, str]]:
    """The names and ids of what a service refers to."""
    found = host.api(f"/services/{service}")["Spec"]["TaskTemplate"]["ContainerSpec"].get(kind, [])
    return [(item[f"{kind[:-1]}Name"], item[f"{kind[:-1]}ID"]) for item in found]


def versions(host: Host, word: str, name: str) -> list[tuple[int, list[str], list[str]]]:
    shown = host.api(f"/{word}s/{name}")
    return [(v["Number"], v["Services"], v["PreviousOf"]) for v in shown["Versions"]]


def test_the_commands(manager: Host, tmp_path: Path) -> None:
    """Create, list, filter, inspect, relabel, remove; several at a time, whatever becomes of one."""
    (tmp_path / "tok").write_bytes(SECRET)
    made = manager.does("secret", "create", "-l", "a=b", "tok", tmp_path / "tok").strip()
    cfg = piped(manager, b"x: 1\n\x1b[2Jy\n", "config", "create", "--template-driver", "golang", "cfg", "-").strip()
    assert [(r["ID"], r["Name"], r["Version"]) for r in manager.rows("secret", "ls")] == [(made, "tok", "1")]
    assert manager.does("config", "ls", "-q") == f"{cfg}\n"
    assert manager.does("secret", "ls", "-q", "--filter", "label=a=b", "--filter", "name=to") == f"{made}\n"
    assert manager.does("secret", "ls", "-q", "-f", "names=to") == ""
    refused(manager.swarmpy("secret", "ls", "-f", "nonsense"), 1, "'nonsense' is not KEY=VALUE")
    refused(manager.swarmpy("secret", "create", "tok", tmp_path / "tok"), 1, "secret tok already exists")
    refused(manager.swarmpy("secret", "create", "x", tmp_path / "no"), 1, "no: cannot be read: No such file")
    (tmp_path / "large").write_bytes(bytes(600_000))
    refused(manager.swarmpy("secret", "create", "x", tmp_path / "large"), 1, "it has more than 512000 bytes")
    manager.does("secret", "update", "--label-rm", "a", "--label-add", "c=d", "tok")
    (shown,) = json.loads(manager.does("secret", "inspect", "tok"))
    assert shown["Spec"] == {"Name": "tok", "Labels": {"c": "d"}}
    refused(manager.swarmpy("secret", "update", "--label-rm", "zz", "tok"), 1, "secret tok has no label 'zz'")
    pretty = manager.does("config", "inspect", "--pretty", "cfg")
    assert "Template:    golang" in pretty
    assert "Data:\nx: 1\n?[2Jy" in pretty
    done = manager.swarmpy("secret", "rm", "nosuch", "tok")
    refused(done, 1, "secret nosuch not found")
    assert done.stdout == "tok\n"
    assert manager.does("config", "rm", "cfg") == "cfg\n"


def test_a_stack_with_secrets_and_configs(manager: Host, tmp_path: Path) -> None:
    """Deployed, deployed unchanged, with other data, gone back, and removed with all that is its own."""
    (tmp_path / "tok").write_bytes(SECRET)
    (tmp_path / "cfg").write_bytes(b"x: 1\n")
    (tmp_path / "st.yml").write_text(STACK)
    missing = manager.swarmpy("stack", "deploy", "-c", tmp_path / "st.yml", "st")
    refused(missing, 1, "service st_web: secret not found: ext: create it first")
    assert manager.api("/secrets") == manager.api("/configs") == []
    piped(manager, b"external", "secret", "create", "ext", "-")
    assert deploy(manager, tmp_path) == [
        "Creating secret st_tok",
        "Creating config st_cfg",
        "Creating service st_web",
        "Creating service st_idle",
    ]
    before, idle = manager.tasks("st_web"), manager.tasks("st_idle")
    assert len(before) == 2
    assert without_id(deploy(manager, tmp_path)) == ["Service st_web is up to date", "Service st_idle is up to date"]
    assert manager.tasks("st_web") == before
    old = reference(manager, "st_web")

    (tmp_path / "tok").write_bytes(SECRET + b", changed")
    assert without_id(deploy(manager, tmp_path)) == [
        "Updating secret st_tok (version 2)",
        "Service st_web is up to date",
        "Service st_idle is up to date",
    ]
    after = manager.tasks("st_web")
    assert len(after) == 2
    assert not before.keys() & after.keys()
    assert manager.tasks("st_idle") == idle
    assert versions(manager, "secret", "st_tok") == [(1, [], ["st_web"]), (2, ["st_web"], [])]
    assert dict(reference(manager, "st_web"))["ext"] == dict(old)["ext"]
    assert manager.api("/services/st_web")["UpdateStatus"]["State"] == "completed"
    assert [v["RunningTasks"] for v in manager.api("/secrets/st_tok")["Versions"]] == [0, 2]

    (tmp_path / "cfg").write_bytes(b"x: 2\n")
    deploy(manager, tmp_path)
    assert versions(manager, "config", "st_cfg") == [(1, [], ["st_web"]), (2, ["st_web"], [])]
    until(lambda: versions(manager, "secret", "st_tok") == [(2, ["st_web"], [])], "the first version is gone")

    before_both = reference(manager, "st_web"), reference(manager, "st_web", "Configs")
    (tmp_path / "tok").write_bytes(SECRET + b", and again")
    (tmp_path / "cfg").write_bytes(b"x: 3\n")
    deploy(manager, tmp_path)
    assert reference(manager, "st_web") != before_both[0]
    rollback(manager, manager.api("/services/st_web"))
    until(lambda: manager.api("/services/st_web")["UpdateStatus"]["State"] == "rollback_completed", "it went back")
    assert (reference(manager, "st_web"), reference(manager, "st_web", "Configs")) == before_both

    refused(manager.swarmpy("secret", "rm", "st_tok"), 1, "secret 'st_tok' is in use by the following service: st_web")
    said = manager.does("stack", "rm", "st").splitlines()
    assert said == [
        "Removing service st_idle",
        "Removing service st_web",
        "Removing secret st_tok",
        "Removing config st_cfg",
    ]
    assert [item["Spec"]["Name"] for item in manager.api("/secrets")] == ["ext"]
    assert manager.api("/configs") == []


def test_update_of_a_secret_rolls_and_goes_back(manager: Host, tmp_path: Path) -> None:
    """By ``secret update``, which waits; a rollback takes the old data, and the next version takes all along."""
    (tmp_path / "tok").write_bytes(SECRET)
    (tmp_path / "cfg").write_bytes(b"x: 1\n")
    piped(manager, b"external", "secret", "create", "ext", "-")
    deploy(manager, tmp_path)
    first = manager.tasks("st_web")
    said = piped(manager, b"second", "secret", "update", "st_tok", "-")
    assert said.splitlines()[0] == "st_tok is version 2 now: 1 service follows (st_web)"
    second = manager.tasks("st_web")
    assert len(second) == 2
    assert not first.keys() & second.keys()
    assert piped(manager, b"second", "secret", "update", "st_tok", "-") == (
        "st_tok has this data already: it is version 2\n"
    )
    service = manager.api("/services/st_web")
    rollback(manager, service)
    until(lambda: manager.api("/services/st_web")["UpdateStatus"]["State"] == "rollback_completed", "it went back")
    assert versions(manager, "secret", "st_tok") == [(1, ["st_web"], []), (2, [], ["st_web"])]
    pretty = manager.does("secret", "inspect", "--pretty", "st_tok")
    assert next(line.split() for line in pretty.splitlines() if line.startswith(" 1 "))[-2:] == ["st_web", "2"]
    piped(manager, b"third", "secret", "update", "-d", "st_tok", "-")
    assert versions(manager, "secret", "st_tok")[-1] == (3, ["st_web"], [])
    # The second version was kept for a way back that is not there any more.
    until(lambda: [v[0] for v in versions(manager, "secret", "st_tok")] == [1, 3], "the second version is gone")
    manager.does("stack", "rm", "st")


def rollback(host: Host, service: dict[str, Any]) -> None:
    """What ``docker service rollback`` asks for."""
    query = {"version": str(service["Version"]["Index"]), "rollback": "previous"}
    client = ApiClient(host.data_dir / "swarmpy.sock")
    asyncio.run(client.post(f"/services/{service['ID']}/update", service["Spec"], query=query))


@needs_docker_cli
def test_the_docker_command_beside_it(manager: Host, tmp_path: Path) -> None:
    """Its secrets, its services and its way back, over versions that it knows nothing of."""
    (tmp_path / "s1").write_bytes(b"one")
    old = manager.docker("secret", "create", "s1", str(tmp_path / "s1")).strip()
    manager.docker("config", "create", "c1", str(tmp_path / "s1"))
    create = (
        "service create -q --no-resolve-image --name web --replicas 2 --update-monitor 300ms --stop-grace-period 1s"
    )
    references = ("--secret", "source=s1,target=here,mode=0400", "--config", "source=c1,target=/etc/c1")
    manager.docker(*create.split(), *references, "none", "sleep", "100000")
    assert len(manager.tasks("web")) == 2
    piped(manager, b"two", "secret", "update", "s1", "-")
    new = manager.docker("secret", "ls", "-q", "--filter", "name=s1").strip()
    assert reference(manager, "web") == [("s1", new)]
    assert new != old
    manager.docker("service", "rollback", "-q", "web")
    assert reference(manager, "web") == [("s1", old)]
    assert len(manager.tasks("web")) == 2
    manager.docker("service", "update", "-q", "--no-resolve-image", "--secret-rm", "s1", "--config-rm", "c1", "web")
    assert reference(manager, "web") == []
    manager.docker("secret", "rm", "s1")
    manager.docker("config", "rm", "c1")
    manager.docker("service", "rm", "web")


@needs_docker_cli
def test_credentials_alone_restart_nothing(manager: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent by the docker command and by ``stack deploy``; what runs has its image already."""

    def log_in(password: str) -> None:
        auth = base64.b64encode(f"bob:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.example": {"auth": auth}}}))

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    log_in("hunter2-one")
    text = "services: {web: {image: r.example/a, command: sleep 100000, stop_grace_period: 1s}}\n"
    deploy(manager, tmp_path, text, "--with-registry-auth")
    tasks = manager.tasks("st_web")
    version = manager.api("/services/st_web")["Version"]["Index"]
    deploy(manager, tmp_path, text, "--with-registry-auth")
    assert manager.api("/services/st_web")["Version"]["Index"] == version
    log_in("hunter2-two")
    deploy(manager, tmp_path, text, "--with-registry-auth")
    assert manager.api("/services/st_web")["Version"]["Index"] > version
    log_in("hunter2-three")
    manager.docker("service", "update", "-q", "--no-resolve-image", "--with-registry-auth", "st_web")
    assert manager.tasks("st_web") == tasks
    assert manager.api("/secrets") == []
    assert "hunter2" not in manager.docker("service", "inspect", "st_web")
    manager.does("stack", "rm", "st")


def test_services_follow_though_the_leader_is_killed(tmp_path: Path) -> None:
    """More of them than go into one entry: whoever leads then goes on where the last one was."""
    made = Hosts(tmp_path)
    try:
        managers = made.cluster(3, 0)
        first = managers[0]
        old = piped(first, b"one", "secret", "create", "tok", "-").strip()
        create_many(first, old, 230)
        leader = next(host for host in managers if first.nodes()[host.name][1] == "leader")
        others = [host for host in managers if host is not leader]
        largest = bytes(range(256)) * 4000
        piped(others[0], largest, "config", "create", "largest", "-")
        assert base64.b64decode(others[1].api("/configs/largest")["Spec"]["Data"]) == largest
        pid = leader.pid
        made_version(leader)
        os.kill(pid, 9)
        leader.kill()

        def done() -> bool:
            (earlier, latest) = others[0].api("/secrets/tok")["Versions"]
            return not earlier["Services"] and len(latest["Services"]) == 230

        until(done, "all services follow", timeout=60)
        for host in others:
            assert "Traceback" not in host.log
    finally:
        made.close()


def create_many(host: Host, secret_id: str, count: int) -> None:
    """So many services without tasks that refer to a secret."""

    async def work() -> None:
        reference = {"SecretID": secret_id, "SecretName": "tok", "File": {"Name": "tok"}}
        async with ApiClient(host.data_dir / "swarmpy.sock") as client:
            for number in range(count):
                container = {"Image": "none", "Secrets": [reference]}
                await client.create_service(
                    {
                        "Name": f"s{number:03}",
                        "TaskTemplate": {"ContainerSpec": container},
                        "Mode": {"Replicated": {"Replicas": 0}},
                    }
                )

    asyncio.run(work())


def made_version(host: Host) -> None:
    """A new version, which is answered when the first services have followed."""

    async def work() -> None:
        async with ApiClient(host.data_dir / "swarmpy.sock") as client:
            assert (await DataClient(client, "secret").new_version("tok", b"two"))["Number"] == 2

    asyncio.run(work())
