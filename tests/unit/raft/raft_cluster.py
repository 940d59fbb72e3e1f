"""A few cores and a list of messages: a cluster without time, disks or sockets, which does only what a test says."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from swarmpy.raft.core import RaftCore
from swarmpy.raft.encoding import decode_conf_change
from swarmpy.raft.messages import (
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Member,
    Message,
    MessageType,
    Ready,
    Snapshot,
)
from swarmpy.raft.state import RaftRole, Timing

TIMING = Timing(heartbeat=1, election=10)


def member(raft_id: int) -> Member:
    return Member(raft_id=raft_id, node_id=f"node{raft_id}", address=f"10.0.0.{raft_id}:2377")


def conf_of(*ids: int, learners: tuple[int, ...] = ()) -> ConfState:
    return ConfState(voters=tuple(member(i) for i in ids), learners=tuple(member(i) for i in learners))


def entries_of(*terms: int, first: int = 2) -> tuple[Entry, ...]:
    """Entries with these terms, from index ``first`` on (1 is the snapshot every log begins with)."""
    return tuple(Entry(term=t, index=i, data=b"%d.%d" % (t, i)) for i, t in enumerate(terms, first))


def core_of(
    raft_id: int, *ids: int, terms: tuple[int, ...] = (), term: int = 0, learners: tuple[int, ...] = (), commit: int = 1
) -> RaftCore:
    """A core of the cluster ``ids`` whose log has ``terms`` after the first snapshot."""
    return RaftCore(
        raft_id,
        random=random.Random(raft_id),
        timing=TIMING,
        hard_state=HardState(term=max([term, 1, *terms]), commit=commit),
        snapshot=Snapshot(index=1, term=1, conf=conf_of(*ids, learners=learners)) if ids else None,
        entries=entries_of(*terms),
    )


def drain(core: RaftCore) -> list[Ready]:
    """Do a core's duties without a disk or a state machine; what it wanted done."""
    done = []
    while (ready := core.ready()) is not None:
        for entry in ready.committed:
            if entry.kind is EntryKind.CONF_CHANGE:
                core.apply_conf_change(decode_conf_change(entry), entry.index)
        core.advance(ready)
        done.append(ready)
    return done


def sent(core: RaftCore, kind: MessageType | None = None) -> list[Message]:
    """The messages that come out now, of all kinds or of one."""
    messages = [m for ready in drain(core) for m in (*ready.messages, *ready.messages_after_persist)]
    return [m for m in messages if kind is None or m.type is kind]


def elect(core: RaftCore) -> None:
    """Make ``core`` the leader with everybody's consent."""
    core.campaign()
    for kind in (MessageType.PRE_VOTE, MessageType.VOTE):
        answer = MessageType(kind + 1)
        for m in sent(core, kind):
            core.step(Message(type=answer, to=core.raft_id, source=m.to, term=m.term))
    assert core.is_leader


