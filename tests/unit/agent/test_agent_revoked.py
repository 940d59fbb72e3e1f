"""Certificates that count no more: an agent's own, and those of who says to be a manager."""

from __future__ import annotations

import pytest
from agent_world import Host, Manager, eventually

from swarmpy.errors import CertificateRevoked
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security.serials import make_serial


def shows(number: int, node: str = "m") -> Peer:
    """Somebody with a manager's certificate of that number."""
    return Peer(node_id=NodeId(node), role=Role.MANAGER, serial=f"{make_serial(number, b'key'):x}", address="m:1")


async def test_a_manager_that_is_none_any_more_is_refused_over_a_restart_too() -> None:
    """As the leader said; a later certificate of the node is another matter, and so are other nodes."""
    manager = Manager("m:1")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m:1")
        agent.cluster.check_manager(shows(3))
        manager.tell(revoked={"m": 3})
        manager.tell(revoked={"m": 2, "n": 1})  # what a leader knows that is one no more
        await eventually(lambda: host.local.remembered.revoked == {"m": 3, "n": 1})
    manager.alive = False
    host.network.dialled.clear()
    async with host.run() as agent:
        await eventually(lambda: manager.address in host.network.dialled)
        with pytest.raises(CertificateRevoked, match="node m is no manager any more"):
            agent.cluster.check_manager(shows(3))
        agent.cluster.check_manager(shows(4))
        agent.cluster.check_manager(shows(3, "other"))
        agent.cluster.check_manager(Peer(node_id=NodeId("m"), role=Role.MANAGER))
        # A cluster that was begun anew from an older state counts from there on.
        await agent.supersede(9, "m:1")
        agent.cluster.check_manager(shows(3))
        assert host.local.remembered.revoked == {}


async def test_a_refusal_for_its_own_certificate_is_told() -> None:
    """Whoever gets certificates for this node has to hear of it; the agent goes on trying."""
    manager = Manager("m:1")
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m:1")
        assert host.revocations == 0
        manager.end_session(CertificateRevoked("it was revoked"))
        await eventually(lambda: host.revocations == 1 and len(manager.requests) == 2)
        assert agent.cluster.role is Role.WORKER
        agent.cluster.role = Role.MANAGER
        assert (agent.cluster.role, host.roles) == (Role.MANAGER, [])
