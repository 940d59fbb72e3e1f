"""How a machine becomes a node: the calls about certificates, answered by managers.

``ca.root`` and ``ca.join`` are the only calls open to a caller without a certificate. The root certificate is no
secret: the joiner compares its digest with the one in its token before it sends the token anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import structlog

from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, ProtocolViolation
from swarmpy.manager import claims
from swarmpy.manager.incarnations import check_incarnation
from swarmpy.manager.join_guard import JoinGuard
from swarmpy.model import codec
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.ids import ClusterId, NodeId, encode_id
from swarmpy.model.objects import Cluster, Node, NodeStatus
from swarmpy.model.specs import NodeSpec, RaftConfig
from swarmpy.model.states import Availability, NodeState, Role
from swarmpy.ports import Clock, Peer, Random
from swarmpy.security import ca, tokens
from swarmpy.store.memory import Store
from swarmpy.store.schema import check_reader

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
class Certified:
    """The answer to ``ca.join`` and ``ca.renew``."""

    node_id: NodeId
    role: Role
    cluster_id: ClusterId
    cert_pem: bytes
    raft: RaftConfig
    managers: tuple[ManagerAddress, ...] = ()


class Registrar:
    """Answers the calls about certificates. Only the leader signs."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        random: Random,
        ca_pem: bytes,
        managers: Callable[[], tuple[ManagerAddress, ...]],
        require_leader: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._ca_pem = ca_pem
        self._managers = managers
        self._require_leader = require_leader
        self._guard = JoinGuard(clock)

    async def root(self, _peer: Peer, _payload: Any) -> Any:
        """``ca.root``: the cluster's root certificate, PEM."""
        return {"cert_pem": self._ca_pem}

    async def join(self, peer: Peer, payload: Any) -> Any:
        """``ca.join``: a :class:`JoinCall` for a :class:`Certified`.

        Raises PermissionDenied on a wrong token, Unavailable after too many of them, FailedPrecondition for a manager
        of a version that is too old, or one node too many. Of a wrong token nothing is told but that it is wrong.
        """
        self._require_leader()
        self._guard.check(peer)
        view = self._store.view()
        cluster = view.cluster()
        try:
            call = codec.from_plain(JoinCall, payload)
            role = _role(call, cluster)
        except (ProtocolViolation, PermissionDenied) as error:
            self._guard.failed(peer, error.message)
            raise
        known = self._guard.answer_to(call.token, call.csr_pem)
        if known is not None and view.node(known[0]) is not None:
            # Its answer was lost. It is one machine, however often it asks.
            return known[1]
        if role is Role.MANAGER:
            check_reader(call.schema, cluster)
        claims.check_hostname(call.hostname)
        if len(view.nodes()) >= MAX_NODES:
            raise FailedPrecondition(
                f"the cluster has {MAX_NODES} nodes, and that is as many as it takes: remove those that are gone "
                '("swarmpy node rm"), and change the join tokens if they are in wrong hands'
            )
        node_id = NodeId(encode_id(self._random.randbytes(16)))
        certified = self._sign(node_id, role, call.csr_pem)
        node = Node(
            id=node_id,
            spec=NodeSpec(role=role, availability=call.availability),
            description=attrs.evolve(Node(id=node_id).description, hostname=call.hostname),
            status=NodeStatus(state=NodeState.UNKNOWN),
        )
        await self._store.update(lambda tx: tx.create(node))
        log.info("node_joined", node=node_id, role=role.value, address=peer.address)
        answer = codec.to_plain(certified)
        self._guard.answered(call.token, call.csr_pem, node_id, answer)
        return answer

    async def renew(self, peer: Peer, payload: Any) -> Any:
        """``ca.renew``: a new certificate for a member, with the role it should have now."""
        self._require_leader()
        csr_pem = payload.get("csr_pem") if isinstance(payload, dict) else None
        if not isinstance(csr_pem, bytes):
            raise InvalidArgument("ca.renew: csr_pem is missing")
        view = self._store.view()
        check_incarnation(view.cluster(), payload)
        node = view.node(peer.node_id) if peer.node_id else None
        if node is None:
            raise NotFound(f"node {peer.node_id} is not a member of this cluster (any more)")
        role = Role.MANAGER if node.manager is not None else node.spec.role
        log.info("certificate_renewed", node=node.id, role=role.value)
        return codec.to_plain(self._sign(node.id, role, csr_pem))

    def _sign(self, node_id: NodeId, role: Role, csr_pem: bytes) -> Certified:
        cluster = self._store.view().cluster()
        cert_pem = ca.issue(
            cluster.root_ca,
            csr_pem,
            node_id=node_id,
            role=role,
            cluster_id=cluster.id,
            expiry_ns=cluster.spec.node_cert_expiry_ns,
            now_ns=self._clock.time_ns(),
        )
        return Certified(
            node_id=node_id,
            role=role,
            cluster_id=cluster.id,
            cert_pem=cert_pem,
            raft=cluster.spec.raft,
            managers=self._managers(),
        )


def _role(call: JoinCall, cluster: Cluster) -> Role:
    role = tokens.role_of_token(call.token, cluster.join_tokens)
    if role is None:
        raise PermissionDenied(tokens.INVALID)
    return role
