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
from random import SystemRandom
from typing import Any

import aiohttp
import attrs
import pytest
from docker_clusters import ClusterMaker, DockerCluster, until, web_service
from images import PRIVATE_TAG, ensure_images

from swarmpy.agent import engine_watch, worker
from swarmpy.agent.dependencies import DependencyKeeper
from swarmpy.agent.engine_watch import EngineWatch
from swarmpy.agent.local import LocalWriter, MemoryLocalState
from swarmpy.agent.reporter import Reporter
from swarmpy.agent.worker import Worker
from swarmpy.model.assignments import AssignmentUpdate
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.specs import ContainerSpec, TaskSpec
from swarmpy.model.states import TaskState
from swarmpy.node.clock import SystemClock
from swarmpy.runtime import docker_engine
from swarmpy.runtime.docker import DockerRuntime

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

    async def start(self, *more: str) -> None:
        """Start it, with ``more`` options, and wait until it answers."""
        places = ("--data-root", "data", "--exec-root", "exec", "--pidfile", "pid", "--host")
        arguments = [str(self.directory / word) if not word.startswith("--") else word for word in places] + [self.url]
        # In its own network namespace: an engine takes the bridge of the machine's other engine for its own.
        no_network = ("--iptables=false", "--ip-forward=false", "--ip-masq=false", "--storage-driver=vfs")
        (self.directory / "pid").unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "unshare", "--net", "dockerd", *arguments, *no_network, *more, stdin=asyncio.subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

        async def answers() -> bool:
            assert self._process is not None
            assert self._process.returncode is None, (self.directory / "log").read_text()
            return await self._get("_ping") == "OK"

        await until(answers, "the engine answers", START_TIMEOUT_S)

    async def end(self) -> None:
        """End it; its containers end with it."""
        self.thaw()
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

    async def kill(self) -> None:
        """End it at once. Its containers go on: what becomes of them is up to the next one."""
        assert self._process is not None
        process, self._process = self._process, None
        process.kill()
        await process.wait()
        # Its containerd goes with it; where nobody buries the dead, the next one takes that for alive.
        (self.directory / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Have it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it hung."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)

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

    async def post(self, path: str) -> None:
        """Ask it for something behind everybody's back."""
        async with self._session() as session, session.post(f"http://docker/{path}") as response:
            assert response.status < 300, await response.text()

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self.socket))
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))

    async def _get(self, path: str) -> str:
        async with self._session() as session, session.get(f"http://docker/{path}") as response:
            return await response.text()


@pytest.fixture
async def private_engine(request: pytest.FixtureRequest) -> AsyncIterator[PrivateEngine]:
    """An engine that the test may stop and start. Ask for it before the cluster, so that it is the last to go.

    Its parameters are more of the engine's options.
    """
    if os.geteuid() != 0 or not shutil.which("dockerd") or not shutil.which("unshare"):
        missing = "needs root, dockerd and unshare for an engine of its own"
        pytest.fail(missing) if os.environ.get("SWARMPY_REQUIRE_ENGINE") == "1" else pytest.skip(missing)
    # A unix socket's path must be short.
    engine = PrivateEngine(Path(tempfile.mkdtemp(prefix="swarmpy-engine-")))
    try:
        await engine.start(*getattr(request, "param", ()))
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
    """While a node's engine is away the status says so and since when, and the node gets no tasks; its containers end
    when it is back, and others run in their places, one for each.
    """
    environments = {"node-2": {"DOCKER_HOST": private_engine.url}}
    cluster = await make_docker_cluster(1, 1, heartbeat_s=1, environments=environments)
    await cluster.manager.client.create_service(on_workers("web", 2))
    before = await runs_in(cluster, private_engine, 2)
    await private_engine.kill()

    async def reported() -> bool:
        return "node node-2: the docker engine does not answer since 20" in await problems(cluster)

    await until(reported, "the status reports the engine")
    assert (await cluster.manager.client.node(cluster.ids["node-2"]))["Status"]["State"] == "ready"
    await scaled(cluster, 3)
    # No task is given to a node that could not start it.
    await until(lambda: _waits(cluster, "1 node without an engine that answers"), "the third task says why it waits")
    await private_engine.start()
    after = await runs_in(cluster, private_engine, 3)
    assert not set(before) & set(after)

    async def well() -> bool:
        return not await problems(cluster)

    await until(well, "the status reports nothing")
    # Nothing is stuck: the node lets go of old ones.
    await cluster.manager.client.remove_service("web")

    async def gone() -> bool:
        return not await private_engine.containers()

    await until(gone, "the service's containers are gone")


