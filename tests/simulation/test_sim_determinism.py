"""One seed is one universe: on any hash seed, optimised or not, after whatever else the process has played."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from universe import WORLDS, play

HERE = Path(__file__).parent
SEEDS = (1, 2, 3)
PLAY = """
import io, json, sys
from universe import play
for seed in map(int, sys.argv[2:]):
    film = io.StringIO()
    report = play(seed, world=sys.argv[1], out=film)
    told = [seed, f"{report.digest:016x}", report.steps, report.virtual_s, film.getvalue()]
    print(json.dumps(told))
"""


def played_elsewhere(world: str, seeds: tuple[int, ...], hash_seed: int, *flags: str) -> list[list[Any]]:
    """What another process tells of these seeds: seed, digest, steps, virtual seconds and the whole film of each."""
    root = HERE.parent.parent
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": f"{HERE}{os.pathsep}{root}"}
    command = [sys.executable, *flags, "-c", PLAY, world, *map(str, seeds)]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_is_the_same_on_every_hash_seed_and_after_any_other(world: str) -> None:
    """Digest, steps and every line of the film are equal in processes that differ in all that must not matter."""
    forwards = played_elsewhere(world, SEEDS, 1)
    assert played_elsewhere(world, SEEDS[::-1], 2, "-O")[::-1] == forwards


@pytest.mark.parametrize("world", WORLDS)
def test_looking_on_changes_nothing(world: str) -> None:
    """With and without a film the same choices are made."""
    with_film, without = play(7, world=world, out=io.StringIO()), play(7, world=world)
    assert with_film == without


def test_two_seeds_are_two_universes() -> None:
    """The digest tells them apart."""
    assert play(1, world="managers").digest != play(2, world="managers").digest
