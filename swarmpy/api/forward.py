"""Brings a write to the leader, whoever that is, and waits out a change of leadership.

A write is tried again only as long as surely nothing was done; when an answer was lost, the client is told so. The
time between the death of a leader and the first write through another manager is spent here: hence the short poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from swarmpy.api.backend import ManagerBackend
from swarmpy.api.request import ApiRequest, ApiResponse
from swarmpy.errors import ConnectionFailed, NoQuorum, NotLeader, OutcomeUnknown, Unavailable

log = structlog.get_logger(__name__)

METHOD = "api.request"
WRITE_TIMEOUT_S = 10.0
"""How long a write may wait for a leader, and for its answer."""
POLL_S = 0.025
"""A leader's death shows as a refused connection long before the followers elect: there is no event to wait for."""
GRACE_S = 1.0
"""How long the answer of a leader is waited for once another one is known."""

LocalWrite = Callable[[ApiRequest], Awaitable[ApiResponse]]


def nothing_was_done(error: Unavailable) -> bool:
    """True when the same write may be tried again. A plain Unavailable is a leader with too much in flight."""
    return isinstance(error, NotLeader | ConnectionFailed | NoQuorum) or type(error) is Unavailable


async def write(
    manager: ManagerBackend, request: ApiRequest, local: LocalWrite, timeout: float = WRITE_TIMEOUT_S
) -> ApiResponse:
    """Answer ``request`` on the leader: by ``local`` when that is this manager, else by forwarding.

    Raises OutcomeUnknown when the write may or may not have happened, NoQuorum when no leader took it in ``timeout``
    seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        try:
            if manager.is_leader:
                return await local(request)
            if manager.leader() is not None:
                return await _forward(manager, request, max(deadline - loop.time(), POLL_S))
        except Unavailable as error:
            if not nothing_was_done(error):
                raise
            log.debug("write_retried", path=request.path, reason=str(error))
        if loop.time() >= deadline:
            raise NoQuorum(
                f"no leader took the write within {timeout:g} s: it was not done. "
                "Make sure more than half of the managers are online"
            )
        await asyncio.sleep(POLL_S)


async def read_barrier(manager: ManagerBackend, timeout: float = WRITE_TIMEOUT_S) -> None:
    """Wait until this manager's state is current, over a change of leadership if need be.

    Raises NoQuorum when that takes longer than ``timeout`` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        try:
            return await manager.read_barrier(max(deadline - loop.time(), POLL_S))
        except Unavailable as error:
            if loop.time() >= deadline:
                raise NoQuorum(
                    f"no current view of the cluster within {timeout:g} s: {error}. "
                    "Make sure more than half of the managers are online"
                ) from error
        await asyncio.sleep(POLL_S)


async def _forward(manager: ManagerBackend, request: ApiRequest, timeout: float) -> ApiResponse:
    """One try. Gives up early when the leader it was sent to is no longer the leader and stays silent."""
    sent_to = manager.leader()
    loop = asyncio.get_running_loop()
    call = asyncio.ensure_future(manager.call_leader(METHOD, request.to_plain(), timeout))
    deposed_at: float | None = None
    try:
        while not call.done():
            await asyncio.wait({call}, timeout=POLL_S)
            leader = manager.leader()
            if leader is None or leader == sent_to:
                deposed_at = None
            elif deposed_at is None:
                deposed_at = loop.time()
            elif loop.time() - deposed_at > GRACE_S:
                break
        if not call.done():
            raise OutcomeUnknown(
                "the leader changed before it answered: the write may or may not have happened; "
                "look before trying again"
            )
        return ApiResponse.from_plain(call.result())
    finally:
        await _drop(call)


async def _drop(call: asyncio.Future[Any]) -> None:
    """End a call that nobody waits for any more; what it still says is of no use."""
    if not call.done():
        call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            call.exception()
