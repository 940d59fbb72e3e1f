"""Random schedules: whatever is lost, repeated, reordered, crashed or cut off, the safety properties of figure 3 hold.

A schedule is a seed; a failure names it, and :func:`run` with that seed replays it.
"""

from __future__ import annotations

import random

import pytest
from raft_cluster import Cluster, member

from swarmpy.errors import FailedPrecondition, NotLeader, Unavailable
from swarmpy.raft.messages import ConfChange, ConfChangeKind
from swarmpy.raft.state import RaftRole

SEEDS = range(60)
STEPS = 500


class Chaos:
    """A cluster, a source of misfortune, and what has been seen so far."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.ids = (1, 2, 3) if seed % 3 else (1, 2, 3, 4, 5)
        self.cluster = Cluster(*self.ids, joiners=(6,), seed=seed)
        self.leader_of: dict[int, int] = {}
        self.history: dict[int, tuple[int, bytes]] = {}
        self.proposed = 0
        self.crashes_midway = seed % 2 == 0

    def step(self) -> None:
        """One random event."""
        rng, cluster = self.rng, self.cluster
        raft_id = rng.choice(sorted(cluster.nodes))
        event = rng.random()
        if event < 0.45:
            self.deliver()
        elif event < 0.75:
            if raft_id not in cluster.down:
                for _ in range(self.rng.randrange(1, 8)):
                    cluster[raft_id].tick()
                self.work(raft_id)
        elif event < 0.88:
            self.propose()
        elif event < 0.90:
            cluster.crash(raft_id)
        elif event < 0.94:
            for node in sorted(cluster.down):
                cluster.restart(node)
        elif event < 0.95:
            cluster.isolate(raft_id)
        elif event < 0.975:
            cluster.heal()
        elif event < 0.985:
            self.compact(raft_id)
        else:
            self.change()
        self.check()

    def work(self, raft_id: int) -> None:
        """Do a node's duties; now and then it crashes between them."""
        node = self.cluster.nodes[raft_id]
        while (ready := node.core.ready()) is not None:
            self.cluster._post(node, ready.messages)
            if self.crashes_midway and self.rng.random() < 0.01:
                self.cluster.restart(raft_id)
                return
            node.persist(ready)
            if self.crashes_midway and self.rng.random() < 0.01:
                self.cluster.restart(raft_id)
                return
            self.cluster._post(node, ready.messages_after_persist)
            node.apply(ready)
            node.core.advance(ready)

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

    def compact(self, raft_id: int) -> None:
        node = self.cluster.nodes[raft_id]
        if raft_id not in self.cluster.down and node.core.log.applied > node.core.log.offset:
            node.take_snapshot(keep=self.rng.randrange(3))

    def change(self) -> None:
        """Add, promote or remove a member, or hand over."""
        for leader in self.cluster.leaders():
            core = self.cluster[leader]
            kind = self.rng.choice([ConfChangeKind.ADD_LEARNER, ConfChangeKind.PROMOTE, None])
            try:
                if kind is None:
                    core.transfer_leadership(0)
                else:
                    core.propose_conf_change(ConfChange(kind=kind, member=member(6)))
            except (FailedPrecondition, NotLeader, Unavailable):
                continue
            self.work(leader)

    def check(self) -> None:
        """Election safety, leader completeness and state machine safety, after every event."""
        for raft_id, node in self.cluster.nodes.items():
            core = node.core
            if core.role is RaftRole.LEADER:
                assert self.leader_of.setdefault(core.term, raft_id) == raft_id, f"two leaders in term {core.term}"
            for index in range(max(core.log.offset, core.log.applied - 20) + 1, core.log.applied + 1):
                entry = core.log.entry(index)
                seen = self.history.setdefault(index, (entry.term, entry.data))
                assert seen == (entry.term, entry.data), f"entry {index} was applied with two contents"

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
        cluster.heal()
        cluster.wire.clear()
        for node in sorted(cluster.nodes):
            if node in cluster.down:
                cluster.restart(node)
        cluster.tick(60)
        leader = cluster.wait_leader()
        cluster.propose(leader, b"last")
        cluster.tick(10)
        voters = cluster[leader].members
        assert {cluster.values(i)[-1] for i in voters} == {b"last"}
        assert len({tuple(cluster.values(i)) for i in voters}) == 1


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
    """Under random faults nothing committed is lost or changed, and afterwards the cluster works."""
    run(seed)


def test_schedules_are_worth_something() -> None:
    """The schedules do elect several leaders and commit entries, otherwise they would prove nothing."""
    runs = [run(seed) for seed in range(5)]
    assert sum(len(chaos.leader_of) for chaos in runs) > 15
    assert sum(len(chaos.history) for chaos in runs) > 100


def test_same_seed_same_history() -> None:
    """A seed replays exactly."""
    assert run(3).history == run(3).history
