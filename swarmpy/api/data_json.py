"""Secrets and configs as Docker's JSON. The data of a secret never goes out."""

from __future__ import annotations

import base64
from typing import Any

import attrs

from swarmpy.api.base64_json import data_from_json
from swarmpy.api.json_fields import Fields
from swarmpy.api.task_spec_json import HIDDEN
from swarmpy.api.timestamps import meta_to_json, rfc3339_nano
from swarmpy.control.versions import CONFIGS, FAMILIES, SECRETS, Family, Stored, services_using
from swarmpy.errors import InvalidArgument
from swarmpy.model.objects import Config, Kind, Secret
from swarmpy.model.specs import ConfigSpec, SecretSpec
from swarmpy.model.states import TaskState
from swarmpy.store.view import View


@attrs.frozen(kw_only=True)
class SentSpec:
    """What a client sent of a secret or config; None for what it did not say."""

    name: str
    labels: dict[str, str] | None
    data: bytes | None = attrs.field(repr=False)
    templating: str | None

    def of(self, family: Family) -> SecretSpec | ConfigSpec:
        """A new secret's, or config's, whole spec."""
        cls = SecretSpec if family is SECRETS else ConfigSpec
        return cls(name=self.name, labels=self.labels or {}, data=self.data or b"", templating=self.templating or "")


def sent_spec(fields: Fields, family: Family) -> SentSpec:
    """The spec of a secret or config that a client sent. Raises InvalidArgument."""
    driver = fields.nested("Driver")
    if driver.string("Name"):
        raise InvalidArgument(
            f"{family.word} driver {driver.string('Name')[:60]!r}: {family.word}s of drivers are not supported: "
            f"create the {family.word} with its data"
        )
    templating = fields.maybe_nested("Templating")
    if templating is not None:
        templating.refuse("Options")
    return SentSpec(
        name=fields.string("Name"),
        labels=fields.string_map("Labels") if fields.has("Labels") else None,
        data=data_from_json(fields.string("Data")) if fields.has("Data") else None,
        templating=None if templating is None else templating.string("Name"),
    )


def data_to_json(obj: Stored, *, is_of_admin: bool) -> dict[str, Any]:
    """A secret or config as lists show it: the data of a config only, and that to admins only."""
    spec: dict[str, Any] = {"Name": obj.spec.name, "Labels": dict(obj.spec.labels)}
    if isinstance(obj, Config):
        data = obj.spec.data if is_of_admin else HIDDEN.encode()
        spec["Data"] = base64.b64encode(data).decode()
    if obj.spec.templating:
        spec["Templating"] = {"Name": obj.spec.templating}
    return {"ID": obj.id, **meta_to_json(obj.meta), "Spec": spec, "Number": obj.number}


def inspected_to_json(view: View, obj: Stored, *, is_of_admin: bool) -> dict[str, Any]:
    """The same with the versions that there are, and who refers to which."""
    family = FAMILIES[Kind.SECRET if isinstance(obj, Secret) else Kind.CONFIG]
    versions = [_version_to_json(view, version) for version in family.versions(view, obj.spec.name)]
    return {**data_to_json(obj, is_of_admin=is_of_admin), "Versions": versions}


def _version_to_json(view: View, version: Stored) -> dict[str, Any]:
    using = services_using(view, (version,))
    kept = [s for s in view.services_referring(version.id) if not s.pending_delete and s not in using]
    running = [task for task in view.tasks_referring(version.id) if task.status.state == TaskState.RUNNING]
    return {
        "ID": version.id,
        "Number": version.number,
        "CreatedAt": rfc3339_nano(version.meta.created_at_ns),
        "Services": [service.spec.name for service in using],
        "PreviousOf": sorted(service.spec.name for service in kept),
        "RunningTasks": len(running),
    }


__all__ = [
    "CONFIGS",
    "SECRETS",
    "SentSpec",
    "data_to_json",
    "inspected_to_json",
    "sent_spec",
]
