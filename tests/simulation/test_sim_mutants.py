"""The simulator finds bugs: every mutant is caught by a universe in which nothing is wrong without it."""

from __future__ import annotations

import sys

import attrs
import pytest
from mutants import MUTANTS, SUITE
from mutation import ENOUGH_SEEDS, Disarmed, Edit, Mutant, caught, mutated, source_of


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_mutant_is_armed(name: str) -> None:
    """What a mutant replaces is in the code as it is today, and what it puts there is Python."""
    mutant = MUTANTS[name]
    source = source_of(mutant.module)
    changed = mutated(mutant, source)
    assert changed != source
    compile(changed, mutant.module, "exec")


def test_a_text_that_has_gone_is_an_error() -> None:
    """A mutant that the code has moved away from does not pass for one that was caught."""
    mutant = attrs.evolve(MUTANTS["vote-twice"], edits=(Edit("no such text", ""),))
    with pytest.raises(Disarmed, match="vote-twice: its text occurs 0 times in swarmpy"):
        mutated(mutant, source_of(mutant.module))


def test_a_text_that_is_there_twice_is_an_error() -> None:
    """A mutant that could be two bugs is none."""
    mutant = Mutant(name="m", bug="", world="managers", module="swarmpy.raft.log", edits=(Edit("self", "other"),))
    with pytest.raises(Disarmed, match=r"occurs \d+ times"):
        mutated(mutant, source_of(mutant.module))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [mutant.name for mutant in SUITE])
def test_mutant_is_caught(name: str) -> None:
    """A cluster with the bug can be founded, and some universe notices; this interpreter stays free of it."""
    path = list(sys.meta_path)
    found = caught(MUTANTS[name])
    assert not found.stillborn, f"{name} fails where nothing goes wrong: {found.stillborn}"
    assert found.seed is not None, f"{name} escaped {ENOUGH_SEEDS} universes: {MUTANTS[name].bug}"
    assert sys.meta_path == path
