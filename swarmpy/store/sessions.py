"""The answers of applied requests, by client session: the part of the state that makes a repeated request harmless.

After Ongaro's thesis, chapter 6.3. Every manager holds the same table, as it changes only with applied entries and its
time is that of their leaders: the latest they carry, never a local clock. Each leader counts on from there by a clock
that only goes forward, so leaders whose clocks differ by hours forget nothing early. Nothing is written to forget
something, so in a quiet cluster everything stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import attrs

from swarmpy.errors import FailedPrecondition
from swarmpy.model.requests import Answered, RequestId

SESSION_EXPIRY_NS = 10 * 60 * 1_000_000_000
"""A session is forgotten so long after its last applied request: a request must be repeated within that time. A later
repetition is a new request."""
MAX_ANSWERS = 50_000
"""Answers kept, of all sessions together; the oldest go first. 80 writes a second for ten minutes."""

_Key = tuple[str, int]
# Session, sequence, what was asked for in short, and the answer.
_Known = tuple[str, int, bytes, bytes]
# Session, when it was last used, and below which of its requests nothing need be remembered.
_Use = tuple[str, int, int]


@attrs.frozen(kw_only=True)
class SessionsCopy:
    """A table as it was at one moment, to be encoded later."""

    uses: list[_Use]
    answers: list[_Known]


class Sessions:
    """The table. A session that is in it has at least one answer."""

    def __init__(self) -> None:
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._answers: OrderedDict[_Key, _Known] = OrderedDict()
        self._open: dict[str, dict[int, None]] = {}

    def count(self) -> tuple[int, int]:
        """How many sessions and answers there are."""
        return len(self._uses), len(self._answers)

    def answer(self, request: RequestId) -> bytes | None:
        """The remembered answer, or None: it was never applied, or so long ago that it is forgotten.

        Raises FailedPrecondition for a request whose answer the client said it had, and for another request under the
        same id.
        """
        known = self._answers.get(request.key)
        if known is None:
            use = self._uses.get(request.session)
            if use is not None and request.sequence < use[2]:
                raise forgotten(request)
            return None
        _, _, digest, answer = known
        check_same(request, digest)
        return answer

    def remembered(self, request: RequestId) -> bytes | None:
        """What is remembered under its id."""
        known = self._answers.get(request.key)
        return None if known is None else known[3]

    def record(self, answered: Answered) -> bool:
        """Remember the answer of a request that is being applied; False when it was applied before."""
        request = answered.request
        _, _, below = self._uses.get(request.session, ("", 0, 1))
        if request.key in self._answers or request.sequence < below:
            return False
        now_ns = max(answered.time_ns, self.now_ns)
        self._answers[request.key] = (*request.key, request.digest, answered.answer)
        self._open.setdefault(request.session, {})[request.sequence] = None
        # Taken out and put in again, never moved: see copy.
        self._uses.pop(request.session, None)
        self._uses[request.session] = (request.session, now_ns, max(below, request.answered_below))
        if request.answered_below > below:
            for sequence in [n for n in self._open[request.session] if n < request.answered_below]:
                self._forget(request.session, sequence)
        self._expire(now_ns)
        return True

    @property
    def now_ns(self) -> int:
        """The time of the table; 0 while it is empty."""
        return next(reversed(self._uses.values()))[1] if self._uses else 0

    def copy(self) -> SessionsCopy:
        """The table as it is now."""
        # The values of the plain dict below: in the same order as long as nothing is moved, and fifty times as fast,
        # which is 10 ms of the loop with as many answers as are kept.
        return SessionsCopy(uses=list(dict.values(self._uses)), answers=list(dict.values(self._answers)))

    def fill(self, *, uses: Iterable[Any] = (), answers: Iterable[Any] = ()) -> None:
        """Put rows of a snapshot back, in their order: the table is then as it was."""
        for session, last_used_ns, answered_below in uses:
            self._uses[session] = (session, last_used_ns, answered_below)
        for session, sequence, digest, answer in answers:
            self._answers[session, sequence] = (session, sequence, digest, answer)
            self._open.setdefault(session, {})[sequence] = None

    def _expire(self, now_ns: int) -> None:
        while len(self._answers) > MAX_ANSWERS:
            self._forget(*next(iter(self._answers)))
        # In the order of their last use, as the time of the table never goes back; the last one was used just now.
        while (oldest := next(iter(self._uses.values())))[1] + SESSION_EXPIRY_NS <= now_ns:
            for sequence in list(self._open[oldest[0]]):
                self._forget(oldest[0], sequence)

    def _forget(self, session: str, sequence: int) -> None:
        del self._answers[session, sequence]
        left = self._open[session]
        del left[sequence]
        if not left:
            del self._open[session]
            del self._uses[session]


def check_same(request: RequestId, digest: bytes) -> None:
    """Raises FailedPrecondition unless ``request`` asks for what its id was first used for."""
    if request.digest != digest:
        raise FailedPrecondition(
            f"request {request.sequence} of session {request.session} was something else before: use a new key for "
            "a new request"
        )


def forgotten(request: RequestId) -> FailedPrecondition:
    """What a request is refused with whose answer the client said it had."""
    return FailedPrecondition(
        f"request {request.sequence} of session {request.session} was answered already, and its answer is forgotten, "
        "as its client had it"
    )
