"""Which certificates count: through promotions, demotions, lost answers, and managers that are behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_world import ROOT, InstantProposer, MovedClock

from swarmpy.errors import CertificateRevoked, NodeRemoved
from swarmpy.manager import certificates
from swarmpy.model import codec
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, ManagerStatus, Node
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security import ca, tokens
from swarmpy.security.certificates import SKEW_NS, read_certificate
from swarmpy.security.identity import NodeIdentity, csr_for, new_key_and_csr
from swarmpy.security.serials import make_serial, read_serial
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.wire.router import Router, Standing

NODE = NodeId("n")
HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
KEYS = [new_key_and_csr()[0] for _ in range(8)]
NOW_S = 1_790_000_000.0


class Recorded(InstantProposer):
    """Keeps the log, so that another manager can be any number of entries behind."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.log: list[bytes] = []

    def propose(self, data: bytes):
        self.log.append(data)
        return super().propose(data)


async def make(schema: int = codec.SCHEMA_VERSION) -> tuple[Store, Recorded]:
    """A leader's store with a cluster and one worker."""
    clock = MovedClock()
    clock.seconds = NOW_S
    store = Store(clock)
    proposer = Recorded(store)
    store.set_proposer(proposer)
    join_tokens = tokens.make_tokens(ROOT.cert_digest, random.Random(1))

    def write(tx: Tx) -> None:
        tx.create(Cluster(id=ClusterId("c"), root_ca=ROOT, join_tokens=join_tokens, schema=schema))
        tx.create(Node(id=NODE))

    await store.update(write)
    return store, proposer


def standing(store: Store, cert_pem: bytes) -> Standing:
    """What the manager of ``store`` says of who shows this certificate."""
    facts = read_certificate(cert_pem)
    peer = Peer(node_id=facts.node_id, role=facts.role, cluster_id="c", serial=facts.serial)
    return certificates.standing(store.cluster, peer)


async def issue(store: Store, key_pem: bytes, shown: bytes | None = None, role: Role | None = None) -> bytes:
    """What a leader does for a node that shows a certificate, if it may have another."""

    def renew(tx: Tx) -> bytes:
        node = tx.node(NODE)
        facts = None if shown is None else read_certificate(shown)
        serial = "" if facts is None else facts.serial
        if facts is not None:
            certificates.check_renewable(tx.cluster(), node, facts.role, serial, csr_for(key_pem))
        cert_pem, renewed = certificates.issue(
            tx, node, role or certificates.role_wanted(node), csr_for(key_pem), shown=serial
        )
        if renewed != node:
            tx.update(renewed)
        return cert_pem

    return await store.update(renew)


async def set_role(store: Store, role: Role) -> None:
    """A promotion or demotion that has taken effect."""

    def write(tx: Tx) -> None:
        node = tx.node(NODE)
        if role is Role.MANAGER:
            status = ManagerStatus(raft_id=1, address="n:1")
            tx.update(attrs.evolve(node, spec=NodeSpec(role=role), role=role, manager=status))
        else:
            certificates.revoke_manager(tx, node)
            tx.update(attrs.evolve(tx.node(NODE), spec=NodeSpec(role=role), role=role, manager=None))

    await store.update(write)


@attrs.define
class Life:
    """One node: what it has, and every certificate that it was ever given, with the role and how often it was demoted
    before."""

    cert_pem: bytes
    key_pem: bytes
    next_key: int = 0
    given: list[tuple[bytes, Role, int]] = attrs.Factory(list)
    demotions: int = 0

    async def renew(self, store: Store, *, is_lost: bool) -> None:
        """As a node does it: for one and the same key until it has the answer."""
        key_pem = KEYS[self.next_key]
        cert_pem = await issue(store, key_pem, self.cert_pem)
        self.given.append((cert_pem, read_certificate(cert_pem).role, self.demotions))
        if not is_lost:
            self.cert_pem, self.key_pem = cert_pem, key_pem
            self.next_key = (self.next_key + 1) % len(KEYS)


