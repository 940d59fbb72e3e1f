"""What a stack file may hold: the known keys of compose file format 3 and the shapes of their values.

Runs after interpolation. Everything a single value can have wrong (a duration, a port, a size) is found here, where
file and line are known; what depends on several values is left to the conversion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from swarmpy.compose import shortforms, units
from swarmpy.compose.checks import (
    Check,
    anything,
    boolean,
    either,
    formatted,
    list_of,
    mapping_of,
    number,
    one_of,
    optional,
    plain_value,
    record,
    text,
    text_or_number,
    whole_number,
)
from swarmpy.compose.yaml_reader import Document, Path
from swarmpy.model import grammar
from swarmpy.model.specs import MaxUnavailable
from swarmpy.model.template import masked

_NAME = re.compile(r"[a-zA-Z0-9._-]+")
_NOT_EXTERNAL: Mapping[str | int, tuple[str, ...]] = {
    "networks": (),
    "volumes": ("driver", "driver_opts", "labels"),
    "secrets": ("driver", "driver_opts", "labels", "file"),
    "configs": ("driver", "driver_opts", "labels", "file"),
}
MAX_FILE_PORTS = 65_536
_VERSION = re.compile(r"3(?:\.(?:[0-9]|1[0-3]))?", re.ASCII)


def validate(document: Document) -> None:
    """Raises ComposeError at the first thing that a stack file may not hold."""
    _check_version(document)
    _ROOT(document, (), document.data)
    _check_port_counts(document)
    for section in ("networks", "volumes", "secrets", "configs"):
        for name, entry in document.data.get(section, {}).items():
            if entry and entry.get("external"):
                _check_external(document, (section, name), entry)


def _check_port_counts(document: Document) -> None:
    total = 0
    for name, service in document.data.get("services", {}).items():
        entries = service.get("ports", ())
        count = sum(1 if isinstance(e, dict) else shortforms.count_ports(shortforms.scalar_text(e)) for e in entries)
        total += count
        if count > shortforms.MAX_PORTS or total > MAX_FILE_PORTS:
            what = f"a service may have {shortforms.MAX_PORTS} at most, all of a file {MAX_FILE_PORTS}"
            raise document.error(("services", name, "ports"), f"these are too many ports: {what}")


def _check_external(document: Document, path: Path, entry: Mapping[str, Any]) -> None:
    for key in _NOT_EXTERNAL[path[0]]:
        if key in entry:
            raise document.error((*path, key), f"an external entry is made elsewhere: remove either external or {key}")
    if isinstance(entry["external"], dict) and "name" in entry["external"] and "name" in entry:
        raise document.error((*path, "name"), "the name is given twice: remove either name or external.name")


def _check_version(document: Document) -> None:
    version = document.data.get("version")
    if version is None and "version" not in document.data:
        return
    if not isinstance(version, str):
        raise document.error(("version",), 'must be a string: write version: "3.8" or leave the key out')
    if version and _VERSION.fullmatch(version) is None:
        raise document.error(("version",), f"{version[:20]!r} is not supported: stack files are of version 3.0 to 3.13")


def _is_name(key: str) -> bool:
    return _NAME.fullmatch(key) is not None


_duration = formatted(units.parse_duration)
_size = formatted(units.parse_size)
_cpus = formatted(units.parse_cpus)
_count = whole_number()
_port = whole_number(0, shortforms.MAX_PORT)
_mode = whole_number(0, 0o7777)
_texts = list_of(text)
_unique_texts = list_of(text, unique=True)
_text_or_texts = either(as_text=text, as_list=_unique_texts)
_pairs = either(as_list=_unique_texts, as_mapping=mapping_of(plain_value))
_command = either(as_text=formatted(shortforms.split_words), as_list=_texts)


def _bound(document: Document, path: Path, value: Any) -> None:
    text_or_number(document, path, value)
    try:
        MaxUnavailable.parse(shortforms.scalar_text(value))
    except ValueError as error:
        raise document.error(path, str(error)) from error


def _misplaced_bound(document: Document, path: Path, _: Any) -> None:
    raise document.error(path, "it is a key of the service, beside deploy: docker refuses a file that has it here")


def _form(check: Callable[[str], None]) -> Check:
    """A string that is empty or, whatever its placeholders stand for, of the form that ``check`` wants."""
    return formatted(lambda value: check(masked(value)) if value else None)


_address_or_addresses = either(
    as_text=_form(grammar.check_address), as_list=list_of(_form(grammar.check_address), unique=True)
)
_domain_or_domains = either(
    as_text=_form(grammar.check_search_domain), as_list=list_of(_form(grammar.check_search_domain), unique=True)
)
_capabilities = list_of(formatted(lambda value: grammar.check_capability(value.strip())), unique=True)

# -- deploy -----------------------------------------------------------------------------------------------------------

_UPDATE_CONFIG = record(
    {
        "parallelism": _count,
        "delay": _duration,
        "failure_action": one_of("continue", "pause", "rollback"),
        "monitor": _duration,
        "x-swarmpy-progress-deadline": _duration,
        "max_failure_ratio": number,
        "order": one_of("start-first", "stop-first"),
    }
)
_ROLLBACK_CONFIG = record(
    {
        "parallelism": _count,
        "delay": _duration,
        "failure_action": one_of("continue", "pause"),
        "monitor": _duration,
        "x-swarmpy-progress-deadline": _duration,
        "max_failure_ratio": number,
        "order": one_of("start-first", "stop-first"),
    }
)
_GENERIC_RESOURCE = record(
    {"discrete_resource_spec": record({"kind": text, "value": whole_number(1, 1 << 20)}, required=("kind", "value"))},
    {"named_resource_spec": "which of them a task gets is up to its node: reserve a number of them"},
    required=("discrete_resource_spec",),
)
_DEPLOY = record(
    {
        "mode": text,
        "replicas": _count,
        "labels": _pairs,
        "endpoint_mode": text,
        "update_config": _UPDATE_CONFIG,
        "rollback_config": _ROLLBACK_CONFIG,
        "resources": record(
            {
                "limits": record({"cpus": _cpus, "memory": _size, "pids": whole_number(-1)}),
                "reservations": record(
                    {"cpus": _cpus, "memory": _size, "generic_resources": list_of(_GENERIC_RESOURCE)},
                    {
                        "devices": "reserved devices are not part of stack files of version 3: start the nodes with "
                        "--generic-resource and reserve generic_resources"
                    },
                ),
            }
        ),
        "restart_policy": record({"condition": text, "delay": _duration, "max_attempts": _count, "window": _duration}),
        "x-swarmpy-max-unavailable": _misplaced_bound,
        "placement": record(
            {
                "constraints": _texts,
                "preferences": list_of(record({"spread": text})),
                "max_replicas_per_node": _count,
            }
        ),
    }
)

# -- services ---------------------------------------------------------------------------------------------------------

_PORT = record(
    {"mode": text, "target": _port, "published": _port, "protocol": text},
    dict.fromkeys(("app_protocol", "host_ip", "name"), "it is not part of stack files"),
)


def _short_port(document: Document, path: Path, value: Any) -> None:
    text_or_number(document, path, value)
    try:
        shortforms.count_ports(shortforms.scalar_text(value))
    except ValueError as error:
        raise document.error(path, str(error)) from error


_VOLUME = record(
    {
        "type": text,
        "source": text,
        "target": text,
        "read_only": boolean,
        "consistency": text,
        "bind": record(
            {"propagation": text}, {"create_host_path": "the engine decides", "selinux": "the engine decides"}
        ),
        "volume": record({"nocopy": boolean, "subpath": text}),
        "tmpfs": record({"size": _count}, {"mode": "it is not part of stack files"}),
        "cluster": anything,
    },
    required=("type",),
)
_HEALTHCHECK = record(
    {
        "disable": boolean,
        "interval": _duration,
        "retries": whole_number(0, 2**31),
        "start_interval": _duration,
        "start_period": _duration,
        "test": either(as_text=text, as_list=_texts),
        "timeout": _duration,
    }
)
_REFERENCE = either(
    as_text=text,
    as_mapping=record({"source": text, "target": text, "uid": text, "gid": text, "mode": _mode}, required=("source",)),
)
_NETWORKS = either(
    as_list=_unique_texts,
    as_mapping=mapping_of(
        optional(
            record(
                {
                    "aliases": _unique_texts,
                    "ipv4_address": text,
                    "ipv6_address": text,
                    "driver_opts": mapping_of(text_or_number),
                }
            )
        ),
        name=_is_name,
    ),
)

_NOT_IN_STACKS = "it is a feature of 'docker compose', not of stacks"
_COMPOSE_ONLY = (
    "annotations", "attach", "cgroup", "develop", "device_cgroup_rules", "gpus", "models", "post_start", "pre_start",
    "pre_stop", "profiles", "provider", "pull_policy", "runtime", "storage_opt",
)  # fmt: skip
_SERVICE_HINTS = {
    "extends": "write the service out, or share parts with YAML anchors",
    "volume_driver": "set the driver under the top-level volumes key",
    "volumes_from": "share data through a named volume under the top-level volumes key",
    "cpu_quota": "use deploy.resources.limits.cpus",
    "cpu_shares": "use deploy.resources.reservations.cpus",
    "cpuset": "use deploy.resources.limits.cpus",
    "cpus": "use deploy.resources.limits.cpus",
    "mem_limit": "use deploy.resources.limits.memory",
    "mem_reservation": "use deploy.resources.reservations.memory",
    "memswap_limit": "use deploy.resources.limits.memory",
    "pids_limit": "use deploy.resources.limits.pids",
    "scale": "use deploy.replicas",
    "platform": "use deploy.placement.constraints with node.platform.arch",
    "group_add": "swarm services have no additional groups in a stack file",
    **dict.fromkeys(_COMPOSE_ONLY, _NOT_IN_STACKS),
}

_SERVICE = record(
    {
        "build": either(as_text=text, as_mapping=anything),
        "x-swarmpy-max-unavailable": _bound,
        "x-swarmpy-progress-deadline": _duration,
        "cap_add": _capabilities,
        "cap_drop": _capabilities,
        "cgroup_parent": text,
        "cgroupns_mode": text,
        "command": _command,
        "configs": list_of(_REFERENCE),
        "container_name": text,
        "credential_spec": anything,
        "depends_on": list_of(text, unique=True),
        "deploy": optional(_DEPLOY),
        "devices": _unique_texts,
        "dns": _address_or_addresses,
        "dns_search": _domain_or_domains,
        "domainname": text,
        "entrypoint": _command,
        "env_file": either(as_text=text, as_list=_unique_texts),
        "environment": _pairs,
        "expose": list_of(text_or_number, unique=True),
        "external_links": _unique_texts,
        "extra_hosts": either(as_list=_unique_texts, as_mapping=mapping_of(plain_value)),
        "healthcheck": _HEALTHCHECK,
        "hostname": _form(grammar.check_hostname),
        "image": text,
        "init": boolean,
        "ipc": text,
        "isolation": text,
        "labels": _pairs,
        "links": _unique_texts,
        "logging": record({"driver": text, "options": mapping_of(optional(text_or_number))}),
        "mac_address": text,
        "network_mode": text,
        "networks": _NETWORKS,
        "oom_score_adj": whole_number(-1000, 1000),
        "pid": optional(text),
        "ports": list_of(either(as_text=_short_port, as_mapping=_PORT), unique=True),
        "privileged": boolean,
        "read_only": boolean,
        "restart": text,
        "secrets": list_of(_REFERENCE),
        "security_opt": _unique_texts,
        "shm_size": text_or_number,
        "stdin_open": boolean,
        "stop_grace_period": _duration,
        "stop_signal": _form(grammar.check_signal),
        "sysctls": _pairs,
        "tmpfs": either(as_text=formatted(shortforms.parse_tmpfs), as_list=list_of(formatted(shortforms.parse_tmpfs))),
        "tty": boolean,
        "ulimits": mapping_of(
            either(
                as_text=whole_number(-1),
                as_mapping=record({"soft": whole_number(-1), "hard": whole_number(-1)}, required=("soft", "hard")),
            )
        ),
        "user": _form(grammar.check_user),
        "userns_mode": text,
        "volumes": list_of(either(as_text=formatted(shortforms.parse_volume), as_mapping=_VOLUME), unique=True),
        "working_dir": _form(grammar.check_directory),
    },
    _SERVICE_HINTS,
)

# -- the top ----------------------------------------------------------------------------------------------------------

_EXTERNAL = either(as_text=boolean, as_mapping=record({"name": text}))
_DRIVER_OPTS = mapping_of(text_or_number)
_NETWORK = record(
    {
        "name": text,
        "driver": text,
        "driver_opts": _DRIVER_OPTS,
        "ipam": anything,
        "external": _EXTERNAL,
        "internal": boolean,
        "attachable": boolean,
        "labels": _pairs,
    },
    dict.fromkeys(("enable_ipv4", "enable_ipv6"), _NOT_IN_STACKS),
)
_TOP_VOLUME = record(
    {"name": text, "driver": text, "driver_opts": _DRIVER_OPTS, "external": _EXTERNAL, "labels": _pairs}
)
_SECRET_HINTS = dict.fromkeys(("content", "environment"), "put the data in a file and name it by 'file'")
_SECRET_KEYS = {
    "name": text,
    "file": text,
    "external": _EXTERNAL,
    "labels": _pairs,
    "driver": text,
    "driver_opts": _DRIVER_OPTS,
    "template_driver": text,
}

_ROOT = record(
    {
        "version": text,
        "services": mapping_of(_SERVICE, name=_is_name),
        "networks": mapping_of(optional(_NETWORK), name=_is_name),
        "volumes": mapping_of(optional(_TOP_VOLUME), name=_is_name),
        "secrets": mapping_of(record(_SECRET_KEYS, _SECRET_HINTS), name=_is_name),
        "configs": mapping_of(record(_SECRET_KEYS, _SECRET_HINTS), name=_is_name),
    },
    {
        "name": "the name of the stack is given on the command line",
        "include": "write the services out, or give several files with -c",
        "models": _NOT_IN_STACKS,
    },
)
