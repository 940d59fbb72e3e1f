"""``/nodes``."""

from __future__ import annotations

from swarmpy.api.access import require_manager
from swarmpy.api.backend import ManagerBackend, NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.filters import Filters, parse_filters
from swarmpy.api.json_fields import parse_json
from swarmpy.api.node_json import ManagerView, node_spec_from_json, node_to_json
from swarmpy.api.request import ApiRequest, ApiResponse, json_response
from swarmpy.api.router import Route, Scope
from swarmpy.api.swarm_json import node_tls_info
from swarmpy.manager import operations
from swarmpy.model.objects import Node
from swarmpy.model.states import Role

MAX_DRAIN_S = 3600.0
"""Most seconds that a node may be told to wait until its tasks have moved."""

_FILTERS = frozenset({"id", "label", "node.label", "membership", "name", "role"})


class NodesApi:
    """Handlers of nodes."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route("GET", "/nodes", Scope.READ, Access.VIEWER, self.list_all),
            Route("GET", "/nodes/{id}", Scope.READ, Access.VIEWER, self.inspect),
            Route("POST", "/nodes/{id}/update", Scope.WRITE, Access.ADMIN, self.update),
            Route("POST", "/node/drain", Scope.LOCAL, Access.ADMIN, self.drain, sets_bound=True),
            Route("DELETE", "/nodes/{id}", Scope.WRITE, Access.ADMIN, self.remove),
        ]

    async def list_all(self, request: ApiRequest) -> ApiResponse:
        """``GET /nodes``."""
        filters = parse_filters(request, _FILTERS)
        filters.check("role", Role)
        filters.check("membership", ("accepted", "pending"))
        manager = require_manager(self._node)
        nodes = [node for node in manager.store.view().nodes() if _matches(node, filters)]
        return json_response([_show(manager, node) for node in nodes])

    async def inspect(self, request: ApiRequest) -> ApiResponse:
        """``GET /nodes/{id}``. ``self`` is no name here: clients look it up in ``/info``."""
        manager = require_manager(self._node)
        return json_response(_show(manager, operations.find_node(manager.store.view(), request.params["id"])))

    async def drain(self, request: ApiRequest) -> ApiResponse:
        """``POST /node/drain?timeout=&undo=``: of the daemon's own node, until it is started again.

        Answers what does not run elsewhere, where something does not. ``timeout``: most seconds that its tasks have.
        """
        timeout = request.seconds("timeout", most=MAX_DRAIN_S)
        lost = await self._node.drain(timeout=timeout, undo=request.boolean("undo"))
        return json_response({"Warnings": list(lost)}) if lost else ApiResponse()

    async def update(self, request: ApiRequest) -> ApiResponse:
        """``POST /nodes/{id}/update?version=`` with the whole spec."""
        version = request.version("node")
        spec = node_spec_from_json(parse_json(request.body))
        manager = require_manager(self._node)
        await operations.update_node(
            manager.store,
            request.params["id"],
            version,
            spec,
            check_demotion=manager.check_demotion,
            request=request.request_id,
        )
        return ApiResponse()

    async def remove(self, request: ApiRequest) -> ApiResponse:
        """``DELETE /nodes/{id}?force=``."""
        store = require_manager(self._node).store
        force = request.boolean("force")
        await operations.remove_node(store, request.params["id"], force=force, request=request.request_id)
        return ApiResponse()


def _show(manager: ManagerBackend, node: Node) -> dict[str, object]:
    leader = manager.leader()
    status = None
    if node.manager is not None:
        status = ManagerView(
            leader=leader is not None and leader[0] == node.id,
            reachable=manager.reachable_managers().get(node.id),
        )
    return node_to_json(node, manager=status, tls_info=node_tls_info(manager.store.view().cluster(), node))


def _matches(node: Node, filters: Filters) -> bool:
    return (
        filters.starts_one_of("id", node.id)
        and filters.starts_one_of("name", node.description.hostname, node.spec.name)
        and filters.labels("label", node.description.engine_labels)
        and filters.labels("node.label", node.spec.labels)
        and filters.one_of("role", str(node.spec.role))
        and filters.one_of("membership", "accepted")
    )
