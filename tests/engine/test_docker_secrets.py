"""Secrets and configs of containers, and credentials for registries, on a real engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from images import PRIVATE_TAG, SOCKET
from needs import needs_root
from registries import auth, forget, private_registry, push
from structlog.testing import capture_logs

from swarmpy.errors import TaskFailed, TaskRejected
from swarmpy.model.dependencies import NO_DEPENDENCIES, Content, Dependencies
from swarmpy.model.ids import ConfigId, SecretId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference, TaskSpec
from swarmpy.ports import TaskExit
from swarmpy.runtime.docker import DockerRuntime
from swarmpy.runtime.memory_files import usual_bases

pytestmark = pytest.mark.engine

SECOND = 1_000_000_000
PLANTED = "hunter2-planted"


def secret(name: str, target: str | None = None, **file: Any) -> SecretReference:
    """A reference to the secret of that id and name."""
    place = FileTarget(name=name if target is None else target, **file)
    return SecretReference(secret_id=SecretId(name), secret_name=name, file=place)


def config(name: str, target: str | None = None, **file: Any) -> ConfigReference:
    """The same of a config."""
    place = FileTarget(name=name if target is None else target, **file)
    return ConfigReference(config_id=ConfigId(name), config_name=name, file=place)


def make_task(script: str, *references: SecretReference | ConfigReference, **fields: Any) -> Task:
    """A task that runs a script and has these files."""
    container = ContainerSpec(
        image=PRIVATE_TAG,
        args=("sh", "-c", script),
        stop_grace_period_ns=SECOND,
        secrets=tuple(r for r in references if isinstance(r, SecretReference)),
        configs=tuple(r for r in references if isinstance(r, ConfigReference)),
    )
    return Task(
        id=TaskId(os.urandom(13).hex()[:25]),
        spec=TaskSpec(container=attrs.evolve(container, **fields)),
        service_id=ServiceId("s" * 25),
        service_name="web",
        slot=3,
    )


def needs(secrets: dict[str, bytes | str], configs: dict[str, str] | None = None) -> Dependencies:
    """Data by ids; text that has placeholders is a template."""

    def content(data: bytes | str) -> Content:
        if isinstance(data, bytes):
            return Content(data=data)
        return Content(data=data.encode(), templating="golang" if "{{" in data else "")

    return Dependencies(
        secrets={SecretId(i): content(data) for i, data in secrets.items()},
        configs={ConfigId(i): content(data) for i, data in (configs or {}).items()},
    )


async def output(runtime: DockerRuntime, task: Task, needed: Dependencies) -> str:
    """What the container says; it ends well."""
    await runtime.prepare(task, needed)
    await runtime.start(task)
    ended = await runtime.wait(task)
    docker = runtime._engine._docker
    assert docker is not None
    said = "".join(await docker.containers.container(task.name).log(stdout=True, stderr=True))
    assert ended == TaskExit(exit_code=0), said
    return said


def files(runtime: DockerRuntime) -> list[str]:
    """The tasks with a directory in memory."""
    roots = [base.path / runtime._node.id for base in usual_bases(os.geteuid(), os.environ)]
    return sorted(path.name for root in roots if root.exists() for path in root.iterdir())


async def test_files_of_a_container(docker_runtime: DockerRuntime) -> None:
    """Where they belong, with owner, mode and contents, and not to be written, also by root."""
    task = make_task(
        "for f in /run/secrets/plain /run/secrets/sub/deep /etc/app/key /app.conf /etc/app/other.conf; do"
        ' stat -c "%n %u:%g %a" $f; cat $f; echo; echo x 2>/dev/null >$f && exit 3; done;'
        ' grep -cE " (/run/secrets|/etc/app|/app.conf).* tmpfs ro," /proc/mounts; ls /run/secrets',
        secret("plain"),
        secret("owned", "sub/deep", uid="1000", gid="50", mode=0o400),
        secret("absolute", "/etc/app/key", mode=0o440),
        config("app.conf"),
        config("other", "/etc/app/other.conf", uid="7", gid="8", mode=0o777),
        env=("GREETING=hello {{.Service.Name}}",),
    )
    needed = needs(
        {
            "plain": PLANTED,
            "owned": 'user={{.Task.Slot}} {{secret "plain"}}',
            "absolute": bytes(range(32, 127)).replace(b"{", b"").decode(),
        },
        {"app.conf": '{{env "GREETING"}} on {{.Node.Hostname}}', "other": "x"},
    )
    lines = (await output(docker_runtime, task, needed)).splitlines()
    assert lines == [
        "/run/secrets/plain 0:0 444",
        PLANTED,
        "/run/secrets/sub/deep 1000:50 400",
        f"user=3 {PLANTED}",
        "/etc/app/key 0:0 440",
        needed.secrets[SecretId("absolute")].data.decode(),
        "/app.conf 0:0 444",
        "hello web on host1",
        "/etc/app/other.conf 7:8 777",
        "x",
        "5",
        "plain",
        "sub",
    ]


async def test_a_user_reads_what_is_his(docker_runtime: DockerRuntime) -> None:
    """And nothing else: owners and modes count inside, also in a container whose root is read only."""
    task = make_task(
        "id -u; cat /run/secrets/mine; echo; cat /run/secrets/others 2>&1 || true",
        secret("mine", uid="1000", mode=0o400),
        secret("others", mode=0o400),
        user="1000",
        read_only=True,
    )
    said = await output(docker_runtime, task, needs({"mine": "of 1000", "others": PLANTED}))
    assert said.splitlines()[:2] == ["1000", "of 1000"]
    assert "Permission denied" in said
    assert PLANTED not in said


async def test_large_and_many(docker_runtime: DockerRuntime) -> None:
    """Half a megabyte, and a hundred on one service."""
    large = os.urandom(500 * 1024 - 1)
    names = [f"s{number:03}" for number in range(100)]
    task = make_task(
        "wc -c </run/secrets/large; md5sum </run/secrets/large; cat /run/secrets/s* | md5sum; ls /run/secrets | wc -l",
        secret("large"),
        *(secret(name) for name in names),
    )
    said = await output(docker_runtime, task, needs({"large": large, **{name: name * 100 for name in names}}))

    def md5(data: bytes) -> str:
        return subprocess.run(["md5sum"], input=data, capture_output=True, check=True).stdout.decode().split()[0]

    lines = [line.split()[0] for line in said.splitlines()]
    assert lines == [str(len(large)), md5(large), md5("".join(name * 100 for name in names).encode()), "101"]


async def test_the_engine_knows_no_data(docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession) -> None:
    """Inspecting tells of paths; the container's layer has empty files; no line of the log has the word."""
    task = make_task(f"grep -q {PLANTED[:8]} /run/secrets/s && sleep 600", secret("s"), config("c", "/etc/c.conf"))
    with capture_logs() as logs:
        await docker_runtime.prepare(task, needs({"s": PLANTED}, {"c": PLANTED}))
        await docker_runtime.start(task)
        async with engine_api.get(f"containers/{task.name}/json") as response:
            inspected = await response.text()
        async with engine_api.get(f"containers/{task.name}/export") as response:
            exported = await response.read()
        await docker_runtime.stop(task)
    assert "/run/secrets/s" in inspected
    assert PLANTED not in inspected
    assert PLANTED.encode() not in exported
    assert PLANTED not in str(logs)
    mounts = {mount["Destination"]: mount for mount in json.loads(inspected)["Mounts"]}
    assert set(mounts) == {"/run/secrets/s", "/etc/c.conf"}
    assert not any(mount["RW"] for mount in mounts.values())


