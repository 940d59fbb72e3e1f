"""A manager half enters the Raft group beside the rest of its node, and its successor does so too."""

from __future__ import annotations

import asyncio
from typing import Any

from swarmpy.node.manager_half import ManagerHalf


class Entering(ManagerHalf):
    """Only the part that enters; what enters is noted, and never comes to an end."""

    def __init__(self) -> None:
        self.manager = None
        self.group = None
        self._entering = None
        self.entered: list[Any] = []

    async def enter_group(self, manager: Any) -> None:
        self.entered.append(manager)
        await asyncio.Event().wait()


async def test_a_successor_enters_while_the_one_before_still_tries() -> None:
    """One that was replaced tries on until its call is over; the new half must not be taken for it."""
    half = Entering()
    first: Any = object()
    second: Any = object()
    async with asyncio.TaskGroup() as group:
        half.group = group
        for manager in (first, first, second, second):
            half.manager = manager
            half.enter_beside(manager)
            await asyncio.sleep(0)
            assert half.is_entering
        half.manager = None
        assert not half.is_entering
        assert half.entered == [first, second]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
