"""The endpoint table on its way from a manager into this node's data plane.

Managers stop a task only when the nodes have confirmed a table without it. So the version that is confirmed is always
one that is in force, and one of the session it is confirmed in: versions of different sessions are not comparable.
"""

from __future__ import annotations

import asyncio

import attrs
import structlog

from swarmpy.agent.backoff import Backoff
from swarmpy.agent.local import LocalWriter
from swarmpy.errors import InvariantViolation
from swarmpy.model.assignments import EndpointUpdate
from swarmpy.network.endpoints import NodeTable, Ports, apply_update
from swarmpy.ports import DataPlane, Random

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 10.0
"""Seconds between attempts while the data plane refuses a table."""
PROBLEM_RETRY_S = 5.0
"""Seconds until a table with problems is applied again: a port that another program holds is let go without a word."""


class Routing:
    """Keeps the data plane at the newest table. Updates that come while one is applied are applied together."""

    def __init__(self, data_plane: DataPlane, random: Random, local: LocalWriter) -> None:
        self._data_plane = data_plane
        self._local = local
        self._backoff = Backoff(random, first=RETRY_FIRST_S, most=RETRY_MOST_S)
        self._table = NodeTable()
        self._origin = 0
        self._in_force: Ports | None = None
        self._changed = asyncio.Event()
        self._refused = ""
        self.applied_version = 0
        """The version that is in force, in the numbers of the present session; 0: none of this session."""
        self.news = asyncio.Event()
        """Set when a manager should hear of :attr:`applied_version` or :meth:`problems`."""

    def restore(self, update: EndpointUpdate | None) -> None:
        """Take the table of the last life until a manager tells the present one."""
        if update is not None:
            self._table = NodeTable(ports=dict(update.ports))
            self._changed.set()

    def begin_session(self) -> None:
        """A new manager speaks: nothing is in force that it knows of, until it has told a whole table."""
        self._origin += 1
        self._table = attrs.evolve(self._table, version=0)
        self.applied_version = 0

    def receive(self, update: EndpointUpdate) -> None:
        """Take an update. Raises ProtocolViolation when it does not build on the last one."""
        table = apply_update(self._table, update)
        if update.base_version == 0:
            self.begin_session()
        self._table = table
        self._local.put_endpoints(EndpointUpdate(version=table.version, ports=tuple(table.ports.items())))
        self._changed.set()

    def problems(self) -> tuple[str, ...]:
        """What of the table does not work on this node."""
        return (*self._data_plane.problems(), *((self._refused,) if self._refused else ()))

    async def run(self) -> None:
        """Apply tables until cancelled."""
        while True:
            await self._wait(PROBLEM_RETRY_S if self._data_plane.problems() else None)
            self._changed.clear()
            table, origin = self._table, self._origin
            if not await self._apply(table.ports):
                await self._wait(self._backoff.next())
                self._changed.set()
                continue
            if origin == self._origin:
                self.applied_version = table.version
                self.news.set()

    async def _apply(self, ports: Ports) -> bool:
        if ports == self._in_force and not self._data_plane.problems():
            return True
        try:
            await self._data_plane.apply(ports)
        except InvariantViolation:
            raise
        except Exception as error:  # noqa: BLE001  # a node that cannot route can still run tasks; managers are told
            if not self._refused:
                log.warning("endpoint_table_refused", reason=str(error))
            self._refused = f"endpoint table not applied: {error}"
            # Some of it may be in force, so that the table before it would not be there already if it came back.
            self._in_force = None
            self.news.set()
            return False
        self._in_force = ports
        self._refused = ""
        self._backoff.reset()
        return True

    async def _wait(self, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return
