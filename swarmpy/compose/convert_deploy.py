"""The ``deploy`` part of a service: resources, restarts, placement, updates. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from swarmpy.compose import units
from swarmpy.compose.convert_container import Scope
from swarmpy.compose.shortforms import scalar_text
from swarmpy.compose.yaml_reader import Path
from swarmpy.model.specs import (
    GenericResource,
    MaxUnavailable,
    Placement,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    UpdateConfig,
)

PROGRESS_DEADLINE = "x-swarmpy-progress-deadline"
_ON_FAILURE = re.compile(r"on-failure(?::([0-9]{1,9}))?", re.ASCII)


def resources(given: Mapping[str, Any] | None) -> ResourceRequirements | None:
    """Limits and reservations, generic resources among these."""
    if not given:
        return None
    return ResourceRequirements(limits=_amount(given.get("limits")), reservations=_amount(given.get("reservations")))


def _amount(given: Mapping[str, Any] | None) -> Resources | None:
    if not given:
        return None
    return Resources(
        nano_cpus=units.parse_cpus(given["cpus"]) if "cpus" in given else 0,
        memory_bytes=units.parse_size(given["memory"]) if "memory" in given else 0,
        pids=int(given.get("pids", 0)),
        generic=tuple(
            GenericResource(kind=spec["kind"], count=int(spec["value"]))
            for spec in (entry["discrete_resource_spec"] for entry in given.get("generic_resources", ()))
        ),
    )


def restart_policy(
    scope: Scope, path: Path, restart: str | None, policy: Mapping[str, Any] | None
) -> RestartPolicy | None:
    """``deploy.restart_policy``, or else what ``restart`` comes to in a cluster. Raises ComposeError."""
    if policy:
        condition = policy.get("condition") or None
        if condition not in (None, "any", "on-failure", "none"):
            at = (*path, "deploy", "restart_policy", "condition")
            raise scope.error(at, f"unknown condition {condition!r}: any, on-failure or none")
        return RestartPolicy(
            condition=condition,
            delay_ns=duration(policy, "delay"),
            max_attempts=None if "max_attempts" not in policy else int(policy["max_attempts"]),
            window_ns=duration(policy, "window"),
        )
    if not restart or restart == "no":
        return None
    if restart in ("always", "unless-stopped"):
        return RestartPolicy(condition="any")
    match = _ON_FAILURE.fullmatch(restart)
    if match is None:
        raise scope.error(
            (*path, "restart"),
            f"unknown restart policy {restart!r}: no, always, unless-stopped or on-failure[:attempts]",
        )
    return RestartPolicy(condition="on-failure", max_attempts=None if match[1] is None else int(match[1]))


def placement(given: Mapping[str, Any] | None) -> Placement | None:
    """Constraints, spread preferences and the bound of tasks on a node."""
    if not given:
        return None
    return Placement(
        constraints=tuple(given.get("constraints", ())),
        spread=tuple(entry["spread"] for entry in given.get("preferences", ()) if "spread" in entry),
        max_replicas=int(given.get("max_replicas_per_node", 0)),
    )


def update_config(given: Mapping[str, Any] | None, service: Mapping[str, Any]) -> UpdateConfig | None:
    """How tasks are replaced; without a parallelism they are replaced one at a time.

    The progress deadline may be given for the service, too: Docker refuses a file that has a key of ours below
    ``deploy``.
    """
    deadline_ns = duration(service, PROGRESS_DEADLINE)
    if given is None:
        return None if deadline_ns is None else UpdateConfig(progress_deadline_ns=deadline_ns)
    ratio = given.get("max_failure_ratio")
    return UpdateConfig(
        parallelism=int(given.get("parallelism", 1)),
        delay_ns=duration(given, "delay"),
        failure_action=given.get("failure_action"),
        monitor_ns=duration(given, "monitor"),
        max_failure_ratio=None if ratio is None else float(ratio),
        order=given.get("order"),
        progress_deadline_ns=duration(given, PROGRESS_DEADLINE) if PROGRESS_DEADLINE in given else deadline_ns,
    )


def max_unavailable(scope: Scope, path: Path, service: Mapping[str, Any], *, is_job: bool) -> MaxUnavailable | None:
    """How many of the service's tasks may be missing at a time, by drains, moves and updates together.

    A key of the service: Docker refuses a file that has a key of ours below ``deploy``. Raises ComposeError for a job.
    """
    key = "x-swarmpy-max-unavailable"
    if key not in service:
        return None
    if is_job:
        raise scope.error((*path, key), "the tasks of a job are to complete, and none is kept running: remove it")
    return MaxUnavailable.parse(scalar_text(service[key]))


def duration(given: Mapping[str, Any], key: str) -> int | None:
    """Nanoseconds of a duration, None when it is not given."""
    return units.parse_duration(given[key]) if key in given else None
