"""Makes ticks of time for one member, in the measure that the cluster has agreed on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from swarmpy.model.specs import RaftConfig
from swarmpy.raft.core import RaftCore
from swarmpy.raft.state import Timing

log = structlog.get_logger(__name__)

TICKS_PER_HEARTBEAT = 4
"""With five possible election timeouts two followers would too often draw the same one and split the vote."""


def timing_of(config: RaftConfig) -> Timing:
    """The timeouts of ``config`` in ticks of the core."""
    election = round(config.election_tick * TICKS_PER_HEARTBEAT / config.heartbeat_tick)
    return Timing(heartbeat=TICKS_PER_HEARTBEAT, election=max(1, election))


class Ticker:
    """Ticks a core; ``ticked`` is told of each, ``minded`` twice in an election timeout, with the loop's time."""

    def __init__(self, config: RaftConfig, *, ticked: Callable[[], None], minded: Callable[[float], None]) -> None:
        self._interval = interval_of(config)
        self._ticked = ticked
        self._minded = minded
        self._woken = asyncio.Event()

    def set_interval(self, config: RaftConfig) -> None:
        """Tick in the measure of ``config`` from now on, even if the tick that is waited for was far away."""
        self._interval = interval_of(config)
        self._woken.set()

    async def run(self, core: RaftCore) -> None:
        """Tick ``core`` until cancelled."""
        loop = asyncio.get_running_loop()
        interval = self._interval
        due = loop.time() + interval
        ticks = 0
        while True:
            await self._sleep_until(due)
            now = loop.time()
            if interval != self._interval:
                interval = self._interval
                due = now + interval
                continue
            if now < due:
                continue
            # One tick for each time awake: a loop that was held up must not count that against a healthy leader.
            if now - due > core.timing.election * interval:
                log.warning("raft_stood_still", seconds=round(now - due, 3), role=core.role.value)
                core.wake()
            due = due + interval if due + interval > now else now + interval
            core.tick()
            ticks += 1
            if ticks % (core.timing.election // 2 or 1) == 0:
                self._minded(now)
            self._ticked()

    async def _sleep_until(self, due: float) -> None:
        timer = asyncio.get_running_loop().call_at(due, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        self._woken.clear()


def interval_of(config: RaftConfig) -> float:
    """Seconds between two ticks."""
    return config.heartbeat_ns / 1e9 / TICKS_PER_HEARTBEAT
