"""Which secrets and configs a spec refers to. Pure."""

from __future__ import annotations

from swarmpy.model.objects import Service, Task
from swarmpy.model.specs import TaskSpec


def references(spec: TaskSpec) -> tuple[str, ...]:
    """The ids of the secrets and configs, and of the registry's credentials, each once."""
    container = spec.container
    if not (container.secrets or container.configs or container.pull_secret_id):
        # Nearly all: this is asked at every write of a task.
        return ()
    found = [reference.secret_id for reference in container.secrets]
    ids: list[str] = [*found, *(reference.config_id for reference in container.configs)]
    if container.pull_secret_id:
        ids.append(container.pull_secret_id)
    return tuple(dict.fromkeys(ids))


def kept_by_service(service: Service) -> tuple[str, ...]:
    """What a service refers to, by its spec and by the one that a rollback goes back to."""
    if service.previous_spec is None:
        return references(service.spec.task)
    return tuple(dict.fromkeys((*references(service.spec.task), *references(service.previous_spec.task))))


def kept_by_task(task: Task) -> tuple[str, ...]:
    """What a task may still read; nothing once it is over."""
    return () if task.status.state.is_terminal else references(task.spec)
