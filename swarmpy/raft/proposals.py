"""Who waits for a proposal to be applied. Every wait ends."""

from __future__ import annotations

import asyncio
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


def fail(future: asyncio.Future[T], error: SwarmpyError) -> None:
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
            fail(proposal.done, _lost())

    def fail_unless(self, keep: Callable[[Proposal], bool]) -> None:
        """Give all up but those of which ``keep`` says that they will be applied."""
        for proposal in [p for p in self._open.values() if not keep(p)]:
            del self._open[proposal.index]
            fail(proposal.done, _lost())


def _lost() -> OutcomeUnknown:
    return OutcomeUnknown(
        "this manager stopped leading before the change was confirmed: it may or may not have happened; look and retry"
    )
