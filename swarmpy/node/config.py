"""How a daemon was started."""

from __future__ import annotations

from pathlib import Path

import attrs

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
