"""What a task needs beside its spec, and is never sent with it: the data of secrets and configs.

An agent asks the leader for what one of its tasks refers to, when it prepares that task. Data is kept out of every
``repr``.
"""

from __future__ import annotations

import attrs

from swarmpy.model.ids import ConfigId, SecretId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState

MAX_IDS = 256
"""Most objects that one request may ask for."""


@attrs.frozen(kw_only=True)
class Content:
    """The data of a secret or a config. ``templating`` as in its spec."""

    data: bytes = attrs.field(repr=False)
    templating: str = ""


@attrs.frozen(kw_only=True)
class Dependencies:
    """What a task refers to, by the ids it refers to it by."""

    secrets: dict[SecretId, Content] = attrs.Factory(dict)
    configs: dict[ConfigId, Content] = attrs.Factory(dict)


NO_DEPENDENCIES = Dependencies()
"""Of a task that refers to nothing."""


@attrs.frozen(kw_only=True)
class DependenciesRequest:
    """An agent asks for what one of its tasks refers to."""

    session_id: str
    task_id: TaskId
    secrets: tuple[SecretId, ...] = ()
    configs: tuple[ConfigId, ...] = ()


@attrs.frozen(kw_only=True)
class DependenciesReply:
    """Some of it at least; for the rest the agent asks again. ``missing`` are ids of what there is no more."""

    secrets: dict[SecretId, Content] = attrs.Factory(dict)
    configs: dict[ConfigId, Content] = attrs.Factory(dict)
    missing: tuple[str, ...] = ()


def secrets_of(task: Task) -> tuple[SecretId, ...]:
    """The secrets that the task needs from now on, each once: the credentials of its registry until it runs."""
    container = task.spec.container
    ids = [reference.secret_id for reference in container.secrets]
    if container.pull_secret_id is not None and task.status.state < TaskState.RUNNING:
        ids.append(container.pull_secret_id)
    return tuple(dict.fromkeys(ids))


def configs_of(task: Task) -> tuple[ConfigId, ...]:
    """The configs that the task needs, each once."""
    return tuple(dict.fromkeys(reference.config_id for reference in task.spec.container.configs))


def has_files(task: Task) -> bool:
    """True for a task that gets secrets or configs as files."""
    return bool(task.spec.container.secrets or task.spec.container.configs)


def is_needed(task: Task) -> bool:
    """False for a task that is over, or is to end, or runs nowhere yet: it gets nothing any more."""
    is_alive = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
    return is_alive and task.desired_state.is_wanted
