"""Level placement: each next task goes where the water stands lowest.

The nodes of a group form a tree: one level of branches for each spread preference, nodes at the leaves. The order at
the leaves is swarmkit's (``manager/scheduler/scheduler.go``, nodeLess): nodes where the service kept failing last, then
fewest tasks of the service, then fewest tasks at all.

The nodes of a leaf are kept in buckets by their number of tasks of the service. Who gets a task goes on to the next
bucket, so a task costs the same however many nodes there are. Branches are a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter

import attrs

from swarmpy.control.constraints import node_value
from swarmpy.control.loads import NodeLoad


@attrs.define(kw_only=True, eq=False)
class Candidate:
    """A node that can take tasks of the group."""

    load: NodeLoad
    room: int
    """How many more it can take."""
    of_service: int = 0
    """How many tasks of the service it has."""
    failures: int = 0
    """Recent failures of the group there, when there were too many; otherwise 0."""


Populated = Sequence[tuple[NodeLoad, int]]
"""Nodes with tasks of the service, and how many."""

_TOTAL = attrgetter("load.total")


class Tree:
    """The candidates for tasks that want the same. They are added one by one, as there may be a hundred thousand."""

    def __init__(self, spread: Sequence[str]) -> None:
        self._spread = spread
        self._branches: dict[str, Tree] = {}
        self._tiers: dict[int, dict[int, list[Candidate]]] = {}
        """Those that no preference tells apart: by failures, and then by tasks of the service."""

    def add(self, candidate: Candidate) -> None:
        """Another candidate. One whose room becomes 0 before its turn is passed over."""
        if not self._spread:
            buckets = self._tiers.get(candidate.failures)
            if buckets is None:
                buckets = self._tiers[candidate.failures] = {}
            bucket = buckets.get(candidate.of_service)
            if bucket is None:
                buckets[candidate.of_service] = [candidate]
            else:
                bucket.append(candidate)
            return
        value = _value(candidate.load, self._spread[0])
        branch = self._branches.get(value)
        if branch is None:
            branch = self._branches[value] = Tree(self._spread[1:])
        branch.add(candidate)

    def fill(self, populated: Populated) -> Iterator[Candidate]:
        """The node for each next task, until there is no room. Whoever takes one counts the task there before the next.

        ``populated`` may be nodes that are no candidates: tasks on full nodes weigh on their branch as well.
        """
        if not self._spread:
            return chain.from_iterable(_fill_levels(self._tiers[failures]) for failures in sorted(self._tiers))
        weights: dict[str, list[tuple[NodeLoad, int]]] = {}
        for load, count in populated:
            weights.setdefault(_value(load, self._spread[0]), []).append((load, count))
        branches = []
        for value in sorted(self._branches):
            within = weights.get(value, [])
            branches.append((sum(count for _, count in within), self._branches[value].fill(within)))
        return _fill_fork(branches)


def _fill_levels(buckets: dict[int, list[Candidate]]) -> Iterator[Candidate]:
    while buckets:
        level = min(buckets)
        # Two sorted runs at most, once it has been round: that costs little more than a look at each.
        bucket = sorted(buckets.pop(level), key=_TOTAL)
        left = []
        for candidate in bucket:
            if candidate.room <= 0:
                continue
            candidate.room -= 1
            if candidate.room > 0:
                left.append(candidate)
            yield candidate
        if left:
            buckets[level + 1] = left + buckets.get(level + 1, [])


def _fill_fork(branches: Sequence[tuple[int, Iterator[Candidate]]]) -> Iterator[Candidate]:
    """Branches of one preference: the next task goes to the one with fewest tasks of the service."""
    heap = [(of_service, order, branch) for order, (of_service, branch) in enumerate(branches)]
    heapq.heapify(heap)
    while heap:
        of_service, order, branch = heap[0]
        candidate = next(branch, None)
        if candidate is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (of_service + 1, order, branch))
            yield candidate


def _value(load: NodeLoad, key: str) -> str:
    return "" if load.node is None else node_value(load.node, key) or ""
