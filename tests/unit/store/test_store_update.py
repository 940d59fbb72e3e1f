"""Transactions: what they see, what they refuse, and what becomes of them."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from store_world import FixedClock, InstantProposer, LateProposer, cluster, config, content, node, secret, service, task

from swarmpy.errors import (
    AlreadyExists,
    InvalidArgument,
    InvariantViolation,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    VersionConflict,
)
from swarmpy.model import changes, codec
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, JoinTokens, RootCA, UpdateStatus
from swarmpy.model.specs import ContainerSpec, EndpointSpec, NodeSpec, PortConfig, TaskSpec, UpdateConfig
from swarmpy.model.states import UpdateState
from swarmpy.store.memory import MAX_ENTRY_BYTES, Store
from swarmpy.store.transaction import Tx


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands."""
    return FixedClock()


@pytest.fixture
def store(clock: FixedClock) -> Store:
    """An empty store without a proposer."""
    return Store(clock)


@pytest.fixture
def leading(store: Store) -> Store:
    """A store whose proposals commit at once."""
    store.set_proposer(InstantProposer(store))
    return store


async def start(store: Store, fn: object) -> asyncio.Task[object]:
    """Begin an update and let it propose."""
    running = asyncio.create_task(store.update(fn))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return running


async def test_a_follower_writes_nothing(store: Store) -> None:
    """Without a proposer an update is refused before its function runs."""
    with pytest.raises(NotLeader):
        await store.update(lambda tx: pytest.fail("ran"))


async def test_an_object_gets_version_and_times_from_the_store(leading: Store, clock: FixedClock) -> None:
    """The version is the entry's index, the times are the clock's, whatever the writer says."""
    await leading.update(lambda tx: tx.create(node("a")))
    clock.now_ns = 5_000
    await leading.update(lambda tx: tx.update(node("a", spec=NodeSpec(name="x"))))
    stored = leading.view().node("a")
    assert stored is not None
    assert (stored.meta.version, stored.meta.created_at_ns, stored.meta.updated_at_ns) == (2, 1_000, 5_000)
    assert stored.spec.name == "x"


async def test_a_transaction_without_changes_proposes_nothing(store: Store) -> None:
    """Reading through update gives the result at once."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    assert await store.update(lambda tx: len(tx.nodes())) == 0
    assert proposer.pending == []


async def test_a_failed_function_leaves_nothing(leading: Store) -> None:
    """An error of the function passes through and none of its writes happen."""

    def fn(tx: Tx) -> None:
        tx.create(node("a"))
        raise InvalidArgument("no")

    with pytest.raises(InvalidArgument, match="no"):
        await leading.update(fn)
    assert leading.view().nodes() == ()
    assert leading.version == 0


async def test_duplicates_are_refused(leading: Store) -> None:
    """An id and a service's name can be taken once only; renaming is checked as well."""
    await leading.update(lambda tx: tx.create(service("web")))
    await leading.update(lambda tx: tx.create(service("db")))
    with pytest.raises(AlreadyExists, match="id-web exists already"):
        await leading.update(lambda tx: tx.create(service("other", object_id="id-web")))
    with pytest.raises(AlreadyExists, match="service web exists already"):
        await leading.update(lambda tx: tx.create(service("web", object_id="another")))
    with pytest.raises(AlreadyExists, match="service web exists already"):
        await leading.update(lambda tx: tx.update(service("web", object_id="id-db")))
    await leading.update(lambda tx: tx.update(service("renamed", object_id="id-web")))
    await leading.update(lambda tx: tx.create(service("web", object_id="another")))
    assert [s.id for s in leading.view().services()] == ["id-web", "id-db", "another"]


