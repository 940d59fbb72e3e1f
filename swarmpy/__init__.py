"""swarmpy: a Swarm-style container cluster manager on asyncio."""

from __future__ import annotations

__version__ = "0.1.0"
