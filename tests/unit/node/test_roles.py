"""A node's manager half is started, stopped and replaced by one thing at a time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import attrs
import pytest

from swarmpy.node.clock import SystemClock
from swarmpy.node.datadir import NodeState
from swarmpy.node.roles import RoleKeeper


@attrs.define
class SlowDisk:
    """A manager half whose log takes its time to be opened, and ends the test when it is to stop."""

    is_opened: asyncio.Event = attrs.Factory(asyncio.Event)
    running: int = 0

    async def start(self, *_: object) -> str:
        """Return when the disk has answered."""
        await self.is_opened.wait()
        self.running += 1
        return "the manager"

    async def stop(self) -> None:
        """Nothing is left of what was started."""
        self.running = 0
        raise NotImplementedError("as far as the test goes")


async def test_a_cluster_is_begun_anew_after_the_manager_half_has_started() -> None:
    """Else what was about to start is not stopped, and there would be two of it on one log."""
    half = SlowDisk()
    nothing = cast("Any", None)
    keeper = RoleKeeper(
        state=nothing,
        data=nothing,
        vault=nothing,
        agent=nothing,
        certificate=nothing,
        half=cast("Any", half),
        clock=SystemClock(),
        random=nothing,
    )
    async with asyncio.TaskGroup() as group:
        starting = group.create_task(keeper.start_manager(None, None))
        renewing = group.create_task(_begin_anew(keeper))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not renewing.done()
        half.is_opened.set()
    assert starting.result() == "the manager"
    assert half.running == 0


async def _begin_anew(keeper: RoleKeeper) -> None:
    with pytest.raises(NotImplementedError):
        await keeper.begin_anew(cast("NodeState", None))
