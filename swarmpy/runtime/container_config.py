"""A task as the JSON that a Docker Engine makes a container from (``POST /containers/create``, API 1.41).

Pure, and the only place where the two vocabularies meet. It never asks for a privileged container.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from swarmpy.model.defaults import SECOND_NS, stop_grace_period_ns
from swarmpy.model.generic import variables
from swarmpy.model.networks import HOST, is_on_host
from swarmpy.model.objects import PortStatus, Task
from swarmpy.model.specs import ContainerSpec, Healthcheck, Mount, PortConfig, ResourceRequirements
from swarmpy.model.template import NodeFacts
from swarmpy.model.wildcards import ANY_IPV4, ANY_IPV6
from swarmpy.runtime.checked import expanded
from swarmpy.runtime.engine_features import security_options
from swarmpy.runtime.task_files import container_places

LABEL_NODE_ID = "com.docker.swarm.node.id"
LABEL_SERVICE_ID = "com.docker.swarm.service.id"
LABEL_SERVICE_NAME = "com.docker.swarm.service.name"
LABEL_TASK = "com.docker.swarm.task"
LABEL_TASK_ID = "com.docker.swarm.task.id"
LABEL_TASK_NAME = "com.docker.swarm.task.name"

LABEL_OWNER = "swarmpy.node.id"
"""Ours alone: Docker Swarm's own containers on the same engine carry the labels above, but not this one."""
LABEL_PORTS = "swarmpy.task.ports"
"""The task's ports, so that a container can be adopted with nothing but itself at hand."""


def container_name(task: Task) -> str:
    """``service.slot.taskid``, as Docker Swarm names it."""
    return task.name


def create_config(task: Task, node: NodeFacts, files: str = "") -> dict[str, Any]:
    """The body of the create request. ``files`` is the directory with the files of the task's secrets and configs.

    Raises TaskRejected for a spec that an engine must not be given.
    """
    spec = expanded(task, node)
    config: dict[str, Any] = {
        "Image": spec.image,
        "Env": [*spec.env, *variables(task.generic)],
        "Labels": _labels(task, node),
        "HostConfig": _host_config(spec, task, node, files),
    }
    optional = {
        "Entrypoint": list(spec.command),
        "Cmd": list(spec.args),
        "Hostname": spec.hostname,
        "User": spec.user,
        "WorkingDir": spec.dir,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "Healthcheck": _healthcheck(spec.healthcheck) if spec.healthcheck else {},
        "StopSignal": spec.stop_signal,
        "ExposedPorts": {_port_key(port): {} for port in task.ports},
    }
    config.update({key: value for key, value in optional.items() if value})
    if spec.stop_grace_period_ns is not None:
        config["StopTimeout"] = stop_timeout_seconds(task)
    return config


