"""What a leader answers to those who want a certificate: joiners, members, and nodes whose own one is not taken."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
from manager_world import ROOT, InstantProposer, MovedClock

from swarmpy.errors import (
    CertificateRevoked,
    FailedPrecondition,
    InvalidArgument,
    NodeRemoved,
    NotFound,
    NotLeader,
    PermissionDenied,
    Superseded,
    SwarmpyError,
    Unavailable,
)
from swarmpy.manager import certificates
from swarmpy.manager.joining import RENEWALS, Certified, JoinCall, Registrar, RejoinCall
from swarmpy.model import codec
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, ManagerStatus, Node
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security import ca, tokens
from swarmpy.security.certificates import read_certificate
from swarmpy.security.identity import NodeIdentity, csr_for, new_key_and_csr
from swarmpy.security.possession import sign_request
from swarmpy.store.memory import Store

JOINER = Peer(address="10.0.0.9:1")
TOKENS = tokens.make_tokens(ROOT.cert_digest, random.Random(1))
DAY_NS = 24 * 3600 * 10**9


class Office:
    """A leader's registrar over a store that commits at once."""

    def __init__(self) -> None:
        self.clock = MovedClock()
        self.clock.seconds = 1_790_000_000.0
        self.store = Store(self.clock)
        self.proposer = InstantProposer(self.store)
        self.store.set_proposer(self.proposer)
        self.leads = True
        self.registrar = Registrar(
            store=self.store,
            clock=self.clock,
            random=random.Random(2),
            managers=tuple,
            require_leader=self._require_leader,
        )

    def _require_leader(self) -> None:
        if not self.leads:
            raise NotLeader

    def node(self, node_id: str) -> Node:
        """The node."""
        found = self.store.view().node(node_id)
        assert found is not None
        return found

    async def change(self, node_id: str, **fields: Any) -> None:
        """Change fields of a node."""
        await self.store.update(lambda tx: tx.update(attrs.evolve(tx.node(node_id), **fields)))

    async def join(self, token: str = TOKENS.worker, schema: int = codec.SCHEMA_VERSION) -> NodeIdentity:
        """A machine becomes a node."""
        key_pem, csr_pem = new_key_and_csr()
        call = JoinCall(token=token, csr_pem=csr_pem, hostname="h", schema=schema)
        return identity(await self.registrar.join(JOINER, codec.to_plain(call)), key_pem)

    async def renew(self, who: NodeIdentity, key_pem: bytes | None = None, **more: Any) -> NodeIdentity:
        """A member asks for another certificate."""
        key_pem = key_pem or new_key_and_csr()[0]
        return identity(await self.registrar.renew(peer(who), {"csr_pem": csr_for(key_pem), **more}), key_pem)

    async def rejoin(self, who: NodeIdentity, token: str = TOKENS.worker, **more: Any) -> NodeIdentity:
        """A node comes back that cannot show its certificate to TLS."""
        key_pem, csr_pem = new_key_and_csr()
        call = RejoinCall(
            token=token,
            csr_pem=csr_pem,
            cert_pem=who.cert_pem,
            proof=sign_request(who.key_pem, csr_pem),
            schema=codec.SCHEMA_VERSION,
        )
        return identity(await self.registrar.rejoin(JOINER, codec.to_plain(attrs.evolve(call, **more))), key_pem)


def peer(who: NodeIdentity) -> Peer:
    """Whom TLS sees."""
    return Peer(node_id=who.node_id, role=who.role, cluster_id=who.cluster_id, serial=who.serial, address="10.0.0.8:1")


def identity(answer: Any, key_pem: bytes) -> NodeIdentity:
    """What the node has then."""
    certified = codec.from_plain(Certified, codec.unpack(codec.pack(answer)))
    return NodeIdentity.from_pem(cert_pem=certified.cert_pem, key_pem=key_pem, ca_pem=ROOT.cert_pem)


@pytest.fixture
async def office() -> Office:
    """A cluster without a node."""
    made = Office()
    cluster = Cluster(id=ClusterId("c"), root_ca=ROOT, join_tokens=TOKENS, schema=codec.SCHEMA_VERSION)
    await made.store.update(lambda tx: tx.create(cluster))
    return made


async def make_manager(office: Office) -> NodeIdentity:
    """A node that has become one of the managers."""
    who = await office.join(TOKENS.manager)
    await office.change(who.node_id, role=Role.MANAGER, manager=ManagerStatus(raft_id=5, address="x:1"))
    return who


async def demote(office: Office, who: NodeIdentity) -> None:
    """As the membership does it."""

    def write(tx: Any) -> None:
        node = tx.node(who.node_id)
        tx.update(attrs.evolve(node, spec=NodeSpec(role=Role.WORKER), role=Role.WORKER, manager=None))
        certificates.revoke_manager(tx, node)

    await office.store.update(write)


