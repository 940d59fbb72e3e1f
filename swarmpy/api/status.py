"""``/status``, ``/healthz``, ``/readyz``: what this node knows right now, without asking anybody.

Read-only, and without secrets: these pages are also served on loopback without any authentication. They answer when
there is no quorum too; that is when they are needed most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import attrs

from swarmpy.api.access import require_manager
from swarmpy.api.backend import LeavingNode, ManagerBackend, NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.node_json import message_of
from swarmpy.api.request import ApiRequest, ApiResponse, json_response
from swarmpy.api.router import Route, Scope
from swarmpy.control.explain import count_replicas, why_not_running
from swarmpy.control.rotation import awaited
from swarmpy.manager.operations import live_services
from swarmpy.manager.raft_report import advice, members_seen
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster, Node, Service
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import NodeState
from swarmpy.store.view import View


class StatusApi:
    """Handlers of the status pages."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The routes of this part."""
        pages = {"/status": self.status, "/healthz": self.health, "/readyz": self.readiness}
        return [
            Route(method, path, Scope.LOCAL, Access.ANYBODY, handler)
            for path, handler in pages.items()
            for method in ("GET", "HEAD")
        ] + [Route("GET", "/status/raft", Scope.LOCAL, Access.VIEWER, self.raft)]

    async def status(self, _request: ApiRequest) -> ApiResponse:
        """``GET /status``: the node, the cluster as it knows it, and everything that is not as it should be."""
        return json_response(await node_status(self._node))

    async def raft(self, _request: ApiRequest) -> ApiResponse:
        """``GET /status/raft``: the consensus in full; only on managers, and not on the loopback page."""
        return json_response(await require_manager(self._node).raft_report())

    async def health(self, _request: ApiRequest) -> ApiResponse:
        """``GET /healthz``: 200 as long as the daemon answers."""
        return json_response({"status": "ok"})

    async def readiness(self, _request: ApiRequest) -> ApiResponse:
        """``GET /readyz``: 200 when the node can do its part, else 503 and why not."""
        reason = _why_not_ready(self._node)
        if reason:
            return json_response({"status": "not ready", "reason": reason}, 503)
        return json_response({"status": "ready"})


@attrs.frozen(kw_only=True)
class Quorum:
    """Whether the managers can agree on changes. Those that have no vote yet do not count."""

    healthy: bool
    managers: int
    reachable: int
    """Those this manager knows to be there, itself included."""
    needed: int


def quorum_of(manager: ManagerBackend) -> Quorum:
    """Healthy means: a leader is known, and so few managers are known to be away that a majority is left."""
    voters = {member.node_id for member in manager.raft_status().conf.voters}
    reach = {node_id: known for node_id, known in manager.reachable_managers().items() if node_id in voters}
    needed = len(reach) // 2 + 1
    away = sum(reachable is False for reachable in reach.values())
    return Quorum(
        healthy=manager.leader() is not None and len(reach) - away >= needed,
        managers=len(reach),
        reachable=sum(reachable is True for reachable in reach.values()),
        needed=needed,
    )


async def node_status(node: NodeBackend) -> dict[str, Any]:
    """The whole status page as plain data. On a worker the parts that only managers know are null.

    Gives way to the loop between services: to look at all tasks of a large cluster takes longer than a heartbeat.
    """
    manager = node.manager
    out: dict[str, Any] = {
        "cluster_id": node.cluster_id,
        "node_id": node.node_id,
        "state": node.local_state,
        "error": node.error,
        "version": node.version,
        "leader": None,
        "raft": None,
        "quorum": None,
        "nodes": None,
        "services": None,
        "advice": [],
        "leaving": _leaving(node.leaving()),
        "manager_addresses": [{"node_id": m.node_id, "address": m.address} for m in node.manager_addresses()],
    }
    problems = list(dict.fromkeys([*([node.error] if node.error else []), *node.problems()]))
    if manager is not None:
        services = []
        for service in sorted(live_services(manager.store.view()), key=lambda s: s.spec.name):
            services.append(_service(manager.store.view(), service))
            await asyncio.sleep(0)
        view, reach = manager.store.view(), manager.reachable_managers()
        out.update(_consensus(manager))
        nodes = sorted(view.nodes(), key=lambda other: (other.description.hostname, other.id))
        out["nodes"] = [_node(other, manager.leader(), reach) for other in nodes]
        out["services"] = services
        out["advice"] = advice(members_seen(manager.raft_status(), view))
        problems += _cluster_problems(view, quorum_of(manager), reach, services)
        problems += _root_problems(manager.store.cluster, view.nodes(), reach)
    out["problems"] = problems
    return out


