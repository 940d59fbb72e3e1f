"""Who asks, and how much each caller may ask for. Levels only: which route needs which is in the table of routes.

A door makes the :class:`Caller` from what it knows for sure: the kernel's word on a unix socket, a verified certificate
on TCP. Nothing of it comes out of the request itself.
"""

from __future__ import annotations

import enum

import attrs

from swarmpy.model.states import ApiRole


class Access(enum.IntEnum):
    """What a caller may do: everything that its level and those below allow."""

    ANYBODY = 0
    """The status pages, which show no secrets."""
    VIEWER = 1
    """Looking, without any secret."""
    ADMIN = 2
    """Everything; as good as root on every node."""


ACCESS_OF: dict[ApiRole, Access] = {ApiRole.VIEWER: Access.VIEWER, ApiRole.ADMIN: Access.ADMIN}


class Door(enum.StrEnum):
    """Which way a request came in."""

    SOCKET = "socket"
    """A unix socket of this node."""
    TCP = "tcp"
    """``--api-addr``, with a client certificate."""
    STATUS = "status"
    """The status page on loopback."""
    FORWARDED = "forwarded"
    """Another manager, which asks for its caller."""


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks. What a door does not know is left out."""

    access: Access
    door: Door
    address: str = ""
    """Where from: the socket's path, or ``host:port``."""
    pid: int | None = None
    uid: int | None = None
    name: str = ""
    """The name in the client certificate."""
    serial: str = ""
    """The certificate's serial number, hexadecimal."""
    node_id: str = ""
    """The manager that forwarded it."""

    @property
    def is_admin(self) -> bool:
        """True for one who may see secrets."""
        return self.access >= Access.ADMIN


NOBODY = Caller(access=Access.ANYBODY, door=Door.STATUS)
"""A caller of whom nothing is known."""
