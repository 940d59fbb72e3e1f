"""A manager half enters the Raft group beside the rest of its node, and its successor does so too."""

from __future__ import annotations

import asyncio
from typing import Any

from swarmpy.node.member import Member


class Entering(Member):
    """Only the part that enters; what enters is noted, and never comes to an end."""

    def __init__(self) -> None:
        self.manager = None
        self._entering = None
        self.entered: list[Any] = []

    async def _enter_group(self, manager: Any) -> None:
        self.entered.append(manager)
        await asyncio.Event().wait()


async def test_a_successor_enters_while_the_one_before_still_tries() -> None:
    """One that was replaced tries on until its call is over; the new half must not be taken for it."""
    member = Entering()
    first: Any = object()
    second: Any = object()
    async with asyncio.TaskGroup() as group:
        for manager in (first, first, second, second):
            member.manager = manager
            member._enter_beside(group, manager)
            await asyncio.sleep(0)
            assert member._is_entering
        member.manager = None
        assert not member._is_entering
        assert member.entered == [first, second]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
