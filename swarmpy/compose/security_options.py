"""``security_opt`` of a service: what of it a container's privileges can say. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from swarmpy.model.privileges import Privileges, Seccomp, SELinuxContext

_LABEL_PARTS = ("user", "role", "type", "level")


def privileges(options: Iterable[str]) -> tuple[Privileges | None, tuple[str, ...]]:
    """What the options come to, None for nothing, and those that cannot be done."""
    found = Privileges()
    left = []
    for option in options:
        # As engines read it: the older sign counts where the newer is nowhere.
        name, _, value = option.partition("=" if "=" in option else ":")
        changed = _label(found, value) if name == "label" else _with(found, name, value)
        if changed is None:
            left.append(option)
        else:
            found = changed
    return (None if found == Privileges() else found), tuple(left)


def _with(found: Privileges, name: str, value: str) -> Privileges | None:
    match name, value:
        case "no-new-privileges", "" | "true" | "false":
            return attrs.evolve(found, no_new_privileges=value != "false")
        case "seccomp", "unconfined":
            return attrs.evolve(found, seccomp=Seccomp(mode="unconfined"))
        case "apparmor", "unconfined":
            return attrs.evolve(found, apparmor="disabled")
    return None


def _label(found: Privileges, value: str) -> Privileges | None:
    if value == "disable":
        return attrs.evolve(found, selinux=SELinuxContext(disable=True))
    part, _, word = value.partition(":")
    if part not in _LABEL_PARTS or not word:
        return None
    changes: dict[str, Any] = {part: word}
    return attrs.evolve(found, selinux=attrs.evolve(found.selinux or SELinuxContext(), **changes))