# -- recording --------------------------------------------------------------------------------------------------------


async def test_a_certificate_is_recorded_with_its_node(office: Office) -> None:
    """In one entry with the node, and every later one in the node's place."""
    entries = office.proposer.entries
    who = await office.join()
    assert office.proposer.entries == entries + 1
    facts = read_certificate(who.cert_pem)
    recorded = office.node(who.node_id).certificate
    assert recorded is not None
    assert (recorded.serial, recorded.role, recorded.issuer) == (facts.serial, Role.WORKER, ROOT.cert_digest)
    assert recorded.not_after_ns == facts.not_after_ns
    renewed = await office.renew(who)
    assert office.node(who.node_id).certificate.serial == renewed.serial != who.serial
    assert office.proposer.entries == entries + 2


async def test_what_is_not_written_down_is_not_handed_out(office: Office) -> None:
    """A leader that cannot write gives nothing away."""
    who = await office.join()
    office.store.set_proposer(None)
    with pytest.raises(NotLeader):
        await office.renew(who)
    office.leads = False
    with pytest.raises(NotLeader):
        await office.join()


async def test_the_role_is_the_one_that_the_cluster_wants(office: Office) -> None:
    """A manager that is being demoted is one until it has left the group."""
    who = await office.join()
    await office.change(who.node_id, spec=NodeSpec(role=Role.MANAGER))
    who = await office.renew(who)
    assert who.role is Role.MANAGER
    await office.change(who.node_id, role=Role.MANAGER, manager=ManagerStatus(raft_id=5, address="x:1"))
    await office.change(who.node_id, spec=NodeSpec(role=Role.WORKER))
    who = await office.renew(who)
    assert who.role is Role.MANAGER
    await demote(office, who)
    assert (await office.renew(who)).role is Role.WORKER


async def test_another_expiry_counts_from_the_next_renewal_on(office: Office) -> None:
    """It is no business of the certificates that are there."""
    who = await office.join()
    spec = attrs.evolve(office.store.view().cluster().spec, node_cert_expiry_ns=ca.MIN_EXPIRY_NS)
    await office.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), spec=spec)))
    assert (who.life_ns, (await office.renew(who)).life_ns) == (90 * DAY_NS, ca.MIN_EXPIRY_NS)


async def test_renewals_are_bounded(office: Office) -> None:
    """So many at once, and one more every minute; one node's are not another's."""
    who, other = await office.join(), await office.join()
    for _ in range(int(RENEWALS.burst)):
        who = await office.renew(who)
    entries = office.proposer.entries
    with pytest.raises(Unavailable, match="has asked for too many certificates"):
        await office.renew(who)
    assert office.proposer.entries == entries
    await office.renew(other)
    office.clock.seconds += 1 / RENEWALS.per_s
    await office.renew(who)
    with pytest.raises(Unavailable):
        await office.renew(who)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (None, InvalidArgument),
        ({}, InvalidArgument),
        ({"csr_pem": "text"}, InvalidArgument),
        ({"csr_pem": b"junk"}, InvalidArgument),
        ({"csr_pem": b"junk", "incarnation": 7}, Superseded),
    ],
)
async def test_bad_requests_change_nothing(office: Office, payload: Any, error: type[SwarmpyError]) -> None:
    """Nor do those of who is no member."""
    who = await office.join()
    entries = office.proposer.entries
    with pytest.raises(error):
        await office.registrar.renew(peer(who), payload)
    with pytest.raises(NotFound):
        await office.registrar.renew(attrs.evolve(peer(who), node_id=NodeId("x")), {"csr_pem": new_key_and_csr()[1]})
    assert office.proposer.entries == entries


async def test_a_lost_manager_that_returns_is_revoked_as_it_becomes_a_worker(office: Office) -> None:
    """A cluster that was begun anew has made it a worker without a word about certificates."""
    who = await make_manager(office)
    await office.change(who.node_id, spec=NodeSpec(role=Role.WORKER), role=Role.WORKER, manager=None)
    assert certificates.standing(office.store.cluster, peer(who)).value == "good"
    assert (await office.renew(who)).role is Role.WORKER
    assert certificates.standing(office.store.cluster, peer(who)).value == "revoked"


# -- coming back ------------------------------------------------------------------------------------------------------


