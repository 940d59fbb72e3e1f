"""A change of the root CA on the leader: who may ask for it, when it begins and ends, how many are told at once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
from clock import SimClock
from loop import SimLoop, run
from manager_world import FakeAgent, InstantProposer, MovedClock

from swarmpy.control.rotation import Wanted
from swarmpy.errors import FailedPrecondition, InvalidArgument, VersionConflict
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.operations import update_cluster
from swarmpy.manager.rotation import BATCH, TURN_S, RootRequest, RootRotator, with_root
from swarmpy.manager.trust import Orders
from swarmpy.model import codec
from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, Node, NodeStatus, NodeTLS
from swarmpy.model.states import NodeState
from swarmpy.node.clock import SystemClock
from swarmpy.ports import Clock
from swarmpy.security import roots, tokens
from swarmpy.security.ca import create_root_ca
from swarmpy.store.memory import Store

NOW_NS = 1_790_000_000 * 10**9
OLD = create_root_ca(NOW_NS)
CLUSTER = Cluster(
    id=ClusterId("c"),
    root_ca=OLD,
    join_tokens=tokens.make_tokens(OLD.cert_digest, random.Random(1)),
    schema=codec.SCHEMA_VERSION,
)
ASKED = RootRequest(force_rotate=1)


# -- asking for it ----------------------------------------------------------------------------------------------------


def test_another_number_asks_for_a_new_root() -> None:
    """The same number, and none, ask for nothing."""
    begun = with_root(CLUSTER, ASKED, NOW_NS)
    assert begun.rotation is not None
    assert begun.root_ca == OLD
    assert begun.rotation.root.cert_digest != OLD.cert_digest
    assert (begun.rotation.started_at_ns, begun.spec.force_rotate) == (NOW_NS, 1)
    assert begun.join_tokens == CLUSTER.join_tokens
    assert with_root(CLUSTER, RootRequest(), NOW_NS) is CLUSTER
    assert with_root(CLUSTER, RootRequest(force_rotate=0), NOW_NS) is CLUSTER


def test_a_second_request_is_content_with_the_change_that_goes_on() -> None:
    """It counts as granted; another root is refused until that is over."""
    begun = with_root(CLUSTER, ASKED, NOW_NS)
    again = with_root(begun, RootRequest(force_rotate=2), NOW_NS + 1)
    assert (again.rotation, again.spec.force_rotate) == (begun.rotation, 2)
    assert begun.rotation is not None
    target = begun.rotation.root
    same = RootRequest(cert_pem=target.cert_pem, key_pem=target.key_pem)
    assert with_root(begun, same, NOW_NS) is begun
    other = create_root_ca(NOW_NS)
    with pytest.raises(FailedPrecondition, match="being changed to another one already"):
        with_root(begun, RootRequest(cert_pem=other.cert_pem, key_pem=other.key_pem), NOW_NS)


def test_a_root_that_is_brought_becomes_the_root() -> None:
    """The present one again changes nothing; a key without a certificate, and the present key are refused."""
    given = create_root_ca(NOW_NS)
    begun = with_root(CLUSTER, RootRequest(cert_pem=given.cert_pem, key_pem=given.key_pem), NOW_NS)
    assert begun.rotation is not None
    assert begun.rotation.root == given
    assert begun.spec.force_rotate == 0
    assert with_root(CLUSTER, RootRequest(cert_pem=OLD.cert_pem, key_pem=OLD.key_pem), NOW_NS) is CLUSTER
    with pytest.raises(InvalidArgument, match="a CA key needs its certificate"):
        with_root(CLUSTER, RootRequest(key_pem=given.key_pem), NOW_NS)
    with pytest.raises(InvalidArgument, match="must be one PEM certificate"):
        with_root(CLUSTER, RootRequest(cert_pem=b"x", key_pem=given.key_pem), NOW_NS)
    assert "PRIVATE" not in repr(RootRequest(cert_pem=given.cert_pem, key_pem=given.key_pem))


def test_all_managers_must_know_how() -> None:
    """Otherwise it is refused, and says why."""
    older = attrs.evolve(CLUSTER, schema=codec.CERTIFICATES_VERSION)
    with pytest.raises(FailedPrecondition, match="some manager runs a swarmpy that does not know how"):
        with_root(older, ASKED, NOW_NS)
    assert with_root(older, RootRequest(force_rotate=0), NOW_NS) is older


async def make_store(clock: Clock, cluster: Cluster, *nodes: Node) -> Store:
    """A leader's store with these in it."""
    store = Store(clock)
    store.set_proposer(InstantProposer(store))

    def write(tx: Any) -> None:
        tx.create(cluster)
        for node in nodes:
            tx.create(node)

    await store.update(write)
    return store


