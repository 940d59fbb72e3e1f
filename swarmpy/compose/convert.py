"""A stack description to service specs. Pure: everything from outside was read before.

Names are ``STACK_service``; services and containers carry the labels by which a stack is found again. Options that have
no meaning in a cluster are named in a warning; what is not available yet and would change what the service does is
an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from swarmpy.compose import shortforms
from swarmpy.compose.convert_container import Scope, container_spec
from swarmpy.compose.convert_data import config_references, config_specs, secret_references, secret_specs
from swarmpy.compose.convert_deploy import (
    PROGRESS_DEADLINE,
    max_unavailable,
    placement,
    resources,
    restart_policy,
    update_config,
)
from swarmpy.compose.load import ComposeFile, StackFile
from swarmpy.compose.security_options import privileges
from swarmpy.compose.yaml_reader import Path
from swarmpy.errors import ComposeError, InvalidArgument
from swarmpy.model import grammar
from swarmpy.model.container_checks import check_container, check_log_driver, check_networks
from swarmpy.model.networks import PREDEFINED, networks_warning
from swarmpy.model.specs import (
    ConfigSpec,
    EndpointSpec,
    LogDriver,
    NetworkAttachment,
    PortConfig,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import ServiceMode

NAMESPACE_LABEL = "com.docker.stack.namespace"
IMAGE_LABEL = "com.docker.stack.image"

_UNSUPPORTED = (
    "build", "cgroup_parent", "cgroupns_mode", "credential_spec", "devices", "domainname", "external_links", "ipc",
    "isolation", "links", "mac_address", "network_mode", "pid", "privileged", "shm_size", "userns_mode",
)  # fmt: skip
_DEPRECATED = ("container_name", "expose")


def check_stack_name(stack: str) -> None:
    """Raises InvalidArgument when ``stack`` cannot be the first part of a service's name."""
    if not grammar.is_name(stack) or len(stack) >= grammar.MAX_NAME:
        raise InvalidArgument(
            f"invalid stack name {stack[:80]!r}: use letters, digits, '-' and '_', starting with a letter or digit"
        )


def convert(compose: ComposeFile, stack: str) -> StackFile:
    """The services of ``compose`` under the name ``stack``. Raises ComposeError, InvalidArgument for a bad name."""
    check_stack_name(stack)
    scope = Scope(compose=compose, stack=stack, namespace_label=NAMESPACE_LABEL)
    services = compose.document.data.get("services", {})
    if not services:
        raise ComposeError(f"{compose.document.file}: there are no services in the file")
    specs = tuple(_service(scope, name, service) for name, service in services.items())
    _refuse_port_clashes(scope, specs)
    secrets, configs = secret_specs(scope), config_specs(scope)
    _refuse_same_names(scope, "secrets", secrets)
    _refuse_same_names(scope, "configs", configs)
    return StackFile(services=specs, secrets=secrets, configs=configs, warnings=_warnings(scope, services))


def _refuse_same_names(scope: Scope, section: str, specs: Sequence[SecretSpec | ConfigSpec]) -> None:
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise scope.error((section,), f"two {section} would be named {name!r}: give them different names")


