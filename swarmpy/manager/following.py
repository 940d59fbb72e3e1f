"""The leader's care for versions of secrets and configs: services follow, and what is needed no more goes.

Part of the control loop. Events only say where to look; all is decided on the state, in the transaction that writes it:
a version that something has come to refer to meanwhile is kept.
"""

from __future__ import annotations

import asyncio

import structlog

from swarmpy.control.versions import FAMILIES, Stored, is_needed
from swarmpy.manager.secrets import follow
from swarmpy.model.objects import Config, Kind, Secret, Service, Task
from swarmpy.model.references import kept_by_service, kept_by_task
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View
from swarmpy.store.watch import Event

log = structlog.get_logger(__name__)

MAX_REMOVED = 200
"""Most versions that one entry removes."""


class Following:
    """One term of office."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: set[tuple[Kind, str]] = set()
        self._ids: set[str] = set()

    def mark_all(self) -> None:
        """Look at everything."""
        view = self._store.view()
        for kind, family in FAMILIES.items():
            for obj in family.all(view):
                self._mark(kind, obj)

    def mark(self, event: Event) -> None:
        """Look at what ``event`` may have changed."""
        new, old = event.object, event.old
        match new or old:
            case Secret() | Config() as obj if new is not None:
                self._mark(event.kind, obj)
            case Service():
                kept = kept_by_service(new) if isinstance(new, Service) else ()
                self._ids.update(set(kept_by_service(old)).difference(kept) if isinstance(old, Service) else ())
            case Task() if new is None or not isinstance(new, Task) or new.status.state.is_terminal:
                kept = kept_by_task(new) if isinstance(new, Task) else ()
                self._ids.update(set(kept_by_task(old)).difference(kept) if isinstance(old, Task) else ())

    def _mark(self, kind: Kind, obj: Stored) -> None:
        if not obj.spec.name:
            self._ids.add(obj.id)
        elif obj.number > 1:
            self._names.add((kind, obj.spec.name))

    async def settle(self) -> int:
        """Do what is to be done; returns how many objects were written."""
        if not self._names and not self._ids:
            return 0
        names, self._names = sorted(self._names), set()
        ids, self._ids = self._ids, set()
        written = 0
        for kind, name in names:
            while moved := await follow(self._store, FAMILIES[kind], name):
                written += moved
                log.info("services_follow", kind=str(kind), name=name, services=moved)
            ids.update(version.id for version in FAMILIES[kind].versions(self._store.view(), name))
            await asyncio.sleep(0)
        return written + await self._remove(sorted(ids))

    async def _remove(self, ids: list[str]) -> int:
        """Remove those of these that nothing needs."""
        removed = 0
        for start in range(0, len(ids), MAX_REMOVED):
            some = ids[start : start + MAX_REMOVED]
            if unneeded(self._store.view(), some):
                removed += await self._store.update(lambda tx, some=some: _delete(tx, some))  # type: ignore[misc]
            await asyncio.sleep(0)
        return removed


def unneeded(view: View, ids: list[str]) -> list[Stored]:
    """The secrets and configs among these ids that nothing needs."""
    found = [view.secret(object_id) or view.config(object_id) for object_id in ids]
    return [obj for obj in found if obj is not None and not is_needed(view, obj)]


def _delete(tx: Tx, ids: list[str]) -> int:
    doomed = unneeded(tx, ids)
    for obj in doomed:
        tx.delete(obj)
    return len(doomed)
