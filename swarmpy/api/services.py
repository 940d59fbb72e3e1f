"""``/services``."""

from __future__ import annotations

import attrs

from swarmpy.api.access import require_manager
from swarmpy.api.backend import NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.filters import Filters, parse_filters
from swarmpy.api.json_fields import given, parse_json
from swarmpy.api.listing import JsonCache, json_array, to_bytes
from swarmpy.api.registry_auth import registry_auth
from swarmpy.api.request import ApiRequest, ApiResponse, json_response
from swarmpy.api.router import Route, Scope
from swarmpy.api.service_json import service_spec_from_json, service_to_json, tells_bound
from swarmpy.api.task_spec_json import concealed
from swarmpy.control.explain import count_replicas
from swarmpy.errors import InvalidArgument
from swarmpy.manager import operations
from swarmpy.manager.credentials import Credentials, credentials_of
from swarmpy.model.networks import missing_networks, networks_warning
from swarmpy.model.objects import Service
from swarmpy.model.specs import ServiceSpec
from swarmpy.store.view import View

_FILTERS = frozenset({"id", "name", "label", "mode", "runtime"})
_MODES = ("replicated", "global", "replicated-job", "global-job")


MAX_SHOWN = 20_000
"""Services whose JSON is kept, of about a kilobyte each: a list is asked for again and again."""


class ServicesApi:
    """Handlers of services."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node
        self._shown = JsonCache(service_to_json, MAX_SHOWN)

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route("GET", "/services", Scope.READ, Access.VIEWER, self.list_all),
            Route("POST", "/services/create", Scope.WRITE, Access.ADMIN, self.create),
            Route("GET", "/services/{id}", Scope.READ, Access.VIEWER, self.inspect),
            Route("POST", "/services/{id}/update", Scope.WRITE, Access.ADMIN, self.update),
            Route("DELETE", "/services/{id}", Scope.WRITE, Access.ADMIN, self.remove),
        ]

    async def list_all(self, request: ApiRequest) -> ApiResponse:
        """``GET /services``; with ``?status=true`` each with its ServiceStatus."""
        filters = parse_filters(request, _FILTERS)
        filters.check("mode", _MODES)
        with_status, is_of_admin = request.boolean("status"), request.is_of_admin
        store = require_manager(self._node).store

        def show(service: Service) -> bytes | None:
            if not _matches(service, filters):
                return None
            if is_of_admin and not with_status:
                return self._shown.get(service)
            status = service_status(store.view(), service) if with_status else None
            return to_bytes(service_to_json(_for(service, is_of_admin=is_of_admin), status=status))

        return await json_array(operations.live_services(store.view()), show)

    async def inspect(self, request: ApiRequest) -> ApiResponse:
        """``GET /services/{id}``; ``?insertDefaults=true`` shows what was not given."""
        view = require_manager(self._node).store.view()
        service = operations.find_service(view, request.params["id"])
        service = _for(service, is_of_admin=request.is_of_admin)
        return json_response(service_to_json(service, insert_defaults=request.boolean("insertDefaults")))

    async def create(self, request: ApiRequest) -> ApiResponse:
        """``POST /services/create``."""
        manager = require_manager(self._node)
        spec = service_spec_from_json(parse_json(request.body))
        service = await operations.create_service(
            manager.store,
            spec,
            manager.new_id,
            registry_auth=registry_auth(request) or b"",
            request=request.request_id,
        )
        warnings = given(Warnings=_warnings(service.spec))
        return json_response({"ID": service.id, **warnings}, 201, about={"id": service.id, "name": service.spec.name})

    async def update(self, request: ApiRequest) -> ApiResponse:
        """``POST /services/{id}/update?version=``; with ``rollback=previous`` the body does not count.

        Credentials for the registry stay those of the spec, or with ``registryAuthFrom=previous-spec`` become those of
        the one before, unless the request has its own.
        """
        rollback = request.query.get("rollback", "")
        if rollback not in ("", "previous"):
            raise InvalidArgument(f"unrecognized rollback option {rollback} (use previous)")
        version = request.version("service")
        body = None if rollback else parse_json(request.body)
        spec = None if rollback else service_spec_from_json(body)
        auth, auth_from = registry_auth(request), request.query.get("registryAuthFrom", "")
        if auth_from not in ("", "spec", "previous-spec"):
            raise InvalidArgument("unsupported registryAuthFrom value: use spec or previous-spec")
        manager = require_manager(self._node)
        if auth is None:
            credentials = Credentials(of_previous_spec=auth_from == "previous-spec")
        else:
            credentials = credentials_of(auth, manager.new_id)
        await operations.update_service(
            manager.store,
            request.params["id"],
            version,
            spec,
            rollback=bool(rollback),
            keeps_bound=not rollback and not tells_bound(body),
            credentials=credentials,
            request=request.request_id,
        )
        return json_response({"Warnings": (spec and _warnings(spec)) or None})

    async def remove(self, request: ApiRequest) -> ApiResponse:
        """``DELETE /services/{id}``."""
        store = require_manager(self._node).store
        await operations.remove_service(store, request.params["id"], request=request.request_id)
        return ApiResponse()


def _warnings(spec: ServiceSpec) -> list[str]:
    """What the spec asks for, and nothing is done with."""
    missing = missing_networks(spec.task)
    return [networks_warning(missing)] if missing else []


def service_status(view: View, service: Service) -> dict[str, int]:
    """How many tasks run and how many should."""
    replicas = count_replicas(view, service)
    return {"RunningTasks": replicas.running, "DesiredTasks": replicas.desired, "CompletedTasks": replicas.completed}


def _for(service: Service, *, is_of_admin: bool) -> Service:
    """The service as its reader may see it."""
    if is_of_admin:
        return service
    previous = service.previous_spec
    return attrs.evolve(
        service,
        spec=attrs.evolve(service.spec, task=concealed(service.spec.task)),
        previous_spec=None if previous is None else attrs.evolve(previous, task=concealed(previous.task)),
    )


def _matches(service: Service, filters: Filters) -> bool:
    return (
        filters.starts_one_of("id", service.id)
        and filters.starts_one_of("name", service.spec.name)
        and filters.labels("label", service.spec.labels)
        and filters.one_of("mode", str(service.spec.mode))
        and filters.one_of("runtime", "container")
    )
