"""TLS contexts of the cluster port, and who is on the other end.

TLS 1.3 only. Trust is the cluster's root CAs and nothing else: host names are not checked, the identity in the
certificate is, after the handshake, by :func:`peer_identity`. A server lets callers in without a certificate (joiners
have none yet); they are anonymous, and the router lets them call next to nothing.
"""

from __future__ import annotations

import functools
import hashlib
import os
import ssl
from collections.abc import Iterable
from typing import Any

from swarmpy.errors import BadCertificate
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.certificates import CertificateFacts, read_certificate
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.roots import joined, key_of, split

MAX_READ = 4096
"""Certificates whose contents are remembered: about a kilobyte each, of as many nodes as there may be."""
_DER = 2
"""``_ssl.ENCODING_DER``."""


def server_context(identity: NodeIdentity, more_roots: Iterable[bytes] = ()) -> ssl.SSLContext:
    """The context of the cluster port: shows ``identity``, takes certificates of its roots or of ``more_roots``."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Without tickets every connection shows its certificate anew: one that was refused cannot come back by resuming.
    context.num_tickets = 0
    trust(context, joined((*split(identity.ca_pem), *more_roots)))
    _show(context, identity)
    return context


def client_context(identity: NodeIdentity, more_roots: Iterable[bytes] = ()) -> ssl.SSLContext:
    """The context of a member that calls a member of its cluster."""
    context = joiner_context(joined((*split(identity.ca_pem), *more_roots)))
    _show(context, identity)
    return context


def joiner_context(ca_pem: bytes) -> ssl.SSLContext:
    """The context of a node that knows the cluster's CA but has no certificate yet."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    trust(context, ca_pem)
    return context


def unverified_context() -> ssl.SSLContext:
    """A context that trusts anybody. Only to fetch the root CA's certificate, which the join token then vouches for."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_identity(ssl_object: ssl.SSLObject | ssl.SSLSocket, cluster_id: str, *, address: str = "") -> Peer:
    """Who is on the other end of a finished handshake.

    Anonymous when the peer showed no certificate or this side does not verify. ``cluster_id`` "" accepts any cluster
    of the trusted CA (a joiner knows the CA before the id). Raises BadCertificate for another cluster's certificate
    and for one that is not a node's.
    """
    if ssl_object.context.verify_mode is ssl.CERT_NONE or ssl_object.getpeercert(binary_form=True) is None:
        return Peer(address=address)
    own, *signers = verified_chain(ssl_object)
    facts = _facts_of(own)
    if cluster_id and facts.cluster_id != cluster_id:
        raise BadCertificate(
            f"{address or 'the peer'} (node {facts.node_id}) belongs to cluster {facts.cluster_id}, not to {cluster_id}"
        )
    return Peer(
        node_id=facts.node_id,
        role=facts.role,
        cluster_id=facts.cluster_id,
        serial=facts.serial,
        address=address,
        certificate=hashlib.sha256(own).hexdigest(),
        signers=tuple(key_of(ca) for ca in signers),
    )


@functools.lru_cache(maxsize=MAX_READ)
def _facts_of(certificate: bytes) -> CertificateFacts:
    """What a certificate (DER) that TLS has verified says, remembered: a node shows the same one each time it comes.

    Only what its bytes say. Whether it counts (its chain, its dates, what was revoked since) is asked each time anew.
    """
    return read_certificate(certificate)


def verified_chain(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """The certificates (DER) by which the peer's was verified in a finished handshake: its own first, a root last."""
    # Public from Python 3.13 on; before that it is there all the same, one level deeper.
    public = getattr(ssl_object, "get_verified_chain", None)
    if public is not None:
        return list(public())
    inner: Any = ssl_object
    return [found.public_bytes(_DER) for found in inner._sslobj.get_verified_chain()]


def check_peer(peer: Peer, *, node_id: NodeId | None = None, role: Role | None = None) -> None:
    """Raises BadCertificate unless the peer is that node and has that role (None: any)."""
    if node_id is not None and peer.node_id != node_id:
        raise BadCertificate(f"{peer.address} is node {peer.node_id}, not {node_id}")
    if role is not None and peer.role is not role:
        raise BadCertificate(f"{peer.address} (node {peer.node_id}) is not a {role}")


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def trust(context: ssl.SSLContext, ca_pem: bytes) -> None:
    """Have ``context`` trust these root CAs. Raises BadCertificate."""
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise BadCertificate("the root CA's certificate is not usable") from error


def _show(context: ssl.SSLContext, identity: NodeIdentity) -> None:
    # A certificate that stands alone OpenSSL completes by its root, in each handshake anew, and verifies what it has
    # found. What is sent is the same.
    links = split(identity.chain_pem) or [root for root in split(identity.ca_pem) if identity.is_of(root)]
    shown = joined((identity.cert_pem, *links))
    load_pair(context, shown, identity.key_pem, f"node {identity.node_id}")


def load_pair(context: ssl.SSLContext, cert_pem: bytes, key_pem: bytes, whose: str) -> None:
    """Have ``context`` show this certificate. Raises BadCertificate."""
    # The ssl module takes keys only from files. An anonymous one in memory leaves nothing behind on a disk.
    fd = os.memfd_create("swarm-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(cert_pem.rstrip() + b"\n" + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    except ssl.SSLError as error:
        raise BadCertificate(f"the certificate of {whose} is not usable: {error.reason}") from error
    finally:
        os.close(fd)


class Credentials:
    """The identity that a node shows right now, and whom it trusts. New connections are made with what is in force."""

    def __init__(self, identity: NodeIdentity) -> None:
        self._more_roots: tuple[bytes, ...] = ()
        self._server: ssl.SSLContext | None = None
        self.replace(identity)

    @property
    def identity(self) -> NodeIdentity:
        """The identity in force."""
        return self._identity

    def replace(self, identity: NodeIdentity) -> None:
        """Show another identity from the next connection on. Raises BadCertificate, and then changes nothing."""
        self._use(identity, self._more_roots)

    def trust_more(self, roots: tuple[bytes, ...]) -> None:
        """Let certificates of these root CAs through, too: somebody else has to tell which of them count."""
        if roots != self._more_roots:
            self._use(self._identity, roots)

    def _use(self, identity: NodeIdentity, more_roots: tuple[bytes, ...]) -> None:
        client = client_context(identity, more_roots)
        self._identity, self._server, self._client, self._more_roots = identity, None, client, more_roots

    def server_context(self) -> ssl.SSLContext:
        """The context for a connection that comes in."""
        if self._server is None:
            # Not before it is needed: a worker never does, and making it takes a millisecond.
            self._server = server_context(self._identity, self._more_roots)
        return self._server

    def client_context(self) -> ssl.SSLContext:
        """The context for a connection that goes out."""
        return self._client
