"""``/swarm/clients``: the client certificates of the API over TCP. Docker has nothing of the kind; the JSON is in its
style.
"""

from __future__ import annotations

import ssl

from swarmpy.api.access import require_manager
from swarmpy.api.backend import NodeBackend
from swarmpy.api.callers import Access
from swarmpy.api.json_fields import Fields, parse_json
from swarmpy.api.request import ApiRequest, ApiResponse, json_response
from swarmpy.api.router import Route, Scope
from swarmpy.api.timestamps import rfc3339_nano
from swarmpy.errors import InvalidArgument
from swarmpy.manager.clients import give_client, revoke_client
from swarmpy.model.states import ApiRole
from swarmpy.security import roots
from swarmpy.security.api_certificates import read_client

DEFAULT_EXPIRY_NS = 90 * 24 * 3600 * 1_000_000_000


class ClientsApi:
    """Handlers of client certificates."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route("GET", "/swarm/clients", Scope.READ, Access.ADMIN, self.list_all),
            Route("POST", "/swarm/clients/create", Scope.WRITE, Access.ADMIN, self.create),
            Route("DELETE", "/swarm/clients/{id}", Scope.WRITE, Access.ADMIN, self.remove),
        ]

    async def list_all(self, _request: ApiRequest) -> ApiResponse:
        """``GET /swarm/clients``: those that count, by name."""
        clients = require_manager(self._node).store.view().cluster().clients
        rows = [
            {
                "ID": serial,
                "Name": client.name,
                "Role": str(client.role),
                "CreatedAt": rfc3339_nano(client.issued_at_ns),
                "ExpiresAt": rfc3339_nano(client.not_after_ns),
            }
            for serial, client in clients.items()
        ]
        return json_response(sorted(rows, key=lambda row: (row["Name"], row["CreatedAt"])))

    async def create(self, request: ApiRequest) -> ApiResponse:
        """``POST /swarm/clients/create`` with Name, Role, Expiry (ns) and CSR (PEM): a certificate, and whom to trust.

        The answer has no secret: the private key never left its client.
        """
        manager = require_manager(self._node)
        fields = Fields(parse_json(request.body))
        name, csr = fields.string("Name"), fields.string("CSR")
        role = _role(fields.string("Role"))
        cert_pem = await give_client(
            manager.store,
            csr.encode(),
            name=name,
            role=role,
            expiry_ns=fields.integer("Expiry") or DEFAULT_EXPIRY_NS,
            request=request.request_id,
        )
        serial = read_client(ssl.PEM_cert_to_DER_cert(cert_pem.decode())).serial
        trusted = roots.joined(roots.trusted_pem(manager.store.view().cluster())).decode()
        answer = {"ID": serial, "Certificate": cert_pem.decode(), "CA": trusted}
        return json_response(answer, 201, about={"id": serial, "name": name})

    async def remove(self, request: ApiRequest) -> ApiResponse:
        """``DELETE /swarm/clients/{id}``: by serial number, by name, or by the beginning of a serial number."""
        await revoke_client(require_manager(self._node).store, request.params["id"], request=request.request_id)
        return ApiResponse()


def _role(text: str) -> ApiRole:
    try:
        return ApiRole(text)
    except ValueError:
        raise InvalidArgument(f"Role: {text[:40]!r} is neither admin nor viewer") from None
