"""Replicated services: as many slots as replicas are wanted."""

from __future__ import annotations

import heapq
import itertools

from swarmpy.control.draft import Draft, SlotKey, is_active
from swarmpy.model.states import Cause, TaskState


def decide_replicas(draft: Draft) -> None:
    """Fill the lowest free slots, or give up the least useful ones."""
    wanted = draft.service.spec.desired_replicas
    held = [key for key, tasks in draft.slots.items() if any(map(is_active, tasks.values()))]
    if len(held) < wanted:
        taken = set(held)
        free = (number for number in itertools.count(1) if number not in taken)
        for number in itertools.islice(free, wanted - len(held)):
            draft.start(number)
    for key in _least_useful(draft, held, len(held) - wanted):
        for task in draft.slot(key):
            draft.remove(task, Cause.SCALE)


def _least_useful(draft: Draft, held: list[SlotKey], count: int) -> list[SlotKey]:
    """Slots to give up: those that do not run first, then from the nodes with most of the service's tasks."""
    if count <= 0:
        return []
    idle: list[SlotKey] = []
    on_node: dict[str, list[SlotKey]] = {}
    for key in sorted(held):
        node_id = _running_on(draft, key)
        if node_id is None:
            idle.append(key)
        else:
            on_node.setdefault(node_id, []).append(key)
    chosen = idle[::-1][:count]
    heap = [(-len(keys), -int(keys[-1]), node_id) for node_id, keys in on_node.items()]
    heapq.heapify(heap)
    while len(chosen) < count:
        _, _, node_id = heap[0]
        keys = on_node[node_id]
        chosen.append(keys.pop())
        if keys:
            heapq.heapreplace(heap, (-len(keys), -int(keys[-1]), node_id))
        else:
            heapq.heappop(heap)
    return chosen


def _running_on(draft: Draft, key: SlotKey) -> str | None:
    for task in draft.slot(key):
        if is_active(task) and task.status.state == TaskState.RUNNING and not draft.standing(task).is_lost:
            return task.node_id
    return None