def _service(scope: Scope, name: str, service: Mapping[str, Any]) -> ServiceSpec:
    path: Path = ("services", name)
    full_name = f"{scope.stack}_{name}"
    if not grammar.is_name(name) or len(full_name) > grammar.MAX_NAME:
        raise scope.error(
            path,
            f"the service would be named {full_name!r}: a name has letters, digits, '-' and '_' and at most "
            f"{grammar.MAX_NAME} characters",
        )
    deploy: Mapping[str, Any] = service.get("deploy") or {}
    image = _image(scope, path, service)
    mode = _mode(scope, path, service)
    logging = service.get("logging")
    spec = ServiceSpec(
        name=full_name,
        labels={
            **shortforms.labels(deploy.get("labels")),
            NAMESPACE_LABEL: scope.stack,
            IMAGE_LABEL: service["image"],
        },
        task=TaskSpec(
            container=attrs.evolve(
                container_spec(scope, name, service, image),
                secrets=secret_references(scope, path, service.get("secrets")),
                configs=config_references(scope, path, service.get("configs")),
            ),
            resources=resources(deploy.get("resources")),
            restart=restart_policy(scope, path, service.get("restart"), deploy.get("restart_policy")),
            placement=placement(deploy.get("placement")),
            log_driver=None
            if logging is None
            else LogDriver(name=logging.get("driver", ""), options=shortforms.labels(logging.get("options"))),
            networks=_networks(scope, name, service.get("networks")),
        ),
        **mode,
        update=update_config(deploy.get("update_config"), service),
        rollback=update_config(deploy.get("rollback_config"), service),
        max_unavailable=max_unavailable(scope, path, service, is_job=mode["mode"].is_job),
        endpoint=_endpoint(scope, path, service.get("ports", []), deploy.get("endpoint_mode", "")),
    )
    _check(scope, path, spec.task)
    if spec.mode.is_job and spec.task.restart is not None and spec.task.restart.condition == "any":
        at = (*path, "deploy", "restart_policy", "condition") if deploy.get("restart_policy") else (*path, "restart")
        raise scope.error(at, "a job that completes does not run again: use on-failure or none")
    return spec


def _check(scope: Scope, path: Path, task: TaskSpec) -> None:
    """What the API would refuse without a word of where it stands in the file."""
    try:
        check_container(task.container)
        check_log_driver(task.log_driver)
        check_networks(task.networks)
    except InvalidArgument as error:
        raise scope.error(path, str(error)) from error


def _image(scope: Scope, path: Path, service: Mapping[str, Any]) -> str:
    image: str = service.get("image", "")
    if not image:
        hint = ": build the image first, push it, and name it here" if "build" in service else ""
        raise scope.error(path, f"no image given{hint}" if hint else "no image given: add the key 'image'")
    try:
        return shortforms.image_reference(image)
    except ValueError as error:
        raise scope.error((*path, "image"), str(error)) from error


