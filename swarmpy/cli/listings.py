"""What the API answers, as rows of tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from swarmpy.cli.render import Listing

Json = Mapping[str, Any]

NAMESPACE_LABEL = "com.docker.stack.namespace"


# -- services -------------------------------------------------------------------------------------------------------


def service_name(service: Json) -> str:
    """The name of a service."""
    return str(service.get("Spec", {}).get("Name", ""))


def service_mode(service: Json) -> str:
    """``replicated``, ``global``, ``replicated-job`` or ``global-job``."""
    mode = service.get("Spec", {}).get("Mode", {})
    words = {"Global": "global", "ReplicatedJob": "replicated-job", "GlobalJob": "global-job"}
    return next((word for name, word in words.items() if name in mode), "replicated")


def total_completions(service: Json) -> int:
    """How many tasks of a job are to complete."""
    mode, status = service.get("Spec", {}).get("Mode", {}), service.get("ServiceStatus") or {}
    if "ReplicatedJob" in mode:
        return int(mode["ReplicatedJob"].get("TotalCompletions", 1))
    return int(status.get("DesiredTasks", 0)) + int(status.get("CompletedTasks", 0))


def replicas_text(service: Json) -> str:
    """``running/desired``, with the bound of tasks on a node where there is one, and how far a job has come."""
    status = service.get("ServiceStatus") or {}
    text = f"{status.get('RunningTasks', 0)}/{status.get('DesiredTasks', 0)}"
    if service_mode(service).endswith("-job"):
        return f"{text} ({status.get('CompletedTasks', 0)}/{total_completions(service)} completed)"
    placement = service.get("Spec", {}).get("TaskTemplate", {}).get("Placement") or {}
    bound = placement.get("MaxReplicas", 0)
    return f"{text} (max {bound} per node)" if bound else text


def ports_text(ports: Iterable[Json]) -> str:
    """Published ports as ``*:8080->80/tcp``."""
    return ", ".join(
        f"*:{port.get('PublishedPort', 0)}->{port.get('TargetPort', 0)}/{port.get('Protocol', 'tcp')}"
        for port in ports
        if port.get("PublishMode", "ingress") == "ingress"
    )


def short_image(image: str) -> str:
    """An image without its digest."""
    return image.partition("@")[0]


def services_listing(services: Iterable[Json]) -> Listing:
    """Services, sorted by name."""
    return Listing(
        headings=("ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"),
        rows=tuple(
            (
                str(service.get("ID", ""))[:12],
                service_name(service),
                service_mode(service),
                replicas_text(service),
                short_image(service.get("Spec", {}).get("TaskTemplate", {}).get("ContainerSpec", {}).get("Image", "")),
                ports_text(service.get("Endpoint", {}).get("Ports") or ()),
            )
            for service in sorted(services, key=service_name)
        ),
    )


def stacks_listing(services: Iterable[Json]) -> Listing:
    """Stacks with the number of their services, sorted by name."""
    counts: dict[str, int] = {}
    for service in services:
        stack = service.get("Spec", {}).get("Labels", {}).get(NAMESPACE_LABEL, "")
        if stack:
            counts[stack] = counts.get(stack, 0) + 1
    return Listing(headings=("NAME", "SERVICES"), rows=tuple((name, str(counts[name])) for name in sorted(counts)))


# -- tasks ------------------------------------------------------------------------------------------------------------


def task_slot(task: Json) -> int | None:
    """The slot of a task; None where the node is the slot. Only those of a replicated job begin with 0."""
    slot: int | None = task.get("Slot")
    return slot if slot or "JobIteration" in task else None


def task_name(task: Json, services: Mapping[str, str], nodes: Mapping[str, str]) -> str:
    """``service.slot``, or ``service.node`` for a task of a global service."""
    service_id = task.get("ServiceID", "")
    slot = task_slot(task)
    place = nodes.get(task.get("NodeID", ""), task.get("NodeID", "")) if slot is None else slot
    return f"{services.get(service_id, service_id)}.{place}"


def tasks_listing(
    tasks: Sequence[Json],
    *,
    services: Mapping[str, str],
    nodes: Mapping[str, str],
    now: datetime,
    truncate: bool = True,
) -> Listing:
    r"""Tasks by slot, newest first; earlier attempts of a slot are marked with ``\_``."""
    ordered = sorted(tasks, key=lambda task: str(task.get("CreatedAt", "")), reverse=True)
    ordered.sort(key=lambda task: (_slot_key(task, services, nodes), _is_over(task)))
    rows = []
    previous = None
    for task in ordered:
        name = task_name(task, services, nodes)
        status = task.get("Status", {})
        error = str(status.get("Err", ""))
        rows.append(
            (
                str(task.get("ID", ""))[: 12 if truncate else None],
                rf" \_ {name}" if name == previous else name,
                short_image(task.get("Spec", {}).get("ContainerSpec", {}).get("Image", "")),
                nodes.get(task.get("NodeID", ""), task.get("NodeID", "")),
                str(task.get("DesiredState", "")).capitalize(),
                f"{str(status.get('State', '')).capitalize()} {age(str(status.get('Timestamp', '')), now)}".strip(),
                _quoted_error(error, truncate=truncate),
                _host_ports(status),
            )
        )
        previous = name
    headings = ("ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS")
    return Listing(headings=headings, rows=tuple(rows))


def _slot_key(task: Json, services: Mapping[str, str], nodes: Mapping[str, str]) -> tuple[str, int, str]:
    service_id = task.get("ServiceID", "")
    return services.get(service_id, service_id), task.get("Slot") or 0, task_name(task, services, nodes)


def _is_over(task: Json) -> bool:
    return str(task.get("DesiredState", "")) in ("shutdown", "remove")


def _quoted_error(error: str, *, truncate: bool) -> str:
    if not error:
        return ""
    return f'"{error[:69]}…"' if truncate and len(error) > 70 else f'"{error}"'


def _host_ports(status: Json) -> str:
    ports = (status.get("PortStatus") or {}).get("Ports") or ()
    return ", ".join(
        f"*:{port.get('PublishedPort', 0)}->{port.get('TargetPort', 0)}/{port.get('Protocol', 'tcp')}"
        for port in ports
        if port.get("PublishMode") == "host"
    )


def age(timestamp: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was, in Docker's words; "" for none."""
    moment = parse_time(timestamp)
    if moment is None:
        return ""
    seconds = max(0, int((now - moment).total_seconds()))
    for limit, unit, name in _AGES:
        if seconds < limit:
            count = seconds // unit
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    raise AssertionError("the last limit is infinite")


