"""The docker runtime against a real Engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from engine_proxy import EngineProxy
from images import SOCKET

from swarmpy.errors import RuntimeUnavailable, TaskFailed, TaskRejected
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import (
    ContainerSpec,
    Healthcheck,
    Mount,
    NetworkAttachment,
    PortConfig,
    ResourceRequirements,
    Resources,
    TaskSpec,
)
from swarmpy.runtime import image_pulls
from swarmpy.runtime.choose import choose_runtime
from swarmpy.runtime.docker import DockerRuntime

pytestmark = pytest.mark.engine
SECOND = 1_000_000_000
IMAGE = "swarmpy-test:latest"
HTTPD = ("httpd", "-f", "-p", "80", "-h", "/www")
SLEEP = ("sleep", "600")


def make_task(*args: str, ports: tuple[PortConfig, ...] = (), resources: Any = None, **fields: Any) -> Task:
    container = attrs.evolve(ContainerSpec(image=IMAGE, args=args, stop_grace_period_ns=SECOND), **fields)
    return Task(
        id=TaskId(os.urandom(13).hex()[:25]),
        spec=TaskSpec(container=container, resources=resources),
        service_id=ServiceId("s" * 25),
        service_name="web",
        slot=1,
        ports=ports,
    )


async def ready(runtime: DockerRuntime, task: Task) -> Task:
    await runtime.prepare(task)
    await runtime.start(task)
    return task


@contextlib.asynccontextmanager
async def another(runtime: DockerRuntime, url: str = f"unix://{SOCKET}") -> AsyncIterator[DockerRuntime]:
    """A second runtime of the same node, as after a restart of the agent."""
    again = DockerRuntime(node_id=runtime._node.id, node_address="127.0.0.1", hostname="host1", url=url)
    await again.open()
    try:
        yield again
    finally:
        await again.close()


async def test_a_container_answers_on_its_port(docker_runtime: DockerRuntime) -> None:
    """A started task is reachable where its status says, by its ingress and by its host port."""
    ports = (
        PortConfig(target_port=80, published_port=8080),
        PortConfig(target_port=80, published_port=0, publish_mode="host"),
    )
    task = make_task("-c", "echo {{.Task.Name}} > /www/index.html; exec httpd -f -p 80 -h /www",
                     ports=ports, command=("sh",), hostname="h{{.Task.Slot}}")  # fmt: skip
    await docker_runtime.prepare(task)
    running = await docker_runtime.start(task)
    assert running.container.pid > 0
    assert [(p.target_port, p.publish_mode, p.host_address) for p in running.ports] == [
        (80, "ingress", "127.0.0.1"),
        (80, "host", "127.0.0.1"),
    ]
    async with aiohttp.ClientSession() as session:
        for port in running.ports:
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(aiohttp.ClientConnectionError):
                        async with session.get(f"http://127.0.0.1:{port.host_port}/") as response:
                            assert await response.text() == f"{task.name}\n"
                            break
                    await asyncio.sleep(0.02)
    assert await docker_runtime.start(task) == running


async def test_a_task_in_the_hosts_network(docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession) -> None:
    """It has the node's network and no port of the engine, published or not; it starts and ends as any other."""
    task = make_task(*SLEEP, ports=(PortConfig(target_port=80, published_port=80, publish_mode="host"),))
    task = attrs.evolve(task, spec=attrs.evolve(task.spec, networks=(NetworkAttachment(target="host"),)))
    await docker_runtime.prepare(task)
    running = await docker_runtime.start(task)
    assert running.ports == ()
    async with engine_api.get(f"containers/{running.container.container_id}/json") as response:
        shown = await response.json()
    assert shown["HostConfig"]["NetworkMode"] == "host"
    assert list(shown["NetworkSettings"]["Networks"]) == ["host"]
    await docker_runtime.stop(task)


