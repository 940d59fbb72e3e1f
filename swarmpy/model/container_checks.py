"""What a container may be asked to be: every text of its spec, checked before it reaches an engine or a file system.

The same checks are made at the door, before a spec is stored, and on the node, where its placeholders are known: a node
does not rely on what it is told. Messages are Docker's where it has one.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping

from swarmpy.errors import InvalidArgument
from swarmpy.model import grammar
from swarmpy.model.grammar import Check, bare, shown
from swarmpy.model.privileges import Privileges, Seccomp
from swarmpy.model.reference_checks import check_references
from swarmpy.model.specs import ContainerSpec, Healthcheck, LogDriver, Mount, NetworkAttachment, Ulimit
from swarmpy.model.template import map_templated, masked

MIN_HEALTH_NS = 1_000_000
PROPAGATIONS = ("", "rprivate", "private", "rshared", "shared", "rslave", "slave")
CONSISTENCIES = ("", "default", "consistent", "cached", "delegated")
MAX_TMPFS_MODE = 2**32 - 1
MAX_OOM_SCORE = 1000


def check_container(container: ContainerSpec) -> None:
    """Raises InvalidArgument for the first thing that is wrong with a spec whose placeholders are not replaced yet."""
    try:
        form = map_templated(container, masked)
    except ValueError as error:
        raise InvalidArgument(f"ContainerSpec: {error}") from None
    _check_texts(form)
    # Only here: services of versions before may have such options, which nodes leave out.
    for index, mount in enumerate(container.mounts):
        _checked(mount, _check_own_options, f"(ContainerSpec.Mounts[{index}])")
    # Two different placeholders look alike in their form.
    _check_places(container.mounts)


def check_expanded(container: ContainerSpec) -> None:
    """Raises InvalidArgument for the first thing that is wrong with a spec whose placeholders have been replaced."""
    _check_texts(container)
    _check_places(container.mounts)


def _check_texts(container: ContainerSpec) -> None:
    _check_image(container.image)
    _check_each("Command", container.command, grammar.check_text)
    _check_each("Args", container.args, grammar.check_text)
    for variable in container.env:
        _check("", variable, grammar.check_variable)
    _check_labels("Labels", container.labels)
    _check_given("Hostname", container.hostname, grammar.check_hostname)
    _check_given("Dir", container.dir, grammar.check_directory)
    _check_given("User", container.user, grammar.check_user)
    _check_each("Groups", container.groups, grammar.check_group)
    _check_given("StopSignal", container.stop_signal, grammar.check_signal)
    if container.stop_grace_period_ns is not None and container.stop_grace_period_ns < 0:
        raise InvalidArgument("ContainerSpec: StopGracePeriod cannot be negative")
    for index, mount in enumerate(container.mounts):
        _check_mount(mount, index)
    _check_each("Hosts", container.hosts, grammar.check_extra_host)
    _check_each("DNSConfig.Nameservers", container.dns_nameservers, grammar.check_address)
    _check_each("DNSConfig.Search", container.dns_search, grammar.check_search_domain)
    _check_each("DNSConfig.Options", container.dns_options, grammar.check_dns_option)
    _check_each("CapabilityAdd", container.capability_add, grammar.check_capability)
    _check_each("CapabilityDrop", container.capability_drop, grammar.check_capability)
    _check_each("Sysctls", container.sysctls, grammar.check_sysctl)
    _check_each("Sysctls", container.sysctls.values(), grammar.check_line)
    for limit in container.ulimits:
        _check_ulimit(limit)
    if not -MAX_OOM_SCORE <= container.oom_score_adj <= MAX_OOM_SCORE:
        raise InvalidArgument(f"ContainerSpec: OomScoreAdj must be from -{MAX_OOM_SCORE} to {MAX_OOM_SCORE}")
    _check_privileges(container.privileges)
    _check_health(container.healthcheck)
    check_references(container)


def _check_image(image: str) -> None:
    if not image:
        raise InvalidArgument("ContainerSpec: image reference must be provided")
    if not grammar.is_image(image):
        # In the quotes that Docker's message has.
        raise InvalidArgument(
            f'ContainerSpec: "{bare(image)}" is not a valid repository/tag: write '
            "[registry/]name[:tag][@digest], the name in lower case"
        )


def check_log_driver(driver: LogDriver | None) -> None:
    """Raises InvalidArgument."""
    if driver is not None:
        _check_given("LogDriver", driver.name, grammar.check_driver, where="TaskSpec")
        _check_options("LogDriver.Options", driver.options, where="TaskSpec")


def check_networks(networks: Iterable[NetworkAttachment]) -> None:
    """Raises InvalidArgument."""
    for network in networks:
        _check("Networks", network.target, grammar.check_object_name, where="TaskSpec")
        _check_each("Networks.Aliases", network.aliases, grammar.check_host, where="TaskSpec")


def _check(field: str, text: str, check: Check, *, where: str = "ContainerSpec") -> None:
    try:
        check(text)
    except ValueError as error:
        raise InvalidArgument(f"{where}: {field}: {error}" if field else f"{where}: {error}") from None


def _check_given(field: str, text: str, check: Check, *, where: str = "ContainerSpec") -> None:
    if text:
        _check(field, text, check, where=where)


def _check_each(field: str, texts: Iterable[str], check: Check, *, where: str = "ContainerSpec") -> None:
    for text in texts:
        _check(field, text, check, where=where)


def _check_labels(field: str, labels: Mapping[str, str]) -> None:
    _check_each(field, labels, grammar.check_label)
    _check_each(field, labels.values(), grammar.check_text)


def _check_options(field: str, options: Mapping[str, str], *, where: str = "ContainerSpec") -> None:
    """Of a driver: what they mean is its affair."""
    for name, value in options.items():
        _check(field, name, grammar.check_line, where=where)
        _check(field, value, grammar.check_text, where=where)


def _check_ulimit(limit: Ulimit) -> None:
    _check("Ulimits", limit.name, grammar.check_ulimit)
    if limit.soft < -1 or limit.hard < -1:
        raise InvalidArgument(f"ContainerSpec: Ulimits: {limit.name}: a limit is a number, or -1 for none")
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        raise InvalidArgument(
            f"ContainerSpec: Ulimits: {limit.name}: the soft limit {limit.soft} is above the hard limit {limit.hard}"
        )


# -- privileges ------------------------------------------------------------------------------------------------------


def _check_privileges(privileges: Privileges | None) -> None:
    if privileges is None:
        return
    if (label := privileges.selinux) is not None:
        words = (label.user, label.role, label.type, label.level)
        for word in words:
            _check_given("Privileges.SELinuxContext", word, grammar.check_security_word)
        if label.disable and any(words):
            raise InvalidArgument(
                "ContainerSpec: Privileges.SELinuxContext: it is disabled and has a label, choose one"
            )
    if privileges.seccomp is not None:
        _check_seccomp(privileges.seccomp)
    if privileges.apparmor not in (None, "default", "disabled"):
        raise InvalidArgument(
            f"ContainerSpec: Privileges.AppArmor: unknown mode {shown(privileges.apparmor)}, use default or disabled"
        )


def _check_seccomp(seccomp: Seccomp) -> None:
    where = "ContainerSpec: Privileges.Seccomp"
    if seccomp.mode not in ("default", "unconfined", "custom"):
        raise InvalidArgument(f"{where}: unknown mode {shown(seccomp.mode)}, use default, unconfined or custom")
    if bool(seccomp.profile) != (seccomp.mode == "custom"):
        raise InvalidArgument(f"{where}: a profile belongs to the mode custom, and no other")
    if seccomp.profile:
        try:
            is_object = isinstance(json.loads(seccomp.profile.decode()), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise InvalidArgument(f"{where}: the profile is no JSON object")


# -- mounts -----------------------------------------------------------------------------------------------------------


def _check_places(mounts: Iterable[Mount]) -> None:
    targets: set[str] = set()
    for mount in mounts:
        place = _normal(mount.target)
        if place in targets:
            raise InvalidArgument(f"ContainerSpec: duplicate mount point: {bare(mount.target)}")
        targets.add(place)


def _normal(path: str) -> str:
    # Python keeps two slashes at the beginning, which mean something on other systems.
    return posixpath.normpath("/" + path.lstrip("/"))


def _check_mount(mount: Mount, index: int) -> None:
    where = f"(ContainerSpec.Mounts[{index}])"
    if mount.type not in ("bind", "volume", "tmpfs"):
        raise InvalidArgument(f"mount type unknown: {shown(mount.type)}, use bind, volume or tmpfs {where}")
    for check in (_check_target, _check_source, _check_mount_options):
        _checked(mount, check, where)


def _checked(mount: Mount, check: Callable[[Mount], None], where: str) -> None:
    try:
        check(mount)
    except ValueError as error:
        raise InvalidArgument(f'invalid mount config for type "{mount.type}": {error} {where}') from None


def _check_target(mount: Mount) -> None:
    target = mount.target
    if not target:
        raise ValueError("field Target must not be empty")
    grammar.check_path(target)
    if _normal(target) == "/":
        raise ValueError("invalid specification: destination can't be '/'")


def _check_source(mount: Mount) -> None:
    if mount.type == "bind":
        if not mount.source:
            raise ValueError("field Source must not be empty")
        grammar.check_path(mount.source)
    elif mount.type == "tmpfs":
        if mount.source:
            raise ValueError("field Source must not be specified")
    elif mount.source and mount.volume_driver in ("", "local"):
        grammar.check_volume_name(mount.source)
    elif mount.source:
        grammar.check_line(mount.source)


def _check_mount_options(mount: Mount) -> None:
    if mount.consistency not in CONSISTENCIES:
        raise ValueError(
            f"unknown consistency {shown(mount.consistency)}, use {', '.join(filter(None, CONSISTENCIES))}"
        )
    if mount.bind_propagation not in PROPAGATIONS:
        known = ", ".join(filter(None, PROPAGATIONS))
        raise ValueError(f"unknown propagation {shown(mount.bind_propagation)}, use {known}")
    if mount.volume_driver:
        grammar.check_driver(mount.volume_driver)
    for name, value in (*mount.volume_labels.items(), *mount.volume_driver_opts.items()):
        grammar.check_label(name)
        grammar.check_text(value)
    if mount.volume_subpath:
        _check_subpath(mount)
    _check_recursion(mount)
    if mount.tmpfs_size_bytes < 0:
        raise ValueError("tmpfs size must not be negative")
    if not 0 <= mount.tmpfs_mode <= MAX_TMPFS_MODE:
        raise ValueError(f"tmpfs mode must be from 0 to {MAX_TMPFS_MODE:o}")


def _check_own_options(mount: Mount) -> None:
    """The options of a type of mount have no meaning for another."""
    given = {
        "bind": (
            "BindOptions",
            (
                mount.bind_propagation,
                mount.bind_non_recursive,
                mount.bind_create_mountpoint,
                mount.bind_read_only_non_recursive,
                mount.bind_read_only_force_recursive,
            ),
        ),
        "volume": (
            "VolumeOptions",
            (
                mount.volume_no_copy,
                mount.volume_labels,
                mount.volume_driver,
                mount.volume_driver_opts,
                mount.volume_subpath,
            ),
        ),
        "tmpfs": ("TmpfsOptions", (mount.tmpfs_size_bytes, mount.tmpfs_mode)),
    }
    for kind, (name, values) in given.items():
        if kind != mount.type and any(values):
            raise ValueError(f"field {name} must not be specified")


def _check_subpath(mount: Mount) -> None:
    """A path that cannot lead out of the volume."""
    path = mount.volume_subpath
    if not mount.source:
        raise ValueError("a subpath needs a volume with a name")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"subpath {shown(path)} must be a relative path within the volume, without '..'")
    grammar.check_line(path)


def _check_recursion(mount: Mount) -> None:
    partly, wholly = mount.bind_read_only_non_recursive, mount.bind_read_only_force_recursive
    if (partly or wholly) and not mount.read_only:
        raise ValueError("ReadOnlyNonRecursive and ReadOnlyForceRecursive need a mount that is read-only")
    if wholly and (partly or mount.bind_non_recursive):
        raise ValueError("ReadOnlyForceRecursive does not go with ReadOnlyNonRecursive or NonRecursive")
    if wholly and mount.bind_propagation not in ("", "rprivate"):
        raise ValueError("ReadOnlyForceRecursive needs the propagation rprivate")


# -- health -----------------------------------------------------------------------------------------------------------


def _check_health(check: Healthcheck | None) -> None:
    if check is None:
        return
    if check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"Healthcheck: test must start with NONE, CMD or CMD-SHELL, not {shown(check.test[0])}")
    if check.test and check.test[0] != "NONE" and len(check.test) < 2:
        raise InvalidArgument(f"Healthcheck: {check.test[0]} needs a command")
    _check_each("Healthcheck", check.test, grammar.check_text)
    for name, value in (
        ("Interval", check.interval_ns),
        ("Timeout", check.timeout_ns),
        ("StartPeriod", check.start_period_ns),
        ("StartInterval", check.start_interval_ns),
    ):
        if value and value < MIN_HEALTH_NS:
            raise InvalidArgument(f"ContainerSpec: {name} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidArgument("ContainerSpec: Retries in Healthcheck cannot be negative")
