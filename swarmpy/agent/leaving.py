"""A node that is about to leave the cluster waits until its tasks have gone. Pure: time comes in with each call.

It tells the leader in each heartbeat that it is leaving, and hears how far that is. Nothing is kept of it: an agent
that is started again in the middle is a member as before.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from swarmpy.model.assignments import Departure
from swarmpy.model.defaults import SECOND_NS, stop_grace_period_ns
from swarmpy.model.objects import Task

MOVE_S = 30.0
"""Most seconds that are waited by default, beside the longest stop grace period: a replacement has to be started.

With a grace period of 10 s that is less than the 60 s after which other clients of Docker's API give a request up.
"""
NO_MANAGER_S = 5.0
"""Seconds without a session after which no manager is waited for any more: an election takes about one."""


class Verdict(enum.Enum):
    """Whether the node may go, and why it does though its tasks have not all gone."""

    WAIT = ""
    EMPTY = "its tasks have gone"
    NO_MANAGER = "no manager answers that would move its tasks"
    NOT_UNDERSTOOD = "not all managers are of a version that moves the tasks of a node that leaves"
    LATE = "its tasks have had their time to move"
    HURRIED = "it was told to wait no more"
    RECALLED = "it is to stay"


class Leaving:
    """One attempt to leave."""

    def __init__(self, now: float, timeout: float) -> None:
        """``timeout``: most seconds to wait for the tasks."""
        self.timeout = timeout
        self.departure: Departure | None = None
        """What the leader said last."""
        self.hurried = False
        self._began = now
        self._in_session = now
        self._is_understood = True

    def heard(self, departure: Departure | None) -> None:
        """The leader's answer to a heartbeat that said that this node is leaving."""
        self._is_understood = departure is not None
        if departure is not None:
            self.departure = departure

    def waited(self, now: float) -> float:
        """Seconds since it began."""
        return now - self._began

    def verdict(self, now: float, *, in_session: bool, running: int) -> Verdict:
        """``running``: tasks that have not ended on this node, as it knows itself. To be asked again and again."""
        if in_session:
            self._in_session = now
        told = self.departure
        if self.hurried:
            return Verdict.HURRIED
        if told is not None and told.begun and not told.left and not running:
            return Verdict.EMPTY
        if not running and not (in_session and self._is_understood):
            return Verdict.EMPTY
        if not in_session and now - self._in_session >= NO_MANAGER_S:
            return Verdict.NO_MANAGER
        if not self._is_understood:
            return Verdict.NOT_UNDERSTOOD
        return Verdict.LATE if self.waited(now) >= self.timeout else Verdict.WAIT


def default_timeout(tasks: Iterable[Task]) -> float:
    """Most seconds that tasks are waited for where nobody says another number."""
    graces = (stop_grace_period_ns(task.spec) for task in tasks if not task.status.state.is_terminal)
    return MOVE_S + max(graces, default=0) / SECOND_NS


def what_is_lost(verdict: Verdict, departure: Departure | None, running: int) -> tuple[str, ...]:
    """What a node that goes now takes from its services, one line each; () for nothing.

    ``departure``: what the leader said last, if anything. ``running``: tasks that have not ended on the node.
    """
    lines = []
    if running:
        what = "1 task is" if running == 1 else f"{running} tasks are"
        lines.append(f"{what} stopped where requests may still be on their way: {verdict.value}")
    for service in () if departure is None else departure.services:
        parts = [f"{service.left} still on this node"] if service.left else []
        parts += [f"{service.missing} not running elsewhere"] if service.missing else []
        reasons = f": {'; '.join(service.reasons)}" if service.reasons else ""
        lines.append(f"{service.service}: {', '.join(parts)}{reasons}")
    return tuple(lines)
