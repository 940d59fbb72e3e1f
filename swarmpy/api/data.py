"""``/secrets`` and ``/configs``: as Docker's, and ``POST /secrets/{id}/versions``, which Docker does not have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from swarmpy.api.access import require_manager
from swarmpy.api.backend import NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.data_json import data_to_json, inspected_to_json, sent_spec
from swarmpy.api.filters import Filters, parse_filters
from swarmpy.api.json_fields import Fields, parse_json
from swarmpy.api.listing import json_array, to_bytes
from swarmpy.api.request import JSON, ApiRequest, ApiResponse, StreamedResponse, json_response
from swarmpy.api.router import Route, Scope
from swarmpy.control.versions import CONFIGS, SECRETS, Family, Stored
from swarmpy.manager import secrets

_FILTERS = frozenset({"id", "label", "name", "names"})
MAX_AT_ONCE = 1024 * 1024
"""Bytes of configs in a list that is made before it is sent."""


class _DataApi:
    """Handlers of one of both kinds."""

    family: Family

    def __init__(self, node: NodeBackend) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The routes of this part."""
        path = f"/{self.family.word}s"
        return [
            Route("GET", path, Scope.READ, Access.VIEWER, self.list_all),
            Route("POST", f"{path}/create", Scope.WRITE, Access.ADMIN, self.create),
            Route("GET", f"{path}/{{id}}", Scope.READ, Access.VIEWER, self.inspect),
            Route("POST", f"{path}/{{id}}/update", Scope.WRITE, Access.ADMIN, self.update),
            Route("POST", f"{path}/{{id}}/versions", Scope.WRITE, Access.ADMIN, self.new_version),
            Route("DELETE", f"{path}/{{id}}", Scope.WRITE, Access.ADMIN, self.remove),
        ]

    async def list_all(self, request: ApiRequest) -> ApiResponse:
        """``GET /secrets``: the latest version of each name."""
        filters = parse_filters(request, _FILTERS)
        view = require_manager(self._node).store.view()
        found = [obj for obj in secrets.named(view, self.family) if _matches(obj, filters)]
        is_of_admin = request.is_of_admin
        if self.family is CONFIGS and is_of_admin and sum(len(obj.spec.data) for obj in found) > MAX_AT_ONCE:
            return StreamedResponse(content_type=JSON, chunks=_array(found))
        return await json_array(found, lambda obj: to_bytes(data_to_json(obj, is_of_admin=is_of_admin)))

    async def inspect(self, request: ApiRequest) -> ApiResponse:
        """``GET /secrets/{id}``."""
        view = require_manager(self._node).store.view()
        found = secrets.find(view, self.family, request.params["id"])
        return json_response(inspected_to_json(view, found, is_of_admin=request.is_of_admin))

    async def create(self, request: ApiRequest) -> ApiResponse:
        """``POST /secrets/create``."""
        manager = require_manager(self._node)
        sent = sent_spec(Fields(parse_json(request.body)), self.family)
        made_id = await secrets.create(
            manager.store, self.family, sent.of(self.family), manager.new_id, request=request.request_id
        )
        return json_response({"ID": made_id}, 201, about={"id": made_id, "name": sent.name})

    async def update(self, request: ApiRequest) -> ApiResponse:
        """``POST /secrets/{id}/update?version=``: other labels."""
        sent = sent_spec(Fields(parse_json(request.body)), self.family)
        await secrets.update_labels(
            require_manager(self._node).store,
            self.family,
            request.params["id"],
            request.version(self.family.word),
            name=sent.name,
            labels=sent.labels or {},
            data=sent.data,
            request=request.request_id,
        )
        return ApiResponse()

    async def new_version(self, request: ApiRequest) -> ApiResponse:
        """``POST /secrets/{id}/versions``: other data, to which the services that use it follow."""
        manager = require_manager(self._node)
        sent = sent_spec(Fields(parse_json(request.body)), self.family)
        made_id, number = await secrets.new_version(
            manager.store,
            self.family,
            request.params["id"],
            sent.data or b"",
            manager.new_id,
            labels=sent.labels,
            templating=sent.templating,
            request=request.request_id,
        )
        about = {"id": made_id, "reference": request.params["id"]}
        return json_response({"ID": made_id, "Number": number}, 201, about=about)

    async def remove(self, request: ApiRequest) -> ApiResponse:
        """``DELETE /secrets/{id}``: with all its versions."""
        store = require_manager(self._node).store
        await secrets.remove(store, self.family, request.params["id"], request=request.request_id)
        return ApiResponse(status=204)


class SecretsApi(_DataApi):
    """Handlers of secrets."""

    family = SECRETS


class ConfigsApi(_DataApi):
    """Handlers of configs."""

    family = CONFIGS


def _matches(obj: Stored, filters: Filters) -> bool:
    return (
        filters.starts_one_of("id", obj.id)
        and filters.starts_one_of("name", obj.spec.name)
        and filters.one_of("names", obj.spec.name)
        and filters.labels("label", obj.spec.labels)
    )


async def _array(found: Iterable[Stored]) -> AsyncGenerator[bytes, None]:
    """The list one by one as it is taken: all configs of a cluster may be more than there is memory for."""
    before = b"["
    for obj in found:
        yield before + to_bytes(data_to_json(obj, is_of_admin=True))
        before = b", "
    yield b"]\n"