async def scaled(cluster: DockerCluster, replicas: int) -> None:
    """The service is to have so many tasks."""
    service = await cluster.manager.client.service("web")
    spec = {**service["Spec"], "Mode": {"Replicated": {"Replicas": replicas}}}
    await cluster.manager.client.update_service(service["ID"], service["Version"]["Index"], spec)


async def _waits(cluster: DockerCluster, reason: str) -> bool:
    tasks = await cluster.manager.client.tasks(service="web")
    return any(reason in task["Status"].get("Err", "") for task in tasks if task["Status"]["State"] == "pending")


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


@pytest.mark.parametrize("private_engine", [("--live-restore",)], indirect=True, ids=["live-restore"])
async def test_an_engine_with_live_restore_is_killed(
    private_engine: PrivateEngine, make_docker_cluster: ClusterMaker
) -> None:
    """Its tasks never notice; what ends after that does not escape the agent, which follows the new engine."""
    environments = {"node-2": {"DOCKER_HOST": private_engine.url}}
    cluster = await make_docker_cluster(1, 1, heartbeat_s=1, environments=environments)
    await cluster.manager.client.create_service(on_workers("web", 2))
    before = await runs_in(cluster, private_engine, 2)
    await private_engine.kill()
    await private_engine.start("--live-restore")
    assert await runs_in(cluster, private_engine, 2) == before
    task, container = min(before.items())
    await private_engine.post(f"containers/{container}/kill")
    await until(lambda: _is_over(cluster, {task}), "the end is noticed")
    assert set(await runs_in(cluster, private_engine, 2)) & set(before) == set(before) - {task}


async def _is_over(cluster: DockerCluster, tasks: set[str]) -> bool:
    return not tasks & {task["ID"] for task in await cluster.tasks("web")}


# -- one that hangs ---------------------------------------------------------------------------------------------------

HANG_S = 1.5


