"""Tasks as plain processes: for a machine without a container engine, and for trying things out.

The command and the arguments of the spec are run as they are, without a shell, each task in a session and a directory
of its own. There is no isolation: no image, no limits, no mounts, the node's own user and network; a task learns from
``PORT`` where to listen. Everything hangs from the warden (:mod:`swarmpy.runtime.warden`), so that no process outlives
its node; hence nothing is ever adopted after a restart.

The working directory is the spec's ``dir`` where this machine has such a directory, the task's own otherwise. Secrets
and configs are in directories in memory (:mod:`swarmpy.runtime.memory_files`) that the environment names.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import getpass
import os
import platform
import shutil
import signal
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any

import attrs
import structlog

from swarmpy.errors import FailedPrecondition, RuntimeUnavailable, TaskFailed, TaskRejected
from swarmpy.model.defaults import SECOND_NS, stop_grace_period_ns
from swarmpy.model.dependencies import NO_DEPENDENCIES, Dependencies
from swarmpy.model.grammar import is_id, shown
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.images import RegistryImage
from swarmpy.model.logs import LogLine, LogOptions
from swarmpy.model.objects import ContainerStatus, NodeDescription, Platform, PortStatus, Task
from swarmpy.model.specs import GenericResource, Resources
from swarmpy.model.template import NodeFacts
from swarmpy.ports import Random, RunningTask, TaskExit, Told, unheard
from swarmpy.runtime.checked import expanded
from swarmpy.runtime.free_ports import FreePorts
from swarmpy.runtime.healthcheck import Health, HealthTracker, probe_command
from swarmpy.runtime.leftovers import RUNTIME_MARK, kill_marked, remove_subdirectories
from swarmpy.runtime.memory_files import MemoryFiles
from swarmpy.runtime.process_config import check_user, command_line, environment, ignored_fields, stop_signal
from swarmpy.runtime.process_log import read_log
from swarmpy.runtime.task_files import process_places, task_files
from swarmpy.runtime.warden_keeper import WardenKeeper
from swarmpy.runtime.warden_link import SpawnRefused, WardenLink, WardenLost

log = structlog.get_logger(__name__)

LOG_LIMIT_BYTES = 10 * 1024 * 1024
READY_SECONDS = 10.0
"""A task with a TCP port counts as running when it accepts connections, or has lived this long without doing so."""
_READY_POLL = 0.05
_CLOSE_GRACE_SECONDS = 10.0
_KILLED_EXIT_CODE = 128 + signal.SIGKILL
_UNHEALTHY = "unhealthy container"


@attrs.define(eq=False)
class _Process:
    """A task that was started."""

    task: Task
    pid: int
    ports: tuple[PortStatus, ...]
    env: dict[str, str]
    directory: Path
    exit: asyncio.Future[TaskExit]
    healthy: asyncio.Future[None]
    watcher: asyncio.Task[None] | None = None
    health: asyncio.Task[None] | None = None
    reason: str = ""

    @property
    def running(self) -> RunningTask:
        status = ContainerStatus(container_id=self.task.id, pid=self.pid)
        return RunningTask(container=status, ports=self.ports, not_done=ignored_fields(self.task))


class ProcessRuntime:
    """See the module. ``directory`` belongs to this runtime alone and must survive restarts of the node."""

    name = "process"

    def __init__(
        self,
        *,
        node_id: NodeId,
        node_address: str,
        hostname: str,
        directory: Path,
        random: Random | None = None,
        ready_seconds: float = READY_SECONDS,
        log_limit_bytes: int = LOG_LIMIT_BYTES,
        files: MemoryFiles | None = None,
        generic: tuple[GenericResource, ...] = (),
    ) -> None:
        """``files`` is where secrets and configs are put, by default the usual place; ``generic`` what the machine has
        beside processors and memory."""
        machine = platform.machine()
        self._node = NodeFacts(id=node_id, hostname=hostname, address=node_address, architecture=machine)
        self._generic = generic
        self._directory = directory.absolute()
        self._free_ports = FreePorts(random or SystemRandom())
        self._ready_seconds = ready_seconds
        self._log_limit = log_limit_bytes
        self._processes: dict[TaskId, _Process] = {}
        self._files = files or MemoryFiles(node_id)
        self._prepared: dict[TaskId, str] = {}
        """With the directory in memory of each; "" where there is none."""
        self._wardens = WardenKeeper(self._directory)
        self._closed = True

    # -- the Runtime protocol --

    async def open(self) -> None:
        """Start the warden and clear away what an earlier run left. Raises RuntimeUnavailable."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._directory.chmod(0o700)
            await kill_marked(self._directory)
            await asyncio.to_thread(remove_subdirectories, self._directory)
            await self._files.sweep(())
        except OSError as error:
            raise RuntimeUnavailable(f"process runtime: {self._directory}: {error.strerror}") from error
        self._closed = False
        await self._wardens.present()

    async def close(self) -> None:
        """End all tasks: TERM, at most ten seconds, KILL. Idempotent."""
        self._closed = True
        alive = [process for process in self._processes.values() if not process.exit.done()]
        await asyncio.gather(*(self._end(process, _CLOSE_GRACE_SECONDS) for process in alive))
        await self._wardens.close()
        tasks = [t for process in self._processes.values() for t in (process.watcher, process.health) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in self._processes.values():
            if not process.exit.done():
                process.exit.set_result(TaskExit(exit_code=_KILLED_EXIT_CODE, error="killed: its node has stopped"))
        self._free_ports.close()
        await self._files.sweep(())

    async def describe(self) -> NodeDescription:
        """This machine; its processors and memory are all offered, and nothing keeps a task within its share."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        cpus = len(os.sched_getaffinity(0))
        return NodeDescription(
            hostname=self._node.hostname,
            platform=Platform(architecture=self._node.architecture, os="linux"),
            resources=Resources(nano_cpus=cpus * SECOND_NS, memory_bytes=memory, generic=self._generic),
            runtime=self.name,
        )

    async def wait_disturbed(self) -> None:
        """Never: nothing tells."""
        await asyncio.get_running_loop().create_future()

    async def list_tasks(self) -> Mapping[TaskId, RunningTask | None]:
        """The tasks started since :meth:`open`."""
        return {
            task_id: None if process.exit.done() else process.running for task_id, process in self._processes.items()
        }

    async def prepare(self, task: Task, needed: Dependencies = NO_DEPENDENCIES, told: Told = unheard) -> None:  # noqa: ARG002  # it has nothing to tell
        """Check that the command exists and make the task's directories. Raises TaskRejected."""
        if task.id in self._prepared:
            return
        spec = expanded(task, self._node)
        check_user(task, user=_user_name(), uid=os.getuid())
        stop_signal(task)
        env = self._environment(task, ())
        self._executable(task, command_line(task, self._node)[0], env)
        try:
            self._task_directory(task.id).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TaskRejected(f"{self._task_directory(task.id)}: {error.strerror}") from error
        places = process_places(spec)
        directory = ""
        if places:
            # Templates may be large, and many.
            files = await asyncio.to_thread(task_files, places, needed, task=task, container=spec, node=self._node)
            directory = str(await self._files.write(task.id, files))
        ignored = ignored_fields(task)
        if ignored:
            log.info("process_runtime_ignores", task=task.id, service=task.service_name, fields=ignored)
        self._prepared[task.id] = directory

    async def start(self, task: Task) -> RunningTask:
        """Start it and wait until it is healthy or, without a healthcheck, listens. Raises TaskFailed, TaskRejected."""
        await self.prepare(task)
        process = self._processes.get(task.id) or await self._spawn(task)
        if not process.exit.done():
            if process.health is not None:
                either: set[asyncio.Future[Any]] = {process.healthy, process.exit}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            else:
                await self._wait_listening(process)
        if process.exit.done():
            ended = process.exit.result()
            if ended.error or ended.exit_code:
                raise TaskFailed(ended.error or f"task: non-zero exit ({ended.exit_code})")
        return process.running

    async def wait(self, task: Task) -> TaskExit:
        """Return when it and all it left behind have ended."""
        process = self._processes.get(task.id)
        if process is None:
            return TaskExit(exit_code=_KILLED_EXIT_CODE, error="the process is gone: its node was restarted")
        return await asyncio.shield(process.exit)

    async def stop(self, task: Task) -> None:
        """Its stop signal to all its processes; after the grace period KILL."""
        process = self._processes.get(task.id)
        if process is not None:
            await self._end(process, stop_grace_period_ns(task.spec) / SECOND_NS)
        await self._files.remove(task.id)

    async def remove(self, task_id: TaskId) -> None:
        """Kill what runs, delete its directory with its log."""
        process = self._processes.get(task_id)
        if process is not None:
            await self._end(process, 0)
            if process.watcher is not None:
                await asyncio.gather(process.watcher, return_exceptions=True)
            del self._processes[task_id]
        self._prepared.pop(task_id, None)
        await self._files.remove(task_id)
        if not is_id(task_id):
            return  # nothing was ever made for it
        await asyncio.to_thread(shutil.rmtree, self._task_directory(task_id), ignore_errors=True)

    async def find_image(self, image: str, auth: bytes = b"") -> RegistryImage:  # noqa: ARG002  # the protocol's
        """Always FailedPrecondition: only an engine knows registries."""
        raise FailedPrecondition(
            f"node {self._node.hostname} has no Docker Engine that could ask a registry for image {image}: "
            "it runs plain processes"
        )

    def logs(self, task: Task, options: LogOptions) -> AsyncGenerator[LogLine, None]:
        """See :func:`~swarmpy.runtime.process_log.read_log`."""

        def is_over() -> bool:
            process = self._processes.get(task.id)
            return process is None or process.exit.done()

        return read_log(self.log_path(task.id), options, is_over)

    def log_path(self, task_id: TaskId) -> Path:
        """Where standard output and error of a task go; ``.1`` appended, what was before it: ten MiB each."""
        return self._task_directory(task_id) / "output.log"

    # -- starting --

    async def _spawn(self, task: Task) -> _Process:
        if self._closed:
            raise RuntimeUnavailable("the process runtime is closed")
        link = await self._wardens.present()
        ports = self._free_ports.take_for(task.ports, self._node.address)
        try:
            env = self._environment(task, ports)
            words = command_line(task, self._node)
            argv = [self._executable(task, words[0], env), *words[1:]]
            directory = self._working_directory(task)
            pid = await link.spawn(task.id, argv, env, directory, self.log_path(task.id), self._log_limit)
        except SpawnRefused as error:
            self._free_ports.give_back(ports)
            if error.number == errno.EEXIST:  # a start that was given up is still being cleared away
                raise RuntimeUnavailable(f"task {task.id} is still ending") from error
            raise TaskRejected(f"{words[0]}: cannot be executed: {error.reason}") from error
        except BaseException:
            self._free_ports.give_back(ports)
            raise
        loop = asyncio.get_running_loop()
        process = _Process(
            task=task,
            pid=pid,
            ports=ports,
            env=env,
            directory=directory,
            exit=loop.create_future(),
            healthy=loop.create_future(),
        )
        self._processes[task.id] = process
        process.watcher = asyncio.create_task(self._watch(process, link), name=f"process-{task.id}")
        check = task.spec.container.healthcheck
        if check is not None and probe_command(check):
            tracker = HealthTracker(check, loop.time())
            process.health = asyncio.create_task(self._check_health(process, tracker), name=f"health-{task.id}")
        return process

    def _environment(self, task: Task, ports: tuple[PortStatus, ...]) -> dict[str, str]:
        path = os.environ.get("PATH", os.defpath)
        home = str(self._task_directory(task.id))
        files = self._prepared.get(task.id, "")
        env = environment(task, self._node, path=path, home=home, ports=ports, files=files)
        return env | {RUNTIME_MARK: str(self._directory)}

    def _executable(self, task: Task, word: str, env: Mapping[str, str]) -> str:
        cwd = self._working_directory(task)
        found = shutil.which(str(cwd / word) if "/" in word else word, path=env.get("PATH", os.defpath))
        if found is None:
            raise TaskRejected(
                f"command not found: {word}; the process runtime runs commands of this machine, "
                f"the image {task.spec.container.image!r} is not used"
            )
        return found

    def _working_directory(self, task: Task) -> Path:
        wanted = task.spec.container.dir
        return Path(wanted) if wanted.startswith("/") and Path(wanted).is_dir() else self._task_directory(task.id)

    def _task_directory(self, task_id: TaskId) -> Path:
        if not is_id(task_id):
            raise TaskRejected(f"{shown(task_id)} is not the id of a task")
        return self._directory / task_id

    async def _wait_listening(self, process: _Process) -> None:
        """Wait until the first TCP port accepts a connection, the process ends or the time for it is over."""
        port = next((p.host_port for p in process.ports if p.protocol == "tcp"), 0)
        if not port:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._ready_seconds):
                while not process.exit.done():
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection(self._node.address, port)
                        writer.close()
                        return
                    await asyncio.wait({process.exit}, timeout=_READY_POLL)

    # -- running --

    async def _watch(self, process: _Process, link: WardenLink) -> None:
        """Turn the end of the unit into the end of the task."""
        try:
            code = await link.exited(process.task.id)
            ended = TaskExit(exit_code=code, error=process.reason)
        except WardenLost:
            await self._wardens.clear_lost(link)
            ended = TaskExit(exit_code=_KILLED_EXIT_CODE, error="killed: the warden process of the runtime died")
        finally:
            self._free_ports.give_back(process.ports)
        link.forget(process.task.id)
        if process.health is not None:
            process.health.cancel()
            await asyncio.gather(process.health, return_exceptions=True)
        await self._files.remove(process.task.id)
        process.exit.set_result(ended)

    async def _check_health(self, process: _Process, tracker: HealthTracker) -> None:
        """Probe until the task is unhealthy, then end it."""
        loop = asyncio.get_running_loop()
        number = 0
        while tracker.health is not Health.UNHEALTHY:
            await asyncio.sleep(tracker.pause)
            number += 1
            succeeded = await self._probe(process, tracker, f"{process.task.id}.health.{number}")
            health = tracker.record(succeeded, loop.time())
            if health is Health.HEALTHY and not process.healthy.done():
                process.healthy.set_result(None)
        log.info("task_unhealthy", task=process.task.id, service=process.task.service_name)
        process.reason = _UNHEALTHY
        await self._end(process, stop_grace_period_ns(process.task.spec) / SECOND_NS)

    async def _probe(self, process: _Process, tracker: HealthTracker, unit: str) -> bool:
        command = probe_command(tracker.check)
        executable = shutil.which(command[0], path=process.env.get("PATH", os.defpath))
        link = self._wardens.link
        if executable is None or link is None or link.is_lost:
            return False
        try:
            async with asyncio.timeout(tracker.timeout):
                await link.spawn(unit, [executable, *command[1:]], process.env, process.directory, Path(os.devnull))
                return await link.exited(unit) == 0
        except (TimeoutError, SpawnRefused, RuntimeUnavailable):
            return False
        finally:
            link.kill(unit)
            link.forget(unit)

    async def _end(self, process: _Process, grace: float) -> None:
        """Stop signal, at most ``grace`` seconds, KILL; return when it has ended."""
        link = self._wardens.link
        if process.exit.done() or link is None:
            return
        unit = process.task.id
        if grace > 0:
            link.signal(unit, stop_signal(process.task))
            await asyncio.wait({process.exit}, timeout=grace)
        if not process.exit.done():
            link.kill(unit)
            await asyncio.wait({process.exit})


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""  # an id without a name in the password database
