"""How a daemon was started."""

from __future__ import annotations

from pathlib import Path

import attrs

from swarmpy.model.specs import GenericResource

RUNTIMES = ("auto", "docker", "process")


@attrs.frozen(kw_only=True)
class NodeConfig:
    """What the command line says of this daemon; what it is in a cluster is in the data directory."""

    data_dir: Path
    hostname: str
    runtime: str | None = None
    """One of RUNTIMES; None: as remembered, or "auto" for a node that is in no cluster yet."""
    status_address: str = "127.0.0.1:2378"
    """``host:port`` of the read-only status page, on loopback; "" for none."""
    api_address: str = ""
    """``host:port`` of the API over TLS; "" for none."""
    api_names: tuple[str, ...] = ()
    """What clients call this machine by, beside what it knows of itself."""
    group_socket: Path | None = None
    """A second socket of the API, for the members of a group."""
    generic_resources: tuple[GenericResource, ...] = ()
    """What this machine has for tasks beside processors and memory."""
    listen_address: str = ""
    """Where a node that is in a cluster listens from now on, ``host:port``; "": as before."""
    advertise_address: str = ""
    """What others reach it at from now on, ``host[:port]``; "": as before."""
    manager_addresses: tuple[str, ...] = ()
    """``host[:port]`` of managers that it may not have heard of, for they have moved."""

    @property
    def has_addresses(self) -> bool:
        """True when it says where this node or others are."""
        return bool(self.listen_address or self.advertise_address or self.manager_addresses)
