"""A node whose engine goes away and comes back: a Docker Engine of the test's own is stopped and started under it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from docker_clusters import ClusterMaker, DockerCluster, until, web_service
from images import ensure_images

START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 40.0


class PrivateEngine:
    """A Docker Engine with a network namespace, a data directory and a socket of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "engine.sock"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Its ``DOCKER_HOST``."""
        return f"unix://{self.socket}"

    async def start(self) -> None:
        """Start it and wait until it answers."""
        places = ("--data-root", "data", "--exec-root", "exec", "--pidfile", "pid", "--host")
        arguments = [str(self.directory / word) if not word.startswith("--") else word for word in places] + [self.url]
        # In its own network namespace: an engine takes the bridge of the machine's other engine for its own.
        no_network = ("--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver=vfs")
        (self.directory / "pid").unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "unshare", "--net", "dockerd", *arguments, *no_network, stdin=asyncio.subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

        async def answers() -> bool:
            assert self._process is not None
            assert self._process.returncode is None, (self.directory / "log").read_text()
            return await self._get("_ping") == "OK"

        await until(answers, "the engine answers", START_TIMEOUT_S)

    async def end(self) -> None:
        """End it; its containers end with it."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def containers(self) -> list[dict[str, Any]]:
        """All its containers that run."""
        async with self._session() as session, session.get("http://docker/containers/json") as response:
            listed: list[dict[str, Any]] = await response.json()
            return listed

    async def destroy(self) -> None:
        """Remove its containers, end it, delete its files."""
        try:
            if self._process is None:
                await self.start()
            async with self._session() as session:
                async with session.get("http://docker/containers/json", params={"all": "true"}) as response:
                    left = await response.json()
                for container in left:
                    async with session.delete(f"http://docker/containers/{container['Id']}", params={"force": "true"}):
                        pass
            await self.end()
        finally:
            self._clear()

    def _clear(self) -> None:
        """What an engine leaves behind that was killed or did not start: processes, a mount, files."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.directory).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self.socket))
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))

    async def _get(self, path: str) -> str:
        async with self._session() as session, session.get(f"http://docker/{path}") as response:
            return await response.text()


@pytest.fixture
async def private_engine() -> AsyncIterator[PrivateEngine]:
    """An engine that the test may stop and start. Ask for it before the cluster, so that it is the last to go."""
    if os.geteuid() != 0 or not shutil.which("dockerd") or not shutil.which("unshare"):
        missing = "needs root, dockerd and unshare for an engine of its own"
        pytest.fail(missing) if os.environ.get("SWARMPY_REQUIRE_ENGINE") == "1" else pytest.skip(missing)
    # A unix socket's path must be short.
    engine = PrivateEngine(Path(tempfile.mkdtemp(prefix="swarmpy-engine-")))
    try:
        await engine.start()
        await ensure_images(str(engine.socket))
        yield engine
    finally:
        await engine.destroy()


def on_workers(name: str, replicas: int) -> dict[str, Any]:
    """A service for the workers only."""
    body = web_service(name, replicas)
    body["TaskTemplate"]["Placement"] = {"Constraints": ["node.role == worker"]}
    return body


async def problems(cluster: DockerCluster) -> str:
    """What the manager's status says is wrong."""
    return "\n".join((await cluster.manager.client.status())["problems"])


async def runs_in(cluster: DockerCluster, engine: PrivateEngine, count: int) -> dict[str, str]:
    """Wait until ``count`` tasks run, each in a container of the engine, and no other container runs there."""

    async def there() -> dict[str, str] | None:
        tasks = {task["ID"] for task in await cluster.tasks("web")}
        found = {c["Labels"]["com.docker.swarm.task.id"]: c["Id"] for c in await engine.containers()}
        return found if len(tasks) == count and set(found) == tasks else None

    found: dict[str, str] = await until(there, f"{count} tasks in as many containers", timeout=60)
    return found


async def test_an_engine_that_comes_back_runs_its_tasks_again(
    private_engine: PrivateEngine, make_docker_cluster: ClusterMaker
) -> None:
    """While a node's engine is away the status says so, the tasks wait; when it is back they run, and all is well."""
    environments = {"node-2": {"DOCKER_HOST": private_engine.url}}
    cluster = await make_docker_cluster(1, 1, heartbeat_s=1, environments=environments)
    await cluster.manager.client.create_service(on_workers("web", 2))
    before = await runs_in(cluster, private_engine, 2)
    await private_engine.end()

    async def reported() -> bool:
        return "node node-2: the docker engine does not answer" in await problems(cluster)

    await until(reported, "the status reports the engine")
    assert (await cluster.manager.client.node(cluster.ids["node-2"]))["Status"]["State"] == "ready"
    await private_engine.start()
    after = await runs_in(cluster, private_engine, 2)
    assert not set(before) & set(after)

    async def well() -> bool:
        return not await problems(cluster)

    await until(well, "the status reports nothing")
    # Nothing is stuck: the node takes new tasks and lets go of old ones.
    service = await cluster.manager.client.service("web")
    spec = {**service["Spec"], "Mode": {"Replicated": {"Replicas": 3}}}
    await cluster.manager.client.update_service(service["ID"], service["Version"]["Index"], spec)
    assert set(after) < set(await runs_in(cluster, private_engine, 3))
    await cluster.manager.client.remove_service("web")

    async def gone() -> bool:
        return not await private_engine.containers()

    await until(gone, "the service's containers are gone")


async def test_a_manager_starts_without_its_engine(
    private_engine: PrivateEngine, make_docker_cluster: ClusterMaker
) -> None:
    """A manager whose engine is not there is a manager all the same; its tasks run again when the engine comes back."""
    environments = {"node-1": {"DOCKER_HOST": private_engine.url}}
    cluster = await make_docker_cluster(1, 0, heartbeat_s=1, environments=environments)
    await cluster.manager.client.create_service(web_service("web", 2))
    before = await runs_in(cluster, private_engine, 2)
    await cluster.manager.kill()
    await private_engine.end()
    node = cluster.nodes[0]
    await node.start()

    async def reported() -> bool:
        return "docker engine does not answer" in await problems(cluster)

    await until(reported, "the status reports the engine")
    await private_engine.start()
    after = await runs_in(cluster, private_engine, 2)
    assert not set(before) & set(after)
