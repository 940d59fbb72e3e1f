"""What a manager knows of the certificates that nodes show: which count, and which one a node has.

A certificate of a root CA that signs nothing any more counts only if it is one that the node is known to have: whoever
has got hold of that root's key can make others, but not this very one. The root that is being replaced is such a one
from the moment the change begins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import attrs
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from swarmpy.errors import BadCertificate, InvalidArgument, PermissionDenied, SwarmpyError
from swarmpy.manager.events import drain
from swarmpy.model import codec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster, Kind, Node, NodeTLS
from swarmpy.ports import Peer
from swarmpy.security import roots
from swarmpy.security.ca import DIGEST_LENGTH, public_key_der
from swarmpy.security.certificates import is_issued_by, load_certificate
from swarmpy.security.serials import key_digest, read_serial
from swarmpy.store.memory import Store

RETRY_S = 1.0
"""Seconds until a manager that could not ask the others asks again which root CAs are in force."""
MAX_KNOWN = 8
"""Certificates of one node that connections may have been made with; it gets another one every few weeks."""
MAX_ROOTS_TOLD = 2 * roots.MAX_FORMER_ROOTS
"""More root CAs than a node can have been told to trust."""


@attrs.frozen
class Orders:
    """What a node is told about root CAs."""

    roots: tuple[bytes, ...]
    """The certificates (PEM) of those that it is to trust."""
    issuer: str
    """The digest of the one that its own certificate is to be of."""

    @classmethod
    def of(cls, cluster: Cluster) -> Orders:
        """As things are."""
        return cls(roots.trusted_pem(cluster), roots.signing_root(cluster).cert_digest)


@attrs.frozen
class _Rules:
    """What follows from the cluster's roots. All are keys, as in :attr:`Peer.signers`."""

    trusted: frozenset[str] = frozenset()
    """Who vouches for a node."""
    outgoing: frozenset[str] = frozenset()
    """Who does not any more."""
    replaced: str = ""
    """Who did until the present change of the root began."""

    @classmethod
    def of(cls, cluster: Cluster) -> _Rules:
        outgoing = frozenset(roots.key_of(pem) for pem in roots.outgoing(cluster))
        if not outgoing:
            return cls()
        return cls(
            trusted=frozenset(roots.key_of(pem) for pem in roots.trusted_pem(cluster)) - outgoing,
            outgoing=outgoing,
            replaced=roots.key_of(cluster.root_ca.cert_pem) if cluster.rotation is not None else "",
        )


class RootGuard:
    """One manager's judgement of its peers' certificates, beyond what TLS has verified."""

    def __init__(
        self,
        store: Store,
        *,
        barrier: Callable[[], Awaitable[None]],
        on_roots: Callable[[tuple[bytes, ...]], None] = lambda _: None,
        on_orders: Callable[[Orders], None] = lambda _: None,
    ) -> None:
        """``on_roots`` gets all root CAs (PEM) whose certificates :meth:`check` judges, for TLS to let them through;
        ``on_orders`` what this manager's own node is to trust and to show. ``barrier`` returns when the store is as new
        as anybody's.
        """
        self._store = store
        self._barrier = barrier
        self._on_roots = on_roots
        self._on_orders = on_orders
        self._rules = _Rules()
        self._known: dict[NodeId, deque[str]] = {}
        """The certificates that nodes have shown when they were known to have them: a connection that was made with one
        stays, though its node has another by now."""

    async def run(self) -> None:
        """Follow the cluster's roots until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="roots-judge")
            group.create_task(self._tell(), name="roots-orders")

    async def _follow(self) -> None:
        with self._store.watch({Kind.CLUSTER}) as watch:
            while True:
                if (cluster := self._store.cluster) is not None:
                    self._on_roots(self.learn(cluster))
                await watch.wait()
                drain(watch)

    async def _tell(self) -> None:
        with self._store.watch({Kind.CLUSTER}) as watch:
            while True:
                is_told = False
                # The state of one that was away is an old one: it must not lead its own node back to an earlier root.
                with contextlib.suppress(SwarmpyError):
                    await self._barrier()
                    self._on_orders(Orders.of(self._store.view().cluster()))
                    is_told = True
                await watch.wait(None if is_told else RETRY_S)
                drain(watch)

    def learn(self, cluster: Cluster) -> tuple[bytes, ...]:
        """Judge by the roots of ``cluster`` from now on; returns them all."""
        self._rules = _Rules.of(cluster)
        view = self._store.view()
        self._known = {node_id: known for node_id, known in self._known.items() if view.node(node_id) is not None}
        return (*roots.outgoing(cluster), *roots.trusted_pem(cluster))

    def check(self, peer: Peer) -> None:
        """Raises BadCertificate for a certificate of an outgoing root that is not known to be the node's."""
        if peer.node_id is None or not peer.certificate or peer.certificate in self._known.get(peer.node_id, ()):
            return
        node = self._store.view().node(peer.node_id)
        known = known_certificates(node) if node is not None else frozenset()
        if peer.certificate in known:
            self._known.setdefault(peer.node_id, deque(maxlen=MAX_KNOWN)).append(peer.certificate)
            return
        rules = self._rules
        # A manager that is behind meets certificates of roots that it has not heard of. One that it trusts has vouched
        # for them, somewhere in the chain.
        if rules.trusted.intersection(peer.signers) or not rules.outgoing.intersection(peer.signers):
            return
        # Versions before did not record any. They are recorded before the change is over.
        if node is None or known or peer.signers != (rules.replaced,):
            raise BadCertificate(
                f"node {peer.node_id} at {peer.address} shows a certificate of a root CA that was replaced, and it is "
                "not the one that this node is known to have: if it is no stranger, have it leave the cluster and join "
                "again"
            )


