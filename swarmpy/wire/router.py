"""Which method goes to which handler, and who may call it: one table, checked in one place.

The same router serves real connections and the simulator's. It holds no state of any connection; of the workers only
how often they called what costs much. Managers may do everything anyway.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs

from swarmpy.errors import CertificateRevoked, NodeRemoved, NotFound, PermissionDenied, Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.rates import Buckets, Rate
from swarmpy.model.states import Role
from swarmpy.ports import CallHandler, Peer, StreamHandler

MANAGERS = frozenset({Role.MANAGER})
MEMBERS = frozenset({Role.MANAGER, Role.WORKER})
MAX_NODES = 4096
"""Workers whose rates are remembered."""

NotifyHandler = Callable[[Peer, Any], None]
"""Takes a notification in. Not a coroutine, so that notifications keep their order."""


class MethodKind(enum.StrEnum):
    """How a method answers: once, many times, never."""

    CALL = "call"
    STREAM = "stream"
    NOTIFY = "notify"


class Standing(enum.Enum):
    """What a manager's state says of a peer whose certificate is in order."""

    GOOD = "good"
    REVOKED = "revoked"
    """The certificate must not be used any more, but the node is a member and may get another."""
    REMOVED = "removed"
    """The node is a member no more."""


@attrs.frozen(kw_only=True)
class Route:
    """One row of the table. ``allow`` None: anybody, also a caller without a certificate."""

    method: str
    kind: MethodKind
    allow: frozenset[Role] | None
    rate: Rate | None = None
    """How often one worker may call it; None: as often as it likes, which is bounded by what is read of it."""
    even_revoked: bool = False
    """A member whose certificate was revoked may call it, too."""
    vouches: bool = False
    """Who gets an answer has shown, without a certificate, that the cluster expects it."""

    def __str__(self) -> str:
        who = "anybody" if self.allow is None else ", ".join(sorted(self.allow))
        return f"{self.method:24} {self.kind:7} {who}{', even if revoked' if self.even_revoked else ''}"


class Router:
    """The methods of a node. ``standing`` tells what has become of a member, ``guard`` raises what speaks against its
    certificate, though TLS has verified it; whoever knows may set them later."""

    def __init__(
        self,
        *,
        standing: Callable[[Peer], Standing] = lambda _: Standing.GOOD,
        guard: Callable[[Peer], None] = lambda _: None,
    ) -> None:
        self.standing = standing
        self.guard = guard
        self._paces: dict[str, Buckets[NodeId]] = {}
        self._routes: dict[str, Route] = {}
        self._calls: dict[str, CallHandler] = {}
        self._streams: dict[str, StreamHandler] = {}
        self._notifies: dict[str, NotifyHandler] = {}

    def call(
        self,
        method: str,
        handler: CallHandler,
        allow: frozenset[Role] | None,
        rate: Rate | None = None,
        *,
        even_revoked: bool = False,
        vouches: bool = False,
    ) -> None:
        """Serve ``method`` with one answer."""
        self._add(method, MethodKind.CALL, allow, rate, even_revoked=even_revoked, vouches=vouches)
        self._calls[method] = handler

    def stream(
        self, method: str, handler: StreamHandler, allow: frozenset[Role] | None, rate: Rate | None = None
    ) -> None:
        """Serve ``method`` with a stream of answers: ``handler`` is an async generator function."""
        self._add(method, MethodKind.STREAM, allow, rate)
        self._streams[method] = handler

    def notify(self, method: str, handler: NotifyHandler, allow: frozenset[Role] | None) -> None:
        """Serve ``method`` without an answer."""
        self._add(method, MethodKind.NOTIFY, allow)
        self._notifies[method] = handler

    def table(self) -> tuple[Route, ...]:
        """Every method and who may call it, by name. ``str`` of a row is a line to print."""
        return tuple(self._routes[method] for method in sorted(self._routes))

    def vouches(self, method: str) -> bool:
        """True when an answer to ``method`` shows that the caller is no stranger."""
        return self._routes[method].vouches

    async def dispatch_call(self, peer: Peer, method: str, payload: Any) -> Any:
        """The answer. Raises NotFound, PermissionDenied and whatever the handler raises."""
        self._check(peer, method, MethodKind.CALL)
        return await self._calls[method](peer, payload)

    def dispatch_stream(self, peer: Peer, method: str, payload: Any) -> AsyncIterator[Any]:
        """The answers. Raises NotFound and PermissionDenied at once."""
        self._check(peer, method, MethodKind.STREAM)
        return self._streams[method](peer, payload)

    def dispatch_notify(self, peer: Peer, method: str, payload: Any) -> None:
        """Hand over. Raises NotFound, PermissionDenied and whatever the handler raises."""
        self._check(peer, method, MethodKind.NOTIFY)
        self._notifies[method](peer, payload)

    def admit(self, peer: Peer) -> Standing:
        """What ``peer`` is; raises NodeRemoved for a node that was removed from the cluster, and as ``guard``."""
        self.guard(peer)
        standing = self.standing(peer)
        if standing is Standing.REMOVED:
            raise NodeRemoved(f"node {peer.node_id} was removed from the cluster: leave it and join again")
        return standing

    def check_peer(self, peer: Peer) -> None:
        """Raises NodeRemoved as :meth:`admit`, CertificateRevoked for a node that must get another certificate."""
        if self.admit(peer) is Standing.REVOKED:
            raise CertificateRevoked(
                f"the {peer.role}'s certificate of node {peer.node_id} was revoked: it has to get another one"
            )

    def _add(
        self,
        method: str,
        kind: MethodKind,
        allow: frozenset[Role] | None,
        rate: Rate | None = None,
        *,
        even_revoked: bool = False,
        vouches: bool = False,
    ) -> None:
        assert method not in self._routes, f"{method} is routed twice"
        self._routes[method] = Route(
            method=method, kind=kind, allow=allow, rate=rate, even_revoked=even_revoked, vouches=vouches
        )
        if rate is not None:
            self._paces[method] = Buckets(rate, most=MAX_NODES)

    def _check(self, peer: Peer, method: str, kind: MethodKind) -> None:
        route = self._routes.get(method)
        if route is None or route.kind is not kind:
            raise NotFound(f"no {kind} method {method[:64]!r} on this node: is it of an older version, or a worker?")
        if route.allow is not None and peer.role not in route.allow:
            who = "a caller without a certificate" if peer.role is None else f"a {peer.role}"
            raise PermissionDenied(f"{method} is not open to {who}")
        if route.even_revoked:
            self.admit(peer)
        else:
            self.check_peer(peer)
        if peer.role is Role.WORKER and peer.node_id is not None and method in self._paces:
            self._check_pace(peer.node_id, method)

    def _check_pace(self, node_id: NodeId, method: str) -> None:
        now = asyncio.get_running_loop().time()
        bucket = self._paces[method].of(node_id, now)
        if not bucket.take(now):
            raise Unavailable(f"{method}: node {node_id} asks too often: again in {bucket.wait_s(now):.1f} s")