STEPS = st.lists(st.sampled_from(["promote", "demote", "renew", "renew, and lose the answer"]), max_size=14)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, behind=st.integers(0, 30))
def test_nobody_is_shut_out_and_nobody_comes_back(steps: Sequence[str], behind: int) -> None:
    """Whatever has happened: the node can get a certificate for the role that it is to have, and that one counts at
    every manager, however far behind. No manager's certificate of before a demotion counts at one that has heard of it.
    """

    async def run() -> None:
        store, proposer = await make()
        first = await issue(store, KEYS[7])
        life = Life(cert_pem=first, key_pem=KEYS[7], given=[(first, Role.WORKER, 0)])
        for step in steps:
            match step:
                case "promote":
                    await set_role(store, Role.MANAGER)
                case "demote":
                    if store.view().node(NODE).manager is not None:
                        life.demotions += 1
                        await set_role(store, Role.WORKER)
                case _:
                    await life.renew(store, is_lost="lose" in step)
        await life.renew(store, is_lost=False)
        follower = Store(MovedClock())
        for index, data in enumerate(proposer.log[: max(0, len(proposer.log) - behind)], start=1):
            follower.apply(index, data)
        assert standing(store, life.cert_pem) is Standing.GOOD
        assert standing(follower, life.cert_pem) is Standing.GOOD
        for cert_pem, role, before in life.given:
            is_past = role is Role.MANAGER and before < life.demotions
            assert standing(store, cert_pem) is (Standing.REVOKED if is_past else Standing.GOOD)
        numbers = [read_serial(read_certificate(cert_pem).serial).number for cert_pem, _, _ in life.given]
        assert numbers == sorted(set(numbers))

    asyncio.run(run())


async def test_a_copy_of_what_was_replaced_gets_nothing() -> None:
    """Not a worker's certificate, nor a manager's after another promotion; but for the same key it may ask again."""
    store, _ = await make()
    await set_role(store, Role.MANAGER)
    stolen = await issue(store, KEYS[0])
    await set_role(store, Role.WORKER)
    worker = await issue(store, KEYS[1], stolen)
    assert read_certificate(worker).role is Role.WORKER
    with pytest.raises(CertificateRevoked, match="was replaced by a later one"):
        await issue(store, KEYS[2], stolen)
    again = await issue(store, KEYS[1], stolen)  # the answer was lost
    assert read_serial(read_certificate(again).serial).number == read_serial(read_certificate(worker).serial).number + 1
    await set_role(store, Role.MANAGER)
    with pytest.raises(CertificateRevoked):
        await issue(store, KEYS[2], stolen)
    assert read_certificate(await issue(store, KEYS[3], worker)).role is Role.MANAGER
    assert standing(store, stolen) is Standing.REVOKED


async def test_a_state_out_of_a_backup_takes_what_is_later() -> None:
    """The node was given certificates that the state does not know of any more, and is not shut out for them."""
    store, _ = await make()
    await set_role(store, Role.MANAGER)
    await issue(store, KEYS[0])
    later = ca.issue(
        ROOT, csr_for(KEYS[1]), node_id=NODE, role=Role.MANAGER, cluster_id="c", number=9, expiry_ns=DAY_NS, now_ns=0
    )
    await set_role(store, Role.WORKER)
    assert standing(store, later) is Standing.GOOD

    def return_as_worker(tx: Tx) -> None:
        certificates.revoke_manager(tx, tx.node(NODE), shown=read_certificate(later).serial)

    await store.update(return_as_worker)
    assert standing(store, later) is Standing.REVOKED
    assert read_serial(read_certificate(await issue(store, KEYS[2], later)).serial).number == 10


async def test_nothing_is_written_that_an_older_manager_does_not_read() -> None:
    """Nothing is counted nor revoked; what was issued until then counts as the first when all managers read it."""
    store, _ = await make(schema=codec.GATE_VERSION)
    await set_role(store, Role.MANAGER)
    uncounted = await issue(store, KEYS[0])
    assert read_serial(read_certificate(uncounted).serial).number == 0
    await set_role(store, Role.WORKER)
    assert store.view().node(NODE).certificate is None
    assert store.view().cluster().revoked == {}
    await store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=codec.SCHEMA_VERSION)))
    await set_role(store, Role.MANAGER)
    await set_role(store, Role.WORKER)
    assert standing(store, uncounted) is Standing.REVOKED
    await set_role(store, Role.MANAGER)
    counted = await issue(store, KEYS[1], uncounted)
    assert read_serial(read_certificate(counted).serial).number == 1
    assert standing(store, counted) is Standing.GOOD


