"""A table that does not work at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest

from swarmpy.agent import routing
from swarmpy.agent.local import LocalWriter, MemoryLocalState
from swarmpy.agent.routing import Routing
from swarmpy.model.assignments import Endpoint, EndpointUpdate, PublishedPort


class TakenPort:
    """A data plane with a port that somebody else holds for the first two tries."""

    def __init__(self) -> None:
        self.tries = 0
        self.opened = asyncio.Event()

    async def apply(self, ports: Mapping[PublishedPort, tuple[Endpoint, ...]]) -> None:
        self.tries += bool(ports)
        if self.tries > 2:
            self.opened.set()

    def problems(self) -> tuple[str, ...]:
        return ("published port 80: address already in use",) if 0 < self.tries <= 2 else ()

    async def close(self) -> None:
        return


async def test_a_taken_port_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any news from the managers a table with problems is applied again, until it has none."""
    monkeypatch.setattr(routing, "PROBLEM_RETRY_S", 0.05)
    plane = TakenPort()
    seed = random.Random(1)
    kept = Routing(plane, seed, LocalWriter(MemoryLocalState(), seed))
    running = asyncio.create_task(kept.run())
    kept.receive(EndpointUpdate(version=4, ports=((PublishedPort(port=80), ()),)))
    async with asyncio.timeout(5):
        await plane.opened.wait()
    assert kept.applied_version == 4
    assert kept.problems() == ()
    tries = plane.tries
    await asyncio.sleep(0.2)  # four times the retry: nothing may be applied without a problem
    assert plane.tries == tries
    running.cancel()
    await asyncio.wait([running])


class RefusedOnce:
    """A data plane that refuses every table with a port in it, and keeps the others."""

    def __init__(self) -> None:
        self.refused = asyncio.Event()
        self.emptied = 0

    async def apply(self, ports: Mapping[PublishedPort, tuple[Endpoint, ...]]) -> None:
        if ports:
            self.refused.set()
            raise OSError("no such device")
        self.emptied += 1

    def problems(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        return


async def test_a_refused_table_is_no_problem_once_it_is_taken_back() -> None:
    """When the table before a refused one comes back it is applied anew, and nothing is wrong any more."""
    plane = RefusedOnce()
    seed = random.Random(1)
    kept = Routing(plane, seed, LocalWriter(MemoryLocalState(), seed))
    running = asyncio.create_task(kept.run())
    async with asyncio.timeout(5):
        kept.receive(EndpointUpdate(version=1))
        while kept.applied_version != 1:
            await kept.news.wait()
            kept.news.clear()
        kept.receive(EndpointUpdate(version=2, base_version=1, ports=((PublishedPort(port=80), ()),)))
        await plane.refused.wait()
        while not kept.problems():
            await asyncio.sleep(0)
        kept.receive(EndpointUpdate(version=3, base_version=2, removed=(PublishedPort(port=80),)))
        while kept.applied_version != 3:
            kept.news.clear()
            await kept.news.wait()
    assert kept.problems() == ()
    assert plane.emptied == 2
    running.cancel()
    await asyncio.wait([running])
