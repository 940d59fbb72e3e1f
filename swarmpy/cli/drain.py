"""Waiting until a node is drained. Watching is pure; only :func:`wait_for_drain` asks.

A node is drained when no task of it runs any more, and when every task of a replicated service or job that was on it
runs elsewhere, has completed, or is wanted no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from swarmpy.cli.client import ApiClient
from swarmpy.cli.listings import node_hostname, service_mode, service_name, task_slot
from swarmpy.cli.progress import ENDED, MAX_ERRORS_S, POLL_S, WANTED, Shown, View, reasons_of, state_of
from swarmpy.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from swarmpy.model.grammar import printable

Json = Mapping[str, Any]
Slots = dict[str, set[int]]
"""Of each service, by id, the slots of which a task was on the node."""
MAX_NAMED = 5
"""Most services that a refusal names."""


@attrs.frozen(kw_only=True)
class NodeLeft:
    """The node itself at one moment: what is left on it."""

    name: str
    counts: tuple[tuple[str, int], ...] = ()
    """Its tasks that have not ended, by state."""
    reasons: tuple[str, ...] = ()
    """Why they are still there, where that is known."""
    is_down: bool = False
    """It does not answer: nobody can tell what runs on it."""
    has_failed: bool = False

    @property
    def running(self) -> int:
        """How many tasks are left."""
        return sum(count for _, count in self.counts)

    @property
    def is_there(self) -> bool:
        """True when nothing is left."""
        return not self.counts

    def line(self) -> str:
        """``w1  2 tasks left  (running 2)``."""
        if self.is_there:
            return f"{self.name}  no tasks left"
        notes = ", ".join(f"{state} {count}" for state, count in self.counts)
        return f"{self.name}  {self.running} task{'s' if self.running > 1 else ''} left  ({notes})"


@attrs.frozen(kw_only=True)
class ServiceMoved:
    """The tasks of one service that were on the node, at one moment."""

    name: str
    running: int
    """How many of their slots have another task that runs, or have no need of one."""
    slots: int
    counts: tuple[tuple[str, int], ...] = ()
    """What the other slots have, by state."""
    reasons: tuple[str, ...] = ()
    has_failed: bool = False

    @property
    def is_there(self) -> bool:
        """True when all have moved."""
        return self.running >= self.slots

    def line(self) -> str:
        """``web  1/2 moved  (starting 1)``."""
        notes = ", ".join(f"{state} {count}" for state, count in self.counts)
        return f"{self.name}  {self.running}/{self.slots} moved" + (f"  ({notes})" if notes else "")


def slots_on(tasks: Iterable[Json]) -> Slots:
    """The slots whose tasks run on a node, or were told to leave it. ``tasks``: those of the node.

    What ended by itself is not on the node any more: that it runs elsewhere is no business of a drain.
    """
    found: Slots = {}
    for task in tasks:
        slot = task_slot(task)
        if slot is not None and state_of(task) not in ENDED:
            found.setdefault(str(task.get("ServiceID", "")), set()).add(slot)
    return found


def slots_emptied(tasks: Sequence[Json], node_id: str) -> set[int]:
    """The slots whose last task was on the node and was stopped there. ``tasks``: all of a service.

    Who waits for a drain that was begun before waits for these as well.
    """
    last: dict[int, Json] = {}
    for task in sorted(tasks, key=lambda task: str(task.get("CreatedAt", ""))):
        slot = task_slot(task)
        if slot is not None and task.get("DesiredState") not in WANTED:
            last[slot] = task
    return {slot for slot, task in last.items() if task.get("NodeID") == node_id and state_of(task) == "shutdown"}


def observe_node(node: Json, tasks: Sequence[Json]) -> NodeLeft:
    """What is left on the node. Of a node that is down nobody can tell: its tasks count as gone."""
    is_down = (node.get("Status") or {}).get("State") == "down"
    left = [task for task in tasks if state_of(task) not in ENDED and not is_down]
    states = Counter(map(state_of, left))
    errors = dict.fromkeys(_error(task) for task in left if _error(task))
    return NodeLeft(
        name=printable(node_hostname(node) or str(node.get("ID", ""))),
        counts=tuple(sorted(states.items())),
        reasons=tuple(errors),
        is_down=is_down,
    )


def observe_service(service: Json, tasks: Sequence[Json], slots: Iterable[int], node_id: str) -> ServiceMoved:
    """How far these slots of the service have moved away from the node. ``tasks``: all of the service."""
    by_slot: dict[int, list[Json]] = {slot: [] for slot in slots}
    wanted_slots = set()
    for task in tasks:
        slot = task_slot(task)
        if slot is None:
            continue
        if task.get("DesiredState") in WANTED:
            wanted_slots.add(slot)
        if slot in by_slot:
            by_slot[slot].append(task)
    replicas = (service.get("Spec", {}).get("Mode", {}).get("Replicated") or {}).get("Replicas")
    has_enough = replicas is None or len(wanted_slots) >= int(replicas)
    is_job = service_mode(service).endswith("-job")
    open_slots = {
        slot: found
        for slot, found in by_slot.items()
        if not _has_moved(found, node_id, is_job=is_job) and not (slot not in wanted_slots and has_enough)
    }
    waiting = [task for found in open_slots.values() for task in found if task.get("DesiredState") in WANTED]
    states = Counter(state_of(task) for task in waiting)
    return ServiceMoved(
        name=service_name(service),
        running=len(by_slot) - len(open_slots),
        slots=len(by_slot),
        counts=tuple(sorted(states.items())),
        reasons=reasons_of(waiting, [task for found in open_slots.values() for task in found]),
    )


def _has_moved(tasks: Iterable[Json], node_id: str, *, is_job: bool) -> bool:
    wanted = [task for task in tasks if task.get("DesiredState") in WANTED]
    if is_job and all(state_of(task) in ENDED for task in wanted):
        return True  # it has completed, was given up, or belongs to an execution that is over
    return any(state_of(task) == "running" and task.get("NodeID") != node_id for task in wanted)


def _error(task: Json) -> str:
    return printable(" ".join(str(task.get("Status", {}).get("Err", "")).split()))


# -- waiting ----------------------------------------------------------------------------------------------------------


async def slots_to_move(client: ApiClient, node: Json) -> Slots:
    """The slots that a drain of the node is about, or was until now where it is drained already."""
    node_id = str(node["ID"])
    tasks = await client.tasks(node=node_id)
    slots = slots_on(tasks)
    if node.get("Spec", {}).get("Availability") != "drain":
        return slots
    for service_id in dict.fromkeys(str(task.get("ServiceID", "")) for task in tasks if task_slot(task) is not None):
        with contextlib.suppress(NotFound):
            emptied = slots_emptied(await client.tasks(service=service_id), node_id)
            slots.setdefault(service_id, set()).update(emptied)
    return {service_id: found for service_id, found in slots.items() if found}


async def wait_for_drain(client: ApiClient, node_id: str, slots: Slots, *, view: View, timeout: float) -> NodeLeft:
    """Returns when the node is drained. ``slots``: what was on it before (:func:`slots_to_move`).

    Raises DeadlineExceeded after ``timeout`` seconds, with what is not done and why; FailedPrecondition when the drain
    is taken back; NotFound when the node is removed. None of them stops the cluster from going on.
    """
    loop = asyncio.get_running_loop()
    started = answered = loop.time()
    moved: dict[str, ServiceMoved] = {}
    try:
        while True:
            progress: list[Shown] = []
            try:
                left = await _look(client, node_id, slots, moved)
                progress = [left, *moved.values()]
                answered = loop.time()
            except Unavailable:
                # Managers are silent while they elect a leader; waiting through it is what waiting is for.
                if loop.time() - answered > MAX_ERRORS_S:
                    raise
            if progress:
                view.update(progress)
                if all(item.is_there for item in progress):
                    return left
            if loop.time() - started > timeout:
                raise DeadlineExceeded(_still_there(progress, timeout))
            # The API has no call that waits for a node, so it is asked again and again.
            await asyncio.sleep(POLL_S)
    finally:
        view.close()


async def _look(client: ApiClient, node_id: str, slots: Slots, moved: dict[str, ServiceMoved]) -> NodeLeft:
    try:
        node = await client.node(node_id)
    except NotFound:
        raise NotFound(f"node {node_id} was removed while it was waited for") from None
    availability = node.get("Spec", {}).get("Availability")
    if availability != "drain":
        raise FailedPrecondition(f"node {node_hostname(node) or node_id} is {availability} again: it is not drained")
    tasks = await client.tasks(node=node_id)
    for service_id, found in slots_on(tasks).items():
        # One that was being given to the node while it was drained.
        slots.setdefault(service_id, set()).update(found)
    for service_id in [i for i, found in slots.items() if not _have_moved(moved.get(i), found)]:
        services = await client.services(ids=(service_id,))
        if not services:
            slots.pop(service_id)
            moved.pop(service_id, None)
            continue
        every = await client.tasks(service=service_id)
        moved[service_id] = observe_service(services[0], every, slots[service_id], node_id)
    return observe_node(node, tasks)


def _have_moved(before: ServiceMoved | None, slots: Collection[int]) -> bool:
    return before is not None and before.is_there and before.slots == len(slots)


def _still_there(progress: Sequence[Shown], timeout: float) -> str:
    if not progress:
        return f"not drained after {timeout:g} s: no manager answers"
    node = progress[0]
    unfinished = [item for item in progress if not item.is_there]
    parts = [f"{item.line()}{': ' if item.reasons else ''}{'; '.join(item.reasons)}" for item in unfinished[:MAX_NAMED]]
    if len(unfinished) > MAX_NAMED:
        parts.append(f"and {len(unfinished) - MAX_NAMED} more services")
    return f"node {node.name} is not drained after {timeout:g} s: {' | '.join(parts)}"
