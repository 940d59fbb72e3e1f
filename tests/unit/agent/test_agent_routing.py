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
