"""Which fault happens when, to whom and for how long: drawn from a seed, before anything happens.

A soak is a row of storms with a calm after each. The faults of one storm overlap; its calm heals all of them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from random import Random

import attrs

LEADER = "leader"
"""A target that is found out when its time has come."""
MEAN_PAUSE_S = 3.0
"""Between two faults of a storm."""
MOST_CLOCK_JUMP_S = 240.0
"""Two clocks that differ by twice this still agree that a request of a moment ago is younger than ten minutes."""


class Kind(enum.StrEnum):
    """What is done."""

    KILL = "kill"
    """kill -9 of one node; started again after the duration."""
    KILL_LEADER = "kill_leader"
    KILL_SEVERAL = "kill_several"
    """Several nodes at the same moment, never a majority of the managers."""
    KILL_MAJORITY = "kill_majority"
    PAUSE = "pause"
    """SIGSTOP; SIGCONT after the duration."""
    PAUSE_LEADER = "pause_leader"
    ISOLATE = "isolate"
    """A node is cut off from all others."""
    ISOLATE_LEADER = "isolate_leader"
    SPLIT = "split"
    """Two halves: the targets, and all others."""
    ONE_WAY = "one_way"
    """Nothing from the first target arrives at the others."""
    LINK = "link"
    """The link between two managers is cut."""
    DISK_FULL = "disk_full"
    DISK_LOST = "disk_lost"
    """kill -9 of a manager, and its Raft log is gone. Once a storm only: two lost logs may be a majority's."""
    CLOCK = "clock"
    """The wall clock of a node jumps by ``amount`` seconds."""
    RESTART = "restart"
    """SIGTERM, and a start as soon as it has ended."""
    RESTART_LEADER = "restart_leader"
    DEMOTE = "demote"
    """A manager, the leader as often as not, is made a worker, and a manager again after the duration."""


NETWORK = frozenset({Kind.ISOLATE, Kind.ISOLATE_LEADER, Kind.SPLIT, Kind.ONE_WAY, Kind.LINK})
WEIGHTS = {Kind.KILL: 3, Kind.KILL_LEADER: 3, Kind.ISOLATE_LEADER: 2, Kind.KILL_MAJORITY: 1, Kind.DISK_LOST: 1}
"""Chances of the kinds; 2 where nothing is said."""


@attrs.frozen(kw_only=True)
class Fault:
    """One fault."""

    at: float
    """Seconds after the beginning of its storm."""
    kind: Kind
    targets: tuple[str, ...]
    duration: float
    amount: float = 0.0


@attrs.frozen(kw_only=True)
class Cast:
    """The nodes by what may be done to them."""

    managers: tuple[str, ...]
    workers: tuple[str, ...]
    small_disks: tuple[str, ...]
    """Managers whose disk can be filled."""
    spared: frozenset[str]
    """Their processes are never ended, so that the memory of a long life is seen."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """All."""
        return (*self.managers, *self.workers)

    @property
    def majority(self) -> int:
        """So many managers decide."""
        return len(self.managers) // 2 + 1

    def mortal(self, names: Sequence[str]) -> list[str]:
        """Those whose process may be ended."""
        return [name for name in names if name not in self.spared]


def draw_storm(seed: int, number: int, cast: Cast, kinds: Sequence[Kind], seconds: float) -> list[Fault]:
    """The faults of one storm, in their order; the same for the same arguments."""
    random = Random(f"{seed}/{number}")
    ordered = sorted(kinds)
    weights = [WEIGHTS.get(kind, 2) for kind in ordered]
    found = []
    at = random.uniform(0.2, MEAN_PAUSE_S)
    while at < seconds:
        kind = random.choices(ordered, weights)[0]
        found.append(_draw(random, at, kind, cast))
        at += random.uniform(0.3, 2 * MEAN_PAUSE_S)
    return found


def _draw(random: Random, at: float, kind: Kind, cast: Cast) -> Fault:
    duration = random.choice((random.uniform(0.2, 2.0), random.uniform(1.0, 10.0)))
    amount = 0.0
    match kind:
        case Kind.KILL_LEADER | Kind.PAUSE_LEADER | Kind.ISOLATE_LEADER | Kind.RESTART_LEADER:
            targets: tuple[str, ...] = (LEADER,)
        case Kind.KILL | Kind.RESTART:
            targets = (random.choice(cast.mortal(cast.nodes)),)
        case Kind.KILL_SEVERAL:
            few = random.sample(cast.mortal(cast.managers), min(cast.majority - 1, len(cast.mortal(cast.managers))))
            targets = (*few, *random.sample(cast.mortal(cast.workers), min(1, len(cast.mortal(cast.workers)))))
        case Kind.KILL_MAJORITY:
            mortal = cast.mortal(cast.managers)
            targets = tuple(random.sample(mortal, min(cast.majority, len(mortal))))
        case Kind.SPLIT:
            targets = tuple(random.sample(cast.nodes, len(cast.nodes) // 2))
        case Kind.ONE_WAY:
            first, *others = random.sample(cast.managers, len(cast.managers))
            targets = (first, *others[: random.choice((1, len(others)))])
        case Kind.LINK:
            targets = tuple(random.sample(cast.managers, min(2, len(cast.managers))))
        case Kind.DISK_FULL:
            targets, duration = (random.choice(cast.small_disks),), random.uniform(5.0, 12.0)
        case Kind.DISK_LOST:
            targets = (random.choice(cast.mortal(cast.managers)),)
        case Kind.DEMOTE:
            targets = (random.choice((LEADER, random.choice(cast.managers))),)
        case Kind.CLOCK:
            targets, amount = (random.choice(cast.nodes),), random.uniform(-MOST_CLOCK_JUMP_S, MOST_CLOCK_JUMP_S)
        case _:
            targets = (random.choice(cast.nodes),)
    return Fault(at=round(at, 3), kind=kind, targets=targets, duration=round(duration, 3), amount=round(amount, 1))
