"""Random schedules: whatever is lost, repeated, reordered, crashed or cut off, the safety properties of figure 3 hold.

A schedule is a seed; a failure names it, and :func:`run` with that seed replays it. Disks are slow in half of them: a
member is stepped, ticked and proposed to while it writes, and a crash then loses the write or not.
"""

from __future__ import annotations

import os
import random

import pytest
from raft_cluster import TIMING, Cluster, member

from swarmpy.errors import FailedPrecondition, NotLeader, Unavailable
from swarmpy.raft.messages import NO_ONE, ConfChange, ConfChangeKind, Ready
from swarmpy.raft.state import RaftRole, Timing

SEEDS = range(int(os.environ.get("SWARMPY_CHAOS_SEEDS", "60")))
STEPS = int(os.environ.get("SWARMPY_CHAOS_STEPS", "500"))
FOUNDERS = ((1, 2, 3), (1, 2, 3, 4, 5), (1,), (1, 2))
JOINERS = (6, 7, 8, 9)
TIMINGS = (TIMING, Timing(heartbeat=2, election=10), Timing(heartbeat=1, election=6))


class Chaos:
    """A cluster, a source of misfortune, and what has been seen so far."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(*FOUNDERS[seed % len(FOUNDERS)], joiners=JOINERS, seed=seed)
        self.leader_of: dict[int, int] = {}
        self.history: dict[int, tuple[int, bytes]] = {}
        self.proposed = 0
        self.slow_disks = seed // 4 % 2 == 0
        self.crashes_midway = seed // 8 % 2 == 0
        self.removes = seed // 16 % 2 == 0
        self.writing: dict[int, tuple[Ready, bool]] = {}
        """What a member works on, and whether it is on its disk already."""
        self.last_read = 0
        self.committed = 0
        """The largest index that anybody has known to be committed."""
        self.reads: dict[int, int] = {}
        """Open reads, and what was committed when they were asked for."""
        self.reads_done = 0

    def step(self) -> None:
        """One random event."""
        rng, cluster = self.rng, self.cluster
        raft_id = rng.choice(sorted(cluster.nodes))
        event = rng.random()
        if event < 0.45:
            self.deliver()
        elif event < 0.69:
            if raft_id not in cluster.down:
                for _ in range(self.rng.randrange(1, 8)):
                    cluster[raft_id].tick()
                self.work(raft_id)
        elif event < 0.75:
            self.read(raft_id)
        elif event < 0.88:
            self.propose()
        elif event < 0.94:
            self.power(raft_id, fails=event < 0.90)
        elif event < 0.95:
            cluster.isolate(raft_id)
        elif event < 0.97:
            cluster.heal()
        elif event < 0.975:
            self.compact(raft_id)
        elif event < 0.98:
            cluster[raft_id].set_timing(self.rng.choice(TIMINGS))
        else:
            self.change()
        self.check()

    def power(self, raft_id: int, *, fails: bool) -> None:
        """One goes down, or all that are down come back."""
        if fails:
            self.crash(raft_id)
            self.cluster.crash(raft_id)
        else:
            for node in sorted(self.cluster.down):
                self.cluster.restart(node)

    # ---- what a driver does

    def work(self, raft_id: int) -> None:
        """Do a node's duties, or only some of them; now and then it crashes between them."""
        node = self.cluster.nodes[raft_id]
        self.cluster._post(node, node.core.take_messages())
        while True:
            if self.crashes_midway and self.rng.random() < 0.01:
                self.crash(raft_id)
                self.cluster.restart(raft_id)
                return
            if self.slow_disks and self.rng.random() < 0.5:
                return
            if not self.advance(raft_id):
                return

    def advance(self, raft_id: int) -> bool:
        """One duty. False when there is none."""
        node = self.cluster.nodes[raft_id]
        working = self.writing.pop(raft_id, None)
        if working is None:
            ready = node.core.ready()
            if ready is None:
                return False
            self.cluster._post(node, ready.messages)
            self.writing[raft_id] = (ready, False)
            return True
        ready, written = working
        if not written:
            node.persist(ready)
            node.core.persisted(ready)
            self.cluster._post(node, ready.messages_after_persist)
            self.writing[raft_id] = (ready, True)
            return True
        node.apply(ready)
        node.core.advance(ready)
        for read in ready.reads:
            self.check_read(read.request, read.index)
        return True

    def crash(self, raft_id: int) -> None:
        """The power goes; of a write that was under way nobody knows whether it is on the disk."""
        ready, written = self.writing.pop(raft_id, (None, True))
        if ready is not None and not written and self.rng.random() < 0.5:
            self.cluster.nodes[raft_id].persist(ready)

    def deliver(self) -> None:
        """A few messages, in any order, some of them lost or twice."""
        cluster = self.cluster
        for _ in range(min(len(cluster.wire), 8)):
            place = 0 if self.rng.random() < 0.8 else self.rng.randrange(len(cluster.wire))
            message = cluster.wire.pop(place)
            fate = self.rng.random()
            if fate < 0.05 or cluster.is_lost(message):
                continue
            if fate < 0.10:
                cluster.wire.append(message)
            cluster[message.to].step(message)
            self.work(message.to)

    def propose(self) -> None:
        for leader in self.cluster.leaders():
            for _ in range(self.rng.randrange(1, 4)):
                self.proposed += 1
                try:
                    self.cluster[leader].propose(b"%d" % self.proposed)
                except (NotLeader, Unavailable):
                    break
            self.work(leader)

    def read(self, raft_id: int) -> None:
        if raft_id in self.cluster.down:
            return
        self.last_read += 1
        self.reads[self.last_read] = self.committed
        try:
            self.cluster[raft_id].read_index(self.last_read)
        except Unavailable:
            return
        self.work(raft_id)

    def compact(self, raft_id: int) -> None:
        node = self.cluster.nodes[raft_id]
        if raft_id not in self.cluster.down and node.applied_index > node.core.log.offset:
            node.take_snapshot(keep=self.rng.randrange(3))

    def change(self) -> None:
        """Add, promote or remove a member, or hand over."""
        kinds = [ConfChangeKind.ADD_LEARNER, ConfChangeKind.PROMOTE, None]
        if self.removes:
            kinds.append(ConfChangeKind.REMOVE)
        for leader in self.cluster.leaders():
            core = self.cluster[leader]
            kind = self.rng.choice(kinds)
            learners = [m.raft_id for m in core.conf.learners]
            targets = {
                ConfChangeKind.ADD_LEARNER: JOINERS,
                ConfChangeKind.PROMOTE: learners or JOINERS,
                ConfChangeKind.REMOVE: sorted(core.members),
                None: (NO_ONE,),
            }[kind]
            target = self.rng.choice(targets)
            try:
                if kind is None:
                    core.transfer_leadership(target)
                else:
                    core.propose_conf_change(ConfChange(kind=kind, member=member(target)))
            except (FailedPrecondition, NotLeader, Unavailable):
                continue
            self.work(leader)

    # ---- what must hold

    def check_read(self, number: int, index: int) -> None:
        """A read sees everything that was committed when it was asked for."""
        assert index >= self.reads[number], f"read {number} does not see entry {self.reads[number]}, only {index}"
        self.reads_done += 1

    def check(self) -> None:
        """Election safety, leader completeness and state machine safety, after every event."""
        for raft_id, node in self.cluster.nodes.items():
            core = node.core
            # A lone voter takes office before its vote is durable, but nobody hears of it until then.
            if core.role is RaftRole.LEADER and core.durable[0] == core.term:
                assert self.leader_of.setdefault(core.term, raft_id) == raft_id, f"two leaders in term {core.term}"
            for index in range(max(core.log.offset, core.log.committed - 20) + 1, core.log.committed + 1):
                entry = core.log.entry(index)
                seen = self.history.setdefault(index, (entry.term, entry.data))
                assert seen == (entry.term, entry.data), f"entry {index} was committed with two contents"
            self.committed = max(self.committed, core.log.committed)

    def check_logs_match(self) -> None:
        """Log matching: where two logs have the same term at an index, they are equal up to it."""
        cores = [node.core for node in self.cluster.nodes.values()]
        for one in cores:
            for two in cores:
                low = max(one.log.offset, two.log.offset) + 1
                same = [
                    i
                    for i in range(low, min(one.log.last_index, two.log.last_index) + 1)
                    if one.log.term_at(i) == two.log.term_at(i)
                ]
                for index in range(low, (same[-1] if same else low - 1) + 1):
                    assert one.log.entry(index) == two.log.entry(index)

    def recover(self) -> None:
        """With the faults over, the cluster elects a leader, takes a write and agrees."""
        cluster = self.cluster
        for node in sorted(self.writing):
            while self.advance(node):
                pass
        cluster.heal()
        cluster.wire.clear()
        for node in sorted(cluster.nodes):
            if node in cluster.down:
                cluster.restart(node)
        cluster.tick(60)
        leader = cluster.wait_leader()
        cluster.propose(leader, b"last")
        cluster.tick(10)
        self.check()
        members = cluster[leader].members
        assert {cluster.values(i)[-1] for i in members} == {b"last"}
        assert len({tuple(cluster.values(i)) for i in members}) == 1
        cluster[leader].read_index(0)
        cluster.settle()
        assert cluster.nodes[leader].reads[0] == cluster[leader].log.committed


def run(seed: int, steps: int = STEPS) -> Chaos:
    chaos = Chaos(seed)
    for _ in range(steps):
        chaos.step()
    chaos.check_logs_match()
    chaos.recover()
    chaos.check_logs_match()
    return chaos


@pytest.mark.parametrize("seed", SEEDS)
def test_safety_and_recovery(seed) -> None:
    """Under random faults nothing committed is lost or changed, no read is stale, and afterwards the cluster works."""
    run(seed)


def test_schedules_are_worth_something() -> None:
    """The schedules do elect leaders, commit, read, and change the membership, otherwise they would prove nothing."""
    runs = [run(seed) for seed in range(16)]
    assert sum(len(chaos.leader_of) for chaos in runs) > 40
    assert sum(len(chaos.history) for chaos in runs) > 800
    assert sum(chaos.reads_done for chaos in runs) > 30
    confs = [node.core.conf for chaos in runs for node in chaos.cluster.nodes.values()]
    assert any(set(JOINERS) & {m.raft_id for m in conf.voters} for conf in confs)
    assert any(conf.removed for conf in confs)


def test_same_seed_same_history() -> None:
    """A seed replays exactly."""
    assert run(3).history == run(3).history