async def test_an_engine_that_hangs_longer_than_anybody_waits(
    private_engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wanted changes meanwhile. When it goes on, it does what it was asked before; in the end there is one
    container for each task that is to run, the same as before where there was one, and none for any other.
    """
    monkeypatch.setattr(engine_watch, "DESCRIBE_PERIOD_S", 0.2)
    monkeypatch.setattr(worker, "ENGINE_RETRY_MOST_S", 0.5)
    node = AgentsNode(private_engine)
    async with node.running():
        stays, goes = node.task("stays"), node.task("goes")
        node.assign(stays, goes)
        await until(lambda: node.runs(stays, goes), "two run")
        before = await node.containers()
        waiting, stopped = node.task("waiting", TaskState.READY), node.task("stopped", TaskState.READY)
        node.assign(waiting, stopped)
        await until(lambda: node.has_observed(TaskState.READY, waiting, stopped), "two are ready")
        private_engine.freeze()
        with pytest.MonkeyPatch.context() as patience:
            for name in ("CALL_TIMEOUT", "INFO_TIMEOUT", "CHANGE_TIMEOUT"):
                patience.setattr(docker_engine, name, 0.5)
            node.assign(*(attrs.evolve(task, desired_state=TaskState.RUNNING) for task in (waiting, stopped)))
            await until(lambda: node.has_observed(TaskState.STARTING, waiting, stopped), "two are to start")
            await until(node.is_away, "it is known to hang")
            node.assign(*(attrs.evolve(task, desired_state=TaskState.SHUTDOWN) for task in (stopped, goes)))
            new = node.task("new")
            node.assign(new)
            await asyncio.sleep(HANG_S)
            assert node.status(stays).state is TaskState.RUNNING
            assert node.status(goes).state is TaskState.RUNNING
        private_engine.thaw()
        await until(lambda: node.runs(stays, waiting, new), "three run")
        await until(lambda: node.has_observed(TaskState.SHUTDOWN, stopped, goes), "two are shut down")
        assert (await node.containers())[stays.id] == before[stays.id]
        # It starts one of them only now, as it may when it was asked to before.
        await private_engine.post(f"containers/{stopped.name}/start")
        await until(lambda: node.runs(stays, waiting, new), "what has ended does not run")
        assert node.status(stopped).state is TaskState.SHUTDOWN
        await until(node.is_back, "it is known to answer again")


class AgentsNode:
    """The worker's half of an agent on an engine: tasks are given to it as a manager would."""

    def __init__(self, engine: PrivateEngine) -> None:
        self._engine = engine
        clock, random = SystemClock(), SystemRandom()
        self.runtime = DockerRuntime(
            node_id=NodeId("n" * 25), node_address="127.0.0.1", hostname="host1", url=engine.url, random=random
        )
        self._writer = LocalWriter(MemoryLocalState(), random)
        self._worker = Worker(self.runtime, clock, random, self._writer, Reporter(random), DependencyKeeper())
        self._watch = EngineWatch(self.runtime, clock, random, reconcile=self._worker.reconcile, changed=lambda: None)
        self._sequence = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let it run; it removes its tasks at the end."""
        await self._watch.open()
        jobs = [asyncio.create_task(job) for job in (self._writer.run(), self._worker.run(), self._watch.run())]
        try:
            await self._worker.adopted.wait()
            yield
            await self._worker.clear(20)
        finally:
            self._engine.thaw()
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await self.runtime.close()

    def task(self, name: str, desired: TaskState = TaskState.RUNNING) -> Task:
        """A task that sleeps."""
        return Task(
            id=TaskId(name.ljust(25, "0")),
            spec=TaskSpec(
                container=ContainerSpec(image=PRIVATE_TAG, args=("sleep", "600"), stop_grace_period_ns=10_000_000)
            ),
            service_id=ServiceId("s" * 25),
            service_name=name,
            slot=1,
            desired_state=desired,
            status=TaskStatus(state=TaskState.ASSIGNED),
        )

    def assign(self, *tasks: Task) -> None:
        """Some more tasks, or what is desired of them now."""
        self._sequence += 1
        self._worker.assign(AssignmentUpdate(sequence=self._sequence, base_sequence=self._sequence - 1, tasks=tasks))

    def status(self, task: Task) -> TaskStatus:
        """What is observed of it."""
        return self._worker.statuses[task.id]

    async def has_observed(self, state: TaskState, *tasks: Task) -> bool:
        """True when all of them are in that state."""
        return all(self.status(task).state is state for task in tasks)

    async def is_away(self) -> bool:
        """True when the engine is known not to answer."""
        return bool(self._watch.problem)

    async def is_back(self) -> bool:
        """True when it is known to answer."""
        return not self._watch.problem

    async def runs(self, *tasks: Task) -> bool:
        """True when these run, and nothing else, each in one container."""
        listed = [c["Labels"]["com.docker.swarm.task.id"] for c in await self._engine.containers()]
        return sorted(listed) == sorted(task.id for task in tasks) and await self.has_observed(
            TaskState.RUNNING, *tasks
        )

    async def containers(self) -> dict[str, str]:
        """The containers that run, by task."""
        return {c["Labels"]["com.docker.swarm.task.id"]: c["Id"] for c in await self._engine.containers()}
