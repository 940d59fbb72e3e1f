"""Small worlds, whole: every order in which a few messages can arrive, and every crash in between.

A message that is delivered last of all was lost for all that happened before, so every loss is among the orders, too.
No tick passes: a member stands for election when it is told to (TIMEOUT_NOW), which may reach it at any time.

What a member does depends only on its state and the message, so each such move is made once, on a copy, and looked up
from then on; a world is no more than numbers of states and of messages.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import attrs
import pytest
from raft_cluster import Cluster, Node, conf_of, entries_of, member

from swarmpy.raft.messages import ConfChange, ConfChangeKind, HardState, Message, MessageType, Ready, Snapshot
from swarmpy.raft.state import RaftRole

NOBODY_HERE = 99
CRASHES = ("before writing", "before promising")
Leaders = tuple[tuple[int, int], ...]


class ForgetfulNode(Node):
    """A member with a deliberate bug: its vote is not written."""

    def persist(self, ready: Ready) -> None:
        super().persist(ready)
        self.hard_state = attrs.evolve(self.hard_state, vote=0)


@attrs.frozen(kw_only=True)
class World:
    """One moment, and what of its past must not be contradicted."""

    nodes: tuple[int, ...]
    wire: tuple[int, ...]
    crashes: int
    """How many may still happen."""
    leaders: Leaders = ()
    """(term, who), in order."""
    committed: tuple[tuple[int, int], ...] = ()
    """(index, term), in order."""


class Explorer:
    """All the worlds that some members, numbered from 1, can come to."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes: list[Node] = []
        self.messages: list[Message] = []
        self._node_numbers: dict[str, int] = {}
        self._message_numbers: dict[Message, int] = {}
        self._moves: dict[tuple[int, int, str], tuple[int, tuple[int, ...]]] = {}
        self.seen: dict[World, int] = {}
        self.histories: set[Leaders] = set()
        for node in nodes:
            self._number(node)

    def start(self, *messages: Message, crashes: int = 0) -> World:
        """The world in which only ``messages`` are on their way."""
        world = World(
            nodes=tuple(range(len(self.nodes))),
            wire=tuple(sorted(self._message(m) for m in messages)),
            crashes=crashes,
        )
        for node in self.nodes:
            world = _witnessed(world, node)
        return world

    def timeout(self, raft_id: int, term: int) -> Message:
        """Makes a member of ``term`` stand for election when it arrives."""
        return Message(type=MessageType.TIMEOUT_NOW, to=raft_id, source=NOBODY_HERE, term=term)

    def explore(self, world: World, depth: int = 99) -> None:
        """Check every world that can be reached in ``depth`` deliveries."""
        if self.seen.get(world, -1) >= depth:
            return
        self.seen[world] = depth
        self.check(world)
        self.histories.add(world.leaders)
        if depth:
            for after in self._futures(world):
                self.explore(after, depth - 1)

    def _futures(self, world: World) -> Iterator[World]:
        for message in sorted(set(world.wire)):
            place = self.messages[message].to - 1
            rest = list(world.wire)
            rest.remove(message)
            for crash in ("", *CRASHES) if world.crashes else ("",):
                number, sent = self._move(world.nodes[place], message, crash)
                after = attrs.evolve(
                    world,
                    nodes=(*world.nodes[:place], number, *world.nodes[place + 1 :]),
                    wire=tuple(sorted((*rest, *sent))),
                    crashes=world.crashes - bool(crash),
                )
                yield _witnessed(after, self.nodes[number])

    def _move(self, number: int, message: int, crash: str) -> tuple[int, tuple[int, ...]]:
        """What becomes of a member and what it sends when a message arrives: all duties, or those before a crash."""
        key = (number, message, crash)
        if key not in self._moves:
            node = copy.deepcopy(self.nodes[number])
            sent = _work(node, self.messages[message], crash)
            self._moves[key] = (self._number(node), tuple(self._message(m) for m in sent))
        return self._moves[key]

    def _number(self, node: Node) -> int:
        core, log = node.core, node.core.log
        memory = (core.term, core.vote, core.role, core.leader, core.votes, core.conf, core.pending_conf_index)
        places = (log.offset, log.last_index, log.stable, log.committed, log.applied)
        fed = [(p.raft_id, p.state, p.match, p.next, p.sent_commit, p.is_paused) for p in core.progress.values()]
        key = repr((node.raft_id, memory, places, fed, node.hard_state, node.snapshot, node.entries))
        if key not in self._node_numbers:
            self._node_numbers[key] = len(self.nodes)
            self.nodes.append(node)
        return self._node_numbers[key]

    def _message(self, message: Message) -> int:
        if message not in self._message_numbers:
            self._message_numbers[message] = len(self.messages)
            self.messages.append(message)
        return self._message_numbers[message]

    def check(self, world: World) -> None:
        """Election safety, state machine safety, leader completeness."""
        terms = [term for term, _ in world.leaders]
        assert len(terms) == len(set(terms)), f"two leaders in one term: {world.leaders}"
        places = [index for index, _ in world.committed]
        assert len(places) == len(set(places)), f"an entry was committed with two contents: {world.committed}"
        for number in world.nodes:
            core = self.nodes[number].core
            if core.is_leader and core.term == terms[-1]:
                missing = [index for index, term in world.committed if not core.log.matches(index, term)]
                assert not missing, f"leader {core.raft_id} of term {core.term} lacks committed entries: {missing}"


