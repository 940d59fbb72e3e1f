"""Managers that have moved, how they find each other, and who may say where somebody is."""

from __future__ import annotations

import pytest
from wired_managers import Wired, member, peer

from swarmpy.errors import InvalidArgument, PermissionDenied
from swarmpy.model import codec


def places(managers: Wired) -> set[tuple[str, ...]]:
    """Where each manager's membership says that they all are."""
    return {tuple(m.address for m in manager.raft.status().members) for manager in managers.managers.values()}


async def test_two_of_three_find_each_other_through_the_third() -> None:
    """Neither knows where the other one is; both know the one that stayed."""
    async with Wired(1, 2, 3, schema=codec.SCHEMA_VERSION) as managers:
        for raft_id in (1, 2):
            await managers.stop(raft_id)
        for raft_id in (1, 2):
            managers.start(raft_id, f"10.0.1.{raft_id}:2377")
        await managers.until(lambda: places(managers) == {("10.0.1.1:2377", "10.0.1.2:2377", "10.0.0.3:2377")})


async def test_addresses_that_were_swapped() -> None:
    """What is sent to the old address of one reaches the other, and does no harm."""
    async with Wired(1, 2, 3, schema=codec.SCHEMA_VERSION) as managers:
        for raft_id in (1, 2):
            await managers.stop(raft_id)
        managers.start(1, member(2).address)
        managers.start(2, member(1).address)
        swapped = (member(2).address, member(1).address, member(3).address)
        await managers.until(lambda: places(managers) == {swapped})


async def test_all_have_moved_and_one_is_told() -> None:
    """The one that is told where the others are makes itself known to them, also to one that comes later."""
    async with Wired(1, 2, 3, schema=codec.SCHEMA_VERSION) as managers:
        for raft_id in managers.ids:
            await managers.stop(raft_id)
        there = {raft_id: f"10.0.1.{raft_id}:2377" for raft_id in managers.ids}
        managers.start(1, there[1], hints=(there[2], there[3]))
        managers.start(2, there[2])
        await managers.until(lambda: managers.managers[1].leader() is not None)
        managers.start(3, there[3])
        await managers.until(lambda: places(managers) == {tuple(there.values())})


async def test_nobody_says_where_another_manager_is() -> None:
    """A manager is met where it says itself that it is; what it says in another's name is refused."""
    async with Wired(1, 2, 3, schema=codec.SCHEMA_VERSION) as managers:
        manager = managers.managers[1]
        with pytest.raises(PermissionDenied, match="node node3 is not raft member 2"):
            await manager._whereabouts.on_introduced(peer(3), {"raft_id": 2, "address": "10.6.6.6:2377"})
        with pytest.raises(InvalidArgument, match=r"raft\.introduce: raft_id and address are needed"):
            await manager._whereabouts.on_introduced(peer(3), {"raft_id": 3})
        told = await manager._whereabouts.on_introduced(peer(3), {"raft_id": 3, "address": "10.0.1.3:2377"})
        assert (told["raft_id"], told["address"]) == (1, member(1).address)
        assert [m.address for m in manager.raft.whereabouts()] == [
            member(1).address,
            member(2).address,
            "10.0.1.3:2377",
        ]
