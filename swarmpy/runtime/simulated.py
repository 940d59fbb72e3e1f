"""Tasks that only pretend to run, on whatever clock the event loop has: for the simulator and for tests of scale.

What a task does is read from its image, ``name`` or ``name:argument`` (durations as ``5s``, ``200ms``, ``1.5s``):

    fail-to-prepare      is rejected
    fail-to-start        fails when it is started
    slow-pull:5s         takes that much longer to prepare, and tells how far it is
    slow-start:5s        takes that much longer to start
    never-healthy:5s     fails to start after that time: unhealthy container
    exit-after:5s        ends with exit code 0
    crash-after:5s       ends with exit code 1
    unhealthy-after:5s   is ended as unhealthy
    ignores-stop         has to be killed at the end of its grace period
    anything else        runs until it is stopped

Beside that, :class:`Behaviour` gives delays and how often things go wrong by chance. The object stands for the machine:
an agent that is restarted gets the same one again and adopts what runs. Nothing but the loop's timers and the given
randomness is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
from collections.abc import AsyncGenerator, Mapping

import attrs

from swarmpy.errors import NotFound, RuntimeUnavailable, TaskFailed, TaskRejected
from swarmpy.model.defaults import SECOND_NS, stop_grace_period_ns
from swarmpy.model.dependencies import NO_DEPENDENCIES, Dependencies
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.images import RegistryImage
from swarmpy.model.logs import ALL_LINES, STDOUT, LogLine, LogOptions
from swarmpy.model.objects import ContainerStatus, NodeDescription, Platform, PortStatus, Task
from swarmpy.model.specs import Resources
from swarmpy.model.template import NodeFacts
from swarmpy.ports import Progress, Random, RunningTask, TaskExit, Told, unheard
from swarmpy.runtime.task_files import TaskFile, process_places, task_files

FIRST_PORT = 20_000
PORT_COUNT = 10_000
_KILLED = 137
_TERMINATED = 143
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")


@attrs.frozen(kw_only=True)
class Behaviour:
    """Delays are (least, most) seconds; probabilities are of one task's attempt."""

    prepare_seconds: tuple[float, float] = (0.0, 0.0)
    start_seconds: tuple[float, float] = (0.0, 0.0)
    stop_seconds: tuple[float, float] = (0.0, 0.0)
    prepare_failure: float = 0.0
    start_failure: float = 0.0
    crash: float = 0.0
    """The chance that a started task crashes within ``crash_seconds``."""
    crash_seconds: tuple[float, float] = (0.0, 60.0)


@attrs.define(eq=False)
class _Simulated:
    task: Task
    running: RunningTask
    ended: asyncio.Event
    ends_at: float | None = None
    """Loop time at which it ends by itself."""
    end: TaskExit | None = None
    """How it ends, or has ended."""


