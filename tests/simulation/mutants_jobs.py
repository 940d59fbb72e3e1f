"""Deliberate bugs of jobs, found by the laws of the world that has some."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_jobs = partial(Mutant, world="jobs")

JOBS = (
    _jobs(
        name="one-task-too-many-at-once",
        bug="A job begins another task although as many as may are under way.",
        module="swarmpy.control.jobs",
        edits=(Edit("spec.desired_concurrency - len(", "spec.desired_concurrency + 1 - len("),),
    ),
    _jobs(
        name="the-execution-before-goes-on",
        bug="Tasks of the execution before are not removed.",
        killer=2,
        module="swarmpy.control.jobs",
        edits=(Edit("            draft.remove(task, Cause.EXECUTED_ANEW)\n", "            pass\n"),),
    ),
    _jobs(
        name="a-done-slot-is-begun-again",
        bug="A job that has completed begins once more.",
        module="swarmpy.control.jobs",
        edits=(Edit("if any(is_active(task) or has_completed(task) for task", "if any(not is_ended(task) for task"),),
    ),
)
