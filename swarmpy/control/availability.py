"""How many of a service's slots may be missing by the cluster's own doing (``ServiceSpec.max_unavailable``).

A slot is there while a task of it runs, is meant to, and is on a node that somebody can ask. Drains, moves away from
nodes that do not fit any more, and updates that stop first take running tasks away; each asks here first. A task that
fails, or whose node dies, asks nobody, but counts: while it is missing nothing more is taken away (as with the
``maxUnavailable`` of Kubernetes' disruption budgets).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Self

from swarmpy.control.nodes import NO_PLACE, Standing, standing_of
from swarmpy.control.outdated import meets_constraints
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import Availability, NodeState, TaskState
from swarmpy.store.view import View

WAITS = "waits: "
"""How the reason of a task begins that should leave and must not yet."""


def why_misplaced(task: Task) -> str:
    """Why a task must leave its node though that is well, without what it waits for; "" where it does not say so."""
    err = task.status.err
    return err.partition(f"; {WAITS}")[0] if NO_PLACE in err else ""


class Allowance:
    """What may still be taken away of one service, while one decision is made."""

    def __init__(self, view: View, service: Service, there: Mapping[Any, int]) -> None:
        """``there``: of each slot that is not missing, how many tasks keep it from that."""
        self._service = service
        self._bound = service.spec.max_unavailable
        self._there: dict[Hashable, int] = {}
        self._least = 0
        if self._bound is None:
            return
        self._there.update(there)
        slots = _wanted(view, service, self._there)
        self._most = self._bound.of(slots)
        self._least = slots - self._most

    @classmethod
    def of(cls, view: View, service: Service, tasks: Iterable[Task], standing: Callable[[Task], Standing]) -> Self:
        """As of the tasks of the service, and where they are."""
        counted = service.spec.max_unavailable is not None
        there = Counter(_slot(task) for task in tasks if is_there(task, standing(task))) if counted else {}
        return cls(view, service, there)

    def take(self, task: Task) -> bool:
        """Ask to end a task; False when it has to wait. What is granted counts from then on."""
        key = _slot(task)
        left = self._there.get(key, 0)
        if left == 1 and len(self._there) <= self._least:
            return False
        if left == 1:
            del self._there[key]
        elif left:
            self._there[key] = left - 1
        return True

    def is_free(self, key: Hashable) -> bool:
        """True when the slot's tasks may be ended whatever else is missing, or as not too much is."""
        return self._bound is None or self._there.get(key) != 1 or len(self._there) > self._least

    @property
    def reason(self) -> str:
        """Why a task has to wait: ``waits: web may miss at most 1 task``."""
        most = "no bound" if self._bound is None else f"{self._most} task{'s' if self._most > 1 else ''}"
        return f"{WAITS}{self._service.spec.name} may miss at most {most}"


def is_there(task: Task, standing: Standing) -> bool:
    """True while the task keeps its slot from being missing."""
    return task.desired_state.is_wanted and task.status.state is TaskState.RUNNING and not standing.is_lost


def _slot(task: Task) -> Hashable:
    return task.slot or task.node_id


def _wanted(view: View, service: Service, there: Iterable[Hashable]) -> int:
    """How many slots there should be. Those of a global service are the nodes that may have a task of it now."""
    if not service.spec.mode.is_global:
        return service.spec.desired_replicas
    return len({node.id for node in view.nodes() if _is_slot(service, node)} | {*there})


def _is_slot(service: Service, node: Node) -> bool:
    is_open = node.availability is Availability.ACTIVE and node.status.state is NodeState.READY
    return is_open and standing_of(node) is Standing.FINE and meets_constraints(service, node)
