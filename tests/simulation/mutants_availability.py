"""Deliberate bugs of drains and of what may be missing, found by the laws of the world of a cluster."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_cluster = partial(Mutant, world="cluster")

AVAILABILITY = (
    _cluster(
        name="one-more-missing-than-may-be",
        bug="A task is taken away though as many as may be are missing.",
        killer=14,
        module="swarmpy.control.availability",
        edits=(
            Edit("len(self._there) <= self._least:", "len(self._there) < self._least:"),
            Edit("or len(self._there) > self._least", "or len(self._there) >= self._least"),
        ),
    ),
    _cluster(
        name="updates-ask-nobody",
        bug="An update takes tasks away whatever is missing.",
        killer=14,
        module="swarmpy.control.update",
        edits=(
            Edit(
                "draft.allowance.is_free(key) and all(map(draft.allowance.take, progress.slots[key].outdated))", "True"
            ),
        ),
    ),
    _cluster(
        name="a-drain-stops-first",
        bug="A drained node's task is stopped before its replacement runs, whatever the order.",
        killer=21,
        module="swarmpy.control.restart",
        edits=(
            Edit(
                "    if cannot_be_placed or starts_first(draft.service):\n",
                "    if True:\n        return True\n    if cannot_be_placed or starts_first(draft.service):\n",
            ),
        ),
    ),
    Mutant(
        name="a-move-stops-first",
        bug="A task is stopped as soon as its node is no place for it any more, before its replacement runs.",
        world="moves",
        killer=16,
        module="swarmpy.control.enforcer",
        edits=(
            Edit(
                "    return task.status.state is TaskState.RUNNING and view.schema >= SERVICES_VERSION\n",
                "    return False\n",
            ),
        ),
    ),
)
