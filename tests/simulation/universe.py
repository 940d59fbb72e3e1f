"""One seed, one universe: a world with its knobs, its faults and its laws, played from the first step to the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TextIO

import attrs
import cluster_world
import jobs_world
import managers_world
import moves_world
import secrets_world
from film import Film
from knobs import Knobs
from limits import small_limits
from loop import SimLoop, run

WORLDS: dict[str, Callable[[SimLoop, Knobs, Film], Awaitable[None]]] = {
    "managers": managers_world.play,
    "cluster": cluster_world.play,
    "secrets": secrets_world.play,
    "jobs": jobs_world.play,
    "moves": moves_world.play,
}


@attrs.frozen(kw_only=True)
class Report:
    """What was seen of a universe in which all laws held."""

    seed: int
    knobs: Knobs
    virtual_s: float
    steps: int
    digest: int
    """Of every choice that was made: equal for equal runs, on any machine and under any hash seed."""
    faults: Counter[str]
    checks: Counter[str]
    operations: Counter[str]


def play(seed: int, *, world: str | None = None, out: TextIO | None = None) -> Report:
    """Play the universe ``seed``. Raises whatever broke, with the film's last lines as a note."""
    film = Film(out)
    drawn = [world or ""]

    async def main(loop: SimLoop) -> Report:
        film.attach(lambda: loop.now)
        knobs = Knobs.draw(loop.random, world)
        drawn[0] = knobs.world
        film.tell("universe", f"{seed}: {knobs}")
        try:
            await WORLDS[knobs.world](loop, knobs, film)
            film.tell("universe", "all laws hold")
        finally:
            film.end()
        return Report(
            seed=seed,
            knobs=knobs,
            virtual_s=loop.now,
            steps=loop.steps,
            digest=loop.digest,
            faults=film.faults,
            checks=film.checks,
            operations=film.operations,
        )

    try:
        with film.rolling(), small_limits(seed) as limits:
            if limits:
                film.tell("universe", f"small limits: {limits}")
            return run(seed, main, replay=lambda: replay_command(seed, drawn[0]))
    except BaseException as error:
        error.add_note("\n".join(film.lines))
        raise


def replay_command(seed: int, world: str) -> str:
    """What shows a universe as a film."""
    return f"python -m tests.simulation --seed {seed} --world {world} --verbose"
