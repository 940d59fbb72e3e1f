"""Reading logs through any manager: it asks the leader for more, again and again, also over a change of leader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import attrs

from swarmpy.errors import NotFound, SwarmpyError, Unavailable
from swarmpy.model import codec
from swarmpy.model.logs import LogLine, LogPart, LogParts, LogQuestion, unpack_lines

CALL_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
LEADER_WAIT_S = 15.0
"""How long the reader of a log waits for a leader: longer than any election."""
POLL_S = 0.1

CallLeader = Callable[[str, Any, float], Awaitable[Any]]


class LogReader:
    """One reader. :meth:`open` it, then :meth:`parts` once."""

    def __init__(self, call_leader: CallLeader, question: LogQuestion) -> None:
        self._call = call_leader
        self._question = question
        self._id = ""
        self._after: dict[str, int] = {}

    async def open(self) -> None:
        """Begin. Raises NotFound, and Unavailable when no leader answers or too many logs are read."""
        question = attrs.evolve(self._question, after=self._after)
        self._id = str(await self._call("logs.open", codec.to_plain(question), CALL_TIMEOUT_S))

    async def parts(self) -> AsyncGenerator[tuple[LogPart, list[LogLine]], None]:
        """What comes, until there is no more. Raises Unavailable when no leader has answered for LEADER_WAIT_S."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + LEADER_WAIT_S
        try:
            while True:
                try:
                    if not self._id:
                        await self.open()
                    answer = codec.from_plain(LogParts, await self._call("logs.more", self._id, CALL_TIMEOUT_S))
                except NotFound:
                    if not self._id:
                        return  # the service, or the task, is gone meanwhile
                    self._id = ""
                    continue
                except Unavailable:
                    # What was on its way may be lost: begin anew behind what came.
                    await self._close()
                    if loop.time() > patience:
                        raise
                    await asyncio.sleep(POLL_S)
                    continue
                patience = loop.time() + LEADER_WAIT_S
                for part in answer.parts:
                    lines = list(unpack_lines(part.lines))
                    if lines:
                        self._after[part.task_id] = max(line.timestamp_ns for line in lines)
                    yield part, lines
                    patience = loop.time() + LEADER_WAIT_S
                if answer.ended:
                    self._id = ""
                    return
        finally:
            await self._close()

    async def _close(self) -> None:
        if self._id:
            subscription, self._id = self._id, ""
            with contextlib.suppress(SwarmpyError):
                await self._call("logs.close", subscription, CLOSE_TIMEOUT_S)
