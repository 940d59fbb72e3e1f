"""Brings a write to the leader, whoever that is, and waits out a change of leadership.

Every write has a key by the time it comes here, so it may be tried again whatever became of the last try: a leader that
has done it already says what it answered then. The time between the death of a leader and the first write through
another manager is spent here: hence the short poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from swarmpy.api.backend import ManagerBackend
from swarmpy.api.request import KEY_HEADER, ApiRequest, ApiResponse
from swarmpy.errors import (
    BadCertificate,
    ConnectionFailed,
    NoQuorum,
    NotLeader,
    NotManager,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from swarmpy.raft.status import CUT_OFF

log = structlog.get_logger(__name__)

METHOD = "api.request"
WRITE_TIMEOUT_S = 10.0
"""How long a write may wait for a leader, and for its answer."""
POLL_S = 0.025
"""A leader's death shows as a refused connection long before the followers elect: there is no event to wait for."""

LocalWrite = Callable[[ApiRequest], Awaitable[ApiResponse]]


def may_be_repeated(error: Unavailable) -> bool:
    """True when another try may end otherwise. A plain Unavailable is a leader with too much in flight."""
    return isinstance(error, NotLeader | ConnectionFailed | NoQuorum | OutcomeUnknown) or type(error) is Unavailable


async def write(
    manager: ManagerBackend, request: ApiRequest, local: LocalWrite, timeout: float = WRITE_TIMEOUT_S
) -> ApiResponse:
    """Answer ``request``, which has a key, on the leader: by ``local`` when that is this manager, else by forwarding.

    Raises NoQuorum when no leader took it in ``timeout`` seconds, and OutcomeUnknown when one did but none answered;
    both at once where this manager is cut off. NotManager: the leader takes nothing from this node.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    lost: OutcomeUnknown | None = None
    while True:
        try:
            if manager.is_leader:
                return await local(request)
            if manager.leader() is not None:
                return await _forward(manager, request, max(deadline - loop.time(), POLL_S))
        except Unavailable as error:
            if not may_be_repeated(error):
                if lost is None:
                    raise
                raise _gave_up(request, str(error), lost) from error
            lost = error if isinstance(error, OutcomeUnknown) else lost
            log.debug("write_repeated", path=request.path, reason=str(error))
        if manager.raft_status().cut_off:
            raise _gave_up(request, CUT_OFF, lost)
        if loop.time() >= deadline:
            raise _gave_up(request, f"no leader took it within {timeout:g} s", lost)
        await asyncio.sleep(POLL_S)


def _gave_up(request: ApiRequest, why: str, lost: OutcomeUnknown | None) -> Unavailable:
    if lost is None:
        return NoQuorum(f"the write was not done: {why}. Make sure more than half of the managers are online")
    return OutcomeUnknown(
        f"the write may or may not have happened ({lost}), and now {why}: ask again with "
        f"{KEY_HEADER} {request.headers[KEY_HEADER.lower()]}, which does it once only"
    )


async def read_barrier(manager: ManagerBackend, timeout: float = WRITE_TIMEOUT_S) -> None:
    """Wait until this manager's state is current, over a change of leadership if need be.

    Raises NoQuorum when that takes longer than ``timeout`` seconds, or this manager is cut off.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        try:
            return await manager.read_barrier(max(deadline - loop.time(), POLL_S))
        except Unavailable as error:
            if manager.raft_status().cut_off:
                raise
            if loop.time() >= deadline:
                raise NoQuorum(
                    f"no current view of the cluster within {timeout:g} s: {error}. "
                    "Make sure more than half of the managers are online"
                ) from error
        await asyncio.sleep(POLL_S)


async def _forward(manager: ManagerBackend, request: ApiRequest, timeout: float) -> ApiResponse:
    """One try. Gives up as soon as there is another leader than the one it was sent to: that one knows better."""
    sent_to = manager.leader()
    call = asyncio.ensure_future(manager.call_leader(METHOD, request.to_plain(), timeout))
    try:
        while not call.done():
            await asyncio.wait({call}, timeout=POLL_S)
            if not call.done() and manager.leader() not in (None, sent_to):
                raise OutcomeUnknown("the leader changed before it answered")
        return ApiResponse.from_plain(call.result())
    except (PermissionDenied, BadCertificate) as error:
        # It is said of this manager: what is wrong with the client's request is part of an answer.
        raise NotManager(f"the write was not done: {error}. Ask another manager") from error
    finally:
        await _drop(call)


async def _drop(call: asyncio.Future[Any]) -> None:
    """End a call that nobody waits for any more; what it still says is of no use."""
    if not call.done():
        call.cancel()
        await asyncio.wait({call})
        if not call.cancelled():
            call.exception()
