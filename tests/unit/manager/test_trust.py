"""Which certificates count on a manager, though TLS has verified them, and what is remembered of them."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import attrs
import pytest
from handshakes import meet, signed
from manager_world import InstantProposer, MovedClock

from swarmpy.errors import BadCertificate, InvalidArgument, NoQuorum, PermissionDenied
from swarmpy.manager.certificates import described
from swarmpy.manager.trust import MAX_KNOWN, Orders, RootGuard, check_origin, seen
from swarmpy.model import codec
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, Node, NodeTLS, RootCA
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security import roots, tokens
from swarmpy.security.ca import create_root_ca
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.tls import Credentials
from swarmpy.store.memory import Store

FIRST = create_root_ca(time.time_ns())
BEFORE = Cluster(
    id=ClusterId("c1"),
    root_ca=FIRST,
    join_tokens=tokens.make_tokens(FIRST.cert_digest, random.Random(1)),
    schema=codec.SCHEMA_VERSION,
)


def rotating(cluster: Cluster) -> Cluster:
    """The cluster when a change of its root has begun."""
    return roots.begun(cluster, create_root_ca(time.time_ns()), time.time_ns())


def rotated(cluster: Cluster) -> Cluster:
    """The same when it is over."""
    return roots.finished(cluster, cluster.join_tokens, time.time_ns() + 10**15)


DURING = rotating(BEFORE)
AFTER = rotated(DURING)
AGAIN = rotated(rotating(AFTER))


class World:
    """A manager's guard, its store, and a node that is its peer."""

    def __init__(self) -> None:
        self.store = Store(MovedClock())
        self.store.set_proposer(InstantProposer(self.store))
        self.told: list[Any] = []
        self.is_cut_off = False
        self.guard = RootGuard(
            self.store,
            barrier=self._barrier,
            on_roots=lambda pems: self.told.append(set(pems)),
            on_orders=self.told.append,
        )
        self.key_pem, self.cert_pem = signed(FIRST, node_id="n")
        self.node = Node(id=NodeId("n"), certificate=described(self.cert_pem, FIRST))

    async def _barrier(self) -> None:
        if self.is_cut_off:
            raise NoQuorum("cut off")

    async def put(self, cluster: Cluster, node: Node | None = None) -> None:
        """Have this cluster, and this node if there is one, in the store."""

        def write(tx: Any) -> None:
            (tx.update if self.store.cluster is not None else tx.create)(cluster)
            if node is not None:
                (tx.update if tx.node(node.id) is not None else tx.create)(node)

        await self.store.update(write)
        self.guard.learn(cluster)

    def peer(self, cert_pem: bytes, key_pem: bytes, *chain: bytes) -> Peer:
        """What the manager sees of who shows this certificate: by a real handshake."""
        cluster = self.store.view().cluster()
        all_pem = roots.joined(roots.known(cluster).values())
        key, cert = signed(roots.signing_root(cluster), node_id="manager")
        manager = Credentials(NodeIdentity.from_pem(cert_pem=cert, key_pem=key, ca_pem=all_pem))
        shown = NodeIdentity.from_pem(cert_pem=cert, key_pem=key, ca_pem=all_pem)
        shown = attrs.evolve(shown, cert_pem=cert_pem, key_pem=key_pem, chain_pem=roots.joined(chain))
        return meet(shown, manager)[1]

    def check(self, cert_pem: bytes, key_pem: bytes, *chain: bytes) -> None:
        """Raises what the manager has against it."""
        self.guard.check(self.peer(cert_pem, key_pem, *chain))


@pytest.fixture
def world() -> World:
    """Nothing has happened yet."""
    return World()


@pytest.mark.parametrize("cluster", [DURING, AFTER, AGAIN], ids=["during", "after", "after two"])
async def test_of_a_root_that_goes_only_known_certificates_count(world: World, cluster: Cluster) -> None:
    """Who has its key makes others for the same node, and a CA below it; neither is the one that is known."""
    await world.put(cluster, world.node)
    world.check(world.cert_pem, world.key_pem)
    for role in Role:
        key_pem, cert_pem = signed(FIRST, node_id="n", role=role)
        with pytest.raises(BadCertificate, match="root CA that was replaced, and it is not the one"):
            world.check(cert_pem, key_pem)
    # A CA that was made with the stolen key.
    false_root = create_root_ca(time.time_ns())
    key_pem, cert_pem = signed(false_root, node_id="n")
    with pytest.raises(BadCertificate, match="root CA that was replaced"):
        world.check(cert_pem, key_pem, roots.cross_sign(FIRST, false_root.cert_pem))


async def test_before_a_change_every_certificate_of_the_root_counts(world: World) -> None:
    """Also one that this manager has not heard of yet, or that it has forgotten as it was restored from a backup."""
    await world.put(BEFORE, world.node)
    key_pem, cert_pem = signed(FIRST, node_id="n")
    world.check(cert_pem, key_pem)
    world.check(world.cert_pem, world.key_pem)


async def test_what_was_shown_counts_as_well_as_what_was_given(world: World) -> None:
    """The answer to a renewal may be lost, and the next one may have come."""
    key_pem, cert_pem = signed(FIRST, node_id="n")
    shown = NodeTLS(certificate=described(cert_pem, FIRST).fingerprint, issuer=FIRST.cert_digest)
    await world.put(DURING, attrs.evolve(world.node, tls=shown))
    world.check(world.cert_pem, world.key_pem)
    world.check(cert_pem, key_pem)


