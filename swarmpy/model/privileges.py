"""What a container may do beyond, or less than, what engines allow by default: a part of its spec.

Names and meaning are those of ``ContainerSpec.Privileges`` of Docker's API (SELinux since 1.29, the rest since 1.44).
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class SELinuxContext:
    """The SELinux label of the processes; what is "" is up to the engine."""

    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@attrs.frozen(kw_only=True)
class Seccomp:
    """Which system calls there are. ``mode``: ``default`` (the engine's own), ``unconfined`` or ``custom``."""

    mode: str = "default"
    profile: bytes = b""
    """Of ``custom``: the profile, a JSON object in Docker's format."""


@attrs.frozen(kw_only=True)
class Privileges:
    """All of it. None: the engine's default."""

    selinux: SELinuxContext | None = None
    seccomp: Seccomp | None = None
    apparmor: str | None = None
    """``default`` (the engine's profile) or ``disabled``."""
    no_new_privileges: bool = False
    """No program gains rights by being executed, set-user-ID or not."""
