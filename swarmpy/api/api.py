"""The whole API: finds the handler of a request, runs it where it has to run, and turns errors into answers.

Knows no HTTP server. Requests arrive from this node's own sockets (:meth:`Api.handle`) and, when this manager leads,
from other managers (:meth:`Api.on_forwarded`).
"""

from __future__ import annotations

from typing import Any

import attrs

from swarmpy.api import forward
from swarmpy.api.access import require_manager
from swarmpy.api.backend import ManagerBackend, NodeBackend
from swarmpy.api.nodes import NodesApi
from swarmpy.api.request import ApiRequest, ApiResponse, error_response, message_response
from swarmpy.api.router import ApiRouter, Handler, Route, Scope
from swarmpy.api.services import ServicesApi
from swarmpy.api.status import StatusApi
from swarmpy.api.swarm import SwarmApi
from swarmpy.api.system import SystemApi
from swarmpy.api.tasks import TasksApi
from swarmpy.errors import InvalidArgument, NotLeader, SwarmpyError, Unavailable, UserError
from swarmpy.ports import Peer

CONFIRM_TIMEOUT_S = 2.0
"""A leader that cannot reach a majority for an election timeout steps down; this is longer."""


class Api:
    """Answers requests for one node."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node
        parts = (ServicesApi, TasksApi, NodesApi, SwarmApi, StatusApi, SystemApi)
        self._router = ApiRouter(route for part in parts for route in part(node).routes())

    @property
    def node(self) -> NodeBackend:
        """The node this API belongs to."""
        return self._node

    async def handle(self, request: ApiRequest) -> ApiResponse:
        """Answer a request of a client. Never raises a SwarmpyError."""
        try:
            found = self._router.find(request.method, request.path)
            if found is None:
                return message_response(404, "page not found")
            route, params = found
            return await self._run(route, attrs.evolve(request, params=params))
        except SwarmpyError as error:
            return error_response(error)

    async def _run(self, route: Route, request: ApiRequest) -> ApiResponse:
        match route.scope:
            case Scope.LOCAL:
                return await route.handler(request)
            case Scope.READ:
                await forward.read_barrier(require_manager(self._node))
                return await route.handler(request)
            case Scope.WRITE:
                manager = require_manager(self._node)
                keyed = request.keyed(manager.new_id())
                return await forward.write(manager, keyed, lambda keyed: lead(manager, keyed, route.handler))

    async def on_forwarded(self, _peer: Peer, payload: Any) -> Any:
        """``api.request``: a write that another manager sends to the leader. Only managers may call it.

        The client's own errors are part of the answer; Unavailable is raised, so that the other manager can tell
        whether anything was done. A write is never passed on a second time.
        """
        request = ApiRequest.from_plain(payload)
        try:
            found = self._router.find(request.method, request.path)
            if found is None or found[0].scope is not Scope.WRITE:
                return message_response(404, "page not found").to_plain()
            manager = self._node.manager
            if manager is None or not manager.is_leader:
                raise NotLeader
            route, params = found
            response = await lead(manager, attrs.evolve(request, params=params), route.handler)
        except Unavailable:
            raise
        except SwarmpyError as error:
            response = error_response(error)
        return response.to_plain()


async def lead(manager: ManagerBackend, request: ApiRequest, handler: Handler) -> ApiResponse:
    """The answer of ``handler`` to a write on this manager, which leads. A refusal is final.

    Raises what it raises, and NotLeader when it is not sure that this manager still led when it refused: one that was
    deposed and does not know yet would refuse by a state that is past, perhaps what the next leader did already.
    """
    term = manager.term
    try:
        return await handler(request)
    except (Unavailable, InvalidArgument):
        raise
    except UserError:
        try:
            await manager.read_barrier(CONFIRM_TIMEOUT_S)
        except Unavailable as error:
            raise NotLeader(f"this manager cannot tell whether it still leads: {error}") from error
        if not manager.is_leader or manager.term != term:
            raise NotLeader from None
        raise
