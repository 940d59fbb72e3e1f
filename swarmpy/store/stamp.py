"""What an object becomes when its change is written at an index of the log. Pure, and the same on every manager.

The rule for ``Service.spec_version``: it becomes the index when the service is created and when what its tasks are
made from changes - ``spec.task`` or the ports of ``spec.endpoint``. Any other change of the spec (replicas, labels,
update and rollback configuration) leaves it alone, so that tasks that are as they should be stay current. But a change
of a service whose update is paused resumes that update: what failed before is no failure of it any more, and there is
another version of the same wishes.

A task's story goes on at an index that changes one of its states, by the time that the change carries.

``Meta.spec_index`` becomes the index whenever anything of the spec changes. So who asks for a change of a spec is told
that he is late only if somebody else changed the spec meanwhile, not if the system wrote down how the object fares.

Equal parts are shared, not copied: one ``TaskSpec`` a service and ``spec_version``, however many tasks carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from swarmpy.errors import InvariantViolation
from swarmpy.model import codec, story
from swarmpy.model.changes import Action, Change
from swarmpy.model.evolving import evolver
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import KIND_CLASSES, Cluster, Config, Meta, Node, Secret, Service, StoreObject, Task
from swarmpy.model.patches import TaskPatch, metas
from swarmpy.model.specs import PortConfig, ServiceSpec, TaskSpec
from swarmpy.model.states import Cause, TaskState, UpdateState
from swarmpy.store.view import View

_stamped = evolver(Meta, "version", "spec_index")
_WITH_META: dict[type[object], Callable[..., StoreObject]] = {
    cls: evolver(cls, "meta") for cls in KIND_CLASSES.values()
}
_with_node = evolver(Task, "meta", "story", "spec", "node_id")
_with_parts = evolver(Task, "meta", "story", "spec", "node_id", "service_id", "service_name", "service_labels", "ports")


def stamp(change: Change, view: View, index: int) -> StoreObject | None:
    """The object as ``change`` leaves it at ``index``, over ``view``; None for a deletion.

    Raises InvariantViolation for a creation of what exists and an update or deletion of what does not: the proposer
    checked both, so such an entry comes from a manager that saw another state.
    """
    previous = view.get(change.kind, change.id)
    if (previous is None) != (change.action is Action.CREATE):
        state = "missing" if previous is None else "present"
        raise InvariantViolation(f"entry {index}: {change.action} of {change.kind} {change.id}, which is {state}")
    obj = change.object
    if obj is None:
        return None
    meta = _stamped(obj.meta, index, _spec_index(obj, previous, view, index))
    if isinstance(obj, Task):
        before = previous if isinstance(previous, Task) else None
        return _shared_task(obj, before, view, meta, _story(obj, before, view))
    obj = share(obj, previous, view)
    if isinstance(obj, Service):
        return attrs.evolve(obj, meta=meta, spec_version=_spec_version(obj, previous, view, index))
    if isinstance(obj, Secret | Config):
        return attrs.evolve(obj, meta=meta, made_at=index if previous is None else obj.made_at)
    return with_meta(obj, meta)


def stamp_patch(patch: TaskPatch, view: View, index: int) -> list[Task]:
    """The tasks of ``patch`` as it leaves them at ``index``, over ``view``.

    Raises InvariantViolation, as :func:`stamp`, for a task that does not exist and a patch that contradicts itself.
    """
    tasks = [task for task in view.tasks_of(patch.ids) if task is not None]
    if len(set(patch.ids)) != len(tasks):
        raise InvariantViolation(f"entry {index}: update of {len(patch.ids)} tasks, of which {len(tasks)} are present")
    return patch.done_to(tasks, metas(tasks, index, patch.updated_at_ns), _stories(patch, tasks, view))


def shared_patch(patch: TaskPatch, view: View) -> TaskPatch:
    """``patch`` as it was read from the log, with the nodes' own ids in it."""
    if not patch.node_id:
        return patch
    own: dict[NodeId | None, NodeId | None] = {}
    for node_id in patch.node_id:
        if node_id not in own:
            node = None if node_id is None else view.node(node_id)
            own[node_id] = node_id if node is None else node.id
    return attrs.evolve(patch, node_id=tuple([own[node_id] for node_id in patch.node_id]))


def with_meta(obj: StoreObject, meta: Meta) -> StoreObject:
    """The object with another ``meta``."""
    return _WITH_META[type(obj)](obj, meta)


def outdates_tasks(before: ServiceSpec, after: ServiceSpec) -> bool:
    """True when tasks made from ``before`` are not what ``after`` asks for."""
    return _differ(before.task, after.task) or _ports(before) != _ports(after)


