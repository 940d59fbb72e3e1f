"""What an operator wants to know of the consensus: this manager's own log, and every member as the leader sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs

from swarmpy.errors import NotFound, SwarmpyError
from swarmpy.model import codec
from swarmpy.model.states import NodeState
from swarmpy.ports import Clock, Peer
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import Member
from swarmpy.raft.progress import ProgressState
from swarmpy.raft.status import CAUGHT_UP_ENTRIES, FollowerProgress, RaftStatus
from swarmpy.raft.ticker import interval_of
from swarmpy.store.memory import Store
from swarmpy.store.view import View

METHOD = "raft.status"
LEADER_TIMEOUT_S = 1.0
"""Someone waits at a terminal, and what this manager knows by itself is worth showing too."""

AskLeader = Callable[[str, Any, float], Awaitable[Any]]


@attrs.frozen(kw_only=True)
class MemberReport:
    """One member of the Raft group. What only the leader knows is None on the others, and of the leader itself."""

    raft_id: int
    node_id: str
    hostname: str = ""
    address: str = ""
    role: str = "voter"
    """``voter`` or ``learner``."""
    leader: bool = False
    state: str | None = None
    """How it is fed: ``probe``, ``replicate`` or ``snapshot``."""
    match: int | None = None
    """Its log agrees with the leader's up to here. None also while a new leader has not heard of it."""
    lag: int | None = None
    """Entries that it does not have yet."""
    last_contact_s: float | None = None
    reachable: bool | None = None
    """It has answered within an election timeout."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.hostname or self.node_id


def members_seen(status: RaftStatus, view: View, *, tick_s: float = 0.0) -> tuple[MemberReport, ...]:
    """The members as the manager of ``status`` knows them, voters first; ``tick_s`` is the length of a tick."""
    learners = {member.raft_id for member in status.conf.learners}
    ordered = sorted(status.members, key=lambda member: (member.raft_id in learners, member.raft_id))
    return tuple(
        attrs.evolve(
            _seen(member, status, tick_s),
            hostname=_hostname(view, member),
            role="learner" if member.raft_id in learners else "voter",
        )
        for member in ordered
    )


def _seen(member: Member, status: RaftStatus, tick_s: float) -> MemberReport:
    known = MemberReport(
        raft_id=member.raft_id,
        node_id=member.node_id,
        address=member.address,
        leader=member.raft_id == status.leader_id,
    )
    if status.is_leader and member.raft_id == status.raft_id:
        return attrs.evolve(known, match=status.last_index, lag=0, reachable=True)
    progress = status.progress.get(member.raft_id)
    return known if progress is None else _fed(known, progress, status.last_index, tick_s)


def _fed(known: MemberReport, progress: FollowerProgress, last_index: int, tick_s: float) -> MemberReport:
    is_heard_of = progress.match > 0
    return attrs.evolve(
        known,
        state=progress.state.value,
        match=progress.match if is_heard_of else None,
        lag=last_index - progress.match if is_heard_of else None,
        last_contact_s=round(progress.silent_ticks * tick_s, 3),
        reachable=progress.active,
    )


def _hostname(view: View, member: Member) -> str:
    node = view.node(member.node_id)
    return "" if node is None else node.description.hostname


def reachable(status: RaftStatus, view: View) -> dict[str, bool | None]:
    """By node id: whether the manager answers. Only the leader knows; others go by the state of its node.

    None where nobody can tell: without a leader those states are not kept up to date. None also for a learner that
    answers: it has no vote yet, and must not be counted on.
    """
    learners = {member.raft_id for member in status.conf.learners}
    found = {member.node_id: _is_reachable(member, status, view) for member in status.members}
    for member in status.members:
        if member.raft_id in learners and found[member.node_id]:
            found[member.node_id] = None
    return found


def _is_reachable(member: Member, status: RaftStatus, view: View) -> bool | None:
    if member.raft_id in (status.raft_id, status.leader_id):
        return True
    progress = status.progress.get(member.raft_id)
    if status.is_leader and progress is not None:
        return progress.active
    node = view.node(member.node_id) if status.leader is not None else None
    return None if node is None else node.status.state is NodeState.READY


def advice(members: Sequence[MemberReport]) -> list[str]:
    """What the operator had better change, one line each."""
    found = []
    count = len(members)
    if count == 2:
        found.append("2 managers: when either fails, nothing can be changed any more; add a third, or demote one")
    elif count and count % 2 == 0:
        found.append(
            f"{count} managers bear the loss of {(count - 1) // 2}, as {count - 1} managers do: add one, or demote one"
        )
    for member in members:
        if not member.reachable or member.leader:
            continue
        if member.state == ProgressState.SNAPSHOT.value:
            found.append(
                f"manager {member.name} is far behind and is being sent a snapshot: until it has caught up, "
                "the cluster bears one failure less"
            )
        elif (member.lag or 0) > CAUGHT_UP_ENTRIES:
            found.append(
                f"manager {member.name} is {member.lag} entries behind: until it has caught up, the cluster bears one "
                "failure less; look at its disk and at its network"
            )
    return found


class RaftReporter:
    """Reports for one manager. ``snapshot_time`` tells when its newest snapshot was written (ns, 0: not known)."""

    def __init__(
        self, *, raft: RaftDriver, store: Store, clock: Clock, ask_leader: AskLeader, snapshot_time: Callable[[], int]
    ) -> None:
        self._raft = raft
        self._store = store
        self._clock = clock
        self._ask_leader = ask_leader
        self._snapshot_time = snapshot_time

    async def report(self) -> dict[str, Any]:
        """Everything as plain data; ``note`` says why the members are not as the leader sees them, if they are not."""
        members, note = await self._members()
        written = await asyncio.to_thread(self._snapshot_time)
        status = self._raft.status()
        return {
            "raft_id": status.raft_id,
            "role": status.role.name.lower(),
            "term": status.term,
            "leader": None if status.leader is None else status.leader.node_id,
            "commit": status.commit,
            "applied": status.applied,
            "first_index": status.first_index,
            "last_index": status.last_index,
            "log": {"entries": status.last_index - status.snapshot_index, "bytes": status.log_bytes},
            "snapshot": {
                "index": status.snapshot_index,
                "age_s": round(max(0, self._clock.time_ns() - written) / 1e9, 3) if written else None,
            },
            "schema": {"written": self._schema_written(), "read": codec.SCHEMA_VERSION},
            "members": [attrs.asdict(member) for member in members],
            "note": note,
            "advice": advice(members),
        }

    def _schema_written(self) -> int:
        try:
            return self._store.view().cluster().schema
        except NotFound:
            return codec.BASE_VERSION  # of a manager that has learnt nothing yet

    async def _members(self) -> tuple[tuple[MemberReport, ...], str]:
        try:
            answer = await self._ask_leader(METHOD, None, LEADER_TIMEOUT_S)
            return codec.from_plain(tuple[MemberReport, ...], answer), ""
        except SwarmpyError as error:
            return self._seen_here(), str(error)

    async def on_asked(self, _peer: Peer, _payload: Any) -> Any:
        """``raft.status``: the members as this manager, the leader, sees them."""
        return codec.to_plain(self._seen_here())

    def _seen_here(self) -> tuple[MemberReport, ...]:
        view = self._store.view()
        try:
            tick_s = interval_of(view.cluster().spec.raft)
        except NotFound:
            tick_s = 0.0  # of a manager that has learnt nothing yet
        return members_seen(self._raft.status(), view, tick_s=tick_s)
