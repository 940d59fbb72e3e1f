"""A deterministic event loop: virtual time, seeded order, no operating system.

One seed is one universe: whenever several callbacks are ready, a seeded generator picks the one to run, and time moves
only when nothing is ready. Code under test runs unchanged on it, except that sockets, threads and signals are refused.

A :class:`Life` is what dies at a crash: tasks, timers and callbacks that were created in it (it is inherited as a
context variable) simply run no more - no ``finally``, no farewell - as after a power cut. A life can also stand still
for a while, and its timers can run faster or slower than those of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import heapq
import math
import os
import random
from asyncio import base_events, events
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

MAX_STEPS_AT_ONE_TIME = 200_000
"""Callbacks without the clock moving; more is a loop that waits for nothing."""
CLEANUP_ROUNDS = 5
_NANO = 1_000_000_000
_MIX, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
"""Of the digest: Knuth's multiplicative hashing, by 2**64 over the golden ratio."""


class SimulationError(Exception):
    """The simulated program did what it must never do."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer runs: the program waits for what cannot come."""


class Livelock(SimulationError):
    """The program is busy for ever without waiting for anything."""


class Life:
    """One incarnation of a host. Callbacks of a dead one are set aside until the end of the simulation, those of one
    that stands still until it goes on.

    ``rate`` is how fast its monotonic clock and its timers run: at 1.1, ten seconds last nine.
    """

    def __init__(self, name: str, born_at: float = 0.0, rate: float = 1.0) -> None:
        self.name = name
        self.is_alive = True
        self.is_paused = False
        self.born_at = born_at
        self.rate = rate
        self.parked: list[asyncio.Handle] = []

    def __repr__(self) -> str:
        return f"<Life {self.name} {'alive' if self.is_alive else 'dead'}>"


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


