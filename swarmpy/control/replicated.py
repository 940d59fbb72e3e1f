"""Replicated services: as many slots as replicas are wanted."""

from __future__ import annotations

import heapq
import itertools

from swarmpy.control.draft import Draft, is_active
from swarmpy.control.slots import SlotKey
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Cause, TaskState


def note(draft: Draft, key: SlotKey) -> None:
    """What of the slot is of interest to :func:`decide_replicas`."""
    slots = draft.slots
    if any(map(is_active, slots.tasks(key))):
        slots.held[key] = None
    else:
        slots.held.pop(key, None)
    node_id = _running_on(draft, key)
    if node_id is None:
        slots.runs_on.pop(key, None)
    else:
        slots.runs_on[key] = node_id


def decide_replicas(draft: Draft, most: int) -> list[SlotKey]:
    """Fill the lowest free slots, or give up the least useful ones, at most so many; returns which."""
    wanted, held = draft.service.spec.desired_replicas, draft.slots.held
    if len(held) <= wanted:
        free = (number for number in itertools.count(1) if number not in held)
        changed: list[SlotKey] = list(itertools.islice(free, min(wanted - len(held), most)))
        for key in changed:
            draft.start(key)
    else:
        changed = _least_useful(draft, min(len(held) - wanted, most))
        for key in changed:
            for task in draft.slot(key):
                draft.remove(task, Cause.SCALE)
    for key in changed:
        note(draft, key)
    return changed


def _least_useful(draft: Draft, count: int) -> list[SlotKey]:
    """Slots to give up: those that do not run first, then from the nodes with most of the service's tasks."""
    if count <= 0:
        return []
    idle: list[SlotKey] = []
    on_node: dict[NodeId, list[SlotKey]] = {}
    runs_on = draft.slots.runs_on
    for key in sorted(draft.slots.held):
        node_id = runs_on.get(key)
        if node_id is None:
            idle.append(key)
        else:
            on_node.setdefault(node_id, []).append(key)
    chosen = idle[::-1][:count]
    heap = [(-len(keys), -int(keys[-1]), node_id) for node_id, keys in on_node.items()]
    heapq.heapify(heap)
    while len(chosen) < count:
        _, _, fullest = heap[0]
        keys = on_node[fullest]
        chosen.append(keys.pop())
        if keys:
            heapq.heapreplace(heap, (-len(keys), -int(keys[-1]), fullest))
        else:
            heapq.heappop(heap)
    return chosen


def _running_on(draft: Draft, key: SlotKey) -> NodeId | None:
    for task in draft.slot(key):
        if task.status.state is TaskState.RUNNING and is_active(task) and not draft.standing(task).is_lost:
            return task.node_id
    return None