class Node:
    """A core with what it has on disk, and what it has applied (since the last restore)."""

    def __init__(self, raft_id: int, seed: int = 0) -> None:
        self.raft_id = raft_id
        self.seed = seed
        self.hard_state = HardState()
        self.snapshot: Snapshot | None = None
        self.entries: list[Entry] = []
        self.applied: dict[int, bytes] = {}
        self.applied_index = 0
        self.reads: dict[int, int] = {}
        self.core = self._start()

    def _start(self) -> RaftCore:
        self.applied = _applied_of(self.snapshot)
        self.applied_index = 0 if self.snapshot is None else self.snapshot.index
        return RaftCore(
            self.raft_id,
            random=random.Random(f"{self.seed}/{self.raft_id}"),
            timing=TIMING,
            hard_state=self.hard_state,
            snapshot=self.snapshot,
            entries=tuple(self.entries),
        )

    def restart(self) -> None:
        """A crash: what is not on disk is gone."""
        self.core = self._start()

    def persist(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.snapshot = ready.snapshot
            self.entries = []
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        if ready.entries:
            self.entries = [e for e in self.entries if e.index < ready.entries[0].index] + list(ready.entries)

    def apply(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.applied = _applied_of(ready.snapshot)
            self.applied_index = ready.snapshot.index
        for entry in ready.committed:
            assert entry.index == self.applied_index + 1, "an entry is applied out of order"
            if entry.kind is EntryKind.CONF_CHANGE:
                self.core.apply_conf_change(decode_conf_change(entry), entry.index)
            self.applied[entry.index] = entry.data
            self.applied_index = entry.index
        for read in ready.reads:
            self.reads[read.request] = read.index

    def take_snapshot(self, keep: int = 0) -> None:
        """Snapshot all that is applied and forget the log but for ``keep`` entries."""
        index = self.applied_index
        term = self.core.log.term_at(index)
        if term is None or self.core.conf_index > index:
            return  # a leader's snapshot is about to replace this state
        data = b"\n".join(b"%d %s" % item for item in sorted(self.applied.items()))
        self.snapshot = Snapshot(index=index, term=term, conf=self.core.conf, data=data)
        self.core.compact(index - keep)
        self.entries = [e for e in self.entries if e.index > index - keep]


def _applied_of(snapshot: Snapshot | None) -> dict[int, bytes]:
    if snapshot is None or not snapshot.data:
        return {}
    pairs = [line.split(b" ", 1) for line in snapshot.data.split(b"\n")]
    return {int(index): data for index, data in pairs}


class Cluster:
    """Nodes and the messages between them."""

    def __init__(self, *ids: int, joiners: tuple[int, ...] = (), seed: int = 0) -> None:
        self.nodes = {i: Node(i, seed) for i in (*ids, *joiners)}
        for i in ids:
            node = self.nodes[i]
            node.snapshot = Snapshot(index=1, term=1, conf=conf_of(*ids))
            node.hard_state = HardState(term=1, commit=1)
            node.restart()
        self.wire: list[Message] = []
        self.down: set[int] = set()
        self.cut: set[tuple[int, int]] = set()
        self.drop: Callable[[Message], bool] = lambda message: False

    def __getitem__(self, raft_id: int) -> RaftCore:
        return self.nodes[raft_id].core

    def isolate(self, raft_id: int) -> None:
        """Cut one off from all others."""
        for other in self.nodes:
            self.cut |= {(raft_id, other), (other, raft_id)}

    def heal(self) -> None:
        self.cut.clear()
        self.drop = lambda message: False

    def crash(self, raft_id: int) -> None:
        self.down.add(raft_id)

    def restart(self, raft_id: int) -> None:
        self.down.discard(raft_id)
        self.nodes[raft_id].restart()

    def work(self, raft_id: int) -> None:
        """Do the duties of one node."""
        node = self.nodes[raft_id]
        while (ready := node.core.ready()) is not None:
            self._post(node, ready.messages)
            node.persist(ready)
            self._post(node, ready.messages_after_persist)
            node.apply(ready)
            node.core.advance(ready)

    def _post(self, node: Node, messages: tuple[Message, ...]) -> None:
        for message in messages:
            if message.type is MessageType.SNAPSHOT and message.snapshot is None:
                message = attrs.evolve(message, snapshot=node.snapshot)  # noqa: PLW2901
                node.core.report_snapshot(message.to, delivered=True)
            if node.core.member(message.to) is not None:
                self.wire.append(message)

    def is_lost(self, message: Message) -> bool:
        return (
            (message.source, message.to) in self.cut
            or message.to in self.down
            or message.source in self.down
            or message.to not in self.nodes
            or self.drop(message)
        )

    def settle(self) -> None:
        """Deliver everything, in order, until nobody has anything to say."""
        for _ in range(10_000):
            for raft_id in sorted(self.nodes):
                if raft_id not in self.down:
                    self.work(raft_id)
            if not self.wire:
                return
            wire, self.wire = self.wire, []
            for message in wire:
                if not self.is_lost(message):
                    self.nodes[message.to].core.step(message)
        raise AssertionError("the cluster does not come to rest")

    def tick(self, count: int = 1, only: int | None = None) -> None:
        """Let time pass, everywhere or for one."""
        for _ in range(count):
            for raft_id in sorted(self.nodes):
                if raft_id not in self.down and only in (None, raft_id):
                    self.nodes[raft_id].core.tick()
            self.settle()

    def elect(self, raft_id: int) -> RaftCore:
        """Have one stand for election, which it must win."""
        self.nodes[raft_id].core.campaign()
        self.settle()
        assert self[raft_id].is_leader
        return self[raft_id]

    def leaders(self) -> list[int]:
        return [i for i, n in self.nodes.items() if n.core.role is RaftRole.LEADER and i not in self.down]

    def wait_leader(self, ticks: int = 100) -> int:
        """Let time pass until exactly one leads and all the others that hear it follow."""
        for _ in range(ticks):
            self.tick()
            if len(self.leaders()) == 1:
                return self.leaders()[0]
        raise AssertionError(f"no leader after {ticks} ticks")

    def propose(self, raft_id: int, *data: bytes) -> None:
        for item in data:
            self[raft_id].propose(item)
        self.settle()

    def values(self, raft_id: int) -> list[bytes]:
        """What the state machine of one has seen, without no-ops and membership changes."""
        return [d for _, d in sorted(self.nodes[raft_id].applied.items()) if d and not d.startswith(b"[")]
