"""The world of a whole cluster that has jobs beside its services, and an operator who executes them again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial

import attrs
import cluster_world
from cluster import Cluster
from cluster_operator import SECOND_NS, Operator
from film import Film
from knobs import Knobs
from loop import SimLoop

from swarmpy.control.jobs import completed_slots, has_completed
from swarmpy.manager.manager import Manager
from swarmpy.manager.operations import create_service, live_services, update_service
from swarmpy.model.objects import Service, Task
from swarmpy.model.specs import ContainerSpec, RestartPolicy, ServiceSpec, TaskSpec
from swarmpy.model.states import ServiceMode
from swarmpy.store.view import View
from swarmpy.store.watch import Event

COMPLETES = "exit-after:500ms"
TROUBLED = ("crash-after:500ms", "fail-to-start", "fail-to-prepare", "slow-start:1s", "ignores-stop")
MAX_JOBS = 4


async def play(loop: SimLoop, knobs: Knobs, film: Film) -> None:
    """As in the world of a cluster."""
    await cluster_world.play(loop, knobs, film, operator=JobsOperator)


class JobsOperator(Operator):
    """Asks for jobs, and for other executions of them, too."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        cluster.laws.also = JobLaws(cluster.laws.fail, partial(cluster.film.checked, "jobs")).check

    def actions(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """See ``Operator``."""
        return [self._create_job, self._create_job, self._execute, self._execute, self._execute, *super().actions()]

    def first(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """See ``Operator``."""
        return [self._create_job, self._create, self._create_job]

    def _task(self) -> TaskSpec:
        image = COMPLETES if self._random.random() < 0.7 else self._one(TROUBLED)
        restart = RestartPolicy(
            condition=self._one((None, "on-failure", "none")),
            delay_ns=self._one((0, SECOND_NS // 10, SECOND_NS)),
            max_attempts=self._one((None, 1, 3)),
        )
        return TaskSpec(container=ContainerSpec(image=image, stop_grace_period_ns=SECOND_NS), restart=restart)

    async def _create_job(self, leader: Manager) -> None:
        if len(_jobs(leader.store.view())) >= MAX_JOBS:
            return
        self._last += 1
        spec = ServiceSpec(name=f"j{self._last}", task=self._task(), mode=ServiceMode.GLOBAL_JOB)
        if self._random.random() < 0.75:
            spec = attrs.evolve(
                spec,
                mode=ServiceMode.REPLICATED_JOB,
                max_concurrent=1 + self._random.randrange(3),
                total_completions=1 + self._random.randrange(5),
            )
        self._tell(f"create {spec.name} {spec.task.container.image} {spec.mode}")
        await create_service(leader.store, spec, leader.new_id)

    async def _execute(self, leader: Manager) -> None:
        jobs = _jobs(leader.store.view())
        if not jobs:
            return
        job = self._one(jobs)
        spec = attrs.evolve(job.spec, task=self._task()) if self._random.random() < 0.5 else job.spec
        self._tell(f"execute {job.spec.name} again, as {spec.task.container.image}")
        await update_service(leader.store, job.id, job.meta.version, spec)

    async def _repair_all(self, leader: Manager, names: Collection[str]) -> None:
        await super()._repair_all(leader, names)
        if not _jobs(leader.store.view()):
            # So that each universe has one that is to complete in peace.
            await self._create_job(leader)
        for job in _jobs(leader.store.view()):
            # A node may be lost, and the tasks on it fail, more often than attempts are given.
            task = attrs.evolve(job.spec.task, restart=RestartPolicy(delay_ns=SECOND_NS // 10))
            task = attrs.evolve(task, container=attrs.evolve(task.container, image=COMPLETES))
            if task != job.spec.task:
                self._tell(f"repair {job.spec.name}")
                await update_service(leader.store, job.id, job.meta.version, attrs.evolve(job.spec, task=task))


def _jobs(view: View) -> list[Service]:
    return [service for service in live_services(view) if service.job is not None]


class JobLaws:
    """What must hold of jobs whenever an entry is applied."""

    def __init__(self, fail: Callable[[str], None], checked: Callable[[], None]) -> None:
        self._fail = fail
        self._checked = checked

    def check(self, view: View, events: list[Event]) -> None:
        """Look at what an entry has changed."""
        touched = {}
        for event in events:
            new, old = event.object, event.old
            if not isinstance(new, Task):
                if isinstance(old, Task):
                    self._check_forgotten(view, old)
                continue
            service = view.service(new.service_id)
            if service is None or service.job is None or new.iteration is None:
                continue
            touched[service.id] = service
            if new.iteration > service.job.iteration:
                self._fail(f"task {new.id} is of an execution of {service.spec.name} that has not begun")
            if old is None:
                self._check_begun(view, service, new)
        for service in touched.values():
            self._check_numbers(view, service)
            self._checked()

    def _check_begun(self, view: View, service: Service, begun: Task) -> None:
        if service.spec.mode is ServiceMode.GLOBAL_JOB:
            return
        for task in view.tasks_of_service(service.id):
            if (task.slot, task.iteration) == (begun.slot, begun.iteration) and has_completed(task):
                self._fail(f"slot {begun.slot} of {service.spec.name} is done by {task.id} and is given {begun.id}")

    def _check_numbers(self, view: View, service: Service) -> None:
        if service.spec.mode is ServiceMode.GLOBAL_JOB or service.job is None:
            return
        tasks = view.tasks_of_service(service.id)
        if completed_slots(service, tasks) > service.spec.desired_completions:
            self._fail(f"job {service.spec.name} has completed more often than it was asked to")
        under_way = {
            task.slot
            for task in tasks
            if task.iteration == service.job.iteration
            and task.desired_state.is_wanted
            and not task.status.state.is_terminal
        }
        if len(under_way) > service.spec.desired_concurrency:
            self._fail(f"job {service.spec.name} has {sorted(under_way)} under way at once")

    def _check_forgotten(self, view: View, task: Task) -> None:
        service = view.service(task.service_id)
        if service is None or service.job is None or service.pending_delete or not has_completed(task):
            return
        if task.iteration == service.job.iteration and task.desired_state.is_wanted:
            self._fail(f"{service.spec.name} forgets that {task.id} has completed")