def shown(name: str, cluster: Cluster, *, state: NodeState = NodeState.READY) -> Node:
    """A node that shows and trusts what it should in this cluster."""
    wanted = Wanted.of(cluster)
    tls = NodeTLS(certificate=f"{name}-{wanted.issuer}", issuer=wanted.issuer, roots=tuple(sorted(wanted.roots)))
    return Node(id=NodeId(name), status=NodeStatus(state=state), tls=tls)


async def test_it_begins_with_the_settings_of_the_cluster() -> None:
    """In one step with them, for the version that was read, or not at all."""
    store = await make_store(MovedClock(), CLUSTER)
    version = store.view().cluster().meta.version

    def change(spec: ClusterSpec) -> ClusterSpec:
        return attrs.evolve(spec, node_cert_expiry_ns=3600 * 10**9)

    def token(digest: str) -> str:
        return tokens.make_token(digest, random.Random(2))

    await update_cluster(store, version, change, new_join_token=token, root=ASKED)
    cluster = store.view().cluster()
    assert cluster.rotation is not None
    assert cluster.spec == ClusterSpec(node_cert_expiry_ns=3600 * 10**9, force_rotate=1)
    with pytest.raises(VersionConflict):
        await update_cluster(store, version, change, new_join_token=token, root=RootRequest(force_rotate=2))
    assert store.view().cluster() == cluster


# -- the leader's loop ------------------------------------------------------------------------------------------------


async def rotating(
    clock: Clock, store: Store, wake: Callable[[Any], None], work: Callable[[RootRotator], Awaitable[None]]
) -> None:
    """Have a leader's loop run while ``work`` is done."""
    rotator = RootRotator(store=store, clock=clock, random=random.Random(1), managers=dict)
    task = asyncio.create_task(rotator.run(wake))
    try:
        await work(rotator)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def put(store: Store, *nodes: Node) -> None:
    """These nodes were seen."""
    await store.update(lambda tx: [tx.update(node) for node in nodes] and None)


def test_a_thousand_nodes_are_told_a_few_at_a_time() -> None:
    """No more than a batch in a look, all in the end; each goes on when it has moved, and then the change is over."""

    async def main(loop: SimLoop) -> None:
        begun = with_root(CLUSTER, ASKED, NOW_NS)
        nodes = [shown(f"n{number}", CLUSTER) for number in range(1000)]
        clock = SimClock(loop)
        store = await make_store(clock, begun, *nodes, shown("away", CLUSTER, state=NodeState.DOWN))
        waves: list[tuple[float, int]] = []
        woken: list[NodeId] = []

        def wake(node_ids: Any) -> None:
            chosen = list(node_ids)
            if chosen:
                waves.append((loop.time(), len(chosen)))
                woken.extend(chosen)

        async def work(rotator: RootRotator) -> None:
            started = loop.time()
            while len(woken) < 1000:
                await until(lambda: woken, 60)
                fresh, woken[:] = list(woken), []
                for node_id in fresh:
                    assert rotator.orders(node_id) == Orders.of(begun)
                await put(store, *(shown(node_id, begun) for node_id in fresh))
                told.update(fresh)
                if len(told) == 1000:
                    break
            assert "away" not in told
            assert max(size for _, size in waves) == BATCH
            pauses = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(waves)]
            assert min(pauses) >= TURN_S / 2
            assert len(set(pauses)) > len(pauses) / 2
            assert loop.time() - started < 1000 / BATCH * (TURN_S + 0.1)
            await until(lambda: store.view().cluster().rotation is None, 10)

        told: set[NodeId] = set()
        await rotating(clock, store, wake, work)
        # The one that is away still trusts the root before.
        assert len(store.view().cluster().former_roots) == 1

    run(0, main)


