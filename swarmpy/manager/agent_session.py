"""The leader's end of a session with one agent: what was told, and what was confirmed."""

from __future__ import annotations

import asyncio

from swarmpy.manager.assignments import Told
from swarmpy.manager.trust import Orders
from swarmpy.model.assignments import Departure, ManagerAddress
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.states import Role


class Session:
    """What one agent has been told."""

    def __init__(self, session_id: str, node_id: NodeId, level: int) -> None:
        self.id = session_id
        self.node_id = node_id
        self.level = level
        self.wake = asyncio.Event()
        self.closed = False
        self.told = Told()
        self.endpoints_sent = 0
        self.endpoints_applied = 0
        self.managers: tuple[ManagerAddress, ...] = ()
        self.role: Role | None = None
        self.revoked: dict[str, int] = {}
        self.orders: Orders | None = None
        self.departure: Departure | None = None
        """What it was told last of its leaving."""
        self.logs: frozenset[tuple[str, TaskId]] = frozenset()
