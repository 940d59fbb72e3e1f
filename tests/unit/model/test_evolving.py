"""The fast way to change fields gives what ``attrs.evolve`` gives."""

from __future__ import annotations

import attrs
import pytest

from swarmpy.model.evolving import evolver
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.specs import TaskSpec
from swarmpy.model.states import TaskState

TASK = Task(id=TaskId("t"), spec=TaskSpec(force_update=3), service_id=ServiceId("s"), slot=5)


def test_named_fields_change_and_the_rest_is_kept() -> None:
    """In the order of the names; the object itself stays as it was."""
    status = TaskStatus(state=TaskState.ASSIGNED)
    changed = evolver(Task, "status", "node_id")(TASK, status, NodeId("n"))
    assert changed == attrs.evolve(TASK, status=status, node_id=NodeId("n"))
    assert TASK.node_id is None


def test_the_number_of_values_must_fit() -> None:
    """One too few or too many is refused."""
    for values in ((), ("n", "m")):
        with pytest.raises(TypeError, match="positional argument"):
            evolver(Task, "node_id")(TASK, *values)


def test_a_class_that_checks_its_fields_is_refused() -> None:
    """What ``__init__`` does would be left out."""

    @attrs.frozen
    class Checked:
        number: int = attrs.field(validator=attrs.validators.ge(0))

    with pytest.raises(TypeError, match="Checked does more"):
        evolver(Checked, "number")


def test_a_class_of_other_slots_is_refused() -> None:
    """Where it is made, not where it is used."""

    @attrs.frozen
    class Referred:
        number: int = 0
        name: str = ""

    with pytest.raises(TypeError, match="layout differs"):
        evolver(Referred, "number")
