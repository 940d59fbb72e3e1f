"""The simulator's own tests: it finds races, repeats itself, and lets the dead lie."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from loop import LIFE, Deadlock, Life, Livelock, SimLoop, SimulationError, run, seeds


async def lose_an_update(loop: SimLoop) -> int:
    """Two tasks read, wait a turn and write; the second begins late enough when everyone waits his turn."""
    counter = 0

    async def add(turns: int) -> None:
        nonlocal counter
        for _ in range(turns):
            await asyncio.sleep(0)
        seen = counter
        await asyncio.sleep(0)
        counter = seen + 1

    await asyncio.gather(add(0), add(2))
    return counter


def test_a_planted_race_is_found() -> None:
    """First-in first-out order never shows the race, random order shows it in many universes."""
    assert {run(seed, lose_an_update, fifo=True) for seed in range(20)} == {2}
    found = sum(run(seed, lose_an_update) == 1 for seed in range(300))
    assert found > 30


async def chatter(loop: SimLoop) -> tuple[int, int, float]:
    """Tasks, timers, queues, locks and timeouts."""
    queue: asyncio.Queue[int] = asyncio.Queue(3)
    lock = asyncio.Lock()
    order = []

    async def produce(number: int) -> None:
        for _ in range(5):
            await asyncio.sleep(loop.random.expovariate(10))
            async with lock:
                await queue.put(number)

    async def consume() -> None:
        while True:
            try:
                async with asyncio.timeout(0.05):
                    order.append(await queue.get())
            except TimeoutError:
                order.append(-1)

    async with asyncio.TaskGroup() as group:
        consumer = group.create_task(consume())
        async with asyncio.TaskGroup() as producers:
            for number in range(5):
                producers.create_task(produce(number))
        while not queue.empty():
            await asyncio.sleep(0.01)
        consumer.cancel()
    loop.mark(*order)
    return loop.digest, loop.steps, loop.time()


def test_one_seed_is_one_universe() -> None:
    """The same seed makes the same choices, another one makes others."""
    runs = [run(seed, chatter) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_time_is_virtual() -> None:
    """A day passes at once."""

    async def main(loop: SimLoop) -> float:
        await asyncio.sleep(86_400)
        return loop.time()

    assert run(0, main) == 86_400


def test_a_deadlock_is_named() -> None:
    """Waiting for what nobody can bring fails at once, and says who waits and how to see it again."""

    async def main(loop: SimLoop) -> None:
        await loop.create_future()

    with pytest.raises(Deadlock, match=r"nothing is ready(.|\n)*main") as caught:
        run(7, main)
    assert caught.value.__notes__[0].startswith("replay with: SIM_SEED=7 pytest ")


def test_a_livelock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Being busy for ever without time passing fails."""
    monkeypatch.setattr("loop.MAX_STEPS_AT_ONE_TIME", 1_000)

    async def main(loop: SimLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run(0, main)


def test_the_operating_system_is_refused() -> None:
    """Threads and sockets cannot be used by mistake."""

    async def thread(loop: SimLoop) -> None:
        await asyncio.to_thread(print)

    async def socket(loop: SimLoop) -> None:
        await asyncio.open_connection("localhost", 1)

    for main in (thread, socket):
        with pytest.raises(SimulationError, match="in a simulation"):
            run(0, main)


def test_what_nobody_catches_fails_the_run() -> None:
    """An exception in a callback or a forgotten task is not lost."""

    async def callback(loop: SimLoop) -> None:
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    async def task(loop: SimLoop) -> None:
        async def fail() -> None:
            raise ValueError("lost")

        running = loop.create_task(fail())
        await asyncio.sleep(1)
        del running

    with pytest.raises(SimulationError, match="ZeroDivisionError"):
        run(0, callback)
    with pytest.raises(SimulationError, match="lost"):
        run(0, task)


@pytest.mark.parametrize("seed", seeds(10))
def test_the_dead_do_nothing(seed: int) -> None:
    """After a crash no callback, timer, finally clause or child task of that life runs while the simulation does."""
    log: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(1.5)
            log.append("child")
        finally:
            log.append("finally")

    async def parent() -> None:
        asyncio.get_running_loop().call_later(1.2, log.append, "timer")
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    async def main(loop: SimLoop) -> None:
        life = loop.new_life("host")

        async def live() -> None:
            LIFE.set(life)
            await parent()

        tasks = [loop.create_task(live())]
        await asyncio.sleep(1)
        life.is_alive = False
        await asyncio.sleep(10)
        assert log == []
        assert not tasks[0].done()

    run(seed, main)
    assert log == ["timer", "finally"] or log == ["finally", "timer"]


def test_what_ends_dies_no_more() -> None:
    """A life that is to die while everything is being ended is still ended in order, and is not waited for in vain."""
    seen: list[SimLoop] = []
    last_words: list[float] = []

    async def main(loop: SimLoop) -> None:
        seen.append(loop)
        life = loop.new_life("a")

        async def member() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(1)
                last_words.append(loop.now)

        def crash() -> None:
            life.is_alive = False

        context = contextvars.Context()
        context.run(LIFE.set, life)
        loop.create_task(member(), context=context)
        await asyncio.sleep(1)
        loop.call_later(0.5, crash)

    run(0, main)
    assert last_words == [2.0]
    assert seen[0].now == 2.0


def test_a_life_can_have_timers_of_its_own_pace() -> None:
    """Timers of a fast life end early, and its clock says that they do not; other lives notice nothing."""

    async def main(loop: SimLoop) -> None:
        times: dict[str, tuple[float, float]] = {}

        async def live(name: str, rate: float) -> None:
            LIFE.set(loop.new_life(name, rate))
            begin, began = loop.now, loop.time()
            for _ in range(10):
                await asyncio.sleep(1.0)
            times[name] = loop.now - begin, loop.time() - began

        await asyncio.sleep(5)
        async with asyncio.TaskGroup() as group:
            for name, rate in (("slow", 0.9), ("right", 1.0), ("fast", 1.1)):
                group.create_task(live(name, rate))
        assert times["right"] == (10.0, 10.0)
        assert times["slow"] == (pytest.approx(10 / 0.9), pytest.approx(10))
        assert times["fast"] == (pytest.approx(10 / 1.1), pytest.approx(10))

    run(0, main)


def test_a_life_that_stands_still_goes_on_where_it_was() -> None:
    """Nothing of it runs meanwhile; a crash in the middle is a crash."""

    async def main(loop: SimLoop) -> None:
        lives = [loop.new_life("goes on"), loop.new_life("dies")]
        log: list[tuple[str, float]] = []

        async def live(life: Life) -> None:
            LIFE.set(life)
            for _ in range(5):
                await asyncio.sleep(1)
                log.append((life.name, loop.now))

        tasks = [loop.create_task(live(life)) for life in lives]
        await asyncio.sleep(1.5)
        for life in lives:
            loop.pause(life)
        await asyncio.sleep(10)
        assert len(log) == 2
        lives[1].is_alive = False
        for life in lives:
            loop.resume(life)
        await tasks[0]
        assert log[2:] == [("goes on", 11.5), ("goes on", 12.5), ("goes on", 13.5), ("goes on", 14.5)]

    run(0, main)


def test_the_digest_is_the_same_on_every_build() -> None:
    """It is defined by what was marked, not by the hash of this interpreter."""

    async def main(loop: SimLoop) -> int:
        loop.mark(1, 2, 3)
        loop.mark(1 << 80, -1)
        return loop.digest

    assert run(0, main) == 0x6C1FDB77EB6F0E91
