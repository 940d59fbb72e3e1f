"""Services and their specs as Docker's JSON.

What was sent comes back; added are only what Docker adds: empty ``Labels``, the mode, the runtime, each port's
protocol and publish mode. A field that was not given stays absent, unless defaults are asked for.
"""

from __future__ import annotations

from typing import Any

import attrs

from swarmpy.api.json_fields import Fields, given
from swarmpy.api.task_spec_json import networks_from_json, task_spec_from_json, task_spec_to_json
from swarmpy.api.timestamps import meta_to_json, rfc3339_nano
from swarmpy.errors import InvalidArgument
from swarmpy.model import defaults
from swarmpy.model.grammar import shown
from swarmpy.model.objects import JobStatus, Service, UpdateStatus
from swarmpy.model.specs import EndpointSpec, MaxUnavailable, PortConfig, ServiceSpec, UpdateConfig
from swarmpy.model.states import ServiceMode

_MAX_PORT = 65_535
MAX_UNAVAILABLE = "MaxUnavailable"
"""Ours: Docker's clients drop it from what they send back, so that an update without it keeps it. null: no bound."""


def service_spec_from_json(data: object) -> ServiceSpec:
    """The spec that a client sent. Raises InvalidArgument with the path of the field that is wrong.

    Fields of Docker's API that would change what the service does, and that swarmpy cannot do yet, are refused rather
    than ignored.
    """
    fields = Fields(data)
    task = task_spec_from_json(fields.nested("TaskTemplate"))
    if not task.networks:
        task = attrs.evolve(task, networks=networks_from_json(fields))
    mode = fields.nested("Mode")
    update, rollback = fields.maybe_nested("UpdateConfig"), fields.maybe_nested("RollbackConfig")
    endpoint = fields.maybe_nested("EndpointSpec")
    return ServiceSpec(
        name=fields.string("Name"),
        labels=fields.string_map("Labels"),
        task=task,
        **_mode_from_json(mode),
        update=_update_config_from_json(update) if update else None,
        rollback=_update_config_from_json(rollback) if rollback else None,
        endpoint=_endpoint_from_json(endpoint) if endpoint else None,
        max_unavailable=_max_unavailable_from_json(fields),
    )


def tells_bound(data: object) -> bool:
    """True when a client's spec says how many tasks may be missing, if only that there is no bound (null)."""
    return isinstance(data, dict) and any(str(key).lower() == MAX_UNAVAILABLE.lower() for key in data)


def service_spec_to_json(spec: ServiceSpec, *, insert_defaults: bool = False) -> dict[str, Any]:
    """Docker's JSON of a spec, ready to be sent to a server or shown to a client."""
    out: dict[str, Any] = {
        "Name": spec.name,
        "Labels": dict(spec.labels),
        "TaskTemplate": task_spec_to_json(spec.task, insert_defaults=insert_defaults),
        "Mode": _mode_to_json(spec),
    }
    update, rollback = spec.update, spec.rollback
    if insert_defaults and not spec.mode.is_job:
        update, rollback = defaults.update_config(update), defaults.update_config(rollback)
    if update is not None:
        out["UpdateConfig"] = _update_config_to_json(update)
    if rollback is not None:
        out["RollbackConfig"] = _update_config_to_json(rollback)
    if spec.max_unavailable is not None:
        bound = spec.max_unavailable
        out[MAX_UNAVAILABLE] = str(bound) if bound.is_percentage else bound.amount
    if spec.endpoint is not None:
        out["EndpointSpec"] = _endpoint_to_json(spec.endpoint)
    return out


def service_to_json(
    service: Service, *, insert_defaults: bool = False, status: dict[str, int] | None = None
) -> dict[str, Any]:
    """A service as ``GET /services`` shows it. ``status``: the counts of ``ServiceStatus``, only when asked for."""
    out = {"ID": service.id, **meta_to_json(service.meta)}
    out["Spec"] = _shown_spec(service.spec, insert_defaults=insert_defaults)
    if service.previous_spec is not None:
        out["PreviousSpec"] = _shown_spec(service.previous_spec, insert_defaults=insert_defaults)
    if service.ports:
        endpoint = service.spec.endpoint or EndpointSpec()
        ports = [port_to_json(port) for port in service.ports]
        out["Endpoint"] = {"Spec": _endpoint_to_json(endpoint), "Ports": ports}
    else:
        out["Endpoint"] = {"Spec": {}}
    if service.update_status is not None:
        out["UpdateStatus"] = _update_status_to_json(service.update_status)
    if service.job is not None:
        out["JobStatus"] = _job_status_to_json(service.job)
    if status is not None:
        out["ServiceStatus"] = status
    return out


def port_to_json(port: PortConfig) -> dict[str, Any]:
    """One port of a service."""
    return {
        **given(Name=port.name),
        "Protocol": port.protocol,
        "TargetPort": port.target_port,
        **given(PublishedPort=port.published_port),
        "PublishMode": port.publish_mode,
    }


def _shown_spec(spec: ServiceSpec, *, insert_defaults: bool) -> dict[str, Any]:
    """The spec with an EndpointSpec in any case: Traefik takes a service without one for unreachable."""
    out = service_spec_to_json(spec, insert_defaults=insert_defaults)
    out.setdefault("EndpointSpec", {"Mode": "vip"})
    return out


