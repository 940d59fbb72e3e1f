"""Which schema version the log and the snapshots are written in: the least that a reader needs, and none too new.

A manager stops at what is newer than it reads. So nothing newer is written than all managers of the cluster read:
``Cluster.schema`` says how far that is. The leader raises it when all managers have been upgraded, it never falls, and
who reads less is not let in any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.errors import FailedPrecondition
from swarmpy.model import codec
from swarmpy.model.changes import Change, ChangeList
from swarmpy.model.objects import Cluster, Kind, Node, Service, Task
from swarmpy.model.references import kept_by_service, references
from swarmpy.model.since import needs_services_version
from swarmpy.model.specs import ServiceSpec, TaskSpec
from swarmpy.model.states import TaskState


def version_needed(clusters: Iterable[Cluster], *, remembers_requests: bool) -> int:
    """The least schema version that a reader of these must know."""
    version = codec.REQUESTS_VERSION if remembers_requests else codec.FIRST_VERSION
    return max([version, *map(_version_of_cluster, clusters)])


def _version_of_cluster(cluster: Cluster) -> int:
    if cluster.spec.autolock_managers or cluster.unlock_key_number:
        return max(cluster.schema, codec.SECRETS_VERSION)
    if cluster.spec.force_rotate:
        return max(cluster.schema, codec.ROOTS_VERSION)
    if cluster.clients:
        return max(cluster.schema, codec.CLIENTS_VERSION)
    if cluster.revoked or cluster.rotation is not None or cluster.former_roots:
        return max(cluster.schema, codec.CERTIFICATES_VERSION)
    return cluster.schema if cluster.schema >= codec.GATE_VERSION else codec.FIRST_VERSION


def version_of(entry: ChangeList) -> int:
    """The least schema version that a reader of ``entry`` must know."""
    clusters = [change.cluster for change in entry.changes if change.cluster is not None]
    version = version_needed(clusters, remembers_requests=entry.answered is not None)
    if entry.patches:
        version = max(version, codec.SERVICES_VERSION)
    for change in entry.changes:
        if change.node is not None:
            version = max(version, _version_of_node(change.node))
        elif _has_particular_container(change) or _is_told(change):
            version = max(version, codec.SERVICES_VERSION)
        elif _has_secrets(change) or _is_of_job_or_deadline(change) or _asks_for_more(change):
            version = max(version, codec.SECRETS_VERSION)
        if _is_bounded(change):
            version = max(version, codec.SERVICES_VERSION)
    return version


def _is_told(change: Change) -> bool:
    """True for a task that says why it is to stop, or what became of it."""
    return change.task is not None and bool(change.task.cause or change.task.story)


def _has_secrets(change: Change) -> bool:
    if change.kind in (Kind.SECRET, Kind.CONFIG):
        return True
    match change.object:
        case Service() as service:
            return bool(kept_by_service(service))
        case Task() as task:
            return bool(references(task.spec))
    return False


def _has_deadline(spec: ServiceSpec) -> bool:
    configs = (spec.update, spec.rollback)
    return any(config is not None and config.progress_deadline_ns is not None for config in configs)


def _is_bounded(change: Change) -> bool:
    """True for a service with a bound of what may be missing."""
    match change.object:
        case Service(spec=spec, previous_spec=previous):
            return spec.max_unavailable is not None or (previous is not None and previous.max_unavailable is not None)
    return False


def _is_of_job_or_deadline(change: Change) -> bool:
    match change.object:
        case Service() as service:
            specs = (service.spec, service.previous_spec)
            return service.job is not None or any(_has_deadline(spec) for spec in specs if spec is not None)
        case Task() as task:
            return task.iteration is not None or task.desired_state is TaskState.COMPLETE
    return False


def _asks_for_more(change: Change) -> bool:
    """True for platforms or generic resources."""
    match change.object:
        case Service(spec=spec, previous_spec=previous):
            return _is_particular(spec.task) or (previous is not None and _is_particular(previous.task))
        case Task() as task:
            return bool(task.generic) or _is_particular(task.spec)
    return False


def _has_particular_container(change: Change) -> bool:
    """True for a container with what could not be asked for before schema version 8."""
    match change.object:
        case Service(spec=spec, previous_spec=previous):
            return needs_services_version(spec.task.container) or (
                previous is not None and needs_services_version(previous.task.container)
            )
        case Task() as task:
            return needs_services_version(task.spec.container)
    return False


def _is_particular(spec: TaskSpec) -> bool:
    asked = (spec.resources.reservations, spec.resources.limits) if spec.resources else ()
    has_platforms = spec.placement is not None and bool(spec.placement.platforms)
    return has_platforms or any(resources is not None and resources.generic for resources in asked)


def _version_of_node(node: Node) -> int:
    if node.status.engine_away or node.status.leaving:
        return codec.SERVICES_VERSION
    if node.description.plugins or node.description.resources.generic:
        return codec.SECRETS_VERSION
    if node.tls is not None or (node.certificate is not None and node.certificate.fingerprint):
        return codec.ROOTS_VERSION
    return codec.FIRST_VERSION if node.certificate is None else codec.CERTIFICATES_VERSION


def may_patch(cluster: Cluster | None) -> bool:
    """True when all managers of the cluster read updates of tasks that are told in short."""
    return cluster is not None and cluster.schema >= codec.SERVICES_VERSION


def check_writable(version: int, entry: ChangeList, clusters: Iterable[Cluster]) -> None:
    """Raise FailedPrecondition for an entry of ``version`` that not all managers of the cluster read.

    The entry that raises the cluster's version is of the new one already: who does not read that must stop there.
    """
    raised = [change.cluster.schema for change in entry.changes if change.cluster is not None]
    written = max([codec.BASE_VERSION, *(cluster.schema for cluster in clusters)])
    if version > max([written, *raised]):
        raise FailedPrecondition(
            f"this needs schema version {version}, and not all managers read more than {written} yet: upgrade them"
        )


def check_reader(reads: int, cluster: Cluster) -> None:
    """Raise FailedPrecondition when a manager that reads up to ``reads`` would not understand the others."""
    if reads < cluster.schema:
        raise FailedPrecondition(
            f"the swarmpy of this node is too old to be a manager: it reads schema versions up to {reads}, and the "
            f"managers of this cluster write version {cluster.schema}; upgrade it first"
        )