async def test_a_removed_node_is_refused_until_its_last_certificate_is_over() -> None:
    """By any clock; and for good if it ever was a manager, which can make itself certificates."""
    store, _ = await make()
    long = await issue(store, KEYS[0])
    spec = attrs.evolve(store.view().cluster().spec, node_cert_expiry_ns=HOUR_NS)
    await store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), spec=spec)))
    await issue(store, KEYS[1], long)
    manager = attrs.evolve(Node(id=NodeId("m")), role=Role.WORKER)
    await store.update(lambda tx: tx.create(manager))
    await store.update(lambda tx: certificates.revoke_manager(tx, manager))
    for node_id in (NODE, NodeId("m")):
        await store.update(lambda tx, node_id=node_id: certificates.remove(tx, tx.node(node_id)))
    cluster = store.view().cluster()
    now_ns = int(NOW_S * 1e9)
    assert (
        cluster.removed_nodes[NODE]
        == read_certificate(long).not_after_ns + SKEW_NS
        == now_ns + 90 * DAY_NS + 2 * SKEW_NS
    )
    assert cluster.removed_nodes[NodeId("m")] == now_ns + ca.MAX_EXPIRY_NS
    assert cluster.revoked == {"m": 0}  # agents know of no others
    assert standing(store, long) is Standing.REMOVED


def test_a_peer_without_a_certificate_is_not_looked_up() -> None:
    """This node itself, by a call that does not leave it."""
    join_tokens = tokens.make_tokens(ROOT.cert_digest, random.Random(1))
    cluster = Cluster(id=ClusterId("c"), root_ca=ROOT, join_tokens=join_tokens, revoked={"n": 5})
    assert certificates.standing(cluster, Peer(node_id=NODE, role=Role.MANAGER)) is Standing.GOOD
    assert certificates.standing(cluster, Peer(address="10.0.0.1:1")) is Standing.GOOD
    assert certificates.standing(None, Peer(node_id=NODE, role=Role.MANAGER, serial="1")) is Standing.GOOD
    old = f"{make_serial(5, b''):x}"
    worker = Peer(node_id=NODE, role=Role.WORKER, serial=old)
    assert certificates.standing(cluster, worker) is Standing.GOOD
    assert certificates.standing(cluster, attrs.evolve(worker, role=Role.MANAGER)) is Standing.REVOKED
    router = Router(standing=lambda peer: certificates.standing(attrs.evolve(cluster, removed_nodes={"n": 1}), peer))
    with pytest.raises(NodeRemoved):
        router.admit(worker)


# -- managers by themselves -------------------------------------------------------------------------------------------


async def expired_manager(store: Store) -> NodeIdentity:
    """A manager's identity that has ended."""
    await set_role(store, Role.MANAGER)
    cert_pem = await issue(store, KEYS[0])
    return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=KEYS[0], ca_pem=ROOT.cert_pem)


async def test_a_manager_extends_its_own_certificate() -> None:
    """For the same key and with the same number, for a day: it is the same certificate to all who count them."""
    store, _ = await make()
    identity = await expired_manager(store)
    now_ns = identity.not_after_ns + DAY_NS
    extended = certificates.extended(store.view(), identity, 1, now_ns)
    assert extended is not None
    assert (extended.node_id, extended.role, extended.key_pem) == (NODE, Role.MANAGER, identity.key_pem)
    assert read_serial(extended.serial) == read_serial(identity.serial)
    assert extended.not_after_ns == now_ns + DAY_NS + SKEW_NS
    # Had its clock been wrong: by the right one it is as valid as before.
    assert extended.not_before_ns == identity.not_before_ns
    # Demoted while it did not look: it is no way around that, and as good as what it replaces.
    await set_role(store, Role.WORKER)
    assert standing(store, extended.cert_pem) is Standing.REVOKED
    assert read_certificate(await issue(store, KEYS[1], extended.cert_pem)).role is Role.WORKER


async def test_who_is_no_manager_by_its_own_state_extends_nothing() -> None:
    """Another member of the group, one that was demoted or removed, or has no state."""
    store, _ = await make()
    identity = await expired_manager(store)
    now_ns = identity.not_after_ns + DAY_NS
    assert certificates.extended(store.view(), identity, 2, now_ns) is None
    await set_role(store, Role.WORKER)
    assert certificates.extended(store.view(), identity, 1, now_ns) is None
    await set_role(store, Role.MANAGER)
    assert certificates.extended(store.view(), identity, 1, now_ns) is None
    await store.update(lambda tx: certificates.remove(tx, tx.node(NODE)))
    assert certificates.extended(store.view(), identity, 1, now_ns) is None
