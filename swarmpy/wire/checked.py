"""A dialler that also asks somebody who knows about the peer. Written against ``ports.Dialer``."""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.errors import BadCertificate, PermissionDenied
from swarmpy.model.ids import NodeId
from swarmpy.ports import Channel, Dialer, Peer


class CheckedDialer:
    """Implements ``ports.Dialer``: a peer for which ``check`` raises PermissionDenied or BadCertificate is as good as a
    stranger."""

    def __init__(self, dialer: Dialer, check: Callable[[Peer], None]) -> None:
        self._dialer = dialer
        self._check = check

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        """See ``ports.Dialer``."""
        channel = await self._dialer.dial(address, timeout=timeout, expect=expect)
        try:
            self._check(channel.peer)
        except (PermissionDenied, BadCertificate) as error:
            await channel.close()
            # It says so of the peer, and must not be taken for what the peer says of this node.
            raise BadCertificate(f"{address}: {error}") from error
        return channel
