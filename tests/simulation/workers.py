"""Processes that play universes. One that hangs or dies costs its universe only."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import resource
import signal
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from random import Random
from types import FrameType, TracebackType
from typing import Self

import attrs
from knobs import Knobs
from universe import Report, play

CPU_LIMIT_S = 60.0
"""A universe that takes this much CPU time hangs; most take less than one second."""
AGAIN_S = 5.0
"""After that much more it is interrupted again: it may hang while it cleans up."""
KILL_FACTOR = 2
"""After so many times the limit the kernel ends the process: it hangs where no signal is heard."""
FIRST_LINE = 300
_CONTEXT = multiprocessing.get_context("spawn")


class Hung(KeyboardInterrupt):
    """A universe took too much CPU time. A keyboard interrupt: only that goes through an event loop from anywhere."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What came of one universe."""

    seed: int
    world: str
    report: Report | None = None
    """None after a violation."""
    violation: str = ""
    """What broke, in one line."""
    cpu_s: float = 0.0


class Workers:
    """So many processes, each with one universe at a time."""

    def __init__(self, count: int, world: str | None) -> None:
        self._world = world
        # It lets interrupts through again when it has started: not in the middle of starting the first worker.
        resource_tracker.ensure_running()
        self._workers = [_Worker(world) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.end()

    def play(self, seeds: Iterable[int]) -> Iterator[Outcome]:
        """The outcome of each seed, in the order in which they end."""
        waiting = iter(seeds)
        for worker in self._workers:
            worker.give(next(waiting, None))
        while busy := {worker.pipe: worker for worker in self._workers if worker.seed is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                yield worker.take()
                if not worker.process.is_alive():
                    worker = self._replace(worker)
                worker.give(next(waiting, None))

    def kill(self) -> None:
        """End all processes where they are: their universes are lost."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def _replace(self, worker: _Worker) -> _Worker:
        worker.end()
        self._workers[self._workers.index(worker)] = new = _Worker(self._world)
        return new


class _Worker:
    """The parent's end of one process."""

    def __init__(self, world: str | None) -> None:
        self.seed: int | None = None
        """What it plays."""
        self._world = world
        self.pipe, far = _CONTEXT.Pipe()
        self.process: BaseProcess = _CONTEXT.Process(target=_work, args=(far, world), daemon=True)
        # It inherits the mask: an interrupt of the terminal is the parent's to hear, who then ends it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        far.close()

    def give(self, seed: int | None) -> None:
        self.seed = seed
        if seed is not None:
            with contextlib.suppress(BrokenPipeError):  # it is dead, as will be seen
                self.pipe.send(seed)

    def take(self) -> Outcome:
        assert self.seed is not None
        try:
            outcome: Outcome = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            died = f"its process died with exit code {self.process.exitcode}"
            outcome = Outcome(seed=self.seed, world=_world_of(self.seed, self._world), violation=died)
        return outcome

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _world_of(seed: int, world: str | None) -> str:
    return world or Knobs.draw(Random(seed)).world


def _work(pipe: Connection, world: str | None) -> None:
    """The process."""
    signal.signal(signal.SIGVTALRM, interrupt)
    gc.freeze()
    while True:
        try:
            seed = pipe.recv()
        except EOFError:
            return
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(_cpu_s() + KILL_FACTOR * CPU_LIMIT_S), hard))
        pipe.send(outcome(seed, world))


def outcome(seed: int, world: str | None) -> Outcome:
    """Play it in this process, within the limit. Needs :func:`interrupt` as the handler of SIGVTALRM."""
    begin = _cpu_s()
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT_S, AGAIN_S)
    report, violation = None, ""
    try:
        report = play(seed, world=world)
    except BaseException as error:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        violation = f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0][:FIRST_LINE]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return Outcome(seed=seed, world=_world_of(seed, world), report=report, violation=violation, cpu_s=_cpu_s() - begin)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """The handler: raises Hung."""
    raise Hung(f"more than {CPU_LIMIT_S:g} s of CPU time")
