"""Who waits for a read: asked for together, answered by the leader with an index, done when that is applied.

Every wait ends.
"""

from __future__ import annotations

import asyncio
import itertools

import structlog

from swarmpy.errors import DeadlineExceeded, SwarmpyError, Unavailable
from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import NO_ONE
from swarmpy.raft.proposals import fail

log = structlog.get_logger(__name__)

MAX_OPEN_READS = 100_000
"""Reads of this member that may wait together; they are small, and those of one moment share one request."""


class Reads:
    """The open reads of one member."""

    def __init__(self, first_number: int) -> None:
        self._number = first_number
        self._open = 0
        self._new: list[asyncio.Future[int]] = []
        self._asked: dict[int, list[asyncio.Future[int]]] = {}
        self._known: list[tuple[int, list[asyncio.Future[int]]]] = []

    def add(self) -> asyncio.Future[int]:
        """Open one; it is asked for with the next :meth:`next_request`. Raises Unavailable when too many are open."""
        if self._open >= MAX_OPEN_READS:
            raise Unavailable(f"{self._open} reads wait on this manager already: ask again later")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._closed)
        self._open += 1
        self._new.append(future)
        return future

    async def wait(self, timeout: float) -> int:
        """Open one and wait for it; returns the index. Raises DeadlineExceeded, Unavailable."""
        future = self.add()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise DeadlineExceeded(f"no quorum of managers confirmed the read within {timeout:g} s") from None

    def _closed(self, _future: asyncio.Future[int]) -> None:
        self._open -= 1

    def next_request(self) -> int | None:
        """The number under which all new reads are asked for together; None when there are none."""
        self._new = _open(self._new)
        if not self._new:
            return None
        self._number += 1
        self._asked[self._number], self._new = self._new, []
        return self._number

    def ask_new(self, core: RaftCore) -> None:
        """Ask for what was opened since the last time. Without a leader reads gather: the next is asked once."""
        number = self.next_request() if core.leader != NO_ONE else None
        if number is not None:
            _ask(core, number)

    def ask_again(self, core: RaftCore) -> None:
        """Ask for everything that is unanswered, as after a change of the leader."""
        for number in self.unanswered():
            _ask(core, number)

    def unanswered(self) -> tuple[int, ...]:
        """Numbers to ask for again, for a request or its answer may be lost. Reads that gave up are forgotten."""
        self._new = _open(self._new)
        self._asked = {n: left for n, waiters in self._asked.items() if (left := _open(waiters))}
        self._known = [(index, left) for index, waiters in self._known if (left := _open(waiters))]
        return tuple(self._asked)

    def answered(self, number: int, index: int) -> None:
        """The leader's answer."""
        waiters = self._asked.pop(number, None)
        if waiters is not None:
            self._known.append((index, waiters))

    def applied(self, index: int) -> None:
        """Everything up to ``index`` is applied."""
        if not self._known:
            return
        for wanted, waiters in self._known:
            if wanted <= index:
                for future in waiters:
                    if not future.done():
                        future.set_result(wanted)
        self._known = [(wanted, waiters) for wanted, waiters in self._known if wanted > index]

    def close(self, error: SwarmpyError) -> None:
        """Nobody will answer any more."""
        open_reads = [self._new, *self._asked.values(), *(waiters for _, waiters in self._known)]
        for future in itertools.chain.from_iterable(open_reads):
            fail(future, error)
        self._new, self._asked, self._known = [], {}, []


def _open(futures: list[asyncio.Future[int]]) -> list[asyncio.Future[int]]:
    return [future for future in futures if not future.done()]


def _ask(core: RaftCore, number: int) -> None:
    try:
        core.read_index(number)
    except Unavailable:
        log.debug("raft_read_waits", number=number)  # asked again with the ticks