_MODES = {
    "Replicated": ServiceMode.REPLICATED,
    "Global": ServiceMode.GLOBAL,
    "ReplicatedJob": ServiceMode.REPLICATED_JOB,
    "GlobalJob": ServiceMode.GLOBAL_JOB,
}


def _mode_from_json(fields: Fields) -> dict[str, Any]:
    """The fields of the spec that the mode gives. An empty ``Replicated`` is one replica, as in Docker."""
    found = {mode: nested for name, mode in _MODES.items() if (nested := fields.maybe_nested(name)) is not None}
    if len(found) > 1:
        raise InvalidArgument("Mode: must specify only one service mode")
    unknown = None if found else fields.first_name()
    if unknown is not None:
        raise InvalidArgument(f"Mode: unknown service mode {shown(unknown)}, use {', '.join(_MODES)}")
    mode, nested = next(iter(found.items()), (ServiceMode.REPLICATED, Fields({})))
    match mode:
        case ServiceMode.REPLICATED:
            replicas = nested.maybe_integer("Replicas")
            return {"mode": mode, "replicas": 1 if replicas is None else replicas}
        case ServiceMode.REPLICATED_JOB:
            return {
                "mode": mode,
                "max_concurrent": nested.maybe_integer("MaxConcurrent"),
                "total_completions": nested.maybe_integer("TotalCompletions"),
            }
        case _:
            return {"mode": mode}


def _mode_to_json(spec: ServiceSpec) -> dict[str, Any]:
    match spec.mode:
        case ServiceMode.REPLICATED_JOB:
            amounts = {"MaxConcurrent": spec.desired_concurrency, "TotalCompletions": spec.desired_completions}
            return {"ReplicatedJob": amounts}
        case ServiceMode.GLOBAL_JOB:
            return {"GlobalJob": {}}
        case ServiceMode.REPLICATED:
            return {"Replicated": {"Replicas": spec.desired_replicas}}
        case ServiceMode.GLOBAL:
            return {"Global": {}}


def _update_config_from_json(fields: Fields) -> UpdateConfig:
    """As in Docker, an absent ``Parallelism`` in a given object is 0 (all at once), a ``Monitor`` of 0 the default."""
    return UpdateConfig(
        parallelism=fields.integer("Parallelism"),
        delay_ns=fields.maybe_integer("Delay"),
        failure_action=fields.string("FailureAction") or None,
        monitor_ns=fields.integer("Monitor") or None,
        max_failure_ratio=fields.number("MaxFailureRatio") if fields.has("MaxFailureRatio") else None,
        order=fields.string("Order") or None,
        progress_deadline_ns=fields.maybe_integer("ProgressDeadline"),
    )


def _max_unavailable_from_json(fields: Fields) -> MaxUnavailable | None:
    """A number of tasks, or a string such as ``25%``."""
    value = fields.raw(MAX_UNAVAILABLE)
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return MaxUnavailable.parse(value)
        return MaxUnavailable.parse(str(fields.integer(MAX_UNAVAILABLE)))
    except ValueError as error:
        raise InvalidArgument(f"{fields.path_of(MAX_UNAVAILABLE)}: {error}") from None


def _update_config_to_json(config: UpdateConfig) -> dict[str, Any]:
    values = {
        "Parallelism": defaults.UPDATE_PARALLELISM if config.parallelism is None else config.parallelism,
        "Delay": config.delay_ns,
        "FailureAction": config.failure_action,
        "Monitor": config.monitor_ns,
        "MaxFailureRatio": config.max_failure_ratio,
        "Order": config.order,
        "ProgressDeadline": config.progress_deadline_ns,
    }
    return {name: value for name, value in values.items() if value is not None}


def _endpoint_from_json(fields: Fields) -> EndpointSpec:
    mode = fields.string("Mode") or "vip"
    return EndpointSpec(mode=mode, ports=tuple(_port_from_json(port) for port in fields.nested_list("Ports")))


def _port_from_json(fields: Fields) -> PortConfig:
    return PortConfig(
        name=fields.string("Name"),
        protocol=fields.string("Protocol") or "tcp",
        target_port=fields.integer("TargetPort", most=_MAX_PORT),
        published_port=fields.integer("PublishedPort", most=_MAX_PORT),
        publish_mode=fields.string("PublishMode") or "ingress",
    )


def _endpoint_to_json(endpoint: EndpointSpec) -> dict[str, Any]:
    return {"Mode": endpoint.mode, **given(Ports=[port_to_json(port) for port in endpoint.ports])}


def _job_status_to_json(job: JobStatus) -> dict[str, Any]:
    out: dict[str, Any] = {"JobIteration": {"Index": job.iteration}}
    if job.last_execution_ns:
        out["LastExecution"] = rfc3339_nano(job.last_execution_ns)
    return out


def _update_status_to_json(status: UpdateStatus) -> dict[str, Any]:
    out: dict[str, Any] = {"State": str(status.state)}
    if status.started_at_ns:
        out["StartedAt"] = rfc3339_nano(status.started_at_ns)
    if status.completed_at_ns:
        out["CompletedAt"] = rfc3339_nano(status.completed_at_ns)
    out["Message"] = status.message
    return out