async def test_there_is_one_cluster(leading: Store) -> None:
    """A second cluster object is refused; before the first, asking for it says that there is none."""
    ca = RootCA(cert_pem=b"c", key_pem=b"k", cert_digest="d")
    with pytest.raises(NotFound, match="not initialised"):
        leading.view().cluster()
    for cluster_id in ("one", "two"):
        cluster = Cluster(id=ClusterId(cluster_id), root_ca=ca, join_tokens=JoinTokens(worker="w", manager="m"))
        if cluster_id == "one":
            await leading.update(lambda tx, cluster=cluster: tx.create(cluster))
        else:
            with pytest.raises(AlreadyExists, match="it is one"):
                await leading.update(lambda tx, cluster=cluster: tx.create(cluster))
    assert leading.view().cluster().id == "one"


async def test_missing_objects_cannot_be_changed(leading: Store) -> None:
    """Updating and deleting what is not there is NotFound."""
    with pytest.raises(NotFound, match="node a not found"):
        await leading.update(lambda tx: tx.update(node("a")))
    with pytest.raises(NotFound, match="node a not found"):
        await leading.update(lambda tx: tx.delete(node("a")))


async def test_an_old_version_is_refused(leading: Store) -> None:
    """A write that was decided on an older object is a VersionConflict, by argument and by change alike."""
    await leading.update(lambda tx: tx.create(node("a")))
    old = leading.view().node("a")
    assert old is not None
    await leading.update(lambda tx: tx.update(old, expected_version=1))
    with pytest.raises(VersionConflict, match="update out of sequence"):
        await leading.update(lambda tx: tx.update(old, expected_version=1))
    with pytest.raises(VersionConflict):
        await leading.update(lambda tx: tx.apply([changes.update(old)]))
    current = leading.view().node("a")
    assert current is not None
    await leading.update(lambda tx: tx.apply([changes.update(current), changes.create(node("b"))]))
    await leading.update(lambda tx: tx.apply([changes.delete(current)]))
    assert [n.id for n in leading.view().nodes()] == ["b"]


async def test_writes_of_one_object_become_one_change(store: Store) -> None:
    """Create and update is a creation, create and delete is nothing, delete and create is an update."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)

    def fn(tx: Tx) -> tuple[changes.Change, ...]:
        tx.create(node("a"))
        tx.update(node("a", spec=NodeSpec(name="x")))
        tx.create(node("b"))
        tx.delete(node("b"))
        return tx.changes()

    running = await start(store, fn)
    proposer.commit()
    made = await running
    assert [(c.action, c.id) for c in made] == [(changes.Action.CREATE, "a")]  # type: ignore[attr-defined]

    def again(tx: Tx) -> tuple[changes.Change, ...]:
        tx.delete(node("a"))
        assert tx.node("a") is None
        tx.create(node("a"))
        return tx.changes()

    running = await start(store, again)
    proposer.commit()
    made = await running
    assert [(c.action, c.id) for c in made] == [(changes.Action.UPDATE, "a")]  # type: ignore[attr-defined]
    stored = store.view().node("a")
    assert stored is not None
    assert stored.spec.name == ""


async def test_a_transaction_sees_what_is_in_flight_and_a_view_does_not(store: Store) -> None:
    """The next transaction builds on proposals that are not committed; readers see only what is."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    first = await start(store, lambda tx: tx.create(service("web")))
    second = await start(store, lambda tx: tx.create(task("t", "id-web", node_id=NodeId("n"))))
    seen = await store.update(
        lambda tx: (
            tx.service_by_name("web"),
            tx.tasks_of_service("id-web"),
            tx.tasks_on_node("n"),
            tx.tasks_waiting(),
            tx.tasks(),
        )
    )
    assert seen[0] is not None
    assert (seen[0].meta.version, seen[0].spec_version) == (1, 1)
    assert all(len(found) == 1 and found[0].meta.version == 2 for found in seen[1:])
    assert store.view().services() == ()
    assert not first.done()
    with pytest.raises(AlreadyExists):
        await store.update(lambda tx: tx.create(service("web", object_id="b")))
    proposer.commit(2)
    await asyncio.gather(first, second)
    assert store.view().service_by_name("web") == seen[0]
    assert store.view().tasks() == seen[4]


