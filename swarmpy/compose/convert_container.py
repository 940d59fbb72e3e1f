"""The container of a service: command, environment, mounts, health, limits. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

import attrs

from swarmpy.compose import security_options, shortforms, units
from swarmpy.compose.load import ComposeFile
from swarmpy.compose.yaml_reader import Path
from swarmpy.errors import ComposeError
from swarmpy.model.specs import ContainerSpec, Healthcheck, Mount, Ulimit


@attrs.frozen(kw_only=True)
class Scope:
    """What the conversion of a value needs to know of the whole."""

    compose: ComposeFile
    stack: str
    namespace_label: str

    def error(self, path: Path, reason: str) -> ComposeError:
        """The error of what stands at ``path``."""
        return self.compose.document.error(path, reason)

    def section(self, key: str) -> Mapping[str, Any]:
        """A section of the top of the file."""
        section: Mapping[str, Any] = self.compose.document.data.get(key, {})
        return section

    def full_name(self, section: str, name: str) -> str:
        """The name in the cluster of an entry of ``section``: as declared, or ``STACK_name``."""
        entry = self.section(section).get(name) or {}
        external = entry.get("external")
        if external:
            nested = external.get("name", "") if isinstance(external, dict) else ""
            return str(nested or entry.get("name", "") or name)
        return str(entry.get("name", "") or f"{self.stack}_{name}")


def container_spec(scope: Scope, name: str, service: Mapping[str, Any], image: str) -> ContainerSpec:
    """The container of the service ``name``. Raises ComposeError."""
    path: Path = ("services", name)
    environment = scope.compose.environments.get(name, {})
    add, drop = _capabilities(service)
    return ContainerSpec(
        image=image,
        labels={**shortforms.labels(service.get("labels")), scope.namespace_label: scope.stack},
        command=shortforms.command_line(service.get("entrypoint")),
        args=shortforms.command_line(service.get("command")),
        env=tuple(sorted(key if value is None else f"{key}={value}" for key, value in environment.items())),
        hostname=service.get("hostname", ""),
        dir=service.get("working_dir", ""),
        user=service.get("user", ""),
        tty=service.get("tty", False),
        open_stdin=service.get("stdin_open", False),
        read_only=service.get("read_only", False),
        init=service.get("init"),
        stop_signal=service.get("stop_signal", ""),
        stop_grace_period_ns=units.parse_duration(service["stop_grace_period"])
        if "stop_grace_period" in service
        else None,
        healthcheck=_healthcheck(scope, path, service.get("healthcheck")),
        mounts=_mounts(scope, path, service),
        hosts=shortforms.extra_hosts(service.get("extra_hosts")),
        dns_nameservers=shortforms.string_list(service.get("dns")),
        dns_search=shortforms.string_list(service.get("dns_search")),
        capability_add=add,
        capability_drop=drop,
        sysctls=shortforms.labels(service.get("sysctls")),
        ulimits=_ulimits(service.get("ulimits") or {}),
        oom_score_adj=int(service.get("oom_score_adj", 0)),
        privileges=security_options.privileges(service.get("security_opt", ()))[0],
    )


# -- health and limits ------------------------------------------------------------------------------------------------


def _healthcheck(scope: Scope, path: Path, given: Mapping[str, Any] | None) -> Healthcheck | None:
    if given is None:
        return None
    at = (*path, "healthcheck", "test")
    test = given.get("test", ())
    words = ("CMD-SHELL", test) if isinstance(test, str) and test else tuple(test)
    if words and words[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise scope.error(at, f"the first item is {words[0]!r}, but must be NONE, CMD or CMD-SHELL")
    if given.get("disable"):
        if words and words[0] != "NONE":
            raise scope.error(at, "test and disable: true exclude each other: remove one of them")
        return Healthcheck(test=("NONE",))
    nanoseconds = {
        f"{key}_ns": units.parse_duration(given[key])
        for key in ("interval", "timeout", "start_period", "start_interval")
        if key in given
    }
    return Healthcheck(test=words, retries=int(given.get("retries", 0)), **nanoseconds)


def _ulimits(given: Mapping[str, Any]) -> tuple[Ulimit, ...]:
    return tuple(
        Ulimit(
            name=name,
            soft=int(limit["soft"] if isinstance(limit, dict) else limit),
            hard=int(limit["hard"] if isinstance(limit, dict) else limit),
        )
        for name, limit in sorted(given.items())
    )


def _capabilities(service: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Capabilities to add and to drop, in the kernel's spelling; adding beats dropping, ALL stands for every one."""
    add = {shortforms.capability(name) for name in service.get("cap_add", ())}
    drop = {shortforms.capability(name) for name in service.get("cap_drop", ())}
    if "ALL" in drop:
        drop = {"ALL"}
    if "ALL" in add:
        add = {"ALL"}
    drop -= add
    return tuple(sorted(add)), tuple(sorted(drop))


