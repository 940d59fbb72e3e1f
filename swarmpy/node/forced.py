"""``swarm init --force-new-cluster``: who may begin a cluster anew, and as whom the manager goes on."""

from __future__ import annotations

import asyncio

import attrs

from swarmpy.api.backend import InitRequest
from swarmpy.errors import FailedPrecondition, NotInCluster, Unavailable
from swarmpy.manager.manager import Manager
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.states import Role
from swarmpy.node import addresses
from swarmpy.node.datadir import NodeState
from swarmpy.node.member import Member

LEAST_PATIENCE_S = 3.0
"""Seconds in which managers that have only just started surely find each other."""
ELECTIONS = 6
"""The same in the cluster's own time, in election timeouts; the longer of both counts."""
POLL_S = 0.1


def manager_of(member: Member | None) -> Member:
    """``member``, when it is a manager. Raises NotInCluster."""
    if member is None:
        raise NotInCluster(
            "This node is not part of a swarm, so there is nothing to begin anew: without --force-new-cluster it "
            'founds a new cluster; "swarm restore" brings one back from a backup'
        )
    if member.role is not Role.MANAGER:
        raise NotInCluster(
            "This node is a worker, which does not have the swarm's state: run this on a manager that is left, or "
            'restore a backup with "swarm restore"'
        )
    return member


async def check_no_quorum(member: Member) -> None:
    """Return when the managers have had the time to agree and have not.

    Raises FailedPrecondition when they have, and when this one has no log to go on from.
    """
    loop = asyncio.get_running_loop()
    patience = max(LEAST_PATIENCE_S, ELECTIONS * member.state.raft.election_ns / 1e9)
    deadline = loop.time() + patience
    while (left := deadline - loop.time()) > 0:
        manager = member.manager
        if manager is not None and manager.raft.is_loaded:
            try:
                await manager.read_barrier(left)
            except Unavailable:
                # Cut off, for now: it may have started a moment ago, and the others, too.
                await asyncio.sleep(POLL_S)
            else:
                raise FailedPrecondition(_nothing_to_force(manager))
        else:
            await asyncio.sleep(POLL_S)
    if member.manager is not None and not member.manager.raft.conf.voters:
        raise FailedPrecondition(
            "this manager has lost its log, and the swarm's state with it: run this on another one that is left, or "
            'leave the swarm here and restore a backup with "swarm restore"'
        )


def _nothing_to_force(manager: Manager) -> str:
    status = manager.raft_status()
    voters = status.conf.voters
    leads = "this one leads" if status.leader is None or status.is_leader else f"{status.leader.address} leads"
    who = "this is its only manager" if len(voters) == 1 else f"its {len(voters)} managers have a quorum, and {leads}"
    return (
        f"the swarm needs no force: {who}. A manager that is lost goes with "
        '"swarmpy node demote NODE" and "swarmpy node rm --force NODE"'
    )


def new_state(state: NodeState, request: InitRequest, raft_id: int) -> NodeState:
    """Who the manager is from then on: of its own group, at the addresses that were asked for or those it has.

    May ask the resolver. Raises InvalidArgument, FailedPrecondition.
    """
    listen, advertise = state.listen_address, state.advertise_address
    if request.listen_addr or request.advertise_addr:
        listen, advertise = addresses.choose(_listen(state, request), request.advertise_addr, "")
    me = ManagerAddress(node_id=state.node_id, address=advertise)
    return attrs.evolve(state, raft_id=raft_id, listen_address=listen, advertise_address=advertise, managers=(me,))


def moves(before: NodeState, after: NodeState) -> bool:
    """True when the manager is to be at another address."""
    return (before.listen_address, before.advertise_address) != (after.listen_address, after.advertise_address)


def _listen(state: NodeState, request: InitRequest) -> str:
    if request.listen_addr:
        return request.listen_addr
    host, port = addresses.parse(state.listen_address, what="--listen-addr")
    if host in addresses.ANY:
        return state.listen_address
    # It listened on one address only: that is what moves.
    return addresses.join(addresses.parse(request.advertise_addr, what="--advertise-addr")[0], port)
