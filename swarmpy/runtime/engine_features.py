"""What of a spec needs more than the oldest engine that is worked with: security options, and newer APIs. Pure.

An engine ignores fields that it does not know. So what needs a newer API than the node's engine has is refused there.
"""

from __future__ import annotations

from collections.abc import Iterator

from swarmpy.errors import TaskRejected
from swarmpy.model.privileges import Privileges
from swarmpy.model.specs import ContainerSpec

ApiVersion = tuple[int, int]

# As Docker's API history has it (docs.docker.com/reference/api/engine/version-history).
_CREATE_MOUNTPOINT: ApiVersion = (1, 42)
_START_INTERVAL: ApiVersion = (1, 44)
_READ_ONLY_RECURSIVE: ApiVersion = (1, 44)
_SUBPATH: ApiVersion = (1, 45)


def security_options(privileges: Privileges | None) -> list[str]:
    """``HostConfig.SecurityOpt``."""
    if privileges is None:
        return []
    options = []
    if (label := privileges.selinux) is not None:
        parts = {"user": label.user, "role": label.role, "type": label.type, "level": label.level}
        options += ["label=disable"] if label.disable else []
        options += [f"label={name}:{value}" for name, value in parts.items() if value]
    if (seccomp := privileges.seccomp) is not None and seccomp.mode != "default":
        profile = seccomp.profile.decode() if seccomp.mode == "custom" else seccomp.mode
        options.append(f"seccomp={profile}")
    if privileges.apparmor == "disabled":
        options.append("apparmor=unconfined")
    if privileges.no_new_privileges:
        options.append("no-new-privileges=true")
    return options


def check_engine(spec: ContainerSpec, version: str) -> None:
    """Raise TaskRejected when an engine with this version of the API would ignore something that is asked for."""
    has = _parsed(version)
    for name, needed in _needs(spec):
        if has is not None and has < needed:
            wanted = ".".join(map(str, needed))
            raise TaskRejected(f"{name} needs an engine with API {wanted} or later, and this node's has {version}")


def _needs(spec: ContainerSpec) -> Iterator[tuple[str, ApiVersion]]:
    if spec.healthcheck is not None and spec.healthcheck.start_interval_ns:
        yield "StartInterval of the health check", _START_INTERVAL
    for mount in spec.mounts:
        asked = {
            "BindOptions.CreateMountpoint": (mount.bind_create_mountpoint, _CREATE_MOUNTPOINT),
            "BindOptions.ReadOnlyNonRecursive": (mount.bind_read_only_non_recursive, _READ_ONLY_RECURSIVE),
            "BindOptions.ReadOnlyForceRecursive": (mount.bind_read_only_force_recursive, _READ_ONLY_RECURSIVE),
            "VolumeOptions.Subpath": (mount.volume_subpath, _SUBPATH),
        }
        for name, (value, needed) in asked.items():
            if value:
                yield f"{name} of the mount {mount.target}", needed


def _parsed(version: str) -> ApiVersion | None:
    """None for what is no version: an engine that says none is taken at its word about nothing."""
    major, _, minor = version.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
