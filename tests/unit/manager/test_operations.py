"""What users ask of the cluster's objects, on a real store that commits at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import attrs
import pytest

from swarmpy.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, NotLeader, VersionConflict
from swarmpy.manager.operations import (
    create_service,
    find_node,
    find_service,
    find_task,
    live_services,
    remove_node,
    remove_service,
    update_cluster,
    update_node,
    update_service,
)
from swarmpy.model import codec
from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.model.ids import ClusterId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import (
    Cluster,
    JoinTokens,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeStatus,
    RootCA,
    Service,
    Task,
    UpdateStatus,
)
from swarmpy.model.specs import ContainerSpec, EndpointSpec, NodeSpec, PortConfig, ServiceSpec, TaskSpec
from swarmpy.model.states import Availability, NodeState, Role, ServiceMode, UpdateState
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx

EXPIRY_NS = 90 * 24 * 3600 * 1_000_000_000
MANAGER = NodeSpec(role=Role.MANAGER)
WORKER = NodeSpec(role=Role.WORKER)


class Clock:
    """Stands still."""

    now_ns = 5_000

    def time_ns(self) -> int:
        """Where it stands."""
        return self.now_ns

    def monotonic(self) -> float:
        """The same in seconds."""
        return self.now_ns / 1e9


@attrs.frozen
class Done:
    """A proposal that is committed already."""

    index: int
    done: asyncio.Future[None]


class InstantProposer:
    """Commits at once."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def propose(self, data: bytes) -> Done:
        """Apply at the next index."""
        index = self.store.version + 1
        self.store.apply(index, data)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return Done(index, done)


@pytest.fixture
async def store() -> Store:
    """A cluster of two managers and a worker."""
    store = Store(Clock())
    store.set_proposer(InstantProposer(store))

    def create(tx: Tx) -> None:
        root = RootCA(cert_pem=b"cert", key_pem=b"key", cert_digest="digest")
        tx.create(
            Cluster(
                id=ClusterId("c"), root_ca=root, join_tokens=JoinTokens(worker="w", manager="m"), removed_nodes={"x": 1}
            )
        )
        for number, name in enumerate(("m1", "m2"), start=1):
            tx.create(_node(name, manager=ManagerStatus(raft_id=number, address=f"{name}:2377")))
        tx.create(_node("w1"))

    await store.update(create)
    return store


@pytest.fixture
def new_id() -> Callable[[], str]:
    """Ids that count up."""
    numbers = itertools.count(1)
    return lambda: f"id{next(numbers):023d}"


def _node(name: str, manager: ManagerStatus | None = None) -> Node:
    role = Role.WORKER if manager is None else Role.MANAGER
    return Node(
        id=NodeId(name),
        spec=NodeSpec(role=role),
        role=role,
        description=NodeDescription(hostname=f"host-{name}"),
        status=NodeStatus(state=NodeState.READY),
        manager=manager,
    )


def spec(name: str = "web", image: str = "busybox", **fields: object) -> ServiceSpec:
    """A service spec."""
    return ServiceSpec(name=name, task=TaskSpec(container=ContainerSpec(image=image)), **fields)  # type: ignore[arg-type]


def published(port: int = 0) -> EndpointSpec:
    """One ingress port."""
    return EndpointSpec(ports=(PortConfig(target_port=80, published_port=port),))


def stored(store: Store, name: str = "web") -> Service:
    """The service as it is now."""
    return find_service(store.view(), name)


# -- services -------------------------------------------------------------------------------------------------------


async def test_a_service_is_stored_with_its_ports(store: Store, new_id: Callable[[], str]) -> None:
    """The returned service is the stored one: version, spec version, a dynamic port."""
    created = await create_service(store, spec(endpoint=published()), new_id)
    assert created == stored(store)
    assert created.meta.version == created.spec_version == store.version
    assert created.ports[0].published_port == 30_000


async def test_a_service_without_a_name_gets_one(store: Store, new_id: Callable[[], str]) -> None:
    """The name comes from the id and is valid."""
    created = await create_service(store, spec(""), new_id)
    assert created.spec.name == "service-id000000"


