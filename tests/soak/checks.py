"""What must hold, as pure functions of what was seen. Each returns what is wrong, or nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from linearizability import Operation, Unexplored, check

GOOD_EXITS = frozenset({0})
_OF_A_FULL_DISK = re.compile(r"level=error event=local_state_not_saved reason=.*(disk is full|No space left)")
_BAD_LOG_LINES = re.compile(
    r"\blevel=(error|critical)\b|Traceback \(most recent call last\)|^(ERROR|CRITICAL|WARNING) \w|Exception ignored in"
    r"|never (retrieved|awaited)|ResourceWarning|\bdefect\b|^Fatal Python error"
)


def wrong_history(history: Sequence[Operation]) -> str:
    """Why the operations on one key are not linearizable; "" when they are."""
    try:
        return check(history) or ""
    except Unexplored as error:
        return f"the history of {history[0].key} is too tangled to be checked: {error}"


@attrs.frozen(kw_only=True)
class RunningTask:
    """A task that the managers say runs."""

    id: str
    service: str
    place: str
    """Its slot, or its node for a global service."""
    node: str


@attrs.frozen(kw_only=True)
class TaskProcess:
    """A process of a task on this machine."""

    pid: int
    task: str
    node: str


def misplaced(wanted: Mapping[str, int], tasks: Iterable[RunningTask], processes: Iterable[TaskProcess]) -> list[str]:
    """Where tasks and processes are not as they should be: one running task and one process for each place.

    ``wanted`` is the number of replicas by service. A process without a task is an orphan.
    """
    found = []
    known = {task.id: task for task in tasks}
    for service, count in sorted(wanted.items()):
        places = Counter(task.place for task in known.values() if task.service == service)
        if places.total() != count:
            found.append(f"service {service}: {places.total()} of {count} tasks run")
        found += [f"service {service}: {n} tasks run in place {place}" for place, n in places.items() if n > 1]
    found += [f"task {t.id} is of the unknown service {t.service}" for t in known.values() if t.service not in wanted]
    counts: Counter[str] = Counter()
    for process in processes:
        counts[process.task] += 1
        task = known.get(process.task)
        if task is None:
            found.append(f"orphan: process {process.pid} of task {process.task} on {process.node}")
        elif task.node != process.node:
            found.append(f"process {process.pid} of task {task.id} is on {process.node}, the task on {task.node}")
    for task in known.values():
        if counts[task.id] != 1:
            found.append(f"task {task.id} of {task.service} on {task.node} has {counts[task.id]} processes")
    return found


@attrs.frozen(kw_only=True)
class Creation:
    """What became of a service that was created under a key of its own."""

    name: str
    answers: frozenset[str]
    """The ids that were answered with success: none, or one."""
    deletion: str = ""
    """"" (never asked for), ``done`` or ``unknown``."""


def wrong_creations(creations: Iterable[Creation], services: Iterable[tuple[str, str]]) -> list[str]:
    """Acknowledged creations that are lost, done twice or back after their removal. ``services``: name and id."""
    there: dict[str, list[str]] = {}
    for name, service_id in services:
        there.setdefault(name, []).append(service_id)
    found = []
    for made in creations:
        ids = there.get(made.name, [])
        if len(made.answers) > 1:
            found.append(f"{made.name}: one key was answered with different ids: {sorted(made.answers)}")
        if len(ids) > 1:
            found.append(f"{made.name} exists {len(ids)} times")
        if made.deletion == "done" and ids:
            found.append(f"{made.name} was removed, and is there again as {ids}")
        if made.answers and not made.deletion and not ids:
            found.append(f"the acknowledged creation of {made.name} is lost")
        if made.answers and ids and not set(ids) <= made.answers:
            found.append(f"{made.name} was answered as {sorted(made.answers)}, but is {ids}")
    return found


def wrong_log_lines(lines: Iterable[str], *, disk_was_full: bool = False) -> list[str]:
    """Lines of a daemon's log that should not be there: errors, tracebacks, complaints of the interpreter.

    Where the disk was filled on purpose, a daemon may say so as an error: its agent may meet it before the Raft log.
    """
    wrong = [line.rstrip()[:500] for line in lines if _BAD_LOG_LINES.search(line)]
    return [line for line in wrong if not (disk_was_full and _OF_A_FULL_DISK.search(line))]


Interval = tuple[float, float]


def worst_gap(moments: Sequence[float], intervals: Iterable[Interval]) -> Interval:
    """The longest part of an interval that holds none of ``moments`` (sorted): its begin and end."""
    worst: Interval = (0.0, 0.0)
    for begin, end in intervals:
        last = begin
        for moment in (*(m for m in moments if begin < m < end), end):
            if moment - last > worst[1] - worst[0]:
                worst = (last, moment)
            last = moment
    return worst


def has_majority(managers: Sequence[str], healthy: Iterable[str], blocked: Iterable[tuple[str, str]]) -> bool:
    """True when more than half of the managers are healthy and all reach each other."""
    alive = [name for name in managers if name in set(healthy)]
    cut = {frozenset(pair) for pair in blocked}
    needed = len(managers) // 2 + 1
    return _clique(alive, cut, needed)


def _clique(names: list[str], cut: set[frozenset[str]], needed: int) -> bool:
    if needed == 0:
        return True
    return any(
        _clique([other for other in names[i + 1 :] if frozenset({name, other}) not in cut], cut, needed - 1)
        for i, name in enumerate(names)
    )


def differing(values: Mapping[str, Any]) -> bool:
    """True when not all are equal."""
    return len(set(values.values())) > 1
