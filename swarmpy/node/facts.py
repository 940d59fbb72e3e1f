"""What a daemon tells of its node: the reading half of ``api.backend.NodeBackend``."""

from __future__ import annotations

import attrs

from swarmpy import __version__
from swarmpy.api.backend import LeavingNode
from swarmpy.errors import NotInCluster, SwarmLocked
from swarmpy.manager.manager import Manager
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.images import RegistryImage
from swarmpy.model.objects import NodeDescription
from swarmpy.model.states import TaskState
from swarmpy.node.audit_log import AuditLog
from swarmpy.node.config import NodeConfig
from swarmpy.node.member import Member
from swarmpy.node.unlocking import Gate
from swarmpy.ports import Clock


class NodeFacts:
    """In a cluster or in none."""

    def __init__(self, config: NodeConfig, clock: Clock, audit: AuditLog) -> None:
        self._config = config
        self._clock = clock
        self._audit = audit
        self._member: Member | None = None
        self._pending = False
        """It is being made part of a cluster."""
        self._error = ""
        self._gate = Gate()

    @property
    def local_state(self) -> str:
        """``inactive``, ``pending``, ``active``, ``locked`` or ``error``."""
        if self._pending:
            return "pending"
        if self._gate.waiting is not None:
            return "locked"
        if self._member is None:
            return "inactive"
        return "error" if self.error else "active"

    @property
    def error(self) -> str:
        """Why the state is ``error`` or ``locked``."""
        if self._gate.waiting is not None:
            return str(SwarmLocked())
        if self._error or self._member is None:
            return self._error
        return self._member.agent.removal or self._member.certificate.error

    @property
    def node_id(self) -> str:
        """This node's id, or "" outside a cluster."""
        state = self._member.state if self._member else self._gate.waiting
        return state.node_id if state else ""

    @property
    def node_address(self) -> str:
        """The address others reach this node at."""
        return self._member.address if self._member else ""

    @property
    def cluster_id(self) -> str:
        """The cluster's id, or ""."""
        state = self._member.state if self._member else self._gate.waiting
        return state.cluster_id if state else ""

    @property
    def manager(self) -> Manager | None:
        """The manager half, while there is one."""
        return self._member.manager if self._member else None

    @property
    def description(self) -> NodeDescription:
        """Machine and engine, as far as known."""
        known = self._member.agent.description if self._member else NodeDescription()
        return known if known.hostname else attrs.evolve(known, hostname=self._config.hostname)

    @property
    def version(self) -> str:
        """swarmpy's version."""
        return __version__

    def manager_addresses(self) -> tuple[ManagerAddress, ...]:
        """Where the managers listen, as far as this node knows."""
        if self.manager is not None:
            return self.manager.managers()
        if self._member is None:
            return ()
        return self._member.agent.cluster.managers or self._member.state.managers

    def problems(self) -> tuple[str, ...]:
        """What does not work on this node."""
        found = (*self._audit.problems(), *self._gate.problems())
        if self._member is None:
            return found
        own = self.manager.problems() if self.manager is not None else ()
        return (*found, *self._member.certificate.problems(), *own, *self._member.agent.problems())

    @property
    def may_rejoin(self) -> bool:
        """True when joining means to be let in again as the node that it is: it is shut out for its certificate."""
        return self._member is not None and self._member.certificate.needs_help

    def task_states(self) -> tuple[TaskState, ...]:
        """The observed states of the tasks on this node."""
        return tuple(status.state for status in self._member.agent.statuses.values()) if self._member else ()

    def leaving(self) -> LeavingNode | None:
        """How far this node is, while it is about to leave, or drained by its own daemon."""
        found = None if self._member is None else self._member.agent.leaving
        if found is None:
            return None
        waited = found.waited(self._clock.monotonic())
        return LeavingNode(waited=waited, timeout=found.timeout, departure=found.departure)

    async def find_image(self, image: str, auth: bytes) -> RegistryImage:
        """What the registry of an image says of it, as this node's engine hears it."""
        if self._member is None:
            raise NotInCluster(f"this node is in no cluster, and asks no registry for image {image}")
        return await self._member.agent.find_image(image, auth)
