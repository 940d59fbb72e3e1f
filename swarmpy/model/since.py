"""Since when there is what a task asks for: agents of versions before would leave it out without a word."""

from __future__ import annotations

from swarmpy.model.assignments import CONTAINERS_LEVEL, FILES_LEVEL
from swarmpy.model.dependencies import has_files
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, Mount


def needs_services_version(container: ContainerSpec) -> bool:
    """True for a container with something that could not be asked for before schema version 8."""
    return (
        container.privileges is not None
        or bool(container.oom_score_adj)
        or (container.healthcheck is not None and bool(container.healthcheck.start_interval_ns))
        or any(_is_particular(mount) for mount in container.mounts)
    )


def agent_level(task: Task) -> int:
    """The least AGENT_LEVEL of a node that does all that the task asks for."""
    if needs_services_version(task.spec.container):
        return CONTAINERS_LEVEL
    return FILES_LEVEL if has_files(task) else 0


def what_needs(task: Task) -> str:
    """What of a task needs that level, for people; "" where it needs none."""
    return {
        CONTAINERS_LEVEL: "privileges, OOM scores and newer options of mounts and health checks",
        FILES_LEVEL: "secrets and configs",
    }.get(agent_level(task), "")


def _is_particular(mount: Mount) -> bool:
    return bool(
        mount.consistency
        or mount.bind_non_recursive
        or mount.bind_create_mountpoint
        or mount.bind_read_only_non_recursive
        or mount.bind_read_only_force_recursive
        or mount.volume_subpath
    )
