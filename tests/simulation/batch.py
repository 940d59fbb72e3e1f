"""Many universes at once, in processes of their own, and what came of them; or one, as a film."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from random import Random
from types import FrameType
from typing import NoReturn

from knobs import WORLDS, Knobs
from summary import Summary
from universe import play, replay_command
from workers import Outcome, Workers

PROGRESS_S = 15.0
"""Seconds between lines that say how far it is."""
INTERRUPTED = 130
BROKEN_PIPE = 141
"""Exit codes of a shell for what SIGINT and SIGPIPE ended."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _number(least: int) -> object:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tests.simulation",
        description="Play simulated clusters, break them, and check that the laws hold.",
        epilog="Exit code 1: a law was broken; 2: bad usage.",
        allow_abbrev=False,
    )
    parser.add_argument("--seeds", type=_number(1), metavar="N", help="how many universes (default: 100)")
    parser.add_argument("--first-seed", type=_number(0), metavar="K", help="the first of them (default: 0)")
    parser.add_argument("--jobs", type=_number(1), metavar="N", help="processes (default: one a core)")
    parser.add_argument("--world", choices=WORLDS, help="this one only (default: each seed has its own)")
    parser.add_argument("--seed", type=_number(0), metavar="N", help="replay this one")
    parser.add_argument("--verbose", action="store_true", help="with --seed: tell everything that happens")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command. Returns its exit code: 0 when all laws held."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.seed is not None:
        if any(value is not None for value in (options.seeds, options.first_seed, options.jobs)):
            parser.error("--seed replays one universe: it goes with --world and --verbose only")
        return _replay(options.seed, options.world, options.verbose)
    if options.verbose:
        parser.error("--verbose needs --seed")
    first = options.first_seed or 0
    seeds = range(first, first + (options.seeds or 100))
    return _batch(seeds, options.world, options.jobs or len(os.sched_getaffinity(0)))


def _replay(seed: int, world: str | None, verbose: bool) -> int:
    try:
        report = play(seed, world=world, out=sys.stdout if verbose else None)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException as error:
        violated = world or Knobs.draw(Random(seed)).world
        print(f"seed {seed} of world {violated} VIOLATED: {type(error).__name__}: {error}")
        if not verbose:
            print(f"see it with: {replay_command(seed, violated)}")
        return 1
    print(
        f"seed {seed} of world {report.knobs.world}: all laws hold; {report.virtual_s:.1f} virtual seconds, "
        f"{report.steps} steps, {report.faults.total()} faults, {report.checks.total()} checks, "
        f"digest {report.digest:016x}"
    )
    return 0


class _Interrupt:
    """Ctrl-C that is not forgotten when its exception is raised where Python ignores it, as in a finalizer."""

    def __init__(self) -> None:
        self._came = False
        self._before = signal.signal(signal.SIGINT, self._on_signal)

    def forget(self) -> None:
        """Leave the signal to whoever had it."""
        signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt when it came."""
        if self._came:
            raise KeyboardInterrupt


def _batch(seeds: range, world: str | None, jobs: int) -> int:
    summary = Summary(seeds, jobs)
    code = 0
    interrupt = _Interrupt()
    try:
        print(f"{len(seeds)} universes from seed {seeds.start} on, {jobs} at a time", flush=True)
        with Workers(min(jobs, len(seeds)), world) as workers:
            for outcome in _told(workers.play(seeds), len(seeds)):
                summary.add(outcome)
                interrupt.check()
    except KeyboardInterrupt:
        print("interrupted")
        code = INTERRUPTED
    finally:
        interrupt.forget()
    print("\n".join(summary.lines()), flush=True)
    return code or (1 if summary.violations else 0)


def _told(outcomes: Iterator[Outcome], count: int) -> Iterator[Outcome]:
    """The outcomes, with a line for each violation and now and then one that says how far it is."""
    begin = told_at = time.monotonic()
    for number, outcome in enumerate(outcomes, 1):
        if outcome.violation:
            print(f"seed {outcome.seed} of world {outcome.world} VIOLATED: {outcome.violation}", flush=True)
        now = time.monotonic()
        if now - told_at >= PROGRESS_S and number < count:
            told_at = now
            print(f"{number}/{count} after {now - begin:.0f} s", flush=True)
        yield outcome
