"""Watching the store: every applied entry as one tuple of events, through bounded queues.

A watcher that is too slow loses events, never knowledge: its queue is emptied and it gets one :class:`Resync`, on
which it reads everything anew. Events are hints of what to look at; the store is the truth.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import NamedTuple, Self

import attrs

from swarmpy.model.changes import Action
from swarmpy.model.objects import Kind, StoreObject

DEFAULT_LIMIT = 10_000
"""Events a watcher may be behind."""


class Event(NamedTuple):
    """One object was created, updated or deleted by the entry ``version``.

    A tuple, as that is made in half of the time: there is one for each object of each entry.
    """

    action: Action
    kind: Kind
    id: str
    object: StoreObject | None
    """As it is now; None after a deletion."""
    old: StoreObject | None
    """As it was before; None after a creation."""
    version: int


@attrs.frozen(kw_only=True)
class Resync:
    """Events were lost, or the whole state was replaced: read everything anew. The state was at least ``version``."""

    version: int


Events = tuple[Event | Resync, ...]


class Watch:
    """A queue of events. It receives from ``with`` on until the block is left.

    ``async for`` gives the events of one entry at a time; a Resync comes alone.
    """

    def __init__(self, hub: Hub, kinds: Collection[Kind] | None, limit: int) -> None:
        self._hub = hub
        self._kinds = None if kinds is None else frozenset(kinds)
        self._limit = limit
        self._queue: deque[Events] = deque()
        self._size = 0
        self._ready = asyncio.Event()
        self._closed = False

    def __enter__(self) -> Self:
        self._hub.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hub.remove(self)
        self._closed = True
        self._ready.set()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Events:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            await self._ready.wait()
        return self._take()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to :meth:`poll`, at most ``timeout`` seconds; True when there is."""
        if not self._queue and not self._closed:
            try:
                async with asyncio.timeout(timeout):
                    await self._ready.wait()
            except TimeoutError:
                return False
        return bool(self._queue)

    def poll(self) -> Events:
        """The events of the next entry, or () when there are none."""
        return self._take() if self._queue else ()

    def deliver(self, events: tuple[Event, ...], kinds: AbstractSet[Kind]) -> None:
        """Queue the events of one entry, which are of ``kinds``, or a Resync when they do not fit any more."""
        wanted = events
        if self._kinds is not None and not kinds <= self._kinds:
            wanted = tuple(event for event in events if event.kind in self._kinds)
        if not wanted:
            return
        if self._size + len(wanted) > self._limit:
            self.resync(wanted[-1].version)
            return
        self._put(wanted)

    def resync(self, version: int) -> None:
        """Replace what is queued by one Resync."""
        self._queue.clear()
        self._size = 0
        self._put((Resync(version=version),))

    def _put(self, events: Events) -> None:
        self._queue.append(events)
        self._size += len(events)
        self._ready.set()

    def _take(self) -> Events:
        events = self._queue.popleft()
        self._size -= len(events)
        if not self._queue and not self._closed:
            self._ready.clear()
        return events


class Hub:
    """The watches of one store."""

    def __init__(self) -> None:
        self._watches: dict[Watch, None] = {}

    def __bool__(self) -> bool:
        return bool(self._watches)

    def add(self, watch: Watch) -> None:
        """Deliver to ``watch`` from now on."""
        self._watches[watch] = None

    def remove(self, watch: Watch) -> None:
        """Deliver to ``watch`` no more."""
        self._watches.pop(watch, None)

    def publish(self, events: tuple[Event, ...]) -> None:
        """Deliver the events of one entry to everyone."""
        if not self._watches:
            return
        kinds = {event.kind for event in events}
        for watch in self._watches:
            watch.deliver(events, kinds)

    def resync(self, version: int) -> None:
        """Tell everyone to read anew."""
        for watch in self._watches:
            watch.resync(version)
