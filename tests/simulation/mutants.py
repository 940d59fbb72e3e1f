"""The mutation suite: does the simulator find bugs? ``python -m tests.simulation.mutants NAME... | --all``

Every mutant is one deliberate bug. It must be noticed within 500 universes, in which nothing is noticed without it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

if __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutants_availability import AVAILABILITY
from mutants_disk import DISK
from mutants_elusive import ELUSIVE
from mutants_jobs import JOBS
from mutants_leaders import ELECTION, READS
from mutants_log import APPLY, LOG
from mutants_members import MEMBERS, SNAPSHOT
from mutants_slots import SLOTS
from mutants_state import CLUSTER, STORE
from mutants_versions import VERSIONS
from mutation import ENOUGH_SEEDS, Found, Mutant, confirmed, search

LAW_LENGTH = 120
GROUPS = (ELECTION, READS, LOG, APPLY, SNAPSHOT, MEMBERS, STORE, CLUSTER, VERSIONS, JOBS, AVAILABILITY, SLOTS, DISK)
SUITE = tuple(mutant for group in GROUPS for mutant in group)
MUTANTS = {mutant.name: mutant for mutant in (*SUITE, *ELUSIVE)}


def main() -> int:
    """Search for all that are named, print a table and a summary. Returns the exit code: 1 when one escapes."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *MUTANTS])
    parser.add_argument("--all", action="store_true", help="every mutant of the suite")
    parser.add_argument("--elusive", action="store_true", help="those that are not noticed, or too rarely")
    parser.add_argument("--seeds", type=int, default=ENOUGH_SEEDS, help="universes for each, from 0 on")
    options = parser.parse_args()
    chosen = [MUTANTS[name] for name in options.names]
    chosen += [*(SUITE if options.all else ()), *(ELUSIVE if options.elusive else ())]
    if not chosen:
        parser.print_help()
        return 2
    results = []
    for mutant, found in hunted(chosen, options.seeds):
        print(row(mutant, found), flush=True)
        results.append(found)
    print(summary(results))
    return 0 if all(found.seed is not None for found in results) else 1


def hunted(mutants: Iterable[Mutant], seeds: int) -> Iterator[tuple[Mutant, Found]]:
    """Each with what was found, as soon as it is; as many at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        searches = {pool.submit(search, mutant, 0, seeds): mutant for mutant in mutants}
        while searches:
            done = next(as_completed(searches))
            mutant = searches.pop(done)
            try:
                yield mutant, confirmed(mutant, done.result(), seeds)
            except RuntimeError as error:
                yield mutant, Found(seed=None, stillborn=str(error).splitlines()[-1])


def row(mutant: Mutant, found: Found) -> str:
    """One line of the table."""
    if found.stillborn:
        return f"{mutant.name:<28} STILLBORN  {found.stillborn}"
    if found.seed is None:
        return f"{mutant.name:<28} ESCAPED after {found.seeds} seeds  {found.cpu_s:7.1f} s"
    by = found.law[:LAW_LENGTH]
    return f"{mutant.name:<28} {mutant.world:<8} after {found.seeds:>4} seeds  {found.cpu_s:7.1f} s  {by}"


def summary(results: list[Found]) -> str:
    """The last line."""
    caught = [found.seeds for found in results if found.seed is not None]
    text = f"{len(caught)} of {len(results)} mutants caught, {sum(found.cpu_s for found in results):.0f} CPU s"
    if not caught:
        return text
    return f"{text}; seeds: median {statistics.median(caught):g}, most {max(caught)}"


if __name__ == "__main__":
    sys.exit(main())