def _mode(scope: Scope, path: Path, service: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the spec that say how many tasks there are."""
    deploy: Mapping[str, Any] = service.get("deploy") or {}
    mode = deploy.get("mode", "") or "replicated"
    replicas = deploy.get("replicas")
    at = (*path, "deploy", "mode")
    if mode not in list(ServiceMode):
        raise scope.error(at, f"unknown mode {mode!r}: {', '.join(ServiceMode)}")
    if mode in ("global", "global-job") and replicas is not None:
        raise scope.error(
            (*path, "deploy", "replicas"), f"a {mode} service runs one task on each node: remove replicas or the mode"
        )
    if ServiceMode(mode).is_job:
        _refuse_updates_of_jobs(scope, path, service)
    amount = None if replicas is None else int(replicas)
    if mode == "replicated-job":
        # As the docker CLI reads it: all of them at once.
        return {"mode": ServiceMode(mode), "max_concurrent": amount, "total_completions": amount}
    return {"mode": ServiceMode(mode), "replicas": amount}


def _refuse_updates_of_jobs(scope: Scope, path: Path, service: Mapping[str, Any]) -> None:
    for key in ("update_config", "rollback_config"):
        if service["deploy"].get(key) is not None:
            raise scope.error((*path, "deploy", key), "jobs are executed anew when they change: remove it")
    if PROGRESS_DEADLINE in service:
        raise scope.error((*path, PROGRESS_DEADLINE), "jobs are executed anew when they change: remove it")


# -- ports and networks ---------------------------------------------------------------------------------------------


def _endpoint(scope: Scope, path: Path, entries: list[Any], mode: str) -> EndpointSpec | None:
    ports: list[PortConfig] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            ports.append(_long_port(scope, (*path, "ports", index), entry))
        else:
            ports.extend(shortforms.parse_ports(shortforms.scalar_text(entry)).ports)
    if mode not in ("", "vip", "dnsrr"):
        raise scope.error((*path, "deploy", "endpoint_mode"), f"unknown endpoint mode {mode!r}: vip or dnsrr")
    if mode == "dnsrr" and any(port.publish_mode == "ingress" for port in ports):
        raise scope.error((*path, "ports"), "endpoint mode dnsrr cannot publish in ingress mode: use mode host, or vip")
    if not ports and not mode:
        return None
    ports.sort(key=lambda port: port.published_port)
    return EndpointSpec(mode=mode or "vip", ports=tuple(ports))


def _long_port(scope: Scope, path: Path, entry: Mapping[str, Any]) -> PortConfig:
    protocol, mode = entry.get("protocol", "tcp") or "tcp", entry.get("mode", "ingress") or "ingress"
    if protocol not in shortforms.PROTOCOLS:
        raise scope.error((*path, "protocol"), f"unknown protocol {protocol!r}: tcp, udp or sctp")
    if mode not in ("ingress", "host"):
        raise scope.error((*path, "mode"), f"unknown mode {mode!r}: ingress or host")
    if not entry.get("target"):
        raise scope.error(path, "the port needs a target")
    return PortConfig(
        protocol=protocol,
        target_port=int(entry["target"]),
        published_port=int(entry.get("published", 0)),
        publish_mode=mode,
    )


def _refuse_port_clashes(scope: Scope, specs: tuple[ServiceSpec, ...]) -> None:
    owners: dict[tuple[int, str], str] = {}
    for spec in specs:
        for port in spec.endpoint.ports if spec.endpoint else ():
            if not port.published_port or port.publish_mode != "ingress":
                continue
            name = spec.name.removeprefix(f"{scope.stack}_")
            owner = owners.setdefault((port.published_port, port.protocol), name)
            if owner != name:
                raise scope.error(
                    ("services", name, "ports"),
                    f"port {port.published_port}/{port.protocol} is published by service {owner!r} already",
                )


def _networks(scope: Scope, service_name: str, given: Any) -> tuple[NetworkAttachment, ...]:
    if not given:
        return ()
    named: Mapping[str, Any] = given if isinstance(given, dict) else dict.fromkeys(given)
    declared = scope.section("networks")
    attachments = []
    for network, options in named.items():
        if network not in declared and network != "default":
            raise scope.error(
                ("services", service_name, "networks"),
                f"undefined network {network!r}: declare it under the top-level networks key",
            )
        target = scope.full_name("networks", network)
        aliases = (service_name, *shortforms.string_list((options or {}).get("aliases")))
        if target in PREDEFINED:
            aliases = ()  # names have no meaning in them
        attachments.append(NetworkAttachment(target=target, aliases=tuple(dict.fromkeys(aliases))))
    return tuple(sorted(attachments, key=lambda attachment: attachment.target))


# -- warnings -------------------------------------------------------------------------------------------------------


def _warnings(scope: Scope, services: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    out = []
    unsupported = {key for service in services.values() for key in _UNSUPPORTED if key in service}
    for service in services.values():
        unsupported |= {f"security_opt {option}" for option in privileges(service.get("security_opt", ()))[1]}
        if "restart" in service and (service.get("deploy") or {}).get("restart_policy"):
            unsupported.add("restart")
    if unsupported:
        out.append(f"Ignoring unsupported options: {', '.join(sorted(unsupported))}")
    deprecated = sorted({key for service in services.values() for key in _DEPRECATED if key in service})
    if deprecated:
        out.append(f"Ignoring deprecated options: {', '.join(deprecated)}")
    networks = sorted(
        {
            network
            for service in services.values()
            for network in service.get("networks", ())
            if scope.full_name("networks", network) not in PREDEFINED
        }
    )
    if networks:
        out.append(networks_warning(networks))
    for name, service in services.items():
        out += _service_warnings(name, service)
    return tuple(out)


def _service_warnings(name: str, service: Mapping[str, Any]) -> list[str]:
    out = []
    for entry in service.get("ports", ()):
        if not isinstance(entry, dict):
            address = shortforms.parse_ports(shortforms.scalar_text(entry)).address
            if address:
                out.append(
                    f"services.{name}.ports: ignoring the address of {entry}: the port is published on all addresses"
                )
    if service.get("restart") == "no" and not (service.get("deploy") or {}).get("restart_policy"):
        out.append(
            f'services.{name}.restart: "no" has no effect in a stack: '
            "set deploy.restart_policy.condition to none instead"
        )
    return out
