"""Agents that ask for a session while nobody leads: they are told as soon as somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from wired_managers import Wired, member, peer

from swarmpy.errors import NotLeader
from swarmpy.manager.manager import Manager
from swarmpy.model import codec
from swarmpy.model.assignments import SessionMessage, SessionRequest
from swarmpy.model.objects import NodeDescription
from swarmpy.raft.status import RaftStatus

PATIENCE_S = 20


async def ask(manager: Manager) -> SessionMessage:
    """The first message of a session of node 9's address with a manager."""
    request = SessionRequest(description=NodeDescription(hostname="node"), address="10.0.0.9", incarnation=0)
    stream = manager._router.dispatch_stream(peer(3), "dispatcher.session", codec.to_plain(request))
    messages = cast("AsyncGenerator[Any, None]", stream)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return codec.from_plain(SessionMessage, await anext(messages))
    finally:
        await messages.aclose()


async def ask_when_it_is_lost(manager: Manager, leader: Manager) -> SessionMessage:
    """As :func:`ask`, at the moment at which the manager has no leader any more, or has another one."""
    lost = asyncio.Event()

    def look(status: RaftStatus) -> None:
        if status.leader_id != leader.raft.status().raft_id:
            lost.set()

    manager.raft.subscribe(look)
    async with asyncio.timeout(PATIENCE_S):
        await lost.wait()
    return await ask(manager)


async def test_who_asks_during_an_election_is_told_who_has_won() -> None:
    """Without asking again, by whoever is asked."""
    async with Wired(1, 2, 3, schema=codec.SCHEMA_VERSION) as wired:
        old = await wired.leader()
        others = [manager for manager in wired.managers.values() if manager is not old]
        asking = [asyncio.create_task(ask_when_it_is_lost(manager, old)) for manager in others]
        await asyncio.sleep(0)
        await wired.stop(old.raft.status().raft_id)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        leader = await wired.leader()
        for manager, answer in zip(others, answers, strict=True):
            if manager is leader:
                assert isinstance(answer, SessionMessage)
                assert answer.session_id
            else:
                assert isinstance(answer, NotLeader)
                assert answer.leader == member(leader.raft.status().raft_id).address


async def test_who_asks_where_nobody_can_win_is_not_kept() -> None:
    """For half a second: it may find a leader elsewhere."""
    async with Wired(1, 2, 3, schema=codec.SCHEMA_VERSION) as wired:
        for raft_id in (1, 2):
            await wired.stop(raft_id)
        alone = wired.managers[3]
        await wired.until(lambda: alone.leader() is None)
        with pytest.raises(NotLeader) as told:
            await ask(alone)
        assert told.value.leader == ""