def voters(*logs: tuple[int, ...], term: int = 1, kind: type[Node] = Node) -> Iterator[Node]:
    """Members whose logs have these terms after the first snapshot."""
    ids = range(1, len(logs) + 1)
    for raft_id, terms in zip(ids, logs, strict=True):
        node = kind(raft_id)
        node.snapshot = Snapshot(index=1, term=1, conf=conf_of(*ids))
        node.hard_state = HardState(term=max((term, *terms)), commit=1)
        node.entries = list(entries_of(*terms))
        node.restart()
        yield node


def _witnessed(world: World, node: Node) -> World:
    """The world with what ``node`` says of who leads and what is committed."""
    core, log = node.core, node.core.log
    known = {(i, log.term_at(i)) for i in range(log.first_index, log.committed + 1)}
    leads = {(core.term, core.raft_id)} if core.role is RaftRole.LEADER else set()
    if known <= set(world.committed) and leads <= set(world.leaders):
        return world
    return attrs.evolve(
        world,
        leaders=tuple(sorted({*world.leaders, *leads})),
        committed=tuple(sorted({*world.committed, *known})),
    )


def _work(node: Node, message: Message, crash: str) -> list[Message]:
    node.core.step(message)
    sent: list[Message] = []
    while (ready := node.core.ready()) is not None:
        sent += ready.messages
        if crash == "before writing":
            break
        node.persist(ready)
        if crash == "before promising":
            break
        sent += ready.messages_after_persist
        node.apply(ready)
        node.core.advance(ready)
    if crash:
        node.restart()
    return sent


def winners(explorer: Explorer) -> set[int]:
    """Who has led at all."""
    return {who for history in explorer.histories for _, who in history}


class TestElections:
    @pytest.mark.parametrize("crashes", [0, 1, 2])
    def test_two_candidates_in_one_term(self, crashes) -> None:
        """Whatever the order and whoever crashes, at most one of two candidates wins a term; each of them can."""
        explorer = Explorer(*voters((), (), ()))
        explorer.explore(explorer.start(explorer.timeout(1, 1), explorer.timeout(2, 1), crashes=crashes), 9)
        assert {(), ((2, 1),), ((2, 2),)} <= explorer.histories

    def test_three_candidates_in_one_term(self) -> None:
        """Three at once may split the vote, and never elect two."""
        explorer = Explorer(*voters((), (), ()))
        explorer.explore(explorer.start(*(explorer.timeout(i, 1) for i in (1, 2, 3))), 9)
        assert {(), ((2, 1),), ((2, 2),), ((2, 3),)} <= explorer.histories

    def test_candidate_that_lacks_something(self) -> None:
        """Where a majority has an entry, no order of messages elects the one that does not."""
        explorer = Explorer(*voters((1,), (), (1,)))
        explorer.explore(explorer.start(explorer.timeout(1, 1), explorer.timeout(2, 1)), 10)
        assert winners(explorer) == {1}

    def test_pre_votes_of_two(self) -> None:
        """Two that ask for pre-votes at once may both become candidates, and still only one of them wins."""
        explorer = Explorer(*voters((), (), ()))
        asked: list[Message] = []
        for node in explorer.nodes[:2]:
            node.core.campaign()
            ready = node.core.ready()
            assert ready is not None
            asked += ready.messages
            node.core.advance(ready)
        explorer.explore(explorer.start(*asked), 11)
        assert winners(explorer) == {1, 2}


