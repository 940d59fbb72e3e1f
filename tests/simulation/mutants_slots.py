"""Deliberate bugs of what is kept of slots from one decision to the next, found by the laws of a cluster."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_cluster = partial(Mutant, world="cluster")

SLOTS = (
    _cluster(
        name="a-slot-that-waits-is-forgotten",
        bug="A slot whose restart delay is not over is not looked at any more.",
        killer=93,
        module="swarmpy.control.orchestrator",
        edits=(Edit("                slots.restless[key] = None\n", "                pass\n"),),
    ),
    _cluster(
        name="what-was-not-written-counts",
        bug="A decision that could not be written, as something had changed, is taken for written.",
        killer=12,
        module="swarmpy.control.orchestrator",
        edits=(Edit("for key in self._slots.give_up():", "for key in ():"),),
    ),
    _cluster(
        name="the-service-before-is-decided-on",
        bug="What is known of slots is kept when the service asks for something else.",
        killer=11,
        module="swarmpy.control.orchestrator",
        edits=(Edit("if self._slots.basis != self._basis(service):", "if self._slots.basis is None:"),),
    ),
)