async def test_they_go_with_the_task(docker_runtime: DockerRuntime) -> None:
    """When it has ended by itself, was stopped, never started, or is removed."""
    needed = needs({"s": PLANTED})
    ends, stopped, waiting, removed = (make_task(f"{how} 600", secret("s")) for how in ("true", *["sleep"] * 3))
    for task in (ends, stopped, waiting, removed):
        await docker_runtime.prepare(task, needed)
    assert len(files(docker_runtime)) == 4
    for task in (ends, stopped, removed):
        await docker_runtime.start(task)
    await docker_runtime.wait(ends)
    await docker_runtime.stop(stopped)
    await docker_runtime.stop(waiting)
    assert files(docker_runtime) == [removed.id]
    await docker_runtime.remove(removed.id)
    assert files(docker_runtime) == []
    assert not any((base.path / docker_runtime._node.id).exists() for base in usual_bases(os.geteuid(), os.environ))


async def test_a_restarted_agent_keeps_what_its_tasks_need(docker_runtime: DockerRuntime) -> None:
    """The running ones and those that may still be started; not those that ended while nobody looked."""
    needed = needs({"s": PLANTED})
    running, created, ended = (make_task(f"{how} 600", secret("s")) for how in ("sleep", "sleep", "true"))
    for task in (running, created, ended):
        await docker_runtime.prepare(task, needed)
    await docker_runtime.start(running)
    await docker_runtime.start(ended)
    docker = docker_runtime._engine._docker
    assert docker is not None
    await docker.containers.container(ended.name).wait()
    lost = await docker_runtime._files.write(TaskId("task-without-a-container"), ())
    again = DockerRuntime(
        node_id=docker_runtime._node.id, node_address="127.0.0.1", hostname="host1", url=f"unix://{SOCKET}"
    )
    await again.open()
    try:
        assert files(again) == sorted([running.id, created.id])
        assert not lost.exists()
        await again.prepare(created)
        await again.start(created)
        for task in (running, created):
            container = docker.containers.container(task.name)
            read = await container.exec(["cat", "/run/secrets/s"])
            async with read.start(detach=False) as stream:
                message = await stream.read_out()
            assert message is not None
            assert message.data == PLANTED.encode()
    finally:
        await again.close()