async def test_a_node_of_which_nothing_is_recorded_counts_until_the_change_is_over(world: World) -> None:
    """It is of a version that recorded nothing; what it shows now is recorded."""
    unknown = attrs.evolve(world.node, certificate=None)
    await world.put(DURING, unknown)
    world.check(world.cert_pem, world.key_pem)
    false_root = create_root_ca(time.time_ns())
    key_pem, cert_pem = signed(false_root, node_id="n")
    with pytest.raises(BadCertificate):
        world.check(cert_pem, key_pem, roots.cross_sign(FIRST, false_root.cert_pem))
    await world.put(AFTER)
    with pytest.raises(BadCertificate, match="not the one"):
        world.check(world.cert_pem, world.key_pem)


async def test_a_node_that_is_not_there_does_not_count(world: World) -> None:
    """Whatever its certificate."""
    await world.put(DURING)
    with pytest.raises(BadCertificate):
        world.check(world.cert_pem, world.key_pem)


async def test_a_connection_of_before_stays(world: World) -> None:
    """Though its node has had other certificates since: it was known to have this one when they met."""
    await world.put(BEFORE, world.node)
    peer = world.peer(world.cert_pem, world.key_pem)
    world.guard.check(peer)
    _, cert_pem = signed(FIRST, node_id="n")
    await world.put(DURING, attrs.evolve(world.node, certificate=described(cert_pem, FIRST)))
    world.guard.check(peer)
    await world.put(AFTER)
    world.guard.check(peer)
    # One that was open all the time, too, but was never known to be the node's.
    stranger = signed(FIRST, node_id="n")
    with pytest.raises(BadCertificate):
        world.check(stranger[1], stranger[0])


async def test_few_certificates_of_a_node_are_remembered(world: World) -> None:
    """The latest, and those of nodes that are gone are not."""
    for _ in range(MAX_KNOWN + 1):
        key_pem, cert_pem = signed(FIRST, node_id="n")
        await world.put(BEFORE, attrs.evolve(world.node, certificate=described(cert_pem, FIRST)))
        world.check(cert_pem, key_pem)
    assert [len(known) for known in world.guard._known.values()] == [MAX_KNOWN]
    await world.store.update(lambda tx: tx.delete(world.node))
    world.guard.learn(BEFORE)
    assert not world.guard._known


async def test_a_manager_that_is_behind_does_not_shut_out_those_that_are_not(world: World) -> None:
    """It meets certificates of roots it has not heard of: one that it trusts has vouched for them."""
    key_pem, cert_pem = signed(AGAIN.root_ca, node_id="n")
    assert len(roots.chain(AGAIN)) == 2
    for cluster in (BEFORE, DURING, AFTER):
        await world.put(cluster, world.node)
        world.check(cert_pem, key_pem, *roots.chain(AGAIN))


async def test_the_guard_tells_tls_and_its_own_node(world: World) -> None:
    """TLS at once; the node only when the others agree, so that an old state leads nobody back."""
    world.is_cut_off = True
    await world.put(DURING, world.node)
    task = asyncio.create_task(world.guard.run())
    while not world.told:
        await asyncio.sleep(0)
    assert world.told == [set(roots.known(DURING).values())]
    world.is_cut_off = False
    async with asyncio.timeout(10):
        while len(world.told) < 2:
            await asyncio.sleep(0.01)
    assert world.told[1] == Orders(roots.trusted_pem(DURING), roots.signing_root(DURING).cert_digest)
    task.cancel()
    await asyncio.wait([task])


# -- what is remembered -----------------------------------------------------------------------------------------------


async def test_what_is_seen_of_a_node(world: World) -> None:
    """Its certificate, whose it is, and what it says that it trusts; nothing before all managers read it."""
    await world.put(DURING, world.node)
    peer = world.peer(world.cert_pem, world.key_pem)
    first = seen(DURING, world.node, peer, [FIRST.cert_digest])
    assert first == NodeTLS(certificate=peer.certificate, issuer=FIRST.cert_digest, roots=(FIRST.cert_digest,))
    known = attrs.evolve(world.node, tls=first)
    key_pem, cert_pem = signed(roots.signing_root(DURING), node_id="n")
    renewed = world.peer(cert_pem, key_pem, *roots.chain(DURING))
    later = seen(DURING, known, renewed)
    assert later is not None
    assert (later.issuer, later.roots) == (roots.signing_root(DURING).cert_digest, (FIRST.cert_digest,))
    assert seen(attrs.evolve(DURING, schema=codec.CERTIFICATES_VERSION), world.node, peer, []) is None
    assert seen(DURING, known, Peer(node_id=NodeId("n"))) == first
    for odd in (["x"], [FIRST.cert_digest] * 100):
        with pytest.raises(InvalidArgument, match="not the digests"):
            seen(DURING, world.node, peer, odd)


def made(root: RootCA, key_pem: bytes, number: int) -> bytes:
    """A certificate of this number for this key."""
    return signed(root, node_id="n", key_pem=key_pem, number=number)[1]


@pytest.mark.parametrize("cluster", [DURING, AFTER], ids=["during", "after"])
def test_who_comes_back_with_a_token_shows_a_certificate_that_was_its_own(world: World, cluster: Cluster) -> None:
    """The last one it was given, also with other dates, as managers extend their own; not one that was made later."""
    given = made(FIRST, world.key_pem, 3)
    node = attrs.evolve(world.node, certificate=described(given, FIRST))
    check_origin(cluster, node, given)
    check_origin(cluster, node, made(FIRST, world.key_pem, 3))
    check_origin(cluster, node, made(roots.signing_root(cluster), world.key_pem, 7))
    other_key, _ = signed(FIRST)
    for stolen in (made(FIRST, world.key_pem, 4), made(FIRST, other_key, 3), made(FIRST, other_key, 4)):
        with pytest.raises(PermissionDenied, match="leave the cluster, and join again"):
            check_origin(cluster, node, stolen)
