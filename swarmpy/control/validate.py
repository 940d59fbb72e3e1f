"""What a spec must be before it is stored. Messages are Docker's where it has one, with the offending value."""

from __future__ import annotations

from collections.abc import Mapping

from swarmpy.control.constraints import ENGINE_LABEL, NODE_LABEL, Constraint
from swarmpy.control.meaning import check_meant, check_resources
from swarmpy.errors import InvalidArgument
from swarmpy.model import codec, grammar
from swarmpy.model.container_checks import check_container, check_log_driver, check_networks
from swarmpy.model.grammar import bare, is_platform_word, shown
from swarmpy.model.networks import is_on_host
from swarmpy.model.specs import (
    EndpointSpec,
    NodeSpec,
    Placement,
    PortConfig,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import ServiceMode

MAX_PORT = 65_535
MAX_REPLICAS = 100_000
"""Of a service: as many tasks as a whole cluster was measured with. More would take the managers' memory at once."""
MAX_COMPLETIONS = 10_000
"""Of a job: the state remembers each of them, as its task, until the next execution."""
MAX_SPEC_BYTES = 128 * 1024
"""Of a service's spec as it is stored. Every task carries a copy, and a node is told all its tasks in one message."""

_PROTOCOLS = ("tcp", "udp", "sctp")


def validate_service_spec(spec: ServiceSpec) -> None:
    """Raises InvalidArgument for the first thing that is wrong with it."""
    _check_name(spec.name)
    _check_labels(spec.labels, "service")
    if spec.mode is not ServiceMode.REPLICATED and spec.replicas is not None:
        if spec.mode.is_job:
            raise InvalidArgument("replicas can only be used with replicated mode: a job has total completions")
        raise InvalidArgument("replicas can only be used with replicated mode: leave them out of a global service")
    if spec.desired_replicas < 0:
        raise InvalidArgument(f"Number of replicas must be non-negative: {spec.desired_replicas}")
    if spec.desired_replicas > MAX_REPLICAS:
        raise InvalidArgument(f"Number of replicas must be {MAX_REPLICAS} or fewer: {spec.desired_replicas}")
    _check_task(spec.task)
    _check_job(spec)
    _check_max_unavailable(spec)
    if spec.mode.is_global and spec.task.placement and spec.task.placement.max_replicas:
        raise InvalidArgument("MaxReplicas can only be used with replicated mode")
    _check_update(spec.update, "update", ("pause", "continue", "rollback"))
    _check_update(spec.rollback, "rollback", ("pause", "continue"))
    _check_endpoint(spec.endpoint)
    _check_host_network(spec)
    size = len(codec.pack(codec.packable(spec)))
    if size > MAX_SPEC_BYTES:
        raise InvalidArgument(
            f"the spec has {size} bytes, at most {MAX_SPEC_BYTES} are possible: pass large data in a volume or an image"
        )


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
    if not grammar.is_name(name):
        raise InvalidArgument("name must be valid as a DNS name component")
    if len(name) > grammar.MAX_NAME:
        raise InvalidArgument(f"name must be {grammar.MAX_NAME} characters or fewer")


def _check_labels(labels: Mapping[str, str], what: str) -> None:
    try:
        for name, value in labels.items():
            grammar.check_label(name)
            grammar.check_text(value)
    except ValueError as error:
        raise InvalidArgument(f"{what} labels: {error}") from None


def _check_job(spec: ServiceSpec) -> None:
    if spec.mode is not ServiceMode.REPLICATED_JOB and (spec.max_concurrent, spec.total_completions) != (None, None):
        raise InvalidArgument("MaxConcurrent and TotalCompletions can only be used with replicated-job mode")
    if not spec.mode.is_job:
        return
    if spec.update is not None:
        raise InvalidArgument("Jobs may not have an update config")
    if spec.rollback is not None:
        raise InvalidArgument("Jobs may not have a rollback config: what a job did is not undone")
    if spec.desired_concurrency < 0 or (spec.desired_concurrency == 0 and spec.desired_completions):
        # None at a time would be for ever under way, but of nothing (docker's --replicas 0) that is enough.
        raise InvalidArgument(f"MaxConcurrent of a job must be at least 1, not {spec.desired_concurrency}")
    if not 0 <= spec.desired_completions <= MAX_COMPLETIONS:
        raise InvalidArgument(
            f"TotalCompletions of a job must be between 0 and {MAX_COMPLETIONS}, not {spec.desired_completions}"
        )


def _check_max_unavailable(spec: ServiceSpec) -> None:
    bound = spec.max_unavailable
    if bound is None:
        return
    if spec.mode.is_job:
        raise InvalidArgument("MaxUnavailable is of no use for a job: its tasks are to complete")
    try:
        bound.check()
    except ValueError as error:
        raise InvalidArgument(f"MaxUnavailable: {error}") from None


def _check_task(task: TaskSpec) -> None:
    check_container(task.container)
    check_log_driver(task.log_driver)
    check_networks(task.networks)
    check_meant(task.container)
    if task.resources is not None:
        check_resources(task.resources)
    _check_restart(task.restart)
    _check_placement(task.placement)


# -- restart, placement, updates --------------------------------------------------------------------------------------


def _check_restart(policy: RestartPolicy | None) -> None:
    if policy is None:
        return
    if policy.condition not in (None, "any", "on-failure", "none"):
        raise InvalidArgument(f'invalid RestartCondition: "{bare(policy.condition)}"')
    _check_not_negative("TaskSpec: restart-delay", policy.delay_ns)
    _check_not_negative("TaskSpec: restart-window", policy.window_ns)
    _check_not_negative("TaskSpec: restart-max-attempts", policy.max_attempts)


def _check_placement(placement: Placement | None) -> None:
    if placement is None:
        return
    for text in placement.constraints:
        try:
            Constraint.parse(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"{error.message} (Placement.Constraints: {shown(text)})") from None
    for key in placement.spread:
        if not key.lower().startswith((NODE_LABEL, ENGINE_LABEL)):
            raise InvalidArgument(
                f"invalid spread preference {shown(key)}: use {NODE_LABEL}NAME or {ENGINE_LABEL}NAME "
                "(Placement.Preferences)"
            )
    _check_not_negative("Placement: MaxReplicas", placement.max_replicas)
    for platform in placement.platforms:
        for word in (platform.architecture, platform.os):
            if not is_platform_word(word):
                raise InvalidArgument(f"Placement: {shown(word)} is no architecture or operating system")


def _check_update(config: UpdateConfig | None, what: str, actions: tuple[str, ...]) -> None:
    if config is None:
        return
    if config.failure_action is not None and config.failure_action not in actions:
        raise InvalidArgument(f"unrecognized {what} failure action {bare(config.failure_action)}")
    if config.order not in (None, "stop-first", "start-first"):
        raise InvalidArgument(f"unrecognized {what} order {bare(config.order)}")
    _check_not_negative(f"TaskSpec: {what}-parallelism", config.parallelism)
    _check_not_negative(f"TaskSpec: {what}-delay", config.delay_ns)
    _check_not_negative(f"TaskSpec: {what}-monitor", config.monitor_ns)
    _check_not_negative(f"TaskSpec: {what}-progress-deadline", config.progress_deadline_ns)
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
        raise InvalidArgument(f"EndpointSpec: invalid mode {shown(endpoint.mode)}, use vip or dnsrr")
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


def _check_host_network(spec: ServiceSpec) -> None:
    """Requests are forwarded to ports that the engine maps; there it maps none. Docker's tasks end with an error."""
    ports = spec.endpoint.ports if spec.endpoint else ()
    if is_on_host(spec.task) and any(port.publish_mode == "ingress" for port in ports):
        raise InvalidArgument(
            "EndpointSpec: a task in the network host has no port that could be published with ingress mode: "
            "its program listens on the node's own"
        )


def _check_port(port: PortConfig) -> None:
    if port.name:
        try:
            grammar.check_port_name(port.name)
        except ValueError as error:
            raise InvalidArgument(f"EndpointSpec: {error}") from None
    if port.protocol not in _PROTOCOLS:
        raise InvalidArgument(f"EndpointSpec: invalid protocol {shown(port.protocol)}, use tcp, udp or sctp")
    if port.publish_mode not in ("ingress", "host"):
        raise InvalidArgument(f"EndpointSpec: invalid publish mode {shown(port.publish_mode)}, use ingress or host")
    if not 1 <= port.target_port <= MAX_PORT:
        raise InvalidArgument(f"EndpointSpec: invalid target port {port.target_port}: must be 1-{MAX_PORT}")
    if not 0 <= port.published_port <= MAX_PORT:
        raise InvalidArgument(f"EndpointSpec: invalid published port {port.published_port}: must be 0-{MAX_PORT}")
