"""Seeds that once broke a law, by the name of what they found. They stay, though a seed means another universe whenever
the simulator or the code under test makes another choice: each was a kind of bad luck that is worth having again."""

from __future__ import annotations

import attrs
import pytest
from universe import play


@attrs.frozen(kw_only=True)
class Found:
    """A universe and what was found in it."""

    name: str
    seed: int
    world: str
    what: str


FOUND = (
    Found(
        name="timer-before-its-time",
        seed=2,
        world="cluster",
        what="a timer rounded to before its due time: the Raft ticker spun without the clock moving",
    ),
    Found(
        name="leader-that-moved",
        seed=12026,
        world="managers",
        what="a member that missed a leader's new address forgot it again with an older membership",
    ),
    Found(
        name="written-behind-a-torn-record",
        seed=12240,
        world="managers",
        what="the simulated disk wrote on after a failed sync, which looked like rot in the middle",
    ),
    Found(
        name="rejected-after-it-ran",
        seed=220,
        world="cluster",
        what="a node without power rejected a task that it had reported to run: for the others it never ended",
    ),
    Found(
        name="where-the-leader-was",
        seed=259,
        world="managers",
        what="a member that restarted before it had a leader's new address on its disk answered where that had been",
    ),
    Found(
        name="never-started-and-not-waited-for",
        seed=253,
        world="cluster",
        what="a task that was never started by an engine that is away is not waited for, which no law allowed",
    ),
    Found(
        name="superfluous-while-others-are-missing",
        seed=1299,
        world="cluster",
        what="a slot's second task went while more slots were missing than may be, which takes nothing away",
    ),
    Found(
        name="changes-it-has-not-heard-of",
        seed=5095,
        world="managers",
        what="a leader that stood still added a learner; the law counted the voter that another had added meanwhile",
    ),
    Found(
        name="table-on-its-way-for-too-long",
        seed=3049,
        world="moves",
        what="a task was stopped when the wait was over; the law asked more of a node that no table had reached yet",
    ),
    Found(
        name="misplaced-and-removed",
        seed=40075,
        world="moves",
        what="a service was removed as a task of it was to move; the law waited for the one that was to run elsewhere",
    ),
)


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_what_was_found_stays_away(found: Found) -> None:
    """All laws hold in a universe that once broke one."""
    play(found.seed, world=found.world)
