"""Taking all that a watch has, where the order of entries does not matter."""

from __future__ import annotations

from swarmpy.store.watch import Event, Resync, Watch


def drain(watch: Watch) -> list[Event | Resync]:
    """Every event that waits, of all entries."""
    events: list[Event | Resync] = []
    while batch := watch.poll():
        events.extend(batch)
    return events
