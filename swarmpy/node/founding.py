"""The first moments of a cluster: its CA, its tokens, its first node."""

from __future__ import annotations

import attrs

from swarmpy.manager.certificates import described
from swarmpy.manager.unlock_keys import with_unlock_key
from swarmpy.model import codec
from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.model.ids import ClusterId, NodeId, encode_id
from swarmpy.model.objects import Cluster, ManagerStatus, Node, NodeDescription, NodeStatus
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Availability, NodeState, Role
from swarmpy.ports import Random
from swarmpy.security import ca, tokens
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx


@attrs.frozen(kw_only=True)
class Founding:
    """What the first manager writes as soon as it leads."""

    cluster: Cluster
    node: Node
    identity: NodeIdentity

    async def write(self, store: Store) -> None:
        """Write it, on the leader. Raises as :meth:`Store.update`."""

        def create(tx: Tx) -> None:
            tx.create(self.cluster)
            tx.create(self.node)

        await store.update(create)


def found(
    *,
    raft_id: int,
    address: str,
    hostname: str,
    availability: Availability,
    spec: ClusterSpec,
    now_ns: int,
    random: Random,
) -> Founding:
    """A new cluster with this machine as its first manager, reachable at ``address`` (``host:port``)."""
    cluster_id = ClusterId(encode_id(random.randbytes(16)))
    node_id = NodeId(encode_id(random.randbytes(16)))
    root = ca.create_root_ca(now_ns)
    key_pem, csr_pem = new_key_and_csr()
    cert_pem = ca.issue(
        root,
        csr_pem,
        node_id=node_id,
        role=Role.MANAGER,
        cluster_id=cluster_id,
        number=1,
        expiry_ns=spec.node_cert_expiry_ns,
        now_ns=now_ns,
    )
    identity = NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=root.cert_pem)
    join_tokens = tokens.make_tokens(root.cert_digest, random)
    # Its only manager is this one, which reads the newest.
    cluster = Cluster(id=cluster_id, spec=spec, root_ca=root, join_tokens=join_tokens, schema=codec.SCHEMA_VERSION)
    cluster = with_unlock_key(cluster, rotate=False, random_bytes=random.randbytes)
    node = Node(
        id=node_id,
        spec=NodeSpec(role=Role.MANAGER, availability=availability),
        role=Role.MANAGER,
        description=NodeDescription(hostname=hostname),
        status=NodeStatus(state=NodeState.UNKNOWN),
        manager=ManagerStatus(raft_id=raft_id, address=address),
        certificate=described(cert_pem, root),
    )
    return Founding(cluster=cluster, node=node, identity=identity)
