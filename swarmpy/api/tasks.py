"""``/tasks``."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from swarmpy.api.access import require_manager
from swarmpy.api.backend import NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.filters import Filters, parse_filters
from swarmpy.api.listing import json_array, to_bytes
from swarmpy.api.request import ApiRequest, ApiResponse, json_response
from swarmpy.api.router import Route, Scope
from swarmpy.api.task_json import inspected_to_json, task_to_json
from swarmpy.api.task_spec_json import concealed
from swarmpy.control.outdated import is_outdated
from swarmpy.errors import NotFound
from swarmpy.manager import operations
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState
from swarmpy.store.view import View

UP_TO_DATE = "_up-to-date"
"""Asked by clients that wait for an update: only tasks made from the service's current spec."""

_FILTERS = frozenset({"id", "name", "service", "node", "label", "desired-state", UP_TO_DATE, "runtime"})
_STATES = tuple(state.name.lower() for state in TaskState)


class TasksApi:
    """Handlers of tasks."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route("GET", "/tasks", Scope.READ, Access.VIEWER, self.list_all),
            Route("GET", "/tasks/{id}", Scope.READ, Access.VIEWER, self.inspect),
        ]

    async def list_all(self, request: ApiRequest) -> ApiResponse:
        """``GET /tasks``."""
        filters = parse_filters(request, _FILTERS)
        filters.check("desired-state", _STATES)
        store = require_manager(self._node).store
        is_of_admin = request.is_of_admin

        def show(task: Task) -> bytes | None:
            if not _matches(store.view(), task, filters):
                return None
            return to_bytes(task_to_json(_for(task, is_of_admin=is_of_admin)))

        return await json_array(tuple(_candidates(store.view(), filters)), show)

    async def inspect(self, request: ApiRequest) -> ApiResponse:
        """``GET /tasks/{id}``, with what became of it."""
        view = require_manager(self._node).store.view()
        task = operations.find_task(view, request.params["id"])
        return json_response(inspected_to_json(view, _for(task, is_of_admin=request.is_of_admin)))


def _candidates(view: View, filters: Filters) -> Iterable[Task]:
    """The tasks of the services and nodes that are asked for, found by index. Raises NotFound, InvalidArgument."""
    services = dict.fromkeys(_service_id(view, reference) for reference in filters.get("service"))
    nodes = dict.fromkeys(operations.find_node(view, reference).id for reference in filters.get("node"))
    if services:
        found = (task for service_id in services for task in view.tasks_of_service(service_id))
        return (task for task in found if not nodes or task.node_id in nodes)
    if nodes:
        return (task for node_id in nodes for task in view.tasks_on_node(node_id))
    return view.tasks()


def _service_id(view: View, reference: str) -> str:
    """A service that is being removed is still found by its whole id: its last tasks can be watched."""
    try:
        return operations.find_service(view, reference).id
    except NotFound:
        if view.service(reference) is None:
            raise
        return reference


def _matches(view: View, task: Task, filters: Filters) -> bool:
    labels = {**task.spec.container.labels, **task.service_labels} if filters.has("label") else {}
    return (
        filters.starts_one_of("id", task.id)
        and filters.starts_one_of("name", task.name)
        and filters.labels("label", labels)
        and filters.one_of("desired-state", task.desired_state.name.lower())
        and filters.one_of("runtime", "container")
        and (not filters.has(UP_TO_DATE) or _is_up_to_date(view, task))
    )


def _is_up_to_date(view: View, task: Task) -> bool:
    service = view.service(task.service_id)
    return service is not None and not is_outdated(view, service, task)


def _for(task: Task, *, is_of_admin: bool) -> Task:
    """The task as its reader may see it."""
    return task if is_of_admin else attrs.evolve(task, spec=concealed(task.spec))