# -- mounts -----------------------------------------------------------------------------------------------------------


def _mounts(scope: Scope, path: Path, service: Mapping[str, Any]) -> tuple[Mount, ...]:
    mounts = []
    for index, entry in enumerate(service.get("volumes") or ()):
        at = (*path, "volumes", index)
        mount = _long_mount(scope, at, entry) if isinstance(entry, dict) else shortforms.parse_volume(entry)
        mounts.append(_placed(scope, at, mount))
    mounts += [shortforms.parse_tmpfs(text) for text in shortforms.string_list(service.get("tmpfs"))]
    targets: set[str] = set()
    for mount in mounts:
        if mount.target in targets:
            raise scope.error((*path, "volumes"), f"two mounts on {mount.target!r}: a place can be mounted on once")
        targets.add(mount.target)
    return tuple(mounts)


def _long_mount(scope: Scope, at: Path, entry: Mapping[str, Any]) -> Mount:
    kind = entry["type"]
    if kind not in ("bind", "volume", "tmpfs"):
        known = kind in ("npipe", "cluster")
        raise scope.error(
            (*at, "type"),
            f"mounts of type {kind} are not available" if known else f"unknown type {kind!r}: bind, volume or tmpfs",
        )
    if not entry.get("target"):
        raise scope.error(at, "the mount needs a target")
    propagation = entry.get("bind", {}).get("propagation", "")
    if propagation not in ("", *shortforms.PROPAGATIONS):
        raise scope.error((*at, "bind", "propagation"), f"unknown propagation {propagation!r}")
    for option in ("bind", "volume", "tmpfs"):
        if option in entry and option != kind:
            raise scope.error((*at, option), f"the options of {option} do not go with the type {kind}")
    if kind == "bind" and not entry.get("source"):
        raise scope.error(at, "a bind mount needs a source")
    if kind == "tmpfs" and entry.get("source"):
        raise scope.error((*at, "source"), "a tmpfs has no source")
    return Mount(
        type=kind,
        source=entry.get("source", ""),
        target=entry["target"],
        read_only=entry.get("read_only", False),
        bind_propagation=propagation,
        volume_no_copy=entry.get("volume", {}).get("nocopy", False),
        volume_subpath=entry.get("volume", {}).get("subpath", ""),
        tmpfs_size_bytes=int(entry.get("tmpfs", {}).get("size", 0)),
    )


def _placed(scope: Scope, at: Path, mount: Mount) -> Mount:
    """The mount with its source made absolute, or its volume looked up."""
    if mount.type == "bind":
        source = mount.source
        if source == "~" or source.startswith("~/"):
            source = scope.compose.home + source[1:]
        if not source.startswith("/"):
            source = posixpath.normpath(posixpath.join(scope.compose.directory, source))
        elif ".." in source.split("/"):
            # As the engine reads it: ``..`` takes the name before it away.
            source = posixpath.normpath(source)
        return attrs.evolve(mount, source=source)
    if mount.type == "tmpfs" or not mount.source:
        return mount
    declared = scope.section("volumes")
    if mount.source not in declared:
        raise scope.error(at, f"undefined volume {mount.source!r}: declare it under the top-level volumes key")
    volume = declared[mount.source] or {}
    name = scope.full_name("volumes", mount.source)
    if volume.get("external"):
        return attrs.evolve(mount, source=name)
    return attrs.evolve(
        mount,
        source=name,
        volume_labels={**shortforms.labels(volume.get("labels")), scope.namespace_label: scope.stack},
        volume_driver=volume.get("driver", ""),
        volume_driver_opts=shortforms.labels(volume.get("driver_opts")),
    )
