"""Could one object that does one thing at a time have given these answers? Histories of clients are checked for that.

Just-in-time linearization after Lowe ("Testing for linearizability", 2016) on Wing and Gong's search: events are taken
in their order, and every *configuration* is kept that explains all answers so far: a state, and which of the operations
under way have taken effect already. An answer that no configuration explains ends the shortest history that is wrong.

An operation of unknown outcome stays under way for ever. Of two configurations that differ only in those, the one that
needs fewer of them is enough, and of two equal ones the elder is taken first: that keeps their number small.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

MAX_TRIES = 200_000
"""Configurations looked at for one key; more means so many operations at once that the search would take for ever."""
REMEMBERED = 8
"""Finished operations that an explanation shows before the wrong one."""


class Unexplored(Exception):
    """The search was given up: too many operations were under way at once."""


class Unseen(enum.Enum):
    """Stands for an answer that nobody has seen."""

    ANSWER = "?"


ANY: Final = Unseen.ANSWER


class Kind(enum.StrEnum):
    """What an operation does with the value of its key; None is the value of a key that was never written."""

    READ = "read"
    """Answers the value."""
    WRITE = "write"
    """Sets ``argument``."""
    CAS = "cas"
    """``argument`` is (expected, new); answers whether the value was the expected one and is the new one now."""
    INCREMENT = "increment"
    """Adds ``argument``; answers the sum."""


class Outcome(enum.Enum):
    """What the client knows of its operation."""

    DONE = "done"
    REFUSED = "refused"
    """It took no effect and never will."""
    UNKNOWN = "unknown"
    """It takes effect at any later time, or never."""


@attrs.define(kw_only=True, eq=False)
class Operation:
    """One, as its client saw it. No two moments of a history are equal, or invocations come first."""

    client: str
    key: str
    kind: Kind
    argument: Any = None
    invoked: float
    returned: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    result: Any = ANY

    def __str__(self) -> str:
        end = f"{self.returned:.4f}" if self.outcome is Outcome.DONE else self.outcome.value
        argument = "" if self.argument is None else f" {self.argument!r}"
        answer = "?" if self.result is ANY else repr(self.result)
        return f"{self.invoked:.4f}..{end}  {self.client}: {self.kind} {self.key}{argument} -> {answer}"


_WRONG: Final = object()


def after(state: Any, operation: Operation) -> Any:
    """The value after ``operation``; ``_WRONG`` when ``state`` does not explain its answer."""
    result, argument = operation.result, operation.argument
    match operation.kind:
        case Kind.READ:
            return state if result is ANY or result == state else _WRONG
        case Kind.WRITE:
            return argument
        case Kind.CAS:
            expected, new = argument
            fits = state == expected
            if result is not ANY and result != fits:
                return _WRONG
            return new if fits else state
        case Kind.INCREMENT:
            total = (state or 0) + argument
            return total if result is ANY or result == total else _WRONG


def _aim(operation: Operation) -> Any:
    return operation.argument[1] if operation.kind is Kind.CAS else operation.argument


Config = tuple[Any, int, int]
"""The value; the bits of known operations under way that took effect; those of unknown ones."""


class _Frontier:
    """Configurations, without those of which a better one is there."""

    def __init__(self) -> None:
        self._unknown: dict[tuple[Any, int], list[int]] = {}

    def add(self, config: Config) -> bool:
        """False when one is there that needs no other unknown operations than this."""
        value, known, unknown = config
        there = self._unknown.setdefault((value, known), [])
        for mask in there:
            if mask & unknown == mask:
                return False
        there[:] = [mask for mask in there if mask & unknown != unknown]
        there.append(unknown)
        return True

    def __iter__(self) -> Iterator[Config]:
        for (value, known), masks in self._unknown.items():
            for mask in masks:
                yield value, known, mask


@attrs.define(eq=False)
class _Pending:
    operation: Operation
    bit: int
    elder: int = 0
    """Of an unknown one: the bit of the last equal one before it."""


class KeyChecker:
    """The history of one key, in the order of its events."""

    def __init__(self, initial: Any = None) -> None:
        self._configs: list[Config] = [(initial, 0, 0)]
        self._known: dict[int, _Pending] = {}
        self._unknown: list[_Pending] = []
        self._bits = itertools.count()
        self._free: list[int] = []
        self._places: dict[Operation, int] = {}
        self._youngest: dict[tuple[Kind, Any], int] = {}
        self._finished: deque[Operation] = deque(maxlen=REMEMBERED)
        self._tries = 0

    def invoked(self, operation: Operation) -> None:
        """It begins."""
        if operation.outcome is Outcome.UNKNOWN and operation.kind is Kind.READ:
            return
        if operation.outcome is Outcome.UNKNOWN:
            bit = 1 << next(self._bits)
            alike = (operation.kind, operation.argument)
            self._unknown.append(_Pending(operation, bit, self._youngest.get(alike, 0)))
            self._youngest[alike] = bit
            return
        bit = self._free.pop() if self._free else 1 << len(self._known)
        self._known[bit] = _Pending(operation, bit)
        self._places[operation] = bit
        self._configs = [self._settled(config) for config in self._configs]

    def returned(self, operation: Operation) -> str | None:
        """Its answer is known. None, or why no order explains it."""
        bit = self._places.pop(operation)
        before = self._configs
        found, todo, seen = _Frontier(), [], _Frontier()
        count = itertools.count()
        useful = self._useful()
        for config in before:
            heapq.heappush(todo, (config[2].bit_count(), next(count), config))
        while todo:
            _, _, config = heapq.heappop(todo)
            value, known, unknown = config
            if known & bit:
                found.add((value, known ^ bit, unknown))
            elif seen.add(config):
                for follower in self._followers(config, useful):
                    heapq.heappush(todo, (follower[2].bit_count(), next(count), follower))
                    self._tries += 1
                if self._tries > MAX_TRIES:
                    under_way = len(self._known) + len(self._unknown)
                    raise Unexplored(f"given up after {MAX_TRIES} steps, with {under_way} operations under way")
        self._configs = list(found)
        if not self._configs:
            return self._explain(operation, before)
        del self._known[bit]
        self._free.append(bit)
        self._finished.append(operation)
        self._forget_used()
        return None

    def _useful(self) -> list[_Pending]:
        """Unknown operations that may explain anything: with a value that one under way was given or expects.

        One whose value the next operation does not look at may as well never have happened.
        """
        asked: set[Any] = set()
        for pending in itertools.chain(self._known.values(), self._unknown):
            operation = pending.operation
            if operation.kind is Kind.READ:
                asked.add(operation.result)
            elif operation.kind is Kind.INCREMENT or operation.result is False:
                return self._unknown  # almost any value will do
            elif operation.kind is Kind.CAS:
                asked.add(operation.argument[0])
        return [
            pending
            for pending in self._unknown
            if pending.operation.kind is Kind.INCREMENT or _aim(pending.operation) in asked
        ]

    def _followers(self, config: Config, useful: list[_Pending]) -> Iterator[Config]:
        value, known, unknown = config
        for bit, pending in self._known.items():
            if not known & bit and (new := after(value, pending.operation)) is not _WRONG:
                yield self._settled((new, known | bit, unknown))
        for pending in useful:
            # Equal ones are used in the order of their beginning: any other order comes to the same.
            if not unknown & pending.bit and pending.elder & unknown == pending.elder:
                new = after(value, pending.operation)
                if new is not _WRONG and new != value:
                    yield self._settled((new, known, unknown | pending.bit))

    def _settled(self, config: Config) -> Config:
        """What changes nothing may happen at once: it is in nobody's way."""
        value, known, unknown = config
        for bit, pending in self._known.items():
            if not known & bit and after(value, pending.operation) == value:
                known |= bit
        return value, known, unknown

    def _forget_used(self) -> None:
        used = -1
        for _, _, unknown in self._configs:
            used &= unknown
        if used:
            self._configs = [(value, known, unknown ^ used) for value, known, unknown in self._configs]
            self._unknown = [pending for pending in self._unknown if not pending.bit & used]
            for pending in self._unknown:
                pending.elder &= ~used
            self._youngest = {alike: bit for alike, bit in self._youngest.items() if not bit & used}

    def _explain(self, wrong: Operation, before: Iterable[Config]) -> str:
        values = sorted({repr(value) for value, _, _ in before})
        under_way = [p.operation for p in self._known.values() if p.operation is not wrong]
        under_way += [p.operation for p in self._unknown]
        lines = [f"no order of the operations on {wrong.key} explains this answer:", f"  {wrong}"]
        lines += [f"the value could be {', '.join(values[:REMEMBERED])}; under way:"]
        lines += [f"  {operation}" for operation in sorted(under_way, key=lambda one: one.invoked)] or ["  nothing"]
        lines += ["finished before:", *(f"  {operation}" for operation in self._finished)]
        return "\n".join(lines)


