"""Docker's healthcheck, for runtimes that have to ask by themselves. Pure: the caller runs the probes and the clock.

As with Docker, a task is *starting* until a probe succeeds, failures within the start period do not count, and
``retries`` failures in a row make it *unhealthy*. Unlike Docker, a task that has never been healthy and has no interval
of its own for that is probed more often than its interval, so that it takes requests soon after it is able to; it is
given up no earlier for that.
"""

from __future__ import annotations

import enum

import attrs

from swarmpy.model.defaults import HEALTH_INTERVAL_NS, HEALTH_RETRIES, HEALTH_TIMEOUT_NS, SECOND_NS
from swarmpy.model.specs import Healthcheck

STARTING_INTERVAL_SECONDS = 1.0
"""Seconds between probes, at most, until the first one succeeds."""


class Health(enum.StrEnum):
    """What the probes have shown so far."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


def probe_command(check: Healthcheck | None) -> tuple[str, ...]:
    """The command to run as a probe; () when there is no healthcheck to make."""
    if check is None or len(check.test) < 2:
        return ()
    kind, *rest = check.test
    if kind == "CMD":
        return tuple(rest)
    if kind == "CMD-SHELL":
        return ("/bin/sh", "-c", rest[0])
    return ()


@attrs.define
class HealthTracker:
    """Counts the probes of one task that was started at second ``started``."""

    check: Healthcheck
    started: float
    health: Health = Health.STARTING
    _failures: int = 0

    @property
    def interval(self) -> float:
        """Seconds between two probes of a healthy task."""
        return (self.check.interval_ns or HEALTH_INTERVAL_NS) / SECOND_NS

    @property
    def timeout(self) -> float:
        """Seconds after which a probe has failed."""
        return (self.check.timeout_ns or HEALTH_TIMEOUT_NS) / SECOND_NS

    @property
    def retries(self) -> int:
        """Failures in a row that make a task unhealthy."""
        return self.check.retries or HEALTH_RETRIES

    @property
    def pause(self) -> float:
        """Seconds until the next probe."""
        if self.health is not Health.STARTING:
            return self.interval
        asked = self.check.start_interval_ns / SECOND_NS
        return asked or min(self.interval, STARTING_INTERVAL_SECONDS)

    def record(self, succeeded: bool, now: float) -> Health:
        """Count a probe that ended at second ``now``; the health after it."""
        if succeeded:
            self._failures = 0
            self.health = Health.HEALTHY
        elif self.health is Health.STARTING:
            given_up_after = self.check.start_period_ns / SECOND_NS + self.retries * self.interval
            if now - self.started >= given_up_after:
                self.health = Health.UNHEALTHY
        else:
            self._failures += 1
            if self._failures >= self.retries:
                self.health = Health.UNHEALTHY
        return self.health