class SimulatedRuntime:
    """See the module. A new one is an empty machine whose engine answers."""

    name = "simulated"

    def __init__(
        self,
        *,
        node_id: NodeId,
        node_address: str,
        hostname: str,
        random: Random,
        behaviour: Behaviour | None = None,
        resources: Resources | None = None,
    ) -> None:
        self._node_id = node_id
        self._address = node_address
        self._hostname = hostname
        self._random = random
        self.behaviour = behaviour or Behaviour()
        self._resources = resources or Resources(nano_cpus=8 * SECOND_NS, memory_bytes=16 << 30)
        self._prepared: dict[TaskId, Task] = {}
        self._started: dict[TaskId, _Simulated] = {}
        self._files: dict[TaskId, tuple[TaskFile, ...]] = {}
        """In memory of the machine: what tasks have of secrets and configs."""
        self._written: dict[TaskId, list[LogLine]] = {}
        self._has_written = asyncio.Event()
        self._next_port = 0
        self._next_pid = 1
        self._away = False

    # -- what the simulator does to it --

    def set_away(self, away: bool) -> None:
        """While it is away, every call raises RuntimeUnavailable; tasks run on, and waits go on waiting."""
        self._away = away

    def crash(self, task_id: TaskId, exit_code: int = _KILLED, error: str = "") -> None:
        """End a running task, as if somebody had killed it."""
        simulated = self._started[task_id]
        if not self._has_ended(simulated):
            self._finish(simulated, TaskExit(exit_code=exit_code, error=error))

    def power_off(self, *, keeps: bool = True) -> None:
        """The machine goes down: all tasks are killed. What was prepared stays, or (as of plain processes) nothing."""
        for task_id in tuple(self._started):
            self.crash(task_id)
        self._files.clear()
        if not keeps:
            self._started.clear()
            self._prepared.clear()

    def write(self, task_id: TaskId, data: bytes, stream: int = STDOUT) -> None:
        """A task writes a line."""
        lines = self._written.setdefault(task_id, [])
        last_ns = lines[-1].timestamp_ns if lines else 0
        now_ns = int(asyncio.get_running_loop().time() * SECOND_NS)
        lines.append(LogLine(stream, max(now_ns, last_ns + 1), data))
        self._has_written.set()

    def running_tasks(self) -> tuple[TaskId, ...]:
        """The tasks that run at this moment, in the order of their start."""
        return tuple(task_id for task_id, simulated in self._started.items() if not self._has_ended(simulated))

    def files(self) -> Mapping[TaskId, tuple[TaskFile, ...]]:
        """The files in memory of the machine at this moment, by the tasks that have them."""
        return dict(self._files)

    # -- the Runtime protocol --

    async def open(self) -> None:
        """Clears away the files of tasks that have ended meanwhile. Raises RuntimeUnavailable while it is away."""
        self._check_here()
        for task_id in tuple(self._files):
            simulated = self._started.get(task_id)
            if task_id not in self._prepared or (simulated is not None and self._has_ended(simulated)):
                del self._files[task_id]

    async def close(self) -> None:
        """Let go; tasks run on, as containers do."""

    async def describe(self) -> NodeDescription:
        """The pretended machine."""
        self._check_here()
        return NodeDescription(
            hostname=self._hostname,
            platform=Platform(architecture="x86_64", os="linux"),
            resources=self._resources,
            runtime=self.name,
            engine_version="0",
        )

    async def wait_disturbed(self) -> None:
        """Never: nothing tells."""
        await asyncio.get_running_loop().create_future()

    async def list_tasks(self) -> Mapping[TaskId, RunningTask | None]:
        """All tasks that were prepared and not removed."""
        self._check_here()
        tasks: dict[TaskId, RunningTask | None] = dict.fromkeys(self._prepared)
        for task_id, simulated in self._started.items():
            tasks[task_id] = None if self._has_ended(simulated) else simulated.running
        return tasks

    async def prepare(self, task: Task, needed: Dependencies = NO_DEPENDENCIES, told: Told = unheard) -> None:
        """Raises TaskRejected by image or by chance."""
        self._check_here()
        places = process_places(task.spec.container)
        if task.id in self._prepared and (not places or task.id in self._files):
            return
        await self._take(self.behaviour.prepare_seconds)
        self._check_here()
        kind, seconds = _behaviour(task)
        if kind == "slow-pull":
            await self._pull(task.spec.container.image, seconds, told)
        if kind == "fail-to-prepare":
            raise TaskRejected(f"No such image: {task.spec.container.image} (simulated)")
        if self._random.random() < self.behaviour.prepare_failure:
            raise TaskRejected("simulated failure to prepare")
        if places:
            node = NodeFacts(id=self._node_id, hostname=self._hostname, address=self._address)
            self._files[task.id] = task_files(places, needed, task=task, container=task.spec.container, node=node)
        self._prepared[task.id] = task

    async def start(self, task: Task) -> RunningTask:
        """Raises TaskFailed by image or by chance."""
        await self.prepare(task)
        if task.id in self._started:
            return self._started[task.id].running
        kind, seconds = _behaviour(task)
        await self._take(self.behaviour.start_seconds)
        if kind in {"slow-start", "never-healthy"}:
            await asyncio.sleep(seconds)
        self._check_here()
        if kind == "never-healthy":
            raise TaskFailed("unhealthy container")
        if kind == "fail-to-start" or self._random.random() < self.behaviour.start_failure:
            raise TaskFailed("simulated failure to start")
        # Started by somebody else while this call slept, as after a restart of the agent: there is only one of it.
        if task.id not in self._started:
            self._started[task.id] = self._begin(task, kind, seconds)
        return self._started[task.id].running

    async def _pull(self, image: str, seconds: float, told: Told) -> None:
        for second in range(math.ceil(seconds)):
            told(Progress(message=f"pulling {image}: {second} of {math.ceil(seconds)} MB"))
            await asyncio.sleep(min(1.0, seconds - second))
            self._check_here()

    async def find_image(self, image: str, auth: bytes = b"") -> RegistryImage:  # noqa: ARG002  # the protocol's
        """The same digest for the same reference, and this machine's platform."""
        self._check_here()
        await self._take(self.behaviour.prepare_seconds)
        if _kind(image)[0] == "fail-to-prepare":
            raise NotFound(f"No such image: {image} (simulated)")
        digest = f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"
        return RegistryImage(digest=digest, platforms=(Platform(architecture="x86_64"),))

    async def wait(self, task: Task) -> TaskExit:
        """Return when it has ended."""
        simulated = self._started.get(task.id)
        if simulated is None:
            return TaskExit(exit_code=-1, error="the container was removed by somebody else")
        while not self._has_ended(simulated):
            with contextlib.suppress(TimeoutError):  # its time has come
                async with asyncio.timeout_at(simulated.ends_at):
                    await simulated.ended.wait()
        assert simulated.end is not None
        self._files.pop(task.id, None)
        return simulated.end

    async def stop(self, task: Task) -> None:
        """Ends it after the usual delay, or after its whole grace period if it ignores being asked."""
        self._check_here()
        simulated = self._started.get(task.id)
        if simulated is None or self._has_ended(simulated):
            self._files.pop(task.id, None)
            return
        grace = stop_grace_period_ns(task.spec) / SECOND_NS
        stubborn = _behaviour(task)[0] == "ignores-stop"
        delay = grace if stubborn else min(grace, self._random.uniform(*self.behaviour.stop_seconds))
        await asyncio.sleep(delay)
        if not self._has_ended(simulated):
            self._finish(simulated, TaskExit(exit_code=_KILLED if stubborn else _TERMINATED))
        self._files.pop(task.id, None)

    async def remove(self, task_id: TaskId) -> None:
        """Gone, running or not."""
        self._check_here()
        if task_id in self._started:
            self.crash(task_id)
            del self._started[task_id]
        self._prepared.pop(task_id, None)
        self._files.pop(task_id, None)
        self._written.pop(task_id, None)

    async def logs(self, task: Task, options: LogOptions) -> AsyncGenerator[LogLine, None]:
        """What was given to :meth:`write`."""
        self._check_here()
        wanted = [line for line in self._written.get(task.id, ()) if options.wants(line)]
        if options.tail != ALL_LINES and not options.after_ns:
            wanted = wanted[max(0, len(wanted) - options.tail) :]
        last_ns = 0
        while True:
            for line in wanted:
                last_ns = line.timestamp_ns
                yield line
            if not options.follow or task.id not in self._started:
                return
            is_over = self._has_ended(self._started[task.id])
            # What there was is behind us, also where it was not wanted.
            options = attrs.evolve(options, after_ns=max(options.after_ns, last_ns))
            wanted = [line for line in self._written.get(task.id, ()) if options.wants(line)]
            if not wanted:
                if is_over:
                    return
                self._has_written.clear()
                either = [asyncio.ensure_future(self._has_written.wait()), asyncio.ensure_future(self.wait(task))]
                try:
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for waiting in either:
                        waiting.cancel()
                    await asyncio.gather(*either, return_exceptions=True)

    # -- inside --

    def _check_here(self) -> None:
        if self._away:
            raise RuntimeUnavailable("the simulated engine does not answer")

    async def _take(self, seconds: tuple[float, float]) -> None:
        await asyncio.sleep(self._random.uniform(*seconds))

    def _begin(self, task: Task, kind: str, seconds: float) -> _Simulated:
        now = asyncio.get_running_loop().time()
        pid, self._next_pid = self._next_pid, self._next_pid + 1
        simulated = _Simulated(
            task=task,
            running=RunningTask(
                container=ContainerStatus(container_id=f"simulated-{task.id}", pid=pid), ports=self._ports(task)
            ),
            ended=asyncio.Event(),
        )
        ends = {
            "exit-after": TaskExit(exit_code=0),
            "crash-after": TaskExit(exit_code=1),
            "unhealthy-after": TaskExit(exit_code=_TERMINATED, error="unhealthy container"),
        }
        if kind in ends:
            simulated.ends_at, simulated.end = now + seconds, ends[kind]
        elif self._random.random() < self.behaviour.crash:
            simulated.ends_at = now + self._random.uniform(*self.behaviour.crash_seconds)
            simulated.end = TaskExit(exit_code=1)
        return simulated

    def _ports(self, task: Task) -> tuple[PortStatus, ...]:
        statuses = []
        for port in task.ports:
            host_port = port.published_port if port.publish_mode == "host" else 0
            if not host_port:
                host_port = FIRST_PORT + self._next_port % PORT_COUNT
                self._next_port += 1
            statuses.append(
                PortStatus(
                    protocol=port.protocol,
                    target_port=port.target_port,
                    published_port=port.published_port,
                    publish_mode=port.publish_mode,
                    host_address=self._address,
                    host_port=host_port,
                )
            )
        return tuple(statuses)

    def _has_ended(self, simulated: _Simulated) -> bool:
        """Also true once its time has come, and from then on: nobody needs to have waited for it.

        A simulated clock may be behind again after a restart, and what has ended must not run once more.
        """
        at = simulated.ends_at
        if at is not None and asyncio.get_running_loop().time() >= at:
            simulated.ended.set()
        return simulated.ended.is_set()

    def _finish(self, simulated: _Simulated, end: TaskExit) -> None:
        simulated.end = end
        simulated.ended.set()


def _behaviour(task: Task) -> tuple[str, float]:
    """What the image asks for, and its duration in seconds."""
    return _kind(task.spec.container.image)


def _kind(image: str) -> tuple[str, float]:
    kind, _, argument = image.partition("@")[0].partition(":")
    match = _DURATION.fullmatch(argument)
    if match is None:
        return kind, 0.0
    return kind, float(match.group(1)) / (1000 if match.group(2) == "ms" else 1)
