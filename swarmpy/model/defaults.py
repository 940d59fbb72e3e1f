"""Docker Swarm's defaults for what a spec leaves open (swarmkit ``api/defaults/service.go``)."""

from __future__ import annotations

from swarmpy.model.specs import RestartPolicy, TaskSpec, UpdateConfig

SECOND_NS = 1_000_000_000

STOP_GRACE_PERIOD_NS = 10 * SECOND_NS
RESTART_CONDITION = "any"
RESTART_DELAY_NS = 5 * SECOND_NS
UPDATE_PARALLELISM = 1
UPDATE_MONITOR_NS = 5 * SECOND_NS
UPDATE_FAILURE_ACTION = "pause"
UPDATE_ORDER = "stop-first"
UPDATE_PROGRESS_DEADLINE_NS = 10 * 60 * SECOND_NS
"""Not Docker's, which waits for ever (moby#35564); Nomad's."""

HEALTH_INTERVAL_NS = 30 * SECOND_NS
HEALTH_TIMEOUT_NS = 30 * SECOND_NS
HEALTH_RETRIES = 3

DYNAMIC_PORT_FIRST = 30_000
DYNAMIC_PORT_LAST = 32_767


def restart_policy(task: TaskSpec) -> RestartPolicy:
    """The task's restart policy with every field filled in."""
    given = task.restart or RestartPolicy()
    return RestartPolicy(
        condition=given.condition or RESTART_CONDITION,
        delay_ns=RESTART_DELAY_NS if given.delay_ns is None else given.delay_ns,
        max_attempts=given.max_attempts or 0,
        window_ns=given.window_ns or 0,
    )


def update_config(given: UpdateConfig | None) -> UpdateConfig:
    """An update (or rollback) configuration with every field filled in."""
    given = given or UpdateConfig()
    return UpdateConfig(
        parallelism=UPDATE_PARALLELISM if given.parallelism is None else given.parallelism,
        delay_ns=given.delay_ns or 0,
        failure_action=given.failure_action or UPDATE_FAILURE_ACTION,
        monitor_ns=UPDATE_MONITOR_NS if given.monitor_ns is None else given.monitor_ns,
        max_failure_ratio=given.max_failure_ratio or 0.0,
        order=given.order or UPDATE_ORDER,
        progress_deadline_ns=UPDATE_PROGRESS_DEADLINE_NS
        if given.progress_deadline_ns is None
        else given.progress_deadline_ns,
    )


def stop_grace_period_ns(task: TaskSpec) -> int:
    """Nanoseconds between asking a task to stop and making it stop."""
    given = task.container.stop_grace_period_ns
    return STOP_GRACE_PERIOD_NS if given is None else given
