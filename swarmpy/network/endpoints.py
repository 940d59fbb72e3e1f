"""Which tasks answer on which published port: computed from the store, versioned, and brought up to date on a node.

Pure. A task is in the table while it is observed RUNNING, is meant to run, and its node is not down. A published port
stays in the table when nobody answers on it: a node that listens and refuses is told apart from one that forgot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

import attrs

from swarmpy.errors import ProtocolViolation
from swarmpy.model.assignments import Endpoint, EndpointUpdate, PublishedPort
from swarmpy.model.objects import Node, PortStatus, Service, Task
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import NodeState, TaskState

Ports = Mapping[PublishedPort, tuple[Endpoint, ...]]
"""An endpoint table: every published port of the cluster with those who answer on it, in order."""

INGRESS = "ingress"
HISTORY = 256
"""Changes of a table that are remembered, to tell nodes only what changed."""


class EndpointView(Protocol):
    """What the table is made from; the store's View is one."""

    def services(self) -> tuple[Service, ...]:
        """All services."""

    def tasks_of_service(self, service_id: str) -> tuple[Task, ...]:
        """The tasks of a service."""

    def node(self, node_id: str) -> Node | None:
        """The node of that id."""


def ingress_table(view: EndpointView) -> dict[PublishedPort, tuple[Endpoint, ...]]:
    """The endpoint table of the whole cluster."""
    table: dict[PublishedPort, tuple[Endpoint, ...]] = {}
    for service in view.services():
        if not service.pending_delete:
            for port, endpoints in service_endpoints(view, service).items():
                # Two services never publish the same port; should it happen, the older one keeps it.
                table.setdefault(port, endpoints)
    return table


def service_endpoints(view: EndpointView, service: Service) -> dict[PublishedPort, tuple[Endpoint, ...]]:
    """The ingress ports of one service and who answers on each."""
    ports = [port for port in service.ports if port.publish_mode == INGRESS and port.published_port]
    if not ports:
        return {}
    tasks = [task for task in view.tasks_of_service(service.id) if _may_answer(view, task)]
    return {
        PublishedPort(port=port.published_port, protocol=port.protocol): tuple(sorted(_endpoints(tasks, port)))
        for port in ports
    }


def _may_answer(view: EndpointView, task: Task) -> bool:
    if task.status.state is not TaskState.RUNNING or not task.desired_state.is_wanted or task.node_id is None:
        return False
    node = view.node(task.node_id)
    return node is not None and node.status.state is not NodeState.DOWN


def _endpoints(tasks: Iterable[Task], port: PortConfig) -> Iterable[Endpoint]:
    for task in tasks:
        for status in task.status.ports:
            if task.node_id is not None and _serves(status, port):
                yield Endpoint(
                    task_id=task.id, node_id=task.node_id, address=status.host_address, port=status.host_port
                )


def _serves(status: PortStatus, port: PortConfig) -> bool:
    if status.protocol != port.protocol or status.publish_mode != INGRESS or not status.host_port:
        return False
    # By published port, so that tasks of the old spec keep answering while an update changes the target port.
    if status.published_port:
        return status.published_port == port.published_port
    return status.target_port == port.target_port


class EndpointTable:
    """A manager's table: every change gets a version, and any recent version can be brought up to date."""

    def __init__(self, *, history: int = HISTORY) -> None:
        self._version = 1
        self._ports: Ports = {}
        self._history: deque[frozenset[PublishedPort]] = deque(maxlen=history)

    @property
    def version(self) -> int:
        """The version of the present table; 1 is the empty one at the beginning."""
        return self._version

    @property
    def ports(self) -> Ports:
        """The present table."""
        return self._ports

    def replace(self, ports: Ports) -> bool:
        """Make ``ports`` the present table. False when it is the present one already; the version stays then."""
        old = self._ports
        changed = {port for port, endpoints in ports.items() if old.get(port) != endpoints}
        changed.update(port for port in old if port not in ports)
        if not changed:
            return False
        self._ports = dict(ports)
        self._version += 1
        self._history.append(frozenset(changed))
        return True

    def update_since(self, version: int) -> EndpointUpdate | None:
        """What brings a node from ``version`` (0: it has nothing) to the present one; None when it is there.

        Incremental while the changes since then are remembered, else the whole table.
        """
        if version == self._version:
            return None
        missed = self._version - version
        if version <= 0 or missed < 0 or missed > len(self._history):
            return EndpointUpdate(version=self._version, ports=tuple(sorted(self._ports.items())))
        changed: set[PublishedPort] = set()
        for index in range(len(self._history) - missed, len(self._history)):
            changed |= self._history[index]
        return EndpointUpdate(
            version=self._version,
            base_version=version,
            ports=tuple((port, self._ports[port]) for port in sorted(changed) if port in self._ports),
            removed=tuple(port for port in sorted(changed) if port not in self._ports),
        )


@attrs.frozen(kw_only=True)
class NodeTable:
    """A node's copy of the table. Version 0: it has none yet."""

    version: int = 0
    ports: Ports = attrs.Factory(dict)


def apply_update(table: NodeTable, update: EndpointUpdate) -> NodeTable:
    """The node's table after ``update``. Raises ProtocolViolation when the update builds on another version."""
    if update.base_version == 0:
        return NodeTable(version=update.version, ports=dict(update.ports))
    if update.base_version != table.version:
        raise ProtocolViolation(
            f"endpoint update {update.version} builds on version {update.base_version}, this node has {table.version}"
        )
    removed = frozenset(update.removed)
    ports = {port: endpoints for port, endpoints in table.ports.items() if port not in removed}
    ports.update(update.ports)
    return NodeTable(version=update.version, ports=ports)
