"""Nodes of a cluster whose root CA changes, and real handshakes between them, in memory."""

from __future__ import annotations

import ssl
import time

import attrs

from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, JoinTokens, RootCA
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security import roots
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.identity import NodeIdentity, csr_for, new_key_and_csr
from swarmpy.security.tls import Credentials, peer_identity

DAY_NS = 24 * 3600 * 1_000_000_000
TOKENS = JoinTokens(worker="w", manager="m")


def cluster_of(root: RootCA | None = None) -> Cluster:
    """A cluster with one root."""
    return Cluster(id=ClusterId("c1"), root_ca=root or create_root_ca(time.time_ns()), join_tokens=TOKENS)


def rotating(cluster: Cluster, root: RootCA | None = None) -> Cluster:
    """The same when a change of its root has begun."""
    now_ns = time.time_ns()
    return roots.begun(cluster, root or create_root_ca(now_ns), now_ns)


def rotated(cluster: Cluster) -> Cluster:
    """The same when that is over."""
    return roots.finished(cluster, TOKENS, time.time_ns() + DAY_NS)


def signed(
    root: RootCA,
    *,
    node_id: str = "node1",
    role: Role = Role.MANAGER,
    cluster_id: str = "c1",
    now_ns: int = 0,
    expiry_ns: int = DAY_NS,
    key_pem: bytes = b"",
    csr_pem: bytes = b"",
    number: int = 0,
) -> tuple[bytes, bytes]:
    """A node's key, a new one unless it is given, and its certificate by ``root``, for that key or that request."""
    key_pem = key_pem or new_key_and_csr()[0]
    cert_pem = issue(
        root,
        csr_pem or csr_for(key_pem),
        node_id=NodeId(node_id),
        role=role,
        cluster_id=cluster_id,
        number=number,
        expiry_ns=expiry_ns,
        now_ns=now_ns or time.time_ns(),
    )
    return key_pem, cert_pem


def node(cluster: Cluster, node_id: str = "node1", role: Role = Role.MANAGER) -> NodeIdentity:
    """A node that has got its certificate when the cluster was this one."""
    key_pem, cert_pem = signed(roots.signing_root(cluster), node_id=node_id, role=role)
    return NodeIdentity.from_pem(
        cert_pem=cert_pem,
        key_pem=key_pem,
        ca_pem=roots.joined(roots.trusted_pem(cluster)),
        chain_pem=roots.joined(roots.chain(cluster)),
    )


def shown(identity: NodeIdentity, trusts: bytes, *chain: bytes) -> NodeIdentity:
    """The node with other roots and another chain, whether they fit or not."""
    return attrs.evolve(identity, ca_pem=trusts, chain_pem=roots.joined(chain))


def meet(
    client: NodeIdentity | Credentials, server: NodeIdentity | Credentials, cluster_id: str = "c1"
) -> tuple[Peer, Peer]:
    """Whom the client and the server see; raises the error of the side that refuses."""
    calling, listening = ends(client, server)
    return peer_identity(calling, cluster_id), peer_identity(listening, cluster_id)


def ends(client: NodeIdentity | Credentials, server: NodeIdentity | Credentials) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """The client's and the server's end of a handshake that is done; raises the error of the side that refuses."""
    one = client if isinstance(client, Credentials) else Credentials(client)
    other = server if isinstance(server, Credentials) else Credentials(server)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = one.client_context().wrap_bio(to_client, to_server)
    listening = other.server_context().wrap_bio(to_server, to_client, server_side=True)
    waiting = [calling, listening]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    return calling, listening


def accepts(verifier: NodeIdentity, peer: NodeIdentity, trusted_by_peer: bytes) -> bool:
    """True when ``verifier`` takes ``peer`` both as the one that it calls and as the one that calls it.

    The peer trusts whatever the verifier may show, so that only the verifier can refuse.
    """
    generous = attrs.evolve(peer, ca_pem=trusted_by_peer)
    taken = []
    for client, server in ((verifier, generous), (generous, verifier)):
        try:
            meet(client, server)
        except ssl.SSLCertVerificationError:
            taken.append(False)
        else:
            taken.append(True)
    assert len(set(taken)) == 1, "a client and a server judge alike"
    return taken[0]
