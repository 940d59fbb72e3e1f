"""Whether a task is still what its service asks for. Also what the API's ``_up-to-date`` filter asks."""

from __future__ import annotations

import attrs

from swarmpy.control.constraints import broken_constraint
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.specs import TaskSpec
from swarmpy.model.states import TaskState
from swarmpy.store.view import View


def is_outdated(view: View, service: Service, task: Task) -> bool:
    """True when the task has to be replaced to become what the service asks for.

    A newer version of the same wishes (after a rollback) does not outdate a task, nor does a change of placement that
    its node still satisfies, nor do other credentials for the registry one that has its image (as swarmkit's
    ``IsTaskDirty``). A task of a job belongs to one execution of it and is never of use for another.
    """
    if service.job is not None:
        return task.iteration != service.job.iteration
    return task.spec_version != service.spec_version and _is_different(view, service, task)


def has_image(state: TaskState) -> bool:
    """True for a task that needs no credentials for the registry any more."""
    return TaskState.READY <= state <= TaskState.RUNNING


def _is_different(view: View, service: Service, task: Task) -> bool:
    if task.status.state >= TaskState.PENDING and task.ports != service.ports:
        return True
    wanted = service.spec.task
    if has_image(task.status.state):
        wanted = _with_credentials_of(task, wanted)
    if task.spec is wanted or task.spec == wanted:
        return False
    if task.spec.placement == wanted.placement or task.node_id is None:
        return True
    node = view.node(task.node_id)
    if node is None or attrs.evolve(wanted, placement=task.spec.placement) != task.spec:
        return True
    return not meets_constraints(service, node)


def _with_credentials_of(task: Task, wanted: TaskSpec) -> TaskSpec:
    pull_secret_id = task.spec.container.pull_secret_id
    if wanted.container.pull_secret_id == pull_secret_id:
        return wanted
    return attrs.evolve(wanted, container=attrs.evolve(wanted.container, pull_secret_id=pull_secret_id))


def meets_constraints(service: Service, node: Node) -> bool:
    """True when the node satisfies the placement constraints of the service."""
    return broken_constraint(service.spec.task.placement, node) is None
