"""What the leader has proposed and not yet seen applied, as a layer above the committed state.

Transactions read through it, so that many can be in flight at once. It is a guess, right as long as the proposer
stays leader: it is dropped whole when that ends. Adding and settling an entry cost what the entry changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from swarmpy.model.changes import Action, ChangeList
from swarmpy.model.objects import Kind, StoreObject, Task
from swarmpy.model.patches import TaskPatch
from swarmpy.store.stamp import stamp, stamp_patch
from swarmpy.store.tables import Layer
from swarmpy.store.view import View


@attrs.frozen(kw_only=True)
class Written:
    """One change as it is, or will be, stored."""

    action: Action
    kind: Kind
    id: str
    object: StoreObject | None


@attrs.frozen(kw_only=True)
class Patched:
    """Tasks of one patch as they are, or will be, stored."""

    patch: TaskPatch
    tasks: list[Task]


@attrs.frozen(kw_only=True)
class Pending:
    """One entry in flight, and what it will write."""

    data: bytes
    entry: ChangeList
    written: tuple[Written, ...]
    patched: tuple[Patched, ...]


class Overlay:
    """The entries in flight, by index."""

    def __init__(self) -> None:
        self.layer = Layer(is_upper=True)
        self._pending: dict[int, Pending] = {}
        self._writer: dict[Kind, dict[str, int]] = {kind: {} for kind in Kind}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, index: int, data: bytes, entry: ChangeList, committed: Layer) -> None:
        """Show what ``entry``, encoded as ``data``, changes as it will be once it is applied at ``index``."""
        view = View((self.layer, committed), index - 1)
        written = []
        for change in entry.changes:
            obj = stamp(change, view, index)
            self.layer.by_kind[change.kind].put(change.id, obj)
            self._writer[change.kind][change.id] = index
            written.append(Written(action=change.action, kind=change.kind, id=change.id, object=obj))
        patched = [Patched(patch=patch, tasks=stamp_patch(patch, view, index)) for patch in entry.patches]
        for each in patched:
            self.layer.tasks.put_all(each.patch.ids, each.tasks)
            self._writer[Kind.TASK].update(dict.fromkeys(each.patch.ids, index))
        self._pending[index] = Pending(data=data, entry=entry, written=tuple(written), patched=tuple(patched))

    def settle(self, index: int, data: bytes) -> Pending | None:
        """The entry at ``index`` is being applied: stop showing it, and give it.

        None when it is not one of ours; then everything proposed after it will never be applied, and is dropped too.
        """
        if not self._pending:
            return None
        pending = self._pending.pop(index, None)
        if pending is None or pending.data != data:
            self.clear()
            return None
        for change in pending.written:
            self._settle(change.kind, (change.id,), index)
        for each in pending.patched:
            self._settle(Kind.TASK, each.patch.ids, index)
        return pending

    def _settle(self, kind: Kind, object_ids: Iterable[str], index: int) -> None:
        writer, forget = self._writer[kind], self.layer.by_kind[kind].forget
        if not self._pending:
            # All that is shown is of this entry.
            writer.clear()
            self.layer.by_kind[kind].clear()
            return
        for object_id in object_ids:
            if writer[object_id] == index:
                del writer[object_id]
                forget(object_id)

    def clear(self) -> None:
        """Forget everything in flight."""
        self.layer = Layer(is_upper=True)
        self._pending.clear()
        self._writer = {kind: {} for kind in Kind}
