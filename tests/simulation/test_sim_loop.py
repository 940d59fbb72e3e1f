"""The simulator's own tests: it finds races, repeats itself, and lets the dead lie."""

from __future__ import annotations

import asyncio

import pytest
from loop import LIFE, Deadlock, Livelock, SimLoop, SimulationError, run, seeds


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
