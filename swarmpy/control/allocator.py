"""NEW to PENDING: a task goes on once its service has its published ports.

What cannot be allocated is said on the waiting tasks, and tried again with every decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from swarmpy.control.decision import Decision
from swarmpy.control.draft import is_active
from swarmpy.control.ports import PortTable, is_allocated
from swarmpy.errors import UserError
from swarmpy.model import changes
from swarmpy.model.changes import Change
from swarmpy.model.evolving import evolver
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Service, Task, TaskStatus
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import TaskState
from swarmpy.store.view import View

SLICE_TASKS = 1_000
"""Tasks of one decision."""


def allocate_ports(view: View, service: Service) -> tuple[PortConfig, ...]:
    """The ports that a service (new, or with a new spec) gets; its ``ports`` should be set to them.

    Raises AlreadyExists when a port is another service's, FailedPrecondition when no dynamic port is left.
    """
    return PortTable(view).allocate(service)


def decide(view: View, service_ids: Iterable[ServiceId]) -> Decision:
    """All of :func:`slices`, in one step."""
    found = [change for decision in slices(lambda: view, service_ids) for change in decision.changes]
    return Decision(changes=tuple(found))


def slices(view: Callable[[], View], service_ids: Iterable[ServiceId]) -> Iterator[Decision]:
    """Give services the ports they lack and let NEW tasks go on, some thousand with each decision.

    ``service_ids`` are services that may have changed; those with NEW tasks are looked at in any case. ``view`` gives
    the state as it is at the moment: others may have their turn after each decision.
    """
    new = [task for task in view().tasks_waiting() if task.status.state is TaskState.NEW]
    waiting = dict.fromkeys(task.service_id for task in new)
    found: list[Change] = []
    ready: dict[ServiceId, Service] = {}
    refused: dict[ServiceId, str] = {}
    table = PortTable(view())
    for service_id in dict.fromkeys((*service_ids, *waiting)):
        service = view().service(service_id)
        if service is None or service.pending_delete or is_allocated(service):
            continue
        try:
            allocated = attrs.evolve(service, ports=table.allocate(service))
        except UserError as error:
            refused[service.id] = error.message
            continue
        table.add(allocated)
        ready[service.id] = allocated
        found.append(changes.update(allocated))
    for start in range(0, len(new), SLICE_TASKS):
        for task in new[start : start + SLICE_TASKS]:
            found += _gone_on(task, view().service(task.service_id), ready, refused)
        yield Decision(changes=tuple(found))
        found = []
    if found:
        yield Decision(changes=tuple(found))


def _gone_on(
    task: Task, service: Service | None, ready: Mapping[ServiceId, Service], refused: Mapping[ServiceId, str]
) -> list[Change]:
    """A task that goes on, or says why it may not."""
    if service is None or service.pending_delete or not is_active(task):
        return []
    owner = service if is_allocated(service) else ready.get(service.id)
    if owner is not None:
        return [changes.update(_allocated(task, owner))]
    err = refused.get(service.id, task.status.err)
    return (
        []
        if err == task.status.err
        else [changes.update(attrs.evolve(task, status=attrs.evolve(task.status, err=err)))]
    )


_with_ports = evolver(Task, "status", "ports")


def _allocated(task: Task, service: Service) -> Task:
    # The time stays that of the task's creation: it has been waiting since then.
    status = TaskStatus(
        state=TaskState.PENDING, timestamp_ns=task.status.timestamp_ns, message="pending task scheduling"
    )
    return _with_ports(task, status, service.ports)
