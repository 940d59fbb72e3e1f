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


def fill(candidates: Sequence[Candidate], spread: Sequence[str], populated: Populated) -> Iterator[Candidate]:
    """The node for each next task, until there is no room. Whoever takes one counts the task there before the next.

    ``populated`` may be nodes that are no candidates: tasks on full nodes weigh on their branch as well.
    """
    if not spread:
        return _fill_leaf(candidates)
    key, rest = spread[0], spread[1:]
    inside: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        inside.setdefault(_value(candidate.load, key), []).append(candidate)
    weights: dict[str, list[tuple[NodeLoad, int]]] = {}
    for load, count in populated:
        weights.setdefault(_value(load, key), []).append((load, count))
    branches = []
    for value in sorted(inside):
        within = weights.get(value, [])
        branches.append((sum(count for _, count in within), fill(inside[value], rest, within)))
    return _fill_fork(branches)


def _fill_leaf(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Nodes that no preference tells apart."""
    tiers: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        tiers.setdefault(candidate.failures, []).append(candidate)
    for failures in sorted(tiers):
        yield from _fill_levels(tiers[failures])


def _fill_levels(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    buckets: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        buckets.setdefault(candidate.of_service, []).append(candidate)
    while buckets:
        level = min(buckets)
        # Two sorted runs at most, once it has been round: that costs little more than a look at each.
        bucket = sorted(buckets.pop(level), key=_TOTAL)
        left = []
        for candidate in bucket:
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
