"""Secrets, configs and credentials with the docker command line, unchanged."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from api_world import World
from docker_client import Docker, is_needed

pytestmark = is_needed
NO_PULL = ("--no-resolve-image", "-d", "-q")


async def test_secrets(docker: Docker, tmp_path: Path) -> None:
    """Made of a file and of standard input, listed, inspected, removed."""
    (tmp_path / "tok").write_bytes(b"hunter2")
    made = await docker("secret", "create", "-l", "a=b", "tok", str(tmp_path / "tok"))
    other = await docker("secret", "create", "--template-driver", "golang", "other", "-", stdin=b"x{{.Task.Slot}}")
    assert set((await docker("secret", "ls", "-q")).split()) == {made, other}
    assert (await docker("secret", "ls", "--filter", "name=oth", "--format", "{{.Name}}")) == "other"
    assert (await docker("secret", "ls", "--filter", "label=a=b", "-q")) == made
    (shown,) = json.loads(await docker("secret", "inspect", "tok"))
    assert shown["Spec"] == {"Name": "tok", "Labels": {"a": "b"}}
    pretty = await docker("secret", "inspect", "--pretty", made)
    assert "Name:              tok" in pretty
    assert "hunter2" not in pretty
    error = await docker("secret", "create", "tok", "-", stdin=b"y", fails=True)
    assert "secret tok already exists" in error
    assert (await docker("secret", "rm", "tok", "other")).split() == ["tok", "other"]
    assert "secret tok not found" in await docker("secret", "rm", "tok", fails=True)
    assert "secret tok not found" in await docker("secret", "inspect", "tok", fails=True)


async def test_configs(docker: Docker, tmp_path: Path) -> None:
    """The same, and their data is shown."""
    (tmp_path / "cfg").write_bytes(b"a: 1\n" * 200_000)
    made = await docker("config", "create", "-l", "a=b", "cfg", str(tmp_path / "cfg"))
    assert (await docker("config", "ls", "--format", "{{.ID}} {{.Name}}")) == f"{made} cfg"
    await docker("config", "create", "small", "-", stdin=b"b: 2\n")
    assert "b: 2" in await docker("config", "inspect", "--pretty", "small")
    (shown,) = json.loads(await docker("config", "inspect", "cfg"))
    assert base64.b64decode(shown["Spec"]["Data"]) == b"a: 1\n" * 200_000
    assert len((await docker("config", "ls", "-q")).split()) == 2
    (tmp_path / "big").write_bytes(bytes(1_024_001))
    error = await docker("config", "create", "big", str(tmp_path / "big"), fails=True)
    assert "config data must be larger than 0 and at most 1024000 bytes" in error
    assert (await docker("config", "rm", "cfg", "small")).split() == ["cfg", "small"]


async def test_services_with_secrets_and_configs(docker: Docker) -> None:
    """Short and long syntax; added to and taken from a service that exists; in the way of their removal until then."""
    for word, name in (("secret", "s1"), ("secret", "s2"), ("config", "c1")):
        await docker(word, "create", name, "-", stdin=b"x")
    long = "source=c1,target=/etc/c1,mode=0400,uid=7,gid=8"
    await docker("service", "create", *NO_PULL, "--name", "web", "--secret", "s1", "--config", long, "busybox")

    async def container() -> dict[str, list[dict[str, object]]]:
        (shown,) = json.loads(await docker("service", "inspect", "web"))
        found: dict[str, list[dict[str, object]]] = shown["Spec"]["TaskTemplate"]["ContainerSpec"]
        return found

    shown = await container()
    assert [(s["SecretName"], s["File"]) for s in shown["Secrets"]] == [
        ("s1", {"Name": "s1", "UID": "0", "GID": "0", "Mode": 0o444})
    ]
    assert [(c["ConfigName"], c["File"]) for c in shown["Configs"]] == [
        ("c1", {"Name": "/etc/c1", "UID": "7", "GID": "8", "Mode": 0o400})
    ]
    assert "secret not found: nosuch" in await docker(
        "service", "create", *NO_PULL, "--secret", "nosuch", "busybox", fails=True
    )
    in_use = await docker("secret", "rm", "s1", fails=True)
    assert "secret 's1' is in use by the following service: web" in in_use
    change = ("--secret-rm", "s1", "--secret-add", "source=s2,target=other", "--config-rm", "c1")
    await docker("service", "update", "-d", "-q", "--no-resolve-image", *change, "web")
    shown = await container()
    assert [(s["SecretName"], s["File"]["Name"]) for s in shown["Secrets"]] == [("s2", "other")]  # type: ignore[index]
    assert "Configs" not in shown
    await docker("secret", "rm", "s1")
    await docker("config", "rm", "c1")
    await docker("service", "update", "-d", "-q", "--no-resolve-image", "--env-add", "A=1", "web")
    assert len((await container())["Secrets"]) == 1


async def test_a_new_version_under_a_service_of_dockers(docker: Docker, world: World) -> None:
    """What the docker command knows of versions: the latest; and it goes back with ``service rollback``."""
    old = await docker("secret", "create", "s1", "-", stdin=b"one")
    await docker("service", "create", *NO_PULL, "--name", "web", "--secret", "s1", "busybox")
    await docker.api("POST", "/secrets/s1/versions", {"Data": base64.b64encode(b"two").decode()})
    new = await docker("secret", "ls", "-q")
    assert new != old

    def used() -> str:
        (service,) = world.leader.store.view().services()
        return service.spec.task.container.secrets[0].secret_id

    assert used() == new
    await docker("service", "rollback", "-d", "-q", "web")
    assert used() == old
    await docker("service", "update", "-d", "-q", "--no-resolve-image", "--env-add", "A=1", "web")
    assert used() == old
    await docker("service", "create", *NO_PULL, "--name", "api", "--secret", "s1", "busybox")
    (web, api) = sorted(world.leader.store.view().services(), key=lambda s: s.spec.name, reverse=True)
    assert api.spec.task.container.secrets[0].secret_id == new
    assert web.spec.task.container.secrets[0].secret_id == old


STACK = """
version: "3.8"
services:
  web:
    image: busybox:local
    secrets: [tok]
    configs: [{source: cfg, target: /etc/cfg}]
    networks: [outside]