def _leaving(leaving: LeavingNode | None) -> dict[str, Any] | None:
    if leaving is None:
        return None
    told = leaving.departure
    return {
        "waited_s": round(leaving.waited, 1),
        "timeout_s": leaving.timeout,
        "left": None if told is None else told.left,
        "services": [] if told is None else [attrs.asdict(service) for service in told.services],
    }


def _consensus(manager: ManagerBackend) -> dict[str, Any]:
    leader, raft = manager.leader(), manager.raft_status()
    return {
        "leader": None if leader is None else {"node_id": leader[0], "address": leader[1]},
        "raft": {
            "raft_id": raft.raft_id,
            "role": raft.role.name.lower(),
            "term": raft.term,
            "commit": raft.commit,
            "applied": raft.applied,
        },
        "quorum": attrs.asdict(quorum_of(manager)),
    }


def _node(node: Node, leader: tuple[str, str] | None, reach: Mapping[str, bool | None]) -> dict[str, Any]:
    return {
        "id": node.id,
        "hostname": node.description.hostname,
        "role": str(node.spec.role),
        "availability": str(node.spec.availability),
        "state": str(node.status.state),
        "address": node.status.address,
        "leader": leader is not None and leader[0] == node.id,
        "reachable": reach.get(node.id),
        "message": message_of(node.status),
    }


def _service(view: View, service: Service) -> dict[str, Any]:
    replicas = count_replicas(view, service)
    return {
        "id": service.id,
        "name": service.spec.name,
        "mode": str(service.spec.mode),
        "running": replicas.running,
        "desired": replicas.desired,
        **({"completed": replicas.completed} if service.spec.mode.is_job else {}),
        "ports": [_port(port) for port in service.ports],
        "reason": why_not_running(view, service),
    }


def _port(port: PortConfig) -> str:
    """Docker's short form, ``8080->80/tcp``."""
    published = f"{port.published_port}->" if port.published_port else ""
    return f"{published}{port.target_port}/{port.protocol}"


def _cluster_problems(
    view: View, quorum: Quorum, reach: Mapping[str, bool | None], services: list[dict[str, Any]]
) -> list[str]:
    found = []
    if not quorum.healthy:
        found.append(
            f"no quorum: {quorum.reachable} of {quorum.managers} managers reachable, {quorum.needed} needed; "
            "running tasks go on, but nothing can be changed: bring managers back, or, if they are lost for good, go "
            'on from this one with "swarmpy swarm init --force-new-cluster"'
        )
    names: dict[str, str] = {node.id: node.description.hostname or node.id for node in view.nodes()}
    found += [f"manager {names.get(node_id, node_id)} is not reachable" for node_id, ok in reach.items() if ok is False]
    for node in view.nodes():
        name = names[node.id]
        if node.status.state is NodeState.DOWN:
            found.append(f"node {name} is down: {node.status.message or 'no heartbeat'}")
        elif message := message_of(node.status):
            found.append(f"node {name}: {message}")
    for service in services:
        if service["running"] < service["desired"] or service["reason"]:
            reason = f": {service['reason']}" if service["reason"] else ""
            found.append(
                f"service {service['name']}: {service['running']} of {service['desired']} tasks running{reason}"
            )
    return found


def _root_problems(cluster: Cluster | None, nodes: tuple[Node, ...], reach: Mapping[str, bool | None]) -> list[str]:
    if cluster is None or cluster.rotation is None:
        return []
    there = {NodeId(node_id) for node_id, ok in reach.items() if ok is not False}
    waiting = [f"{node.description.hostname or node.id} ({why})" for node, why in awaited(cluster, nodes, there)]
    return [f"the root CA is being changed: waiting for {', '.join(waiting) or 'the leader'}"]


def _why_not_ready(node: NodeBackend) -> str:
    """ "" when it is ready."""
    if node.local_state != "active":
        return node.error or f"this node is {node.local_state}, not active in a swarm"
    if node.manager is not None and not quorum_of(node.manager).healthy:
        return "no quorum: too few managers are online"
    return ""
