"""What a spec must be before it is stored. Messages are Docker's where it has one, with the offending value."""

from __future__ import annotations

import re
from collections.abc import Iterable

from swarmpy.control.constraints import ENGINE_LABEL, NODE_LABEL, Constraint
from swarmpy.errors import InvalidArgument
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Healthcheck,
    Mount,
    NodeSpec,
    Placement,
    PortConfig,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import ServiceMode

MAX_NAME_LENGTH = 63
MIN_NANO_CPUS = 1_000_000
MIN_MEMORY_BYTES = 4 * 1024 * 1024
MIN_HEALTH_NS = 1_000_000
MAX_PORT = 65_535

_DNS_NAME = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")
_PROTOCOLS = ("tcp", "udp", "sctp")


def validate_service_spec(spec: ServiceSpec) -> None:
    """Raises InvalidArgument for the first thing that is wrong with it."""
    _check_name(spec.name)
    if spec.mode is ServiceMode.GLOBAL and spec.replicas is not None:
        raise InvalidArgument("replicas can only be used with replicated mode: leave them out of a global service")
    if spec.desired_replicas < 0:
        raise InvalidArgument(f"Number of replicas must be non-negative: {spec.desired_replicas}")
    _check_task(spec.task)
    if spec.mode is ServiceMode.GLOBAL and spec.task.placement and spec.task.placement.max_replicas:
        raise InvalidArgument("MaxReplicas can only be used with replicated mode")
    _check_update(spec.update, "update", ("pause", "continue", "rollback"))
    _check_update(spec.rollback, "rollback", ("pause", "continue"))
    _check_endpoint(spec.endpoint)


def validate_service_update(old: ServiceSpec, new: ServiceSpec) -> None:
    """What an update may not change. Raises InvalidArgument, also for all that is wrong with ``new`` itself."""
    if new.name != old.name:
        raise InvalidArgument("renaming services is not supported")
    if new.mode is not old.mode:
        raise InvalidArgument("service mode change is not allowed")
    validate_service_spec(new)


def validate_node_spec(spec: NodeSpec) -> None:
    """Raises InvalidArgument. Role and availability are enumerations and cannot be wrong any more."""
    if spec.name:
        _check_name(spec.name)
    _check_labels(spec.labels, "node")


def _check_name(name: str) -> None:
    if not name or not _DNS_NAME.fullmatch(name):
        raise InvalidArgument("name must be valid as a DNS name component")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidArgument(f"name must be {MAX_NAME_LENGTH} characters or fewer")


def _check_labels(labels: Iterable[str], what: str) -> None:
    if any(not key.strip() for key in labels):
        raise InvalidArgument(f"a {what} label has an empty name")


def _check_task(task: TaskSpec) -> None:
    _check_container(task.container)
    if task.resources is not None:
        _check_resources(task.resources.limits)
        _check_resources(task.resources.reservations)
    _check_restart(task.restart)
    _check_placement(task.placement)


# -- containers -----------------------------------------------------------------------------------------------------


def _check_container(container: ContainerSpec) -> None:
    if not container.image:
        raise InvalidArgument("ContainerSpec: image reference must be provided")
    if any(c.isspace() for c in container.image):
        raise InvalidArgument(f'ContainerSpec: "{container.image}" is not a valid repository/tag')
    _check_not_negative("ContainerSpec: StopGracePeriod", container.stop_grace_period_ns)
    for variable in container.env:
        if not variable.partition("=")[0]:
            raise InvalidArgument(f"ContainerSpec: invalid environment variable {variable!r}: it has no name")
    targets: set[str] = set()
    for mount in container.mounts:
        _check_mount(mount)
        if mount.target in targets:
            raise InvalidArgument(f"ContainerSpec: duplicate mount point: {mount.target}")
        targets.add(mount.target)
    _check_health(container.healthcheck)


def _check_mount(mount: Mount) -> None:
    where = f'invalid mount config for type "{mount.type}"'
    if mount.type not in ("bind", "volume", "tmpfs"):
        raise InvalidArgument(f"mount type unknown: {mount.type!r}, use bind, volume or tmpfs")
    if not mount.target:
        raise InvalidArgument(f"{where}: field Target must not be empty")
    if not mount.target.startswith("/"):
        raise InvalidArgument(f"{where}: invalid mount path: '{mount.target}' mount path must be absolute")
    if mount.target.rstrip("/") == "":
        raise InvalidArgument(f"{where}: invalid specification: destination can't be '/'")
    if mount.type == "bind" and not mount.source:
        raise InvalidArgument(f"{where}: field Source must not be empty")
    if mount.type == "bind" and not mount.source.startswith("/"):
        raise InvalidArgument(f"{where}: invalid mount path: '{mount.source}' mount path must be absolute")
    if mount.type == "tmpfs" and mount.source:
        raise InvalidArgument(f"{where}: field Source must not be specified")
    if mount.tmpfs_size_bytes < 0:
        raise InvalidArgument(f"{where}: tmpfs size must not be negative")


