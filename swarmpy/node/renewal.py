"""Beginning a cluster anew from what one manager has on its disk: the log of a group in which it is alone.

The new log is made whole beside the old one (``raft.next``). It counts from the moment ``node.json`` names its raft
id: until then the node is what it was, after that it leads alone (see
:meth:`~swarmpy.node.datadir.DataDir.finish_renewal`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarmpy.control.recovery import begun_anew
from swarmpy.errors import FailedPrecondition, NotFound
from swarmpy.model import codec
from swarmpy.model.changes import ChangeList
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import ManagerStatus, Node
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.ports import Clock
from swarmpy.raft.encoding import decode_conf_change
from swarmpy.raft.membership import MAX_REMOVED_REMEMBERED, changed
from swarmpy.raft.messages import ConfState, EntryKind, Member, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX, StoredState, bootstrap_from
from swarmpy.security.sealing import KeyRing
from swarmpy.store.memory import Store
from swarmpy.wire.log import SqliteLog


async def renew(data: DataDir, before: NodeState, after: NodeState, clock: Clock, ring: KeyRing | None = None) -> None:
    """Replace the stopped manager's log by that of a group of its own, and make ``after`` who this node is.

    ``ring`` opens the one and seals the other. After a crash at any point this node is ``before`` with its old log or
    ``after`` with the new one. Raises FailedPrecondition when the log holds no cluster that this node is a manager of,
    StorageError.
    """
    work = asyncio.create_task(_renew(data, before, after, clock, ring), name="renewal")
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        # Nobody may use the log while a thread still moves it.
        await asyncio.wait([work])
        raise


async def _renew(data: DataDir, before: NodeState, after: NodeState, clock: Clock, ring: KeyRing | None) -> None:
    stored = await read(data.raft, ring)
    me = Member(raft_id=after.raft_id, node_id=after.node_id, address=after.advertise_address)
    conf = alone(stored, me, before.raft_id)
    store = await asyncio.to_thread(replay, stored, clock)
    snapshot = await taken_over(store, conf, me, last=position(stored), clock=clock)
    await asyncio.to_thread(data.begin_renewal, after)
    await write(data.next_raft, snapshot, ring)
    await asyncio.to_thread(data.commit_renewal, after)


async def read(directory: Path, ring: KeyRing | None = None) -> StoredState:
    """All that the log in ``directory`` holds, checked. Raises StorageError."""
    log = SqliteLog(directory, ring)
    try:
        return await log.load()
    finally:
        await log.close()


async def write(directory: Path, snapshot: Snapshot, ring: KeyRing | None = None) -> None:
    """A new log that begins with ``snapshot``, closed in good order. Raises StorageError."""
    log = SqliteLog(directory, ring)
    try:
        await bootstrap_from(log, snapshot)
    finally:
        await log.close()


def position(stored: StoredState) -> tuple[int, int]:
    """The last index of a log, and the highest term its member has heard of."""
    last = stored.entries[-1] if stored.entries else stored.snapshot
    index, term = (0, 0) if last is None else (last.index, last.term)
    if stored.snapshot is not None and stored.snapshot.index > index:
        index, term = stored.snapshot.index, stored.snapshot.term
    return index, max(term, stored.hard_state.term)


def alone(stored: StoredState, me: Member, old_raft_id: int) -> ConfState:
    """The membership in which ``me`` is the only voter and all others are remembered as removed.

    Entries that were not committed count: they may have been, and nobody is left to say. Raises FailedPrecondition
    when the member ``old_raft_id`` of this log has no part in the group: another membership has its votes.
    """
    conf = ConfState() if stored.snapshot is None else stored.snapshot.conf
    base = 0 if stored.snapshot is None else stored.snapshot.index
    for entry in stored.entries:
        if entry.index > base and entry.kind is EntryKind.CONF_CHANGE:
            conf = changed(conf, decode_conf_change(entry))
    members = {m.raft_id: m for m in (*conf.voters, *conf.learners)}
    if old_raft_id not in members:
        raise FailedPrecondition(
            "this node is not among the managers by its own log, so the state in it is an old one: begin the cluster "
            "anew on a manager that was one to the last, or from a backup"
        )
    others = [m for raft_id, m in members.items() if raft_id != old_raft_id]
    return ConfState(voters=(me,), removed=(*conf.removed, *others)[-MAX_REMOVED_REMEMBERED:])


def replay(stored: StoredState, clock: Clock) -> Store:
    """The state after every entry of a log, committed or not. Blocks for as long as that takes."""
    store = Store(clock)
    base = 0
    if stored.snapshot is not None and stored.snapshot.index > BOOTSTRAP_INDEX:
        store.restore_at_once(stored.snapshot.data)
        base = stored.snapshot.index
    for entry in stored.entries:
        if entry.index > base and entry.kind is EntryKind.NORMAL and entry.data:
            store.apply(entry.index, entry.data)
    return store


async def taken_over(
    store: Store, conf: ConfState, me: Member, *, last: tuple[int, int], new: Node | None = None, clock: Clock
) -> Snapshot:
    """The first snapshot of the cluster that is begun anew: one entry and one term after ``last``.

    ``new`` is the manager's node where the cluster has none of that id. Raises FailedPrecondition when ``store`` holds
    no cluster.
    """
    view = store.view()
    try:
        view.cluster()
    except NotFound:
        raise FailedPrecondition("this manager has no copy of the cluster's state: begin it anew on another") from None
    manager = ManagerStatus(raft_id=me.raft_id, address=me.address)
    changes = begun_anew(view, NodeId(me.node_id), manager, clock.time_ns(), new=new)
    index, term = last[0] + 1, last[1] + 1
    store.apply(index, codec.encode(ChangeList(changes=changes)))
    return Snapshot(index=index, term=term, conf=conf, data=await store.snapshot())