async def test_a_name_is_taken_until_its_service_is_removed(store: Store, new_id: Callable[[], str]) -> None:
    """Right after removal the name is free again, while the old service's tasks still stop."""
    first = await create_service(store, spec(endpoint=published(8080)), new_id)
    with pytest.raises(AlreadyExists, match="service web already exists"):
        await create_service(store, spec(), new_id)
    await remove_service(store, "web")
    assert live_services(store.view()) == ()
    dying = store.view().service(first.id)
    assert dying is not None
    assert dying.pending_delete
    second = await create_service(store, spec(endpoint=published(8080)), new_id)
    assert stored(store).id == second.id != first.id
    # The one that goes can still be written to, and goes without harm to the other.
    await store.update(lambda tx: tx.update(attrs.evolve(dying, update_status=None)))
    await store.update(lambda tx: tx.delete(dying))
    assert stored(store).id == second.id
    assert store.view().service_by_name("web") == second


async def test_a_port_is_taken_once(store: Store, new_id: Callable[[], str]) -> None:
    """A second service on the same published port is refused, and nothing of it is stored."""
    await create_service(store, spec("a", endpoint=published(8080)), new_id)
    with pytest.raises(AlreadyExists, match="8080"):
        await create_service(store, spec("b", endpoint=published(8080)), new_id)
    assert [service.spec.name for service in store.view().services()] == ["a"]


async def test_an_update_remembers_what_was(store: Store, new_id: Callable[[], str]) -> None:
    """The old spec is kept, the update starts anew; ports that stay keep their number."""
    service = await create_service(store, spec(endpoint=published()), new_id)
    status = UpdateStatus(state=UpdateState.PAUSED)
    await store.update(lambda tx: tx.update(attrs.evolve(service, update_status=status)))
    await update_service(store, "web", stored(store).meta.version, spec(image="nginx", endpoint=published()))
    after = stored(store)
    assert after.previous_spec == service.spec
    assert after.update_status is None
    assert after.ports == service.ports
    assert after.spec_version > service.spec_version


async def test_a_change_of_replicas_leaves_tasks_current(store: Store, new_id: Callable[[], str]) -> None:
    """Only what tasks are made from makes them outdated."""
    service = await create_service(store, spec(), new_id)
    await update_service(store, service.id, service.meta.version, spec(replicas=5))
    assert stored(store).spec_version == service.spec_version
    assert stored(store).meta.version > service.meta.version


async def observed(store: Store, service: Service) -> None:
    """The system writes down of each object what it sees of it."""

    def write(tx: Tx) -> None:
        status = UpdateStatus(state=UpdateState.COMPLETED)
        tx.update(attrs.evolve(tx.service(service.id), update_status=status))  # type: ignore[arg-type]
        node = find_node(tx, "w1")
        tx.update(attrs.evolve(node, status=attrs.evolve(node.status, message="seen")))
        tx.update(attrs.evolve(tx.cluster(), removed_nodes={}))

    await store.update(write)


async def updated_late(store: Store, service: Service, versions: tuple[int, int, int]) -> list[bool]:
    """Which objects can be changed by who has seen these versions of the service, of node w1 and of the cluster."""
    labels = {"n": str(store.version)}

    def relabel(was: ClusterSpec) -> ClusterSpec:
        return attrs.evolve(was, labels=labels)

    of_service, of_node, of_cluster = versions
    changing: list[Awaitable[None]] = [
        update_service(store, service.id, of_service, spec(labels=labels)),
        update_node(store, "w1", of_node, NodeSpec(labels=labels)),
        update_cluster(store, of_cluster, relabel, new_join_token=lambda digest: digest),
    ]
    return [not isinstance(done, VersionConflict) for done in await asyncio.gather(*changing, return_exceptions=True)]


def versions_of(store: Store, service: Service) -> tuple[int, int, int]:
    """Of the service, of node w1 and of the cluster."""
    view = store.view()
    return stored(store, service.id).meta.version, find_node(view, "w1").meta.version, view.cluster().meta.version


