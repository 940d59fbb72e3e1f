"""The door over TCP: the whole API behind mutual TLS, to holders of client certificates and nobody else.

Only managers open it: their state has the CA's key, with which they make their own server certificate, and the list of
client certificates that count. Both are looked at for every connection, and the list for every request, so nothing has
to be told when a certificate runs out, is taken back, or the root CA changes. While this node is no manager, whoever
connects is hung up on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable

import attrs
import structlog

from swarmpy.api import browsers
from swarmpy.api.api import Api
from swarmpy.api.app import bind_tcp
from swarmpy.api.callers import ACCESS_OF, Caller, Door
from swarmpy.api.connection import Limits, Visitor
from swarmpy.api.http_server import HttpRequest, HttpServer
from swarmpy.api.negotiation import negotiate
from swarmpy.api.request import ApiResponse, message_response
from swarmpy.api.sparing import Sparing
from swarmpy.errors import BadCertificate, PermissionDenied
from swarmpy.manager.clients import is_known, role_now
from swarmpy.model.objects import Cluster
from swarmpy.ports import Clock
from swarmpy.security import roots
from swarmpy.security.api_certificates import ClientFacts, ServerPair, issue_server, read_client, server_context

log = structlog.get_logger(__name__)

LOOK_AGAIN_NS = 60 * 1_000_000_000
"""How long the names of this machine are taken to be what they were."""


@attrs.frozen(kw_only=True)
class _InForce:
    """What new connections are shown, and what it was made from."""

    context: ssl.SSLContext
    pair: ServerPair
    issued_at_ns: int
    cluster_id: str
    roots: tuple[tuple[bytes, ...], tuple[bytes, ...]]
    names: tuple[str, ...]

    def is_right(self, cluster: Cluster, names: tuple[str, ...], now_ns: int) -> bool:
        """True while there is no reason for another one; half of its life is enough."""
        half = (self.issued_at_ns + self.pair.not_after_ns) // 2
        return (
            self.issued_at_ns <= now_ns < half
            and (self.cluster_id, self.names) == (cluster.id, names)
            and self.roots == _roots(cluster)
        )


class TcpServer:
    """The API on ``host:port``. ``names`` tells what this machine is called by clients, in whatever order."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        host: str,
        port: int,
        names: Callable[[], Iterable[str]],
        *,
        limits: Limits | None = None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._host = host
        self._port = port
        self._look_up_names = names
        self._names: tuple[str, ...] = ()
        self._names_at_ns = -LOOK_AGAIN_NS
        self._in_force: _InForce | None = None
        self._refused = Sparing()
        self._http = HttpServer(self._answer, api.node.version, self._identify, limits)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    async def start(self) -> None:
        """Listen. Raises FailedPrecondition when the address cannot be had."""
        listener = bind_tcp(self._host, self._port, "serve the API")
        self._port = listener.getsockname()[1]
        await self._http.start(listener, self._context)
        log.info("api_listening", address=f"{self._host}:{self._port}")

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        await self._http.close()

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return self._http.open_connections

    # -- who we are ---------------------------------------------------------------------------------------------------

    def _cluster(self) -> Cluster | None:
        manager = self._api.node.manager
        return None if manager is None else manager.store.cluster

    def _context(self) -> ssl.SSLContext | None:
        cluster = self._cluster()
        if cluster is None:
            return None
        now_ns = self._clock.time_ns()
        names = self._present_names(now_ns)
        if self._in_force is None or not self._in_force.is_right(cluster, names, now_ns):
            self._in_force = self._renewed(cluster, names, now_ns)
        return self._in_force.context

    def _renewed(self, cluster: Cluster, names: tuple[str, ...], now_ns: int) -> _InForce:
        trusted, chain = _roots(cluster)
        pair = issue_server(
            roots.signing_root(cluster),
            chain=chain,
            names=names,
            node_id=self._api.node.node_id,
            cluster_id=cluster.id,
            expiry_ns=cluster.spec.node_cert_expiry_ns,
            now_ns=now_ns,
        )
        log.info("api_certificate_made", names=", ".join(names))
        return _InForce(
            context=server_context(pair, trusted),
            pair=pair,
            issued_at_ns=now_ns,
            cluster_id=cluster.id,
            roots=(trusted, chain),
            names=names,
        )

    def _present_names(self, now_ns: int) -> tuple[str, ...]:
        if not 0 <= now_ns - self._names_at_ns < LOOK_AGAIN_NS:
            self._names = tuple(sorted({name.lower() for name in self._look_up_names()}))
            self._names_at_ns = now_ns
        return self._names

    # -- who they are -------------------------------------------------------------------------------------------------

    def _identify(self, transport: asyncio.Transport) -> Visitor:
        peer = transport.get_extra_info("peername") or ("", 0)
        address = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            facts = read_client(der or b"")
        except BadCertificate as error:
            self._tell_refused(error.message, address=address)
            reason = error.message
            return Visitor(admit=lambda: _refuse(reason), client=address)
        return Visitor(admit=lambda: self._admit(facts, address), client=facts.serial)

    def _admit(self, facts: ClientFacts, address: str) -> Caller:
        """The holder of a certificate, if it counts now. Raises PermissionDenied."""
        cluster = self._cluster()
        is_ours = cluster is not None and cluster.id == facts.cluster_id
        role = None
        if cluster is not None and is_ours and is_known(cluster, facts.serial, facts.fingerprint):
            role = role_now(cluster, facts.serial, self._clock.time_ns())
        if role is None:
            has_ended = facts.not_after_ns <= self._clock.time_ns()
            why = "has run out" if has_ended else "is not one that this cluster knows, or was revoked"
            self._tell_refused(why, address=address, name=facts.name, serial=facts.serial)
            raise PermissionDenied(f"the client certificate {facts.serial} of {facts.name} {why}")
        return Caller(access=ACCESS_OF[role], door=Door.TCP, address=address, name=facts.name, serial=facts.serial)

    def _tell_refused(self, reason: str, **who: str) -> None:
        if count := self._refused.count(self._clock.monotonic()):
            log.warning("api_client_refused", reason=reason, count=count, **who)

    async def _answer(self, request: HttpRequest) -> ApiResponse:
        if not browsers.names_host(request.http.headers.get("Host", ""), self._names):
            return message_response(403, "this server goes by other names: see its certificate, and --api-san")
        path = negotiate(request.http.path)
        if isinstance(path, ApiResponse):
            return path
        return await self._api.handle(request.plain(path), request.read_body)


def _roots(cluster: Cluster) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Whose clients are let through the handshake, and what clients are shown who know only an earlier root."""
    return roots.trusted_pem(cluster), roots.chain(cluster)


def _refuse(reason: str) -> Caller:
    raise PermissionDenied(reason)
