"""Objects: a spec and what the system knows of it. These are what the store holds; all are immutable.

``meta.version`` is the Raft index of the entry that last wrote the object; it is set by the store when the entry is
applied, never by the writer. Times are nanoseconds since the Unix epoch, 0 for "never".

What the store writes again and again has no slot for weak references: :mod:`~swarmpy.model.evolving` asks for that.
"""

from __future__ import annotations

import enum

import attrs

from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.model.ids import ClusterId, ConfigId, NodeId, SecretId, ServiceId, TaskId
from swarmpy.model.schema import BASE_VERSION
from swarmpy.model.specs import (
    ConfigSpec,
    GenericResource,
    NodeSpec,
    PortConfig,
    Resources,
    SecretSpec,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.specs import Platform as Platform  # noqa: PLC0414  # part of what a node says of itself
from swarmpy.model.states import ApiRole, Availability, Cause, NodeState, Role, TaskState, UpdateState


class Kind(enum.StrEnum):
    """The tables of the store."""

    CLUSTER = "cluster"
    NODE = "node"
    SERVICE = "service"
    TASK = "task"
    SECRET = "secret"  # noqa: S105  # nosec B105  # the name of a table
    CONFIG = "config"


@attrs.frozen(kw_only=True, weakref_slot=False)
class Meta:
    """When an object was written."""

    version: int = 0
    """Raft index of the last write."""
    spec_index: int = 0
    """Raft index of the write that last changed the spec of a node, a service or the cluster. Set by the store; 0 where
    it is not known, as it was written below schema version 7."""
    created_at_ns: int = 0
    updated_at_ns: int = 0


# -- nodes ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Plugin:
    """A driver that a node's runtime has: ``type`` is ``volume``, ``network``, ``log`` or ``authorization``."""

    type: str
    name: str


@attrs.frozen(kw_only=True)
class NodeDescription:
    """What a node says of itself."""

    hostname: str = ""
    platform: Platform = attrs.Factory(Platform)
    resources: Resources = attrs.Factory(Resources)
    runtime: str = ""
    """``docker``, ``process`` or ``simulated``."""
    engine_version: str = ""
    engine_labels: dict[str, str] = attrs.Factory(dict)
    plugins: tuple[Plugin, ...] = ()
    """Of a type of which none is told, nothing is known: tasks that need one are not kept away."""


@attrs.frozen(kw_only=True)
class NodeStatus:
    """What the managers see of a node."""

    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    address: str = ""
    """The address other nodes reach it at, without a port."""
    engine_away: bool = False
    """Its engine does not answer: what runs there goes on, but nothing is started."""
    leaving: bool = False
    """It is about to leave the cluster, or to be restarted: its tasks go elsewhere first."""


@attrs.frozen(kw_only=True)
class ManagerStatus:
    """A manager's place in consensus. Who leads is not stored: it is asked of Raft."""

    raft_id: int
    address: str
    """``host:port`` of its cluster port."""


@attrs.frozen(kw_only=True)
class Certificate:
    """The certificate that a node was given last."""

    serial: str
    """In hexadecimal, lower case. It holds the certificate's number (``security.serials``)."""
    role: Role
    issuer: str
    """The digest of the root CA that signed it."""
    not_after_ns: int
    """When this one and all that the node was given before have ended."""
    fingerprint: str = ""
    """SHA-256 of the whole of it, in hexadecimal; "" of one that was recorded before fingerprints were."""


@attrs.frozen(kw_only=True)
class NodeTLS:
    """What a node was last seen to show and to trust."""

    certificate: str
    """The fingerprint of the certificate that it showed."""
    issuer: str
    """The digest of the root CA that signed it; "" where that is not known any more."""
    roots: tuple[str, ...] = ()
    """The digests of the root CAs that it said it trusts."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class Node:
    """A member of the cluster."""

    id: NodeId
    meta: Meta = Meta()
    spec: NodeSpec = attrs.Factory(NodeSpec)
    role: Role = Role.WORKER
    """The role it has now; ``spec.role`` is the one it should have."""
    description: NodeDescription = attrs.Factory(NodeDescription)
    status: NodeStatus = attrs.Factory(NodeStatus)
    manager: ManagerStatus | None = None
    """Set while it is a member of the Raft group."""
    certificate: Certificate | None = None
    """None of a node whose certificate was issued before certificates were recorded."""
    tls: NodeTLS | None = None
    """None of a node that was not seen since this is recorded."""

    @property
    def availability(self) -> Availability:
        """What it may do now: what its operator lets it, and nothing more once it is about to go."""
        return Availability.DRAIN if self.status.leaving else self.spec.availability


# -- services -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class UpdateStatus:
    """How far the last update has come."""

    state: UpdateState
    started_at_ns: int = 0
    completed_at_ns: int = 0
    message: str = ""


@attrs.frozen(kw_only=True)
class JobStatus:
    """Which execution of a job is the present one. A job is executed when it is made, and with each change of it."""

    iteration: int = 0
    """Grows with each execution."""
    last_execution_ns: int = 0
    """When the present execution began."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class Service:
    """A service."""

    id: ServiceId
    meta: Meta = Meta()
    spec: ServiceSpec
    spec_version: int = 0
    """``meta.version`` of the write that last changed what tasks are made from: ``spec.task`` or the ports of
    ``spec.endpoint``. Replicas, labels and update configuration leave it alone. Set by the store; tasks remember it.
    """
    previous_spec: ServiceSpec | None = None
    ports: tuple[PortConfig, ...] = ()
    """The ports as allocated: published ports chosen where the spec left them open."""
    update_status: UpdateStatus | None = None
    pending_delete: bool = False
    """Removed by its user; gone when its last task is."""
    job: JobStatus | None = None
    """None of a service that is no job."""


# -- tasks ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ContainerStatus:
    """What the runtime says of a task's container (or process)."""

    container_id: str = ""
    pid: int = 0
    exit_code: int = 0


@attrs.frozen(kw_only=True)
class PortStatus:
    """A port of a task on its node. ``published_port`` is the service's (0 when it has none)."""

    protocol: str = "tcp"
    target_port: int
    published_port: int = 0
    publish_mode: str = "ingress"
    host_address: str
    host_port: int


PREPARING_MESSAGE = "preparing"
"""Of a task of whose preparation no more is known."""


@attrs.frozen(kw_only=True)
class TaskStatus:
    """The observed state of a task, with the reason where it is not what was hoped for."""

    state: TaskState = TaskState.NEW
    timestamp_ns: int = 0
    """When the state was observed, by the observer's clock."""
    message: str = ""
    """What was going on ("started", "preparing")."""
    err: str = ""
    """Why it failed, or why it is still waiting; ""."""
    container: ContainerStatus | None = None
    ports: tuple[PortStatus, ...] = ()


@attrs.frozen(kw_only=True, weakref_slot=False)
class Task:
    """One attempt to run one slot of a service. Replaced, never edited."""

    id: TaskId
    meta: Meta = Meta()
    spec: TaskSpec
    spec_version: int = 0
    """The service's ``spec_version`` it was made from."""
    service_id: ServiceId
    service_name: str = ""
    service_labels: dict[str, str] = attrs.Factory(dict)
    slot: int = 0
    """1.. for a replicated service; 0 for a global one, where the node is the slot."""
    iteration: int | None = None
    """The execution of a job (``JobStatus.iteration``) that it belongs to; None of a service that is no job."""
    node_id: NodeId | None = None
    status: TaskStatus = TaskStatus()
    desired_state: TaskState = TaskState.RUNNING
    ports: tuple[PortConfig, ...] = ()
    """The service's ports as allocated when the task was made."""
    not_before_ns: int = 0
    """A replacement waits in desired state READY until then (restart delay)."""
    applied_at_ns: int = 0
    """When a manager recorded ``status``, by the manager's clock; restart windows are measured with it."""
    started_at_ns: int = 0
    """When a manager first recorded that it runs, by the manager's clock; update monitoring is measured with it."""
    generic: tuple[GenericResource, ...] = ()
    """Which of its node's generic resources it got: names where the node has names, else a count."""
    cause: Cause = Cause.NONE
    """Why ``desired_state`` is what it is; NONE also where it was written below schema version 8."""
    story: bytes = b""
    """What became of it, as :mod:`swarmpy.model.story` reads it. Set by the store; b"" below schema version 8."""

    @property
    def shown_slot(self) -> int | None:
        """The slot as users know it; None where the node is the slot.

        Docker counts those of a job from 0, and its clients rely on that.
        """
        if not self.slot:
            return None
        return self.slot if self.iteration is None else self.slot - 1

    @property
    def place(self) -> str:
        """The slot or, of a global service, the node: ``""`` where it has none yet."""
        return str(self.node_id or "") if self.shown_slot is None else str(self.shown_slot)

    @property
    def name(self) -> str:
        """Docker's name of the task: ``service.slot.id``, or ``service.node.id`` for a global service."""
        return f"{self.service_name}.{self.place}.{self.id}"


# -- secrets and configs --------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, weakref_slot=False)
class Secret:
    """One version of a secret. Its data never changes: a new version is a secret of its own, of the same name."""

    id: SecretId
    meta: Meta = Meta()
    spec: SecretSpec
    number: int = 1
    """Which version of its name it is. All but the latest stay as long as a service, or a task that is not over, refers
    to them."""
    made_at: int = 0
    """The index of the entry that made it. A service whose tasks were last changed before follows to it."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class Config:
    """One version of a config, as :class:`Secret`."""

    id: ConfigId
    meta: Meta = Meta()
    spec: ConfigSpec
    number: int = 1
    made_at: int = 0


# -- the cluster ----------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class JoinTokens:
    """The secrets that let a new node in, by the role it gets."""

    worker: str
    manager: str


@attrs.frozen(kw_only=True)
class RootCA:
    """The cluster's certificate authority."""

    cert_pem: bytes
    key_pem: bytes = attrs.field(repr=False)
    cert_digest: str
    """What join tokens carry."""


@attrs.frozen(kw_only=True)
class RootRotation:
    """A change of the root CA that is under way: nodes get certificates of ``root`` until all have one."""

    root: RootCA
    cross_signed_pem: bytes
    """A certificate of the new root's key by the present one: who trusts only the present root accepts nodes of the new
    one by it."""
    started_at_ns: int


@attrs.frozen(kw_only=True)
class FormerRoot:
    """A root CA that was replaced, remembered for the nodes that were away: until ``until_ns`` they may renew."""

    cert_pem: bytes
    cross_signed_pem: bytes
    """A certificate of its successor's key by this root."""
    until_ns: int


@attrs.frozen(kw_only=True)
class ClientCertificate:
    """A certificate that lets somebody use the API over TCP."""

    name: str
    role: ApiRole
    issued_at_ns: int
    not_after_ns: int
    fingerprint: str = ""
    """SHA-256 of the whole of it, in hexadecimal: whoever has the CA's key can sign another of the same number. "" of
    one that was given before fingerprints were recorded; it counts no more."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class Cluster:
    """The one object that describes the whole."""

    id: ClusterId
    meta: Meta = Meta()
    spec: ClusterSpec = attrs.Factory(ClusterSpec)
    root_ca: RootCA
    join_tokens: JoinTokens = attrs.field(repr=False)
    schema: int = BASE_VERSION
    """The newest schema version that may be written, as all managers read it. It never falls."""
    removed_nodes: dict[str, int] = attrs.Factory(dict)
    """Node ids whose certificates are no longer accepted, and until when they would be valid (ns)."""
    incarnation: int = 0
    """0 as founded. Grows when an operator begins the cluster anew (from one manager, or from a backup): of two
    clusters with one identity the later incarnation counts. Milliseconds since the Unix epoch, so that two that were
    begun from the same state differ."""
    revoked: dict[str, int] = attrs.Factory(dict)
    """Node ids, and the number of the last of their managers' certificates that is no longer accepted as such; nor are
    those before it."""
    rotation: RootRotation | None = None
    former_roots: tuple[FormerRoot, ...] = ()
    clients: dict[str, ClientCertificate] = attrs.Factory(dict)
    """Who may use the API over TCP, by the serial number of his certificate (hexadecimal, lower case). A certificate
    that is not this very one counts for nothing, whoever signed it."""
    unlock_key: bytes = attrs.field(default=b"", repr=False)
    """What the managers lock their vaults with; b"" without autolock."""
    unlock_key_number: int = 0
    """Grows with each change of it, and when it is given up: managers go by later ones only."""


StoreObject = Cluster | Node | Service | Task | Secret | Config

KIND_CLASSES: dict[Kind, type[StoreObject]] = {
    Kind.CLUSTER: Cluster,
    Kind.NODE: Node,
    Kind.SERVICE: Service,
    Kind.TASK: Task,
    Kind.SECRET: Secret,
    Kind.CONFIG: Config,
}


_KINDS: dict[type[object], Kind] = {cls: kind for kind, cls in KIND_CLASSES.items()}


def kind_of(obj: StoreObject) -> Kind:
    """The table an object belongs to."""
    return _KINDS[type(obj)]
