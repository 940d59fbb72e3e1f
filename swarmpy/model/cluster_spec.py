"""What the operator asks of the cluster as a whole, its timing among it. As in :mod:`swarmpy.model.specs`."""

from __future__ import annotations

import math

import attrs

from swarmpy.errors import InvalidArgument

MIN_RAFT_TIMEOUT_NS = 10_000_000
MAX_RAFT_TIMEOUT_NS = 60_000_000_000
MIN_HEARTBEATS_PER_ELECTION = 5


@attrs.frozen(kw_only=True)
class RaftConfig:
    """Consensus knobs of a cluster. Ticks are 100 ms by default: heartbeat 100 ms, election 500-1000 ms randomised."""

    tick_ns: int = 100_000_000
    heartbeat_tick: int = 1
    election_tick: int = 5
    snapshot_interval: int = 10_000
    """Entries between snapshots."""
    log_entries_for_slow_followers: int = 500

    @property
    def heartbeat_ns(self) -> int:
        """Between two heartbeats of a leader."""
        return self.heartbeat_tick * self.tick_ns

    @property
    def election_ns(self) -> int:
        """The shortest election timeout; the longest is twice that."""
        return self.election_tick * self.tick_ns

    def with_timing(self, *, heartbeat_ns: int, election_ns: int) -> RaftConfig:
        """The same with other timeouts. Raises InvalidArgument as :meth:`check`."""
        tick_ns = math.gcd(heartbeat_ns, election_ns)
        if tick_ns <= 0:
            raise InvalidArgument("the heartbeat interval and the election timeout must be more than nothing")
        changed = attrs.evolve(
            self, tick_ns=tick_ns, heartbeat_tick=heartbeat_ns // tick_ns, election_tick=election_ns // tick_ns
        )
        changed.check()
        return changed

    def check(self) -> None:
        """Raises InvalidArgument for timeouts that no cluster could live with.

        Both must be between 10 ms and 60 s, and the election timeout at least five heartbeats: fewer, and a single one
        that comes late begins an election.
        """
        for name, value in (("heartbeat interval", self.heartbeat_ns), ("election timeout", self.election_ns)):
            if not MIN_RAFT_TIMEOUT_NS <= value <= MAX_RAFT_TIMEOUT_NS:
                raise InvalidArgument(f"the {name} is {value / 1e6:g} ms: it must be between 10 ms and 60 s")
        if self.election_ns < MIN_HEARTBEATS_PER_ELECTION * self.heartbeat_ns:
            raise InvalidArgument(
                f"the election timeout of {self.election_ns / 1e6:g} ms is too short for a heartbeat every "
                f"{self.heartbeat_ns / 1e6:g} ms: it must be {MIN_HEARTBEATS_PER_ELECTION} times that at least"
            )


MIN_HEARTBEAT_PERIOD_NS = 100_000_000
MAX_HEARTBEAT_PERIOD_NS = 3600 * 1_000_000_000


@attrs.frozen(kw_only=True)
class DispatcherConfig:
    """How agents report. A node is down after three missed heartbeats."""

    heartbeat_period_ns: int = 1_000_000_000

    def check(self) -> None:
        """Raises InvalidArgument for a period that floods the leader, or with which no node would ever be down."""
        if not MIN_HEARTBEAT_PERIOD_NS <= self.heartbeat_period_ns <= MAX_HEARTBEAT_PERIOD_NS:
            raise InvalidArgument(
                f"Dispatcher.HeartbeatPeriod is {self.heartbeat_period_ns / 1e9:g} s: it must be between 0.1 s and 1 h"
            )


@attrs.frozen(kw_only=True)
class ClusterSpec:
    """What the operator wants of the cluster."""

    name: str = "default"
    labels: dict[str, str] = attrs.Factory(dict)
    task_history_limit: int = 5
    """Ended tasks kept for each slot; negative: all."""
    raft: RaftConfig = attrs.Factory(RaftConfig)
    dispatcher: DispatcherConfig = attrs.Factory(DispatcherConfig)
    node_cert_expiry_ns: int = 90 * 24 * 3600 * 1_000_000_000
    force_rotate: int = 0
    """Another number than before asks for a new root CA."""
    autolock_managers: bool = False
    """A manager that is started needs an operator, who has the unlock key."""
