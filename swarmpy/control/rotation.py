"""When a change of the root CA takes its next step, and for whom it waits.

A node has moved when it was *seen* to show a certificate of the new root and said that it trusts that root. When all
that are there have, the new root is the only one. Who was away is let in with the certificate that it has, as it is
known, gets a new one, and the root before it is forgotten with the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import attrs

from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster, FormerRoot, JoinTokens, Node
from swarmpy.model.states import NodeState
from swarmpy.security import roots

UNSEEN = "what it shows and trusts is not known: its swarmpy is too old, or it has not come yet"
NOT_RENEWED = "it still shows a certificate of the root CA before"
NOT_TRUSTING = "it does not trust the new root CA yet"


@attrs.frozen(kw_only=True)
class Wanted:
    """What every node is to show and to trust."""

    issuer: str
    """The digest of the root CA that its certificate is of."""
    roots: frozenset[str]
    """The digests of the root CAs that it trusts."""

    @classmethod
    def of(cls, cluster: Cluster) -> Wanted:
        """As things are."""
        trusted = frozenset(root.cert_digest for root in roots.trusted(cluster))
        return cls(issuer=roots.signing_root(cluster).cert_digest, roots=trusted)

    def is_met_by(self, node: Node) -> bool:
        """True when nothing is left for the node to do."""
        tls = node.tls
        return tls is not None and tls.issuer == self.issuer and self.roots == frozenset(tls.roots)

    def why_not_moved(self, node: Node) -> str:
        """What keeps the node from living with the new root alone; "" when nothing does."""
        if node.tls is None:
            return UNSEEN
        if node.tls.issuer != self.issuer:
            return NOT_RENEWED
        return "" if self.issuer in node.tls.roots else NOT_TRUSTING


def awaited(cluster: Cluster, nodes: Iterable[Node], managers: Collection[NodeId]) -> list[tuple[Node, str]]:
    """The nodes that a change of the root waits for, and why. ``managers``: those in the Raft group that are there.

    A node that is away is not waited for. A manager may have no session, as its engine does not answer, and be there
    all the same: others would refuse it.
    """
    wanted = Wanted.of(cluster)
    found = []
    for node in nodes:
        is_there = node.status.state is NodeState.READY or node.id in managers
        # A new leader, or one that has begun the cluster anew, has not heard of it yet.
        is_expected = node.status.state is NodeState.UNKNOWN and node.tls is not None
        if (is_there or is_expected) and (why := wanted.why_not_moved(node)):
            found.append((node, why))
    return found


def settled(
    cluster: Cluster,
    nodes: Collection[Node],
    managers: Collection[NodeId],
    new_tokens: Callable[[str], JoinTokens],
    now_ns: int,
) -> Cluster:
    """The cluster after the steps that can be taken now; the same one when there are none.

    ``new_tokens`` makes join tokens for a root CA's digest: those of the root before are of no use any more.
    """
    if cluster.rotation is not None and not awaited(cluster, nodes, managers):
        tokens = new_tokens(cluster.rotation.root.cert_digest)
        cluster = roots.finished(cluster, tokens, _last_end_ns(cluster, nodes, now_ns))
    needed = _roots_in_use(cluster, nodes)
    former = list(cluster.former_roots)
    # In the order of time: a node that trusts one of them needs the chain through all that came after it.
    while former and not _is_needed(former[0], needed, now_ns):
        del former[0]
    kept = tuple(former)
    return cluster if kept == cluster.former_roots else attrs.evolve(cluster, former_roots=kept)


def _is_needed(root: FormerRoot, in_use: Collection[str], now_ns: int) -> bool:
    return now_ns < root.until_ns and roots.digest_of(root.cert_pem) in in_use


def _roots_in_use(cluster: Cluster, nodes: Iterable[Node]) -> set[str]:
    """The root CAs that some nodes still trust, or have certificates of."""
    wanted = Wanted.of(cluster)
    found: set[str] = set()
    for node in nodes:
        if node.tls is not None:
            found.update((node.tls.issuer, *node.tls.roots))
        # What it was given last may be what it has by now, though nobody has seen it.
        if node.certificate is not None and not wanted.is_met_by(node):
            found.add(node.certificate.issuer)
    return found


def _last_end_ns(cluster: Cluster, nodes: Iterable[Node], now_ns: int) -> int:
    """When the last certificate of the present root ends, as far as that is known."""
    ends = [node.certificate.not_after_ns for node in nodes if node.certificate is not None]
    return max([now_ns + cluster.spec.node_cert_expiry_ns, *ends])
