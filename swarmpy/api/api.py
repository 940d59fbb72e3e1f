"""The whole API: finds the handler of a request, runs it where it has to run, and turns errors into answers.

Knows no HTTP server. Requests arrive from this node's own doors (:meth:`Api.handle`) and, when this manager leads,
from other managers (:meth:`Api.on_forwarded`). Both ways each request is checked against the table of routes, and those
that change something or ask for secrets are told to the audit log, refused or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

from swarmpy.api import browsers, forward
from swarmpy.api.access import require_manager
from swarmpy.api.audit import AuditEntry, Auditor, NoAudit, shown_query
from swarmpy.api.backend import ManagerBackend, NodeBackend
from swarmpy.api.callers import ACCESS_OF, NOBODY, Access, Caller, Door
from swarmpy.api.clients import ClientsApi
from swarmpy.api.data import ConfigsApi, SecretsApi
from swarmpy.api.logs import LogsApi
from swarmpy.api.nodes import NodesApi
from swarmpy.api.request import ApiRequest, ApiResponse, error_response, message_response
from swarmpy.api.router import ApiRouter, Handler, Route, Scope
from swarmpy.api.services import ServicesApi
from swarmpy.api.status import StatusApi
from swarmpy.api.swarm import SwarmApi
from swarmpy.api.system import SystemApi
from swarmpy.api.tasks import TasksApi
from swarmpy.errors import (
    InvalidArgument,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    SwarmpyError,
    Unavailable,
    UserError,
)
from swarmpy.manager.clients import role_now
from swarmpy.ports import Clock, Peer

CONFIRM_TIMEOUT_S = 2.0
"""A leader that cannot reach a majority for an election timeout steps down; this is longer."""
LOCAL_WRITE_TIMEOUT_S = 120.0
"""For joining a cluster and the like: many steps, each with a bound of its own."""


ReadBody = Callable[[], Awaitable[bytes | ApiResponse]]
"""Takes the body of a request in, or says why not."""


class Api:
    """Answers requests for one node."""

    def __init__(self, node: NodeBackend, clock: Clock, audit: Auditor | None = None) -> None:
        self._node = node
        self._clock = clock
        self._audit = audit or NoAudit()
        parts = (
            ServicesApi,
            TasksApi,
            LogsApi,
            SecretsApi,
            ConfigsApi,
            NodesApi,
            SwarmApi,
            ClientsApi,
            StatusApi,
            SystemApi,
        )
        self._router = ApiRouter(route for part in parts for route in part(node).routes())

    @property
    def node(self) -> NodeBackend:
        """The node this API belongs to."""
        return self._node

    def table(self) -> tuple[Route, ...]:
        """Every route and who may ask for it."""
        return self._router.table()

    async def handle(self, request: ApiRequest, read_body: ReadBody | None = None) -> ApiResponse:
        """Answer a request of a client. Never raises a SwarmpyError.

        A body is read only when the caller may ask for that route; without ``read_body`` it is in the request.
        """
        found = self._router.find(request.method, request.path)
        if found is None:
            return message_response(404, "page not found")
        route, params = found
        request = request.routed(params)
        if not route.is_audited:
            return await self._answer(route, request, read_body)
        caller = request.caller or NOBODY
        return await self._audited(route, request, caller, lambda: self._answer(route, request, read_body))

    async def _answer(self, route: Route, request: ApiRequest, read_body: ReadBody | None) -> ApiResponse:
        refused = _refusal(route, request)
        if refused is not None:
            return refused
        if read_body is not None:
            body = await read_body()
            if isinstance(body, ApiResponse):
                return body
            request = request.with_body(body)
        if request.body and (refused := browsers.body_refusal(request.headers)) is not None:
            return refused
        try:
            return await self._in_time(route, request)
        except SwarmpyError as error:
            return error_response(error)

    async def _in_time(self, route: Route, request: ApiRequest) -> ApiResponse:
        if route.is_read or route.sets_bound or route.scope is not Scope.LOCAL:
            # Its waits have bounds of their own, mostly far shorter than this one.
            return await self._run(route, request)
        try:
            async with asyncio.timeout(LOCAL_WRITE_TIMEOUT_S):
                return await self._run(route, request)
        except TimeoutError:
            late = f"{request.method} {request.path} took longer than {LOCAL_WRITE_TIMEOUT_S:g} s"
            raise OutcomeUnknown(f"{late}: look what has become of it") from None

    async def _run(self, route: Route, request: ApiRequest) -> ApiResponse:
        match route.scope:
            case Scope.LOCAL:
                if not route.is_read and _is_over_tcp(request):
                    # What others took from this caller must be known before he takes the node from its cluster.
                    await forward.read_barrier(require_manager(self._node))
                    self._check_client(request)
                return await route.handler(request)
            case Scope.READ:
                await forward.read_barrier(require_manager(self._node))
                self._check_client(request)
                return await route.handler(request)
            case Scope.WRITE:
                manager = require_manager(self._node)
                keyed = request.keyed(manager.new_id())
                return await forward.write(manager, keyed, lambda keyed: self._lead(manager, route, keyed))

    async def _lead(self, manager: ManagerBackend, route: Route, request: ApiRequest) -> ApiResponse:
        async def handler(request: ApiRequest) -> ApiResponse:
            self._check_client(request)
            return await route.handler(request)

        return await lead(manager, request, handler)

    def _check_client(self, request: ApiRequest) -> None:
        """Raises PermissionDenied when the state, which is current now, does not know a caller's certificate as it was.

        The door that let him in went by the state of its manager, who may have been behind.
        """
        caller = request.caller
        if caller is None or not _is_over_tcp(request):
            return
        cluster = require_manager(self._node).store.view().cluster()
        role = role_now(cluster, caller.serial, self._clock.time_ns())
        if role is None or ACCESS_OF[role] < caller.access:
            raise PermissionDenied(f"the client certificate {caller.serial} of {caller.name} was revoked")

    async def on_forwarded(self, peer: Peer, payload: Any) -> Any:
        """``api.request``: a write that another manager sends to the leader. Only managers may call it.

        The client's own errors are part of the answer; Unavailable is raised, so that the other manager can tell
        whether anything was done. A write is never passed on a second time.
        """
        request = ApiRequest.from_plain(payload)
        found = self._router.find(request.method, request.path)
        if found is None or found[0].scope is not Scope.WRITE:
            return message_response(404, "page not found").to_plain()
        route, params = found
        request = request.routed(params)
        peer_access = Access.ADMIN if request.caller is None else request.caller.access
        caller = Caller(
            access=peer_access, door=Door.FORWARDED, address=peer.address, node_id=peer.node_id or "unknown"
        )
        response = await self._audited(route, request, caller, lambda: self._lead_forwarded(route, request))
        return attrs.evolve(response, version=self._version_after(route, response)).to_plain()

    async def _lead_forwarded(self, route: Route, request: ApiRequest) -> ApiResponse:
        if request.caller is not None and (refused := _refusal(route, request)) is not None:
            return refused
        try:
            manager = self._node.manager
            if manager is None or not manager.is_leader:
                raise NotLeader
            return await self._lead(manager, route, request)
        except Unavailable:
            raise
        except SwarmpyError as error:
            return error_response(error)

    def _version_after(self, route: Route, response: ApiResponse) -> int:
        """The version of the state after a write; 0 when nothing was done, or it is not known."""
        manager = self._node.manager
        if response.version or route.scope is not Scope.WRITE or response.status >= 400 or manager is None:
            return response.version
        return manager.store.version if manager.is_leader else 0

    async def _audited(
        self, route: Route, request: ApiRequest, caller: Caller, answer: Callable[[], Awaitable[ApiResponse]]
    ) -> ApiResponse:
        """The answer, which the audit log is told of, whatever it is."""
        time_ns, began = self._clock.time_ns(), self._clock.monotonic()
        status, version = 0, 0
        about = {"reference": request.params["id"]} if "id" in request.params else {}
        try:
            response = await answer()
            status, about = response.status, response.about or about
            version = self._version_after(route, response)
            return response
        except Exception as error:
            status = error.http_status if isinstance(error, SwarmpyError) else 500
            raise
        finally:
            self._audit.record(
                AuditEntry(
                    time_ns=time_ns,
                    caller=caller,
                    on_behalf_of=None if caller is request.caller else request.caller,
                    method=request.method,
                    path=request.path,
                    query=shown_query(request.query),
                    about=about,
                    status=status,
                    version=version,
                    duration_s=self._clock.monotonic() - began,
                )
            )


def _is_over_tcp(request: ApiRequest) -> bool:
    return request.caller is not None and request.caller.door is Door.TCP


def _refusal(route: Route, request: ApiRequest) -> ApiResponse | None:
    """The answer to somebody who may not ask for this; None for who may."""
    caller = request.caller or NOBODY
    if route.access is Access.ANYBODY and route.is_read:
        return None
    if caller.access >= route.access:
        return browsers.refusal(request.headers)
    if caller.access is Access.ANYBODY:
        # Where nobody is known, there is nothing but what everybody may see.
        return message_response(404, "page not found")
    level = caller.access.name.lower()
    return error_response(
        PermissionDenied(
            f"{request.method} {request.path} is for admins only: the certificate of {caller.name} is a {level}'s"
        )
    )


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
