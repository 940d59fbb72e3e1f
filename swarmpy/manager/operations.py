"""What a user can ask of the cluster's objects, as transactions on the leader's store.

Each operation looks its object up, checks and writes in one transaction, so that nothing can come between. What is
removed by its user is not found any more, though its tasks may still be stopping. Nothing here knows HTTP.

Every operation takes a ``request``: with one it is done once only, however often it is asked for (see ``Store.update``,
whose errors all may raise as well).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import attrs

from swarmpy.control.allocator import allocate_ports
from swarmpy.control.validate import validate_node_spec, validate_service_spec, validate_service_update
from swarmpy.control.versions import check_referred, has_to_follow, missing_of, referring, way_back
from swarmpy.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, VersionConflict
from swarmpy.manager import certificates
from swarmpy.manager.credentials import Credentials, credentials_of, with_credentials
from swarmpy.manager.rotation import RootRequest, with_root
from swarmpy.manager.unlock_keys import with_unlock_key
from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import JobStatus, JoinTokens, Meta, Node, Service, Task, UpdateStatus
from swarmpy.model.requests import RequestId
from swarmpy.model.specs import NodeSpec, ServiceSpec
from swarmpy.model.states import NodeState, Role, UpdateState
from swarmpy.security.ca import check_expiry
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

T = TypeVar("T", Service, Node, Task)

# -- finding --------------------------------------------------------------------------------------------------------


def live_services(view: View) -> tuple[Service, ...]:
    """The services that exist for their users: those that are being removed do not."""
    return tuple(service for service in view.services() if not service.pending_delete)


def find_service(view: View, reference: str) -> Service:
    """The service of that id, else of that name, else whose id starts so. Raises NotFound, InvalidArgument."""
    service = view.service(reference)
    if service is not None and not service.pending_delete:
        return service
    return _find("service", reference, live_services(view), lambda service: (service.spec.name,))


def find_node(view: View, reference: str) -> Node:
    """The node of that id, else of that name or hostname, else whose id starts so. Raises NotFound, InvalidArgument."""
    node = view.node(reference)
    return node if node is not None else _find("node", reference, view.nodes(), _node_names)


def find_task(view: View, reference: str) -> Task:
    """The task of that id, else of that name, else whose id starts so. Raises NotFound, InvalidArgument."""
    task = view.task(reference)
    return task if task is not None else _find("task", reference, view.tasks(), lambda task: (task.name,))


def _node_names(node: Node) -> tuple[str, ...]:
    return node.spec.name, node.description.hostname


def _find(word: str, reference: str, objects: Iterable[T], names_of: Callable[[T], tuple[str, ...]]) -> T:
    named, prefixed = [], []
    for obj in objects:
        if reference in names_of(obj):
            named.append(obj)
        elif obj.id.startswith(reference):
            prefixed.append(obj)
    found = named or prefixed
    if not found or not reference:
        raise NotFound(f"{word} {reference} not found")
    if len(found) > 1:
        raise InvalidArgument(f"{word} {reference} is ambiguous ({len(found)} matches found)")
    return found[0]


def _check_version(meta: Meta, version: int) -> None:
    """Raises VersionConflict when a spec that was read at ``version`` may not be the one that is replaced now."""
    if meta.version != version and not 0 < meta.spec_index <= version < meta.version:
        raise VersionConflict


# -- services -------------------------------------------------------------------------------------------------------


async def create_service(
    store: Store,
    spec: ServiceSpec,
    new_id: Callable[[], str],
    *,
    registry_auth: bytes = b"",
    request: RequestId | None = None,
) -> Service:
    """Create a service; one without a name gets one. Returns it as it is stored.

    ``registry_auth``: credentials for the registry of its image, as ``api.registry_auth`` reads them; b"" for none.
    Asked for again, it is the service that was created then, by its id; whether it exists still does not matter.
    Raises InvalidArgument, AlreadyExists (name or published port).
    """
    new_service_id = ServiceId(new_id())
    if not spec.name:
        spec = attrs.evolve(spec, name=f"service-{new_service_id[:8]}")
    validate_service_spec(spec)
    credentials = credentials_of(registry_auth, new_id)

    def create(tx: Tx) -> str:
        if tx.service_by_name(spec.name) is not None:
            raise AlreadyExists(f"name conflicts with an existing object: service {spec.name} already exists")
        check_referred(tx, spec)
        job = JobStatus(last_execution_ns=tx.now_ns) if spec.mode.is_job else None
        service = Service(id=new_service_id, spec=with_credentials(tx, spec, credentials, None), job=job)
        ports = allocate_ports(tx, service)
        tx.create(attrs.evolve(service, ports=ports) if ports else service)
        return service.id

    service_id = ServiceId(await store.update(create, request=request))
    return store.view().service(service_id) or Service(id=service_id, spec=spec)


async def update_service(
    store: Store,
    reference: str,
    version: int,
    spec: ServiceSpec | None,
    *,
    rollback: bool = False,
    keeps_bound: bool = False,
    credentials: Credentials | None = None,
    request: RequestId | None = None,
) -> None:
    """Replace a service's spec, or with ``rollback`` swap it with the one before (``spec`` is ignored then).

    ``keeps_bound``: what the client does not know of stays, which is ``max_unavailable``.
    Raises NotFound, VersionConflict (the spec has changed since ``version``), InvalidArgument, AlreadyExists (published
    port), FailedPrecondition (nothing to roll back to).
    """

    def update(tx: Tx) -> None:
        service = find_service(tx, reference)
        _check_version(service.meta, version)
        if rollback:
            changed = _rolled_back(tx, service)
        else:
            wanted = spec or service.spec
            if keeps_bound:
                wanted = attrs.evolve(wanted, max_unavailable=service.spec.max_unavailable)
            changed = _updated(tx, service, wanted, credentials or Credentials())
            if credentials is not None and credentials.secret is not None and changed.spec == service.spec:
                # Whoever sends credentials cannot see whether they are new. The spec before stays that of a rollback.
                return
        tx.update(attrs.evolve(changed, ports=allocate_ports(tx, changed)))

    await store.update(update, request=request)


def _updated(tx: Tx, service: Service, spec: ServiceSpec, credentials: Credentials) -> Service:
    if not spec.name:
        spec = attrs.evolve(spec, name=service.spec.name)
    # Who has read the spec before a new version of a secret was made writes an update of it, and no way back.
    spec = referring(spec, has_to_follow(tx, service))
    validate_service_update(service.spec, spec)
    check_referred(tx, spec, service)
    spec = with_credentials(tx, spec, credentials, service)
    previous = way_back(service)
    if previous == spec:
        # By hand, and not by a rollback.
        previous = service.spec
    return attrs.evolve(service, spec=spec, previous_spec=previous, update_status=None, job=_executed_anew(tx, service))


def _executed_anew(tx: Tx, service: Service) -> JobStatus | None:
    """Each change of a job executes it again, as in Docker."""
    if service.job is None:
        return None
    return JobStatus(iteration=service.job.iteration + 1, last_execution_ns=tx.now_ns)


def _rolled_back(tx: Tx, service: Service) -> Service:
    if service.job is not None:
        raise FailedPrecondition(f"service {service.spec.name} is a job: what it did cannot be rolled back, update it")
    if service.previous_spec is None:
        raise FailedPrecondition(f"service {service.spec.name} does not have a previous spec")
    missing = missing_of(tx, service.previous_spec.task)
    if missing:
        raise FailedPrecondition(
            f"service {service.spec.name} cannot be rolled back: its previous spec refers to what was removed: "
            f"{', '.join(missing)}"
        )
    status = UpdateStatus(
        state=UpdateState.ROLLBACK_STARTED, started_at_ns=tx.now_ns, message="manually requested rollback"
    )
    return attrs.evolve(service, spec=service.previous_spec, previous_spec=service.spec, update_status=status)


async def remove_service(store: Store, reference: str, *, request: RequestId | None = None) -> None:
    """Remove a service. Its tasks stop; its name and its published ports are free at once. Raises NotFound."""

    def remove(tx: Tx) -> None:
        tx.update(attrs.evolve(find_service(tx, reference), pending_delete=True))

    await store.update(remove, request=request)


# -- nodes ----------------------------------------------------------------------------------------------------------


async def update_node(
    store: Store,
    reference: str,
    version: int,
    spec: NodeSpec,
    *,
    check_demotion: Callable[[View, Node], None] | None = None,
    request: RequestId | None = None,
) -> None:
    """Replace a node's spec: labels, availability, the role it should have.

    ``check_demotion`` is asked before a manager becomes a worker, and raises what speaks against it.
    Raises NotFound, VersionConflict, InvalidArgument, FailedPrecondition (the last manager, or the quorum).
    """
    validate_node_spec(spec)

    def update(tx: Tx) -> None:
        node = find_node(tx, reference)
        _check_version(node.meta, version)
        if node.spec.role is Role.MANAGER and spec.role is Role.WORKER:
            if not _other_managers(tx, node):
                raise FailedPrecondition("attempting to demote the last manager of the swarm")
            if check_demotion is not None:
                check_demotion(tx, node)
            if node.manager is None:
                # It was promoted and is no manager yet, but may have the certificate of one.
                certificates.revoke_manager(tx, node)
        tx.update(attrs.evolve(node, spec=spec))

    await store.update(update, request=request)


def _other_managers(view: View, node: Node) -> list[Node]:
    """The other managers that are to stay. One that was promoted and has not come yet does not count."""
    return [
        other
        for other in view.nodes()
        if other.id != node.id and other.manager is not None and other.spec.role is Role.MANAGER
    ]


async def remove_node(store: Store, reference: str, *, force: bool, request: RequestId | None = None) -> None:
    """Remove a node from the cluster; its certificate is not accepted any more.

    Raises NotFound, FailedPrecondition (a manager; or, without ``force``, a node that is not down).
    """

    def remove(tx: Tx) -> None:
        node = find_node(tx, reference)
        if node.manager is not None or node.role is Role.MANAGER:
            raise FailedPrecondition(
                f"node {node.id} is a cluster manager and is a member of the raft cluster. "
                "It must be demoted to worker before removal"
            )
        if node.status.state is not NodeState.DOWN and not force:
            raise FailedPrecondition(f"node {node.id} is not down and can't be removed")
        certificates.remove(tx, node)

    await store.update(remove, request=request)


# -- the cluster ----------------------------------------------------------------------------------------------------


async def update_cluster(
    store: Store,
    version: int,
    change: Callable[[ClusterSpec], ClusterSpec],
    *,
    new_join_token: Callable[[str], str],
    random_bytes: Callable[[int], bytes] = os.urandom,
    rotate_worker_token: bool = False,
    rotate_manager_token: bool = False,
    rotate_unlock_key: bool = False,
    root: RootRequest | None = None,
    request: RequestId | None = None,
) -> None:
    """Change the cluster's spec and, if asked for, make join tokens and the unlock key useless that were given away;
    begin a change of the root CA.

    ``change`` makes the new spec from the current one; ``new_join_token`` makes a token for a root CA's digest.
    Raises VersionConflict, InvalidArgument, and FailedPrecondition as :func:`~swarmpy.manager.rotation.with_root`.
    """

    def update(tx: Tx) -> None:
        cluster = tx.cluster()
        _check_version(cluster.meta, version)
        spec = change(cluster.spec)
        check_expiry(spec.node_cert_expiry_ns)
        digest, tokens = cluster.root_ca.cert_digest, cluster.join_tokens
        tokens = JoinTokens(
            worker=new_join_token(digest) if rotate_worker_token else tokens.worker,
            manager=new_join_token(digest) if rotate_manager_token else tokens.manager,
        )
        changed = attrs.evolve(cluster, spec=spec, join_tokens=tokens)
        changed = with_unlock_key(changed, rotate=rotate_unlock_key, random_bytes=random_bytes)
        tx.update(changed if root is None else with_root(changed, root, tx.now_ns))

    await store.update(update, request=request)