def known_certificates(node: Node) -> frozenset[str]:
    """The fingerprints of the certificates that the node may have: what it showed last, and what it was given last."""
    shown = node.tls.certificate if node.tls is not None else ""
    given = node.certificate.fingerprint if node.certificate is not None else ""
    return frozenset({shown, given} - {""})


def check_origin(cluster: Cluster, node: Node, cert_pem: bytes) -> None:
    """Raises PermissionDenied for a node's certificate by an outgoing root that is not known to be this node's.

    For who proves to have the key to it: the certificate may be the last one that the node was given in all but its
    dates, as managers extend their own ones.
    """
    certificate = load_certificate(cert_pem)
    by_outgoing = [pem for pem in roots.outgoing(cluster) if is_issued_by(certificate, load_certificate(pem))]
    known = known_certificates(node)
    if not by_outgoing or roots.fingerprint(certificate) in known:
        return
    if not known and cluster.rotation is not None and by_outgoing == [cluster.root_ca.cert_pem]:
        return  # as in RootGuard.check
    shown = f"{certificate.serial_number:x}"
    if node.certificate is not None and read_serial(shown) == read_serial(node.certificate.serial):
        key = load_certificate(cert_pem).public_key()
        if isinstance(key, EllipticCurvePublicKey) and read_serial(shown).key == key_digest(public_key_der(key)):
            return
    raise PermissionDenied(
        f"the certificate that node {node.id} has is of a root CA that was replaced, and not the last one that it is "
        "known to have: leave the cluster, and join again"
    )


def seen(cluster: Cluster, node: Node, peer: Peer, trusts: Iterable[str] | None = None) -> NodeTLS | None:
    """What is to be remembered of a node that has just shown itself as ``peer``.

    ``trusts``: the digests of the roots that it says it trusts; None when it has not said it.
    """
    if cluster.schema < codec.ROOTS_VERSION or not peer.certificate:
        return node.tls
    digests = {roots.key_of(pem): digest for digest, pem in roots.known(cluster).items()}
    before = node.tls.roots if node.tls is not None else ()
    return NodeTLS(
        certificate=peer.certificate,
        issuer=digests.get(peer.signers[0], "") if peer.signers else "",
        roots=before if trusts is None else checked_digests(trusts),
    )


def checked_digests(digests: Iterable[str]) -> tuple[str, ...]:
    """What a node says of the roots that it trusts. Raises InvalidArgument for what cannot be such a thing."""
    checked = tuple(digests)
    if len(checked) > MAX_ROOTS_TOLD or any(len(digest) != DIGEST_LENGTH for digest in checked):
        raise InvalidArgument("these are not the digests of root CAs")
    return checked