class HistoryChecker:
    """The histories of many keys, checked bit by bit while they are made."""

    def __init__(self) -> None:
        self._keys: dict[str, KeyChecker] = {}
        self._events: list[tuple[float, bool, int, Operation]] = []
        self._count = itertools.count()

    def add(self, operation: Operation) -> None:
        """An operation whose outcome is settled; it begins after all moments that were checked."""
        if operation.outcome is Outcome.REFUSED:
            return
        heapq.heappush(self._events, (operation.invoked, False, next(self._count), operation))
        if operation.outcome is Outcome.DONE:
            heapq.heappush(self._events, (operation.returned, True, next(self._count), operation))

    def advance(self, until: float = math.inf) -> str | None:
        """Check what happened before ``until``; all that began before is added. None, or what is wrong.

        Raises Unexplored.
        """
        while self._events and self._events[0][0] < until:
            _, is_return, _, operation = heapq.heappop(self._events)
            key = self._keys.setdefault(operation.key, KeyChecker())
            if not is_return:
                key.invoked(operation)
            elif wrong := key.returned(operation):
                return wrong
        return None


def check(history: Iterable[Operation]) -> str | None:
    """None when ``history`` is linearizable, else the shortest beginning that is not. Raises Unexplored."""
    checker = HistoryChecker()
    for operation in history:
        checker.add(operation)
    return checker.advance()