def stop_timeout_seconds(task: Task) -> int:
    """The stop grace period in the engine's unit, whole seconds, rounded up."""
    return -(-stop_grace_period_ns(task.spec) // SECOND_NS)


def _labels(task: Task, node: NodeFacts) -> dict[str, str]:
    labels = dict(task.spec.container.labels)
    labels |= {
        LABEL_NODE_ID: node.id,
        LABEL_SERVICE_ID: task.service_id,
        LABEL_SERVICE_NAME: task.service_name,
        LABEL_TASK: "",
        LABEL_TASK_ID: task.id,
        LABEL_TASK_NAME: task.name,
        LABEL_OWNER: node.id,
    }
    if task.ports:
        labels[LABEL_PORTS] = encode_ports(task.ports)
    return labels


def _host_config(spec: ContainerSpec, task: Task, node: NodeFacts, files: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Privileged": False,
        # The cluster decides about restarts; an engine that did so too would bring back what was replaced.
        "RestartPolicy": {"Name": "no"},
    }
    optional: dict[str, Any] = {
        "Mounts": [*(_mount(mount) for mount in spec.mounts), *_file_mounts(spec, files)],
        # Published or not: in the host's network a port is open at the node when the program listens on it.
        "PortBindings": {} if is_on_host(task.spec) else port_bindings(task.ports, node.address),
        "NetworkMode": HOST if is_on_host(task.spec) else "",
        "GroupAdd": list(spec.groups),
        "CapAdd": list(spec.capability_add),
        "CapDrop": list(spec.capability_drop),
        "Sysctls": dict(spec.sysctls),
        "Ulimits": [{"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in spec.ulimits],
        "ReadonlyRootfs": spec.read_only,
        "Dns": list(spec.dns_nameservers),
        "DnsSearch": list(spec.dns_search),
        "DnsOptions": list(spec.dns_options),
        "ExtraHosts": _extra_hosts(spec),
        "SecurityOpt": security_options(spec.privileges),
        "OomScoreAdj": spec.oom_score_adj,
    }
    config.update({key: value for key, value in optional.items() if value})
    config.update(_resources(task.spec.resources))
    if spec.init is not None:
        config["Init"] = spec.init
    if task.spec.log_driver is not None and task.spec.log_driver.name:
        config["LogConfig"] = {"Type": task.spec.log_driver.name, "Config": dict(task.spec.log_driver.options)}
    return config


def _resources(wanted: ResourceRequirements | None) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if wanted is None:
        return config
    if wanted.limits is not None:
        config["NanoCpus"] = wanted.limits.nano_cpus
        config["Memory"] = wanted.limits.memory_bytes
        config["PidsLimit"] = wanted.limits.pids
    if wanted.reservations is not None:
        config["MemoryReservation"] = wanted.reservations.memory_bytes
    return {key: value for key, value in config.items() if value}


def _healthcheck(check: Healthcheck) -> dict[str, Any]:
    config = {
        "Test": list(check.test),
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "Retries": check.retries,
        "StartInterval": check.start_interval_ns,
    }
    return {key: value for key, value in config.items() if value}


def _mount(mount: Mount) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Type": mount.type,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "Consistency": mount.consistency,
    }
    if mount.type == "bind":
        config["BindOptions"] = _bind_options(mount)
    elif mount.type == "volume":
        config["VolumeOptions"] = _volume_options(mount)
    elif mount.type == "tmpfs":
        options = {"SizeBytes": mount.tmpfs_size_bytes, "Mode": mount.tmpfs_mode}
        config["TmpfsOptions"] = {key: value for key, value in options.items() if value}
    return {key: value for key, value in config.items() if value}


def _bind_options(mount: Mount) -> dict[str, Any]:
    options: dict[str, Any] = {
        "Propagation": mount.bind_propagation,
        "NonRecursive": mount.bind_non_recursive,
        "CreateMountpoint": mount.bind_create_mountpoint,
        "ReadOnlyNonRecursive": mount.bind_read_only_non_recursive,
        "ReadOnlyForceRecursive": mount.bind_read_only_force_recursive,
    }
    return {key: value for key, value in options.items() if value}


def _file_mounts(spec: ContainerSpec, directory: str) -> list[dict[str, Any]]:
    """Each file of a secret or config at its own place: what the image has beside it is still there."""
    return [
        {
            "Type": "bind",
            "Source": f"{directory}/{place.path}",
            "Target": place.target,
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate"},
        }
        for place in container_places(spec)
    ]


def _volume_options(mount: Mount) -> dict[str, Any]:
    driver: dict[str, Any] = {}
    if mount.volume_driver:
        driver["Name"] = mount.volume_driver
    if mount.volume_driver_opts:
        driver["Options"] = dict(mount.volume_driver_opts)
    options = {
        "NoCopy": mount.volume_no_copy,
        "Labels": dict(mount.volume_labels),
        "DriverConfig": driver,
        "Subpath": mount.volume_subpath,
    }
    return {key: value for key, value in options.items() if value}


def _extra_hosts(spec: ContainerSpec) -> list[str]:
    """``"IP name alias"`` (the service API's form, as in /etc/hosts) as the engine's ``"name:IP"``."""
    out: list[str] = []
    for line in spec.hosts:
        address, *names = line.split()
        out.extend(f"{name}:{address}" for name in names)
    return out


# -- ports ----------------------------------------------------------------------------------------------------------


def port_bindings(ports: tuple[PortConfig, ...], address: str) -> dict[str, list[dict[str, str]]]:
    """Where the engine shall listen.

    An ingress port is reached by the other nodes at the node's address, on a port that the engine chooses; only one
    binding is made however many published ports lead to it. A host port is published as asked, on all addresses.
    """
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        binding = (
            {"HostIp": _all_addresses(address), "HostPort": str(port.published_port or "")}
            if port.publish_mode == "host"
            else {"HostIp": address if _is_ip(address) else "", "HostPort": ""}
        )
        listed = bindings.setdefault(_port_key(port), [])
        if binding not in listed:
            listed.append(binding)
    return bindings


def bound_ports(
    ports: tuple[PortConfig, ...], address: str, engine_ports: dict[str, list[dict[str, str]] | None]
) -> tuple[PortStatus, ...]:
    """Where the ports are reachable, given ``NetworkSettings.Ports`` of a running container."""
    out = []
    for port in ports:
        bindings = engine_ports.get(_port_key(port)) or []
        host_port = _host_port(port, bindings, ports, address)
        if host_port:
            out.append(
                PortStatus(
                    protocol=port.protocol,
                    target_port=port.target_port,
                    published_port=port.published_port,
                    publish_mode=port.publish_mode,
                    host_address=address,
                    host_port=host_port,
                )
            )
    return tuple(out)


def _host_port(port: PortConfig, bindings: list[dict[str, str]], ports: tuple[PortConfig, ...], address: str) -> int:
    found = [(binding.get("HostIp", ""), int(binding.get("HostPort") or 0)) for binding in bindings]
    if port.publish_mode == "host":
        if port.published_port:
            return port.published_port if any(number == port.published_port for _, number in found) else 0
        # The engine chose: not the ingress binding, and none of those asked for by number.
        taken = {other.published_port for other in ports if other.publish_mode == "host"}
        return next((number for ip, number in found if ip == _all_addresses(address) and number not in taken), 0)
    wanted = address if _is_ip(address) else _all_addresses(address)
    return next((number for ip, number in found if ip == wanted), 0)


def encode_ports(ports: tuple[PortConfig, ...]) -> str:
    """Ports as a label: ``8080:80/tcp/ingress`` (published, target, protocol, mode), joined by commas."""
    return ",".join(f"{p.published_port}:{p.target_port}/{p.protocol}/{p.publish_mode}" for p in ports)


def decode_ports(label: str) -> tuple[PortConfig, ...]:
    """The ports of a label; none where somebody else wrote it."""
    out = []
    for item in label.split(",") if label else ():
        numbers, _, rest = item.partition("/")
        published, _, target = numbers.partition(":")
        protocol, _, mode = rest.partition("/")
        if not (published.isdecimal() and target.isdecimal() and protocol and mode in {"ingress", "host"}):
            return ()
        out.append(
            PortConfig(protocol=protocol, target_port=int(target), published_port=int(published), publish_mode=mode)
        )
    return tuple(out)


def _port_key(port: PortConfig) -> str:
    return f"{port.target_port}/{port.protocol}"


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _all_addresses(address: str) -> str:
    """The wildcard of the node address's family. Asking for "" would bind both, on two different ports."""
    return ANY_IPV6 if ":" in address else ANY_IPV4
