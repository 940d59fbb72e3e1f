"""Makes ticks of time for one member, in the measure that the cluster has agreed on.

A tick that brings nothing about need not be made when it is due: the ticks that have passed are made together, when a
message comes or when the next of them matters. So a quiet follower is woken by its leader's heartbeats only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.raft.core import RaftCore
from swarmpy.raft.state import Timing

log = structlog.get_logger(__name__)

TICKS_PER_HEARTBEAT = 4
"""With five possible election timeouts two followers would too often draw the same one and split the vote."""
MOST_TICKS_ASLEEP = 6
"""Longer than from one heartbeat to the next, so that those who hear them need no timer. Not much longer: of a sleep in
which this process stood still, all ticks count against its leader."""
_ROUNDING = 1e-6
"""Of a tick: a timer is never meant to ring before its time."""


def timing_of(config: RaftConfig) -> Timing:
    """The timeouts of ``config`` in ticks of the core."""
    election = round(config.election_tick * TICKS_PER_HEARTBEAT / config.heartbeat_tick)
    return Timing(heartbeat=TICKS_PER_HEARTBEAT, election=max(1, election))


class Ticker:
    """Ticks a core whose host calls :meth:`let_pass` before it steps messages, and :meth:`catch_up` after.

    ``wake`` is called when there is a tick to catch up with that matters, ``minded`` twice in an election timeout, with
    the loop's time.
    """

    def __init__(self, config: RaftConfig, *, wake: Callable[[], None], minded: Callable[[float], None]) -> None:
        self._interval = interval_of(config)
        self._wake = wake
        self._minded = minded
        self._is_running = False
        self._ticked_at = 0.0
        """When the last tick that was made was due, on the loop's clock."""
        self._asleep = 0
        """How many ticks after that one the timer rings."""
        self._unminded = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Time begins to pass. A first step must follow."""
        self._is_running = True
        self._ticked_at = asyncio.get_running_loop().time()
        self._asleep = 0

    def stop(self) -> None:
        """Time passes no more."""
        self._is_running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def set_interval(self, config: RaftConfig) -> None:
        """Tick in the measure of ``config`` from now on. A step must follow: the next tick may have been far away."""
        interval = interval_of(config)
        if interval != self._interval and self._is_running:
            self.start()
        self._interval = interval

    def let_pass(self, core: RaftCore) -> None:
        """Make the ticks that are over and bring nothing about.

        For the others it is too early: what has come, while this process stood still perhaps, must be heard first.
        """
        passed = self._passed(self._awake(core))
        if passed:
            self._tick(core, min(passed, core.quiet_ticks))

    def catch_up(self, core: RaftCore) -> None:
        """Make the other ticks that are over, and see to it that the next one that matters is made in time."""
        now = self._awake(core)
        self._tick(core, self._passed(now))
        if now - self._ticked_at >= self._interval:
            # Longer than it meant to sleep: a loop that was held up must not count that against a healthy leader.
            self._ticked_at = now
        if self._unminded >= (core.timing.election // 2 or 1):
            self._unminded = 0
            self._minded(now)
        ticks = min(core.quiet_ticks + 1, MOST_TICKS_ASLEEP)
        if ticks != self._asleep or self._timer is None:
            self._sleep(ticks)

    def _awake(self, core: RaftCore) -> float:
        now = asyncio.get_running_loop().time()
        late = now - self._ticked_at - self._asleep * self._interval
        if late > core.timing.election * self._interval:
            log.warning("raft_stood_still", seconds=round(late, 3), role=core.role.value)
            core.wake()
            self._ticked_at = now - self._asleep * self._interval
        return now

    def _passed(self, now: float) -> int:
        return min(int((now - self._ticked_at) / self._interval + _ROUNDING), self._asleep)

    def _tick(self, core: RaftCore, count: int) -> None:
        for _ in range(count):
            core.tick()
        self._ticked_at += count * self._interval
        self._asleep -= count
        self._unminded += count

    def _sleep(self, ticks: int) -> None:
        self._asleep = ticks
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._ticked_at + ticks * self._interval, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake()


def interval_of(config: RaftConfig) -> float:
    """Seconds between two ticks."""
    return config.heartbeat_ns / 1e9 / TICKS_PER_HEARTBEAT
