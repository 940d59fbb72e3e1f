"""What a manager and an agent say to each other: sessions, assignments, endpoints and statuses."""

from __future__ import annotations

import attrs

from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.logs import LogOrder
from swarmpy.model.objects import NodeDescription, Task, TaskStatus
from swarmpy.model.states import Role


@attrs.frozen(kw_only=True)
class ManagerAddress:
    """Where a manager listens."""

    node_id: NodeId
    address: str


@attrs.frozen(kw_only=True, slots=True, order=True)
class PublishedPort:
    """A port that every node answers on."""

    port: int
    protocol: str = "tcp"


@attrs.frozen(kw_only=True, slots=True, order=True)
class Endpoint:
    """One healthy task behind a published port, reachable at ``address:port``."""

    task_id: TaskId
    node_id: NodeId
    address: str
    port: int


@attrs.frozen(kw_only=True)
class EndpointUpdate:
    """The endpoint table, whole or what changed.

    An incremental one applies only on top of ``base_version``; otherwise the agent asks for a new session.
    """

    version: int
    base_version: int = 0
    """0: this is the whole table."""
    ports: tuple[tuple[PublishedPort, tuple[Endpoint, ...]], ...] = ()
    """Published ports with their whole list of endpoints."""
    removed: tuple[PublishedPort, ...] = ()


@attrs.frozen(kw_only=True)
class AssignmentUpdate:
    """The tasks of a node, whole or what changed.

    A task that is absent from a whole set is stopped and removed by the agent, once the whole set is there.
    """

    sequence: int
    base_sequence: int = 0
    """0: this is the whole set."""
    tasks: tuple[Task, ...] = ()
    removed: tuple[TaskId, ...] = ()
    more: bool = False
    """The whole set goes on in the next update: it is too large for one message."""


AGENT_LEVEL = 3
"""What agents do. 1: they ask for the secrets and configs of tasks, and take a whole set in parts; 2: they send logs;
3: they know what containers may be asked to be since schema version 8."""
FILES_LEVEL = 1
CONTAINERS_LEVEL = 3


@attrs.frozen(kw_only=True)
class SessionRequest:
    """An agent introduces itself."""

    description: NodeDescription
    address: str
    """The address other nodes reach this node at, without a port."""
    incarnation: int = 0
    """Of the cluster, the latest that the node has seen: a leader of an earlier one has to refuse it."""
    roots: tuple[str, ...] | None = None
    """The digests of the root CAs that it trusts; None of a node of a version that does not tell."""
    level: int = 0
    """Its AGENT_LEVEL; 0 of a node of a version that does not tell."""


@attrs.frozen(kw_only=True)
class SessionMessage:
    """One item of the stream that a manager sends an agent. The first carries everything; later ones what changed."""

    session_id: str = ""
    incarnation: int = 0
    """Of the leader's cluster; in the first message."""
    heartbeat_period_ns: int = 0
    managers: tuple[ManagerAddress, ...] | None = None
    role: Role | None = None
    """The role this node should have; when it differs from the certificate's, the node renews its certificate."""
    assignments: AssignmentUpdate | None = None
    endpoints: EndpointUpdate | None = None
    revoked: dict[str, int] | None = None
    """Which certificates are no manager's any more, though they say so (``Cluster.revoked``)."""
    roots: tuple[bytes, ...] | None = None
    """The root CAs (PEM) that this node is to trust."""
    issuer: str = ""
    """The digest of the one that its certificate is to be of; when it is of another, the node renews it."""
    logs: tuple[LogOrder, ...] | None = None
    """All logs that this node is to send from now on."""


MAX_PROBLEMS = 256
"""Of a heartbeat. A manager writes down a kilobyte of them."""


@attrs.frozen(kw_only=True)
class Heartbeat:
    """An agent is alive, and has come this far."""

    session_id: str
    endpoints_version: int = 0
    """The endpoint table that is in force on the node."""
    problems: tuple[str, ...] = ()
    """What does not work on the node: one line each ("published port 8080: address already in use")."""
    engine_away: bool = False
    """Its engine does not answer; it is among the problems too."""
    leaving: bool = False
    """It is about to leave the cluster, or to be restarted: its tasks are to go elsewhere first."""


BEAT_S = 0.25
"""Most seconds between the heartbeats of a node that is about to leave."""


@attrs.frozen(kw_only=True)
class ServiceLeft:
    """What a node that is about to leave keeps of a service, or has left behind without a replacement."""

    service: str
    left: int = 0
    """Tasks of it that have not ended there."""
    missing: int = 0
    """Tasks that have ended there, and do not run elsewhere yet."""
    reasons: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Departure:
    """How far a node is with leaving, as the leader sees it."""

    begun: bool
    """It is written down: the node gets no task any more."""
    left: int = 0
    """All tasks that have not ended there."""
    services: tuple[ServiceLeft, ...] = ()
    """Those of which something is left or missing; not all, where there are many."""


@attrs.frozen(kw_only=True)
class HeartbeatReply:
    """When to call again."""

    period_ns: int
    departure: Departure | None = None
    """To a node that says that it is leaving. None: this cluster's version does not empty it."""


MAX_MESSAGE_CHARS = 256
MAX_ERR_CHARS = 1024
"""Of a reported status. A manager cuts what is longer."""


@attrs.frozen(kw_only=True)
class TaskStatusUpdate:
    """The observed state of one task."""

    task_id: TaskId
    status: TaskStatus


@attrs.frozen(kw_only=True)
class StatusReport:
    """Observed states, the latest of each task."""

    session_id: str
    updates: tuple[TaskStatusUpdate, ...]