async def test_labels_and_name_are_swarms_own(docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession) -> None:
    """The container carries Docker Swarm's labels and name, its limits, and is not privileged."""
    limits = ResourceRequirements(limits=Resources(nano_cpus=SECOND // 2, memory_bytes=64 << 20, pids=20))
    task = await ready(docker_runtime, make_task(*SLEEP, resources=limits))
    async with engine_api.get(f"containers/{task.name}/json") as response:
        container = await response.json()
    labels = container["Config"]["Labels"]
    assert labels["com.docker.swarm.task.id"] == task.id
    assert labels["com.docker.swarm.service.name"] == "web"
    host = container["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (SECOND // 2, 64 << 20, 20)
    assert host["Privileged"] is False


async def test_exit_code_is_reported(docker_runtime: DockerRuntime) -> None:
    """Wait returns the container's exit code, also when it has ended long before."""
    task = make_task("-c", "exit 3", command=("sh",))
    await docker_runtime.prepare(task)
    await docker_runtime.start(task)
    assert (await docker_runtime.wait(task)).exit_code == 3
    assert (await docker_runtime.wait(task)).exit_code == 3
    assert await docker_runtime.list_tasks() == {task.id: None}


async def test_a_kill_behind_our_back_is_noticed(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession
) -> None:
    """``docker kill`` and ``docker rm -f`` by somebody else end the wait."""
    killed = await ready(docker_runtime, make_task(*SLEEP))
    removed = await ready(docker_runtime, make_task(*SLEEP))
    waits = [asyncio.create_task(docker_runtime.wait(task)) for task in (killed, removed)]
    async with engine_api.post(f"containers/{killed.name}/kill"):
        pass
    async with engine_api.delete(f"containers/{removed.name}", params={"force": "true"}):
        pass
    ended = [await asyncio.wait_for(wait, 15) for wait in waits]
    assert ended[0].exit_code == 137
    assert ended[1].error == "" or "removed by somebody else" in ended[1].error


async def test_stop_and_remove(docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession) -> None:
    """Stop ends the container after its grace period, remove leaves nothing; both are fine twice."""
    task = await ready(docker_runtime, make_task(*SLEEP))  # PID 1 ignores TERM
    wait = asyncio.create_task(docker_runtime.wait(task))
    await docker_runtime.stop(task)
    assert (await asyncio.wait_for(wait, 10)).exit_code == 137
    await docker_runtime.stop(task)
    await docker_runtime.remove(task.id)
    assert await docker_runtime.list_tasks() == {}
    await docker_runtime.remove(task.id)
    await docker_runtime.stop(task)
    async with engine_api.get(f"containers/{task.name}/json") as response:
        assert response.status == 404


async def test_containers_are_adopted(docker_runtime: DockerRuntime) -> None:
    """A new runtime of the same node finds the running container with its ports, and waits for it."""
    port = PortConfig(target_port=80, published_port=8080)
    task = make_task(*HTTPD, ports=(port,))
    await docker_runtime.prepare(task)
    running = await docker_runtime.start(task)
    await docker_runtime.close()
    async with another(docker_runtime) as again:
        assert await again.list_tasks() == {task.id: running}
        await again.prepare(task)
        assert await again.start(task) == running
        wait = asyncio.create_task(again.wait(task))
        await again.stop(task)
        await asyncio.wait_for(wait, 10)


async def test_a_container_that_has_ended_is_not_started_again(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession
) -> None:
    """Nor by the runtime that made it: it was started once, whatever became of the answer."""
    task = make_task("-c", "sleep 0.1; exit 3", command=("sh",))

    async def started_at() -> str:
        async with engine_api.get(f"containers/{task.name}/json") as response:
            return str((await response.json())["State"]["StartedAt"])

    await docker_runtime.prepare(task)
    await docker_runtime.start(task)
    assert (await asyncio.wait_for(docker_runtime.wait(task), 20)).exit_code == 3
    first = await started_at()
    await docker_runtime.start(task)
    assert (await asyncio.wait_for(docker_runtime.wait(task), 20)).exit_code == 3
    assert await started_at() == first


async def test_containers_of_others_are_left_alone(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession
) -> None:
    """A real Swarm's container, without our label, is neither listed nor removed, and its name is not taken over."""
    task = make_task(*SLEEP)
    config = {
        "Image": IMAGE, "Cmd": list(SLEEP),
        "Labels": {
            "com.docker.swarm.node.id": docker_runtime._node.id,
            "com.docker.swarm.task.id": task.id,
        },
    }  # fmt: skip
    async with engine_api.post("containers/create", json=config, params={"name": task.name}) as response:
        foreign = (await response.json())["Id"]
    try:
        assert await docker_runtime.list_tasks() == {}
        await docker_runtime.remove(task.id)
        with pytest.raises(TaskRejected, match="not of this node"):
            await docker_runtime.prepare(task)
        async with engine_api.get(f"containers/{foreign}/json") as response:
            assert response.status == 200
    finally:
        async with engine_api.delete(f"containers/{foreign}", params={"force": "true"}):
            pass


async def test_start_waits_for_health(docker_runtime: DockerRuntime) -> None:
    """A task with a healthcheck is running when it is healthy."""
    check = Healthcheck(test=("CMD-SHELL", "test -e /tmp/ready"), interval_ns=SECOND // 5)
    task = make_task("-c", "sleep 0.4; touch /tmp/ready; exec sleep 600", command=("sh",), healthcheck=check)
    await docker_runtime.prepare(task)
    starting = asyncio.create_task(docker_runtime.start(task))
    await asyncio.wait_for(starting, 20)


async def test_an_unhealthy_container_is_stopped(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession
) -> None:
    """A task that turns unhealthy ends with that reason; one that never gets healthy fails to start."""
    check = Healthcheck(test=("CMD-SHELL", "test ! -e /tmp/ill"), interval_ns=SECOND // 5, retries=2)
    source = "trap 'exit 0' TERM; sleep 600 & wait"
    task = make_task("-c", source, command=("sh",), healthcheck=check)
    await docker_runtime.prepare(task)
    await docker_runtime.start(task)
    async with engine_api.post(f"containers/{task.name}/exec", json={"Cmd": ["touch", "/tmp/ill"]}) as response:
        made = await response.json()
    async with engine_api.post(f"exec/{made['Id']}/start", json={"Detach": True}) as response:
        assert response.status == 200
    ended = await asyncio.wait_for(docker_runtime.wait(task), 20)
    assert ended.error == "unhealthy container"
    never = make_task(*SLEEP, healthcheck=attrs.evolve(check, test=("CMD", "false")))
    await docker_runtime.prepare(never)
    with pytest.raises(TaskFailed, match="unhealthy container"):
        await asyncio.wait_for(docker_runtime.start(never), 20)


async def test_a_failure_before_health_fails_the_start(docker_runtime: DockerRuntime) -> None:
    """A container that exits while its healthcheck has not passed fails with its exit code."""
    check = Healthcheck(test=("CMD", "false"), interval_ns=10 * SECOND)
    task = make_task("-c", "sleep 0.3; exit 4", command=("sh",), healthcheck=check)
    await docker_runtime.prepare(task)
    with pytest.raises(TaskFailed, match=r"non-zero exit \(4\)"):
        await asyncio.wait_for(docker_runtime.start(task), 20)


async def test_an_unknown_image_is_rejected(docker_runtime: DockerRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is neither here nor to be had is named, with the reason of the pull, in one line."""
    task = make_task(*SLEEP, image="localhost:1/no/such:1")
    monkeypatch.setattr(image_pulls, "ATTEMPTS", 1)
    with pytest.raises(
        TaskRejected, match=r"^No such image: \S+ \(localhost:1 does not answer: .+ refused\)$"
    ) as caught:
        await docker_runtime.prepare(task)
    assert "\n" not in str(caught.value)


async def test_a_missing_bind_source_is_rejected(docker_runtime: DockerRuntime) -> None:
    """A bind mount of a path that is not on the node is named."""
    task = make_task(*SLEEP, mounts=(Mount(type="bind", source="/no/such/path", target="/data"),))
    with pytest.raises(TaskRejected, match="bind source path does not exist on this node: /no/such/path"):
        await docker_runtime.prepare(task)


async def test_a_missing_command_fails(docker_runtime: DockerRuntime) -> None:
    """A command that is not in the image is named."""
    task = make_task("no-such-command")
    await docker_runtime.prepare(task)
    with pytest.raises(TaskFailed, match="command not found in image swarmpy-test:latest: no-such-command"):
        await docker_runtime.start(task)


async def test_a_taken_host_port_fails(docker_runtime: DockerRuntime) -> None:
    """The second container on a host port fails with the port's number, whoever holds it."""
    server = await asyncio.start_server(lambda _r, w: w.close(), "0.0.0.0", 0)
    taken = server.sockets[0].getsockname()[1]
    port = PortConfig(target_port=80, published_port=taken, publish_mode="host")
    task = make_task(*HTTPD, ports=(port,))
    await docker_runtime.prepare(task)
    with pytest.raises(TaskFailed, match=f"port {taken} is already in use on this node"):
        await docker_runtime.start(task)
    server.close()
    await server.wait_closed()
    await docker_runtime.start(task)
    second = make_task(*HTTPD, ports=(port,))
    await docker_runtime.prepare(second)
    with pytest.raises(TaskFailed, match=f"port {taken} is already in use on this node"):
        await docker_runtime.start(second)


async def test_out_of_memory_is_said(docker_runtime: DockerRuntime) -> None:
    """A task that outgrows its limit ends with that reason."""
    limits = ResourceRequirements(limits=Resources(memory_bytes=8 << 20))
    source = "x=0123456789; while :; do x=$x$x; done"
    task = await ready(docker_runtime, make_task("-c", source, command=("sh",), resources=limits))
    ended = await asyncio.wait_for(docker_runtime.wait(task), 30)
    assert ended.exit_code == 137
    assert ended.error == "out of memory"


async def test_waits_survive_an_engine_that_goes_away(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Calls fail as unavailable while the engine is away; an exit in the gap is reported when it is back."""
    proxy = EngineProxy(tmp_path / "proxy.sock")
    await proxy.open()
    async with another(docker_runtime, f"unix://{proxy.path}") as runtime:
        dies, lives = await ready(runtime, make_task(*SLEEP)), await ready(runtime, make_task(*SLEEP))
        waits = [asyncio.create_task(runtime.wait(task)) for task in (dies, lives)]
        await proxy.cut()
        with pytest.raises(RuntimeUnavailable):
            await runtime.list_tasks()
        async with engine_api.post(f"containers/{dies.name}/kill"):
            pass
        await proxy.open()
        assert (await asyncio.wait_for(waits[0], 20)).exit_code == 137
        assert not waits[1].done()
        async with engine_api.post(f"containers/{lives.name}/kill"):
            pass
        assert (await asyncio.wait_for(waits[1], 20)).exit_code == 137
    await proxy.cut()


async def test_describe_tells_of_the_engine(docker_runtime: DockerRuntime) -> None:
    """The description has the engine's version and the machine's resources."""
    description = await docker_runtime.describe()
    assert description.runtime == "docker"
    assert description.engine_version
    assert description.resources.nano_cpus >= SECOND
    assert description.platform.architecture == os.uname().machine


async def test_auto_chooses_the_engine(docker_runtime: DockerRuntime, tmp_path: Path) -> None:
    """Where an engine answers, ``auto`` takes it and says which."""
    runtime, reason = await choose_runtime(
        "auto", node_id=NodeId("n"), node_address="127.0.0.1", hostname="h", directory=tmp_path, url=f"unix://{SOCKET}"
    )
    assert runtime.name == "docker"
    assert reason.startswith("Docker Engine ")
    assert reason.endswith(f"answers at unix://{SOCKET}")
