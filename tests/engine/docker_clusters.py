"""Clusters of real daemons on a real engine: how they are made, looked at, asked, and taken away without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from images import PRIVATE_TAG

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from swarmpy.errors import SwarmpyError
from swarmpy.model.ids import NodeId
from swarmpy.runtime.memory_files import MemoryFiles

OWNER = "swarmpy.node.id"
SECOND = 1_000_000_000
WEB = ["sh", "-c", 'echo "$TASK" > /www/index.html; exec httpd -f -p 80 -h /www']
"""A web server that answers with its task's id."""
HEALTHY = {"Test": ["CMD-SHELL", "wget -q -O /dev/null http://127.0.0.1/"], "Interval": SECOND // 2, "Retries": 20}

Json = dict[str, Any]


async def until(condition: Callable[[], Awaitable[Any]], what: str, timeout: float = 40) -> Any:
    """Wait for a condition that has no event for an outsider; its answer. None, False and errors are 'not yet'."""
    deadline = time.monotonic() + timeout
    last: Any = None
    while True:
        try:
            found = await condition()
            if found is not None and found is not False:
                return found
        except (SwarmpyError, aiohttp.ClientError, TimeoutError, OSError) as error:
            last = error
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what} ({last})"
        await asyncio.sleep(0.05)


async def swarmpy(*arguments: str, timeout: float = 90, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The command line, as a user runs it: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "swarmpy", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **(env or {})},
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()  # not killed: a cluster that it may have made shall be taken down
            await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def web_service(name: str, replicas: int, *, port: int = 0, **container: Any) -> Json:
    """A service of web servers, published on ``port``; its containers are replaced without delay."""
    task = {
        "ContainerSpec": {
            "Image": PRIVATE_TAG,
            "Command": WEB,
            "Env": ["TASK={{.Task.ID}}"],
            "StopGracePeriod": SECOND,
            **container,
        },
        "RestartPolicy": {"Condition": "any", "Delay": 0},
    }
    body: Json = {"Name": name, "TaskTemplate": task, "Mode": {"Replicated": {"Replicas": replicas}}}
    if port:
        body["EndpointSpec"] = {"Ports": [{"TargetPort": 80, "PublishedPort": port}]}
    return body


