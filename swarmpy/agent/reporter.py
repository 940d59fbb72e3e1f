"""Statuses on their way to a manager: the latest of each task, until a manager has confirmed it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import attrs
import structlog

from swarmpy.agent.backoff import Backoff
from swarmpy.errors import ConnectionFailed, NotLeader, Unavailable
from swarmpy.model.assignments import MAX_ERR_CHARS, MAX_MESSAGE_CHARS, TaskStatusUpdate
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.ports import Random

log = structlog.get_logger(__name__)

MAX_BATCH = 128
"""Most statuses of one report."""
MAX_BATCH_BYTES = 192 * 1024
"""What they may weigh, estimated from above: a manager takes no larger frames of a worker."""
_STATUS_BYTES, _PORT_BYTES, _CHAR_BYTES = 384, 192, 4
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0
"""Seconds between attempts while the manager cannot record statuses."""

Send = Callable[[tuple[TaskStatusUpdate, ...]], Awaitable[None]]


class Reporter:
    """Coalesces statuses. It outlives sessions: what one manager has not confirmed goes to the next."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._pending: dict[TaskId, TaskStatus] = {}
        self._highest: dict[TaskId, TaskState] = {}
        self._filled = asyncio.Event()

    @property
    def pending(self) -> int:
        """How many tasks have a status that no manager has confirmed."""
        return len(self._pending)

    def put(self, task_id: TaskId, status: TaskStatus) -> None:
        """``status`` is what is observed of the task now. A state below one that was put before is not sent."""
        if status.state < self._highest.get(task_id, status.state):
            return
        self._highest[task_id] = status.state
        if len(status.err) > MAX_ERR_CHARS or len(status.message) > MAX_MESSAGE_CHARS:
            # A manager would keep no more of it, and a frame that is too large it would not take at all.
            err, message = _cut(status.err, MAX_ERR_CHARS), _cut(status.message, MAX_MESSAGE_CHARS)
            status = attrs.evolve(status, err=err, message=message)
        self._pending[task_id] = status
        self._filled.set()

    def forget(self, task_id: TaskId) -> None:
        """Nobody asks about the task any more."""
        self._pending.pop(task_id, None)
        self._highest.pop(task_id, None)

    async def run(self, send: Send) -> None:
        """Send what is pending with ``send``, which returns when it is recorded; for as long as one session lives.

        A manager that can record nothing for now (no quorum, no answer) is asked again with a back-off. Raises what
        else ``send`` raises; what it was to send stays pending.
        """
        backoff = Backoff(self._random, first=RETRY_FIRST_S, most=RETRY_MOST_S)
        while True:
            while not self._pending:
                self._filled.clear()
                await self._filled.wait()
            batch = list(_first(self._pending.items()))
            try:
                await send(tuple(TaskStatusUpdate(task_id=i, status=s) for i, s in batch))
            except (NotLeader, ConnectionFailed):
                raise
            except Unavailable as error:
                log.debug("report_not_recorded", count=len(batch), reason=str(error))
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            for task_id, status in batch:
                if self._pending.get(task_id) is status:
                    del self._pending[task_id]


def _first(pending: Iterable[tuple[TaskId, TaskStatus]]) -> Iterator[tuple[TaskId, TaskStatus]]:
    """As many as one report holds, and one at least."""
    weight = 0
    for number, (task_id, status) in enumerate(pending):
        weight += _STATUS_BYTES + _PORT_BYTES * len(status.ports)
        weight += _CHAR_BYTES * (len(status.message) + len(status.err))
        if number == MAX_BATCH or (number and weight > MAX_BATCH_BYTES):
            return
        yield task_id, status


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