async def test_another_leader_goes_on_where_the_first_one_stopped() -> None:
    """From the state alone: whoever has moved is not told again, the rest is, and the end comes."""
    begun = with_root(CLUSTER, ASKED, NOW_NS)
    store = await make_store(MovedClock(), begun, shown("a", CLUSTER), shown("b", CLUSTER))
    woken: list[NodeId] = []

    async def first(rotator: RootRotator) -> None:
        await until(lambda: len(woken) == 2)
        await put(store, shown("a", begun))
        await until(lambda: rotator.orders(NodeId("a")) is None)

    await rotating(SystemClock(), store, woken.extend, first)
    woken.clear()

    async def second(rotator: RootRotator) -> None:
        await until(lambda: woken)
        assert woken == ["b"]
        await put(store, shown("b", begun))
        await until(lambda: store.view().cluster().rotation is None)
        over = store.view().cluster()
        await until(lambda: len(woken) == 3)
        assert rotator.orders(NodeId("a")) == Orders((over.root_ca.cert_pem,), over.root_ca.cert_digest), (
            "all are told to give the root before up"
        )
        await put(store, shown("a", over), shown("b", over))
        await until(lambda: not store.view().cluster().former_roots)
        assert tokens.parse_token(over.join_tokens.worker).ca_digest == over.root_ca.cert_digest
        assert over.join_tokens != begun.join_tokens

    await rotating(SystemClock(), store, woken.extend, second)


async def test_a_node_that_returns_or_is_removed() -> None:
    """It is told when it is there, long after the change; and when it is gone, nothing is remembered for it."""
    begun = with_root(CLUSTER, ASKED, NOW_NS)
    over = roots.finished(begun, begun.join_tokens, 2 * NOW_NS)
    away = shown("away", CLUSTER, state=NodeState.DOWN)
    store = await make_store(MovedClock(), over, shown("a", over), away, shown("gone", CLUSTER, state=NodeState.DOWN))
    woken: list[NodeId] = []

    async def work(rotator: RootRotator) -> None:
        await put(store, attrs.evolve(away, status=NodeStatus(state=NodeState.READY)))
        await until(lambda: woken == ["away"])
        assert rotator.orders(NodeId("away")) == Orders.of(over)
        await put(store, shown("away", over))
        await until(lambda: rotator.orders(NodeId("away")) is None)
        assert len(store.view().cluster().former_roots) == 1
        await store.update(lambda tx: tx.delete(shown("gone", CLUSTER)))
        await until(lambda: not store.view().cluster().former_roots)

    await rotating(SystemClock(), store, woken.extend, work)


async def test_a_session_is_told_when_it_is_its_turn() -> None:
    """Once, in the same session; a new session of a node whose turn it was is told at once."""
    clock = MovedClock()
    store = await make_store(clock, CLUSTER, shown("n", CLUSTER))
    turns: dict[NodeId, Orders] = {}
    dispatcher = Dispatcher(store=store, clock=clock, random=random.Random(1), managers=lambda: (), orders=turns.get)
    task = asyncio.create_task(dispatcher.run())
    agent = FakeAgent(dispatcher, "n")
    await agent.open()
    assert (agent.messages[0].roots, agent.messages[0].issuer) == (None, "")
    turns[NodeId("n")] = orders = Orders.of(with_root(CLUSTER, ASKED, NOW_NS))
    dispatcher.wake([NodeId("n"), NodeId("nobody")])
    message = await agent.take()
    assert (message.roots, message.issuer) == (orders.roots, orders.issuer)
    assert message.session_id == ""
    dispatcher.wake([NodeId("n")])
    with pytest.raises(TimeoutError):
        await agent.take(timeout=0.1)
    await agent.close()
    again = FakeAgent(dispatcher, "n")
    await again.open()
    assert (again.messages[0].roots, again.messages[0].issuer) == (orders.roots, orders.issuer)
    await again.close()
    task.cancel()
    await asyncio.wait([task])
