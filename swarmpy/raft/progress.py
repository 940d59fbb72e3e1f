"""What a leader knows of each follower, and how a majority is counted. Decides when to hold back, sends nothing."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence

MAX_INFLIGHT_MESSAGES = 256
MAX_INFLIGHT_BYTES = 8 * 1024 * 1024
"""How much may be on its way to one follower without an answer: it bounds the follower's unwritten tail as well."""


class ProgressState(enum.Enum):
    """How a follower is fed."""

    PROBE = "probe"
    """Where its log agrees is being found out: one message at a time."""
    REPLICATE = "replicate"
    """Pipelined."""
    SNAPSHOT = "snapshot"
    """It needs entries that are compacted; nothing else is sent until the snapshot is there."""


def majority(count: int) -> int:
    """How many of ``count`` voters are a quorum."""
    return count // 2 + 1


def agreed(values: Sequence[int]) -> int:
    """The largest value that a majority of voters has reached. ``values`` has one for each voter, and is not empty."""
    return sorted(values)[(len(values) - 1) // 2]


class Progress:
    """One follower, as its leader sees it."""

    __slots__ = (
        "_inflight",
        "has_answered",
        "inflight_bytes",
        "last_contact",
        "match",
        "next",
        "pending_snapshot",
        "ping",
        "probe_sent",
        "raft_id",
        "read_acked",
        "sent_commit",
        "state",
    )

    def __init__(self, raft_id: int, *, next_index: int, now: int) -> None:
        self.raft_id = raft_id
        self.state = ProgressState.PROBE
        self.match = 0
        self.next = next_index
        self.probe_sent = False
        self.ping = False
        """An answer is overdue: ask with an empty append, whatever the window says."""
        self.pending_snapshot = 0
        self.sent_commit = 0
        self.read_acked = 0
        self.last_contact = now
        """The leader's tick at which it last answered, or from which on the leader is patient with it."""
        self.has_answered = False
        """It did answer, and did not merely begin to be waited for."""
        self._inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0

    @property
    def is_paused(self) -> bool:
        """True when nothing more may be sent before an answer."""
        if self.state is ProgressState.REPLICATE:
            return len(self._inflight) >= MAX_INFLIGHT_MESSAGES or self.inflight_bytes >= MAX_INFLIGHT_BYTES
        return self.probe_sent if self.state is ProgressState.PROBE else True

    @property
    def inflight(self) -> int:
        """Messages without an answer."""
        return len(self._inflight)

    def become_probe(self, next_index: int) -> None:
        """Find out where the logs agree, beginning at ``next_index``."""
        self._enter(ProgressState.PROBE)
        self.next = max(next_index, self.match + 1)

    def become_replicate(self) -> None:
        """Pipeline from the entry after the last one that matches."""
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """Wait until the snapshot ``index`` is installed."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self.ping = False
        self.pending_snapshot = 0
        self.sent_commit = 0
        self._inflight.clear()
        self.inflight_bytes = 0

    def sent(self, last_index: int, size: int) -> None:
        """An append that ends at ``last_index`` went out."""
        self.ping = False
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
        elif last_index >= self.next:
            self.next = last_index + 1
            self._inflight.append((last_index, size))
            self.inflight_bytes += size

    def acked(self, index: int) -> bool:
        """Its log matches up to ``index``. True when that is news."""
        inflight = self._inflight
        while inflight and inflight[0][0] <= index:
            self.inflight_bytes -= inflight.popleft()[1]
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, index + 1)
        return news

    def rejected(self, index: int, hint: int) -> bool:
        """The append after ``index`` did not fit; the logs may agree at ``hint``. False: a late answer, ignored."""
        if self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.become_probe(self.match + 1)
            return True
        if self.next - 1 != index:
            return False
        self.next = max(min(index, hint + 1), self.match + 1)
        self.probe_sent = False
        return True
