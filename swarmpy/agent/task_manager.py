"""One task on this node: carries out what the state machine decides. It never decides anything itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs
import structlog

from swarmpy.agent import task_fsm as fsm
from swarmpy.agent.backoff import Backoff
from swarmpy.agent.dependencies import DependencyKeeper
from swarmpy.agent.subtask import ended
from swarmpy.errors import InvariantViolation, RuntimeUnavailable, TaskError, Unavailable
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.ports import Clock, Progress, RunningTask, Runtime

log = structlog.get_logger(__name__)

PROGRESS_PERIOD_S = 5.0
"""Seconds between two reports of how far a preparation is: each is a write of the cluster's state. One that takes no
longer is not told of.
"""


class TaskManager:
    """Brings one task to where it is desired, and then removes it.

    ``prepares`` bounds how many tasks of a node are prepared at a time. ``observed`` is called on every new status.
    """

    def __init__(
        self,
        task: Task,
        *,
        runtime: Runtime,
        clock: Clock,
        backoff: Backoff,
        prepares: asyncio.Semaphore,
        dependencies: DependencyKeeper,
        observed: Callable[[TaskManager], None],
    ) -> None:
        self.task = task
        """As assigned, except that the desired state never falls; ``task.status`` is the last one observed here."""
        self.removing = False
        """True once the task is no longer assigned: it is stopped and all traces are removed."""
        self._runtime = runtime
        self._clock = clock
        self._backoff = backoff
        self._prepares = prepares
        self._dependencies = dependencies
        self._observed = observed
        self._changed = asyncio.Event()
        self._news: fsm.Outcome | None = None
        """What was seen while there was nothing to do."""
        self._interruptible: asyncio.Task[fsm.Outcome] | None = None
        self._progress_at = 0.0
        """When progress is told next, on the monotonic clock."""

    @property
    def status(self) -> TaskStatus:
        """The last status observed."""
        return self.task.status

    @property
    def _desired(self) -> TaskState:
        return TaskState.REMOVE if self.removing else self.task.desired_state

    def assign(self, task: Task) -> None:
        """The manager's word on the task has changed. A task that was being removed stays, but ends."""
        desired = max(self.task.desired_state, task.desired_state)
        if self.removing:
            self.removing = False
            desired = max(desired, TaskState.SHUTDOWN)
        self.task = attrs.evolve(task, status=self.status, desired_state=desired)
        self._wake()

    def remove(self) -> None:
        """The task is no longer assigned to this node."""
        self.removing = True
        self._wake()

    def runs_again(self, running: RunningTask) -> None:
        """It has ended, and was seen running after that."""
        self._news = fsm.Found(running=running)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        if self._interruptible is not None and self._desired >= TaskState.SHUTDOWN:
            self._interruptible.cancel()

    async def run(self, outcome: fsm.Outcome) -> None:
        """Return when the task is removed. ``outcome``: what was found of it on this machine."""
        last: fsm.Outcome | None = outcome
        is_cleared = False
        while True:
            self._changed.clear()
            step = fsm.advance(self._desired, self.status, last, self._clock.time_ns())
            if step.status != self.status:
                self.task = attrs.evolve(self.task, status=step.status)
                self._observed(self)
            if step.action is not None:
                last = await self._perform(step.action)
                if isinstance(last, fsm.EngineAway):
                    await self._pause()
                elif not isinstance(last, fsm.Interrupted):
                    self._backoff.reset()
            elif not self.removing:
                if self._desired is TaskState.REMOVE and not is_cleared:
                    # It has ended, which is on its way to a manager. What is left of it goes without another word.
                    is_cleared = True
                    await self._removed()
                await self._changed.wait()
                last, self._news = self._news, None
            elif await self._removed():
                if self.removing:
                    return
            else:
                await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._backoff.next()):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _perform(self, action: fsm.Action) -> fsm.Outcome:
        running = asyncio.create_task(self._outcome_of(action), name=f"{action.value}-{self.task.id}")
        if action is not fsm.Action.STOP:
            self._interruptible = running
        try:
            await ended(running)
        finally:
            self._interruptible = None
        return fsm.Interrupted() if running.cancelled() else running.result()

    async def _outcome_of(self, action: fsm.Action) -> fsm.Outcome:
        try:
            return await self._ask_runtime(action)
        except InvariantViolation:
            raise
        except (RuntimeUnavailable, Unavailable) as error:
            away = "engine_away" if isinstance(error, RuntimeUnavailable) else "dependencies_not_had"
            log.debug(away, task=self.task.id, action=action.value, reason=str(error))
            return fsm.EngineAway(action=action, err=str(error))
        except TaskError as error:
            log.info("task_error", task=self.task.id, action=action.value, reason=str(error))
            return self._failed(action, str(error))
        except Exception as error:  # one task's trouble must not end the agent and all other tasks
            log.exception("task_action_crashed", task=self.task.id, action=action.value)
            if action is fsm.Action.WAIT:
                # That we could not watch it does not mean that it ended.
                return fsm.EngineAway(action=action, err=str(error))
            return self._failed(action, f"task: {action.value} failed: {error!r}")

    @staticmethod
    def _failed(action: fsm.Action, err: str) -> fsm.Outcome:
        # A task is SHUTDOWN only when it surely does not run any more: stopping is tried until it works.
        if action is fsm.Action.STOP:
            return fsm.EngineAway(action=action, err=err)
        return fsm.Errored(err=err)

    async def _ask_runtime(self, action: fsm.Action) -> fsm.Outcome:
        match action:
            case fsm.Action.PREPARE:
                # Not among those that are prepared while it waits: others, that need nothing, go first.
                needed = await self._dependencies.of(self.task)
                async with self._prepares:
                    self._progress_at = self._clock.monotonic() + PROGRESS_PERIOD_S
                    await self._runtime.prepare(self.task, needed, self._progressed)
                return fsm.Prepared()
            case fsm.Action.START:
                return fsm.Started(running=await self._runtime.start(self.task))
            case fsm.Action.WAIT:
                return fsm.Exited(exit=await self._runtime.wait(self.task))
            case fsm.Action.STOP:
                await self._runtime.stop(self.task)
                return fsm.Stopped()

    def _progressed(self, progress: Progress) -> None:
        # What does not work is told at once, and that it works again.
        if progress.err == self.status.err and self._clock.monotonic() < self._progress_at:
            return
        status = fsm.progressed(self.status, progress)
        if status != self.status:
            self._progress_at = self._clock.monotonic() + PROGRESS_PERIOD_S
            self.task = attrs.evolve(self.task, status=status)
            self._observed(self)

    async def _removed(self) -> bool:
        try:
            await self._runtime.remove(self.task.id)
        except InvariantViolation:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the reason, the container must go in the end
            log.debug("task_not_removed", task=self.task.id, reason=str(error))
            return False
        return True
