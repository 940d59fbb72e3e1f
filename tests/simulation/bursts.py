"""Writes in bursts, to whoever believes to lead: so one that is cut off has a long tail that nobody else has."""

from __future__ import annotations

import asyncio

import attrs
from loop import SimLoop
from managers import Managers, SimManager

from swarmpy.errors import SwarmpyError
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node
from swarmpy.model.specs import NodeSpec
from swarmpy.store.transaction import Tx

PAUSE_MEAN_S = 0.6
MOST = 40
TARGET = NodeId("bursts")


class Bursts:
    """Nobody waits for these writes, and nobody asks what became of them."""

    def __init__(self, managers: Managers, loop: SimLoop) -> None:
        self._managers = managers
        self._random = loop.random
        self._last = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_MEAN_S))
            leading = [manager for manager in self._managers.up() if manager.driver.status().is_leader]
            if leading:
                manager = leading[self._random.randrange(len(leading))]
                for _ in range(self._random.randrange(1, MOST)):
                    self._last += 1
                    manager.host.spawn(_write(manager, str(self._last)))


async def _write(manager: SimManager, value: str) -> None:
    def fn(tx: Tx) -> None:
        known = tx.node(TARGET)
        spec = NodeSpec(name=value)
        if known is None:
            tx.create(Node(id=TARGET, spec=spec))
        else:
            tx.update(attrs.evolve(known, spec=spec))

    try:
        await manager.store.update(fn)
    except SwarmpyError:
        return
