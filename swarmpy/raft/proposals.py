"""Who waits for what: proposals until they are applied, reads until their index is. Every wait ends."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TypeVar

import attrs

from swarmpy.errors import OutcomeUnknown, SwarmpyError

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Proposal:
    """A proposed entry. ``done`` resolves when it is applied on this node.

    It fails with OutcomeUnknown when this node stops leading before it knows: the entry may still be committed by the
    next leader.
    """

    index: int
    term: int
    done: asyncio.Future[None]


def _fail(future: asyncio.Future[T], error: SwarmpyError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # the one who waited may have gone; that is no "exception was never retrieved"


class Proposals:
    """The open proposals of a leader, in the order of the log."""

    def __init__(self) -> None:
        self._open: dict[int, Proposal] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, index: int, term: int) -> Proposal:
        """Open one."""
        proposal = Proposal(index=index, term=term, done=asyncio.get_running_loop().create_future())
        self._open[index] = proposal
        return proposal

    def applied(self, index: int, term: int) -> None:
        """The entry ``index`` of ``term`` is applied."""
        proposal = self._open.pop(index, None)
        if proposal is None or proposal.done.done():
            return
        if proposal.term == term:
            proposal.done.set_result(None)
        else:
            _fail(proposal.done, _lost())

    def fail_unless(self, keep: Callable[[Proposal], bool]) -> None:
        """Give all up but those of which ``keep`` says that they will be applied."""
        for proposal in [p for p in self._open.values() if not keep(p)]:
            del self._open[proposal.index]
            _fail(proposal.done, _lost())


def _lost() -> OutcomeUnknown:
    return OutcomeUnknown(
        "this manager stopped leading before the change was confirmed: it may or may not have happened; look and retry"
    )


class Reads:
    """Reads of this member: asked for together, answered by the leader with an index, done when that is applied."""

    def __init__(self, first_number: int) -> None:
        self._number = first_number
        self._new: list[asyncio.Future[int]] = []
        self._asked: dict[int, list[asyncio.Future[int]]] = {}
        self._known: list[tuple[int, list[asyncio.Future[int]]]] = []

    def add(self) -> asyncio.Future[int]:
        """Open one; it is asked for with the next :meth:`next_request`."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._new.append(future)
        return future

    def next_request(self) -> int | None:
        """The number under which all new reads are asked for together; None when there are none."""
        if not self._new:
            return None
        self._number += 1
        self._asked[self._number], self._new = self._new, []
        return self._number

    def unanswered(self) -> tuple[int, ...]:
        """Numbers to ask for again, for a request or its answer may be lost. Reads that gave up are forgotten."""
        self._asked = {n: waiters for n, waiters in self._asked.items() if not all(f.done() for f in waiters)}
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
            _fail(future, error)
        self._new, self._asked, self._known = [], {}, []
