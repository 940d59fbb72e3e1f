"""Level placement: each next task goes where the water stands lowest.

The nodes of a group form a tree: one level of branches for each spread preference, nodes at the leaves. Every level is
a heap, so placing costs the number of nodes once and then a logarithm of it for each task. The order at the leaves is
swarmkit's (``manager/scheduler/scheduler.go``, nodeLess): nodes where the service kept failing last, then fewest tasks
of the service, then fewest tasks at all.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Protocol

import attrs

from swarmpy.control.constraints import node_value
from swarmpy.control.filters import NodeLoad
from swarmpy.model.ids import ServiceId


@attrs.define(kw_only=True)
class Candidate:
    """A node that can take tasks of the group."""

    load: NodeLoad
    room: int
    """How many more it can take."""
    failures: int = 0
    """Recent failures of the group there, when there were too many; otherwise 0."""


class Branch(Protocol):
    """A part of the tree."""

    def take(self) -> Candidate | None:
        """The node for the next task, which then counts there; None when the branch is full."""


class _Leaves:
    """Nodes that no preference tells apart."""

    def __init__(self, service_id: ServiceId, candidates: Sequence[Candidate]) -> None:
        self._heap = [
            (c.failures, c.load.tasks_of(service_id), c.load.total, order, c) for order, c in enumerate(candidates)
        ]
        heapq.heapify(self._heap)

    def take(self) -> Candidate | None:
        if not self._heap:
            return None
        failures, of_service, total, order, candidate = self._heap[0]
        candidate.room -= 1
        if candidate.room > 0:
            heapq.heapreplace(self._heap, (failures, of_service + 1, total + 1, order, candidate))
        else:
            heapq.heappop(self._heap)
        return candidate


class _Fork:
    """Branches of one preference: the next task goes to the one with fewest tasks of the service."""

    def __init__(self, branches: Sequence[tuple[int, Branch]]) -> None:
        self._heap = [(of_service, order, branch) for order, (of_service, branch) in enumerate(branches)]
        heapq.heapify(self._heap)

    def take(self) -> Candidate | None:
        while self._heap:
            of_service, order, branch = self._heap[0]
            candidate = branch.take()
            if candidate is not None:
                heapq.heapreplace(self._heap, (of_service + 1, order, branch))
                return candidate
            heapq.heappop(self._heap)
        return None


def grow(
    service_id: ServiceId,
    candidates: Sequence[Candidate],
    spread: Sequence[str],
    loads: Sequence[NodeLoad],
) -> Branch:
    """The tree over ``candidates``. ``loads`` are all nodes: tasks on full nodes weigh on their branch as well."""
    if not spread:
        return _Leaves(service_id, candidates)
    key, rest = spread[0], spread[1:]
    inside: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        inside.setdefault(node_value(candidate.load.node, key) or "", []).append(candidate)
    all_inside: dict[str, list[NodeLoad]] = {}
    for load in loads:
        all_inside.setdefault(node_value(load.node, key) or "", []).append(load)
    branches = []
    for value in sorted(inside):
        of_service = sum(load.tasks_of(service_id) for load in all_inside[value])
        branches.append((of_service, grow(service_id, inside[value], rest, all_inside[value])))
    return _Fork(branches)
