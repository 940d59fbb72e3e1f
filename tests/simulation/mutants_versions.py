"""Deliberate bugs of versions of secrets and configs, found by the laws of the world that has some."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_secrets = partial(Mutant, world="secrets")

VERSIONS = (
    _secrets(
        name="follows-again-after-a-rollback",
        bug="A service that went back to an earlier version of a secret is taken to the latest one again.",
        killer=3,
        module="swarmpy.control.versions",
        edits=(Edit(" and service.spec_version < latest.made_at:", ":"),),
    ),
    _secrets(
        name="never-follows",
        bug="Services that did not go into the entry with the new version stay with the one before.",
        killer=8,
        module="swarmpy.manager.following",
        edits=(Edit("while moved := await follow(self._store, FAMILIES[kind], name):", "while moved := 0:"),),
    ),
    _secrets(
        name="a-version-that-a-rollback-needs-is-removed",
        bug="A version goes although the spec before refers to it.",
        killer=62,
        module="swarmpy.model.references",
        edits=(Edit("    if service.previous_spec is None:\n", "    if service:\n"),),
    ),
    _secrets(
        name="a-version-that-a-task-has-is-removed",
        bug="A version goes although a task that is not over refers to it.",
        killer=4,
        module="swarmpy.store.view",
        edits=(Edit(" or self._tasks.has_any(TASK_REFERENCE, object_id)", ""),),
    ),
    _secrets(
        name="old-versions-stay",
        bug="Nobody looks at what a service does not refer to any more.",
        killer=7,
        module="swarmpy.manager.following",
        edits=(Edit("if isinstance(old, Service) else ())", "if old is None else ())"),),
    ),
    _secrets(
        name="a-secret-in-use-is-removed",
        bug="A secret can be removed although services refer to it.",
        module="swarmpy.manager.secrets",
        edits=(Edit("        if names:\n", "        if len(names) > 99:\n"),),
    ),
)
