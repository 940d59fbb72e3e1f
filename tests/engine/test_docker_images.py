"""Images from a registry, as Docker's users know them: by the unchanged command, on a cluster of real daemons."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from docker_clusters import DockerCluster, DockerCommand, making_clusters, until
from images import load_image
from needs import IS_REQUIRED
from registries import PASSWORD, Registry, auth, forget_all, header, login_at, push_own, running_registry
from structlog.testing import capture_logs

from swarmpy.model.dependencies import Content, Dependencies
from swarmpy.model.ids import SecretId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, TaskSpec
from swarmpy.ports import Progress
from swarmpy.runtime.docker import DockerRuntime

SLEEP = ("sh", "-c", "trap exit TERM; sleep 1000 & wait")
QUICK = ("--detach", "--stop-grace-period", "1s", "--restart-delay", "500ms", "--update-monitor", "100ms")


class Shop:
    """A cluster, a registry and the docker command that is logged in to it."""

    def __init__(
        self, cluster: DockerCluster, registry: Registry, docker: DockerCommand, engine: aiohttp.ClientSession
    ) -> None:
        self.cluster, self.registry, self.docker, self.engine = cluster, registry, docker, engine

    def name(self, image: str) -> str:
        """The whole name of an image of the registry."""
        return f"{self.registry.address}/shop/{image}"

    async def push(self, image: str, **variant: Any) -> None:
        """Put an image into the registry, which no node has then."""
        await load_image(self.name(image), **variant)
        await push_own(self.engine, self.name(image))

    async def create(self, service: str, image: str, *more: str) -> str:
        """Create a service with the registry's credentials; what the command says on standard error."""
        arguments = (*QUICK, "--with-registry-auth", "--name", service, *more, self.name(image), *SLEEP)
        return (await self.docker.both("service", "create", *arguments))[1]

    async def image_of(self, service: str) -> str:
        """The image in a service's spec."""
        found = await self.cluster.manager.client.service(service)
        return str(found["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])

    async def image_inside(self, service: str) -> str:
        """Wait until one task runs in one container; its image."""
        await self.cluster.running(service, 1)
        (container,) = await self.cluster.containers(service)
        async with self.engine.get(f"containers/{container['Id']}/json") as response:
            return str((await response.json())["Config"]["Image"])

    async def error_of(self, service: str, words: str) -> dict[str, Any]:
        """Wait until a task of the service says these words; the task."""

        async def said() -> dict[str, Any] | None:
            tasks: list[dict[str, Any]] = await self.cluster.manager.client.tasks(service=service)
            return next((task for task in tasks if words in task["Status"].get("Err", "")), None)

        found: dict[str, Any] = await until(said, f"a task of {service} says {words!r}")
        return found


@pytest.fixture
async def shop(engine_api: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Shop]:
    """One manager, one worker."""
    if shutil.which("docker") is None and not IS_REQUIRED:
        pytest.skip("the docker command is not installed")
    async with running_registry(tmp_path) as registry:
        try:
            async with making_clusters(tmp_path, engine_api) as make_cluster:
                cluster = await make_cluster(1, 1)
                docker = DockerCommand(cluster.manager, tmp_path / "docker", login_at(registry.address))
                yield Shop(cluster, registry, docker, engine_api)
        finally:
            # Not before the containers are gone: their images would be left without a name.
            await forget_all(engine_api, registry.address)


async def test_a_service_runs_the_image_that_its_tag_stood_for(shop: Shop) -> None:
    """Created by tag it is pinned, in spec and container; it gets what the tag stands for later when it is told to."""
    await shop.push("web:1")
    assert "could not be accessed" not in await shop.create("web", "web:1")
    first = await shop.image_of("web")
    assert first.startswith(f"{shop.name('web:1')}@sha256:")
    assert await shop.image_inside("web") == first
    spec = (await shop.cluster.manager.client.service("web"))["Spec"]
    assert spec["TaskTemplate"]["Placement"]["Platforms"] == [{"Architecture": "amd64", "OS": "linux"}]

    await shop.push("web:1", version="2")
    before = set(await shop.cluster.running("web", 1))
    await shop.docker("service", "update", "--detach", "--force", "web")
    await until(lambda: _others(shop.cluster, before), "a task that was forced")
    assert await shop.image_of("web") == await shop.image_inside("web") == first

    before = set(await shop.cluster.running("web", 1))
    image = shop.name("web:1")
    await shop.docker("service", "update", "--detach", "--with-registry-auth", "--image", image, "web")
    await until(lambda: _others(shop.cluster, before), "a task of the new image")
    assert first != await shop.image_of("web") == await shop.image_inside("web")
    await what_cannot_be_had_says_why(shop)


async def what_cannot_be_had_says_why(shop: Shop) -> None:
    """No such image, no credentials, the wrong ones, another platform: a line that names image and reason."""
    await shop.push("other:1", version="3")
    await shop.push("arm:1", architecture="arm64")
    await shop.create("missing", "nope:1")
    bare = (*QUICK, "--no-resolve-image", "--name")
    await shop.docker("service", "create", *bare, "anonymous", shop.name("other:1"), *SLEEP)
    assert "could not be accessed" not in await shop.create("foreign", "arm:1")
    spec = {"ContainerSpec": {"Image": shop.name("other:1")}}
    connector = aiohttp.UnixConnector(str(shop.cluster.manager.data_dir / "swarmpy.sock"))
    async with aiohttp.ClientSession("http://docker/v1.41/", connector=connector) as api:
        wrong = header(auth("not-it"))
        async with api.get(f"distribution/{shop.name('other:1')}/json", headers=wrong) as response:
            assert response.status == 403
            assert "refuses the credentials" in (await response.json())["message"]
        body = {"Name": "wrong", "TaskTemplate": spec}
        async with api.post("services/create", json=body, headers=wrong) as response:
            assert response.status == 201
    no_such = f"No such image: {shop.name('other:1')} ({shop.registry.address}"
    await shop.error_of("missing", f"No such image: {shop.name('nope:1')} ({shop.registry.address} does not have it)")
    await shop.error_of("anonymous", f"{no_such} asks for credentials")
    await shop.error_of("wrong", f"{no_such} refuses the credentials of the service")
    await shop.error_of("foreign", "unsupported platform on 2 nodes: the image is for linux/arm64")
    logs = await asyncio.to_thread(lambda: "".join(node.log_file.read_text() for node in shop.cluster.nodes))
    assert "pulling_image" in logs
    assert PASSWORD not in logs
    assert header(auth())["X-Registry-Auth"] not in logs


async def test_a_registry_that_is_gone_and_comes_back(shop: Shop) -> None:
    """What runs goes on, and more of it starts where the image is; what is not there says why, and starts later."""
    await shop.push("web:1")
    await shop.push("late:1")
    await shop.create("web", "web:1")
    before = await shop.cluster.running("web", 1)
    await shop.registry.kill()
    await shop.docker("service", "scale", "--detach", "web=3")
    assert set(before) < set(await shop.cluster.running("web", 3))
    warned = await shop.create("late", "late:1")
    assert f"image {shop.name('late:1')} could not be accessed on a registry" in warned
    task = await shop.error_of("late", f"No such image: {shop.name('late:1')} ({shop.registry.address} does not answer")
    assert task["Status"]["State"] in {"preparing", "rejected"}
    await shop.registry.start()
    await shop.cluster.running("late", 1)
    assert await shop.image_of("late") == shop.name("late:1")


async def _others(cluster: DockerCluster, before: set[str]) -> bool:
    now = {task["ID"] for task in await cluster.tasks("web")}
    return len(now) == 1 and not now & before


# -- one node ---------------------------------------------------------------------------------------------------------


LAYER_BYTES = 2_000_000
RATE = 2_000_000


class SlowLine:
    """A way to a registry that takes its time."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.partition(":")
        self._port = int(port)
        self.address = ""
        self.layers_on_their_way = 0
        """Connections over which more than a few words have gone, and that are still there."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SlowLine]:
        """Let it be there."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(self._host, self._port)
        asking = asyncio.create_task(_pass_on(reader, to_writer))
        passed = 0
        try:
            while data := await to_reader.read(16384):
                writer.write(data)
                await writer.drain()
                self.layers_on_their_way += passed <= 100_000 < passed + len(data)
                passed += len(data)
                await asyncio.sleep(len(data) / RATE)
        except OSError:
            pass
        finally:
            self.layers_on_their_way -= passed > 100_000
            asking.cancel()
            await asyncio.wait({asking})
            writer.close()
            to_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def make_task(image: str, **fields: Any) -> Task:
    """A task of that image."""
    return Task(
        id=TaskId(os.urandom(13).hex()[:25]),
        spec=TaskSpec(container=ContainerSpec(image=image, args=("sleep", "600"), **fields)),
        service_id=ServiceId("s" * 25),
        service_name="web",
        slot=1,
    )


async def test_tasks_of_one_image_wait_for_one_pull(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """They hear how far it is; when all of them are given up it ends; the next one begins anew, and gets it."""
    async with running_registry(tmp_path) as registry, SlowLine(registry.address).running() as line:
        await load_image(f"{registry.address}/shop/big:1", ballast=os.urandom(LAYER_BYTES))
        await push_own(engine_api, f"{registry.address}/shop/big:1")
        image = f"{line.address}/shop/big:1"
        needed = Dependencies(secrets={SecretId("login"): Content(data=auth())})
        heard: list[Progress] = []
        tasks: list[Task] = []

        def started() -> asyncio.Task[None]:
            task = make_task(image, pull_secret_id=SecretId("login"))
            tasks.append(task)
            return asyncio.create_task(docker_runtime.prepare(task, needed, heard.append))

        try:
            with capture_logs() as logs:
                first, second = started(), started()
                await until(lambda: _holds(line.layers_on_their_way > 0), "the layer is on its way")
                first.cancel()
                await asyncio.wait({first})
                assert line.layers_on_their_way
                second.cancel()
                await asyncio.wait({second})
            assert sum(entry["event"] == "pulling_image" for entry in logs) == 1
            await until(lambda: _holds(not line.layers_on_their_way), "the layer is on its way no more")
            heard.clear()
            await asyncio.gather(started(), started())
            assert any(f"pulling {image}: " in told.message and " MB, layer 1 of 1" in told.message for told in heard)
            # It is here now: with its digest, which does not change, nobody has to be asked.
            digest = (await docker_runtime.find_image(image, auth())).digest
            await registry.kill()
            with capture_logs() as logs:
                pinned = make_task(f"{image}@{digest}")
                tasks.append(pinned)
                await docker_runtime.prepare(pinned)
            assert not logs
        finally:
            for task in tasks:
                await docker_runtime.remove(task.id)
            await forget_all(engine_api, line.address)
            await forget_all(engine_api, registry.address)


async def _holds(condition: bool) -> bool:
    return condition