async def test_a_node_comes_back_as_the_one_it_was(office: Office) -> None:
    """However long its certificate has been over; with the id and the role that it had, and a new key."""
    who = await office.join()
    office.clock.seconds += 400 * 24 * 3600
    assert who.is_expired(office.clock.time_ns())
    back = await office.rejoin(who)
    assert (back.node_id, back.role, back.life_ns) == (who.node_id, Role.WORKER, 90 * DAY_NS)
    assert back.key_pem != who.key_pem
    assert office.node(who.node_id).certificate.serial == back.serial
    assert len(office.store.view().nodes()) == 1
    manager = await make_manager(office)
    again = await office.rejoin(manager, TOKENS.manager)
    assert (again.node_id, again.role) == (manager.node_id, Role.MANAGER)
    # Who may become a manager may come back as a worker.
    assert (await office.rejoin(back, TOKENS.manager)).role is Role.WORKER


async def test_a_manager_comes_back_with_the_managers_token_only(office: Office) -> None:
    """A worker's token is not worth a manager's certificate."""
    who = await make_manager(office)
    with pytest.raises(PermissionDenied, match="is a manager, and comes back with the managers' join token only"):
        await office.rejoin(who)
    with pytest.raises(FailedPrecondition, match="too old to be a manager"):
        await office.rejoin(who, TOKENS.manager, schema=codec.BASE_VERSION)


async def test_without_a_token_nothing_is_told(office: Office) -> None:
    """Neither whether the node is known, nor whether its certificate is good."""
    who = await office.join()
    for cert_pem in (who.cert_pem, b"junk"):
        with pytest.raises(PermissionDenied, match="invalid join token"):
            await office.rejoin(who, tokens.make_token(ROOT.cert_digest, random.Random(9)), cert_pem=cert_pem)


async def test_who_has_not_the_key_does_not_come_back(office: Office) -> None:
    """A certificate is no secret; a proof that was overheard is for the key that it was made for."""
    who, other = await office.join(), await office.join()
    entries = office.proposer.entries
    key_pem, csr_pem = new_key_and_csr()
    theirs = sign_request(who.key_pem, csr_for(new_key_and_csr()[0]))
    for proof in (b"", b"junk", theirs, sign_request(other.key_pem, csr_pem), sign_request(key_pem, csr_pem)):
        with pytest.raises(PermissionDenied, match="not signed with the key of the certificate"):
            await office.rejoin(who, csr_pem=csr_pem, proof=proof)
    assert office.proposer.entries == entries


async def test_a_certificate_of_somebody_else_does_not_count(office: Office) -> None:
    """Of another CA, of another cluster, or no certificate."""
    who = await office.join()
    key_pem, csr_pem = new_key_and_csr()
    told = {"node_id": who.node_id, "role": Role.WORKER, "expiry_ns": DAY_NS, "now_ns": office.clock.time_ns()}
    strange = ca.issue(ca.create_root_ca(office.clock.time_ns()), csr_pem, cluster_id="c", **told)
    with pytest.raises(PermissionDenied, match="not signed by the cluster's root CA; to be a node of another cluster"):
        await office.rejoin(attrs.evolve(who, cert_pem=strange, key_pem=key_pem))
    other = ca.issue(ROOT, csr_pem, cluster_id="other", **told)
    with pytest.raises(PermissionDenied, match="belongs to cluster other, not to c"):
        await office.rejoin(attrs.evolve(who, cert_pem=other, key_pem=key_pem))
    with pytest.raises(PermissionDenied, match="not a certificate"):
        await office.rejoin(who, cert_pem=b"junk")
    with pytest.raises(PermissionDenied, match="unit"):
        await office.rejoin(who, cert_pem=ROOT.cert_pem)


async def test_removed_nodes_and_old_copies_do_not_come_back(office: Office) -> None:
    """A node that was removed is told so; a copy of its directory of before another certificate is none of it."""
    who = await office.join()
    renewed = await office.renew(who)
    with pytest.raises(CertificateRevoked, match="was replaced by a later one"):
        await office.rejoin(who)
    await office.store.update(lambda tx: certificates.remove(tx, tx.node(who.node_id)))
    with pytest.raises(NodeRemoved, match="was removed from the cluster: leave it and join again"):
        await office.rejoin(renewed)


async def test_a_manager_that_was_demoted_while_it_was_away_comes_back_as_a_worker(office: Office) -> None:
    """Its certificate was revoked and has expired; as its last one it still says who it is, until it has another."""
    who = await make_manager(office)
    await demote(office, who)
    back = await office.rejoin(who)
    assert (back.node_id, back.role) == (who.node_id, Role.WORKER)
    with pytest.raises(CertificateRevoked):
        await office.rejoin(who)
    with pytest.raises(CertificateRevoked):
        await office.renew(who)


async def test_a_later_incarnation_is_not_left(office: Office) -> None:
    """A leader of an earlier one does not take a node back that knows better."""
    who = await office.join()
    with pytest.raises(Superseded):
        await office.rejoin(who, incarnation=5)