async def test_a_timeout_leaves_the_outcome_open(store: Store) -> None:
    """After a timeout the change is still in flight: transactions see it, and it may commit."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    with pytest.raises(OutcomeUnknown, match="may still be applied"):
        await store.update(lambda tx: tx.create(node("a")), timeout=0.001)
    assert await store.update(lambda tx: tx.node("a")) is not None
    proposer.commit()
    assert store.view().node("a") is not None


async def test_a_cancelled_update_may_still_commit(store: Store) -> None:
    """Cancelling the waiter does not cancel the proposal."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    running = await start(store, lambda tx: tx.create(node("a")))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await store.update(lambda tx: tx.node("a")) is not None
    proposer.commit()
    assert store.view().node("a") is not None


async def test_lost_leadership_drops_what_is_in_flight(store: Store) -> None:
    """The waiter hears that the outcome is unknown, and the next term starts from the committed state."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    running = await start(store, lambda tx: tx.create(node("a")))
    proposer.lose()
    with pytest.raises(OutcomeUnknown):
        await running
    with pytest.raises(NotLeader):
        await store.update(lambda tx: tx.node("a"))
    store.set_proposer(LateProposer(store))
    assert await store.update(lambda tx: tx.node("a")) is None


async def test_what_is_in_flight_outlives_a_term_of_office(store: Store) -> None:
    """A leader that begins its work anew in the same term of Raft builds on what it proposed before."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    first = await start(store, lambda tx: tx.create(node("a")))
    store.set_proposer(None)
    with pytest.raises(NotLeader):
        await store.update(lambda tx: tx.nodes())
    store.set_proposer(proposer)
    with pytest.raises(AlreadyExists):
        await store.update(lambda tx: tx.create(node("a")))
    second = await start(store, lambda tx: tx.delete(node("a")))
    third = await start(store, lambda tx: tx.create(node("a", spec=NodeSpec(name="x"))))
    proposer.commit(3)
    await asyncio.gather(first, second, third)
    assert [n.spec.name for n in store.view().nodes()] == ["x"]


