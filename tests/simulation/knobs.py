"""What differs between universes beside the faults: size, timing, how good networks, disks and clocks are."""

from __future__ import annotations

from random import Random

import attrs
from disk import DiskOptions
from loop import SimLoop
from net import NetOptions, SimNetwork

from swarmpy.model.cluster_spec import RaftConfig

WORLDS = ("managers", "cluster", "secrets", "jobs", "moves")
"""A seed is of one of the first two, unless another is asked for."""
LATENCIES_S = ((0.0002, 0.001), (0.0002, 0.001), (0.002, 0.004), (0.005, 0.02))
"""Minimum and mean above it: a rack, a rack, a town, a country."""
RAFT_TIMINGS = ((100, 1, 5), (100, 1, 5), (50, 1, 10), (100, 2, 10))
"""Milliseconds of a tick, ticks of a heartbeat and of an election."""


@attrs.frozen(kw_only=True)
class Knobs:
    """One universe's. Drawn first, so that a seed means the same knobs whatever happens later."""

    world: str
    """"managers": the Raft group, its stores and clients; "cluster": with dispatcher, agents and runtimes;
    "secrets": the same with secrets and configs, and versions of them; "jobs": with jobs; "moves": with nodes that
    leave, and change under their tasks."""
    managers: int
    """How many founders vote."""
    together: bool
    """Managers and agents share their machines."""
    trouble_s: float
    """Virtual seconds in which things break."""
    raft: RaftConfig
    skew_s: float
    """The most that the wall clock of a machine is off."""
    jump_s: float
    """The most that a wall clock jumps, where that is among the faults."""
    drift: float
    """The most that a machine's timers run too fast or too slow; 0.1 is a tenth."""
    latency_s: tuple[float, float]
    """Of the network: the minimum, and the mean of what is above it."""
    fsync_mean_s: float
    fault_share: float
    """How likely each kind of fault is among those of this universe."""
    fault_pause_s: float
    """Mean time from one fault to the next."""
    repair_s: tuple[float, float]
    """How long a fault lasts. Long ones let nodes be given up, short ones only disturb."""

    @classmethod
    def draw(cls, random: Random, world: str | None = None) -> Knobs:
        """Those of the universe whose source of chance is ``random``."""
        drawn = WORLDS[random.randrange(2)]
        tick_ms, heartbeat, election = random.choice(RAFT_TIMINGS)
        return cls(
            world=world or drawn,
            managers=random.choice((1, 2, 3, 3, 3, 4, 5)),
            together=random.random() < 0.5,
            trouble_s=random.uniform(4.0, 12.0),
            raft=RaftConfig(
                tick_ns=tick_ms * 1_000_000,
                heartbeat_tick=heartbeat,
                election_tick=election,
                snapshot_interval=random.choice((10, 20, 50, 10_000)),
                log_entries_for_slow_followers=random.choice((0, 1, 10, 10, 500)),
            ),
            skew_s=random.choice((0.0, 1.0, 3600.0)),
            jump_s=random.choice((0.3, 3.0, 30.0)),
            drift=random.choice((0.0, 0.0, 0.01, 0.1)),
            latency_s=random.choice(LATENCIES_S),
            fsync_mean_s=random.choice((0.0002, 0.001, 0.001, 0.008)),
            fault_share=random.choice((0.15, 0.3, 0.5)),
            fault_pause_s=random.choice((0.3, 0.7, 0.7, 1.5)),
            repair_s=random.choice(((0.05, 0.8), (0.05, 3.0), (0.5, 9.0))),
        )

    @property
    def election_s(self) -> float:
        """The shortest election timeout."""
        return self.raft.election_tick * self.raft.tick_ns / 1e9

    def network(self, loop: SimLoop) -> SimNetwork:
        """A network without hosts, of this quality and with such clocks."""
        least, mean = self.latency_s
        options = NetOptions(latency_min_s=least, latency_mean_s=mean)
        return SimNetwork(loop, options, skew_s=self.skew_s, drift=self.drift)

    def disk_options(self) -> DiskOptions:
        """Those of a disk in order."""
        return DiskOptions(fsync_mean_s=self.fsync_mean_s)
