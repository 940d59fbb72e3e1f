"""Deliberate bugs, applied to one module of a fresh interpreter, and the search for a universe that notices.

A mutant replaces exact texts of one source file on its way into the compiler: nothing is written anywhere, and the
interpreter that runs it ends with it. A text that is not there exactly once disarms the mutant, which is an error: the
code has moved on and the mutant must follow.

A universe kills a mutant when it ends badly with the mutant and well without it. A mutant with which no cluster can be
founded, even where nothing goes wrong, proves nothing, and is an error as well. What simulated disks replace is looked
for by the tests of the real one instead: they count as one universe.

The interpreter of a mutant runs :func:`main` and prints one JSON object.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import attrs

HERE = Path(__file__).resolve().parent
LOG_TESTS = "log"
"""The world of the tests of the durable log."""
ENOUGH_SEEDS = 500
"""Universes in which a mutant must show itself."""
CALM_SEED = 0
"""A universe without faults, which a mutant must survive."""
MOST_CPU_S = 15
"""Processor seconds after which a universe counts as one that never ends."""
_LAW = re.compile(r"(LawBroken|SimulationError|AssertionError): ")
_NO_LIFE = re.compile(r"nobody leads|no convergence|commits no write|lags behind")
"""A law may be broken where nothing goes wrong; but there the cluster has to be founded and to get on."""
_TOLD = re.compile(r"""(\w+)\(['"]([^'"]*)""")
"""One exception in the repr of others that it was wrapped in."""


class Disarmed(AssertionError):
    """The text that a mutant replaces is not there exactly once."""


class NeverEnds(KeyboardInterrupt):
    """A universe takes far longer than any should. An interrupt, because nothing on the way swallows those."""


@attrs.frozen
class Edit:
    """A text of a module, there exactly once, and what takes its place."""

    old: str
    new: str


@attrs.frozen(kw_only=True)
class Mutant:
    """One deliberate bug."""

    name: str
    bug: str
    """What is wrong, in one sentence."""
    world: str
    """The kind of universe in which it can be noticed, or LOG_TESTS."""
    module: str
    edits: tuple[Edit, ...]
    tests: str = "test_log_*.py"
    """Of LOG_TESTS: the files that find it."""
    killer: int = 0
    """A seed that is known to notice; a hint, as universes change with everything that is drawn in them."""


@attrs.frozen(kw_only=True)
class Found:
    """What a search found."""

    seed: int | None
    """The first seed that noticed; None when none did."""
    law: str = ""
    """What it said: the first line."""
    seeds: int = 0
    """Universes that were played."""
    cpu_s: float = 0.0
    stillborn: str = ""
    """Why the mutant proves nothing: what happened where nothing went wrong."""


def mutated(mutant: Mutant, source: str) -> str:
    """``source`` of the mutant's module, with the bug. Raises Disarmed."""
    for edit in mutant.edits:
        count = source.count(edit.old)
        if count != 1:
            raise Disarmed(
                f"mutant {mutant.name}: its text occurs {count} times in {mutant.module}, not once:\n{edit.old}"
            )
        source = source.replace(edit.old, edit.new)
    return source


def source_of(module: str) -> str:
    """The source of a module as it is, without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    assert isinstance(spec.loader, importlib.abc.InspectLoader)
    return spec.loader.get_source(module) or ""


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(mutated(self._mutant, self.get_source(fullname) or ""), self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        return importlib.util.spec_from_file_location(fullname, spec.origin, loader=_Loader(self._mutant, spec.origin))


def infect(mutant: Mutant) -> None:
    """From now on this interpreter imports the mutant's module with the bug. Raises Disarmed."""
    assert mutant.module not in sys.modules, f"{mutant.module} is imported already"
    mutated(mutant, source_of(mutant.module))
    sys.meta_path.insert(0, _Finder(mutant))


# -- one universe -----------------------------------------------------------------------------------------------------


def ending(world: str, seed: int, *, calm: bool = False) -> str | None:
    """Play a universe in this interpreter. None when it ends well, or the first line of what was wrong."""
    import universe

    hush()
    previous = signal.signal(signal.SIGPROF, _give_up)
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S, MOST_CPU_S)
    try:
        if calm:
            _play_calm(world, seed)
        else:
            universe.play(seed, world=world)
    except (Exception, NeverEnds) as error:
        return first_line(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    return None


def _play_calm(world: str, seed: int) -> None:
    import universe
    from film import Film
    from knobs import Knobs
    from loop import SimLoop, run

    async def main(loop: SimLoop) -> None:
        knobs = attrs.evolve(Knobs.draw(loop.random, world), trouble_s=0.0)
        await universe.WORLDS[world](loop, knobs, Film())

    run(seed, main)


def _give_up(number: int, frame: Any) -> None:
    raise NeverEnds(f"no end after {MOST_CPU_S} processor seconds")


def hush() -> None:
    """Log nothing: writing lines that nobody reads takes longer than the universe."""
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def first_line(error: BaseException) -> str:
    """What was wrong, in one line: of a group, what its first member says; of an empty error, where it came from."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = next((line for line in str(error).splitlines() if line.strip() and line != "nobody caught:"), "")
    if not text:
        frames = traceback.extract_tb(error.__traceback__)
        text = next((f"in {frame.name}" for frame in reversed(frames) if Path(frame.filename).parent == HERE), "")
    line = f"{type(error).__name__}: {text}"
    told = _TOLD.findall(line)
    return ": ".join(told[-1]) if told else line


def failing_test(names: str) -> str | None:
    """Run tests of the durable log in this interpreter. None when all pass, or the first that does not."""
    import pytest

    failed: list[str] = []

    class Listener:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.nodeid.rpartition("/")[2])

    tests = sorted(str(path) for path in (HERE.parent / "unit" / "wire").glob(names))
    # A directory of its own: two runs at once fall over each other when they tidy up the common one.
    directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with directory, redirect_stdout(sys.stderr):
        options = ["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", f"--basetemp={directory.name}/tests"]
        code = pytest.main([*options, *tests], plugins=[Listener()])
    return failed[0] if failed else None if code == pytest.ExitCode.OK else f"pytest: {code!r}"


@functools.cache
def sound(world: str, seed: int) -> bool:
    """True when the universe ends well without any mutant."""
    return ending(world, seed) is None


@functools.cache
def pass_unharmed(names: str) -> bool:
    """True when the tests of the durable log pass without any mutant."""
    return _interpret(f"{HEALTHY.name}:{names}", 0, 1).seed is None


def _is_sound(mutant: Mutant, seed: int) -> bool:
    return pass_unharmed(mutant.tests) if mutant.world == LOG_TESTS else sound(mutant.world, seed)


# -- the search -------------------------------------------------------------------------------------------------------


def search(mutant: Mutant, first: int, end: int) -> Found:
    """Play the universes ``first`` to ``end - 1`` with the mutant, in an interpreter of its own, until one notices.

    Raises RuntimeError when that interpreter fails, as it does for a mutant that is disarmed.
    """
    return _interpret(mutant.name, first, 1 if mutant.world == LOG_TESTS else end)


def _interpret(name: str, first: int, end: int) -> Found:
    package = importlib.util.find_spec("swarmpy")
    assert package is not None
    assert package.origin is not None
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(Path(package.origin).parent.parent), str(HERE))),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "import mutation; mutation.main()", name, str(first), str(end)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"mutant {name} cannot be run:\n{done.stderr[-4000:]}")
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def confirmed(mutant: Mutant, found: Found, seeds: int = ENOUGH_SEEDS) -> Found:
    """``found``, unless its universe ends badly without the mutant as well: then what the search finds after it."""
    played, cpu_s = found.seeds, found.cpu_s
    while found.seed is not None and not _is_sound(mutant, found.seed):
        if mutant.world == LOG_TESTS:
            raise RuntimeError(f"the tests in {mutant.tests} fail without any mutant: {found.law}")
        found = search(mutant, found.seed + 1, seeds)
        played, cpu_s = played + found.seeds, cpu_s + found.cpu_s
    return attrs.evolve(found, seeds=played, cpu_s=cpu_s)


def caught(mutant: Mutant) -> Found:
    """Look where the mutant was caught before, then everywhere."""
    found = confirmed(mutant, search(mutant, mutant.killer, mutant.killer + 1), mutant.killer + 1)
    if found.seed is None and not found.stillborn:
        found = confirmed(mutant, search(mutant, 0, ENOUGH_SEEDS))
    return found


def _search_here(mutant: Mutant, first: int, end: int) -> Found:
    infect(mutant)
    if mutant.world == LOG_TESTS:
        law = failing_test(mutant.tests)
        return Found(seed=None if law is None else 0, law=law or "", seeds=1, cpu_s=time.process_time())
    wrong = ending(mutant.world, CALM_SEED, calm=True)
    if wrong is not None and (_NO_LIFE.search(wrong) or not _LAW.match(wrong)):
        return Found(seed=None, stillborn=wrong, cpu_s=time.process_time())
    for seed in range(first, end):
        law = ending(mutant.world, seed)
        if law is not None:
            return Found(seed=seed, law=law, seeds=seed + 1 - first, cpu_s=time.process_time())
    return Found(seed=None, seeds=end - first, cpu_s=time.process_time())


HEALTHY = Mutant(name="none", bug="No bug at all.", world=LOG_TESTS, module="swarmpy.wire.log", edits=())


def main() -> None:
    """The interpreter of a mutant: its name, the first seed and the end of the seeds are the arguments."""
    from mutants import MUTANTS

    name, first, end = sys.argv[1:]
    healthy, _, tests = name.partition(":")
    mutant = attrs.evolve(HEALTHY, tests=tests) if healthy == HEALTHY.name else MUTANTS[name]
    print(json.dumps(attrs.asdict(_search_here(mutant, int(first), int(end)))))