def share(obj: StoreObject, previous: StoreObject | None, view: View) -> StoreObject:
    """``obj`` with those of its parts that equal parts of ``previous`` or of its service replaced by them."""
    match obj:
        case Service():
            if isinstance(previous, Service) and not _differ(obj.spec.task, previous.spec.task):
                return attrs.evolve(obj, spec=attrs.evolve(obj.spec, task=previous.spec.task))
            return obj
        case Task():
            return _shared_task(obj, previous if isinstance(previous, Task) else None, view, obj.meta, obj.story)
        case _:
            return obj


def _spec_version(service: Service, previous: StoreObject | None, view: View, index: int) -> int:
    if not isinstance(previous, Service) or outdates_tasks(previous.spec, service.spec):
        return index
    return index if _resumes(service, previous, view) else previous.spec_version


def _resumes(service: Service, previous: Service, view: View) -> bool:
    cluster, before = view.cluster_or_none(), previous.update_status
    if before is None or before.state not in (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED):
        return False
    # All managers must know of the rule, so that they have the same state with it.
    return service.update_status is None and cluster is not None and cluster.schema >= codec.SERVICES_VERSION


def _spec_index(obj: StoreObject, previous: StoreObject | None, view: View, index: int) -> int:
    if not isinstance(obj, Node | Service | Cluster) or not _is_told(obj, view):
        return 0
    if isinstance(previous, Node | Service | Cluster) and (obj.spec is previous.spec or obj.spec == previous.spec):
        return previous.meta.spec_index
    return index


def _is_told(obj: StoreObject, view: View) -> bool:
    """True when all managers know of ``spec_index``, so that they have the same state with it."""
    cluster = obj if isinstance(obj, Cluster) else view.cluster_or_none()
    return cluster is not None and cluster.schema >= codec.SECRETS_VERSION


def _ports(spec: ServiceSpec) -> tuple[PortConfig, ...]:
    return () if spec.endpoint is None else spec.endpoint.ports


def _differ(one: TaskSpec, other: TaskSpec) -> bool:
    return one is not other and one != other


def may_tell(schema: int) -> bool:
    """True when all managers of a cluster that writes ``schema`` know of stories, so that they have the same."""
    return schema >= codec.SERVICES_VERSION


def _story(task: Task, previous: Task | None, view: View) -> bytes:
    if previous is None:
        return b""
    if not may_tell(view.schema):
        return previous.story
    return _told(previous, task.status.state, task.desired_state, task.cause, task.meta.updated_at_ns)


def _told(before: Task, state: TaskState, desired: TaskState, cause: Cause, now_ns: int) -> bytes:
    """The story goes on when a state has changed. No time is looked at but that of the change."""
    told, age_ns = before.story, now_ns - before.meta.created_at_ns
    if desired != before.desired_state:
        told = story.desired(told, desired, cause, age_ns)
    return told if state == before.status.state else story.observed(told, state, age_ns)


def _stories(patch: TaskPatch, tasks: Sequence[Task], view: View) -> list[bytes] | None:
    """The stories of tasks of a patch; None where they stay. Tasks that went the same way at one time share theirs."""
    if not (patch.status or patch.desired_state) or not may_tell(view.schema):
        return None
    told, known = [], dict[tuple[object, ...], bytes]()
    columns = (patch.values(name, tasks) for name in ("status", "desired_state", "cause"))
    for task, status, desired, cause in zip(tasks, *columns, strict=False):
        key = (task.story, task.meta.created_at_ns, task.status.state, status.state, task.desired_state, desired, cause)
        own = known.get(key)
        if own is None:
            own = known[key] = _told(task, status.state, desired, cause, patch.updated_at_ns)
        told.append(own)
    return told


def _shared_task(task: Task, previous: Task | None, view: View, meta: Meta, told: bytes) -> Task:
    service = view.service(task.service_id)
    node = None if task.node_id is None else view.node(task.node_id)
    known = [] if previous is None else [previous.spec]
    if service is None:
        return _with_node(task, meta, told, _shared(task.spec, known), node.id if node else task.node_id)
    known.append(service.spec.task)
    if service.previous_spec is not None:
        known.append(service.previous_spec.task)
    return _with_parts(
        task,
        meta,
        told,
        _shared(task.spec, known),
        node.id if node else task.node_id,
        service.id,
        service.spec.name if task.service_name == service.spec.name else task.service_name,
        service.spec.labels if task.service_labels == service.spec.labels else task.service_labels,
        service.ports if task.ports == service.ports else task.ports,
    )


def _shared(spec: TaskSpec, known: list[TaskSpec]) -> TaskSpec:
    for candidate in known:
        if not _differ(candidate, spec):
            return candidate
    return spec
