"""``Secrets`` and ``Configs`` of a ``ContainerSpec`` as Docker's JSON, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swarmpy.api.json_fields import Fields
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.specs import ConfigReference, FileTarget, SecretReference

_DEFAULT_MODE = 0o444
_MAX_MODE = 2**32 - 1
"""What Go's ``FileMode`` holds; what is a mode is checked with the spec."""


def secrets_from_json(fields: Fields) -> tuple[SecretReference, ...]:
    """The secrets of a container spec. Raises InvalidArgument."""
    return tuple(
        SecretReference(
            secret_id=SecretId(reference.string("SecretID")),
            secret_name=reference.string("SecretName"),
            file=_file_from_json(reference, "secret"),
        )
        for reference in fields.nested_list("Secrets")
    )


def configs_from_json(fields: Fields) -> tuple[ConfigReference, ...]:
    """The configs of a container spec. Raises InvalidArgument."""
    references = fields.nested_list("Configs")
    for reference in references:
        if reference.has("Runtime"):
            raise InvalidArgument(f"{reference.path_of('Runtime')} is not supported: a config is a file of the task")
    return tuple(
        ConfigReference(
            config_id=ConfigId(reference.string("ConfigID")),
            config_name=reference.string("ConfigName"),
            file=_file_from_json(reference, "config"),
        )
        for reference in references
    )


def secrets_to_json(references: Iterable[SecretReference]) -> list[dict[str, Any]]:
    """Docker's JSON."""
    return [{"File": _file_to_json(r.file), "SecretID": r.secret_id, "SecretName": r.secret_name} for r in references]


def configs_to_json(references: Iterable[ConfigReference]) -> list[dict[str, Any]]:
    """Docker's JSON."""
    return [{"File": _file_to_json(r.file), "ConfigID": r.config_id, "ConfigName": r.config_name} for r in references]


def _file_from_json(reference: Fields, word: str) -> FileTarget:
    file = reference.maybe_nested("File")
    if file is None:
        raise InvalidArgument(f"malformed {word} reference, no target provided")
    mode = file.maybe_integer("Mode", most=_MAX_MODE)
    return FileTarget(
        name=file.string("Name"),
        uid=file.string("UID") or "0",
        gid=file.string("GID") or "0",
        mode=_DEFAULT_MODE if mode is None else mode,
    )


def _file_to_json(file: FileTarget) -> dict[str, Any]:
    return {"Name": file.name, "UID": file.uid, "GID": file.gid, "Mode": file.mode}
