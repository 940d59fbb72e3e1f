"""Which certificates of nodes count: what is remembered of those that were issued, and which are revoked.

Every certificate of a node has a number that grows (:mod:`swarmpy.security.serials`). A manager that becomes a worker
has its managers' certificates revoked up to the last one that it was given, in the entry of the log that makes it a
worker. So nothing has to be known of the earlier ones; and one that is promoted again has a number beyond that, also in
the eyes of a manager that is behind and has heard of the demotion only.

All functions that write do so in a transaction of somebody else's, so that what they write is in force with the rest of
it. Below schema version CERTIFICATES_VERSION nothing is written, and certificates have number 0.
"""

from __future__ import annotations

import attrs

from swarmpy.errors import CertificateRevoked
from swarmpy.model import codec
from swarmpy.model.objects import Certificate, Cluster, Node, RootCA
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security import ca, roots
from swarmpy.security.certificates import SKEW_NS, load_certificate, read_certificate
from swarmpy.security.identity import NodeIdentity, csr_for
from swarmpy.security.serials import is_revoked, key_digest, read_serial
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View
from swarmpy.wire.router import Standing

LONGEST_UNRECORDED_NS = 90 * 24 * 3600 * 1_000_000_000
"""How long certificates that nothing was recorded of are taken to be valid, if the cluster's setting is not longer."""

EXTENSION_NS = 24 * 3600 * 1_000_000_000
"""For how long a manager extends its own certificate, at most: until there is a leader to give it another one."""


def role_wanted(node: Node) -> Role:
    """What a certificate for the node has to say: who is being demoted is a manager until it has left the group."""
    return Role.MANAGER if node.manager is not None else node.spec.role


def described(cert_pem: bytes, root: RootCA) -> Certificate:
    """What the state remembers of a certificate that ``root`` has just signed."""
    facts = read_certificate(cert_pem)
    return Certificate(
        serial=facts.serial,
        role=facts.role,
        issuer=root.cert_digest,
        not_after_ns=facts.not_after_ns,
        fingerprint=roots.fingerprint(load_certificate(cert_pem)),
    )


# -- who is let in --------------------------------------------------------------------------------------------------


def standing(cluster: Cluster | None, peer: Peer) -> Standing:
    """What ``peer``, a member by its certificate, is in the eyes of the manager that has this state."""
    if cluster is None or peer.node_id is None:
        return Standing.GOOD
    if peer.node_id in cluster.removed_nodes:
        return Standing.REMOVED
    if peer.role is Role.MANAGER and peer.serial and is_revoked(cluster.revoked, peer.node_id, peer.serial):
        return Standing.REVOKED
    return Standing.GOOD


def check_renewable(cluster: Cluster, node: Node, role: Role, serial: str, csr_pem: bytes) -> None:
    """Raises CertificateRevoked when the node's certificate ``serial`` may not even be exchanged for another one.

    A revoked one may once: as the last that the node was given, or again for the same key, in case the answer was lost.
    After that it is worth nothing, so that who has a copy of it gets nothing by it, and not a manager's certificate in
    particular when the node is promoted again. Raises InvalidArgument for an unusable request.
    """
    if role is Role.MANAGER and serial and is_revoked(cluster.revoked, node.id, serial):
        check_last(node, serial, csr_pem)


def check_last(node: Node, serial: str, csr_pem: bytes) -> None:
    """Raises CertificateRevoked unless ``serial`` is of the last certificate that the node was given.

    Or of an earlier one, if the request is for the key of the last: its answer was lost then. A later one than is
    remembered is fine as well: the state may have come out of a backup.
    """
    if node.certificate is None:
        return
    shown, last = read_serial(serial), read_serial(node.certificate.serial)
    asked_for = key_digest(ca.public_key_der(ca.public_key_of(csr_pem)))
    if shown != last and shown.number <= last.number and asked_for != last.key:
        raise CertificateRevoked(
            f"the certificate of node {node.id} was replaced by a later one, and is refused: if this is no old copy of "
            'its data directory, another one has been used; "swarm leave --force" and join again'
        )


# -- writing --------------------------------------------------------------------------------------------------------


