"""A service for people to read: what it runs, how many, where and with what, and how its last update ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from swarmpy.cli.listings import age, replicas_text, service_mode, service_name
from swarmpy.cli.render import Rows, rows_text

Json = Mapping[str, Any]

_UNITS = ((3600 * 10**9, "h"), (60 * 10**9, "m"), (10**9, "s"), (10**6, "ms"), (10**3, "us"))
_SIZES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def pretty(service: Json, now: datetime) -> str:
    """The text. ``service`` with its ServiceStatus, if it is to show how many tasks run."""
    spec = service.get("Spec") or {}
    rows: Rows = [("ID", service.get("ID")), ("Name", service_name(service)), ("Labels", pairs(spec.get("Labels")))]
    rows += [("Mode", service_mode(service)), ("Replicas", replicas_text(service))]
    rows += _update_status(service.get("UpdateStatus") or {}, now)
    rows += task_rows(spec.get("TaskTemplate") or {})
    rows += [
        ("May miss", spec.get("MaxUnavailable")),
        ("Update", _update_config(spec.get("UpdateConfig"))),
        ("Rollback", _update_config(spec.get("RollbackConfig"))),
    ]
    endpoint = service.get("Endpoint") or {}
    mode = (spec.get("EndpointSpec") or {}).get("Mode", "")
    rows.append(("Ports", [_port(port) for port in endpoint.get("Ports") or ()]))
    rows += [("Endpoint mode", mode if mode != "vip" else "")]
    return rows_text(rows)


def _update_status(status: Json, now: datetime) -> Rows:
    if not status:
        return []
    state = str(status.get("State", "")).replace("_", " ")
    when = age(str(status.get("CompletedAt") or status.get("StartedAt") or ""), now)
    return [("Update status", f"{state} {when}".strip()), ("", status.get("Message"))]


def task_rows(task: Json) -> Rows:
    """What tasks are made from; what was not given stays out."""
    container = task.get("ContainerSpec") or {}
    return [
        ("Image", container.get("Image")),
        ("Entrypoint", " ".join(container.get("Command") or ())),
        ("Args", " ".join(container.get("Args") or ())),
        ("Env", list(container.get("Env") or ())),
        ("User", container.get("User")),
        ("Directory", container.get("Dir")),
        ("Hostname", container.get("Hostname")),
        ("Mounts", [_mount(mount) for mount in container.get("Mounts") or ()]),
        ("Secrets", [_file(item, "SecretName") for item in container.get("Secrets") or ()]),
        ("Configs", [_file(item, "ConfigName") for item in container.get("Configs") or ()]),
        ("Health check", _health(container.get("Healthcheck"))),
        ("Stop", _stop(container)),
        ("Limits", _resources((task.get("Resources") or {}).get("Limits"))),
        ("Reservations", _resources((task.get("Resources") or {}).get("Reservations"))),
        ("Placement", _placement(task.get("Placement") or {})),
        ("Networks", [str(item.get("Target", "")) for item in task.get("Networks") or ()]),
        ("Restart", _restart(task.get("RestartPolicy"))),
        ("Log driver", _log_driver(task.get("LogDriver"))),
    ]


def pairs(values: Mapping[str, str] | None) -> list[str]:
    """``key=value`` lines."""
    return [f"{key}={value}" if value else key for key, value in (values or {}).items()]


def duration(amount_ns: int | None) -> str:
    """Nanoseconds with the largest unit that leaves a whole number: ``90s``, ``5m``."""
    if not amount_ns:
        return "0s"
    return next((f"{amount_ns // unit}{name}" for unit, name in _UNITS if amount_ns % unit == 0), f"{amount_ns}ns")


def size(amount: int) -> str:
    """Bytes with the largest unit that leaves a whole number."""
    return next((f"{amount // unit} {name}" for unit, name in _SIZES if amount % unit == 0), f"{amount} bytes")


def _comma(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)


def _resources(amount: Json | None) -> str:
    amount = amount or {}
    cpus, memory, pids = amount.get("NanoCPUs"), amount.get("MemoryBytes"), amount.get("Pids")
    generic = [spec for each in amount.get("GenericResources") or () for spec in each.values()]
    return _comma(
        (
            f"{cpus / 1e9:g} cores" if cpus else "",
            size(memory) if memory else "",
            f"{pids} processes" if pids and pids > 0 else "",
            *(f"{spec.get('Value')} {spec.get('Kind')}" for spec in generic),
        )
    )


def _mount(mount: Json) -> str:
    source = f"{mount['Source']} on " if mount.get("Source") else "on "
    return (
        f"{mount.get('Type', 'volume')} {source}{mount.get('Target')}{' (read-only)' if mount.get('ReadOnly') else ''}"
    )


def _file(reference: Json, name: str) -> str:
    file = reference.get("File") or {}
    return f"{reference.get(name)} as {file.get('Name')} (mode {file.get('Mode', 0):04o})"


def _health(check: Json | None) -> str:
    if not check:
        return ""
    kind, *words = check.get("Test") or ("image's own",)
    if kind == "NONE":
        return "none"
    times = [
        f"{name.lower()} {duration(check[key])}"
        for key, name in (("Interval", "every"), ("Timeout", "timeout"), ("StartPeriod", "start period"))
        if check.get(key)
    ]
    retries = f"{check['Retries']} retries" if check.get("Retries") else ""
    return _comma((" ".join(words) or kind, *times, retries))


def _stop(container: Json) -> str:
    period = container.get("StopGracePeriod")
    return _comma((container.get("StopSignal") or "", "" if period is None else f"killed after {duration(period)}"))


def _placement(placement: Json) -> list[str]:
    spread = [
        f"spread over {(item.get('Spread') or {}).get('SpreadDescriptor')}"
        for item in placement.get("Preferences") or ()
    ]
    bound = placement.get("MaxReplicas")
    return [*(placement.get("Constraints") or ()), *spread, *([f"at most {bound} on a node"] if bound else [])]


def _restart(policy: Json | None) -> str:
    if not policy:
        return ""
    return _comma(
        (
            policy.get("Condition") or "any",
            f"after {duration(policy['Delay'])}" if policy.get("Delay") is not None else "",
            f"at most {policy['MaxAttempts']} times" if policy.get("MaxAttempts") else "",
            f"within {duration(policy['Window'])}" if policy.get("Window") else "",
        )
    )


def _log_driver(driver: Json | None) -> str:
    return _comma([(driver or {}).get("Name", ""), *pairs((driver or {}).get("Options"))])


def _update_config(config: Json | None) -> str:
    if not config:
        return ""
    at_once = config.get("Parallelism", 0)
    ratio, deadline = config.get("MaxFailureRatio"), config.get("ProgressDeadline")
    return _comma(
        (
            f"{at_once} at a time" if at_once else "all at once",
            f"delay {duration(config['Delay'])}" if config.get("Delay") else "",
            f"monitor {duration(config['Monitor'])}" if config.get("Monitor") else "",
            config.get("Order") or "",
            f"on failure {config['FailureAction']}" if config.get("FailureAction") else "",
            f"failure ratio {ratio:g}" if ratio else "",
            ""
            if deadline is None
            else f"progress deadline {duration(deadline)}"
            if deadline
            else "no progress deadline",
        )
    )


def _port(port: Json) -> str:
    published = port.get("PublishedPort")
    target = f"{port.get('TargetPort')}/{port.get('Protocol', 'tcp')}"
    where = "on the task's node" if port.get("PublishMode") == "host" else "on every node"
    return f"{published or 'a free port'} -> {target} {where}"