async def test_what_fails_between_two_terms_of_office_is_not_shown(store: Store) -> None:
    """Proposals that are lost while nobody is in office are gone when the same proposer comes back."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    running = await start(store, lambda tx: tx.create(node("a")))
    store.set_proposer(None)
    proposer.lose()
    with pytest.raises(OutcomeUnknown):
        await running
    store.set_proposer(proposer)
    assert await store.update(lambda tx: tx.node("a")) is None


async def test_a_late_failure_does_not_end_the_next_term(store: Store) -> None:
    """A proposal of an earlier term of office that fails now says nothing of this one."""
    old, new = LateProposer(store), LateProposer(store)
    store.set_proposer(old)
    running = await start(store, lambda tx: tx.create(node("a")))
    store.set_proposer(new)
    second = await start(store, lambda tx: tx.create(node("b")))
    old.lose()
    with pytest.raises(OutcomeUnknown):
        await running
    assert await store.update(lambda tx: [n.id for n in tx.nodes()]) == ["b"]
    new.commit()
    await second


async def test_another_leaders_entry_at_our_index_drops_the_overlay(store: Store) -> None:
    """What commits in the place of our proposal is applied, and ours is not shown any more."""
    ours, theirs = Store(FixedClock()), LateProposer(Store(FixedClock()))
    proposer = LateProposer(ours)
    ours.set_proposer(proposer)
    running = await start(ours, lambda tx: tx.create(node("mine")))
    theirs.stores[0].set_proposer(theirs)
    other = await start(theirs.stores[0], lambda tx: tx.create(node("theirs")))
    ours.apply(1, theirs.pending[0][1])
    assert [n.id for n in ours.view().nodes()] == ["theirs"]
    assert await ours.update(lambda tx: [n.id for n in tx.nodes()]) == ["theirs"]
    for waiting in (running, other):
        waiting.cancel()
    await asyncio.gather(running, other, return_exceptions=True)


async def test_too_large_an_entry_is_refused(leading: Store) -> None:
    """More than the limit in one transaction is InvalidArgument, and nothing is done."""
    with pytest.raises(InvalidArgument, match="too large"):
        await leading.update(lambda tx: tx.create(node("a", spec=NodeSpec(name="x" * MAX_ENTRY_BYTES))))
    assert leading.view().nodes() == ()


async def test_the_largest_config_is_one_entry(leading: Store) -> None:
    """With the services that follow to it."""
    await leading.update(lambda tx: tx.create(cluster()))
    data = bytes(range(256)) * 4000
    await leading.update(lambda tx: tx.create(config("c1", "app", data=data)))
    found = leading.view().config_by_name("app")
    assert found is not None
    assert found.spec.data == data


async def test_a_version_knows_the_entry_that_made_it(leading: Store) -> None:
    """Also once its labels have changed. A name has one version of each number, and a new one has the highest."""
    await leading.update(lambda tx: tx.create(cluster()))
    await leading.update(lambda tx: tx.create(secret("x1", "token")))
    await leading.update(lambda tx: tx.create(secret("x2", "token", 2)))

    def label(tx: Tx) -> None:
        current = tx.secret("x1")
        assert current is not None
        tx.update(attrs.evolve(current, spec=attrs.evolve(current.spec, labels={"a": "b"})))

    await leading.update(label)
    versions = leading.view().secret_versions("token")
    assert [(v.id, v.number, v.made_at, v.meta.version) for v in versions] == [("x1", 1, 2, 4), ("x2", 2, 3, 3)]
    for number in (1, 2):
        with pytest.raises(AlreadyExists, match="secret token exists already"):
            await leading.update(lambda tx, number=number: tx.create(secret("x3", "token", number)))
    await leading.update(lambda tx: tx.create(config("c1", "token")))
    await leading.update(lambda tx: tx.create(secret("x4", "")))
    await leading.update(lambda tx: tx.create(secret("x5", "")))


async def test_a_batch_splits_by_changes_and_by_bytes(store: Store) -> None:
    """A batch commits all items in transactions that are bounded in number and size."""
    other = Store(FixedClock())
    store.set_proposer(InstantProposer(store))
    await store.batch(range(450), lambda tx, i: tx.create(node(f"n{i:03}")))
    assert len(store.view().nodes()) == 450
    assert store.version == 3
    other.set_proposer(InstantProposer(other))
    big = "x" * (MAX_ENTRY_BYTES // 3)
    await other.batch(range(8), lambda tx, i: tx.create(node(f"n{i}", spec=NodeSpec(name=big))))
    assert len(other.view().nodes()) == 8
    assert other.version == 4
    await other.batch([], lambda tx, i: pytest.fail("ran"))


async def test_spec_version_moves_only_with_what_tasks_are_made_from(leading: Store) -> None:
    """Image and ports outdate tasks; replicas, labels and update configuration do not."""
    await leading.update(lambda tx: tx.create(service("web")))

    async def version_after(**spec: object) -> int:
        def fn(tx: Tx) -> None:
            current = tx.service("id-web")
            assert current is not None
            tx.update(attrs.evolve(current, spec=attrs.evolve(current.spec, **spec)))

        await leading.update(fn)
        stored = leading.view().service("id-web")
        assert stored is not None
        return stored.spec_version

    assert await version_after(replicas=5) == 1
    assert await version_after(labels={"a": "b"}, update=UpdateConfig(parallelism=2)) == 1
    assert await version_after(endpoint=EndpointSpec()) == 1
    assert await version_after(task=TaskSpec(container=ContainerSpec(image="nginx"))) == 1
    assert await version_after(task=TaskSpec(container=ContainerSpec(image="nginx:2"))) == 6
    assert await version_after(endpoint=EndpointSpec(ports=(PortConfig(target_port=80),))) == 7
    assert await version_after(replicas=1) == 7


@pytest.mark.parametrize(
    ("schema", "state", "is_another"),
    [
        (codec.SERVICES_VERSION, UpdateState.PAUSED, True),
        (codec.SERVICES_VERSION, UpdateState.ROLLBACK_PAUSED, True),
        (codec.SERVICES_VERSION, UpdateState.UPDATING, False),
        (codec.SERVICES_VERSION - 1, UpdateState.PAUSED, False),
    ],
)
async def test_resuming_a_paused_update_is_another_version(
    leading: Store, schema: int, state: UpdateState, *, is_another: bool
) -> None:
    """Of the same wishes: so that what failed before does not count again. Not before all managers know of it."""
    await leading.update(lambda tx: tx.create(cluster(schema)))
    await leading.update(lambda tx: tx.create(service("web")))

    async def set_status(status: UpdateStatus | None) -> int:
        def fn(tx: Tx) -> None:
            current = tx.service("id-web")
            assert current is not None
            tx.update(attrs.evolve(current, update_status=status))

        await leading.update(fn)
        stored = leading.view().service("id-web")
        assert stored is not None
        return stored.spec_version

    assert await set_status(UpdateStatus(state=state)) == 2
    assert await set_status(UpdateStatus(state=state, message="m")) == 2
    assert await set_status(None) == (5 if is_another else 2)


@pytest.mark.parametrize(
    ("schema", "expected"), [(codec.SECRETS_VERSION - 1, [0, 0, 0, 0]), (codec.SECRETS_VERSION, [2, 2, 4, 4])]
)
async def test_when_a_spec_was_written_is_known(store: Store, schema: int, expected: list[int]) -> None:
    """To all managers alike, once all read of it; it is no part of the log, whose readers may be older."""
    follower = Store(FixedClock())
    proposer = LateProposer(store, follower)
    store.set_proposer(proposer)
    cluster = Cluster(
        id=ClusterId("c"),
        root_ca=RootCA(cert_pem=b"", key_pem=b"", cert_digest=""),
        join_tokens=JoinTokens(worker="", manager=""),
        schema=schema,
    )

    def relabel(tx: Tx) -> None:
        current = tx.service("id-web")
        assert current is not None
        tx.update(attrs.evolve(current, spec=attrs.evolve(current.spec, labels={"a": "b"})))

    def touch(tx: Tx) -> None:
        current = tx.service("id-web")
        assert current is not None
        tx.apply([changes.update(attrs.evolve(current, pending_delete=False))])

    found = []
    for fn in (lambda tx: tx.create(cluster), lambda tx: tx.create(service("web")), touch, relabel, touch):
        running = await start(store, fn)
        proposer.commit()
        await running
        for known in (store, follower):
            if (stored := known.view().service("id-web")) is not None:
                found.append(stored.meta.spec_index)
    assert found == [index for index in expected for _ in (store, follower)]
    for _, data in proposer.log:
        (change,) = codec.decode(changes.ChangeList, data).changes
        assert change.object is not None
        assert change.object.meta.spec_index == 0


async def test_entries_that_contradict_the_state_are_a_defect(store: Store) -> None:
    """An update of what is missing, a second creation and an entry out of order are never applied quietly."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    running = await start(store, lambda tx: tx.create(node("a")))
    data = proposer.pending[0][1]
    proposer.commit()
    await running
    with pytest.raises(InvariantViolation, match="entry 2: create of node a, which is present"):
        store.apply(2, data)
    with pytest.raises(InvariantViolation, match="entry 1 comes after entry 1"):
        store.apply(1, data)


async def test_an_empty_entry_only_moves_the_version(store: Store) -> None:
    """A leader's no-op changes nothing but the index."""
    store.apply(7, b"")
    assert store.view().version == 7
    assert content(store) == {}
