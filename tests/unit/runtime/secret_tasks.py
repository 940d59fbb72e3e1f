"""Tasks with secrets and configs, and what these are."""

from __future__ import annotations

from typing import Any

import attrs

from swarmpy.model.dependencies import Content, Dependencies
from swarmpy.model.ids import ConfigId, SecretId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference, TaskSpec

PLANTED = "hunter2-planted"


def secret(name: str, target: str | None = None, **file: Any) -> SecretReference:
    """A reference to the secret of that name; its id is ``s-NAME``."""
    place = FileTarget(name=name if target is None else target, **file)
    return SecretReference(secret_id=SecretId(f"s-{name}"), secret_name=name, file=place)


def config(name: str, target: str | None = None, **file: Any) -> ConfigReference:
    """The same of a config; its id is ``c-NAME``."""
    place = FileTarget(name=name if target is None else target, **file)
    return ConfigReference(config_id=ConfigId(f"c-{name}"), config_name=name, file=place)


def task_with(*references: SecretReference | ConfigReference, task_id: str = "task1", **container: Any) -> Task:
    """A task that has these files."""
    spec = ContainerSpec(
        image="x",
        secrets=tuple(r for r in references if isinstance(r, SecretReference)),
        configs=tuple(r for r in references if isinstance(r, ConfigReference)),
    )
    return Task(
        id=TaskId(task_id),
        spec=TaskSpec(container=attrs.evolve(spec, **container)),
        service_id=ServiceId("service1"),
        service_name="web",
        slot=3,
    )


def content(data: str | bytes = PLANTED, templating: str = "") -> Content:
    """Of an object."""
    return Content(data=data.encode() if isinstance(data, str) else data, templating=templating)


def needs(secrets: dict[str, Content] | None = None, configs: dict[str, Content] | None = None) -> Dependencies:
    """By the names of the objects."""
    return Dependencies(
        secrets={SecretId(f"s-{name}"): each for name, each in (secrets or {}).items()},
        configs={ConfigId(f"c-{name}"): each for name, each in (configs or {}).items()},
    )
