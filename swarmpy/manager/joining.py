"""How a machine becomes a node: the calls about certificates, answered by managers.

``ca.root``, ``ca.join`` and ``ca.rejoin`` are the only calls open to a caller without a certificate. The root
certificate is no secret: the joiner compares its digest with the one in its token before it sends the token anywhere.

A certificate is written down before it is handed out, in the same transaction that decides what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import structlog

from swarmpy.errors import (
    BadCertificate,
    FailedPrecondition,
    InvalidArgument,
    NodeRemoved,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Unavailable,
)
from swarmpy.manager import certificates, claims
from swarmpy.manager.incarnations import check_incarnation
from swarmpy.manager.join_guard import JoinGuard
from swarmpy.manager.schema import schema_of
from swarmpy.manager.trust import check_origin, seen
from swarmpy.model import codec
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId, encode_id
from swarmpy.model.objects import Cluster, Node, NodeStatus
from swarmpy.model.rates import Buckets, Rate
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Availability, NodeState, Role
from swarmpy.ports import Clock, Peer, Random
from swarmpy.security import roots, tokens
from swarmpy.security.certificates import CertificateFacts, load_certificate, read_certificate
from swarmpy.security.possession import check_signed
from swarmpy.security.roots import check_chain
from swarmpy.store.memory import Store
from swarmpy.store.schema import check_reader
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

log = structlog.get_logger(__name__)

MAX_NODES = 10_000
"""Of a cluster. Who has a join token can make so many, and no more."""


@attrs.frozen(kw_only=True)
class JoinCall:
    """``ca.join``: a machine asks to become a node."""

    token: str = attrs.field(repr=False)
    csr_pem: bytes
    hostname: str = ""
    availability: Availability = Availability.ACTIVE
    schema: int = codec.BASE_VERSION
    """The newest schema version that it reads. Older machines do not tell theirs."""


@attrs.frozen(kw_only=True)
class RejoinCall:
    """``ca.rejoin``: a node whose certificate TLS refuses, as it has expired mostly, wants to be let in again."""

    token: str = attrs.field(repr=False)
    csr_pem: bytes
    cert_pem: bytes
    """The certificate that it has."""
    proof: bytes
    """That it has the key to it (``security.possession``)."""
    schema: int = codec.BASE_VERSION
    incarnation: int = 0
    """Of the cluster, the latest that it has seen."""


@attrs.frozen(kw_only=True)
class Certified:
    """The answer to ``ca.join``, ``ca.rejoin`` and ``ca.renew``."""

    node_id: NodeId
    role: Role
    cluster_id: ClusterId
    cert_pem: bytes
    raft: RaftConfig
    managers: tuple[ManagerAddress, ...] = ()
    chain: tuple[bytes, ...] = ()
    """What is to be shown with the certificate (PEM)."""
    roots: tuple[bytes, ...] = ()
    """The root CAs to be trusted (PEM). Older managers know of one only, and do not tell."""


C = TypeVar("C", JoinCall, RejoinCall)
RENEWALS = Rate(burst=10, per_s=1 / 60)
"""Of one node. It renews twice in the life of a certificate, of half an hour at least, and when its role changes."""


class Registrar:
    """Answers the calls about certificates. Only the leader signs."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        random: Random,
        managers: Callable[[], tuple[ManagerAddress, ...]],
        require_leader: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._managers = managers
        self._require_leader = require_leader
        self._guard = JoinGuard(clock)
        self._renewals: Buckets[NodeId] = Buckets(RENEWALS, most=MAX_NODES)

    async def root(self, _peer: Peer, _payload: Any) -> Any:
        """``ca.root``: the cluster's root certificates, PEM; ``cert_pem`` is the one that join tokens name.

        Raises Unavailable while this manager has no state.
        """
        cluster = self._store.cluster
        if cluster is None:
            raise Unavailable("this manager has no copy of the cluster's state yet: try again")
        return {"cert_pem": cluster.root_ca.cert_pem, "roots": list(roots.trusted_pem(cluster))}

    async def join(self, peer: Peer, payload: Any) -> Any:
        """``ca.join``: a :class:`JoinCall` for a :class:`Certified`.

        Raises PermissionDenied on a wrong token, Unavailable after too many of them, FailedPrecondition for a manager
        of a version that is too old, one node too many, and while the root CA is changed for any node of a version that
        does not know of such things. Of a wrong token nothing is told but that it is wrong.
        """
        self._require_leader()
        call, role = self._asked(JoinCall, peer, payload)
        view = self._store.view()
        known = self._guard.answer_to(call.token, call.csr_pem)
        if known is not None and view.node(known[0]) is not None:
            # Its answer was lost. It is one machine, however often it asks.
            return known[1]
        if role is Role.MANAGER:
            check_reader(call.schema, view.cluster())
        claims.check_hostname(call.hostname)
        if len(view.nodes()) >= MAX_NODES:
            raise FailedPrecondition(
                f"the cluster has {MAX_NODES} nodes, and that is as many as it takes: remove those that are gone "
                '("swarmpy node rm"), and change the join tokens if they are in wrong hands'
            )
        new = Node(
            id=NodeId(encode_id(self._random.randbytes(16))),
            spec=NodeSpec(role=role, availability=call.availability),
            status=NodeStatus(state=NodeState.UNKNOWN),
        )
        new = attrs.evolve(new, description=attrs.evolve(new.description, hostname=call.hostname))

        def join(tx: Tx) -> bytes:
            _check_knows_rotation(call.schema, tx.cluster())
            cert_pem, node = certificates.issue(tx, new, role, call.csr_pem)
            tx.create(node)
            return cert_pem

        cert_pem = await self._store.update(join)
        log.info("node_joined", node=new.id, role=role.value, address=peer.address)
        answer = codec.to_plain(self._certified(new.id, role, cert_pem))
        self._guard.answered(call.token, call.csr_pem, new.id, answer)
        return answer

    async def renew(self, peer: Peer, payload: Any) -> Any:
        """``ca.renew``: a new certificate for a member, with the role it should have now.

        Raises CertificateRevoked when the member's has been revoked and replaced, Unavailable for a node that asks too
        often, FailedPrecondition as :meth:`join`.
        """
        self._require_leader()
        csr_pem = payload.get("csr_pem") if isinstance(payload, dict) else None
        if not isinstance(csr_pem, bytes):
            raise InvalidArgument("ca.renew: csr_pem is missing")
        check_incarnation(self._store.view().cluster(), payload)

        def check(tx: Tx) -> Node:
            _check_knows_rotation(schema_of(payload), tx.cluster())
            node = _member(tx, peer)
            assert peer.role is not None, "open to members only"
            certificates.check_renewable(tx.cluster(), node, peer.role, peer.serial, csr_pem)
            return attrs.evolve(node, tls=seen(tx.cluster(), node, peer))

        certified = await self._replace(check, csr_pem, peer.role, peer.serial)
        log.info("certificate_renewed", node=certified.node_id, role=certified.role.value)
        return codec.to_plain(certified)

    async def confirm(self, peer: Peer, payload: Any) -> Any:
        """``ca.confirm``: a member shows the certificate that it uses from now on, and says which roots it trusts."""
        self._require_leader()
        told = payload.get("roots") if isinstance(payload, dict) else None
        if not isinstance(told, list) or not all(isinstance(digest, str) for digest in told):
            raise InvalidArgument("ca.confirm: roots is missing")
        check_incarnation(self._store.view().cluster(), payload)

        def confirm(tx: Tx) -> None:
            node = _member(tx, peer)
            tls = seen(tx.cluster(), node, peer, told)
            if tls != node.tls:
                tx.update(attrs.evolve(node, tls=tls))

        await self._store.update(confirm)
        return None

    async def rejoin(self, peer: Peer, payload: Any) -> Any:
        """``ca.rejoin``: a :class:`RejoinCall` for a :class:`Certified` of the same node, with the role it should have.

        Raises PermissionDenied on a wrong token or a certificate that is not of this cluster or not the caller's,
        NodeRemoved, CertificateRevoked when the node was given a later one than that, FailedPrecondition for a manager
        of a version that is too old.
        """
        self._require_leader()
        call, allowed = self._asked(RejoinCall, peer, payload)
        cluster = self._store.view().cluster()
        check_incarnation(cluster, payload)
        facts = _shown(cluster, call)

        def check(tx: Tx) -> Node:
            _check_knows_rotation(call.schema, tx.cluster())
            node = tx.node(facts.node_id)
            if node is None:
                raise NodeRemoved(f"node {facts.node_id} was removed from the cluster: leave it and join again")
            if certificates.role_wanted(node) is Role.MANAGER:
                if allowed is not Role.MANAGER:
                    raise PermissionDenied(
                        f"node {node.id} is a manager, and comes back with the managers' join token only: "
                        '"swarm join-token manager" on another manager shows it'
                    )
                check_reader(call.schema, tx.cluster())
            check_origin(tx.cluster(), node, call.cert_pem)
            certificates.check_last(node, facts.serial, call.csr_pem)
            return node

        certified = await self._replace(check, call.csr_pem, facts.role, facts.serial)
        log.info("node_rejoined", node=certified.node_id, role=certified.role.value, address=peer.address)
        return codec.to_plain(certified)

    def _asked(self, kind: type[C], peer: Peer, payload: Any) -> tuple[C, Role]:
        """What a stranger asks for, and the role that its token gives. Failures are counted."""
        self._guard.check(peer)
        try:
            call = codec.from_plain(kind, payload)
            return call, _role(call.token, self._store.view().cluster())
        except (ProtocolViolation, PermissionDenied) as error:
            self._guard.failed(peer, error.message)
            raise

    async def _replace(self, check: Callable[[Tx], Node], csr_pem: bytes, role: Role | None, serial: str) -> Certified:
        """A new certificate for the node that ``check`` gives, which has proven to have the one of this role and serial
        number."""

        def replace(tx: Tx) -> tuple[NodeId, Role, bytes]:
            node = check(tx)
            now = self._clock.monotonic()
            if not (bucket := self._renewals.of(node.id, now)).take(now):
                raise Unavailable(
                    f"node {node.id} has asked for too many certificates in a short time: it gets another one in "
                    f"{bucket.wait_s(now):.0f} s"
                )
            wanted = certificates.role_wanted(node)
            if role is Role.MANAGER and wanted is Role.WORKER:
                certificates.revoke_manager(tx, node, shown=serial)
            cert_pem, renewed = certificates.issue(tx, node, wanted, csr_pem, shown=serial)
            if renewed != tx.node(node.id):
                tx.update(renewed)
            return node.id, wanted, cert_pem

        return self._certified(*await self._store.update(replace))

    def _certified(self, node_id: NodeId, role: Role, cert_pem: bytes) -> Certified:
        cluster = self._store.view().cluster()
        return Certified(
            node_id=node_id,
            role=role,
            cluster_id=cluster.id,
            cert_pem=cert_pem,
            raft=cluster.spec.raft,
            managers=self._managers(),
            chain=roots.chain(cluster),
            roots=roots.trusted_pem(cluster),
        )