class SimTask(asyncio.Task[Any]):
    """A task whose place in a set depends on when it was created, not on where in memory: sets of tasks are looped over
    wherever a group is cancelled."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class SimLoop(base_events.BaseEventLoop):
    """The loop. ``random`` is the one source of chance of the whole simulation."""

    def __init__(self, seed: int, *, fifo: bool = False) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.steps = 0
        self.digest = 0
        """A hash of every choice made so far: equal digests mean equal runs, on any machine."""
        self.problems: list[str] = []
        """What nobody caught: exceptions of callbacks and of tasks that were not awaited. The first ends the run."""
        self._is_over = False
        self._now = 0.0
        self._fifo = fifo
        self._since_move = 0
        self._lives: list[Life] = []
        self._ready: list[asyncio.Handle] = []
        self._tasks = 0
        self._clock_resolution = 1e-9
        self.set_task_factory(SimLoop._new_task)
        self.set_exception_handler(SimLoop._on_problem)

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning, whoever asks."""
        return self._now

    def time(self) -> float:
        """Virtual seconds since the beginning, as the monotonic clock of the life that asks has them."""
        life = LIFE.get()
        if life is None or life.rate == 1.0:
            return self._now
        return life.born_at + (self._now - life.born_at) * life.rate

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See ``AbstractEventLoop``. ``when`` is a time of the life that calls; it is rounded up to a nanosecond, so
        that the last digit of a logarithm, which differs between machines, decides nothing."""
        life = LIFE.get()
        if life is not None and life.rate != 1.0:
            # A nanosecond more: after it that life's clock surely shows ``when``.
            when = life.born_at + (when - life.born_at) / life.rate + 1 / _NANO
        return self.call_at_true(when, callback, *args, context=context)

    def call_at_true(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As :meth:`call_at`, at a time of :attr:`now`."""
        nanoseconds = math.ceil(when * _NANO)
        if nanoseconds / _NANO < when:
            nanoseconds += 1
        timer = events.TimerHandle(nanoseconds / _NANO, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def new_life(self, name: str, rate: float = 1.0) -> Life:
        """Begin an incarnation; run something in it by setting ``LIFE`` in its context."""
        life = Life(name, self._now, rate)
        self._lives.append(life)
        return life

    def pause(self, life: Life) -> None:
        """Stand still, as a process that is stopped: what becomes due waits."""
        life.is_paused = True

    def resume(self, life: Life) -> None:
        """Go on: all that became due is ready at once."""
        life.is_paused = False
        if life.is_alive:
            self._ready.extend(life.parked)
            life.parked.clear()

    def mark(self, *values: int) -> None:
        """Mix what happened into the digest."""
        digest = self.digest
        for value in values:
            digest = ((digest ^ value) * _MIX) & _MASK
            digest ^= digest >> 29
        self.digest = digest

    # -- one step ---------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        if not self._ready and not self._stopping:
            self._move_time()
        self._collect_due()
        if not self._ready:
            return
        if self._since_move > MAX_STEPS_AT_ONE_TIME:
            raise Livelock(f"{self._since_move} callbacks at {self._now:.3f} s and no end:{self._busy()}")
        handle = self._pick()
        if handle._cancelled:
            return
        life = handle._context.get(LIFE)
        if life is not None and (life.is_paused or not life.is_alive) and not self._is_over:
            life.parked.append(handle)
            return
        self.steps += 1
        self._since_move += 1
        handle._run()
        if self.problems and not self._is_over:
            raise SimulationError("\n".join(["nobody caught:", *self.problems[:10]]))

    def _pick(self) -> asyncio.Handle:
        count = len(self._ready)
        if self._fifo or count == 1:
            return self._ready.pop(0)
        chosen = self.random.randrange(count)
        self.mark(chosen, count, int(self._now * _NANO))
        last = self._ready.pop()
        if chosen == count - 1:
            return last
        self._ready[chosen], handle = last, self._ready[chosen]
        return handle

    def _move_time(self) -> None:
        self._drop_cancelled()
        if not self._scheduled:
            raise Deadlock(f"at {self._now:.3f} s nothing is ready and no timer runs{self._waiting()}")
        if self._scheduled[0]._when > self._now:
            self._now = self._scheduled[0]._when
            self._since_move = 0

    def _collect_due(self) -> None:
        self._drop_cancelled()
        while self._scheduled and self._scheduled[0]._when <= self._now:
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                self._ready.append(handle)

    def _drop_cancelled(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(self._scheduled)._scheduled = False

    def _waiting(self) -> str:
        lines = sorted(repr(task) for task in asyncio.all_tasks(self))
        return "".join(f"\n  {line[:300]}" for line in lines[:20])

    def _busy(self) -> str:
        callbacks = [getattr(handle, "_callback", None) for handle in self._ready[:20]]
        return "".join(f"\n  {getattr(callback, '__self__', callback)!r}"[:400] for callback in callbacks)

    def _new_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> SimTask:
        self._tasks += 1
        return SimTask(self._tasks, coro, loop=self, **options)

    def _on_problem(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.problems.append(f"{self._now:.3f} s: {context.get('message')}: {error!r}")

    # -- what a simulation must not do --------------------------------------------------------------------------------

    def _process_events(self, event_list: Any) -> None:
        raise SimulationError("there are no file descriptors in a simulation")

    def _write_to_self(self) -> None:
        raise SimulationError("there are no threads in a simulation")

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise SimulationError("call_soon_threadsafe: there are no threads in a simulation")

    def run_in_executor(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise SimulationError("run_in_executor: there are no threads in a simulation")

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise SimulationError("create_connection: there are no sockets in a simulation")

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise SimulationError("create_server: there are no sockets in a simulation")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise SimulationError("create_datagram_endpoint: there are no sockets in a simulation")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """Refused."""
        raise SimulationError("getaddrinfo: there are no names in a simulation")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        self._asyncgens.discard(agen)
        if not self.is_closed():
            self.call_soon(self.create_task, agen.aclose())

    # -- the end ------------------------------------------------------------------------------------------------------

    def clean_up(self) -> None:
        """Wake the dead, cancel everything that still runs and let it end; what goes wrong now is of no interest.

        Nobody dies or stands still any more: a fault that comes now would leave behind what never ends.
        """
        self.set_exception_handler(lambda loop, context: None)
        self._is_over = True
        self._since_move = 0
        for life in self._lives:
            life.is_alive, life.is_paused = True, False
            self._ready.extend(life.parked)
            life.parked.clear()
        for _ in range(CLEANUP_ROUNDS):
            tasks = sorted(asyncio.all_tasks(self), key=hash)
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.wait(tasks, timeout=600))
        raise SimulationError(f"tasks that cannot be cancelled:{self._waiting()}")


def run(
    seed: int,
    main: Callable[[SimLoop], Coroutine[Any, Any, T]],
    *,
    fifo: bool = False,
    replay: Callable[[], str] | None = None,
) -> T:
    """Run ``main`` in the universe of ``seed``. A failure carries a line that says how to see it again: ``replay()``,
    or the command that runs the current test with this seed."""
    loop = SimLoop(seed, fifo=fifo)
    with _no_collection():
        try:
            result = _finish(loop, main)
        except BaseException as error:
            error.add_note(f"replay with: {replay() if replay else replay_command(seed)}")
            raise
    return result


def _finish(loop: SimLoop, main: Callable[[SimLoop], Coroutine[Any, Any, T]]) -> T:
    events.set_event_loop(None)
    try:
        result = loop.run_until_complete(main(loop))
    except BaseException:
        # What cannot be cancelled after that matters less than what broke.
        with contextlib.suppress(SimulationError):
            _end(loop)
        raise
    _end(loop)
    return result


def _end(loop: SimLoop) -> None:
    try:
        loop.clean_up()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    # What a collection finalises runs at a moment that no seed decides.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def replay_command(seed: int) -> str:
    """The command that runs the current test with one seed."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "tests/simulation").split(" ")[0].split("[")[0]
    return f"SIM_SEED={seed} pytest {test}"


def seeds(default: int) -> list[int]:
    """The seeds of a test: the one of SIM_SEED, or as many as SIM_SEEDS says, or ``default`` many."""
    if only := os.environ.get("SIM_SEED"):
        return [int(only)]
    return list(range(int(os.environ.get("SIM_SEEDS", default))))
