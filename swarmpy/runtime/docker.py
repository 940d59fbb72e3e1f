"""Tasks as containers of a Docker Engine on this machine.

Containers are named and labelled as Docker Swarm does, and carry a label of ours on top: only containers with this
node's own label are ever listed, stopped or removed. They live on when the node stops, and are adopted when it returns.

What an event says is only a hint to look; what counts is what an inspection shows (see :mod:`docker_events`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from random import SystemRandom
from typing import Any

import attrs
import structlog

from swarmpy.errors import NotFound, PermissionDenied, RuntimeUnavailable, TaskFailed, TaskRejected, Unavailable
from swarmpy.model.dependencies import NO_DEPENDENCIES, Dependencies, has_files
from swarmpy.model.grammar import is_object_name
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.images import RegistryImage, registry_image_from_json
from swarmpy.model.logs import LogLine, LogOptions
from swarmpy.model.objects import NodeDescription, Task
from swarmpy.model.specs import ContainerSpec, GenericResource
from swarmpy.model.template import NodeFacts
from swarmpy.ports import Random, RunningTask, TaskExit, Told, unheard
from swarmpy.runtime import docker_state as state
from swarmpy.runtime.checked import expanded
from swarmpy.runtime.container_config import (
    LABEL_NODE_ID,
    LABEL_OWNER,
    LABEL_TASK_ID,
    container_name,
    create_config,
    stop_timeout_seconds,
)
from swarmpy.runtime.docker_engine import Engine, EngineError
from swarmpy.runtime.docker_events import ContainerEvents
from swarmpy.runtime.engine_features import check_engine
from swarmpy.runtime.image_pulls import ImagePulls
from swarmpy.runtime.memory_files import MemoryFiles
from swarmpy.runtime.registry_auth import auth_header
from swarmpy.runtime.registry_errors import RegistryRefusal, Trouble
from swarmpy.runtime.task_files import container_places, task_files

log = structlog.get_logger(__name__)

_INSPECTIONS_AT_ONCE = 16
_REMOVE_ATTEMPTS = 50
_REMOVE_PAUSE = 0.1
_AWAY_RETRY_SECONDS = 5.0
_CREATIONS_AT_ONCE = 8
"""Containers made at a time, with their files: a hundred new tasks must not storm the engine."""
_QUESTIONS_AT_ONCE = 8
"""To registries, which may each take their time to answer."""


class DockerRuntime:
    """See the module. ``node_address`` is where the other nodes reach the containers' ingress ports."""

    name = "docker"

    def __init__(
        self,
        *,
        node_id: NodeId,
        node_address: str,
        hostname: str,
        url: str | None = None,
        random: Random | None = None,
        files: MemoryFiles | None = None,
        generic: tuple[GenericResource, ...] = (),
    ) -> None:
        """``url`` is the engine's address; ``files`` where secrets and configs are put, by default the usual place;
        ``generic`` what the machine has beside what the engine tells."""
        self._node = NodeFacts(id=node_id, hostname=hostname, address=node_address)
        self._files = files or MemoryFiles(node_id)
        self._generic = generic
        self._engine = Engine(url)
        random = random or SystemRandom()
        self._events = ContainerEvents(self._engine, node_id, random)
        self._events_task: asyncio.Task[None] | None = None
        self._images = ImagePulls(self._engine, random)
        self._fresh: set[TaskId] = set()
        """Whose containers were created in this life, and not started: there is nothing to be found out about them."""
        self._inspections = asyncio.Semaphore(_INSPECTIONS_AT_ONCE)
        self._creations = asyncio.Semaphore(_CREATIONS_AT_ONCE)
        self._questions = asyncio.Semaphore(_QUESTIONS_AT_ONCE)

    # -- the Runtime protocol --

    async def open(self) -> None:
        """Connect, and clear away the files of tasks that have ended meanwhile. Raises RuntimeUnavailable."""
        await self._engine.open()
        try:
            info = await self._engine.info()
            listed = await self._engine.containers(f"{LABEL_OWNER}={self._node.id}", f"{LABEL_NODE_ID}={self._node.id}")
            await self._files.sweep({task_id for item in listed if (task_id := state.startable_task(item))})
        except BaseException:
            await self._engine.close()
            raise
        self._node = attrs.evolve(self._node, os=info.get("OSType", "linux"), architecture=info.get("Architecture", ""))
        self._events_task = asyncio.create_task(self._events.run(), name="docker-events")

    async def close(self) -> None:
        """Let go of the engine; containers go on running. Idempotent."""
        events, self._events_task = self._events_task, None
        if events is not None:
            events.cancel()
            await asyncio.gather(events, return_exceptions=True)
        await self._images.close()
        await self._engine.close()

    async def describe(self) -> NodeDescription:
        """The engine's machine."""
        info, plugins = await self._engine.info(), await self._engine.plugins()
        return state.description(info, plugins, self._generic, self._node.hostname)

    async def wait_disturbed(self) -> None:
        """When the event stream has broken."""
        await self._events.disturbed.wait()
        self._events.disturbed.clear()

    async def list_tasks(self) -> Mapping[TaskId, RunningTask | None]:
        """The containers of this node."""
        listed = await self._engine.containers(f"{LABEL_OWNER}={self._node.id}", f"{LABEL_NODE_ID}={self._node.id}")
        found = await asyncio.gather(*(self._inspect(item["Id"]) for item in listed))
        tasks: dict[TaskId, RunningTask | None] = {}
        for container in found:
            task_id = TaskId(state.labels(container).get(LABEL_TASK_ID, "")) if container else ""
            if container and task_id:
                alive = state.is_live(container)
                tasks[TaskId(task_id)] = state.running_task(container, self._node.address) if alive else None
        return tasks

    async def prepare(self, task: Task, needed: Dependencies = NO_DEPENDENCIES, told: Told = unheard) -> None:
        """Get the image unless it is here, and create the container unless it exists. Raises TaskRejected."""
        spec = expanded(task, self._node)
        # The engine says by itself that there is no such image, or such a container already: it is asked before only
        # where files are to be written.
        has_files = bool(container_places(spec))
        exists = has_files and await self._own(task) is not None
        if not exists:
            check_engine(spec, self._engine.api_version)
        if has_files and not exists:
            await self._images.get(spec.image, _credentials(spec, needed), told)
        # Not among those that are made while it waits for its image: others that have theirs go first.
        async with self._creations:
            is_made = await self._make(task, spec, needed, exists=exists)
        if not is_made:
            await self._images.get(spec.image, _credentials(spec, needed), told)
            async with self._creations:
                if not await self._make(task, spec, needed, exists=exists):
                    raise TaskRejected(f"image {spec.image} was removed from the engine as its container was made")

    async def _make(self, task: Task, spec: ContainerSpec, needed: Dependencies, *, exists: bool) -> bool:
        """Put its files into memory, and create its container unless it ``exists``; False when there is no image.

        Raises TaskRejected.
        """
        places = container_places(spec)
        directory = await self._files.find(task.id) if places else None
        if places and directory is None:
            # Also for a container that exists: the machine may have been restarted since.
            # Templates may be large, and many.
            files = await asyncio.to_thread(task_files, places, needed, task=task, container=spec, node=self._node)
            directory = await self._files.write(task.id, files)
        if exists:
            return True
        name = container_name(task)
        try:
            await self._engine.create(name, create_config(task, self._node, str(directory or "")))
            self._fresh.add(task.id)
        except EngineError as error:
            if error.status == 409:
                await self._check_taken(task, name, error)
                return True
            if error.status == 404 and not await self._engine.has_image(spec.image):
                return False
            if directory is not None and str(directory) in str(error):
                raise TaskRejected(
                    f"the engine does not see the files of its secrets and configs in {directory}: it has to run on "
                    "this machine, with the mounts that this daemon has"
                ) from error
            raise state.create_refused(str(error)) from error
        return True

    async def start(self, task: Task) -> RunningTask:
        """Start the container and wait until it is healthy, if it can tell. Raises TaskFailed, TaskRejected."""
        container = None
        if task.id not in self._fresh:
            container = await self._own(task)
            if container is None:
                await self.prepare(task)
        # Only once: another attempt may find it running, or ended.
        self._fresh.discard(task.id)
        if container is None or container["State"]["Status"] == "created":
            await self._check_files(task)
            try:
                await self._engine.start(container_name(task))
            except EngineError as error:
                raise state.start_refused(str(error), task.spec.container.image) from error
        with self._events.changes(task.id, for_health=True) as changed:
            while True:
                changed.clear()
                container = await self._own(task)
                ended = state.task_exit(container)
                if ended is not None and (container is None or state.health(container)):
                    return await self._ended_early(container, ended)
                assert container is not None
                health = state.health(container)
                if health == state.UNHEALTHY_STATUS:
                    await self.stop(task)
                    raise TaskFailed(state.UNHEALTHY)
                if health in {"", "healthy"}:
                    return state.running_task(container, self._node.address)
                await changed.wait()

    async def wait(self, task: Task) -> TaskExit:
        """Return when the container has ended; an engine that goes away meanwhile is waited for."""
        with self._events.changes(task.id) as changed:
            while True:
                changed.clear()
                try:
                    container = await self._own(task)
                    ended = state.task_exit(container)
                    if ended is not None:
                        await self._files.remove(task.id)
                        return ended
                    if container is not None and state.health(container) == state.UNHEALTHY_STATUS:
                        log.info("task_unhealthy", task=task.id, service=task.service_name)
                        await self.stop(task)
                        ended = state.task_exit(await self._own(task))
                        code = ended.exit_code if ended is not None else state.GONE_EXIT_CODE
                        return TaskExit(exit_code=code, error=state.UNHEALTHY)
                except RuntimeUnavailable as error:
                    if self._events_task is None:
                        raise
                    log.debug("wait_engine_away", task=task.id, error=str(error))
                    # The hint that led here is used up, and may have been the last one.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_AWAY_RETRY_SECONDS):
                            await changed.wait()
                    continue
                await changed.wait()

    async def stop(self, task: Task) -> None:
        """Its stop signal; after the grace period KILL. A container that is not there or has ended is fine."""
        container = await self._own(task)
        if container is not None and state.is_live(container):
            try:
                await self._engine.stop(container["Id"], stop_timeout_seconds(task))
            except RuntimeUnavailable as error:
                log.warning("stop_failed_killing", task=task.id, error=str(error))
                await self._engine.kill(container["Id"])
        await self._files.remove(task.id)

    async def remove(self, task_id: TaskId) -> None:
        """Delete the container, running or not, with its anonymous volumes, and its files in memory."""
        self._fresh.discard(task_id)
        await self._delete(task_id)
        await self._files.remove(task_id)

    async def find_image(self, image: str, auth: bytes = b"") -> RegistryImage:
        """Have the engine ask the image's registry."""
        header = auth_header(auth) if auth else ""
        try:
            async with self._questions:
                answer = await self._engine.distribution(image, header)
            return registry_image_from_json(answer)
        except ValueError as error:
            raise EngineError(f"the registry's answer on image {image} is not understood: {error}") from None
        except EngineError as error:
            refusal = RegistryRefusal(image, str(error), error.status, had=bool(auth))
            match refusal.trouble:
                case Trouble.MISSING:
                    raise NotFound(refusal.line) from None
                case Trouble.REFUSED:
                    raise PermissionDenied(f"image {image}: {refusal.reason}") from None
                case Trouble.AWAY:
                    raise Unavailable(f"image {image}: {refusal.reason}") from None
                case _:
                    raise EngineError(f"image {image}: {refusal.reason}") from None

    async def logs(self, task: Task, options: LogOptions) -> AsyncGenerator[LogLine, None]:
        """What the engine has kept of the container's output: that is up to its log driver."""
        container = await self._own(task)
        if container is None:
            return
        has_terminal = bool((container.get("Config") or {}).get("Tty"))
        async with contextlib.aclosing(self._engine.logs(container["Id"], options, tty=has_terminal)) as lines:
            async for line in lines:
                if options.wants(line):
                    yield line

    # -- inside --

    async def _delete(self, task_id: TaskId) -> None:
        labels = (f"{LABEL_OWNER}={self._node.id}", f"{LABEL_TASK_ID}={task_id}")
        for _ in range(_REMOVE_ATTEMPTS):
            listed = await self._engine.containers(*labels)
            if not listed:
                return
            for container in listed:
                await self._engine.delete(container["Id"])
            if not await self._engine.containers(*labels):
                return
            await asyncio.sleep(_REMOVE_PAUSE)  # a removal by somebody else is in progress; it has no event for failing
        raise RuntimeUnavailable(f"the container of task {task_id} cannot be removed: the engine keeps listing it")

    async def _check_taken(self, task: Task, name: str, error: EngineError) -> None:
        """Return when it is by an earlier attempt at this task whose answer was lost."""
        if await self._own(task) is not None:
            return
        if await self._inspect(name) is None:
            # The engine is still busy with that attempt, or with its removal.
            raise RuntimeUnavailable(
                f"the Docker Engine has not made container {name} yet, or not removed it"
            ) from error
        raise TaskRejected(f"the name {name} is taken by a container that is not of this node") from error

    async def _inspect(self, container: str) -> dict[str, Any] | None:
        async with self._inspections:
            return await self._engine.inspect(container)

    async def _own(self, task: Task) -> dict[str, Any] | None:
        """The task's container, if it is there and this node's."""
        if not is_object_name(container_name(task)):
            return None  # it is part of a path at the engine, and none was ever created so
        container = await self._inspect(container_name(task))
        if container is None:
            return None
        labels = state.labels(container)
        mine = labels.get(LABEL_OWNER) == self._node.id and labels.get(LABEL_TASK_ID) == task.id
        return container if mine else None

    async def _check_files(self, task: Task) -> None:
        if has_files(task) and await self._files.find(task.id) is None:
            raise TaskFailed("its secrets and configs are not in memory any more: the machine was restarted")

    async def _ended_early(self, container: dict[str, Any] | None, ended: TaskExit) -> RunningTask:
        """What start says of a container that ended before it was healthy: no failure if it just was done."""
        if container is None or ended.error or ended.exit_code:
            raise TaskFailed(ended.error or f"task: non-zero exit ({ended.exit_code})")
        return state.running_task(container, self._node.address)


def _credentials(spec: ContainerSpec, needed: Dependencies) -> str:
    """For the registry of the image, as a header's value; "" for none."""
    content = None if spec.pull_secret_id is None else needed.secrets.get(spec.pull_secret_id)
    return "" if content is None else auth_header(content.data)
