"""Whether the engine of this node answers, and what is done when it does again.

An engine that hangs is as good as away: it is asked every few seconds, and the runtime's calls end by themselves. That
one has died the runtime may know at once. When it is back, it may do late what it was asked before it hung, and what
nobody waits for any more: start the container of a task that was given up meanwhile. So for a while after that all that
is there is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from swarmpy.agent.backoff import Backoff
from swarmpy.errors import RuntimeUnavailable
from swarmpy.model.defaults import SECOND_NS
from swarmpy.model.objects import NodeDescription
from swarmpy.ports import Clock, Random, Runtime

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 0.25
RETRY_MOST_S = 10.0
"""Seconds between questions while the engine is away."""
DESCRIBE_PERIOD_S = 10.0
"""How often the engine is asked for the node's description (swarmkit: 20 s). Also how soon its silence is known."""
SUSPECT_S = 60.0
"""How long after its return an engine may do late what it was asked before: longer than a container is created."""


class EngineWatch:
    """Asks a runtime how it is. :meth:`open` it, then :meth:`run` it."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        random: Random,
        *,
        reconcile: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """``reconcile`` looks at all that is there, ``changed`` is called when the description is another."""
        self._runtime = runtime
        self._clock = clock
        self._backoff = Backoff(random, first=RETRY_FIRST_S, most=RETRY_MOST_S)
        self._reconcile = reconcile
        self._changed = changed
        self._away_since = 0
        """Nanoseconds since the epoch; 0 while it answers."""
        self._suspect_until = 0.0
        self.description = NodeDescription()
        """Machine and engine, as last seen."""
        self.problem = ""
        """One line; "" while the engine answers."""

    async def open(self) -> None:
        """Open the runtime; return when it is, however long that takes."""
        while True:
            asked_at = self._clock.time_ns()
            try:
                await self._runtime.open()
                self.description = await self._runtime.describe()
            except RuntimeUnavailable as error:
                self._away(error, asked_at)
                await asyncio.sleep(self._backoff.next())
            else:
                self._back()
                return

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._pause()
            asked_at = self._clock.time_ns()
            try:
                description = await self._runtime.describe()
                if self._back():
                    self._suspect_until = self._clock.monotonic() + SUSPECT_S
                if self._clock.monotonic() < self._suspect_until:
                    await self._reconcile()
            except RuntimeUnavailable as error:
                self._away(error, asked_at)
                continue
            if description != self.description:
                self.description = description
                self._changed()

    async def _pause(self) -> None:
        if self.problem:
            await asyncio.sleep(self._backoff.next())
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DESCRIBE_PERIOD_S):
                await self._runtime.wait_disturbed()
                await asyncio.sleep(RETRY_FIRST_S)  # it may be disturbed again and again

    def _away(self, error: RuntimeUnavailable, asked_at: int) -> None:
        if not self.problem:
            log.warning("engine_away", runtime=self._runtime.name, reason=str(error))
            self._away_since = asked_at
        since = datetime.fromtimestamp(self._away_since // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.problem = f"the {self._runtime.name} engine does not answer since {since}: {error}"

    def _back(self) -> bool:
        """True when it was away."""
        was_away = bool(self.problem)
        if was_away:
            log.info("engine_back", runtime=self._runtime.name)
        self.problem = ""
        self._backoff.reset()
        return was_away