def _member(view: View, peer: Peer) -> Node:
    node = view.node(peer.node_id) if peer.node_id else None
    if node is None or peer.role is None:
        raise NotFound(f"node {peer.node_id} is not a member of this cluster (any more)")
    return node


def _check_knows_rotation(reads: int, cluster: Cluster) -> None:
    """Raise FailedPrecondition for a node that would not know what to do with a certificate of the new root."""
    if cluster.rotation is not None and reads < codec.ROOTS_VERSION:
        raise FailedPrecondition(
            "the root CA of this cluster is being changed, and the swarmpy of this node is too old to take part: "
            "upgrade it, or try again when that is over"
        )


def _shown(cluster: Cluster, call: RejoinCall) -> CertificateFacts:
    """What the certificate says that the caller has shown and has the key to. Raises PermissionDenied."""
    try:
        check_chain(load_certificate(call.cert_pem), (), tuple(roots.known(cluster).values()))
        facts = read_certificate(call.cert_pem)
        check_signed(call.cert_pem, call.csr_pem, call.proof)
    except BadCertificate as error:
        raise PermissionDenied(
            f"this node cannot come back with the certificate that it has: {error}; to be a node of another cluster, "
            "leave this one first"
        ) from error
    if facts.cluster_id != cluster.id:
        raise PermissionDenied(f"node {facts.node_id} belongs to cluster {facts.cluster_id}, not to {cluster.id}")
    return facts


def _role(token: str, cluster: Cluster) -> Role:
    role = tokens.role_of_token(token, cluster.join_tokens)
    if role is None:
        raise PermissionDenied(tokens.INVALID)
    return role
