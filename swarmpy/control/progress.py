"""How far a rolling update has come, slot by slot, with what all slots come to: kept as slots change."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs

from swarmpy.model.objects import Task


@attrs.frozen(kw_only=True)
class SlotProgress:
    """How far the update has come in one slot."""

    outdated: tuple[Task, ...]
    """Tasks that are to be replaced and have not been told to stop."""
    coming: tuple[Task, ...] = ()
    """Tasks as the service wants them, running or on their way."""
    failed: Task | None = None
    """A new task that ended too early, if any."""
    is_given_up: bool = False
    """The one that failed may not be tried again."""
    arrived_at_ns: int | None = None
    """When the first of the new tasks began to run (or ended); None: not yet."""
    is_coming_new: bool = False
    """A task that is coming was made for this update: it has to arrive."""
    has_started: bool = False
    """A new task has run, or runs."""
    stuck: Task | None = None
    """A new task that is waited for and may never come."""

    @property
    def is_waiting(self) -> bool:
        """True while nothing was done about the slot, or it has to be done once more."""
        return bool(self.outdated) and not self.coming and not self.is_given_up

    @property
    def is_flying(self) -> bool:
        """True while a new task has yet to arrive."""
        return self.is_coming_new and self.arrived_at_ns is None

    @property
    def is_settling(self) -> bool:
        """True when a task has arrived: the delay between two slots is counted from then."""
        return bool(self.coming) and self.arrived_at_ns is not None


class Progress:
    """Of all slots that the update is about."""

    def __init__(self) -> None:
        # Any key: what slots are is known one floor up.
        self.slots: dict[Any, SlotProgress] = {}
        self.outdated: set[Any] = set()
        """Slots with tasks that are to be replaced."""
        self.waiting: set[Any] = set()
        self.flying: set[Any] = set()
        self.settling: set[Any] = set()
        """Those whose new task has arrived; whose delay is over need not be among them."""
        self.failed: set[Any] = set()
        self.started: set[Any] = set()
        self.stuck: set[Any] = set()

    def put(self, key: Hashable, slot: SlotProgress | None) -> None:
        """The slot has come so far; None: the update is not about it."""
        before = self.slots.get(key)
        if before is None and slot is None:
            return
        if slot is None:
            del self.slots[key]
        else:
            self.slots[key] = slot
        _keep(self.outdated, key, slot is not None and bool(slot.outdated))
        _keep(self.waiting, key, slot is not None and slot.is_waiting)
        _keep(self.flying, key, slot is not None and slot.is_flying)
        _keep(self.settling, key, slot is not None and slot.is_settling)
        _keep(self.failed, key, slot is not None and slot.failed is not None)
        _keep(self.started, key, slot is not None and slot.has_started)
        _keep(self.stuck, key, slot is not None and slot.stuck is not None)


def _keep(keys: set[Any], key: Hashable, is_one: bool) -> None:
    if is_one:
        keys.add(key)
    else:
        keys.discard(key)