def issue(tx: Tx, node: Node, role: Role, csr_pem: bytes, *, shown: str = "") -> tuple[bytes, Node]:
    """A certificate (PEM) for ``node``, and the node with what is to be remembered of it.

    ``shown`` is the serial number of the certificate that the node has proven to have. Where that was a manager's and
    the new one is a worker's, the caller revokes. Raises InvalidArgument for an unusable request.
    """
    cluster = tx.cluster()
    is_counted = cluster.schema >= codec.CERTIFICATES_VERSION
    root = roots.signing_root(cluster)
    cert_pem = ca.issue(
        root,
        csr_pem,
        node_id=node.id,
        role=role,
        cluster_id=cluster.id,
        number=_last_number(cluster, node, shown) + 1 if is_counted else 0,
        expiry_ns=cluster.spec.node_cert_expiry_ns,
        now_ns=tx.now_ns,
    )
    if not is_counted:
        return cert_pem, node
    earlier_end_ns = 0 if node.certificate is None else node.certificate.not_after_ns
    if node.certificate is None and shown:
        earlier_end_ns = _unrecorded_end_ns(cluster, tx.now_ns)
    certificate = described(cert_pem, root)
    if cluster.schema < codec.ROOTS_VERSION:
        certificate = attrs.evolve(certificate, fingerprint="")
    not_after_ns = max(certificate.not_after_ns, earlier_end_ns)
    return cert_pem, attrs.evolve(node, certificate=attrs.evolve(certificate, not_after_ns=not_after_ns))


def extended(view: View, identity: NodeIdentity, raft_id: int, now_ns: int) -> NodeIdentity | None:
    """The certificate of a manager, which has expired, made valid again by that manager, whose state ``view`` is.

    It needs nobody for it, as it has the CA's key; where all have expired there is nobody. The certificate stays the
    same one to all who count: the same number, for the same key. So it is no way around a revocation that this manager
    has not heard of. It is valid since when the old one was: this machine's clock may be far ahead, and be put right
    again. None when by its own state it is not the manager ``raft_id``.
    """
    cluster, node = view.cluster(), view.node(identity.node_id)
    if node is None or node.manager is None or node.manager.raft_id != raft_id:
        return None
    if node.id in cluster.removed_nodes or is_revoked(cluster.revoked, node.id, identity.serial):
        return None
    cert_pem = ca.issue(
        roots.signing_root(cluster),
        csr_for(identity.key_pem),
        node_id=node.id,
        role=Role.MANAGER,
        cluster_id=cluster.id,
        number=read_serial(identity.serial).number,
        expiry_ns=min(EXTENSION_NS, cluster.spec.node_cert_expiry_ns),
        now_ns=now_ns,
        since_ns=identity.not_before_ns,
    )
    return NodeIdentity.from_pem(
        cert_pem=cert_pem,
        key_pem=identity.key_pem,
        ca_pem=roots.joined((*roots.split(identity.ca_pem), *roots.trusted_pem(cluster))),
        chain_pem=roots.joined(roots.chain(cluster)),
    )


def revoke_manager(tx: Tx, node: Node, *, shown: str = "") -> None:
    """Let no manager's certificate that the node has been given so far count any more.

    To be called in the transaction that makes it a worker. ``shown``: as for :func:`issue`.
    """
    cluster = tx.cluster()
    if cluster.schema < codec.CERTIFICATES_VERSION:
        return
    last = _last_number(cluster, node, shown)
    if cluster.revoked.get(node.id) != last:
        tx.update(attrs.evolve(cluster, revoked={**cluster.revoked, node.id: last}))


def remove(tx: Tx, node: Node) -> None:
    """Delete the node, and let none of its certificates count any more."""
    cluster, now_ns = tx.cluster(), tx.now_ns
    removed = {other: until for other, until in cluster.removed_nodes.items() if until > now_ns}
    removed[node.id] = _refused_until(cluster, node, now_ns)
    tx.delete(node)
    # Those of nodes that are gone stay for who is told of these only (agents), and go with the others.
    revoked = {other: last for other, last in cluster.revoked.items() if other in removed or tx.node(other) is not None}
    tx.update(attrs.evolve(cluster, removed_nodes=removed, revoked=revoked))


def _refused_until(cluster: Cluster, node: Node, now_ns: int) -> int:
    """When no certificate of the node can be valid any more, by any clock (ns)."""
    if node.id in cluster.revoked:
        # It was a manager, and makes itself a new certificate if it comes back after years and knows nothing of this.
        return now_ns + ca.MAX_EXPIRY_NS
    end_ns = _unrecorded_end_ns(cluster, now_ns) if node.certificate is None else node.certificate.not_after_ns
    return end_ns + SKEW_NS


def _unrecorded_end_ns(cluster: Cluster, now_ns: int) -> int:
    return now_ns + max(LONGEST_UNRECORDED_NS, cluster.spec.node_cert_expiry_ns) + SKEW_NS


def _last_number(cluster: Cluster, node: Node, shown: str) -> int:
    issued = [serial for serial in (shown, node.certificate.serial if node.certificate else "") if serial]
    return max([cluster.revoked.get(node.id, 0), *(read_serial(serial).number for serial in issued)])
