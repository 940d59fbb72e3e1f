"""NEW to PENDING: a task goes on once its service has its published ports.

What cannot be allocated is said on the waiting tasks, and tried again with every decision.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def allocate_ports(view: View, service: Service) -> tuple[PortConfig, ...]:
    """The ports that a service (new, or with a new spec) gets; its ``ports`` should be set to them.

    Raises AlreadyExists when a port is another service's, FailedPrecondition when no dynamic port is left.
    """
    return PortTable(view).allocate(service)


def decide(view: View, service_ids: Iterable[ServiceId]) -> Decision:
    """Give services the ports they lack and let NEW tasks go on.

    ``service_ids`` are services that may have changed; those with NEW tasks are looked at in any case.
    """
    found: list[Change] = []
    ready: dict[ServiceId, Service] = {}
    refused: dict[ServiceId, str] = {}
    table = PortTable(view)
    new = [task for task in view.tasks_waiting() if task.status.state == TaskState.NEW]
    for service_id in dict.fromkeys((*service_ids, *(task.service_id for task in new))):
        service = view.service(service_id)
        if service is None or service.pending_delete:
            continue
        if is_allocated(service):
            ready[service.id] = service
            continue
        try:
            allocated = attrs.evolve(service, ports=table.allocate(service))
        except UserError as error:
            refused[service.id] = error.message
            continue
        table.add(allocated)
        ready[service.id] = allocated
        found.append(changes.update(allocated))
    for task in new:
        if not is_active(task):
            continue
        owner = ready.get(task.service_id)
        if owner is not None:
            found.append(changes.update(_allocated(task, owner)))
        elif task.status.err != (refusal := refused.get(task.service_id, task.status.err)):
            found.append(changes.update(attrs.evolve(task, status=attrs.evolve(task.status, err=refusal))))
    return Decision(changes=tuple(found))


_with_ports = evolver(Task, "status", "ports")


def _allocated(task: Task, service: Service) -> Task:
    # The time stays that of the task's creation: it has been waiting since then.
    status = TaskStatus(
        state=TaskState.PENDING, timestamp_ns=task.status.timestamp_ns, message="pending task scheduling"
    )
    return _with_ports(task, status, service.ports)
