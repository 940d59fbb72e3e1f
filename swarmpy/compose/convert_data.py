"""Secrets and configs of a stack file: what is to be created, and what services refer to. Pure.

References have names and no ids: which object has a name is known when the stack is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmpy.compose import shortforms
from swarmpy.compose.convert_container import Scope
from swarmpy.compose.yaml_reader import Path
from swarmpy.errors import InvalidArgument
from swarmpy.model.data_checks import check_config, check_secret
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.specs import ConfigReference, ConfigSpec, FileTarget, SecretReference, SecretSpec

UNRESOLVED = "unresolved"
"""Stands for the id in a reference of which only the name is known."""


def secret_specs(scope: Scope) -> tuple[SecretSpec, ...]:
    """The secrets that the file declares, those made elsewhere left out. Raises ComposeError."""
    found = []
    for name, entry in _declared(scope, "secrets"):
        spec = SecretSpec(**_fields(scope, "secrets", name, entry))
        try:
            check_secret(spec)
        except InvalidArgument as error:
            raise scope.error(("secrets", name), str(error)) from error
        found.append(spec)
    return tuple(found)


def config_specs(scope: Scope) -> tuple[ConfigSpec, ...]:
    """The same of configs."""
    found = []
    for name, entry in _declared(scope, "configs"):
        spec = ConfigSpec(**_fields(scope, "configs", name, entry))
        try:
            check_config(spec)
        except InvalidArgument as error:
            raise scope.error(("configs", name), str(error)) from error
        found.append(spec)
    return tuple(found)


def _declared(scope: Scope, section: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, entry or {}) for name, entry in scope.section(section).items() if not (entry or {}).get("external")]


def _fields(scope: Scope, section: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    if entry.get("driver"):
        raise scope.error(
            (section, name, "driver"), "drivers are not supported: put the data in a file and name it by 'file'"
        )
    return {
        "name": scope.full_name(section, name),
        "labels": {**shortforms.labels(entry.get("labels")), scope.namespace_label: scope.stack},
        "data": scope.compose.data[section, name],
        "templating": entry.get("template_driver", ""),
    }


def secret_references(scope: Scope, path: Path, given: Any) -> tuple[SecretReference, ...]:
    """The secrets of a service, by name, so that another order in the file is no update. Raises ComposeError."""
    found = [
        SecretReference(secret_id=SecretId(UNRESOLVED), secret_name=name, file=file)
        for name, file in _references(scope, path, "secrets", given)
    ]
    return tuple(sorted(found, key=lambda reference: reference.secret_name))


def config_references(scope: Scope, path: Path, given: Any) -> tuple[ConfigReference, ...]:
    """The same of configs."""
    found = [
        ConfigReference(config_id=ConfigId(UNRESOLVED), config_name=name, file=file)
        for name, file in _references(scope, path, "configs", given)
    ]
    return tuple(sorted(found, key=lambda reference: reference.config_name))


def _references(scope: Scope, path: Path, section: str, given: Any) -> list[tuple[str, FileTarget]]:
    declared = scope.section(section)
    found = []
    for index, entry in enumerate(given or ()):
        at = (*path, section, index)
        long: Mapping[str, Any] = entry if isinstance(entry, dict) else {"source": entry}
        source = long["source"]
        if source not in declared:
            raise scope.error(at, f"undefined {section[:-1]} {source!r}: declare it under the top-level {section} key")
        file = FileTarget(
            name=long.get("target") or source,
            uid=long.get("uid") or "0",
            gid=long.get("gid") or "0",
            mode=int(long.get("mode", 0o444)),
        )
        found.append((scope.full_name(section, source), file))
    return found