async def test_a_restarted_machine_has_lost_them(docker_runtime: DockerRuntime) -> None:
    """A container that was not started yet cannot be, with the reason; prepared anew, it can."""
    task = make_task("cat /run/secrets/s", secret("s"))
    await docker_runtime.prepare(task, needs({"s": PLANTED}))
    await docker_runtime._files.sweep(())
    with pytest.raises(TaskFailed, match="not in memory any more: the machine was restarted"):
        await docker_runtime.start(task)
    with pytest.raises(TaskRejected, match="secret s: its data is not at hand"):
        await docker_runtime.prepare(task, NO_DEPENDENCIES)
    assert await output(docker_runtime, task, needs({"s": "again"})) == "again"


async def test_a_template_that_is_none(docker_runtime: DockerRuntime) -> None:
    """The task is rejected with the line, and no container is made."""
    task = make_task("true", secret("s"))
    with pytest.raises(TaskRejected, match=r"^secret s: line 2: a placeholder") as caught:
        await docker_runtime.prepare(task, needs({"s": f"\n{PLANTED}{{{{if}}}}"}))
    assert PLANTED not in str(caught.value)
    assert await docker_runtime.list_tasks() == {}


BLIND = """
import asyncio, os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parents[1])]
from test_docker_secrets import PLANTED, SOCKET, make_task, needs, secret
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import NodeId
from swarmpy.runtime import tmpfs
from swarmpy.runtime.docker import DockerRuntime
from swarmpy.runtime.memory_files import Base, MemoryFiles

async def main():
    base, node = Path(sys.argv[2]), NodeId(f"engine-test-blind-{os.getpid()}")
    files = MemoryFiles(node, [Base(path=base)])
    runtime = DockerRuntime(
        node_id=node, node_address="127.0.0.1", hostname="h", url=f"unix://{SOCKET}", files=files
    )
    await runtime.open()
    (base / node).mkdir(mode=0o700)
    tmpfs.mount(base / node, size="1m")
    task = make_task("true", secret("s"))
    try:
        await runtime.prepare(task, needs({"s": PLANTED}))
    except TaskRejected as error:
        print(error)
    await runtime.stop(task)
    await runtime.close()

asyncio.run(main())
"""


@needs_root
async def test_an_engine_that_does_not_see_them(engine_images: str, tmp_path: Path) -> None:
    """It has other mounts than the daemon: nothing runs without its secrets, and the reason is told."""
    base = tmp_path / "memory"
    base.mkdir(mode=0o700)
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "--propagation", "private",
        sys.executable, "-c", BLIND, str(Path(__file__).parent), str(base),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert f"the engine does not see the files of its secrets and configs in {base}" in said.decode()


# -- registries -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def private_image(tmp_path: Path, engine_api: aiohttp.ClientSession) -> AsyncIterator[str]:
    """An image that nobody gets without the password."""
    async with private_registry(tmp_path) as address:
        image = f"{address}/team/app:1"
        await push(engine_api, PRIVATE_TAG, image)
        yield image
        await forget(engine_api, image)


async def test_an_image_is_pulled_with_its_credentials(
    docker_runtime: DockerRuntime, private_image: str, engine_api: aiohttp.ClientSession
) -> None:
    """With the right ones; without, or with wrong ones, it is refused with a reason that does not tell them."""
    plain = make_task("sleep 600", image=private_image)
    login = make_task("sleep 600", image=private_image, pull_secret_id=SecretId("login"))
    wrong = f"not-{PLANTED}".encode()
    tries = (
        (plain, NO_DEPENDENCIES),
        (login, Dependencies(secrets={SecretId("login"): Content(data=auth("wrong"))})),
        (login, Dependencies(secrets={SecretId("login"): Content(data=wrong)})),
    )
    with capture_logs() as logs:
        for task, needed in tries:
            with pytest.raises(TaskRejected) as caught:
                await docker_runtime.prepare(task, needed)
            assert PLANTED not in str(caught.value)
            assert "wrong" not in str(caught.value)
        right = Dependencies(secrets={SecretId("login"): Content(data=auth())})
        # At the same time as one without: that one has a pull of its own. Should it end later, the image is here.
        with capture_logs() as pulls:
            both = await asyncio.gather(
                docker_runtime.prepare(login, right), docker_runtime.prepare(plain), return_exceptions=True
            )
        assert both[0] is None
        assert sorted(line["with_credentials"] for line in pulls if line["event"] == "pulling_image") == [False, True]
        await docker_runtime.start(login)
        async with engine_api.get(f"containers/{login.name}/json") as response:
            inspected = await response.text()
        await docker_runtime.stop(login)
    for said in (str(logs), str(pulls), inspected):
        assert PLANTED not in said
        assert auth().decode() not in said
    assert {line["with_credentials"] for line in logs if line["event"] == "pulling_image"} == {True, False}