class DockerCommand:
    """The unchanged ``docker`` command with a node of ours as its engine."""

    def __init__(self, node: LocalNode, directory: Path, config: Json | None = None) -> None:
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config or {}))
        self._environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{node.data_dir}/swarmpy.sock",
            "DOCKER_CONFIG": str(directory),
        }

    async def __call__(self, *arguments: str, given: str = "") -> str:
        """What it says; it ends well."""
        return (await self.raw(*arguments, given=given)).decode().strip()

    async def raw(self, *arguments: str, given: str = "") -> bytes:
        """The bytes that it writes; it ends well."""
        return (await self._run(arguments, given))[0]

    async def both(self, *arguments: str, given: str = "") -> tuple[str, str]:
        """What it says on standard output and on standard error; it ends well."""
        out, err = await self._run(arguments, given)
        return out.decode().strip(), err.decode().strip()

    async def _run(self, arguments: Sequence[str], given: str) -> tuple[bytes, bytes]:
        process = await asyncio.create_subprocess_exec(
            "docker", *arguments, env=self._environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, err = await process.communicate(given.encode())
        assert process.returncode == 0, err.decode()
        return out, err


class DockerCluster:
    """A local cluster, and the engine behind its back."""

    def __init__(self, cluster: LocalCluster, engine: aiohttp.ClientSession) -> None:
        self.local = cluster
        self.engine = engine
        self.ids: dict[str, str] = {}
        """Node ids by the names of the nodes."""

    @property
    def nodes(self) -> list[LocalNode]:
        """All nodes."""
        return self.local.nodes

    @property
    def manager(self) -> LocalNode:
        """A manager that lives."""
        return self.local.living_manager

    async def form(self, *, heartbeat_s: float) -> None:
        """Start the daemons and make them one cluster."""
        await self.local.start_daemons()
        await self.local.form()
        for node in self.nodes:
            self.ids[node.name] = str((await node.client.info())["Swarm"]["NodeID"])
        swarm = await self.manager.client.get("/swarm")
        spec = {**swarm["Spec"], "Dispatcher": {"HeartbeatPeriod": int(heartbeat_s * SECOND)}}
        await self.manager.client.post("/swarm/update", spec, query={"version": str(swarm["Version"]["Index"])})

    async def only_container(self, service: str) -> tuple[Json, Json]:
        """Wait for the one task of a service; it, and its container as the engine shows it."""
        [task] = (await self.running(service, 1)).values()
        async with self.engine.get(f"containers/{task['Status']['ContainerStatus']['ContainerID']}/json") as response:
            found: Json = await response.json()
        return task, found

    def name_of(self, node_id: str) -> str:
        """The name of the node with this id."""
        return next(name for name, known in self.ids.items() if known == node_id)

    def node(self, name: str) -> LocalNode:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    async def leader(self) -> LocalNode:
        """The leader."""

        async def known() -> LocalNode | None:
            leader = (await self.manager.client.status())["leader"] or {}
            found = [node for node in self.local.managers if node.cluster_address == leader.get("address")]
            return found[0] if found and found[0].is_running else None

        found: LocalNode = await until(known, "a leader")
        return found

    # -- tasks and containers ---------------------------------------------------------------------------------------

    async def tasks(self, service: str) -> list[Json]:
        """The tasks of a service that run and are meant to."""
        query = {"filters": json.dumps({"service": [service], "desired-state": ["running"]})}
        tasks = await self.manager.client.get("/tasks", query=query)
        return [task for task in tasks if task["Status"]["State"] == "running"]

    async def running(self, service: str, count: int, timeout: float = 40) -> dict[str, Json]:
        """Wait until ``count`` tasks run, each in a container that runs, and no other container is left; by task id."""

        async def there() -> dict[str, Json] | None:
            tasks = {task["ID"]: task for task in await self.tasks(service)}
            left = {c["Labels"]["com.docker.swarm.task.id"] for c in await self.containers(service)}
            return tasks if len(tasks) == count and left == set(tasks) else None

        found: dict[str, Json] = await until(there, f"{count} tasks of {service} and no other containers", timeout)
        return found

    async def containers(self, service: str | None = None, *, all_states: bool = False) -> list[Json]:
        """The containers of all nodes of this cluster; those that run, or all."""
        params = {"all": "true" if all_states else "false", "filters": json.dumps({"label": [OWNER]})}
        async with self.engine.get("containers/json", params=params) as response:
            listed = await response.json()
        mine = [c for c in listed if c["Labels"][OWNER] in self.ids.values()]
        return [c for c in mine if service in (None, c["Labels"]["com.docker.swarm.service.name"])]

    async def containers_by_task(self, service: str) -> dict[str, str]:
        """Container ids by task ids."""
        return {c["Labels"]["com.docker.swarm.task.id"]: c["Id"] for c in await self.containers(service)}

    async def no_containers(self, timeout: float = 30) -> None:
        """Wait until no container is left, running or not."""

        async def none() -> bool:
            return not await self.containers(all_states=True)

        await until(none, "no container is left", timeout)

    async def docker(self, method: str, path: str, **params: str) -> None:
        """Ask the engine behind the cluster's back."""
        async with self.engine.request(method, path, params=params) as response:
            assert response.status < 300, await response.text()

    # -- requests ---------------------------------------------------------------------------------------------------

    async def all_answer(self, port: int, nodes: Collection[LocalNode] | None = None, timeout: float = 30) -> set[str]:
        """Wait until every node that runs answers on the port; the answers."""

        async def answers() -> set[str]:
            asked = [node for node in nodes or self.nodes if node.is_running]
            return set(await asyncio.gather(*(ask(node.address, port) for node in asked)))

        found: set[str] = await until(answers, f"every node answers on {port}", timeout)
        return found

    # -- the end ----------------------------------------------------------------------------------------------------

    async def destroy(self) -> None:
        """End the daemons at once and remove whatever they have left on the engine."""
        await asyncio.gather(*(node.kill() for node in self.nodes))
        await self.local.stop()
        ids = {*self.ids.values(), *node_ids(self.local.directory)}
        await remove_containers(self.engine, ids)
        for node_id in ids:
            await MemoryFiles(NodeId(node_id)).sweep(())


def node_ids(directory: Path) -> set[str]:
    """The ids of the nodes whose data directories are in a directory."""
    return {json.loads(file.read_text())["node_id"] for file in directory.glob("*/node.json")}


async def remove_containers(engine: aiohttp.ClientSession, ids: Collection[str]) -> None:
    """Remove whatever these nodes have left on the engine."""
    async with engine.get(
        "containers/json", params={"all": "true", "filters": json.dumps({"label": [OWNER]})}
    ) as found:
        left = [container for container in await found.json() if container["Labels"][OWNER] in ids]
    for container in left:
        async with engine.delete(f"containers/{container['Id']}", params={"force": "true", "v": "true"}):
            pass


async def ask(address: str, port: int, timeout: float = 5) -> str:
    """What a published port answers, on a connection of its own. Raises ClientError, TimeoutError, OSError."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout)) as session,
        session.get(f"http://{address}:{port}/", raise_for_status=True) as response,
    ):
        return (await response.text()).strip()


ClusterMaker = Callable[..., Awaitable[DockerCluster]]


@contextlib.asynccontextmanager
async def making_clusters(directory: Path, engine: aiohttp.ClientSession) -> AsyncIterator[ClusterMaker]:
    """Makes clusters whose daemons and containers are gone at the end, whatever happens.

    A node is down after three heartbeats: 15 s by default here, for a daemon to be back in on a loaded machine.
    """
    made: list[DockerCluster] = []

    async def make(
        managers: int = 1,
        workers: int = 2,
        ports: tuple[int, ...] = (),
        *,
        heartbeat_s: float = 5,
        environments: dict[str, dict[str, str]] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> DockerCluster:
        local = LocalCluster(
            directory / f"cluster-{len(made)}", managers=managers, workers=workers, runtime="docker", ports=ports
        )
        for node in local.nodes:
            node.environment = (environments or {}).get(node.name, {})
            node.arguments = arguments
        cluster = DockerCluster(local, engine)
        made.append(cluster)
        await cluster.form(heartbeat_s=heartbeat_s)
        return cluster

    try:
        yield make
    finally:
        for cluster in made:
            await cluster.destroy()
