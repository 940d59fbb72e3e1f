"""What an agent may say of its node and its tasks: how much, and of what. Pure; whether it is true nobody can know.

An agent may be in anybody's hands. What it says is stored on every manager, shown to people and sent to all nodes, so
it is bounded here, and what is not the node's to say is left out.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.model.assignments import MAX_ERR_CHARS, MAX_MESSAGE_CHARS, TaskStatusUpdate
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import ContainerStatus, NodeDescription, PortStatus, Task, TaskStatus
from swarmpy.model.rates import Buckets, Rate
from swarmpy.model.schema import SECRETS_VERSION
from swarmpy.model.specs import Resources
from swarmpy.ports import Peer
from swarmpy.store.view import View
from swarmpy.wire.origins import origin_of
from swarmpy.wire.router import MAX_NODES

MAX_HOSTNAME_CHARS = 255
MAX_ADDRESS_CHARS = 255
MAX_WORD_CHARS = 128
"""Of an architecture, an operating system, a runtime, a version, the id of a container."""
MAX_LABELS = 256
MAX_LABELS_CHARS = 16 * 1024
"""Of all engine labels of a node together."""
MAX_PLUGINS = 256
MAX_GENERIC = 1024
"""Generic resources of a node, each name of a named one counted."""
MAX_NANO_CPUS = 10**15
MAX_MEMORY_BYTES = 1 << 60
MAX_PROBLEMS_CHARS = 1024
MAX_SESSION_VALUES = 8192
MAX_HEARTBEAT_VALUES = 1024
MAX_REPORT_VALUES = 16 * 1024
MAX_REQUEST_VALUES = 1024
"""Of which what an agent says may consist; each is several times what one of ours sends."""
UPDATES = Rate(burst=5_000, per_s=2_500.0)
"""How many statuses one node may report: reading one takes ten times as long as sending it."""
_MOST = (1 << 63) - 1
_MOST_INT32 = (1 << 31) - 1
_ZONE = re.compile(r"[0-9A-Za-z_-]{1,15}")
"""The name of an interface, as a zone of an IPv6 address."""
_ADDRESS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._:%-")


def check_hostname(hostname: str) -> None:
    """Raises InvalidArgument for a name that is no line of a table."""
    _check_text("hostname", hostname, MAX_HOSTNAME_CHARS)


def check_description(description: NodeDescription) -> None:
    """Raises InvalidArgument for what no machine is like."""
    check_hostname(description.hostname)
    platform = description.platform
    words = {
        "architecture": platform.architecture,
        "operating system": platform.os,
        "runtime": description.runtime,
        "engine version": description.engine_version,
    }
    for what, word in words.items():
        _check_text(what, word, MAX_WORD_CHARS)
    labels = description.engine_labels
    size = sum(len(name) + len(value) for name, value in labels.items())
    if len(labels) > MAX_LABELS or size > MAX_LABELS_CHARS:
        raise InvalidArgument(
            f"this node has {len(labels)} engine labels of {size} characters: at most {MAX_LABELS} of "
            f"{MAX_LABELS_CHARS} are taken; remove some from the engine's configuration"
        )
    has = description.resources
    if not (0 <= has.nano_cpus <= MAX_NANO_CPUS and 0 <= has.memory_bytes <= MAX_MEMORY_BYTES and has.pids >= 0):
        raise InvalidArgument(f"no node has {has.nano_cpus} nano CPUs and {has.memory_bytes} bytes of memory")
    _check_generic(has)
    if len(description.plugins) > MAX_PLUGINS:
        raise InvalidArgument(f"this node has {len(description.plugins)} plugins: at most {MAX_PLUGINS} are taken")
    for plugin in description.plugins:
        _check_text("plugin type", plugin.type, MAX_WORD_CHARS)
        _check_text("plugin", plugin.name, MAX_WORD_CHARS)


def _check_generic(has: Resources) -> None:
    kinds = [each.kind for each in has.generic]
    amount = sum(max(1, len(each.names)) for each in has.generic)
    if amount > MAX_GENERIC or len(set(kinds)) < len(kinds):
        raise InvalidArgument(
            f"this node has {amount} generic resources of {len(set(kinds))} kinds: at most {MAX_GENERIC} are taken, "
            "and each kind once"
        )
    for each in has.generic:
        for word in (each.kind, *each.names):
            _check_text("generic resource", word, MAX_WORD_CHARS)
        if not 0 <= each.count <= _MOST_INT32 or len(set(each.names)) < len(each.names):
            raise InvalidArgument(f"no node has {each.count} {each.kind}, or one of a name twice")


def written(description: NodeDescription, schema: int) -> NodeDescription:
    """What may be written of it: nothing that a terminal obeys, and no plugins and generic resources while there are
    managers that do not read them."""
    labels = description.engine_labels
    if not all(name.isprintable() and value.isprintable() for name, value in labels.items()):
        shown = {_shown(name): _shown(value) for name, value in labels.items()}
        description = attrs.evolve(description, engine_labels=shown)
    if schema >= SECRETS_VERSION or not (description.plugins or description.resources.generic):
        return description
    return attrs.evolve(description, plugins=(), resources=attrs.evolve(description.resources, generic=()))


def check_address(address: str, peer: Peer) -> None:
    """Raises InvalidArgument for an address that other nodes cannot mean this node by.

    All nodes send requests there. An address that means another machine on each of them (itself, its neighbour, the
    cloud's) would lead whoever calls a service into places that are open to nobody else.
    """
    if not address or len(address) > MAX_ADDRESS_CHARS or not _ADDRESS.issuperset(address):
        raise InvalidArgument(f"{address[:40]!r} is no address of a node: give another --advertise-addr")
    own, seen = _ip(address), _ip(origin_of(peer.address).partition("/")[0])
    if own is None and seen is not None:
        # Agents resolve what they were given. A name would have every node ask a name server of somebody's choice.
        raise InvalidArgument(f"{address} is no IP address: give another --advertise-addr")
    kind = "" if own is None else _kind(own)
    if kind in ("multicast", "unspecified") or (kind and seen is not None and _kind(seen) != kind):
        raise InvalidArgument(
            f"{address} is a {kind} address: other nodes would look for this one in the wrong place; give another "
            "--advertise-addr"
        )


def statuses(
    view: View, node_id: NodeId, address: str, updates: Sequence[TaskStatusUpdate]
) -> list[tuple[Task, TaskStatusUpdate]]:
    """What a node reports of its own tasks, within bounds. Of those of others it has nothing to say."""
    own = ((view.task(update.task_id), update) for update in updates)
    return [
        (task, attrs.evolve(update, status=_bounded(update.status, task, address)))
        for task, update in own
        if task is not None and task.node_id == node_id
    ]


class ReportedStatuses:
    """How many each node has reported."""

    def __init__(self) -> None:
        self._counted: Buckets[NodeId] = Buckets(UPDATES, most=MAX_NODES)

    def count(self, node_id: NodeId, report: Any, now: float) -> None:
        """Count those in a report that nobody has looked at yet. Raises Unavailable for a node that has to wait."""
        bucket = self._counted.of(node_id, now)
        if wait_s := bucket.wait_s(now, 0):
            raise Unavailable(f"node {node_id} reports too many statuses: again in {wait_s:.1f} s")
        updates = report.get("updates") if isinstance(report, dict) else None
        bucket.owe(now, len(updates) if isinstance(updates, list) else 0)


def problems_line(problems: Iterable[str]) -> str:
    """What does not work on a node, as one line of a bounded length."""
    return _cut("; ".join(problem[:MAX_PROBLEMS_CHARS] for problem in problems), MAX_PROBLEMS_CHARS)


def _bounded(status: TaskStatus, task: Task, address: str) -> TaskStatus:
    return attrs.evolve(
        status,
        timestamp_ns=min(max(status.timestamp_ns, 0), _MOST),
        message=_cut(status.message, MAX_MESSAGE_CHARS),
        err=_cut(status.err, MAX_ERR_CHARS),
        container=None if status.container is None else _bounded_container(status.container),
        ports=_own_ports(status.ports, task, address),
    )


def _bounded_container(container: ContainerStatus) -> ContainerStatus:
    return ContainerStatus(
        container_id=_cut(container.container_id, MAX_WORD_CHARS),
        pid=min(max(container.pid, 0), _MOST_INT32),
        exit_code=min(max(container.exit_code, -_MOST_INT32), _MOST_INT32),
    )


def _own_ports(ports: Sequence[PortStatus], task: Task, address: str) -> tuple[PortStatus, ...]:
    """Those that the task has, each as often as it has it, on the node itself."""
    left = Counter((p.protocol, p.target_port, p.published_port, p.publish_mode) for p in task.ports)
    found = []
    for port in ports:
        key = (port.protocol, port.target_port, port.published_port, port.publish_mode)
        if left[key] > 0 and port.host_address == address and 0 < port.host_port < 65536:
            left[key] -= 1
            found.append(port)
    return tuple(found)


def _check_text(what: str, text: str, most: int) -> None:
    if len(text) > most:
        raise InvalidArgument(f"the {what} of this node has {len(text)} characters: at most {most} are taken")
    if not text.isprintable():
        raise InvalidArgument(f"the {what} of this node has characters that cannot be shown: {text[:40]!r}")


def _cut(text: str, most: int) -> str:
    """At most so many characters, none of which does anything to a terminal."""
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    return _shown(text, "\n\t")


def _shown(text: str, but: str = "") -> str:
    """The text with a mark in the place of all that a terminal obeys, ``but`` these."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else "\N{REPLACEMENT CHARACTER}" for c in text)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host, percent, zone = address.partition("%")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if percent and not (ip.version == 6 and ip.is_link_local and _ZONE.fullmatch(zone)):
        # Some resolvers would look it up as a name.
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def _kind(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """ "" for one that means the same machine everywhere."""
    kinds = {
        "unspecified": ip.is_unspecified,
        "loopback": ip.is_loopback,
        "link-local": ip.is_link_local,
        "multicast": ip.is_multicast or ip == ipaddress.ip_address("255.255.255.255"),
    }
    return next((kind for kind, applies in kinds.items() if applies), "")
