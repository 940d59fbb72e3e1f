"""All tasks of this node: one task manager each, as the last assignments say.

It never talks to a manager: assignments come in by :meth:`Worker.assign`, statuses go out through the reporter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable

import structlog

from swarmpy.agent import task_fsm as fsm
from swarmpy.agent.backoff import Backoff
from swarmpy.agent.dependencies import DependencyKeeper
from swarmpy.agent.local import LocalWriter
from swarmpy.agent.reporter import Reporter
from swarmpy.agent.task_manager import TaskManager
from swarmpy.errors import NotFound, RuntimeUnavailable
from swarmpy.model.assignments import AssignmentUpdate
from swarmpy.model.ids import TaskId
from swarmpy.model.logs import LogLine, LogOptions
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.ports import Clock, Random, RunningTask, Runtime

log = structlog.get_logger(__name__)

CONCURRENT_PREPARES = 64
"""Tasks prepared at a time. More than an engine should make containers of at once, which its runtime sees to: many may
wait for one image, and must not hold up those that need none.
"""
ENGINE_RETRY_FIRST_S = 0.25
ENGINE_RETRY_MOST_S = 10.0
"""Seconds between attempts while the engine is away."""


class Worker:
    """Runs the assigned tasks. :meth:`run` it; :meth:`assign` only once :attr:`adopted` is set."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        random: Random,
        local: LocalWriter,
        report: Reporter,
        dependencies: DependencyKeeper,
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._random = random
        self._local = local
        self._report = report
        self._dependencies = dependencies
        self._managers: dict[TaskId, TaskManager] = {}
        self._found: dict[TaskId, RunningTask | None] = {}
        self._prepares = asyncio.Semaphore(CONCURRENT_PREPARES)
        self._group: asyncio.TaskGroup | None = None
        self._told: set[TaskId] | None = None
        """The tasks of a whole set of which more is to come."""
        self._was_told = False
        """A manager has told the whole set of assignments once."""
        self._gone = asyncio.Event()
        self._retired = False
        self._whole_set_known = asyncio.Event()
        self.adopted = asyncio.Event()
        """Set when the tasks of the last life are taken over."""

    @property
    def statuses(self) -> dict[TaskId, TaskStatus]:
        """The last observed status of each task on this node."""
        return {task_id: manager.status for task_id, manager in self._managers.items()}

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks on this node, as they are seen here."""
        return tuple(manager.task for manager in self._managers.values())

    async def run(self, saved: Iterable[Task] = ()) -> None:
        """Run until cancelled; what runs then is left to the runtime.

        ``saved``: the tasks of the last life with their last statuses. Those that run are taken over; for those that
        ended meanwhile this is reported. Containers of this node that belong to no task are left alone until a manager
        has told the whole set of assignments, and removed then.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._found = await self._inventory()
            for task in saved:
                self._manage(task)
            self.adopted.set()
            while True:
                await self._whole_set_known.wait()
                self._whole_set_known.clear()
                await self._remove_strangers()

    def assign(self, update: AssignmentUpdate) -> None:
        """Make ``update`` true: a whole set, or an increment on top of all before.

        A whole set may come in parts: what is in none of them is removed when the last one is there.
        """
        if self._retired:
            return
        if update.base_sequence == 0:
            self._told = set()
        whole = self._told is not None
        for task in update.tasks:
            manager = self._managers.get(task.id)
            if manager is None:
                self._manage(task)
            else:
                before = manager.task
                manager.assign(task)
                if manager.task != before:
                    self._local.put_task(manager.task)
                if whole and _has_news(manager.status, task.status):
                    self._report.put(task.id, manager.status)
        for task_id in update.removed:
            self._remove(task_id)
        if self._told is not None:
            self._told = {*self._told, *(task.id for task in update.tasks)}.difference(update.removed)
            if not update.more:
                self._end_whole_set(self._told)

    def _end_whole_set(self, told: set[TaskId]) -> None:
        for task_id in [i for i in self._managers if i not in told]:
            self._remove(task_id)
        self._told = None
        self._was_told = True
        self._whole_set_known.set()

    async def logs(self, task_id: TaskId, options: LogOptions) -> AsyncGenerator[LogLine, None]:
        """What a task of this node has written. Raises NotFound, RuntimeUnavailable."""
        manager = self._managers.get(task_id)
        if manager is None:
            raise NotFound(f"task {task_id} is not on its node any more")
        async with contextlib.aclosing(self._runtime.logs(manager.task, options)) as lines:
            async for line in lines:
                yield line

    async def reconcile(self) -> None:
        """Look at all that is there: what runs of a task that has ended is stopped, what is of no task is removed.

        For an engine that does late what it was asked before. Raises RuntimeUnavailable.
        """
        for task_id, running in (await self._runtime.list_tasks()).items():
            manager = self._managers.get(task_id)
            if manager is None:
                self._found.setdefault(task_id, running)
            elif running is not None and manager.status.state.is_terminal:
                log.info("ended_task_runs", task=task_id)
                manager.runs_again(running)
        if self._was_told:
            self._whole_set_known.set()

    async def clear(self, timeout: float) -> None:
        """Stop and remove every task, and take no other; return when they are gone, or after ``timeout`` seconds."""
        self._retired = True
        try:
            async with asyncio.timeout(timeout):
                # An agent that has just started does not know yet what its last life has left behind.
                await self.adopted.wait()
                for task_id in list(self._managers):
                    self._remove(task_id)
                # Nobody is going to assign what is left.
                self._whole_set_known.set()
                while self._managers or self._found:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            log.warning("tasks_left_behind", count=len(self._managers) + len(self._found), waited_s=timeout)

    def _manage(self, task: Task) -> None:
        assert self._group is not None, "tasks are assigned to a worker that runs"
        manager = TaskManager(
            task,
            runtime=self._runtime,
            clock=self._clock,
            backoff=self._backoff(),
            prepares=self._prepares,
            dependencies=self._dependencies,
            observed=self._observed,
        )
        self._managers[task.id] = manager
        self._local.put_task(task)
        found = fsm.Found(running=self._found.pop(task.id)) if task.id in self._found else fsm.Missing()
        self._group.create_task(self._run_manager(manager, found), name=f"task-{task.id}")

    async def _run_manager(self, manager: TaskManager, found: fsm.Outcome) -> None:
        await manager.run(found)
        task_id = manager.task.id
        self._dependencies.release(task_id)
        self._managers.pop(task_id, None)
        self._gone.set()
        self._local.drop_task(task_id)
        log.debug("task_removed", task=task_id)

    def _remove(self, task_id: TaskId) -> None:
        manager = self._managers.get(task_id)
        if manager is not None:
            manager.remove()
            self._report.forget(task_id)

    def _observed(self, manager: TaskManager) -> None:
        task = manager.task
        log.debug("task_status", task=task.id, state=task.status.state.name, err=task.status.err)
        self._local.put_task(task)
        if task.status.state > TaskState.RUNNING:
            self._dependencies.release(task.id)
        elif task.status.state is TaskState.RUNNING:
            self._dependencies.started(task.id, task.spec.container.pull_secret_id)
        if not manager.removing:
            self._report.put(task.id, task.status)

    # -- what the last life left ------------------------------------------------------------------------------------

    def _backoff(self) -> Backoff:
        return Backoff(self._random, first=ENGINE_RETRY_FIRST_S, most=ENGINE_RETRY_MOST_S)

    async def _inventory(self) -> dict[TaskId, RunningTask | None]:
        backoff = self._backoff()
        while True:
            try:
                return dict(await self._runtime.list_tasks())
            except RuntimeUnavailable as error:
                log.debug("engine_away", action="list", reason=str(error))
                await asyncio.sleep(backoff.next())

    async def _remove_strangers(self) -> None:
        backoff = self._backoff()
        while self._found:
            task_id = min(self._found)
            try:
                await self._runtime.remove(task_id)
            except RuntimeUnavailable as error:
                log.debug("engine_away", action="remove", task=task_id, reason=str(error))
                await asyncio.sleep(backoff.next())
            else:
                self._found.pop(task_id, None)
                self._gone.set()
                log.info("unassigned_task_removed", task=task_id)


def _has_news(mine: TaskStatus, theirs: TaskStatus) -> bool:
    if mine.state != theirs.state:
        return mine.state > theirs.state
    return (mine.err, mine.container, mine.ports) != (theirs.err, theirs.container, theirs.ports)
