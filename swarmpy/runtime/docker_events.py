"""Hints that a container has changed, from the Engine's event stream. Never the truth: whoever is woken inspects.

The stream is kept alive for good: after each gap it is opened again, with back-off, from before the gap, and everybody
is woken once, so that no end of a container is missed. A stream that stays silent is checked by a list now and then,
in case the connection is dead without saying so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from swarmpy.errors import RuntimeUnavailable, SwarmpyError
from swarmpy.model.ids import TaskId
from swarmpy.ports import Random
from swarmpy.runtime.container_config import LABEL_OWNER, LABEL_TASK_ID
from swarmpy.runtime.docker_engine import Engine, EventStream

log = structlog.get_logger(__name__)

FIRST_RETRY = 0.1
LAST_RETRY = 5.0
SILENCE_SECONDS = 30.0
OVERLAP_SECONDS = 5
"""How far before a gap the stream is read again."""


class ContainerEvents:
    """Wakes those who wait for changes of the containers of one node."""

    def __init__(self, engine: Engine, node_id: str, random: Random) -> None:
        self._engine = engine
        self._owner = f"{LABEL_OWNER}={node_id}"
        self._random = random
        self._waiting: dict[TaskId, list[_Waiter]] = {}
        self._last_second = 0  # of the engine's clock, which may differ from ours
        self.disturbed = asyncio.Event()
        """Set when the stream has broken; whoever waits for it clears it."""

    @contextmanager
    def changes(self, task_id: TaskId, *, for_health: bool = False) -> Iterator[asyncio.Event]:
        """An event that is set whenever the task's container may have changed; the caller clears it.

        ``for_health``: also that it is healthy now is something to look at.
        """
        waiter = _Waiter(for_health)
        self._waiting.setdefault(task_id, []).append(waiter)
        try:
            yield waiter.event
        finally:
            waiting = self._waiting[task_id]
            waiting.remove(waiter)
            if not waiting:
                del self._waiting[task_id]

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        delay = FIRST_RETRY
        away, opened_at = False, 0.0
        while True:
            try:
                filters = {
                    "type": ["container"],
                    "label": [self._owner],
                    "event": ["start", "die", "oom", "destroy", "health_status"],
                }
                # At first all that the engine remembers: a hint too many does no harm.
                since = str(max(1, self._last_second - OVERLAP_SECONDS))
                async with self._engine.events(filters, since) as stream:
                    if away:
                        log.info("engine_back", engine=self._engine.url)
                    away, opened_at = False, asyncio.get_running_loop().time()
                    self._wake_all()
                    await self._follow(stream)
            except SwarmpyError as error:
                if not away:
                    log.warning("engine_away", engine=self._engine.url, error=str(error))
                away = True
                self.disturbed.set()
            # One that is closed as soon as it is open is not to be asked for, and everybody woken, at full speed.
            if asyncio.get_running_loop().time() - opened_at >= LAST_RETRY:
                delay = FIRST_RETRY
            await asyncio.sleep(delay * self._random.uniform(0.5, 1.5))
            delay = min(delay * 2, LAST_RETRY)

    async def _follow(self, stream: EventStream) -> None:
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    line = await stream.next_line()
            except TimeoutError:
                if await self._check():
                    return  # an event should have told of it: the stream is opened anew
                continue
            if not line:
                raise RuntimeUnavailable("the engine closed the event stream")
            event = json.loads(line)
            self._last_second = int(event.get("timeNano", 0)) // 1_000_000_000 or self._last_second
            task_id = event.get("Actor", {}).get("Attributes", {}).get(LABEL_TASK_ID, "")
            for waiter in self._waiting.get(TaskId(task_id), ()):
                waiter.event.set()

    async def _check(self) -> bool:
        """One list instead of an inspection of each: wake only those whose container is not as they last saw it.

        True when there is one.
        """
        if not self._waiting:
            return False
        listed: dict[str, dict[str, Any]] = {}
        for container in await self._engine.containers(self._owner):
            listed[(container.get("Labels") or {}).get(LABEL_TASK_ID, "")] = container
        found = False
        for task_id, waiting in self._waiting.items():
            container = listed.get(task_id, {})
            for waiter in waiting:
                if not waiter.expects(container):
                    waiter.event.set()
                    found = True
        return found

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            for waiter in waiting:
                waiter.event.set()


class _Waiter:
    """One who waits for a change of a container that runs."""

    def __init__(self, for_health: bool) -> None:
        self.event = asyncio.Event()
        self._for_health = for_health

    def expects(self, listed: dict[str, Any]) -> bool:
        """True when the container, as it is in a list (empty: it is in none), has nothing new for him."""
        status = listed.get("Status", "")
        # In the words of the engine: Up 3 seconds (health: starting).
        is_quiet = "health: starting" in status if self._for_health else "unhealthy" not in status
        return listed.get("State") in ("running", "paused") and is_quiet