def _check_health(check: Healthcheck | None) -> None:
    if check is None:
        return
    if check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"Healthcheck: test must start with NONE, CMD or CMD-SHELL, not {check.test[0]!r}")
    if check.test and check.test[0] != "NONE" and len(check.test) < 2:
        raise InvalidArgument(f"Healthcheck: {check.test[0]} needs a command")
    for name, value in (
        ("Interval", check.interval_ns),
        ("Timeout", check.timeout_ns),
        ("StartPeriod", check.start_period_ns),
    ):
        if value and value < MIN_HEALTH_NS:
            raise InvalidArgument(f"ContainerSpec: {name} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise InvalidArgument("ContainerSpec: Retries in Healthcheck cannot be negative")


# -- resources, restart, placement ------------------------------------------------------------------------------------


def _check_resources(resources: Resources | None) -> None:
    if resources is None:
        return
    if resources.memory_bytes and resources.memory_bytes < MIN_MEMORY_BYTES:
        raise InvalidArgument(f"invalid memory value {resources.memory_bytes}: Must be at least 4MiB")
    if resources.nano_cpus and resources.nano_cpus < MIN_NANO_CPUS:
        raise InvalidArgument(
            f"invalid cpu value {resources.nano_cpus / 1e9:g}: Must be at least {MIN_NANO_CPUS / 1e9:g}"
        )
    if resources.pids < 0:
        raise InvalidArgument(f"invalid pids limit {resources.pids}: must not be negative")


def _check_restart(policy: RestartPolicy | None) -> None:
    if policy is None:
        return
    if policy.condition not in (None, "any", "on-failure", "none"):
        raise InvalidArgument(f'invalid RestartCondition: "{policy.condition}"')
    _check_not_negative("TaskSpec: restart-delay", policy.delay_ns)
    _check_not_negative("TaskSpec: restart-window", policy.window_ns)
    _check_not_negative("TaskSpec: restart-max-attempts", policy.max_attempts)


def _check_placement(placement: Placement | None) -> None:
    if placement is None:
        return
    for text in placement.constraints:
        Constraint.parse(text)
    for key in placement.spread:
        if not key.lower().startswith((NODE_LABEL, ENGINE_LABEL)):
            raise InvalidArgument(f"invalid spread preference {key!r}: use {NODE_LABEL}NAME or {ENGINE_LABEL}NAME")
    _check_not_negative("Placement: MaxReplicas", placement.max_replicas)


def _check_update(config: UpdateConfig | None, what: str, actions: tuple[str, ...]) -> None:
    if config is None:
        return
    if config.failure_action is not None and config.failure_action not in actions:
        raise InvalidArgument(f"unrecognized {what} failure action {config.failure_action}")
    if config.order not in (None, "stop-first", "start-first"):
        raise InvalidArgument(f"unrecognized {what} order {config.order}")
    _check_not_negative(f"TaskSpec: {what}-parallelism", config.parallelism)
    _check_not_negative(f"TaskSpec: {what}-delay", config.delay_ns)
    _check_not_negative(f"TaskSpec: {what}-monitor", config.monitor_ns)
    ratio = config.max_failure_ratio
    if ratio is not None and not 0 <= ratio <= 1:
        raise InvalidArgument(f"TaskSpec: {what}-maxfailureratio cannot be less than 0 or bigger than 1: {ratio}")


def _check_not_negative(what: str, value: int | None) -> None:
    if value is not None and value < 0:
        raise InvalidArgument(f"{what} cannot be negative")


# -- ports ------------------------------------------------------------------------------------------------------------


def _check_endpoint(endpoint: EndpointSpec | None) -> None:
    if endpoint is None:
        return
    if endpoint.mode not in ("vip", "dnsrr"):
        raise InvalidArgument(f"EndpointSpec: invalid mode {endpoint.mode!r}, use vip or dnsrr")
    taken: set[tuple[str, int]] = set()
    for port in endpoint.ports:
        _check_port(port)
        if port.publish_mode == "ingress" and endpoint.mode == "dnsrr":
            raise InvalidArgument("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
        key = (port.protocol, port.published_port)
        if port.published_port and key in taken:
            raise InvalidArgument(
                f"EndpointSpec: duplicate published ports provided: {port.published_port}/{port.protocol}"
            )
        taken.add(key)
    if len(set(endpoint.ports)) != len(endpoint.ports):
        raise InvalidArgument("EndpointSpec: duplicate ports provided")


def _check_port(port: PortConfig) -> None:
    if port.protocol not in _PROTOCOLS:
        raise InvalidArgument(f"EndpointSpec: invalid protocol {port.protocol!r}, use tcp, udp or sctp")
    if port.publish_mode not in ("ingress", "host"):
        raise InvalidArgument(f"EndpointSpec: invalid publish mode {port.publish_mode!r}, use ingress or host")
    if not 1 <= port.target_port <= MAX_PORT:
        raise InvalidArgument(f"EndpointSpec: invalid target port {port.target_port}: must be 1-{MAX_PORT}")
    if not 0 <= port.published_port <= MAX_PORT:
        raise InvalidArgument(f"EndpointSpec: invalid published port {port.published_port}: must be 0-{MAX_PORT}")