_AGES: tuple[tuple[float, int, str], ...] = (
    (60, 1, "second"),
    (3600, 60, "minute"),
    (48 * 3600, 3600, "hour"),
    (14 * 86400, 86400, "day"),
    (float("inf"), 7 * 86400, "week"),
)


def parse_time(timestamp: str) -> datetime | None:
    """An RFC 3339 time, to the microsecond; None for none and for Docker's year 1."""
    head, dot, fraction = timestamp.removesuffix("Z").partition(".")
    try:
        moment = datetime.fromisoformat(f"{head}{dot}{fraction[:6]}").replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment if moment.year > 1 else None


# -- nodes ------------------------------------------------------------------------------------------------------------


def node_hostname(node: Json) -> str:
    """A node's hostname."""
    return str(node.get("Description", {}).get("Hostname", ""))


def nodes_listing(nodes: Iterable[Json], *, own_id: str, truncate: bool = False) -> Listing:
    """Nodes sorted by hostname; the one with ``own_id``, which answered, is marked with ``*``."""
    rows = []
    for node in sorted(nodes, key=lambda node: (node_hostname(node), node.get("ID", ""))):
        node_id = str(node.get("ID", ""))
        manager = node.get("ManagerStatus")
        standing = "" if not manager else "Leader" if manager.get("Leader") else str(manager.get("Reachability", ""))
        rows.append(
            (
                f"{node_id[: 12 if truncate else None]}{' *' if node_id == own_id else ''}",
                node_hostname(node),
                str(node.get("Status", {}).get("State", "")).capitalize(),
                str(node.get("Spec", {}).get("Availability", "")).capitalize(),
                standing.capitalize(),
                str(node.get("Description", {}).get("Engine", {}).get("EngineVersion", "")),
            )
        )
    headings = ("ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION")
    return Listing(headings=headings, rows=tuple(rows))
