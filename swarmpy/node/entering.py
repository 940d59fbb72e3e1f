"""How a node comes into a cluster: as the one that founds it, or as one that joins. Nothing is written down here."""

from __future__ import annotations

import asyncio

import attrs
import structlog

from swarmpy.api.backend import InitRequest, JoinRequest
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster
from swarmpy.node import addresses
from swarmpy.node.config import NodeConfig
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.founding import Founding, found
from swarmpy.node.joining import fetch_identity
from swarmpy.node.manager_half import new_raft_id
from swarmpy.ports import Clock, Random, Runtime
from swarmpy.raft.messages import Snapshot
from swarmpy.runtime.choose import choose_runtime
from swarmpy.security.identity import NodeIdentity

log = structlog.get_logger(__name__)


@attrs.frozen(kw_only=True)
class Entry:
    """What a machine needs to be a node of a cluster that it was not in before."""

    state: NodeState
    identity: NodeIdentity
    runtime: Runtime
    founding: Founding | None = attrs.field(default=None, repr=False)
    """What it writes as the first manager of a new cluster."""
    first_snapshot: Snapshot | None = attrs.field(default=None, repr=False)
    """What the log begins with of one that brings a cluster back."""
    begins: Cluster | None = attrs.field(default=None, repr=False)
    """The cluster, where it is there, or there again, by this node only; None for one that joins."""


async def runtime_for(
    config: NodeConfig,
    data: DataDir,
    node_id: NodeId,
    advertise: str,
    kind: str | None = None,
    *,
    may_be_away: bool = False,
) -> Runtime:
    """The runtime of a node that others reach at ``advertise``; ``kind`` goes before what ``config`` says.

    ``may_be_away``: also one whose engine does not answer. Raises as :func:`choose_runtime`.
    """
    runtime, reason = await choose_runtime(
        kind or config.runtime or "auto",
        node_id=node_id,
        node_address=addresses.parse(advertise, what="advertise address")[0],
        hostname=config.hostname,
        directory=data.tasks,
        may_be_away=may_be_away,
        generic=config.generic_resources,
    )
    log.info("runtime_chosen", runtime=runtime.name, reason=reason)
    return runtime


async def by_founding(request: InitRequest, config: NodeConfig, data: DataDir, clock: Clock, random: Random) -> Entry:
    """As the first manager of a new cluster. Raises InvalidArgument for addresses, and as :func:`runtime_for`."""
    listen, advertise = await asyncio.to_thread(addresses.choose, request.listen_addr, request.advertise_addr, "")
    raft_id = new_raft_id(random)
    founding = found(
        raft_id=raft_id,
        address=advertise,
        hostname=config.hostname,
        availability=request.availability,
        spec=request.spec,
        now_ns=clock.time_ns(),
        random=random,
    )
    runtime = await runtime_for(config, data, founding.node.id, advertise)
    state = NodeState(
        cluster_id=founding.cluster.id,
        node_id=founding.node.id,
        raft_id=raft_id,
        listen_address=listen,
        advertise_address=advertise,
        address_chosen=addresses.is_chosen(request.listen_addr, request.advertise_addr),
        runtime=runtime.name,
        raft=request.spec.raft,
    )
    return Entry(state=state, identity=founding.identity, runtime=runtime, founding=founding, begins=founding.cluster)


async def by_joining(request: JoinRequest, config: NodeConfig, data: DataDir, random: Random) -> Entry:
    """As a node that a manager lets in: the cluster counts it from then on.

    Raises as :func:`fetch_identity` and :func:`runtime_for`, and InvalidArgument for addresses.
    """
    remote = [addresses.join(*addresses.parse(a, what="manager address")) for a in request.remote_addrs]
    listen, advertise = await asyncio.to_thread(
        addresses.choose, request.listen_addr, request.advertise_addr, remote[0]
    )
    # An engine that does not answer must be known before the cluster counts on this node.
    probe = await runtime_for(config, data, NodeId(""), advertise)
    identity, certified = await fetch_identity(
        remote, request.join_token, hostname=config.hostname, availability=request.availability, random=random
    )
    state = NodeState(
        cluster_id=ClusterId(identity.cluster_id),
        node_id=identity.node_id,
        raft_id=new_raft_id(random),
        listen_address=listen,
        advertise_address=advertise,
        address_chosen=addresses.is_chosen(request.listen_addr, request.advertise_addr),
        runtime=probe.name,
        raft=certified.raft,
        managers=certified.managers,
    )
    runtime = await runtime_for(config, data, identity.node_id, advertise, probe.name)
    return Entry(state=state, identity=identity, runtime=runtime)
