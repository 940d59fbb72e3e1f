"""``ContainerSpec.Privileges`` as Docker's JSON, both ways."""

from __future__ import annotations

import base64
from typing import Any

from swarmpy.api.base64_json import data_from_json
from swarmpy.api.json_fields import Fields, given
from swarmpy.model.privileges import Privileges, Seccomp, SELinuxContext


def privileges_from_json(fields: Fields) -> Privileges | None:
    """What is asked for; None where it comes to nothing. Raises InvalidArgument, for a credential spec by its name."""
    fields.refuse("CredentialSpec", reason="it is for Windows, and nodes run Linux")
    selinux, seccomp, apparmor = (fields.maybe_nested(name) for name in ("SELinuxContext", "Seccomp", "AppArmor"))
    found = Privileges(
        selinux=_selinux_from_json(selinux) if selinux else None,
        seccomp=_seccomp_from_json(seccomp) if seccomp else None,
        apparmor=(apparmor.string("Mode") or "default") if apparmor else None,
        no_new_privileges=fields.boolean("NoNewPrivileges"),
    )
    return None if found == Privileges() else found


def privileges_to_json(privileges: Privileges | None) -> dict[str, Any]:
    """Docker's JSON; {} for none."""
    if privileges is None:
        return {}
    out = given(NoNewPrivileges=privileges.no_new_privileges)
    if privileges.selinux is not None:
        label = privileges.selinux
        words = {"User": label.user, "Role": label.role, "Type": label.type, "Level": label.level}
        out["SELinuxContext"] = {"Disable": label.disable, **words}
    if privileges.seccomp is not None:
        profile = base64.b64encode(privileges.seccomp.profile).decode()
        out["Seccomp"] = {"Mode": privileges.seccomp.mode, **given(Profile=profile)}
    if privileges.apparmor is not None:
        out["AppArmor"] = {"Mode": privileges.apparmor}
    return out


def _selinux_from_json(fields: Fields) -> SELinuxContext:
    return SELinuxContext(
        disable=fields.boolean("Disable"),
        user=fields.string("User"),
        role=fields.string("Role"),
        type=fields.string("Type"),
        level=fields.string("Level"),
    )


def _seccomp_from_json(fields: Fields) -> Seccomp:
    return Seccomp(mode=fields.string("Mode") or "default", profile=data_from_json(fields.string("Profile")))