async def test_only_who_has_not_seen_the_spec_is_late(store: Store, new_id: Callable[[], str]) -> None:
    """What the system writes of an object between a look and a change is no reason to refuse the change."""
    await store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=codec.SECRETS_VERSION)))
    service = await create_service(store, spec(), new_id)
    await updated_late(store, service, versions_of(store, service))
    seen = versions_of(store, service)
    await observed(store, service)
    assert await updated_late(store, service, seen) == [True] * 3
    assert await updated_late(store, service, seen) == [False] * 3
    now = versions_of(store, service)
    assert await updated_late(store, service, (now[0] + 1, now[1] + 1, now[2] + 1)) == [False] * 3
    assert await updated_late(store, service, now) == [True] * 3


async def test_where_it_is_not_known_who_has_seen_the_spec_all_are_late(
    store: Store, new_id: Callable[[], str]
) -> None:
    """While managers of an earlier schema are there, any write between counts."""
    service = await create_service(store, spec(), new_id)
    seen = versions_of(store, service)
    await observed(store, service)
    assert await updated_late(store, service, seen) == [False] * 3


async def test_an_update_of_a_changed_service_is_refused(store: Store, new_id: Callable[[], str]) -> None:
    """A version that is not the current one, name and mode cannot be updated; nothing changes."""
    service = await create_service(store, spec(), new_id)
    with pytest.raises(VersionConflict, match="update out of sequence"):
        await update_service(store, "web", service.meta.version - 1, spec(image="nginx"))
    with pytest.raises(InvalidArgument, match="renaming services is not supported"):
        await update_service(store, "web", service.meta.version, spec("other"))
    with pytest.raises(InvalidArgument, match="service mode change is not allowed"):
        await update_service(store, "web", service.meta.version, spec(mode=ServiceMode.GLOBAL))
    with pytest.raises(NotFound, match="service nosuch not found"):
        await update_service(store, "nosuch", 1, spec())
    assert stored(store) == service


async def test_a_rollback_swaps(store: Store, new_id: Callable[[], str]) -> None:
    """Two rollbacks come back to where they began."""
    service = await create_service(store, spec(), new_id)
    with pytest.raises(FailedPrecondition, match="does not have a previous spec"):
        await update_service(store, "web", service.meta.version, None, rollback=True)
    await update_service(store, "web", service.meta.version, spec(image="nginx"))
    for image in ("busybox", "nginx"):
        await update_service(store, "web", stored(store).meta.version, None, rollback=True)
        assert stored(store).spec.task.container.image == image
    status = stored(store).update_status
    assert status is not None
    assert (status.state, status.started_at_ns) == (UpdateState.ROLLBACK_STARTED, 5_000)


async def test_a_removed_service_is_gone_for_users(store: Store, new_id: Callable[[], str]) -> None:
    """It cannot be found, updated or removed again, not even by its id."""
    service = await create_service(store, spec(), new_id)
    await remove_service(store, service.id[:10])
    for reference in (service.id, "web"):
        with pytest.raises(NotFound):
            find_service(store.view(), reference)
        with pytest.raises(NotFound):
            await remove_service(store, reference)


async def test_without_leadership_nothing_is_done(store: Store, new_id: Callable[[], str]) -> None:
    """The store of a follower refuses."""
    store.set_proposer(None)
    with pytest.raises(NotLeader):
        await create_service(store, spec(), new_id)


# -- finding --------------------------------------------------------------------------------------------------------


async def test_ids_come_before_names_and_names_before_prefixes(store: Store) -> None:
    """A service whose name is the prefix of another's id is found by that name."""
    for service_id, name in (("aaa", "one"), ("aab", "two"), ("zzz", "aa"), ("one", "three")):
        service = Service(id=ServiceId(service_id), spec=spec(name))
        await store.update(lambda tx, service=service: tx.create(service))  # type: ignore[misc]
    view = store.view()
    assert find_service(view, "aa").id == "zzz"
    assert find_service(view, "one").id == "one"
    assert find_service(view, "aaa").id == "aaa"
    assert find_service(view, "zz").id == "zzz"
    with pytest.raises(InvalidArgument, match=r"service a is ambiguous \(2 matches found\)"):
        find_service(view, "a")
    with pytest.raises(NotFound):
        find_service(view, "")