networks:
  outside: {external: true, name: host}
secrets:
  tok: {file: tok}
configs:
  cfg: {file: cfg}
"""


async def test_stacks(docker: Docker, tmp_path: Path) -> None:
    """Deployed, deployed again with the same, refused with other data as by Docker, removed with all that is theirs."""
    (tmp_path / "stack.yml").write_text(STACK)
    (tmp_path / "tok").write_text("one")
    (tmp_path / "cfg").write_text("two")
    deploy = ("stack", "deploy", "-c", str(tmp_path / "stack.yml"), "--resolve-image", "never", "--detach=true", "st")
    await docker(*deploy)
    await docker(*deploy)
    assert await docker("secret", "ls", "--format", "{{.Name}}") == "st_tok"
    (tmp_path / "tok").write_text("other")
    assert "only updates to Labels are allowed" in await docker(*deploy, fails=True)
    await docker("stack", "rm", "st")
    assert await docker("secret", "ls", "-q") == await docker("config", "ls", "-q") == ""


async def test_credentials(docker: Docker, tmp_path: Path, world: World) -> None:
    """``--with-registry-auth`` sends those of the client's own file."""
    auth = base64.b64encode(b"bob:pa55").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.example": {"auth": auth}}}))
    image = "r.example/app:1"
    await docker("service", "create", *NO_PULL, "--with-registry-auth", "--name", "web", image)
    (secret,) = world.leader.store.view().secrets()
    assert json.loads(secret.spec.data) == {"username": "bob", "password": "pa55", "serveraddress": "r.example"}
    await docker("service", "update", "-d", "-q", "--no-resolve-image", "--env-add", "A=1", "web")
    (service,) = world.leader.store.view().services()
    assert service.spec.task.container.pull_secret_id == secret.id
    for command in (("service", "inspect", "web"), ("secret", "ls"), ("service", "inspect", "--pretty", "web")):
        assert "pa55" not in await docker(*command)