class TestCommits:
    def test_leaders_of_two_terms(self) -> None:
        """One leads and replicates its no-op, another is elected in the next term meanwhile: commits stay."""
        explorer = Explorer(*voters((), (), ()))
        explorer.explore(explorer.start(explorer.timeout(1, 1), explorer.timeout(2, 2)), 12)
        assert any(len(history) == 2 for history in explorer.histories)

    def test_old_entry_on_a_majority(self) -> None:
        """Figure 8 in every order: entry 3 of term 2 is on two of three, that of term 3 on one; either may win."""
        explorer = Explorer(*voters((1, 2), (1, 2), (1, 3), term=3))
        explorer.explore(explorer.start(explorer.timeout(1, 3), explorer.timeout(3, 3), explorer.timeout(3, 4)), 12)
        assert winners(explorer) == {1, 3}


class TestMembers:
    """A change is under way when others stand for election, at any moment."""

    @staticmethod
    def explore(cluster: Cluster, change: ConfChange, *candidates: int, depth: int, crashes: int = 0) -> Explorer:
        leader = cluster.leaders()[0]
        cluster[leader].propose_conf_change(change)
        cluster.work(leader)
        explorer = Explorer(*cluster.nodes.values())
        calls = [explorer.timeout(raft_id, cluster[leader].term) for raft_id in candidates]
        explorer.explore(explorer.start(*cluster.wire, *calls, crashes=crashes), depth)
        return explorer

    def test_removing_a_follower(self) -> None:
        """The one that is removed and the one that stays both stand: never two leaders, and nothing is lost."""
        cluster = Cluster(1, 2, 3)
        cluster.elect(1)
        change = ConfChange(kind=ConfChangeKind.REMOVE, member=member(3))
        explorer = self.explore(cluster, change, 2, 3, depth=9)
        assert winners(explorer) >= {2, 3}

    def test_one_of_two_is_removed(self) -> None:
        """Two members, one removes the other, either crashes anywhere: they never decide apart."""
        cluster = Cluster(1, 2)
        cluster.elect(1)
        change = ConfChange(kind=ConfChangeKind.REMOVE, member=member(2))
        explorer = self.explore(cluster, change, 1, 2, depth=14, crashes=2)
        assert winners(explorer) >= {2}

    def test_promoting_a_learner(self) -> None:
        """From three voters to four: a majority of before and one of after never elect two."""
        cluster = Cluster(1, 2, 3, joiners=(4,))
        cluster.elect(1)
        cluster[1].propose_conf_change(ConfChange(kind=ConfChangeKind.ADD_LEARNER, member=member(4)))
        cluster.settle()
        change = ConfChange(kind=ConfChangeKind.PROMOTE, member=member(4))
        explorer = self.explore(cluster, change, 2, depth=8)
        assert winners(explorer) >= {2}


class TestTheTestItself:
    def test_forgotten_vote_is_found(self) -> None:
        """Members that do not write their vote elect two leaders in one term, in some order with one crash."""
        explorer = Explorer(*voters((), (), (), kind=ForgetfulNode))
        start = explorer.start(explorer.timeout(1, 1), explorer.timeout(2, 1), crashes=1)
        with pytest.raises(AssertionError, match="two leaders in one term"):
            explorer.explore(start, 9)