async def test_nodes_and_tasks_are_found_by_their_names(store: Store) -> None:
    """A node by hostname or given name, a task by its name."""
    task = Task(id=TaskId("t1"), service_id=ServiceId("s"), service_name="web", slot=2, spec=TaskSpec())
    await store.update(lambda tx: tx.create(task))
    view = store.view()
    assert find_node(view, "host-w1").id == find_node(view, "w").id == "w1"
    with pytest.raises(InvalidArgument, match="node m is ambiguous"):
        find_node(view, "m")
    assert find_task(view, "web.2.t1").id == "t1"
    with pytest.raises(NotFound, match="task web not found"):
        find_task(view, "web")


# -- nodes and the cluster ------------------------------------------------------------------------------------------


async def test_a_manager_is_demoted_but_never_the_last(store: Store) -> None:
    """Of two managers one can go; a promoted worker that has not joined the group does not count."""
    await update_node(store, "w1", _version(store, "w1"), MANAGER)
    await update_node(store, "m1", _version(store, "m1"), WORKER)
    with pytest.raises(FailedPrecondition, match="attempting to demote the last manager of the swarm"):
        await update_node(store, "m2", _version(store, "m2"), attrs.evolve(WORKER, labels={"a": "b"}))
    assert find_node(store.view(), "m2").spec == MANAGER
    drained = attrs.evolve(MANAGER, availability=Availability.DRAIN)
    await update_node(store, "m2", _version(store, "m2"), drained)
    assert find_node(store.view(), "m2").spec == drained


async def test_a_node_is_updated_as_it_was_read(store: Store) -> None:
    """An old version is refused, a bad label too."""
    with pytest.raises(VersionConflict):
        await update_node(store, "w1", _version(store, "w1") - 1, WORKER)
    with pytest.raises(InvalidArgument):
        await update_node(store, "w1", _version(store, "w1"), attrs.evolve(WORKER, labels={"": "x"}))


async def test_a_removed_node_is_not_accepted_any_more(store: Store) -> None:
    """Its id is refused until its certificate is over; ids whose time has passed are forgotten."""
    with pytest.raises(FailedPrecondition, match="must be demoted to worker before removal"):
        await remove_node(store, "m1", force=True)
    with pytest.raises(FailedPrecondition, match="is not down"):
        await remove_node(store, "w1", force=False)
    await remove_node(store, "w1", force=True)
    assert store.view().node("w1") is None
    # Nothing is recorded of its certificate: by any clock that is off by an hour, and by any that is so the other way.
    assert store.view().cluster().removed_nodes == {"w1": 5_000 + EXPIRY_NS + 2 * 3600 * 10**9}


async def test_a_node_that_is_down_goes_without_force(store: Store) -> None:
    """Down is reason enough; a demoted manager must first have left the group."""
    await update_node(store, "m1", _version(store, "m1"), WORKER)
    with pytest.raises(FailedPrecondition, match="member of the raft cluster"):
        await remove_node(store, "m1", force=True)
    down = attrs.evolve(find_node(store.view(), "w1"), status=NodeStatus(state=NodeState.DOWN))
    await store.update(lambda tx: tx.update(down))
    await remove_node(store, "w1", force=False)
    assert store.view().node("w1") is None


async def test_tokens_are_rotated_one_by_one(store: Store) -> None:
    """Only the token that is asked for changes, in the same step as the spec."""
    version = store.view().cluster().meta.version
    await update_cluster(
        store,
        version,
        lambda spec: attrs.evolve(spec, task_history_limit=2),
        new_join_token=lambda digest: f"new-{digest}",
        rotate_manager_token=True,
    )
    cluster = store.view().cluster()
    assert cluster.join_tokens == JoinTokens(worker="w", manager="new-digest")
    assert cluster.spec.task_history_limit == 2
    with pytest.raises(VersionConflict):
        await update_cluster(store, version, lambda spec: spec, new_join_token=str)


def _version(store: Store, reference: str) -> int:
    return find_node(store.view(), reference).meta.version
