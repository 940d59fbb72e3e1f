"""What is told of the members: the leader's view, another manager's, and what the operator had better change."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from manager_world import MovedClock

from swarmpy.errors import ConnectionFailed
from swarmpy.manager.raft_report import MemberReport, RaftReporter, advice, members_seen, reachable
from swarmpy.model import codec
from swarmpy.ports import Peer
from swarmpy.raft.messages import ConfState, Member
from swarmpy.raft.progress import ProgressState
from swarmpy.raft.state import RaftRole
from swarmpy.raft.status import FollowerProgress, RaftStatus
from swarmpy.store.memory import Store

MEMBERS = [Member(raft_id=n, node_id=f"node{n}", address=f"10.0.0.{n}:2377") for n in (1, 2, 3, 4)]


def follower(raft_id: int, **fields: Any) -> FollowerProgress:
    known = FollowerProgress(
        raft_id=raft_id, match=100, state=ProgressState.REPLICATE, active=True, silent_ticks=2, caught_up=True
    )
    return attrs.evolve(known, **fields)


LEADS = RaftStatus(
    raft_id=2,
    role=RaftRole.LEADER,
    term=5,
    leader_id=2,
    first_index=31,
    last_index=100,
    snapshot_index=40,
    log_bytes=1234,
    conf=ConfState(voters=(MEMBERS[0], MEMBERS[1], MEMBERS[3]), learners=(MEMBERS[2],)),
    progress={
        1: follower(1, match=90),
        3: follower(3, match=5, state=ProgressState.SNAPSHOT),
        4: follower(4, match=0, state=ProgressState.PROBE, active=False, silent_ticks=400),
    },
)


class StandingRaft:
    """A driver whose member stands still."""

    def __init__(self, status: RaftStatus) -> None:
        self._status = status

    def status(self) -> RaftStatus:
        """As given."""
        return self._status


def reporter(status: RaftStatus, leader: RaftReporter | None) -> RaftReporter:
    """A manager's, with the way to the leader's."""
    clock = MovedClock()

    async def ask(method: str, payload: Any, _timeout: float) -> Any:
        if leader is None:
            raise ConnectionFailed("10.0.0.2:2377 does not answer")
        assert method == "raft.status"
        return codec.unpack(codec.pack(await leader.on_asked(Peer(node_id=None, role=None), payload)))

    raft: Any = StandingRaft(status)
    taken = clock.time_ns() - 90_000_000_000
    return RaftReporter(raft=raft, store=Store(clock), clock=clock, ask_leader=ask, snapshot_time=lambda: taken)


def test_leader_sees_everybody() -> None:
    """Voters first; lag and contact in entries and seconds; what a new leader has not heard of is not made up."""
    seen = members_seen(LEADS, Store(MovedClock()).view(), tick_s=0.025)
    rows = [(m.node_id, m.role, m.state, m.match, m.lag, m.last_contact_s, m.reachable) for m in seen]
    assert rows == [
        ("node1", "voter", "replicate", 90, 10, 0.05, True),
        ("node2", "voter", None, 100, 0, None, True),
        ("node4", "voter", "probe", None, None, 10.0, False),
        ("node3", "learner", "snapshot", 5, 95, 0.05, True),
    ]
    assert [m.node_id for m in seen if m.leader] == ["node2"]


async def test_follower_asks_the_leader() -> None:
    """A follower tells its own log and the leader's view of the members."""
    follows = attrs.evolve(LEADS, raft_id=1, role=RaftRole.FOLLOWER, last_index=90, progress={})
    told = await reporter(follows, reporter(LEADS, None)).report()
    assert (told["role"], told["log"]) == ("follower", {"entries": 50, "bytes": 1234})
    assert (told["first_index"], told["last_index"]) == (31, 90)
    assert told["snapshot"]["index"] == 40
    assert told["snapshot"]["age_s"] == pytest.approx(90, abs=1)
    assert [member["match"] for member in told["members"]] == [90, 100, None, 5]
    assert told["note"] == ""


async def test_without_a_leader() -> None:
    """What this manager knows by itself is told, with the reason why it is not more."""
    alone = attrs.evolve(LEADS, raft_id=1, role=RaftRole.FOLLOWER, leader_id=0, progress={})
    async with asyncio.timeout(5):
        told = await reporter(alone, None).report()
    assert told["leader"] is None
    assert told["note"] == "10.0.0.2:2377 does not answer"
    assert [(member["node_id"], member["match"]) for member in told["members"]] == [
        ("node1", None),
        ("node2", None),
        ("node4", None),
        ("node3", None),
    ]


def group(count: int, *more: MemberReport) -> list[MemberReport]:
    """So many managers that are well, the first of them the leader, and ``more``."""
    well = [
        MemberReport(raft_id=n, node_id=f"node{n}", leader=n == 1, reachable=True, lag=0) for n in range(1, count + 1)
    ]
    return [*well, *more]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], []),
        (group(1), []),
        (group(2), ["2 managers: when either fails, nothing can be changed any more"]),
        (group(3), []),
        (group(4), ["4 managers bear the loss of 1, as 3 managers do"]),
        (group(6), ["6 managers bear the loss of 2, as 5 managers do"]),
        (
            group(2, MemberReport(raft_id=9, node_id="n9", hostname="slow", reachable=True, lag=1001)),
            ["manager slow is 1001 entries behind"],
        ),
        (group(2, MemberReport(raft_id=9, node_id="n9", reachable=True, lag=1000)), []),
        (
            group(2, MemberReport(raft_id=9, node_id="n9", reachable=True, state="snapshot", lag=5)),
            ["manager n9 is far behind and is being sent a snapshot"],
        ),
        (group(2, MemberReport(raft_id=9, node_id="n9", reachable=False, state="snapshot", lag=5000)), []),
    ],
)
def test_advice(members: list[MemberReport], words: list[str]) -> None:
    """Even numbers and managers that are behind are pointed out; one that does not answer is so elsewhere."""
    said = advice(members)
    assert len(said) == len(words)
    assert all(line.startswith(word) for line, word in zip(said, words, strict=True))


def test_a_learner_is_not_counted_on() -> None:
    """The leader itself, followers by their answers; a learner that answers has no vote: it is not ``reachable``."""
    view = Store(MovedClock()).view()
    assert reachable(LEADS, view) == {"node1": True, "node2": True, "node3": None, "node4": False}
    silent = {**LEADS.progress, 3: follower(3, active=False)}
    assert reachable(attrs.evolve(LEADS, progress=silent), view)["node3"] is False
    learns = attrs.evolve(LEADS, raft_id=3, role=RaftRole.FOLLOWER, progress={})
    assert reachable(learns, view)["node3"] is None, "nor does it count on itself"
